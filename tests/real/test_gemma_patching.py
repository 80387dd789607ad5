"""Patching a trained language model: agreement moves from the subject to the last token, and networks carry a share."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import assets
import modalnet as mn
from modalnet.patching import agreement_pairs, fact_pairs, tokens_of
from reference import editing

pytestmark = pytest.mark.real
LAYERS = (0, 4, 9, 12, 13, 15, 17)


@pytest.fixture(scope="module")
def model():
    return mn.load(str(assets.gemma()), dtype="float32")


@pytest.fixture(scope="module")
def pairs():
    """Twelve with words between subject and verb."""
    every = agreement_pairs(60)
    chosen = [i for i, stimulus in enumerate(every.clean) if "near" in stimulus.text]
    return every[chosen[0] : chosen[0] + 1], [every[i : i + 1] for i in chosen[:12]]


@pytest.fixture(scope="module")
def question(model, pairs):
    some = pairs[1]
    clean, corrupt = ([getattr(one, side)[0] for one in some] for side in ("clean", "corrupt"))
    metric = mn.patching.logit_difference([p.answers[0] for p in some], [p.distractors[0] for p in some])
    tokens = {"subject": tokens_of(model, clean, [p.words[0] for p in some]), "last": "last"}
    return {"clean": clean, "corrupt": corrupt, "metric": metric, "tokens": tokens}


@pytest.fixture(scope="module")
def network(model):
    contrast = mn.stimuli.fedorenko2010(assets.data("fedorenko2010"))
    found = mn.localize(model, contrast, protocol="alkhamissi2025", cache=False, progress=False)
    return found.top(fraction=0.01)


@pytest.fixture(scope="module")
def found(model, question, network):
    return mn.activation_patching(
        model,
        **question,
        sites=[mn.site("decoder", layer) for layer in LAYERS],
        units={"language": network, "all units": model.units()},
        match=["tower"],
        n_controls=0,
        cache=False,
        progress=False,
    )


def test_the_model_knows_agreement(found):
    assert (found.clean > 0).all()
    assert (found.corrupt < 0).all()


def test_the_answer_moves_from_the_subject_to_the_last_token(found):
    subject, last = found.effect["decoder"].T
    assert subject[0] > 0.9
    assert abs(last[0]) < 0.1
    assert abs(subject[-1]) < 0.05
    assert last[-1] == pytest.approx(1, abs=1e-3)
    # Where it moves, the two sites share it.
    assert (np.diff(subject) < 0.1).all()
    assert (np.diff(last) > -0.1).all()


def test_cells_are_what_hooks_give(model, question, found):
    clean, corrupt = (
        [model.tokenizer(s.text, return_tensors="pt") for s in question[side]] for side in ("clean", "corrupt")
    )
    for pair, at, column in ((0, 2, 0), (5, 4, 1), (11, 3, 0)):
        layer = LAYERS[at]
        place = question["tokens"]["subject"][pair][0] if column == 0 else -1
        with torch.no_grad():
            states = model.module(**clean[pair], output_hidden_states=True).hidden_states[layer + 1][0]

        def patch(flat, states=states, place=place):
            flat[place] = states[place]
            return flat

        with editing(model.module, {model.decoder.paths[layer]: patch}), torch.no_grad():
            logits = model.module(**corrupt[pair]).logits[0, -1]
        right, wrong = (
            model._executor.next_tokens(question["clean"][pair], texts[pair])[0]
            for texts in (question["metric"].answers, question["metric"].distractors)
        )
        expected = float(logits[right] - logits[wrong])
        assert found.values["decoder"][pair, at, column] == pytest.approx(expected, abs=2e-3)


def test_a_network_carries_a_share_of_what_all_units_carry(model, question, network, found):
    table = found.network_table().set_index("network")
    # The verb is decided by what the subject's token holds, and all of that was patched.
    assert table["share"]["all units"] == pytest.approx(1, abs=0.02)
    np.testing.assert_allclose(found.network_effect("all units")["decoder"], found.effect["decoder"], atol=1e-4)
    assert 0 < table["share"]["language"] < 0.5
    few = {name: value[:4] if isinstance(value, list) else value for name, value in question.items()}
    few |= {"metric": mn.patching.logit_difference(question["metric"].answers[:4], question["metric"].distractors[:4])}
    few |= {"tokens": {"subject": question["tokens"]["subject"][:4]}}
    # Its massive dimensions have no equals among the other units.
    with pytest.warns(UserWarning, match="activation-matched controls of network 'language' have 0"):
        beside = mn.activation_patching(
            model,
            **few,
            sites=[mn.site("decoder", 12), mn.site("decoder", 13)],
            units={"language": network},
            n_controls=4,
            cache=False,
            progress=False,
        ).network_table()
    assert beside["match"].tolist() == ["layer", "activation"]
    assert (beside["control_low"] <= beside["control"]).all()
    assert (beside["control_low"] < beside["control_high"]).all()


def test_attribution_finds_the_same_sites(model, pairs):
    """Over single tokens the order of sites is right; how large an effect is, a gradient knows less well."""
    some = pairs[1][:6]
    clean, corrupt = ([getattr(one, side)[0] for one in some] for side in ("clean", "corrupt"))
    metric = mn.patching.logit_difference([p.answers[0] for p in some], [p.distractors[0] for p in some])
    options = {"sites": [mn.site("decoder", layer) for layer in LAYERS], "progress": False}
    exact = mn.activation_patching(model, clean, corrupt, metric, cache=False, **options)
    estimate = mn.attribution_patching(model, clean, corrupt, metric, **options)
    np.testing.assert_allclose(estimate.clean, exact.clean, atol=1e-3)
    assert exact.agreement(estimate)["spearman"][0] > 0.6
    assert estimate.unit_effect["decoder"].shape == (len(LAYERS), model.decoder.width)


def test_facts(model):
    pairs = fact_pairs(8)
    tokens = {"country": tokens_of(model, pairs.clean, pairs.words), "last": "last"}
    found = mn.activation_patching(
        model,
        pairs.clean,
        pairs.corrupt,
        pairs.logit_difference(),
        align="last",
        tokens=tokens,
        sites=[mn.site("decoder", 0), mn.site("decoder", 17)],
        cache=False,
        progress=False,
    )
    country, last = found.effect["decoder"].T
    assert country[0] > 0.8
    assert last[1] == pytest.approx(1, abs=1e-3)
