"""Speech units of a trained recognizer, Whisper tiny.en, on the bundled sounds.

Every number is held against an independent computation: frames by the lengths of the sounds, states of plain
transformers and torch hooks, t by scipy.
"""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import transformers as tr
from scipy import stats

import assets
import modalnet as mn
from reference import watch

pytestmark = pytest.mark.real
pytest.importorskip("soundfile")

N_LAYERS, WIDTH, RATE, START = 4, 384, 16_000, 50257
AGAINST = ("phase-scrambled", "nonwords")


@pytest.fixture(scope="module")
def model() -> mn.Model:
    return mn.load(assets.whisper())


@pytest.fixture(scope="module")
def contrasts() -> dict[str, mn.Contrast]:
    return {name: mn.stimuli.speech(20, against=name) for name in AGAINST}


@pytest.fixture(scope="module")
def plain() -> tuple[tr.WhisperForConditionalGeneration, tr.WhisperFeatureExtractor]:
    folder = assets.whisper()
    module = tr.WhisperForConditionalGeneration.from_pretrained(folder).eval()
    return module, tr.WhisperFeatureExtractor.from_pretrained(folder)


def states(plain, stimulus: mn.Stimulus) -> np.ndarray:
    """|mean over the frames of the sound| of each encoder block, ``[layer, dim]``."""
    module, extractor = plain
    (sound,) = stimulus.sounds()
    assert sound.rate == RATE
    inputs = extractor(sound.samples, sampling_rate=RATE, return_tensors="pt")
    paths = [f"model.encoder.layers.{layer}" for layer in range(N_LAYERS)]
    with torch.no_grad(), watch(module, paths) as seen:
        module(**inputs, decoder_input_ids=torch.tensor([[START]]))
    n_frames = math.ceil(math.ceil(len(sound.samples) / 160) / 2)
    return torch.stack([seen[path][0][0, :n_frames].mean(0) for path in paths]).double().abs().numpy()


@pytest.mark.parametrize("against", AGAINST)
def test_every_t_equals_an_independent_one(model, contrasts, plain, against) -> None:
    contrast = contrasts[against]
    found = mn.localize(model, contrast, cache=False, progress=False)
    assert found.towers == ("audio", "decoder")
    values = np.stack([states(plain, stimulus) for stimulus in contrast.stimuli])
    positive = np.array([side == "positive" for side in contrast.sides])
    expected = stats.ttest_ind(values[positive], values[~positive], equal_var=False).statistic
    np.testing.assert_allclose(found.t["audio"], expected, rtol=2e-3, atol=2e-3)
    assert found.t["audio"].shape == (N_LAYERS, WIDTH)


def test_speech_units_are_many_and_sentence_units_few(model, contrasts) -> None:
    """Speech differs from noise of its spectrum in most units; sentences from spoken nonwords in far fewer."""
    counts = {}
    for name, contrast in contrasts.items():
        found = mn.localize(model, contrast, cache=False, progress=False)
        counts[name] = [int(mask.sum()) for mask in found.significant().mask["audio"]]
    assert min(counts["phase-scrambled"]) > 0.2 * WIDTH
    assert sum(counts["nonwords"]) < 0.2 * sum(counts["phase-scrambled"])


def test_a_lesion_of_speech_units_changes_what_is_written(model, contrasts) -> None:
    """The likelihood of a sentence given its sound falls under the lesion by more than under random units."""
    contrast = contrasts["phase-scrambled"]
    network = mn.localize(model, contrast, towers="audio", cache=False, progress=False).top(fraction=0.05)
    sides = zip(contrast.stimuli, contrast.sides, strict=True)
    heard = [stimulus for stimulus, side in sides if side == "positive"][:4]
    texts = mn.stimuli.language().stimuli
    spoken = {stimulus.id.rpartition("-")[2]: stimulus.text for stimulus in texts if stimulus.condition == "sentences"}
    answers = [" " + spoken[stimulus.id.rpartition("-")[2]] for stimulus in heard]
    asked = [mn.Stimulus("<|notimestamps|>", audio=stimulus.audio, id=stimulus.id) for stimulus in heard]

    def mean(*interventions) -> float:
        scores = model.score(asked, answers, *interventions)
        return float(np.mean([row.sum() / n.sum() for row, n in zip(scores.logprob, scores.n_tokens, strict=True)]))

    other = [stimulus.audio for stimulus in heard[1:] + heard[:1]]
    shuffled = [mn.Stimulus("<|notimestamps|>", audio=audio) for audio in other]
    scores = model.score(shuffled, answers)
    unheard = float(np.mean([row.sum() / n.sum() for row, n in zip(scores.logprob, scores.n_tokens, strict=True)]))
    intact, lesioned = mean(), mean(mn.zero(network))
    random = [mean(mn.zero(units)) for units in network.random(n=3, match="layer", seed=0)]
    assert intact > unheard + 1  # the sound tells the sentence
    assert lesioned < min(random)
