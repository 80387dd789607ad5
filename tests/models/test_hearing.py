"""Models that hear: towers, what they read of a sound, padding, and errors, against plain transformers and hooks."""

from __future__ import annotations

import math
import warnings
from dataclasses import replace

import numpy as np
import pytest
import torch
import transformers as tr

import hearing
import modalnet as mn
from modalnet.errors import InputError
from modalnet.profiles.profiler import _conditions
from modalnet.specialization.interference import combine
from reference import watch

LENGTHS = (8001, 16000, 12007, 7991)
N_MEL_SAMPLES = 160  # samples per frame of Whisper's and AST's features


def load(name: str) -> mn.Model:
    module, processor = hearing.build(name)
    words = None if hasattr(processor, "tokenizer") else hearing.tokenizer()
    return mn.load(module, processor=processor, tokenizer=words)


def sounds(text: str | None = None) -> list[mn.Stimulus]:
    return [
        mn.Stimulus(text, audio=(hearing.noise(n, seed), hearing.RATE), id=f"{n}", condition="ab"[seed % 2])
        for seed, n in enumerate(LENGTHS)
    ]


def plainly(name: str, samples: np.ndarray, text: str = "") -> list[torch.Tensor]:
    """What each block of the audio tower gives for one sound by itself, ``[position, dim]``."""
    module, processor = hearing.build(name)
    paths = list(load(name).towers["audio"].paths)
    if name in hearing.OMNI:
        token = getattr(processor, "audio_token", None) or "<sound>"
        inputs = processor(text=[f"{token} {text}"], audio=[samples], return_tensors="pt")
    else:
        inputs = processor(samples, sampling_rate=hearing.RATE, return_tensors="pt")
    if name in hearing.WRITERS:
        inputs["decoder_input_ids"] = torch.tensor([[1]])
    with torch.no_grad(), watch(module, paths) as seen:
        module(**inputs)
    return [seen[path][0].reshape(-1, hearing.WIDTH) for path in paths]


def n_own(name: str, n_samples: int, n_positions: int) -> list[int]:
    """Positions that hold a sound of so many samples, by the strides of each class."""
    if name in ("whisper", "qwen2_audio", "audio_flamingo"):
        return list(range(math.ceil(math.ceil(n_samples / N_MEL_SAMPLES) / 2)))
    if name == "ast":
        n_frames = 1 + (n_samples - 400) // N_MEL_SAMPLES  # of 25 ms
        starts = np.arange(101) * 10  # a patch of 16 frames starts at every tenth
        inside = starts + 16 <= n_frames
        across = np.flatnonzero((starts < n_frames) & ~inside)
        columns = [*np.flatnonzero(inside), *across[: math.ceil(len(across) / 2)]]
        return [2 + row * len(starts) + int(column) for row in range(12) for column in columns]
    return list(range(n_positions))


@pytest.mark.parametrize("name", hearing.ALL)
def test_towers(name: str) -> None:
    model = load(name)
    expected = ["audio"] if name in hearing.ENCODERS else ["audio", "decoder"]
    assert list(model.towers) == expected
    assert model.towers["audio"].shape == (hearing.DEPTH, hearing.WIDTH)
    assert model.towers["audio"].modality == "audio"
    reads = {"audio": "reads sounds,", "decoder": "reads text and sounds,"}
    assert reads[expected[-1]] in str(model)


@pytest.mark.parametrize("name", [name for name in hearing.ALL if name not in ("ast", "parakeet")])
def test_the_mean_over_a_sound_is_that_of_plain_transformers(name: str) -> None:
    """In one run over sounds of other lengths, and without the padding of the feature extractor."""
    model = load(name)
    stimuli = sounds("what is this" if name in hearing.OMNI else None)
    run = model.run(stimuli, read="audio", tokens="mean")
    for place, n in enumerate(LENGTHS):
        states = plainly(name, hearing.noise(n, place), "what is this")
        for layer, state in enumerate(states):
            own = state[n_own(name, n, len(state))].mean(0)
            torch.testing.assert_close(run.activations["audio"][place, layer], own, atol=2e-5, rtol=1e-4)


def test_patches_of_a_spectrogram_and_learned_tokens() -> None:
    """AST pads to 1,024 frames; of its 12 x 101 patches, the half of those at the end that is nearer to it counts."""
    model = load("ast")
    stimuli = sounds()
    rows = model._executor.token_rows(stimuli, ["audio"])
    run = model.run(stimuli, read="audio", tokens={"audio": "audio"})
    _, extractor = hearing.build("ast")
    for place, n in enumerate(LENGTHS):
        state = plainly("ast", hearing.noise(n, place))[0]
        places = n_own("ast", n, len(state))
        assert int(rows[place]["audio"].sound.sum()) == len(places)
        assert len(rows[place]["audio"]) == len(places) + 2  # class and distillation tokens
        torch.testing.assert_close(run.activations["audio"][place, 0], state[places].mean(0), atol=2e-5, rtol=1e-4)
    assert extractor.max_length == 1024


