"""Sink tokens against plain transformers: what is one, that it is left alone and left out, and when it is measured."""

from __future__ import annotations

import pickle
from typing import Any

import numpy as np
import pytest
import torch
from transformers import T5Config, T5ForConditionalGeneration

import modalnet as mn
from families import build
from modalnet import activations
from modalnet.execution import sinks
from modalnet.execution.backends.local import LocalBackend
from random_units import some_units
from reference import close, editing, encode, forward, load, paths, stimuli_for

TEXTS = ["the dog sees a cat , and it runs away .", "a child", "the house is old , the dog is not ."]


def expected(states: torch.Tensor, threshold: float) -> dict[int, tuple[float, int]]:
    """Sinks of ``[layer, token, dim]`` by their definition: offset → ratio and layer."""
    lengths = np.sqrt((states.double().numpy() ** 2).sum(-1))
    median = np.sort(lengths, axis=1)[:, (lengths.shape[1] - 1) // 2]
    ratio = lengths / median[:, None]
    both = np.minimum(ratio[:-1], ratio[1:])
    return {
        token: (both[:, token].max(), int(both[:, token].argmax()))
        for token in range(both.shape[1])
        if both[:, token].max() > threshold
    }


@pytest.fixture
def planted():
    """A language model with a token that has a massive embedding, wherever it stands."""
    model = load("llama")
    weight = model.module.get_input_embeddings().weight
    sink = model.tokenizer(",", add_special_tokens=False)["input_ids"][-1]
    before = weight.data[sink].clone()
    weight.data[sink] *= 40
    yield model, sink
    weight.data[sink] = before


def places_of(model: mn.Model, text: str, sink: int) -> list[int]:
    return [place for place, token in enumerate(model.tokenizer(text)["input_ids"]) if token == sink]


@pytest.mark.parametrize(
    "name", ["llama", "gpt2", "llava_clip", "qwen2_5_vl", "idefics3", "llava_next", "gemma3", "blip2"]
)
@pytest.mark.parametrize("side", ["right", "left"])
def test_lengths_are_those_of_plain_transformers(name: str, side: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sinks, "SINK", 1.03)  # random weights have no sinks: what is a little longer stands for them
    model = load(name)
    model._executor.padding_side = side
    given = stimuli_for(name)
    prepared = model._executor.prepare(given)
    towers = model._executor.reached(given)
    tables = [model._executor.sinks(prepared, towers, size) for size in ("auto", 1)]
    count = 0
    for table in tables:
        for stimulus, item in zip(given, prepared, strict=True):
            _, _, states = forward(name, stimulus.text, stimulus.images())
            for tower in towers:
                known = expected(states[tower], 1.03)
                found = {one.offset: one for one in table.of(item, tower)}
                # Ratios that are close to the threshold fall on either side by rounding.
                near = {offset for offset in known if known[offset][0] < 1.03 + 1e-4}
                assert set(known) - near <= set(found) <= set(expected(states[tower], 1.03 - 1e-4))
                for offset in found.keys() & known.keys():
                    assert found[offset].ratio == pytest.approx(known[offset][0], rel=1e-5)
                count += len(found)
        model._executor._machinery.sinks = None
    assert count > 4


def test_an_encoder_decoder_has_sinks_in_each_of_its_towers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sinks, "SINK", 1.02)
    torch.manual_seed(0)
    tokenizer = build("llama").tokenizer
    config = T5Config(
        vocab_size=len(tokenizer), d_model=32, d_kv=8, d_ff=64, num_layers=3, num_heads=4, decoder_start_token_id=0
    )
    model = mn.load(T5ForConditionalGeneration(config).eval(), tokenizer=tokenizer)
    prepared = model._executor.encoder.prepare(
        [mn.Stimulus("the dog sees a cat")], continuations=[" and a house is old"]
    )
    table = model._executor.sinks(prepared, ["encoder", "decoder"])
    item = model._executor.encoder.encode(prepared[0])
    with torch.no_grad():
        output = model.module(**item.inputs, output_hidden_states=True)
    count = 0
    for tower, states in (("encoder", output.encoder_hidden_states), ("decoder", output.decoder_hidden_states)):
        # The last of the hidden states is behind the final norm, which is not a block's output.
        blocks = torch.stack(states[1:-1])[:, 0]
        known = set(expected(blocks, 1.02 + 1e-4))
        assert known <= {one.offset for one in table.of(prepared[0], tower)}
        count += len(known)
    assert count


