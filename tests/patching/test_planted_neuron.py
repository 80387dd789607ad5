"""A neuron that is known to carry an answer: written into the weights, and found by what looks for it."""

from __future__ import annotations

import numpy as np
import pytest

import modalnet as mn
from modalnet.errors import InputError
from modalnet.patching.estimates import METHODS
from planted_neuron import ANSWERS, LAYER, NEURON, place, planted

OPTIONS = {"cache": False, "progress": False}
SPACE = "decoder.neurons"
AT = (SPACE, LAYER, NEURON)


def answer(model, texts, *interventions):
    """The mean logit difference of the two answers."""
    ids = [model.tokenizer.convert_tokens_to_ids(word.strip()) for word in ANSWERS]
    logits = model.run(texts, *interventions, read=[], logits="last").logits
    return float((logits[:, ids[0]] - logits[:, ids[1]]).mean())


def test_the_neuron_carries_the_answer():
    """It fires on plurals alone; the answer follows it, and did not before."""
    found = planted()
    acts = found.model.run([*found.clean, *found.corrupt], read=SPACE, tokens="last").activations[SPACE]
    acts = acts[:, LAYER, NEURON].numpy().reshape(2, -1)
    assert acts[0].min() > 10 * np.abs(acts[1]).max()
    plural, singular = (answer(found.model, texts) for texts in (found.clean, found.corrupt))
    assert plural - singular > 0.8
    before = [answer(found.before, texts) for texts in (found.clean, found.corrupt)]
    assert abs(before[0] - before[1]) < 0.1
    # A lesion takes away what was planted, and no more; another neuron's does nothing of the kind.
    zeroed = [answer(found.model, texts, mn.zero(found.neuron)) for texts in (found.clean, found.corrupt)]
    np.testing.assert_allclose(zeroed, before, atol=0.02)
    other = found.neuron.random(1, seed=0, match="layer")[0]
    assert abs(answer(found.model, found.clean, mn.zero(other)) - plural) < 0.1


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("direction", ["denoise", "noise"])
def test_every_method_of_attribution_ranks_it_first(method, direction):
    found = planted()
    estimate = mn.attribution_patching(
        found.model,
        found.clean,
        found.corrupt,
        found.metric,
        sites="neurons",
        method=method,
        steps=3 if method == "integrated" else None,
        direction=direction,
        **OPTIONS,
    )
    assert place(estimate.unit_effect) == AT
    effects = np.sort(estimate.unit_effect[SPACE].ravel())
    assert effects[-1] > 1.4 * effects[-2]
    # Its layer, at the token where it is, is where exact patching finds the answer.
    exact = mn.activation_patching(
        found.model,
        found.clean,
        found.corrupt,
        found.metric,
        sites=[mn.site(SPACE, LAYER)],
        direction=direction,
        units={"planted": found.neuron},
        n_controls=20,
        match="layer",
        **OPTIONS,
    )
    assert exact.effect[SPACE][0, -1] > 0.9
    row = exact.network_table().iloc[0]
    assert row["share"] > 0.9
    assert row["finding"] == "more"


def test_localizers_find_it():
    """By its effect it is first; by t it is among few, as many neurons follow the number of a noun as consistently."""
    found = planted()
    options = {"units": "neurons", **OPTIONS}
    effects = {"by": "attribution", "metric": found.metric, **options}
    causal = mn.localize(found.model, found.contrast, **effects)
    assert causal.top(k=1, by="mean_effect").mask[SPACE][LAYER, NEURON]
    change = answer(found.model, found.clean) - answer(found.model, found.corrupt)
    path = mn.localize(found.model, found.contrast, method="integrated", steps=4, **effects)
    assert path.top(k=1, by="mean_effect").mask[SPACE][LAYER, NEURON]
    assert path.mean_effect[SPACE][LAYER, NEURON] == pytest.approx(change, rel=0.1)
    contrast = mn.localize(found.model, found.contrast, magnitude="signed", **options)
    with pytest.raises(InputError, match="is of a localization by attribution"):
        contrast.top(k=1, by="mean_effect")
    for one in (causal, contrast):
        assert one.top(fraction=0.01).mask[SPACE][LAYER, NEURON]
        assert one.q[SPACE][LAYER, NEURON] < 1e-6
    # Before it was planted, neither finds anything there.
    earlier = mn.localize(found.before, found.contrast, **effects)
    assert not earlier.top(k=1, by="mean_effect").mask[SPACE][LAYER, NEURON]
    # The network of one neuron stays first on items that did not select it.
    for fold in range(3):
        assert causal.without(fold).top(k=1, by="mean_effect").mask[SPACE][LAYER, NEURON]
