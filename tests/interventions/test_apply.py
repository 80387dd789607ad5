"""A function of activations as an operation: what hooks that call it on each stimulus' tokens give."""

from __future__ import annotations

import functools
import threading

import numpy as np
import pytest
import torch

import modalnet as mn
from families import build
from random_units import some_units
from reference import close, editing, encode, load, paths, stimuli_for


def centred(values):
    """A function that mixes the tokens of a stimulus."""
    return torch.tanh(values - values.mean(0, keepdim=True)) * 2


def hooked(name, stimulus, edits):
    """Logits of the last token while hooks edit ``{(tower, layer): function of flat}``."""
    family = build(name)
    where = {paths(name, tower)[layer]: edit for (tower, layer), edit in edits.items()}
    with editing(family.model, where), torch.no_grad():
        return family.model(**encode(family, stimulus.text, stimulus.images())).logits[0, -1]


@pytest.mark.parametrize("name", ["llama", "gpt2", "llava_clip", "qwen2_5_vl"])
def test_a_site_gets_what_the_function_makes_of_each_stimulus(name):
    model = load(name)
    stimuli = stimuli_for(name)
    run = model.run(stimuli, mn.apply(mn.site("decoder", 2), centred), logits="last")
    expected = [hooked(name, stimulus, {("decoder", 2): centred}) for stimulus in stimuli]
    close(run.logits, torch.stack(expected))


@pytest.mark.parametrize("choice", ["last", [0, 2], slice(1, None)])
def test_chosen_tokens_and_units_alone_are_given(choice):
    name = "llama"
    model = load(name)
    units = some_units(model, ["decoder"], share=0.3)
    shapes = []

    def function(values, *, layer):
        shapes.append((layer, tuple(values.shape), values.dtype))
        return centred(values) + layer

    edits = {}
    for layer, mask in enumerate(units.mask["decoder"]):
        dims = torch.from_numpy(np.flatnonzero(mask))

        def edit(flat, dims=dims, layer=layer):
            rows = torch.arange(len(flat))[[-1] if choice == "last" else choice]
            flat[rows[:, None], dims] = centred(flat[rows[:, None], dims]) + layer
            return flat

        edits["decoder", layer] = edit
    stimuli = stimuli_for(name)
    run = model.run(stimuli, mn.apply(units, function).at(choice), logits="last")
    close(run.logits, torch.stack([hooked(name, stimulus, edits) for stimulus in stimuli]))
    assert {layer for layer, _, _ in shapes} == set(range(4))
    assert all(dtype == torch.float32 for _, _, dtype in shapes)
    assert {shape[1] for layer, shape, _ in shapes if layer == 1} == {int(units.mask["decoder"][1].sum())}


def test_along_a_subspace_the_rest_stays():
    model = load("llama")
    axes = np.linalg.qr(np.random.default_rng(0).normal(size=(model.decoder.width, 2)))[0].T.astype(np.float32)
    target = mn.direction("decoder", 1, axes)
    plain, edited = (
        model.run("the dog ran", *edits, tokens="all", read={"decoder": [1]}).activations["decoder"][0][0]
        for edits in ([], [mn.apply(target, torch.abs)])
    )
    turned = torch.from_numpy(target.vector.copy())
    close(edited @ turned.T, (plain @ turned.T).abs())
    rest = torch.eye(model.decoder.width) - turned.T @ turned
    close(edited @ rest, plain @ rest)


@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_heads_are_given_as_vectors(name):
    model = load(name)
    space = model.spaces["decoder.heads"]
    units = mn.Units.from_indices({"decoder.heads": space.shape}, [("decoder.heads", 1, 0), ("decoder.heads", 1, 2)])
    shapes = []

    def turned(values):
        shapes.append(tuple(values.shape[1:]))
        return values.flip(-1) * 2

    path, side = space.site(1)
    assert side == "input"

    def edit(module, args):
        by_head = args[0].unflatten(-1, (-1, space.size)).clone()
        by_head[..., [0, 2], :] = by_head[..., [0, 2], :].flip(-1) * 2
        return (by_head.flatten(-2), *args[1:])

    family = build(name)
    handle = family.model.get_submodule(path).register_forward_pre_hook(edit)
    stimulus = stimuli_for(name, n=1)[0]
    with torch.no_grad():
        expected = family.model(**encode(family, stimulus.text)).logits[0, -1]
    handle.remove()
    run = model.run(stimulus, mn.apply(units, turned), logits="last")
    close(run.logits[0], expected)
    assert set(shapes) == {(2, space.size)}


def test_it_composes_from_left_to_right_and_with_the_other_operations():
    model = load("llama")
    site = mn.site("decoder", 1)
    both = model.run("the dog", mn.add(site, 1.0), mn.apply(site, torch.square), mn.scale(site, 2.0), tokens="all")
    plain = model.run("the dog", tokens="all")
    first, second = (run.activations["decoder"][0][1] for run in (plain, both))
    close(second, (first + 1) ** 2 * 2, atol=1e-3)