@pytest.mark.parametrize("kind", ["zero", "mean", "resample", "patch"])
@pytest.mark.parametrize("size", ["auto", 1])
def test_a_lesion_leaves_sinks_alone(planted, kind: str, size: object) -> None:
    model, sink = planted
    units = some_units(model, ["decoder"])
    mask = torch.from_numpy(np.array(units.mask["decoder"]))
    edit = {
        "zero": mn.zero(units),
        "mean": mn.mean(units, over=TEXTS),
        "resample": mn.resample(units, TEXTS, seed=1),
        "patch": mn.patch(units, TEXTS[0]),
    }[kind]
    given = TEXTS[:1] if kind == "patch" else TEXTS
    runs = [
        model.run(given, *edits, read="decoder", tokens="all", batch_size=size)
        for edits in ([edit], [edit.at("all", spare_sinks=True)], [])
    ]
    first = int(mask.any(1).nonzero()[0])
    for text, everywhere, spared, intact in zip(given, *(run.activations["decoder"] for run in runs), strict=True):
        places = places_of(model, text, sink)
        assert set(places) == {one for one in mn.sink_tokens(model, text).position}
        others = [place for place in range(spared.shape[1]) if place not in places]
        dims = mask[first]
        # Behind the first layer that is edited, tokens that are not edited change too.
        close(spared[first, places][:, dims], intact[first, places][:, dims])
        if kind != "patch":
            close(spared[first, others][:, dims], everywhere[first, others][:, dims])
        if kind == "zero":
            assert (spared[:, others][mask[:, None].expand(-1, len(others), -1)] == 0).all()


def zeroing(units: Any, places: list[int]) -> dict[str, Any]:
    """Edits of plain hooks that set units to 0 at some tokens of one text, by the path of each block."""

    def edit(layer: int) -> Any:
        where = np.ix_(places, np.flatnonzero(units.mask["decoder"][layer]))

        def edited(flat: torch.Tensor) -> torch.Tensor:
            flat[where] = 0
            return flat

        return edited

    return {
        path: edit(layer) for layer, path in enumerate(paths("llama", "decoder")) if units.mask["decoder"][layer].any()
    }


def test_a_score_under_a_lesion_that_spares_sinks_is_what_hooks_give(planted) -> None:
    model, sink = planted
    units = some_units(model, ["decoder"])
    family = build("llama")
    given, endings = ["the dog sees", "a cat is here ,"], [" a cat , and", " it runs away"]
    scores = model.score(given, endings, mn.zero(units).at("all", spare_sinks=True))
    several = model._executor.likelihoods_under(
        [mn.Request(mn.Stimulus(one), two) for one, two in zip(given, endings, strict=True)],
        [[mn.zero(units).at("all", spare_sinks=spare)] for spare in (True, False)] * 2,
    )
    for index, (text, ending) in enumerate(zip(given, endings, strict=True)):
        ids = encode(family, text + ending)["input_ids"][0]
        ordinary = [place for place, token in enumerate(ids.tolist()) if token != sink]
        with editing(family.model, zeroing(units, ordinary)):
            logits = forward("llama", text + ending)[0].logits[0]
        n = int(scores.n_tokens[index][0])
        logp = logits.log_softmax(-1)[-n - 1 : -1].gather(1, ids[-n:, None]).sum()
        assert float(scores.logprob[index][0]) == pytest.approx(float(logp), abs=2e-4)
        assert several[0][index].logprob == pytest.approx(float(logp), abs=2e-4)
        assert several[1][index].logprob != pytest.approx(float(logp), abs=1e-3)


