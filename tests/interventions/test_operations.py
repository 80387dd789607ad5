"""What an intervention writes: every operation against a plain re-implementation by hooks, one stimulus at a time."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
import torch

import modalnet as mn
from families import build, picture
from random_units import NAMES, some_units
from reference import SIZES, TEXT_ONLY, close, editing, encode, forward, image_tokens, load, paths, stimuli_for


def plain(name, stimulus, units, change, rows):
    """States and logits of one stimulus, edited by hooks. ``change(x, tower, layer)`` gives new values of the units at
    the chosen rows; ``rows(tower, n)`` says which those are."""
    family = build(name)
    edits = {}
    for tower, mask in units.mask.items():
        for layer, path in enumerate(paths(name, tower)):
            dims = np.flatnonzero(mask[layer])
            if len(dims):

                def edit(flat, tower=tower, layer=layer, dims=dims):
                    where = torch.as_tensor(rows(tower, len(flat)))
                    if len(where):
                        flat[where[:, None], dims] = change(flat[where[:, None], dims], tower, layer)
                    return flat

                edits[path] = edit
    with editing(family.model, edits):
        output, _, states = forward(name, stimulus.text, stimulus.images())
    return states, output.logits[0]


def rows_of(name, stimulus, choice, spare=0):
    def rows(tower, n):
        every = np.arange(n)
        if choice == "all":
            kept = every
        elif choice == "last":
            kept = every[-1:]
        elif choice == "image":
            mask = np.asarray(image_tokens(name, encode(build(name), stimulus.text, stimulus.images())))
            kept = every[mask]
        else:
            kept = every[list(choice)]
        return kept[kept >= spare]

    return rows


def values_for(units, seed=11):
    rng = np.random.default_rng(seed)
    return {tower: rng.normal(size=mask.shape).astype(np.float32) for tower, mask in units.mask.items()}


def affine(kind, units):
    """The intervention, and what it does to the values of one block's units."""
    values = values_for(units)

    def given(tower, layer):
        return torch.from_numpy(values[tower][layer][units.mask[tower][layer]])

    return {
        "zero": (mn.zero(units), lambda x, tower, layer: 0 * x),
        "scale": (mn.scale(units, -1.5), lambda x, tower, layer: -1.5 * x),
        "add": (mn.add(units, values), lambda x, tower, layer: x + given(tower, layer)),
        "add a number": (mn.add(units, 2.0), lambda x, tower, layer: x + 2),
        "set_to": (mn.set_to(units, values), lambda x, tower, layer: given(tower, layer).expand_as(x)),
        "set_to a number": (mn.set_to(units, 0.7), lambda x, tower, layer: torch.full_like(x, 0.7)),
    }[kind]


KINDS = ["zero", "scale", "add", "add a number", "set_to", "set_to a number"]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("kind", KINDS)
def test_an_operation_is_what_hooks_do(name, kind):
    model = load(name)
    given = stimuli_for(name)
    units = some_units(model, model.towers)
    intervention, change = affine(kind, units)
    run = model.run(given, intervention, tokens="all", logits="all")
    before = model.run(given, read=[], logits="all").logits
    for i, stimulus in enumerate(given):
        states, logits = plain(name, stimulus, units, change, rows_of(name, stimulus, "all"))
        for tower, values in run.residual.items():
            close(values[i], states[tower], atol=2e-4)
        close(run.logits[i], logits, atol=2e-4)
        assert (run.logits[i] - before[i]).abs().max() > 1e-3