def test_the_frames_of_whisper_are_as_many_as_transformers_says() -> None:
    model = load("whisper")
    lengths = [1, 159, 160, 161, 319, 320, 321, 4800, 5000, 5119, 5121, 16000, 479_999, 480_000]
    stimuli = [mn.Stimulus(audio=(hearing.noise(n), hearing.RATE)) for n in lengths]
    counts = [len(row["audio"]) for row in model._executor.token_rows(stimuli, ["audio"])]
    module, extractor = hearing.build("whisper")
    masks = [
        extractor(hearing.noise(n), sampling_rate=hearing.RATE, return_attention_mask=True).attention_mask.sum()
        for n in lengths
    ]
    assert counts == [int(module._get_feat_extract_output_lengths(torch.tensor(int(mask)))) for mask in masks]


@pytest.mark.parametrize("name", hearing.OMNI)
def test_a_sound_beside_a_text(name: str) -> None:
    """Its tokens in the decoder are the placeholders; where there is no text, these are what is read."""
    model = load(name)
    stimuli = sounds("what is this")
    ids = model._executor.encoder.sound_token_id
    for stimulus, rows in zip(stimuli, model._executor.token_rows(stimuli, ["audio", "decoder"]), strict=True):
        encoded = model._executor.encoder.encode(model._executor.prepare([stimulus])[0])
        placed = (encoded.inputs["input_ids"][0] == ids).numpy()
        assert placed.sum() > 3
        np.testing.assert_array_equal(rows["decoder"].sound, placed)
        assert not rows["decoder"].image.any()
        assert rows["audio"].sound.all()
        assert rows["audio"].names[:2] == ("<audio 0>", "<audio 1>")
    both = model.run(stimuli, read="decoder", tokens="audio").activations["decoder"]
    alone = [model.run([one], read="decoder", tokens="audio").activations["decoder"][0] for one in stimuli]
    torch.testing.assert_close(both, torch.stack(alone), atol=1e-5, rtol=1e-4)
    bare = mn.Contrast(sounds(), positive="a", negative="b")
    found = mn.localize(model, bare, cache=False, progress=False)
    assert found.meta["tokens"]["decoder"] == "audio"
    words = model.run(stimuli[:1], read="decoder", tokens="text").activations["decoder"]
    assert not torch.allclose(words, both[:1])


@pytest.mark.parametrize("name", ["whisper", "wav2vec2", "ast", "qwen2_audio"])
def test_a_lesion_is_that_of_a_hook(name: str) -> None:
    """At the positions of the sound; padding, which other stimuli of a batch share, is left as it is."""
    model = load(name)
    mask = {tower: np.zeros(found.shape, dtype=bool) for tower, found in model.towers.items()}
    mask["audio"][1, 5] = True
    lesion = mn.zero(mn.Units(mask)).at("all")
    stimuli = sounds("what is this" if name in hearing.OMNI else None)
    made = model.run(stimuli, lesion, read="audio", tokens="audio").activations["audio"]
    clean = model.run(stimuli, read="audio", tokens="audio").activations["audio"]
    block = hearing.build(name)[0].get_submodule(model.towers["audio"].paths[1])
    for place, n in enumerate(LENGTHS):

        def zero(_module: torch.nn.Module, _inputs: object, output: object, n: int = n) -> object:
            state = output[0] if isinstance(output, tuple) else output
            assert isinstance(state, torch.Tensor)
            state[0, n_own(name, n, state.shape[1]), 5] = 0
            return output

        handle = block.register_forward_hook(zero)
        try:
            states = plainly(name, hearing.noise(n, place), "what is this")
        finally:
            handle.remove()
        for layer in (1, 2):
            own = states[layer][n_own(name, n, len(states[layer]))].mean(0)
            torch.testing.assert_close(made[place, layer], own, atol=2e-5, rtol=1e-4)
        assert not torch.allclose(made[place, 2], clean[place, 2], atol=1e-4)


def test_what_is_heard_is_resampled() -> None:
    model = load("wav2vec2")
    time = np.arange(44_100) / 44_100
    tone = (0.1 * np.sin(2 * np.pi * 440 * time)).astype(np.float32)
    here = (0.1 * np.sin(2 * np.pi * 440 * np.arange(16_000) / 16_000)).astype(np.float32)
    one, two = (
        model.run([mn.Stimulus(audio=sound)], read="audio", tokens="mean").activations["audio"]
        for sound in ((tone, 44_100), (here, 16_000))
    )
    assert float((one - two).norm() / two.norm()) < 0.01


def test_a_writer_writes_and_scores() -> None:
    model = load("whisper")
    stimuli = sounds()[:2]
    scores = model.score(stimuli, ["the dog", "a sound"])
    module, extractor = hearing.build("whisper")
    words = hearing.tokenizer()
    for place, text in enumerate(("the dog", "a sound")):
        ids = [1, *words(text, add_special_tokens=False)["input_ids"]]
        features = extractor(hearing.noise(LENGTHS[place], place), sampling_rate=hearing.RATE, return_tensors="pt")
        with torch.no_grad():
            logits = module(**features, decoder_input_ids=torch.tensor([ids])).logits[0].log_softmax(-1)
        expected = sum(float(logits[at, ids[at + 1]]) for at in range(len(ids) - 1))
        assert float(scores.logprob[place].sum()) == pytest.approx(expected, abs=1e-4)


