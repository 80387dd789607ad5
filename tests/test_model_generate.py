"""Generation under interventions, views of a model, and likelihoods by segment: against hooks and plain log-softmax."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import modalnet as mn
from families import build
from modalnet.execution.likelihood import Request
from random_units import NAMES, some_units
from reference import editing, encode, load, paths, stimuli_for

NEW = 7


def written_by_hooks(name, stimulus, units, n=NEW, *, prompt_only=False):
    """What transformers' generate writes while hooks zero the units, in ids."""
    family = build(name)
    edits = {}
    for tower, mask in units.mask.items():
        for layer, path in enumerate(paths(name, tower)):
            dims = np.flatnonzero(mask[layer])
            if len(dims):

                def edit(flat, dims=dims):
                    if len(flat) > 1 or not prompt_only:
                        flat[:, dims] = 0
                    return flat

                edits[path] = edit
    inputs = encode(family, stimulus.text, stimulus.images())
    with editing(family.model, edits), torch.no_grad():
        ids = family.model.generate(**inputs, max_new_tokens=n, do_sample=False)
    return ids[0, inputs["input_ids"].shape[1] :].tolist()


def written(model, stimulus, *interventions, n=NEW):
    """The same by modalnet, as ids: the text alone would hide special tokens."""
    kept = []
    decode = model.tokenizer.decode
    model.tokenizer.decode = lambda ids, **_: kept.append(ids) or decode(ids)
    try:
        model.generate(stimulus, *interventions, max_new_tokens=n)
    finally:
        model.tokenizer.decode = decode
    return kept[0]


@pytest.mark.parametrize("name", NAMES)
def test_an_edit_holds_at_every_step(name):
    model = load(name)
    units = some_units(model, model.towers, share=0.3)
    changed = 0
    for stimulus in stimuli_for(name):
        base = written_by_hooks(name, stimulus, model.units() - model.units())
        lesioned = written_by_hooks(name, stimulus, units)
        assert written(model, stimulus) == base
        assert written(model, stimulus, mn.zero(units)) == lesioned
        changed += base != lesioned
    assert changed


@pytest.mark.parametrize("name", ["llama", "llava_clip"])
def test_places_in_the_prompt_are_edited_once(name):
    model = load(name)
    units = some_units(model, ["decoder"], share=0.5)
    stimulus = stimuli_for(name)[0]
    length = len(model.run(stimulus, read="decoder", tokens="all").residual["decoder"][0][0])
    once = mn.zero(units).at(range(length))
    assert written(model, stimulus, once) == written_by_hooks(name, stimulus, units, prompt_only=True)


@pytest.mark.parametrize("name", ["llama", "gpt2"])
@pytest.mark.parametrize("kind", ["zero", "resample"])
def test_what_is_written_is_what_one_pass_finds_likeliest(name, kind):
    """Generation with its cache against single passes over longer and longer texts, draws of donors included."""
    model = load(name)
    units = some_units(model, ["decoder"], share=0.3)
    text = "a b c"
    edit = mn.zero(units) if kind == "zero" else mn.resample(units, ["d e f", "g h"], seed=3)
    ids = written(model, text, edit, n=3)
    for count, token in enumerate(ids):
        continuation = model.tokenizer.decode(ids[: count + 1])
        if model.tokenizer(text + continuation)["input_ids"] != [
            *model.tokenizer(text)["input_ids"],
            *ids[: count + 1],
        ]:
            pytest.skip("these tokens do not survive being written as text")
        assert model.score(text, [continuation], edit).greedy[0][0], token


def test_a_list_gives_a_list_and_bad_settings_are_refused():
    model = load("llama")
    one, two = stimuli_for("llama", n=2)
    assert model.generate([one, two], max_new_tokens=3) == [
        model.generate(one, max_new_tokens=3),
        model.generate(two, max_new_tokens=3),
    ]
    with pytest.raises(mn.InputError, match="`max_new_tokens` must be a positive integer, got 0"):
        model.generate(one, max_new_tokens=0)
    with pytest.raises(mn.InputError, match="stop_strings"):
        model.generate(one, stop_strings=["."])
    with pytest.raises(mn.InputError, match=r"`num_beams` must be 1.*got 3"):
        model.generate(one, num_beams=3)