@pytest.mark.parametrize("name", ["llama", "llava_clip", "qwen2_5_vl", "gemma3"])
@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize(("choice", "spare"), [("last", 0), ((0, -2), 0), ("all", 1), ("image", 0)])
def test_places_are_a_stimulus_own_under_any_padding(name, side, choice, spare):
    if choice == "image" and name in TEXT_ONLY:
        pytest.skip("no images")
    model = load(name)
    model._executor.padding_side = side
    given = stimuli_for(name)
    units = some_units(model, ["decoder"])
    intervention = mn.zero(units).at(choice, spare_first=spare)
    together = model.run(given, intervention, read="decoder", tokens="all", logits="last")
    for i, stimulus in enumerate(given):
        alone = model.run(stimulus, intervention, read="decoder", tokens="all", logits="last")
        rows = rows_of(name, stimulus, choice, spare)
        states, logits = plain(name, stimulus, units, lambda x, tower, layer: 0 * x, rows)
        for run, at in ((together, i), (alone, 0)):
            close(run.residual["decoder"][at], states["decoder"], atol=2e-4)
            close(run.logits[at], logits[-1], atol=2e-4)


@pytest.mark.parametrize("name", ["llama", "llava_clip", "gemma3"])
def test_mean_is_over_the_tokens_it_is_placed_at_and_then_over_stimuli(name):
    model = load(name)
    given, reference = stimuli_for(name, n=2), stimuli_for(name, n=4)[1:]
    units = some_units(model, ["decoder"])
    states = [forward(name, one.text, one.images())[2]["decoder"] for one in reference]
    for choice, spare in (("all", 1), ("last", 0)):
        pick = slice(spare, None) if choice == "all" else slice(-1, None)
        means = torch.stack([state[:, pick].mean(1) for state in states]).mean(0)

        def change(x, tower, layer, means=means):
            return means[layer][torch.tensor(units.mask["decoder"][layer])].expand_as(x)

        intervention = mn.mean(units, over=reference).at(choice, spare_first=spare)
        run = model.run(given, intervention, read=[], logits="last")
        for i, stimulus in enumerate(given):
            _, logits = plain(name, stimulus, units, change, rows_of(name, stimulus, choice, spare))
            close(run.logits[i], logits[-1], atol=2e-4)


@pytest.mark.parametrize("name", ["llama", "llava_clip"])
def test_resample_takes_the_units_jointly_from_one_donor_token(name):
    model = load(name)
    given, donors = stimuli_for(name, n=2), stimuli_for(name, n=3)
    units = some_units(model, ["decoder"])
    intervention = mn.resample(units, donors, seed=3)
    run = model.run(given, intervention, read="decoder", tokens="all")
    pool = torch.cat([forward(name, one.text, one.images())[2]["decoder"] for one in donors], dim=1)
    mask = torch.from_numpy(np.array(units.mask["decoder"]))
    known = torch.cat([pool[layer][:, mask[layer]] for layer in range(len(pool))], dim=1)
    used = set()
    for values in run.residual["decoder"]:
        for token in range(values.shape[1]):
            found = torch.cat([values[layer, token][mask[layer]] for layer in range(len(values))])
            distance = (known - found).abs().max(dim=1).values
            assert distance.min() < 2e-4
            used.add(int(distance.argmin()))
    assert len(used) > 3
    again = model.run(given, intervention, read="decoder", tokens="all", batch_size=1)
    for one, other in zip(run.residual["decoder"], again.residual["decoder"], strict=True):
        close(one, other, atol=2e-4)
    other = model.run(given, mn.resample(units, donors, seed=4), read="decoder", tokens="all")
    assert any(
        (a - b).abs().max() > 1e-2 for a, b in zip(run.residual["decoder"], other.residual["decoder"], strict=True)
    )


@pytest.mark.parametrize("name", ["llama", "llava_clip", "qwen2_5_vl"])
@pytest.mark.parametrize("several", [False, True])
def test_patch_takes_the_source_at_the_same_tokens(name, several):
    model = load(name)
    images = [] if name in TEXT_ONLY else [picture(1, *SIZES[0])]
    made = equally_long(name, images)
    units = some_units(model, ["decoder"], share=0.5)
    sources = made[1:] if several else [made[2]]
    given = made[:2]
    for choice in ("all", "last"):
        run = model.run(given, mn.patch(units, sources).at(choice), tokens="all", read="decoder", logits="last")
        for i, stimulus in enumerate(given):
            source = sources[i] if several else sources[0]
            states = forward(name, source.text, source.images())[2]["decoder"]
            pick = slice(None) if choice == "all" else slice(-1, None)

            def change(x, tower, layer, states=states, pick=pick):
                return states[layer, pick][:, torch.tensor(units.mask["decoder"][layer])]

            expected, logits = plain(name, stimulus, units, change, rows_of(name, stimulus, choice))
            close(run.residual["decoder"][i], expected["decoder"], atol=2e-4)
            close(run.logits[i], logits[-1], atol=2e-4)


