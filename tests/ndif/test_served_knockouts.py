"""Attention knockouts on a real NDIF server are those of the run here."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import modalnet as mn

pytestmark = [pytest.mark.ndif, pytest.mark.timeout(900)]

TEXTS = ["The cat sat on the mat.", "A dog and a cat", "Rain fell all night over the old town near the river."]
CLOSE = 1e-5

Pair = tuple[mn.Model, mn.Model]


def near(one: torch.Tensor, other: torch.Tensor) -> None:
    assert float((one - other).abs().max()) <= CLOSE * max(1.0, float(one.abs().max()))


def test_runs_scores_and_generated_text(pair: Pair) -> None:
    here, there = pair
    knockout = mn.knockout("decoder", [1, 2, 5], source=[0, 1], target="all")
    one, other = (model.run(TEXTS, knockout, logits="last") for model in pair)
    near(one.activations["decoder"], other.activations["decoder"])
    near(one.logits, other.logits)
    assert (one.logits - here.run(TEXTS, logits="last").logits).abs().max() > 1e-2
    heads = mn.knockout("decoder", 2, source="question", target="last", heads=[1])
    scores = [model.score(TEXTS, [" a dog"] * 3, heads) for model in pair]
    np.testing.assert_allclose(*(np.concatenate(each.logprob) for each in scores), rtol=1e-4)
    assert here.generate(TEXTS[1], knockout, max_new_tokens=4) == there.generate(TEXTS[1], knockout, max_new_tokens=4)


def test_pictures(tiny: Pair) -> None:
    stimuli = list(mn.patching.colour_pairs(2).clean)
    cut = [
        mn.knockout("decoder", [2, 3], source="image", target="last"),
        mn.knockout("vision", 1, source=[1, 2], target=[4]),
    ]
    one, other = (model.run(stimuli, *cut, logits="last") for model in tiny)
    near(one.logits, other.logits)
    for tower in ("vision", "decoder"):
        near(one.activations[tower], other.activations[tower])


def test_information_flow_has_random_edges_of_equal_number(tiny: Pair) -> None:
    """Attention weights are not read there, and the verdict says so."""
    pairs = mn.patching.colour_pairs(2)
    options = {"window": 4, "n_controls": 1, "cache": False, "progress": False}
    here, there = (mn.information_flow(model, pairs.clean, pairs.logit_difference(), **options) for model in tiny)
    np.testing.assert_allclose(there.values, here.values, atol=1e-3)
    assert list(there.controls) == ["number"]
    assert set(there.verdicts()["verdict"]) == {"cannot be tested"}
    with pytest.raises(mn.InputError, match="attention weights are read locally"):
        list(tiny[1]._executor.attention(list(pairs.clean), "decoder", None, ends=lambda _, row: ([0], [0]), mean=True))