def test_sampling_is_transformers_own():
    model = load("llama")
    stimulus = stimuli_for("llama")[0]
    inputs = encode(build("llama"), stimulus.text, stimulus.images())
    torch.manual_seed(4)
    ids = model.module.generate(**inputs, max_new_tokens=NEW, do_sample=True, top_k=0)
    torch.manual_seed(4)
    kept = model.generate(stimulus, max_new_tokens=NEW, do_sample=True, top_k=0)
    start = inputs["input_ids"].shape[1]
    assert kept == model.tokenizer.decode(ids[0, start:], skip_special_tokens=True)


# Views


@pytest.mark.parametrize("name", ["llama", "llava_clip"])
def test_a_view_does_everything_under_its_interventions(name):
    model = load(name)
    given = stimuli_for(name)
    first, second = mn.zero(some_units(model, ["decoder"])), mn.add(mn.site("decoder", 1), 0.5).at("last")
    view = model.with_(first)
    both = view.with_(second)
    assert both.interventions == (first, second)
    assert model.interventions == ()
    expected = model.run(given, first, second, logits="last")
    for run in (view.run(given, second, logits="last"), both.run(given, logits="last")):
        assert torch.equal(run.logits, expected.logits)
        assert all(torch.equal(run.residual[tower], expected.residual[tower]) for tower in expected.residual)
    assert not torch.equal(model.run(given, read=[], logits="last").logits, expected.logits)
    text = mn.Stimulus("a b", image=given[0].image)
    assert np.array_equal(both.score(text, [" c"]).logprob, model.score(text, [" c"], first, second).logprob)
    assert both.generate(given[0], max_new_tokens=4) == model.generate(given[0], first, second, max_new_tokens=4)
    assert model.units() == view.units()
    with pytest.raises(mn.InputError, match="at least one intervention"):
        model.with_()


def test_localize_on_a_view_reads_under_the_intervention_and_has_its_own_entry(tmp_path, monkeypatch):
    monkeypatch.setenv("MODALNET_CACHE", str(tmp_path))
    model = load("llama")
    words = ["a", "b", "c", "d", "e", "f"]
    contrast = mn.Contrast(
        [mn.Stimulus(f"{w} {v}", condition="x" if i % 2 else "y") for i, w in enumerate(words) for v in words],
        positive="x",
        negative="y",
    )
    edit = mn.scale(mn.site("decoder", 0), 3.0)
    plain = mn.localize(model, contrast, progress=False)
    view = mn.localize(model.with_(edit), contrast, progress=False)
    np.testing.assert_allclose(view.means["x"]["decoder"][0], 3 * plain.means["x"]["decoder"][0], rtol=1e-5)
    assert len(mn.Store().entries()) == 2
    again = mn.localize(model, contrast, progress=False)
    assert np.array_equal(again.t["decoder"], plain.t["decoder"])
    assert model.with_(mn.zero(view.top(k=3))).units().count == model.units().count