def equally_long(name, images=()):
    """Three stimuli with different texts and equally many tokens."""
    words = ("dog", "cat", "owl", "man", "sun", "box", "cup", "sea", "the", "ran")
    by_length = {}
    for word in words:
        stimulus = mn.Stimulus(f"the {word} sat", image=list(images) or None)
        length = encode(build(name), stimulus.text, stimulus.images())["input_ids"].shape[1]
        by_length.setdefault(length, []).append(stimulus)
    return max(by_length.values(), key=len)[:3]


def test_patching_a_whole_site_gives_the_sources_answer():
    """All of the last block at the last token: the logits are those of the source."""
    model = load("llama")
    clean, corrupt, _ = equally_long("llama")
    last = mn.site("decoder", -1)
    run = model.run(corrupt, mn.patch(last, clean).at("last"), read=[], logits="last")
    close(run.logits, model.run(clean, read=[], logits="last").logits)


@pytest.mark.parametrize("kind", ["zero", "add", "set_to", "scale"])
def test_a_direction_is_changed_and_the_rest_stays(kind):
    model = load("llama")
    vector = np.random.default_rng(2).normal(size=model.decoder.width)
    along = mn.direction("decoder", 2, vector)
    unit = torch.from_numpy(vector / np.linalg.norm(vector)).float()
    intervention = {"zero": mn.zero(along), "add": mn.add(along, 3.0), "set_to": mn.set_to(along, -1.0)}.get(
        kind, mn.scale(along, 0.5)
    )
    before = model.run("the dog ran", tokens="all").residual["decoder"][0][2]
    after = model.run("the dog ran", intervention, tokens="all").residual["decoder"][0][2]
    old, new = before @ unit, after @ unit
    expected = {"zero": 0 * old, "add": old + 3, "set_to": 0 * old - 1, "scale": 0.5 * old}[kind]
    close(new, expected)
    close(after - new[:, None] * unit, before - old[:, None] * unit)


def test_interventions_compose_from_left_to_right():
    model = load("llama")
    units = some_units(model, ["decoder"])
    one_way = model.run("the dog ran", mn.set_to(units, 1.0), mn.scale(units, 2.0), read="decoder", tokens="all")
    other_way = model.run("the dog ran", [mn.scale(units, 2.0), mn.set_to(units, 1.0)], read="decoder", tokens="all")
    first, second = (run.residual["decoder"][0] for run in (one_way, other_way))
    mask = torch.from_numpy(np.array(units.mask["decoder"]))
    for layer in range(model.decoder.n_layers):
        close(first[layer][:, mask[layer]], torch.full((first.shape[1], int(mask[layer].sum())), 2.0))
        close(second[layer][:, mask[layer]], torch.full((first.shape[1], int(mask[layer].sum())), 1.0))


def test_vision_and_decoder_are_changed_in_one_run():
    model = load("llava_clip")
    stimulus = stimuli_for("llava_clip", n=1)[0]
    vision, decoder = some_units(model, ["vision"]), some_units(model, ["decoder"], seed=8)
    run = model.run(stimulus, mn.zero(vision), mn.scale(decoder, 2.0), tokens="all", logits="last")
    mask = torch.from_numpy(np.array(vision.mask["vision"]))
    for layer, values in enumerate(run.residual["vision"][0]):
        assert not values[:, mask[layer]].any()
    only = model.run(stimulus, mn.scale(decoder, 2.0), read=[], logits="last")
    assert (run.logits - only.logits).abs().max() > 1e-4


