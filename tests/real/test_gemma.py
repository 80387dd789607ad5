"""The language network of a trained language model, Gemma 3 270M, on the published localizer.

Every number is held against an independent computation: the texts from the files by pandas, the states of plain
transformers, Welch's t by scipy.
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
from modalnet import activations
from modalnet.execution.engine import Engine
from modalnet.execution.reading import Reading
from reference import close, watch

pytestmark = pytest.mark.real

N_LAYERS, WIDTH = 18, 640


@pytest.fixture(scope="module")
def model():
    return mn.load(assets.gemma(), dtype="float32")


@pytest.fixture(scope="module")
def contrast():
    return mn.stimuli.fedorenko2010(assets.data("fedorenko2010"))


@pytest.fixture(scope="module")
def result(model, contrast):
    return mn.localize(model, contrast, protocol="alkhamissi2025", cache=False, progress=False)


def test_the_bundled_sentences_find_the_published_network(model, result):
    bundled = mn.localize(model, mn.stimuli.language(), protocol="alkhamissi2025", cache=False, progress=False)
    ours, theirs = bundled.top(fraction=0.01), result.top(fraction=0.01)
    random = [ours.dice(units) for units in theirs.random(n=20, seed=0, match="layer")]
    # The figures of the docstring of modalnet.stimuli.language.
    assert ours.dice(theirs) == pytest.approx(0.27, abs=0.01)
    assert max(random) < 0.05
    assert bundled.top(fraction=0.00125).dice(result.top(fraction=0.00125)) == pytest.approx(0.64, abs=0.01)
    assert np.corrcoef(bundled.t["decoder"].ravel(), result.t["decoder"].ravel())[0, 1] == pytest.approx(0.81, abs=0.01)


@pytest.fixture(scope="module")
def independent():
    """|activation| at the last of 12 tokens ``[480, 18, 640]`` and which of the texts are sentences."""
    table = pd.concat(pd.read_csv(path) for path in sorted(assets.data("fedorenko2010").glob("langloc*.csv")))
    words = [f"stim{i}" for i in range(2, 14)]
    texts = [" ".join(str(word).strip() for word in row).lower() for row in table[words].itertuples(index=False)]
    sentences = (table["stim14"].str.strip() == "S").to_numpy()
    tokenizer = tr.AutoTokenizer.from_pretrained(assets.gemma())
    plain = tr.AutoModelForCausalLM.from_pretrained(assets.gemma(), dtype=torch.float32).eval()
    blocks = [f"layers.{i}" for i in range(N_LAYERS)]
    rows = []
    for start in range(0, len(texts), 20):
        inputs = tokenizer(texts[start : start + 20], truncation=True, max_length=12, return_tensors="pt")
        assert inputs["input_ids"].shape[1] == 12  # every text is that long, so nothing is padded
        with torch.no_grad(), watch(plain.model, blocks) as seen:
            states = plain.model(**inputs, output_hidden_states=True).hidden_states
        own = torch.stack([seen[path][0][:, -1] for path in blocks], dim=1)
        assert torch.equal(own[:, :-1], torch.stack([state[:, -1] for state in states[1:-1]], dim=1))
        rows.append(own)
    return torch.cat(rows).double().numpy(), sentences, texts


def test_the_towers(model):
    assert {name: tower.shape for name, tower in model.towers.items()} == {"decoder": (N_LAYERS, WIDTH)}
    assert len(model.units()) == 11_520


def test_the_texts_are_those_of_the_files(contrast, independent):
    _, sentences, texts = independent
    given = {stimulus.text: stimulus.condition for stimulus in contrast.stimuli}
    assert given == dict(zip(texts, np.where(sentences, "sentences", "nonwords"), strict=True))
    assert len(texts) == 480


def test_every_t_is_that_of_an_independent_computation(result, independent):
    values, sentences, _ = independent
    expected = stats.ttest_ind(np.abs(values[sentences]), np.abs(values[~sentences]), equal_var=False)
    t = result.t["decoder"]
    assert t.shape == (N_LAYERS, WIDTH)
    assert np.abs(t - expected.statistic).max() < 1e-3
    np.testing.assert_allclose(result.p["decoder"], expected.pvalue, rtol=0.05)
    q = stats.false_discovery_control(expected.pvalue.ravel()).reshape(t.shape)
    np.testing.assert_allclose(result.q["decoder"], q, rtol=0.05)
    mask = np.zeros(t.size, dtype=bool)
    mask[np.argsort(-expected.statistic.ravel(), kind="stable")[:115]] = True
    top = result.top(0.01)
    assert top.count == 115
    np.testing.assert_array_equal(top.mask["decoder"].ravel(), mask)
    assert result.undefined == {"decoder": 0}


def test_the_figures_that_were_seen_before(result):
    """Largest t 42.0; 45% of the units with q < 0.05 and t > 0 (the note that goes with the data)."""
    assert result.t["decoder"].max() == pytest.approx(42.0, abs=0.1)
    assert result.significant(0.05).count / 11_520 == pytest.approx(0.45, abs=0.01)


def test_means_and_norms_too(result, independent):
    values, sentences, _ = independent
    size = np.abs(values)
    np.testing.assert_allclose(result.means["sentences"]["decoder"], size[sentences].mean(0), rtol=1e-3)
    np.testing.assert_allclose(result.means["nonwords"]["decoder"], size[~sentences].mean(0), rtol=1e-3)
    np.testing.assert_allclose(result.mean_abs["decoder"], size.mean(0), rtol=1e-3)


def test_the_network_comes_back_on_other_sentences(result):
    found = result.reliability(fraction=0.01, n_splits=20, n_controls=20)
    assert found.n_selected == 115
    assert found.dice.min() > found.dice_random.max() + 0.3
    assert found.t_held_out.min() > found.t_random.max()
    assert found.t_held_out.min() > 5
    assert found.t_selecting.mean() > found.t_held_out.mean()


def test_pure_noise_has_no_network(model, contrast, monkeypatch):
    """The same machinery on activations that know nothing of the stimuli: impressive in sample, nothing held out."""
    generator = torch.Generator().manual_seed(0)

    def noise(engine, inputs, plan):
        ((sites, pool),) = plan.reads
        shape = (len(pool.lengths), len(sites.layers), sites.tower.width)
        return Reading(activations={sites.name: torch.randn(shape, generator=generator)})

    monkeypatch.setattr(Engine, "run", noise)
    result = mn.localize(model, contrast, protocol="alkhamissi2025", cache=False, progress=False)
    assert result.t["decoder"][result.top(0.01).mask["decoder"]].mean() > 2.3
    assert result.significant(0.05).count < 20
    found = result.reliability(fraction=0.01)
    assert found.t_selecting.mean() > 2.3
    assert abs(found.t_held_out.mean()) < 0.3
    assert abs(found.dice.mean() - found.dice_random.mean()) < 0.03


def test_parity_with_transformer_lens(model, contrast):
    pytest.importorskip("transformer_lens")
    from transformer_lens.model_bridge import TransformerBridge

    hf = tr.AutoModelForCausalLM.from_pretrained(assets.gemma(), dtype=torch.float32)
    tokenizer = tr.AutoTokenizer.from_pretrained(assets.gemma())
    bridge = TransformerBridge.boot_transformers(str(assets.gemma()), hf_model=hf, tokenizer=tokenizer)
    texts = [contrast.stimuli[i].text for i in (0, 7, 300)]
    mine = model.run(texts, tokens="all", logits="last")
    through = mn.load(bridge).run(texts, tokens="all")
    for i, text in enumerate(texts):
        tokens = model.tokenizer(text, return_tensors="pt")["input_ids"]
        logits, cache = bridge.run_with_cache(tokens, prepend_bos=False)
        scale = mine.residual["decoder"][i].abs().max()
        for layer in range(N_LAYERS):
            theirs = cache[f"blocks.{layer}.hook_out"][0].detach()
            assert (mine.residual["decoder"][i][layer] - theirs).abs().max() < 1e-4 * scale
            assert (through.residual["decoder"][i][layer] - theirs).abs().max() < 1e-4 * scale
        close(mine.logits[i], logits[0, -1].detach(), atol=1e-2)


SINK_UNIT = (10, 163)


def test_the_first_token_is_the_sink_and_references_leave_it_out(model, contrast):
    """Dimension 163 at block 10, the largest of the massive activations, at ordinary tokens and at the sink."""
    texts = contrast.stimuli[:60]
    table = mn.sink_tokens(model, texts)
    assert list(table.stimulus) == list(range(60))
    assert set(table.position) == {0}
    assert set(table.token) == {"<bos>"}
    assert table.ratio.min() > 10
    plain = tr.AutoModelForCausalLM.from_pretrained(assets.gemma(), dtype=torch.float32).eval()
    layer, dim = SINK_UNIT
    first, others = [], []
    for stimulus in texts:
        with torch.no_grad():
            states = plain(
                **model.tokenizer(stimulus.text, return_tensors="pt"), output_hidden_states=True
            ).hidden_states
        first.append(float(states[layer + 1][0, 0, dim]))
        others.append(states[layer + 1][0, 1:, dim].double())
    every = torch.cat(others)
    found = activations.token_statistics(model, texts, cache=False)
    means = [model.means(texts, spare_sinks=spare)["decoder"][SINK_UNIT] for spare in (True, False)]
    assert means[0] == pytest.approx(float(torch.stack([row.mean() for row in others]).mean()), rel=1e-5)
    assert found.mean["decoder"][SINK_UNIT] == pytest.approx(means[0], rel=1e-6)
    assert found.sink_mean_abs["decoder"][SINK_UNIT] == pytest.approx(np.mean(first), rel=1e-5)
    sd = float(every.std())
    assert abs(means[0] - float(every.mean())) < sd
    assert means[1] - float(every.mean()) > 3 * sd
    rows = activations.donors(model, texts, n_tokens=64)["decoder"][:, layer, dim]
    assert np.abs(rows - float(every.mean())).max() < 10 * sd
    assert min(first) > 5 * rows.max()