@pytest.mark.parametrize("name", ["llama", "gpt2", "llava_clip", "qwen2_5_vl"])
@pytest.mark.parametrize("lesioned", [False, True])
def test_steps_of_a_generation_are_those_of_plain_transformers(name, lesioned):
    model, family = load(name), build(name)
    stimulus = stimuli_for(name)[0]
    edits = [mn.zero(some_units(model, ["decoder"]))] if lesioned else []
    made = model.generate(stimulus, *edits, max_new_tokens=5, details=True)
    assert made.text == str(made) == model.generate(stimulus, *edits, max_new_tokens=5)
    assert made.logits.shape == made.scores.shape == (len(made.ids), made.logits.shape[1])
    # Greedy decoding takes the likeliest token of each step.
    assert torch.equal(made.logits.argmax(-1), made.ids)
    assert len(made.tokens) == len(made.ids)
    # The logits of the first step are those after the prompt.
    first = model.run(stimulus, *edits, read=[], logits="last").logits[0]
    torch.testing.assert_close(made.logits[0], first, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(made.logprob, made.logits.log_softmax(-1)[range(len(made.ids)), made.ids])
    if not lesioned:
        inputs = encode(family, stimulus.text, stimulus.images())
        options = {"do_sample": False, "return_dict_in_generate": True, "output_logits": True, "output_scores": True}
        plain = family.model.generate(**inputs, max_new_tokens=5, **options)
        torch.testing.assert_close(made.logits, torch.cat(plain.logits), atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(made.scores, torch.cat(plain.scores), atol=1e-4, rtol=1e-4)


def test_scores_are_those_that_processors_left():
    model = load("llama")
    stimuli = stimuli_for("llama")[:2]
    plain = model.generate(stimuli, max_new_tokens=2, details=True)
    banned = int(plain[0].ids[0])
    made = model.generate(stimuli[0], max_new_tokens=2, details=True, suppress_tokens=[banned])
    assert made.scores[0, banned] == -torch.inf
    torch.testing.assert_close(made.logits[0], plain[0].logits[0], atol=1e-4, rtol=1e-4)
    with pytest.raises(mn.InputError, match="`details` must be"):
        model.generate(stimuli[0], details="yes")


# Means


@pytest.mark.parametrize("name", ["llama", "llava_clip"])
def test_means_that_are_known_are_those_that_stimuli_give(name):
    model = load(name)
    given = stimuli_for(name)
    reference = stimuli_for(name, n=4)[1:]
    units = some_units(model, ["decoder"])
    means = model.means(reference, spaces="decoder", spare_first=1)
    assert means["decoder"].shape == model.decoder.shape
    known = model.run(given, mn.mean(units, over=means).at("all", spare_first=1), read=[], logits="last").logits
    computed = model.run(given, mn.mean(units, over=reference).at("all", spare_first=1), read=[], logits="last").logits
    torch.testing.assert_close(known, computed, atol=1e-5, rtol=1e-5)
    one_block = [
        model.run(
            given, mn.mean(mn.site("decoder", 0), over=over).at("all", spare_first=1), read=[], logits="last"
        ).logits
        for over in (means, reference)
    ]
    torch.testing.assert_close(*one_block, atol=1e-5, rtol=1e-5)


# Likelihoods


def test_likelihoods_by_segment_are_sums_of_plain_log_probabilities():
    model = load("llama")
    family = build("llama")
    words = ["the", "old", "dog", "sleeps", "here"]
    text = " ".join(words)
    ids = family.tokenizer(text, return_offsets_mapping=True)
    with torch.no_grad():
        logits = family.model(torch.tensor([ids["input_ids"]])).logits[0]
    logprob = torch.log_softmax(logits.double(), -1)
    starts = [0]
    for word in words[:-1]:
        starts.append(starts[-1] + len(word) + 1)
    expected = np.zeros(len(words))
    for place in range(1, len(ids["input_ids"])):
        first, last = ids["offset_mapping"][place]
        letter = first + len(text[first:last]) - len(text[first:last].lstrip())
        expected[sum(start <= letter for start in starts) - 1] += float(logprob[place - 1, ids["input_ids"][place]])
    (whole,) = model._executor.likelihoods([Request(None, text)])
    (cut,) = model._executor.likelihoods([Request(None, text, tuple(starts[1:]))])
    np.testing.assert_allclose(cut.segments, expected, atol=1e-4)
    assert whole.logprob == pytest.approx(expected.sum(), abs=1e-4)
    assert cut.n_tokens == whole.n_tokens
    for cuts in ((0,), (3, 2), (len(text),)):
        with pytest.raises(mn.InputError, match="must increase and lie strictly between"):
            model._executor.likelihoods([Request(None, text, cuts)])
    with pytest.raises(mn.InputError, match="`requests` must not be empty"):
        model._executor.likelihoods([])


@pytest.mark.parametrize("name", ["llama", "llava_clip"])
def test_variants_side_by_side_are_each_alone(name):
    model = load(name)
    requests = [Request(stimulus, f" {word}") for stimulus in stimuli_for(name) for word in ("a", "b c")]
    edits = [[], [mn.zero(some_units(model, ["decoder"]))], [mn.add(mn.site("decoder", 0), 1.0)]]
    together = model._executor.likelihoods_under(requests, edits, batch_size=3)
    for edit, found in zip(edits, together, strict=True):
        alone = model._executor.likelihoods(requests, *edit)
        np.testing.assert_allclose([one.logprob for one in found], [one.logprob for one in alone], atol=1e-4)
    assert together[0][0].logprob != pytest.approx(together[1][0].logprob, abs=1e-3)


@pytest.mark.parametrize("tower", ["vision", "decoder"])
def test_pictures_are_seen_once_for_all_variants(tower):
    """What no variant writes to in the vision tower runs once, and every variant scores as it does alone."""
    model = mn.load("tiny")
    pictures = mn.stimuli.categories(n=2, size=64).stimuli
    requests = [Request(mn.Stimulus("what is it?", image=one.images()[0]), " a face.") for one in pictures]
    mask = {name: np.zeros(one.shape, dtype=bool) for name, one in model.towers.items()}
    mask[tower][3, :40] = True
    units = mn.Units(mask)
    edits = [[], [mn.zero(units)], [mn.scale(units, 3.0)], [mn.add(units, 2.0)]]
    alone = [model._executor.likelihoods(requests, *edit) for edit in edits]
    seen = []
    # A block that is skipped still calls its hooks, but not its parts.
    part = next(model.module.get_submodule(model.vision.paths[0]).children())
    part.register_forward_hook(lambda *_: seen.append(1))
    together = model._executor.likelihoods_under(requests, edits)
    # One run to read them, two to see that they can be left out; then none.
    first = len(seen)
    again = model._executor.likelihoods_under(requests, edits)
    assert len(seen) - first == 1
    for found in (together, again):
        for one, other in zip(found, alone, strict=True):
            np.testing.assert_allclose([x.logprob for x in one], [x.logprob for x in other], atol=1e-4)
    assert abs(alone[0][0].logprob - alone[1][0].logprob) > 1e-3


@pytest.mark.parametrize("name", NAMES)
def test_variants_that_share_a_prefix_give_what_each_gives_alone(name):
    """The first blocks run once for all variants that write later; also where the model does not let them."""
    model = load(name)
    deep = np.zeros(model.decoder.shape, dtype=bool)
    deep[-1, :20] = True
    empty = {tower: np.zeros(one.shape, dtype=bool) for tower, one in model.towers.items()}
    last = mn.Units(empty | {"decoder": deep})
    requests = [Request(stimulus, " a b") for stimulus in stimuli_for(name)]
    edits = [[], [mn.zero(last)], [mn.scale(last, 3.0)], [mn.add(last, 2.0)]]
    together = model._executor.likelihoods_under(requests, edits)
    assert any("decoder" in dict(start) for start in model._executor.runner.shared.skipping.known)
    for edit, found in zip(edits, together, strict=True):
        alone = model._executor.likelihoods(requests, *edit)
        np.testing.assert_allclose([one.logprob for one in found], [one.logprob for one in alone], atol=2e-4)
    assert abs(together[0][0].logprob - together[2][0].logprob) > 1e-4


def test_a_shared_prefix_leaves_out_the_blocks_before_it():
    model = load("llama")
    deep = np.zeros(model.decoder.shape, dtype=bool)
    deep[-1, :5] = True
    units = mn.Units({"decoder": deep})
    model.run("a b c")  # the first run of a model also looks whether its blocks run once
    ran = []
    block = model.module.get_submodule(model.decoder.paths[0]).mlp
    handle = block.register_forward_hook(lambda *_: ran.append(1))
    try:
        model._executor.likelihoods_under([Request(None, "a b c")], [[mn.scale(units, k)] for k in (1.5, 2.0)])
        without = len(ran)
        model._executor.likelihoods_under(
            [Request(None, "a b c")], [[mn.scale(units, k)] for k in (1.5, 2.0, 3.0, 4.0)]
        )
        first = len(ran) - without
        model._executor.likelihoods_under(
            [Request(None, "a b c")], [[mn.scale(units, k)] for k in (1.5, 2.0, 3.0, 4.0)]
        )
    finally:
        handle.remove()
    # Twice without; then once for the prefix, once to see that it holds; then once for the prefix alone.
    assert (without, first, len(ran) - without - first) == (2, 2, 1)