def test_without_interventions_nothing_changes():
    model = load("llama")
    units = some_units(model, ["decoder"])
    close(
        model.run("the dog ran", mn.scale(units, 1.0), read=[], logits="last").logits,
        model.run("the dog ran", read=[], logits="last").logits,
    )


# What an intervention is


def test_interventions_are_values():
    model = load("llava_clip")
    units = some_units(model, model.towers)
    for one, same, other in [
        (mn.zero(units), mn.zero(units), mn.zero(units).at([-1])),
        (mn.add(units, values_for(units)), mn.add(units, values_for(units)), mn.add(units, 1.0)),
        (mn.mean(units, ["a b"]), mn.mean(units, ["a b"]), mn.mean(units, ["a c"])),
        (mn.zero(mn.site("decoder", 1)), mn.zero(mn.site("decoder", 1)), mn.zero(mn.site("decoder", 2))),
        (
            mn.zero(mn.direction("decoder", 1, [1.0, 2.0])),
            mn.zero(mn.direction("decoder", 1, [2.0, 4.0])),
            mn.zero(mn.direction("decoder", 1, [2.0, 1.0])),
        ),
    ]:
        assert one == same
        assert hash(one) == hash(same)
        assert one != other
        assert pickle.loads(pickle.dumps(one)) == one


def test_they_print_as_sentences():
    mask = np.zeros((4, 8), dtype=bool)
    mask[1:3, :5] = True
    units = mn.Units({"decoder": mask})
    assert repr(mn.zero(units).at("image")) == "zero(10 units in decoder[1..2]) at image tokens"
    assert repr(mn.scale(mn.site("decoder", 3), 2)) == "scale(decoder[3], 2) at all tokens"
    assert repr(mn.mean(units, over=["a", "b"]).at("all", spare_first=1)) == (
        "mean(10 units in decoder[1..2], 2 stimuli) at all tokens, the first 1 spared"
    )
    assert repr(mn.zero(units).at([0, -1])) == "zero(10 units in decoder[1..2]) at tokens [0, -1]"


# At the door


def test_bad_interventions_are_refused():
    model, other = load("llava_clip"), load("llama")
    units = some_units(model, model.towers)
    stimulus = stimuli_for("llava_clip", n=1)[0]
    empty = mn.Units({"decoder": np.zeros((4, 8), dtype=bool)})
    for make, message in [
        (lambda: mn.zero(empty), "intervene on is empty"),
        (lambda: mn.zero("decoder"), "must be Units, a site or a direction, got a str"),
        (lambda: mn.scale(units, float("nan")), "`factor` must be a finite number, got nan"),
        (lambda: mn.mean(units), r"mean\(\) requires reference stimuli.*over="),
        (lambda: mn.mean(units, over=[]), r"`mean\(over=...\)` is empty"),
        (lambda: mn.add(units, [1.0, 2.0]), rf"one entry per unit \({units.count}\)"),
        (lambda: mn.zero(units).at("first"), r"`tokens` must be .* got 'first'"),
        (lambda: mn.zero(units).at("all", spare_first=-1), "spare_first"),
        (lambda: mn.direction("decoder", 1, [0.0, 0.0]), "finite non-zero vector"),
        (
            lambda: model.run("only text", mn.zero(some_units(model, ["vision"]))),
            "do not reach.*Use stimuli with images",
        ),
        (
            lambda: model.run(stimulus, mn.zero(mn.site("audio", 1))),
            r"no space 'audio'; its spaces are vision, vision\.pre, ",
        ),
        (lambda: model.run(stimulus, mn.zero(mn.site("decoder", 9))), r"layers 0\.\.3"),
        (
            lambda: other.run("a b", mn.zero(some_units(load("gemma3"), ["decoder"]))),
            r"belong to another model.*has shape \(.*in the model",
        ),
        (
            lambda: other.run("a b", mn.patch(mn.site("decoder", 1), "a b c d e f g")),
            "has .* such tokens.* but its source has",
        ),
        (
            lambda: other.run(["a b"] * 3, mn.patch(mn.site("decoder", 1), ["a b", "a b"])),
            "one for each of 3",
        ),
        (lambda: other.run("a b", "zero"), "`interventions` must be Interventions, got a str"),
        (lambda: other.run("a b", mn.zero(mn.site("decoder", 1)).at([99])), "token 99"),
    ]:
        with pytest.raises(mn.InputError, match=message):
            make()