def test_generation_spares_the_sinks_of_the_prompt_and_no_new_token(planted) -> None:
    model, sink = planted
    units = some_units(model, ["decoder"], share=0.5)
    prompt, steps = "the dog , a cat", 5
    text = model.generate(prompt, mn.zero(units).at("all", spare_sinks=True), max_new_tokens=steps)
    ids = model.tokenizer(prompt)["input_ids"]
    family = build("llama")
    for _ in range(steps):
        ordinary = [place for place, token in enumerate(ids) if token != sink or place >= len(ids)]
        with editing(family.model, zeroing(units, ordinary)), torch.no_grad():
            ids = [*ids, int(family.model(torch.tensor([ids])).logits[0, -1].argmax())]
    new = ids[-steps:]
    if sink in new:
        pytest.skip("a new token that is generated is the planted one")
    assert model.tokenizer.decode(new, skip_special_tokens=True).startswith(text)


def test_a_job_brings_lengths_and_no_activations(monkeypatch: pytest.MonkeyPatch) -> None:
    here, there = mn.load("tiny"), mn.load("tiny", remote="local")
    texts = ["The dog sleeps.", "A child drinks tea with milk.", "Two cats see the boy."]
    shapes = []
    backend = type(there._executor.backend)
    run = backend.run

    def watched(self, envoy, programs):
        saved = run(self, envoy, programs)
        shapes.extend(tuple(vector.shape) for one in saved for vector in one["vectors"])
        return saved

    monkeypatch.setattr(backend, "run", watched)
    found = [mn.sink_tokens(model, texts) for model in (here, there)]
    assert shapes
    assert {shape[-1] for shape in shapes} == {1}
    assert len(found[0])
    assert found[0].drop(columns="ratio").equals(found[1].drop(columns="ratio"))
    np.testing.assert_allclose(found[0].ratio, found[1].ratio, rtol=1e-5)
    lesion = mn.mean(mn.site("decoder", 3), over=texts).at("all", spare_sinks=True)
    scores = [model.score(texts, [" dog"] * 3, lesion).logprob for model in (here, there)]
    np.testing.assert_allclose(np.concatenate(scores[0]), np.concatenate(scores[1]), atol=1e-4)
    statistics = [activations.token_statistics(model, texts, cache=False) for model in (here, there)]
    np.testing.assert_allclose(statistics[0].sd["decoder"], statistics[1].sd["decoder"], rtol=1e-5)
    rows = [activations.donors(model, texts, n_tokens=6)["decoder"] for model in (here, there)]
    np.testing.assert_allclose(rows[0], rows[1], atol=1e-4)


class Counted(LocalBackend):
    """Counts passes."""

    def __init__(self) -> None:
        super().__init__()
        self.passes = 0

    def run(self, envoy, programs):
        self.passes += len(programs)
        return super().run(envoy, programs)


def test_sinks_are_measured_once_and_anew_when_the_model_changes(planted) -> None:
    given, sink = planted
    backend = Counted()
    model = mn.load(given, remote=backend)
    units = some_units(model, ["decoder"])
    lesion = mn.zero(units).at("all", spare_sinks=True)

    def passes() -> int:
        before = backend.passes
        model.run(TEXTS, lesion, read=[], logits="last", batch_size=8)
        return backend.passes - before

    model.run(TEXTS, read=[], logits="last")
    assert [passes(), passes()] == [2, 1]
    weight = model.module.get_input_embeddings().weight
    before = weight.data[sink].clone()
    weight.data[sink] /= 40
    assert [passes(), passes()] == [2, 1]
    assert not len(mn.sink_tokens(model, TEXTS))
    weight.data[sink] = before
    assert len(mn.sink_tokens(model, TEXTS))
    model._executor.padding_side = "left"
    assert passes() >= 2
    model._executor.padding_side = "right"
    # A hook changes what is computed and nothing tells what it does, so nothing is remembered.
    handle = model.decoder.blocks[0].register_forward_hook(lambda *_: None)
    assert [passes(), passes()] == [2, 2]
    handle.remove()


