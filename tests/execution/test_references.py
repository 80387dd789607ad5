"""Reference stimuli of interventions run once for a model as it is, and again as soon as anything of it changed."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from tokenizers import normalizers

import modalnet as mn
from families import build, make_tokenizer
from modalnet.execution import references

TEXTS = [f"{a} {b} the field" for a in ("the dog", "a cat", "two children") for b in ("ran across", "slept in", "left")]


@pytest.fixture
def model():
    plain = build("llama").model
    # A model of its own: a copy of one that nnsight has wrapped runs the forward of its former class.
    fresh = type(plain)(copy.deepcopy(plain.config)).eval()
    fresh.load_state_dict(plain.state_dict())
    return mn.load(fresh, tokenizer=make_tokenizer())


def some_units(model):
    mask = np.random.default_rng(0).random(model.decoder.shape) < 0.2
    return mn.Units({"decoder": mask}, model=model.fingerprint())


MADE = {
    "mean": lambda units, model: mn.mean(units, over=TEXTS),
    "resample": lambda units, model: mn.resample(units, over=TEXTS),
    "patch": lambda units, model: mn.patch(units, TEXTS[0]).at("last"),
    "patch from a view": lambda units, model: mn.patch(
        mn.site("decoder", 2), model.with_(mn.zero(mn.site("decoder", 1))).on(TEXTS[0])
    ).at("last"),
    "patch a site": lambda units, model: mn.patch(mn.site("decoder", 2), TEXTS[0]).at("last"),
}


@pytest.fixture
def rows(model):
    """How many rows ran through the first block, in all passes."""
    seen = []
    block = model.module.model.layers[0].mlp
    forward = type(block).forward

    class Counting(type(block)):
        def forward(self, x):
            seen.append(len(x))
            return forward(self, x)

    block.__class__ = Counting
    return seen


def run(model, edit, text="the tea"):
    return model.run([text], edit, logits="last").logits


@pytest.mark.parametrize("kind", MADE)
def test_the_second_call_runs_no_reference(kind, model, rows):
    units = some_units(model)
    first = run(model, MADE[kind](units, model))
    rows.clear()
    again = run(model, MADE[kind](units, model))
    assert rows == [1]
    torch.testing.assert_close(again, first, atol=0, rtol=0)
    rows.clear()
    run(model.with_(mn.zero(units)), MADE[kind](units, model))  # references run without any intervention
    run(model, MADE[kind](units, model), "another one")
    assert sum(rows) - rows.count(1) == 0


def test_a_generative_task_runs_its_references_once(model, rows):
    edit = mn.mean(some_units(model), over=TEXTS)
    model.generate(["the dog", "a cat", "the tea"], edit, max_new_tokens=2)
    for text in ("the dog", "a cat"):
        rows.clear()
        model.generate(text, edit, max_new_tokens=2)
        assert set(rows) == {1}


def changed_weights(model):
    model.module.model.layers[1].mlp.down_proj.weight.data.mul_(1.5)


def replaced(model):
    block = model.module.model.layers[1]
    forward = type(block.mlp).forward
    block.mlp.forward = lambda x: 2 * forward(block.mlp, x)


def hooked(model):
    model.module.model.layers[1].register_forward_hook(lambda _, __, out: 2 * out)


def attention(model):
    model.module.config.sliding_window = 4
    model.module.set_attn_implementation("eager")


def tokenizer(model):
    model.tokenizer.backend_tokenizer.normalizer = normalizers.Replace("dog", "cat")


@pytest.mark.filterwarnings("ignore:.*`forward` was replaced after nnsight")
@pytest.mark.parametrize("change", [changed_weights, replaced, hooked, attention, tokenizer])
@pytest.mark.parametrize("kind", MADE)
def test_what_is_kept_is_not_given_for_another_state(kind, change, model):
    units = some_units(model)
    units = mn.Units(units.mask)  # of no model, so that they are not refused
    run(model, MADE[kind](units, model))
    change(model)
    found = run(model, MADE[kind](units, model))
    fresh = mn.load(model.module, tokenizer=model.tokenizer)
    torch.testing.assert_close(found, run(fresh, MADE[kind](units, fresh)), atol=1e-5, rtol=0)


def test_hooks_keep_nothing_and_clean_values_come_back(model, rows):
    edit = mn.mean(mn.Units(some_units(model).mask), over=TEXTS)
    clean = run(model, edit)
    handle = model.module.model.layers[1].register_forward_hook(lambda _, __, out: 2 * out)
    run(model, edit)
    rows.clear()
    run(model, edit)
    assert sum(rows) > len(TEXTS)  # the references ran again
    handle.remove()
    rows.clear()
    torch.testing.assert_close(run(model, edit), clean, atol=0, rtol=0)
    assert rows == [1]


@pytest.mark.parametrize(
    "other",
    [
        lambda units: mn.mean(units, over=TEXTS[:-1]),
        lambda units: mn.mean(units, over=TEXTS).at("last"),
        lambda units: mn.mean(units, over=TEXTS).at("all", spare_first=1),
        lambda units: mn.mean(units, over=TEXTS, spare_sinks=False),
        lambda units: mn.mean(mn.Units({"decoder": ~units.mask["decoder"]}), over=TEXTS),
    ],
)
def test_another_intervention_has_values_of_its_own(other, model):
    units = mn.Units(some_units(model).mask)
    run(model, mn.mean(units, over=TEXTS))
    found = run(model, other(units))
    fresh = mn.load(copy.deepcopy(model.module), tokenizer=make_tokenizer())
    torch.testing.assert_close(found, run(fresh, other(units)), atol=1e-5, rtol=0)


def test_no_more_is_kept_than_fits(monkeypatch, model):
    kept = model._executor._machinery.references._kept
    monkeypatch.setattr(references, "MOST_KEPT", 2)
    for layer in range(4):
        run(model, mn.mean(mn.site("decoder", layer), over=TEXTS))
    assert len(kept) == 2
    monkeypatch.setattr(references, "MOST_BYTES", 1)
    run(model, mn.mean(mn.site("decoder", 0), over=TEXTS))
    assert not kept


def test_few_references_of_a_large_model_run_again(monkeypatch, model, rows):
    """Reading the weights to know that they are the same would take longer."""
    monkeypatch.setattr(references, "FEW_BYTES", 0)
    edit = mn.patch(mn.site("decoder", 2), TEXTS[0]).at("last")
    for _ in range(2):
        run(model, edit)
    rows.clear()
    run(model, edit)
    assert rows == [1, 1]
    assert not model._executor._machinery.references._kept


def test_sources_that_do_not_fit_are_refused_as_before(model):
    edit = mn.patch(mn.site("decoder", 2), TEXTS[:2]).at("last")
    model.run(["the dog", "a cat"], edit)
    with pytest.raises(mn.InputError, match="one source for all stimuli"):
        model.run(["the dog", "a cat", "b"], edit)