def test_units_of_another_model_are_refused_by_its_fingerprint():
    model = load("llama")
    foreign = mn.Units({"decoder": np.ones(model.decoder.shape, dtype=bool)}, model="another")
    with pytest.raises(mn.InputError, match="belong to another model"):
        model.run("a b", mn.zero(foreign))


# Continuations


@pytest.mark.parametrize("name", ["gpt2", "llama", "llava_clip", "qwen2_5_vl", "gemma3", "blip2"])
@pytest.mark.parametrize("side", ["right", "left"])
def test_a_score_is_the_sum_of_log_probabilities(name, side):
    model, family = load(name), build(name)
    model._executor.padding_side = side
    given = stimuli_for(name)
    continuations = [[" the dog", " a"], " ran across the field.", ["!", " it is", " the owl hid"]]
    scores = model.score(given, continuations)
    for i, stimulus in enumerate(given):
        listed = [continuations[i]] if isinstance(continuations[i], str) else continuations[i]
        assert len(scores.logprob[i]) == len(listed)
        before = prompt_ids(family, stimulus)
        for j, text in enumerate(listed):
            longer = mn.Stimulus((stimulus.text or "") + text, image=list(stimulus.images()) or None)
            inputs = written(family, stimulus, text)
            with torch.no_grad():
                logits = family.model(**inputs).logits[0]
            ids = inputs["input_ids"][0]
            count = len(ids) - len(before)
            logp = torch.log_softmax(logits.double(), dim=-1)
            expected = sum(float(logp[-count - 1 + k, ids[-count + k]]) for k in range(count))
            greedy = all(int(logits[-count - 1 + k].argmax()) == int(ids[-count + k]) for k in range(count))
            assert scores.n_tokens[i][j] == count
            assert scores.logprob[i][j] == pytest.approx(expected, abs=2e-4), longer.text
            assert scores.greedy[i][j] == greedy


def prompt_ids(family, stimulus):
    return encode(family, stimulus.text, stimulus.images())["input_ids"][0]


def written(family, stimulus, text):
    """Inputs of a stimulus with a continuation after its prompt."""
    from reference import prompt

    whole, special = prompt(family, stimulus.text, stimulus.n_images)
    if family.processor is None:
        return dict(family.tokenizer([(stimulus.text or "") + text], return_tensors="pt"))
    images = list(stimulus.images())
    nested = images if family.name == "blip2" else [images]
    inputs = dict(family.processor(images=nested, text=[whole + text], return_tensors="pt", add_special_tokens=special))
    inputs.pop("labels", None)
    return inputs


def test_a_lesion_holds_for_the_continuation_too():
    model = load("llama")
    units = some_units(model, ["decoder"])
    stimulus, text = mn.Stimulus("the dog"), " ran across the field"
    scores = model.score(stimulus, [text], mn.zero(units))
    whole = mn.Stimulus(stimulus.text + text)
    _, logits = plain("llama", whole, units, lambda x, tower, layer: 0 * x, rows_of("llama", whole, "all"))
    ids = encode(build("llama"), whole.text)["input_ids"][0]
    count = int(scores.n_tokens[0][0])
    logp = torch.log_softmax(logits.double(), -1)
    expected = sum(float(logp[-count - 1 + k, ids[-count + k]]) for k in range(count))
    assert scores.logprob[0][0] == pytest.approx(expected, abs=2e-4)


