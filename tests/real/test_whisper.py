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


def test_a_lesion_is_that_of_hooks_at_the_frames_of_the_sound(model, contrasts, plain) -> None:
    """The likelihood of a sentence after its sound, intact and without its speech units, by plain transformers."""
    contrast = contrasts["phase-scrambled"]
    network = mn.localize(model, contrast, towers="audio", cache=False, progress=False).top(fraction=0.05)
    stimulus = next(one for one, side in zip(contrast.stimuli, contrast.sides, strict=True) if side == "positive")
    place = stimulus.id.rpartition("-")[2]
    text = next(one.text for one in mn.stimuli.language().stimuli if one.id == f"sentence-{place}")
    asked, answer = mn.Stimulus("<|notimestamps|>", audio=stimulus.audio), f" {text}"

    module, extractor = plain
    samples = stimulus.sounds()[0].samples
    inputs = extractor(samples, sampling_rate=RATE, return_tensors="pt")
    n_frames = math.ceil(math.ceil(len(samples) / 160) / 2)
    ids = model.tokenizer(f"<|notimestamps|>{answer}", add_special_tokens=False)["input_ids"]

    def zero(layer: int):
        dims = torch.tensor(network.mask["audio"][layer])

        def hook(_module, _inputs, output):
            state = output[0] if isinstance(output, tuple) else output
            state[:, :n_frames, dims] = 0

        return module.model.encoder.layers[layer].register_forward_hook(hook)

    def likelihood(*, lesioned: bool) -> float:
        hooks = [zero(layer) for layer in range(N_LAYERS)] if lesioned else []
        with torch.no_grad():
            logits = module(**inputs, decoder_input_ids=torch.tensor([[START, *ids]])).logits[0].log_softmax(-1)
        for hook in hooks:
            hook.remove()
        return float(sum(logits[at + 1, token] for at, token in enumerate(ids[1:])))

    lesions = ((), (mn.zero(network),))
    intact, lesioned = (float(model.score([asked], [answer], *one).logprob[0].sum()) for one in lesions)
    assert intact == pytest.approx(likelihood(lesioned=False), abs=1e-2)
    assert lesioned == pytest.approx(likelihood(lesioned=True), abs=1e-2)
    assert lesioned < intact - 1