def test_a_study_measures_once_for_all_its_lesions(planted) -> None:
    given, _ = planted
    backend = Counted()
    model = mn.load(given, remote=backend)
    units = some_units(model, ["decoder"])
    requests = [mn.Request(mn.Stimulus(text), " dog") for text in TEXTS]
    counts = []
    for spare in (False, True, True):
        before = backend.passes
        for _ in range(3):
            lesions = [[mn.scale(units, factor).at("all", spare_sinks=spare)] for factor in (0.1, 0.2, 0.3)]
            model._executor.likelihoods_under(requests, lesions)
        counts.append(backend.passes - before)
    assert counts[1] - counts[0] <= 1
    assert counts[2] <= counts[0]


@pytest.mark.parametrize("name", ["llama", "llava_clip", "qwen2_5_vl"])
@pytest.mark.parametrize("continued", [False, True])
def test_statistics_are_those_of_plain_transformers(
    name: str, continued: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sinks, "SINK", 1.05)
    model = load(name)
    given = stimuli_for(name)
    if continued and name != "llama":
        pytest.skip("the continuation of an image stimulus is held against text alone elsewhere")
    endings = [" and it runs"] * len(given) if continued else None
    prepared = model._executor.encoder.prepare(given, continuations=endings)
    towers = model._executor.reached(given)
    table = model._executor.sinks(prepared, towers)
    results = [
        activations.token_statistics(model, given, continuations=endings, batch_size=size, cache=False)
        for size in ("auto", 1)
    ]
    for tower in towers:
        first, second, absolute, sink_rows, n_tokens = [], [], [], [], 0
        for stimulus, item in zip(given, prepared, strict=True):
            text = stimulus.text + (endings[0] if endings else "")
            states = forward(name, text, stimulus.images())[2][tower].double()
            left = [one.offset for one in table.of(item, tower)]
            kept = states[:, [place for place in range(states.shape[1]) if place not in left]]
            n_tokens += kept.shape[1]
            first.append(kept.mean(1))
            second.append((kept**2).mean(1))
            absolute.append(kept.abs().mean(1))
            if left:
                sink_rows.append(states[:, left].abs().mean(1))
        mean = torch.stack(first).mean(0)
        sd = (torch.stack(second).mean(0) - mean**2).sqrt()
        for result in results:
            close(result.mean[tower], mean, atol=1e-5)
            close(result.sd[tower], sd, atol=1e-5)
            close(result.mean_abs[tower], torch.stack(absolute).mean(0), atol=1e-5)
            assert (result.n_stimuli[tower], result.n_tokens[tower]) == (len(given), n_tokens)
            assert sink_rows
            close(result.sink_mean_abs[tower], torch.stack(sink_rows).mean(0), atol=1e-5)
            assert result.mean[tower].dtype == np.float64


def test_statistics_count_and_leave_out_what_has_no_token_left(planted) -> None:
    model, sink = planted
    plain_texts = [text for text in TEXTS if not places_of(model, text, sink)]
    result = activations.token_statistics(model, plain_texts, cache=False)
    assert np.isnan(result.sink_mean_abs["decoder"]).all()
    assert result.n_sinks == {"decoder": 0}
    lengths = [len(model.tokenizer(text)["input_ids"]) for text in TEXTS]
    some = activations.token_statistics(model, TEXTS, spare_first=min(lengths), cache=False)
    assert some.n_stimuli == {"decoder": sum(length > min(lengths) for length in lengths)}
    with pytest.raises(mn.InputError, match="No stimulus has a token left in decoder"):
        activations.token_statistics(model, TEXTS, spare_first=99, cache=False)
    everything = activations.token_statistics(model, TEXTS, spare_sinks=False, cache=False)
    assert everything.n_tokens["decoder"] == sum(lengths)
    assert everything.n_sinks["decoder"] > 0


def test_statistics_are_stored_and_made_of_arrays_again(planted, tmp_path) -> None:
    model, _ = planted
    store = mn.Store(tmp_path)
    one = activations.token_statistics(model, TEXTS, cache=store)
    two = activations.token_statistics(model, TEXTS, cache=store)
    np.testing.assert_array_equal(one.sink_mean_abs["decoder"], two.sink_mean_abs["decoder"])
    assert (one.n_stimuli, one.n_tokens, one.n_sinks) == (two.n_stimuli, two.n_tokens, two.n_sinks)