@pytest.mark.parametrize("kind", ["zero", "scale", "add", "set_to"])
def test_what_other_operations_do_is_a_function_too(kind):
    model = load("llava_clip")
    units = some_units(model, model.towers)
    stimuli = stimuli_for("llava_clip")
    same = {
        "zero": torch.zeros_like,
        "scale": lambda x: x * 0.5,
        "add": lambda x: x + 0.5,
        "set_to": lambda x: x * 0 + 0.5,
    }
    one = mn.zero(units) if kind == "zero" else getattr(mn, kind)(units, 0.5)
    runs = [model.run(stimuli, each, logits="last").logits for each in (one, mn.apply(units, same[kind]))]
    close(runs[1], runs[0], atol=1e-5)


def test_the_same_in_scores_and_at_each_generated_token():
    model = load("llama")
    units = some_units(model, ["decoder"], share=0.4)
    lesion, function = mn.zero(units), mn.apply(units, torch.zeros_like)
    given = ["the dog", "a cat on"], [[" a dog", " a cat", " on"], [" the"]]
    assert [s.tolist() for s in model.score(*given, function).logprob] == [
        s.tolist() for s in model.score(*given, lesion).logprob
    ]
    lengths = []

    def zeroed(values):
        lengths.append(len(values))
        return torch.zeros_like(values)

    text = model.generate("the dog", mn.apply(mn.site("decoder", 1), zeroed), max_new_tokens=4, details=True)
    assert list(text.ids) == list(
        model.generate("the dog", mn.zero(mn.site("decoder", 1)), max_new_tokens=4, details=True).ids
    )
    assert lengths[1:] == [1] * 3


def test_a_function_that_mixes_tokens_sees_no_other_ending():
    """Endings of one stimulus share a row where nothing looks ahead; a function may."""
    model = load("llama")
    lesion = mn.apply(mn.site("decoder", 1), centred)
    together = model.score(["the dog"], [[" a", " the", " on"]], lesion).logprob[0]
    alone = [model.score(["the dog"], [[text]], lesion).logprob[0][0] for text in (" a", " the", " on")]
    np.testing.assert_allclose(together, alone, atol=1e-5)


def test_sinks_and_first_tokens_are_spared():
    model = load("llama")
    given = []

    def kept(values):
        given.append(len(values))
        return values * 0

    texts = ["the dog ran across the field", "a cat"]
    one = mn.apply(mn.site("decoder", 2), kept).at("all", spare_first=1)
    run = model.run(texts, one, tokens="all", read={"decoder": [2]})
    for states in run.activations["decoder"]:
        assert states[0, 0].abs().sum() > 0
        assert (states[0, 1:] == 0).all()
    spared = mn.apply(mn.site("decoder", 2), lambda x: x * 0).at("all", spare_sinks=True)
    other = mn.zero(mn.site("decoder", 2)).at("all", spare_sinks=True)
    runs = [model.run(texts, each, logits="last").logits for each in (spared, other)]
    close(runs[0], runs[1], atol=1e-5)


def test_studies_patching_and_gradients_run_under_it():
    model = load("llama")
    site = mn.site("decoder", 1)
    views = [model.with_(one) for one in (mn.scale(site, 0.5), mn.apply(site, lambda x: x * 0.5, name="half"))]
    pair = {"clean": "a dog", "corrupt": "a cat", "metric": mn.patching.logit_difference(" a", " b"), "align": "last"}
    quiet = {"progress": False, "cache": False}
    units = some_units(model, ["decoder"], share=0.1)
    tables = []
    for view in views:
        patched = mn.activation_patching(view, **pair, tokens="last", **quiet)
        attributed = mn.attribution_patching(view, **pair, **quiet)
        tasks = mn.tasks.perplexity(["a dog", "the cat ran"])
        study = mn.lesion_study(view, units, tasks=tasks, fractions=[0.1], n_controls=1, **quiet)
        tables.append([each.table().select_dtypes("number").to_numpy() for each in (patched, attributed, study)])
    for one, other in zip(*tables, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-3, atol=1e-5)


# ------------------------------------------------------------------------------------------------- identity


