"""Requests that share a row of a batch: what they give beside one plain forward pass each, and how many rows run."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

import modalnet as mn
from families import build, picture
from modalnet import tasks
from modalnet.execution.backends.simulated import SimulatedBackend
from modalnet.execution.compile import Compiler
from modalnet.execution.engine import Engine
from modalnet.execution.likelihood import Request
from reference import TEXT_ONLY, editing, load

# One token each after a stimulus of letters; the last ones are of several tokens.
SHORT = [" the", " dog", " ran", " a", " is", " this", " b", " f", " o", " p"]
LONG = [" cats", " field", " here the", " here a"]
NAMES = ["dog", "cat", "house", "tree", "ball", "car", "boy", "girl", "man", "star"]
# Families whose processors, masks or places of a picture differ.
READERS = ["gpt2", "llava_clip", "paligemma", "gemma3", "qwen2_5_vl", "idefics3", "mllama", "blip2", "janus"]


@pytest.fixture
def ran(monkeypatch):
    """Per pass that scores: how many rows the engine runs, logits it takes, and probabilities it gathers."""
    seen = []

    def keep(inputs, plan):
        if plan.targets is not None:
            rows = len(inputs.get("decoder_input_ids", inputs["input_ids"]))
            seen.append((rows, len(plan.logit_rows), len(plan.targets)))

    one, many = Engine.run, Engine.run_many
    monkeypatch.setattr(Engine, "run", lambda self, *given: (keep(*given[:2]), one(self, *given))[1])
    monkeypatch.setattr(
        Engine,
        "run_many",
        lambda self, asked: ([keep(*each) for each in asked if self.capabilities.jobs], many(self, asked))[1],
    )
    return seen


def rows(seen):
    return sum(each[0] for each in seen)


def some_units(model, towers=("decoder",), seed=3):
    rng = np.random.default_rng(seed)
    shapes = {name: tower.shape for name, tower in model.towers.items()}
    return mn.Units({n: rng.random(shape) < (0.2 if n in towers else 0) for n, shape in shapes.items()})


def zeroed(model, units, where=slice(None)):
    """Edits of hooks: the units are zero at some places of a row."""

    def edit(dims):
        def change(flat):
            flat[where][:, dims] = 0
            return flat

        return change

    return {
        path: edit(np.flatnonzero(units.mask[name][layer]))
        for name, tower in model.towers.items()
        for layer, path in enumerate(tower.paths)
        if units.mask[name][layer].any()
    }


def plainly(module, encode, continuations, edits=None):
    """Of each continuation, log p of its tokens: a plain forward pass over a row of its own."""
    start = encode("")["input_ids"].shape[1]
    found = []
    for text in continuations:
        inputs = encode(text)
        with torch.no_grad(), editing(module, edits or {}):
            logp = torch.log_softmax(module(**inputs).logits[0].double(), -1)
        ids = inputs["input_ids"][0]
        found.append(sum(float(logp[k - 1, ids[k]]) for k in range(start, len(ids))))
    return found


def of_llama(text):
    return lambda more: dict(build("llama").tokenizer(text + more, return_tensors="pt"))


def of_tiny(model, text, image):
    def encode(more):
        whole = model._executor.encoder.prompts.write(mn.Stimulus(text, image=image))
        return dict(
            model.processor(
                images=[image],
                text=[(whole.text or "") + more],
                add_special_tokens=whole.special_tokens,
                return_tensors="pt",
            )
        )

    return encode


@pytest.fixture(scope="module")
def tiny():
    return mn.load("tiny")


# ------------------------------------------------------------------------------------------------------ one row for all


@pytest.mark.parametrize("lesion", [False, True])
def test_a_text_with_ten_answers_is_one_row(ran, lesion):
    model = load("llama")
    units = some_units(model)
    edits = [mn.zero(units)] if lesion else []
    found = model.score(["the dog ran across"], [SHORT], *edits)
    assert ran == [(1, 1, 10)]
    expected = plainly(model.module, of_llama("the dog ran across"), SHORT, zeroed(model, units) if lesion else None)
    np.testing.assert_allclose(found.logprob[0], expected, atol=1e-5)
    assert found.n_tokens[0].tolist() == [1] * 10
    assert len(set(found.logprob[0])) == 10


@pytest.mark.parametrize("towers", [(), ("decoder",), ("vision",)])
def test_a_picture_with_ten_names_is_one_row(tiny, ran, towers):
    image = picture(3, 64, 64)
    given = [mn.Stimulus(image=image, condition="dog"), mn.Stimulus(image=picture(4, 64, 64), condition="cat")]
    task = tasks.naming(given, names=NAMES)
    units = some_units(tiny, towers)
    edits = [mn.zero(units)] if towers else []
    found = tiny._executor.likelihoods(task.requests(), *edits)
    assert (rows(ran), sum(each[2] for each in ran)) == (2, 20)
    for stimulus, own in zip(given, (found[:10], found[10:]), strict=True):
        encode = of_tiny(tiny, "what is it?", stimulus.images()[0])
        expected = plainly(tiny.module, encode, [f" {name}" for name in NAMES], zeroed(tiny, units) if towers else None)
        np.testing.assert_allclose([one.logprob for one in own], expected, atol=1e-5)
    assert task.run(tiny, *edits).scores.tolist() == task.grade(found).tolist()


@pytest.mark.parametrize("name", READERS)
def test_shared_rows_give_what_each_request_gives_alone(name, ran):
    model = load(name)
    pictures = [] if name in TEXT_ONLY else [picture(1, 64, 64), picture(2, 64, 64)]
    stimuli = [mn.Stimulus("what is this", image=image) for image in pictures or (None,)]
    requests = [Request(stimulus, text) for stimulus in stimuli for text in (*SHORT[:4], LONG[0])]
    edits = [[], [mn.zero(some_units(model)), mn.scale(some_units(model), 2.0).at("last")]]
    together = model._executor.likelihoods_under(requests, edits)
    single = [one.n_tokens == 1 for one in together[0]]
    assert sum(single) >= 4
    assert rows(ran) == 2 * (len(requests) - sum(single) + len(stimuli))
    for found, variant in zip(together, edits, strict=True):
        alone = [model._executor.likelihoods([one], *variant)[0] for one in requests[:4]]
        np.testing.assert_allclose([o.logprob for o in found[:4]], [o.logprob for o in alone], atol=5e-5)
        assert [(o.greedy, o.n_tokens) for o in found[:4]] == [(o.greedy, o.n_tokens) for o in alone]


def test_answers_of_one_and_of_several_tokens(ran):
    model = load("llama")
    text, answers = "the dog ran across", [SHORT[0], LONG[0], SHORT[1], LONG[2], SHORT[2], LONG[3]]
    found = model.score([text], [answers])
    np.testing.assert_allclose(found.logprob[0], plainly(model.module, of_llama(text), answers), atol=1e-5)
    # One for the answers of one token, one of its own, and one for the two that end differently.
    assert rows(ran) == 3
    assert found.n_tokens[0][[0, 2, 4]].tolist() == [1, 1, 1]
    assert found.n_tokens[0][3] == found.n_tokens[0][5] > 1


def test_greedy_is_told_of_each_answer():
    model = load("llama")
    text = "the dog ran across"
    ids = [of_llama(text)(one)["input_ids"][0, -1] for one in SHORT]
    # A bias makes one of the answers the likeliest token.
    head = model.module.get_output_embeddings()
    handle = head.register_forward_hook(lambda module, args, output: output.index_add(-1, ids[3][None], lift(output)))
    try:
        found = model.score([text], [[*SHORT, LONG[0]]])
    finally:
        handle.remove()
    assert found.greedy[0].tolist() == [place == 3 for place in range(len(SHORT) + 1)]


def lift(output):
    return torch.full((*output.shape[:-1], 1), 50.0)


def test_the_same_text_of_other_stimuli_shares_and_another_picture_does_not(tiny, ran):
    model = load("llama")
    model._executor.likelihoods([Request(mn.Stimulus("the dog ran"), text) for text in SHORT])
    assert rows(ran) == 1
    ran.clear()
    tiny._executor.likelihoods(
        [Request(mn.Stimulus("what is it?", image=picture(i, 64, 64)), " dog") for i in (1, 2, 3)]
    )
    assert rows(ran) == 3


def test_places_are_the_prompts_as_before(ran):
    """The last token of the prompt and not the one of the row, whichever answer the row holds."""
    model = load("llama")
    units, text = some_units(model), "the dog ran across"
    n = of_llama(text)("")["input_ids"].shape[1]
    for choice, where in (("last", slice(n - 1, n)), ((-2,), slice(n - 2, n - 1)), ((0,), slice(0, 1))):
        found = model.score([text], [SHORT], mn.zero(units).at(choice)).logprob[0]
        expected = plainly(model.module, of_llama(text), SHORT, zeroed(model, units, where))
        np.testing.assert_allclose(found, expected, atol=1e-5)
    assert rows(ran) == 3


def test_draws_and_sources_of_their_own_keep_requests_apart(ran):
    model = load("llama")
    units = some_units(model)
    stimulus = mn.Stimulus("the dog ran across")
    requests = [Request(stimulus, text) for text in SHORT]
    donors = mn.resample(units, [mn.Stimulus("a cat is here"), mn.Stimulus("the house is old")])
    model._executor.likelihoods(requests, donors)
    assert rows(ran) == 10
    ran.clear()
    # The answers of one stimulus have one draw.
    model.score([stimulus], [SHORT], donors)
    assert rows(ran) == 1
    ran.clear()
    own = mn.patch(mn.site("decoder", 1), [mn.Stimulus(f"the dog is {one}") for one in "abcdefghij"]).at("last")
    model._executor.likelihoods(requests, own)
    assert rows(ran) == 10


@pytest.mark.parametrize("vocabulary", [1, 3])
def test_targets_are_gathered_part_by_part(monkeypatch, vocabulary):
    """However few logits are taken to float32 at once."""
    model = load("llama")
    requests = [Request(mn.Stimulus(text), more) for text in ("a dog", "the cat") for more in (*SHORT[:3], *LONG[:2])]
    expected = [one.logprob for one in model._executor.likelihoods(requests)]
    monkeypatch.setattr(Compiler, "_rows_at_once", lambda self: vocabulary)
    np.testing.assert_allclose([one.logprob for one in model._executor.likelihoods(requests)], expected, atol=1e-6)


@pytest.mark.parametrize("batch_size", [1, 2])
def test_shared_rows_in_small_batches(batch_size):
    model = load("llama")
    requests = [Request(mn.Stimulus(text), more) for text in ("a dog", "the cat", "is this") for more in SHORT[:3]]
    expected = [one.logprob for one in model._executor.likelihoods(requests)]
    found = [one.logprob for one in model._executor.likelihoods(requests, batch_size=batch_size)]
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_a_decoder_that_reads_in_an_encoder(ran):
    from transformers import T5Config, T5ForConditionalGeneration

    tokenizer = build("llama").tokenizer
    torch.manual_seed(0)
    sizes = {"d_model": 32, "d_kv": 8, "d_ff": 64, "num_layers": 2, "num_heads": 4}
    tokens = {"decoder_start_token_id": 0, "pad_token_id": 0, "eos_token_id": 1}
    config = T5Config(vocab_size=len(tokenizer), **sizes, **tokens)
    module = T5ForConditionalGeneration(config).eval()
    model = mn.load(module, tokenizer=tokenizer)
    texts = ["the dog ran", "a cat is here"]
    answers = ["dog", "cats", "a", "is", "b"]
    found = model.score(texts, [answers] * 2)
    single = [len(tokenizer(one, add_special_tokens=False)["input_ids"]) == 1 for one in answers]
    assert rows(ran) == 2 * (5 - sum(single) + 1)
    assert sum(single) > 1
    for text, own in zip(texts, found.logprob, strict=True):
        inputs = tokenizer(text, return_tensors="pt")
        for answer, value in zip(answers, own, strict=True):
            ids = tokenizer(answer, add_special_tokens=False)["input_ids"]
            with torch.no_grad():
                logits = module(**inputs, decoder_input_ids=torch.tensor([[0, *ids]])).logits[0]
            logp = torch.log_softmax(logits.double(), -1)
            assert value == pytest.approx(sum(float(logp[k, one]) for k, one in enumerate(ids)), abs=1e-5)


# ------------------------------------------------------------------------------------------------------------- a server


@pytest.mark.parametrize("lesion", [False, True])
def test_rows_are_shared_on_a_server_too(tiny, ran, lesion):
    there = mn.load(tiny, remote="local")
    stimulus = mn.Stimulus("what is it?", image=picture(3, 64, 64))
    requests = [Request(stimulus, f" {name}") for name in [*NAMES, "two dogs"]]
    edits = [mn.zero(some_units(tiny))] if lesion else []
    here = [one.logprob for one in tiny._executor.likelihoods(requests, *edits)]
    assert rows(ran) == 2
    ran.clear()
    found = [one.logprob for one in there._executor.likelihoods(requests, *edits)]
    assert rows(ran) == 2
    np.testing.assert_allclose(found, here, atol=1e-6)


def test_a_prompt_that_is_read_both_ways_does_not_see_the_answer_on_a_server():
    here, there = load("paligemma"), mn.load(load("paligemma"), remote=SimulatedBackend("paligemma"))
    stimulus = mn.Stimulus("what is this", image=picture(1, 64, 64))
    one, other = (model.score([stimulus], [SHORT[:3]]).logprob[0] for model in (there, here))
    np.testing.assert_allclose(one, other, atol=1e-5)


# ----------------------------------------------------------------------------------------------- segments not needed


REGIONS = {"match": ["the dog", "that ran", "", "is here"], "mismatch": ["the dog", "that ran", "a b", "are here"]}


def suite(path, formulas, metric):
    conditions = [
        {
            "condition_name": name,
            "regions": [{"region_number": i, "content": text} for i, text in enumerate(texts, start=1)],
        }
        for name, texts in REGIONS.items()
    ]
    predictions = [{"type": "formula", "formula": formula} for formula in formulas]
    items = [{"item_number": 1, "conditions": conditions}]
    path.write_text(json.dumps({"meta": {"name": "s", "metric": metric}, "predictions": predictions, "items": items}))
    return tasks.syntaxgym(path)


@pytest.mark.parametrize("metric", ["sum", "mean"])
def test_suites_score_the_regions_that_their_formulas_name(tmp_path, ran, metric):
    model = load("llama")
    formula = "(4;%match%) < (4;%mismatch%)"
    whole = suite(tmp_path / "a.json", ["(*;%match%) < (*;%mismatch%)", formula], metric)
    part = suite(tmp_path / "b.json", [formula], metric)
    every = model._executor.likelihoods(whole.requests())
    of_whole = sum(each[1] for each in ran)
    ran.clear()
    some = model._executor.likelihoods(part.requests())
    assert rows(ran) == 2
    tokens = [build("llama").tokenizer(f" {REGIONS[name][3]}", add_special_tokens=False) for name in REGIONS]
    assert sum(each[1] for each in ran) == sum(len(one["input_ids"]) for one in tokens) < of_whole
    conditions = [one for one in zip(part.requests(), some, every, strict=True) if one[0].cuts]
    assert len(conditions) == 2
    for _, one, other in conditions:
        assert np.isnan(one.segments[:-1]).all()
        assert one.segments[-1] == pytest.approx(other.segments[-1], abs=1e-5)
    assert [one.n_tokens for one in some] == [one.n_tokens for one in every]
    assert part.grade(some).tolist() == part.grade(every).tolist() == part.run(model).scores.tolist()


def test_a_request_that_needs_nothing_runs_nothing(ran):
    model = load("llama")
    text = "the dog ran"
    nothing, whole = model._executor.likelihoods([Request(None, text, needed=()), Request(None, text)])
    assert rows(ran) == 1
    assert nothing.n_tokens == whole.n_tokens > 1
    assert np.isnan(nothing.logprob)
    with pytest.raises(mn.InputError, match="which are 0 to 1, got 2"):
        model._executor.likelihoods([Request(None, text, (3,), (2,))])