def test_references_leave_sinks_out_unless_they_are_kept(planted) -> None:
    model, sink = planted
    rows, every = [], []
    for text in TEXTS:
        states = forward("llama", text)[2]["decoder"]
        kept = [place for place in range(states.shape[1]) if place not in places_of(model, text, sink)]
        rows.append(states[:, kept].mean(1))
        every.append(states.mean(1))
    close(model.means(TEXTS)["decoder"].astype(np.float32), torch.stack(rows).mean(0), atol=1e-4)
    close(model.means(TEXTS, spare_sinks=False)["decoder"].astype(np.float32), torch.stack(every).mean(0), atol=1e-4)
    units = some_units(model, ["decoder"])
    mask = np.array(units.mask["decoder"])
    for spare, wanted in ((True, rows), (False, every)):
        run = model.run("a child", mn.mean(units, over=TEXTS, spare_sinks=spare), read="decoder", tokens="all")
        close(run.activations["decoder"][0][:, -1][mask], torch.stack(wanted).mean(0)[mask], atol=1e-4)
    digests = {
        make(units, TEXTS, spare_sinks=spare).digest for make in (mn.mean, mn.resample) for spare in (True, False)
    }
    assert len(digests) == 4
    only = mn.mean(units, over=TEXTS).at(places_of(model, TEXTS[0], sink)[:1])
    with pytest.raises(mn.InputError, match="no token left"):
        model.run("the dog sees a cat", mn.mean(units, over=TEXTS[0]).at(only.tokens))
    with pytest.raises(mn.InputError, match="No stimulus has a token"):
        model.means(TEXTS[0], tokens=only.tokens)


@pytest.mark.parametrize("size", [15, 4])
def test_donors_are_the_same_token_in_every_layer_and_none_is_a_sink(planted, size: int) -> None:
    model, sink = planted
    found = activations.donors(model, TEXTS, n_tokens=size, seed=3)["decoder"]
    assert found.shape == (size, *model.spaces["decoder"].shape)
    assert found.dtype == np.float32
    pool = np.concatenate([np.asarray(forward("llama", text)[2]["decoder"]) for text in TEXTS], axis=1)
    left = np.concatenate([np.isin(model.tokenizer(text)["input_ids"], [sink]) for text in TEXTS])
    used = set()
    for row in found:
        distance = np.abs(pool - row[:, None]).max(axis=(0, 2))
        token = int(distance.argmin())
        assert distance[token] < 1e-5
        assert not left[token]
        used.add(token)
    assert len(used) >= size - 2  # texts that begin alike have tokens alike
    np.testing.assert_array_equal(found, activations.donors(model, TEXTS, n_tokens=size, seed=3)["decoder"])
    assert not np.array_equal(found, activations.donors(model, TEXTS, n_tokens=size, seed=4)["decoder"])
    kept = activations.donors(model, TEXTS, n_tokens=99, spare_sinks=False)["decoder"]
    assert len(kept) == len(left)


def test_resampling_from_donors_shares_them(planted) -> None:
    model, _ = planted
    found = activations.donors(model, TEXTS, n_tokens=9, continuations=[" and it"] * 3)
    units = some_units(model, ["decoder"])
    mask = units.mask["decoder"]
    one = mn.resample(units, found, seed=1)
    assert one.values["decoder"] is found["decoder"]
    assert one.digest == mn.resample(units, {"decoder": found["decoder"].copy()}, seed=1).digest
    assert one.digest != mn.resample(units, {"decoder": found["decoder"] + 1}, seed=1).digest
    assert pickle.loads(pickle.dumps(one)) == one
    run = model.run(TEXTS, one.at("all", spare_sinks=True), read="decoder", tokens="all")
    rows = found["decoder"][:, mask]
    for values in run.activations["decoder"]:
        last = np.asarray(values)[:, -2][mask]
        assert np.abs(rows - last).max(1).min() < 1e-6