def test_the_last_token_is_that_of_the_stimulus():
    """A patch of the last site at the last token: the first word that follows is scored as after the source."""
    model = load("llama")
    clean, corrupt, _ = equally_long("llama")
    patch = mn.patch(mn.site("decoder", -1), clean).at("last")
    text = "!"
    found = model.score([corrupt], [text], patch)
    assert found.n_tokens[0][0] == 1
    assert found.logprob[0][0] == pytest.approx(model.score([clean], [text]).logprob[0][0], abs=1e-4)


def test_few_logits_are_held_at_a_time(monkeypatch):
    from modalnet.execution import passes as runner

    model = load("llama")
    expected = model.score(["the dog"] * 6, [" ran across the field"] * 6)
    monkeypatch.setattr(runner, "MOST_LOGITS", 1)
    found = model.score(["the dog"] * 6, [" ran across the field"] * 6)
    for one, other in zip(found.logprob, expected.logprob, strict=True):
        close(one, other)


def test_continuations_that_do_not_fit_are_refused():
    model = load("llama")
    for continuations, message in [
        ("a", "a list with one entry per stimulus"),
        (["a", "b"], "got 2 for 1 stimuli"),
        ([""], "must be a non-empty string"),
        ([[]], "must be a non-empty string"),
    ]:
        with pytest.raises(mn.InputError, match=message):
            model.score(["the dog"], continuations)


@pytest.mark.parametrize(
    ("given", "plain_form"),
    [
        (np.int64(1), [1]),
        (np.array([0, 1]), [0, 1]),
        (torch.tensor([0, 1]), [0, 1]),
        (torch.tensor(1), [1]),
        ([np.int32(0), np.int32(-1)], [0, -1]),
        (slice(0, 2), [0, 1]),
        (slice(-2, None), [-2, -1]),
        (slice(-1, -4, -2), [-1, -3]),
        ("mask", [0, 2]),
    ],
)
@pytest.mark.parametrize("kind", [list, np.array, torch.tensor])
def test_tokens_may_be_arrays_slices_and_masks(given, plain_form, kind):
    model = mn.load("tiny")
    n = model.run(["The cat eats."], tokens="all").activations["decoder"][0].shape[1]
    if isinstance(given, str):
        given = kind([place in plain_form for place in range(n)])
    elif kind is not list:
        pytest.skip("masks only")
    zero = mn.zero(mn.site("decoder", 2))
    runs = [model.run(["The cat eats."], zero.at(at), tokens=at).activations["decoder"] for at in (given, plain_form)]
    close(*runs)


def test_tokens_that_do_not_fit_are_refused():
    model, zero = mn.load("tiny"), mn.zero(mn.site("decoder", 2))
    with pytest.raises(mn.InputError, match="mask of 3 booleans, but stimulus"):
        model.run(["The cat eats."], zero.at([True, False, True]))
    with pytest.raises(mn.InputError, match="selects no token"):
        model.run(["The cat eats."], zero.at(slice(90, None)))
    for bad in (
        True,
        [True, 1],
        [0.5],
        np.array([1.0]),
        np.array([[[0, 1]]]),
        slice(None, None, 0),
        slice("a"),
        [False],
    ):
        with pytest.raises(mn.InputError, match="`tokens` must be"):
            zero.at(bad)


@pytest.mark.parametrize(
    "given",
    [
        torch.ones(192, dtype=torch.bfloat16, requires_grad=True),
        np.ones(192, np.float16),
        np.ones(192, np.longdouble),
        [1] * 192,
        [torch.tensor(1.0, requires_grad=True)] * 192,
    ],
    ids=["bfloat16", "float16", "longdouble", "list", "tensors"],
)
def test_values_may_be_of_any_precision_and_library(given):
    site = mn.site("decoder", 2)
    assert mn.add(site, given) == mn.add(site, np.ones(192))
    assert mn.set_to(site, given) == mn.set_to(site, np.ones(192))
    assert mn.direction("decoder", 2, given) == mn.direction("decoder", 2, np.ones(192))
    assert mn.add(site, torch.tensor(2.0, dtype=torch.bfloat16)) == mn.add(site, 2.0)
    with pytest.raises(mn.InputError, match="`value` must be real numbers"):
        mn.add(site, ["a"])