def test_a_name_identifies_it_and_without_one_nothing_is_stored():
    model = load("llama")
    site = mn.site("decoder", 1)
    unnamed = model.with_(mn.apply(site, torch.tanh))
    assert "name" in unnamed._identity().reason
    assert not model.with_(mn.apply(site, torch.tanh, name="tanh"))._identity().reason

    def twice(values):
        return values * 2

    def thrice(values):
        return values * 3

    factor = 2.0
    digests = {
        mn.apply(site, twice, name="a").digest,
        mn.apply(site, twice, name="b").digest,
        mn.apply(site, thrice, name="a").digest,
        mn.apply(site, lambda values: values * factor, name="a").digest,
        mn.apply(site, functools.partial(torch.mul, other=2.0), name="a").digest,
        mn.apply(site, functools.partial(torch.mul, other=3.0), name="a").digest,
        mn.apply(site, torch.nn.Linear(48, 48), name="a").digest,
        mn.apply(site, torch.nn.Linear(48, 48), name="a").digest,
    }
    assert len(digests) == 8
    assert mn.apply(site, twice, name="a").digest == mn.apply(site, twice, name="a").digest
    one = mn.apply(site, lambda values: values * factor, name="a")
    before = one.digest
    factor = 3.0
    assert one.digest != before


def test_it_is_a_value_that_prints():
    site = mn.site("decoder", 1)
    one = mn.apply(site, torch.tanh, name="squash")
    assert repr(one.at("last")) == "apply(decoder[1], squash) at last tokens"
    assert repr(mn.apply(site, centred)) == "apply(decoder[1], centred) at all tokens"
    assert one == mn.apply(site, torch.tanh, name="squash") != mn.apply(site, torch.abs, name="squash")
    assert hash(one) == hash(mn.apply(site, torch.tanh, name="squash"))


# ------------------------------------------------------------------------------------------------- what is refused


@pytest.mark.parametrize(
    ("function", "name", "message"),
    [
        (3, None, "a function of the activations"),
        (lambda: 1, None, "must take one argument"),
        (lambda a, b: a, None, "must take one argument"),
        (lambda *, layer: layer, None, "must take one argument"),
        (torch.tanh, 3, "identifies the function"),
        (torch.tanh, " ", "identifies the function"),
    ],
)
def test_what_is_no_function_of_activations_is_refused(function, name, message):
    with pytest.raises(mn.InputError, match=message):
        mn.apply(mn.site("decoder", 1), function, name=name)


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda x: x[:, :3], r"returned the shape \[\d+, 3\], and \[\d+, 48\] is expected"),
        (lambda x: x.mean(), r"returned the shape \[\]"),
        (lambda x: None, "returned a NoneType"),
        (lambda x: x.numpy(), "returned a ndarray"),
        (lambda x: x / 0, "returned numbers that are not finite"),
        (lambda x: x + 1j, "returned complex"),
        (lambda x: x @ torch.zeros(3, 3), "raised RuntimeError"),
        (lambda x: x.nothing, "raised AttributeError"),
    ],
)
def test_what_cannot_be_put_in_is_refused_by_the_name_of_the_intervention(function, message):
    model = load("llama")
    one = mn.apply(mn.site("decoder", 1), function, name="wrong")
    for run in (
        lambda: model.run("the dog", one),
        lambda: model.score(["the dog"], [" a"], one),
        lambda: model.generate("the dog", one, max_new_tokens=2),
    ):
        with pytest.raises(mn.InputError, match=rf"apply\(decoder\[1\], wrong\) at all tokens: its function {message}"):
            run()
    assert model.run("the dog").activations["decoder"].isfinite().all()


# ------------------------------------------------------------------------------------------------- on a server


def test_a_function_is_sent_to_a_server():
    here, there = mn.load("tiny"), mn.load("tiny", remote="local")
    factor, shift = 0.5, torch.ones(192)

    def function(values, layer):
        return torch.tanh(values) * factor + shift * layer

    one = mn.apply(mn.site("decoder", [2, 3]), function)
    runs = [model.run(["The dog sleeps.", "A child"], one, logits="last").logits for model in (here, there)]
    close(runs[1], runs[0], atol=1e-5)
    text = [model.generate("The dog", one, max_new_tokens=3) for model in (here, there)]
    assert text[0] == text[1]


def test_what_cannot_be_sent_is_refused():
    there = mn.load("tiny", remote="local")
    lock = threading.Lock()
    with pytest.raises(mn.InputError, match="cannot be sent to a server"):
        there.run("The dog", mn.apply(mn.site("decoder", 2), lambda x: x * lock.locked()))
    with pytest.raises(Exception, match=r"its function returned the shape"):
        there.run("The dog", mn.apply(mn.site("decoder", 2), lambda x: x[:1, :1]))


# ------------------------------------------------------------------------------------------------- as a hook


def test_a_hook_of_transformer_lens_calls_it_row_by_row():
    from modalnet.interop.transformer_lens import hooks

    units = mn.Units.from_indices({"decoder": (3, 6)}, [("decoder", 1, 2), ("decoder", 1, 4)])
    ((name, hook),) = hooks(mn.apply(units, centred).at("all", spare_first=1))
    value = torch.randn(2, 5, 6, generator=torch.Generator().manual_seed(0))
    expected = value.clone()
    for row in expected:
        row[1:, [2, 4]] = centred(row[1:, [2, 4]])
    assert name == "blocks.1.hook_out"
    close(hook(value, None), expected)