def test_what_is_no_set_of_donors_is_refused() -> None:
    model = load("llama")
    units = some_units(model, ["decoder"])
    shape = units.mask["decoder"].shape
    with pytest.raises(mn.InputError, match="must have shape"):
        mn.resample(units, {"decoder": np.zeros(shape)})
    with pytest.raises(mn.InputError, match="must have shape"):
        mn.resample(units, {})
    with pytest.raises(mn.InputError, match="must be finite"):
        mn.resample(units, {"decoder": np.full((3, *shape), np.nan)})
    with pytest.raises(mn.InputError, match=r"axes \[donor, layer, dim\]"):
        mn.resample(mn.site("decoder", 1), {"decoder": np.zeros(shape)})
    with pytest.raises(mn.InputError, match="one non-empty text for each"):
        activations.token_statistics(model, TEXTS, continuations=[" a"], cache=False)
    with pytest.raises(mn.InputError, match="not reached"):
        activations.donors(load("llava_clip"), TEXTS, "vision")
    with pytest.raises(mn.InputError, match="spare_sinks"):
        mn.zero(units).at("all", spare_sinks=1)


def test_an_intervention_says_that_it_spares_sinks() -> None:
    units = some_units(load("llama"), ["decoder"])
    plain_one, sparing = mn.zero(units), mn.zero(units).at("all", spare_sinks=True)
    assert "sinks spared" in repr(sparing)
    assert sparing.digest != plain_one.digest
    assert sparing != plain_one
    assert pickle.loads(pickle.dumps(sparing)) == sparing
    assert sparing.at("last").spares_sinks
    assert not sparing.at("last", spare_sinks=False).spares_sinks


def test_a_patch_of_vision_is_a_sink_and_is_spared() -> None:
    model = mn.load("tiny")
    weight = dict(model.module.named_parameters())["model.vision_tower.embeddings.position_embedding.weight"]
    weight.data[5] *= 60
    given = mn.stimuli.vision().stimuli[:3]
    table = mn.sink_tokens(model, given, "vision")
    assert set(table.position) == {5}
    assert set(table.token) == {"<image 5>"}
    assert list(table.stimulus) == [0, 1, 2]
    lesion = mn.zero(mn.site("vision", 2)).at("all", spare_sinks=True)
    for values in model.run(given, lesion, read="vision", tokens="all").activations["vision"]:
        assert [place for place in range(values.shape[1]) if values[2, place].any()] == [5]


def test_every_way_to_run_a_view_spares_sinks(planted) -> None:
    model, sink = planted
    units = some_units(model, ["decoder"])
    lesion = mn.zero(units).at("all", spare_sinks=True)
    view = model.with_(lesion)
    intact = model._executor.states([mn.Stimulus(TEXTS[0])])[0].activations["decoder"]
    state = view._executor.states([mn.Stimulus(TEXTS[0])])[0].activations["decoder"]
    run = model.run(TEXTS[:1], lesion, read="decoder", tokens="all").activations["decoder"][0]
    close(state, run)
    first = int(np.flatnonzero(units.mask["decoder"].any(1))[0])
    places = places_of(model, TEXTS[0], sink)
    close(state[first, places], intact[first, places])
    metric = mn.patching.log_probability(" dog")
    clean, corrupt = "the dog , a cat", "the cat , a dog"
    grids = [
        patching(view, clean, corrupt, metric, cache=False, progress=False).effect["decoder"]
        for patching in (mn.activation_patching, mn.attribution_patching)
    ]
    assert all(np.isfinite(grid).any() for grid in grids)


def test_an_optimized_image_is_measured_as_it_is() -> None:
    model = mn.load("tiny")
    weight = dict(model.module.named_parameters())["model.vision_tower.embeddings.position_embedding.weight"]
    weight.data[5] *= 60
    lesion = mn.zero(mn.site("vision", 2)).at("all", spare_sinks=True)
    units = mn.Units.from_indices({"vision": (6, 128)}, [("vision", 4, 3)])
    found = mn.features.optimize(model.with_(lesion), units, steps=2, n_controls=2, cache=False, progress=False)
    assert found is not None


def test_blocks_that_do_not_run_are_left_out() -> None:
    model = load("mllama")
    text = mn.Stimulus("a dog sees a cat")
    assert set(mn.sink_tokens(model, text).tower) <= {"decoder"}
    running = mn.zero(mn.site("decoder", 0)).at("all", spare_sinks=True)
    model.run(text, running, read=[], logits="last")
