"""The language localizer on a second trained model of another family, Qwen2.5 0.5B.

Its tokenizer adds no beginning-of-sequence token, and its blocks are plain Llama blocks, other than Gemma's. The texts
come from the files by pandas, the states from plain transformers, Welch's t from scipy.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch
import transformers as tr
from scipy import stats

import assets
import modalnet as mn
from reference import watch

pytestmark = pytest.mark.real

N_LAYERS, WIDTH = 24, 896
LAYERS = (0, 5, 12, 23)  # the last one is read before the final norm, which hidden_states do not show
N = 20  # texts of each condition


@pytest.fixture(scope="module")
def texts() -> tuple[list[str], list[str]]:
    """The first sentences and the first nonword strings of the published localizer."""
    table = pd.concat(pd.read_csv(path) for path in sorted(assets.data("fedorenko2010").glob("langloc*.csv")))
    words = [f"stim{i}" for i in range(2, 14)]
    joined = table[words].apply(lambda row: " ".join(str(word).strip() for word in row).lower(), axis=1)
    is_sentence = table["stim14"].str.strip() == "S"
    return list(joined[is_sentence][:N]), list(joined[~is_sentence][:N])


@pytest.fixture(scope="module")
def states(texts) -> np.ndarray:
    """|activation| at the last of at most 12 tokens ``[40, 4, 896]``, from plain transformers."""
    tokenizer = tr.AutoTokenizer.from_pretrained(assets.qwen())
    plain = tr.AutoModelForCausalLM.from_pretrained(assets.qwen(), dtype=torch.float32).eval()
    rows = []
    for given in texts:
        inputs = tokenizer(given, truncation=True, max_length=12, return_tensors="pt")
        assert inputs["input_ids"].shape == (N, 12)  # every text is that long, so nothing is padded
        with torch.no_grad(), watch(plain.model, [f"layers.{layer}" for layer in LAYERS]) as seen:
            plain.model(**inputs)
        rows.append(torch.stack([output[0][:, -1] for output in seen.values()], dim=1))
    return torch.cat(rows).double().abs().numpy()


def test_the_language_localizer_finds_what_plain_transformers_and_scipy_find(texts, states):
    model = mn.load(assets.qwen(), dtype="float32")
    assert {name: tower.shape for name, tower in model.towers.items()} == {"decoder": (N_LAYERS, WIDTH)}
    stimuli = [
        mn.Stimulus(text, condition=condition)
        for condition, given in zip(("sentences", "nonwords"), texts, strict=True)
        for text in given
    ]
    contrast = mn.Contrast(stimuli, positive="sentences", negative="nonwords")
    result = mn.localize(model, contrast, protocol="alkhamissi2025", cache=False, progress=False)
    assert result.undefined == {"decoder": 0}
    for layer, values in zip(LAYERS, states.swapaxes(0, 1), strict=True):
        expected = stats.ttest_ind(values[:N], values[N:], equal_var=False)
        np.testing.assert_allclose(result.t["decoder"][layer], expected.statistic, atol=2e-3)
        np.testing.assert_allclose(
            result.means["sentences"]["decoder"][layer], values[:N].mean(0), rtol=2e-3, atol=1e-4
        )
    # A language network is there: its units differ far more than as many units do between mixed halves.
    network = result.top(fraction=0.01)
    assert network.count == int(0.01 * N_LAYERS * WIDTH)
    mixed = stats.ttest_ind(states[::2], states[1::2], equal_var=False).statistic
    assert result.t["decoder"][network.mask["decoder"]].min() > np.quantile(mixed, 0.99) + 1