def test_clap_hears_and_reads_apart() -> None:
    config = tr.ClapConfig(
        text_config={**hearing._PLAIN, "vocab_size": 40},
        audio_config={
            "enable_fusion": True,
            "fusion_type": "aff_2d",
            "patch_embeds_hidden_size": 16,
            "depths": [2, 2, 2, 2],
            "num_attention_heads": [2, 2, 2, 2],
            "hidden_size": 128,
        },
    )
    torch.manual_seed(0)
    processor = tr.ClapProcessor(feature_extractor=tr.ClapFeatureExtractor(), tokenizer=hearing.tokenizer())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = mn.load(tr.ClapModel(config).eval(), processor=processor)
        heard = model.run(sounds()[:2], tokens="mean")
        read = model.run(["the dog barks", "a sound"], tokens="mean")
    assert list(heard.activations) == ["audio"]
    assert list(read.activations) == ["encoder"]
    assert list(model.towers) == ["audio", "encoder"]


@pytest.mark.parametrize(
    ("name", "stimulus", "message"),
    [
        ("whisper", mn.Stimulus("hello"), "has no sound, but WhisperForConditionalGeneration requires one"),
        ("wav2vec2", mn.Stimulus("hello"), "has text, but Wav2Vec2Model reads sounds only; use sound stimuli"),
        (
            "wav2vec2",
            mn.Stimulus("hello", audio=(hearing.noise(9000), 16_000)),
            "reads sounds only; leave out its text",
        ),
        ("wav2vec2", mn.Stimulus(image=np.zeros((8, 8))), "has an image, but Wav2Vec2Model reads sounds only"),
        ("wav2vec2", mn.Stimulus(audio=(hearing.noise(9), 16_000)), r"0\.0006 s long, too short for Wav2Vec2Model"),
        (
            "whisper",
            mn.Stimulus(audio=(hearing.noise(490_000), 16_000)),
            r"30\.62 s long, and .* does not read its end",
        ),
        ("ast", mn.Stimulus(audio=(hearing.noise(200_000), 16_000)), r"12\.50 s long, and .* does not read its end"),
        ("whisper", mn.Stimulus(audio=[(hearing.noise(900), 16_000)] * 2), "has 2 sounds, but .* hears one at a time"),
        (
            "qwen2_audio",
            mn.Stimulus("what is this", audio=(hearing.noise(490_000), 16_000)),
            r"30\.62 s long, and Qwen2AudioForConditionalGeneration does not read its end",
        ),
    ],
)
def test_what_a_model_does_not_hear(name: str, stimulus: mn.Stimulus, message: str) -> None:
    with pytest.raises(InputError, match=message):
        load(name).run([stimulus])


def test_a_model_without_ears() -> None:
    model = mn.load("tiny")
    with pytest.raises(InputError, match=r"has a sound, but tiny reads .* only; .* a model that reads sounds"):
        model.run([mn.Stimulus(audio=(hearing.noise(900), 16_000))])
    with pytest.raises(InputError, match="came without a feature extractor"):
        mn.load(hearing.build("whisper")[0], tokenizer=hearing.tokenizer()).run(sounds())


def test_a_result_of_other_ears_is_not_served(tmp_path, monkeypatch) -> None:
    """The feature extractor decides the numbers, so it is in the key of the store."""
    monkeypatch.setenv("MODALNET_CACHE", str(tmp_path))
    module, _ = hearing.build("wav2vec2")
    contrast = mn.Contrast(sounds(), positive="a", negative="b")
    found = []
    for normalizes in (True, False, True):
        extractor = tr.Wav2Vec2FeatureExtractor(do_normalize=normalizes)
        model = mn.load(module, processor=extractor)
        found.append(mn.localize(model, contrast, progress=False).t["audio"])
    np.testing.assert_array_equal(found[0], found[2])
    assert not np.allclose(found[0], found[1], equal_nan=True)


def test_what_is_made_of_a_stimulus_keeps_its_sound() -> None:
    """Combined with another domain's, put under a condition, asked by name, and asked in a prompt."""
    heard = mn.Stimulus("a", audio=(hearing.noise(900), 16_000), condition="dog", id="x")
    picture = np.zeros((8, 8))
    assert combine(heard, mn.Stimulus("b")).n_sounds == 1
    assert combine(mn.Stimulus("b"), heard).n_sounds == 1
    assert combine(heard, mn.Stimulus(image=picture)).kind == "image+audio+text"
    assert combine(heard, heard) is None
    (conditioned,) = _conditions({"c": [heard]})
    assert (conditioned.n_sounds, conditioned.condition) == (1, "c")
    named = [replace(heard, image=picture), replace(heard, image=picture, condition="cat", id="y")]
    task = mn.tasks.naming(named)
    assert [question.stimulus.n_sounds for question in task.questions] == [1, 1]
    asked = mn.tasks.generated(task, parse="first", prompt="{question} {choices}")
    assert [stimulus.n_sounds for stimulus in asked.stimuli()] == [1, 1]
