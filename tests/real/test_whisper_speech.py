"""The bundled speech is heard as what it is: Whisper understands the sentences, and nothing else."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np
import pytest
import torch
import transformers

import assets
from modalnet import stimuli
from modalnet.stimuli.package_data import data_rows

pytestmark = pytest.mark.real
pytest.importorskip("soundfile")
BATCH = 10
SCRAMBLED = ("quilted", "phase-scrambled")
N_SCRAMBLED = 10


@pytest.fixture(scope="module")
def heard() -> dict[str, list[str]]:
    """Condition -> the transcript of each sound."""
    folder = assets.whisper()
    processor = transformers.WhisperProcessor.from_pretrained(folder)
    model = transformers.WhisperForConditionalGeneration.from_pretrained(folder).float().eval()
    transcripts: dict[str, list[str]] = {}
    contrast = stimuli.speech_conditions()
    for condition in contrast.conditions:
        n = N_SCRAMBLED if condition in SCRAMBLED else None
        sounds = [s.sounds()[0] for s in contrast.stimuli if s.condition == condition][:n]
        transcripts[condition] = []
        for start in range(0, len(sounds), BATCH):
            samples = [sound.samples for sound in sounds[start : start + BATCH]]
            features = processor(samples, sampling_rate=16_000, return_tensors="pt").input_features
            with torch.no_grad():
                tokens = model.generate(features, max_new_tokens=40)
            transcripts[condition] += processor.batch_decode(tokens, skip_special_tokens=True)
    return transcripts


def words(text: str) -> list[str]:
    return re.findall(r"[a-z']+", text.lower())


def distance(one: Sequence[str], other: Sequence[str]) -> int:
    """Levenshtein distance between two sequences of words."""
    row = np.arange(len(other) + 1)
    for place, word in enumerate(one, start=1):
        changed = np.minimum(row[1:] + 1, row[:-1] + np.array([word != another for another in other], dtype=int))
        new = np.append(place, changed)
        for column in range(1, len(new)):
            new[column] = min(new[column], new[column - 1] + 1)
        row = new
    return int(row[-1])


def error_rate(texts: Sequence[str], transcripts: Sequence[str]) -> float:
    """Word error rate: substitutions, insertions and deletions over the number of words."""
    errors = sum(distance(words(text), words(made)) for text, made in zip(texts, transcripts, strict=True))
    return errors / sum(len(words(text)) for text in texts)


def texts(condition: str) -> list[str]:
    return [row["text"] for row in data_rows("speech/index.tsv") if row["condition"] == condition]


def test_the_error_rate_is_a_distance_of_words() -> None:
    assert error_rate(["a b c d"], ["A b, c d."]) == 0
    assert error_rate(["a b c d"], ["a c d e"]) == 0.5
    assert error_rate(["a b"], [""]) == 1
    assert error_rate(["a"], ["b c d"]) == 3


def test_sentences_are_understood(heard: dict[str, list[str]]) -> None:
    """Measured: 0.27. The voice is synthetic, and some of the errors are British spellings."""
    assert error_rate(texts("sentences"), heard["sentences"]) < 0.35


def test_nonwords_are_heard_as_speech_and_not_understood(heard: dict[str, list[str]]) -> None:
    """Measured: 1.13 by their own spelling, 1.12 against the sentences; four words or more for 0.83 of them."""
    assert error_rate(texts("nonwords"), heard["nonwords"]) > 0.9
    assert error_rate(texts("sentences"), heard["nonwords"]) > 0.9
    assert np.mean([len(words(made)) >= 4 for made in heard["nonwords"]]) > 0.7


@pytest.mark.parametrize("condition", SCRAMBLED)
def test_scrambled_speech_is_not_understood(condition: str, heard: dict[str, list[str]]) -> None:
    """Measured: 1.00, with empty transcripts of nearly all."""
    assert error_rate(texts("sentences")[:N_SCRAMBLED], heard[condition]) > 0.9
    assert np.mean([not words(made) for made in heard[condition]]) > 0.7
