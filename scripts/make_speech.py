#!/usr/bin/env python3
"""Synthesize the spoken sentences and nonwords of ``modalnet.stimuli.speech()``, offline.

Usage: ``python scripts/make_speech.py`` (needs ``pip install espeakng-loader soundfile soxr``). Writes one FLAC file
per stimulus and ``index.tsv`` to ``src/modalnet/stimuli/data/speech``.

The texts are pairs of :func:`modalnet.stimuli.language`: a sentence, and the string of nonwords made from it. Those
pairs are kept that espeak-ng speaks in nearly the same time at one speaking rate and with nearly as many phonemes, the
shortest ones. The rate of the nonwords is then set to match the durations. All sounds have one level.
"""

from __future__ import annotations

import ctypes
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from jaxtyping import Float, Int16

FOLDER = Path(__file__).resolve().parents[1] / "src" / "modalnet" / "stimuli" / "data" / "speech"
VOICE = "en-us"
N_PAIRS = 30
RATE = 16_000  # samples per second
WORDS_PER_MINUTE = 185
MOST_SLOWER = 1.12  # duration of the nonwords over that of the sentence, at one speaking rate
MOST_FASTER = 0.93
MOST_PHONEMES = 2  # difference in the number of phonemes
SEARCH = 6  # words per minute around the expected rate
LEVEL = 0.05  # root mean square, full scale is 1
SILENCE = 10 ** (-50 / 20)  # of the peak: what is quieter at the ends is cut off

# Constants of speak_lib.h.
SYNCHRONOUS, UTF8, SPEAKING_RATE = 2, 1, 1
SYNTHESIS_RATE = 22_050
PHONEMES_SEPARATED = ord("_") << 8 | 2


@dataclass
class Pair:
    """A sentence and its nonwords, as in ``language()``."""

    number: int
    texts: tuple[str, str]
    phonemes: tuple[int, int]
    ratio: float
    duration: float


def main() -> None:
    """Choose the pairs, synthesize them and write the files."""
    import soundfile

    FOLDER.mkdir(parents=True, exist_ok=True)
    for old in FOLDER.glob("*.flac"):
        old.unlink()
    rows = []
    for pair in chosen_pairs():
        rates, sounds, residual = matched(pair)
        length = max(map(len, sounds))
        for which, name in enumerate(("sentence", "nonword")):
            sound = sounds[which] * (LEVEL / np.sqrt(np.mean(sounds[which] ** 2)))
            assert np.abs(sound).max() < 0.99, "clipped"
            seconds = len(sound) / RATE
            # Both sounds of a pair have one length: the shorter one gets silence at the end, which counts in the level.
            sound = np.pad(sound, (0, length - len(sound)))
            sound *= LEVEL / np.sqrt(np.mean(sound**2))
            file = f"{name}-{pair.number:03d}.flac"
            soundfile.write(FOLDER / file, sound, RATE, subtype="PCM_16", compression_level=1.0)
            row = (file, f"{name}s", f"{pair.number:03d}", f"{length / RATE:.4f}", f"{seconds:.4f}")
            rows.append((*row, str(pair.phonemes[which]), str(rates[which]), pair.texts[which]))
        print(
            f"{pair.number:3d} {length / RATE:.3f} s, residual {residual:.4f}, rates {rates}: {pair.texts}", flush=True
        )
    header = (
        "file",
        "condition",
        "item",
        "seconds",
        "spoken_seconds",
        "phonemes",
        "words_per_minute",
        "text",
    )
    lines = ["\t".join(row) for row in (header, *sorted(rows, key=lambda row: (row[1] != "sentences", row[2])))]
    (FOLDER / "index.tsv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    print(f"{sum(path.stat().st_size for path in FOLDER.iterdir()) / 1e6:.2f} MB in {FOLDER}")


def chosen_pairs() -> list[Pair]:
    """The shortest pairs whose sentence and nonwords take nearly the same time."""
    from modalnet.stimuli.sentences import language

    texts = [stimulus.text or "" for stimulus in language().stimuli]
    half = len(texts) // 2
    with ThreadPoolExecutor() as threads:
        seconds = [len(sound) / RATE for sound in threads.map(lambda text: spoken(text, WORDS_PER_MINUTE), texts)]
    pairs = []
    for index, both in enumerate(zip(texts[:half], texts[half:], strict=True)):
        first, second = seconds[index], seconds[half + index]
        pairs.append(Pair(index + 1, both, (phonemes(both[0]), phonemes(both[1])), second / first, first))
    near = [
        pair
        for pair in pairs
        if MOST_FASTER < pair.ratio < MOST_SLOWER and abs(pair.phonemes[0] - pair.phonemes[1]) <= MOST_PHONEMES
    ]
    shortest = sorted(near, key=lambda pair: pair.duration)[:N_PAIRS]
    assert len(shortest) == N_PAIRS
    return sorted(shortest, key=lambda pair: pair.number)


def matched(pair: Pair) -> tuple[tuple[int, int], list[Float[np.ndarray, " sample"]], float]:
    """Speaking rates and sounds of a pair, and how much the spoken durations differ, relative to the longer one."""
    sentence = spoken(pair.texts[0], WORDS_PER_MINUTE)
    expected = round(WORDS_PER_MINUTE * pair.ratio)
    tried = {rate: spoken(pair.texts[1], rate) for rate in range(expected - SEARCH, expected + SEARCH + 1)}
    best = min(tried, key=lambda rate: abs(len(tried[rate]) - len(sentence)))
    sounds = [sentence, tried[best]]
    residual = abs(len(sounds[0]) - len(sounds[1])) / max(map(len, sounds))
    assert residual < 0.01, f"{pair.texts}: durations differ by {residual:.3f}"
    return (WORDS_PER_MINUTE, best), sounds, residual


def spoken(text: str, words_per_minute: int) -> Float[np.ndarray, " sample"]:
    """A text as speech at ``RATE``, without the silence at both ends."""
    import soxr

    # espeak-ng keeps state from one utterance to the next; a process for each makes the samples reproducible.
    command = [sys.executable, __file__, "--say", text, str(words_per_minute)]
    raw = subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout
    values = soxr.resample(np.frombuffer(raw, np.int16) / 32768.0, SYNTHESIS_RATE, RATE, "VHQ")
    loud = np.flatnonzero(np.abs(values) > SILENCE * np.abs(values).max())
    return values[loud[0] : loud[-1] + 1]


@cache
def espeak() -> ctypes.CDLL:
    """The library, with the voice set."""
    import espeakng_loader

    library = ctypes.CDLL(espeakng_loader.get_library_path())
    library.espeak_TextToPhonemes.restype = ctypes.c_char_p
    rate = library.espeak_Initialize(SYNCHRONOUS, 0, espeakng_loader.get_data_path().encode(), 0)
    assert rate == SYNTHESIS_RATE
    assert library.espeak_SetVoiceByName(VOICE.encode()) == 0
    library.espeak_ng_SetRandSeed(ctypes.c_long(1))
    return library


def say(text: str, words_per_minute: int) -> Int16[np.ndarray, " sample"]:
    """Samples of an utterance, at ``SYNTHESIS_RATE``."""
    pieces = []

    @ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.c_void_p)
    def receive(samples: ctypes.POINTER(ctypes.c_short), count: int, events: int) -> int:
        if samples and count:
            pieces.append(np.ctypeslib.as_array(samples, (count,)).astype(np.int16))
        return 0

    library, encoded = espeak(), text.encode()
    library.espeak_SetSynthCallback(receive)
    library.espeak_SetParameter(SPEAKING_RATE, words_per_minute, 0)
    library.espeak_Synth(encoded, len(encoded) + 1, 0, 0, 0, UTF8, None, None)
    library.espeak_Synchronize()
    return np.concatenate(pieces)


def phonemes(text: str) -> int:
    """Number of phonemes of a text."""
    left = ctypes.c_char_p(text.encode())
    clauses = []
    while left.value:
        clauses.append(espeak().espeak_TextToPhonemes(ctypes.byref(left), UTF8, PHONEMES_SEPARATED).decode())
    return sum(len([one for one in word.split("_") if one]) for clause in clauses for word in clause.split())


if __name__ == "__main__":
    if sys.argv[1:2] == ["--say"]:
        sys.stdout.buffer.write(say(sys.argv[2], int(sys.argv[3])).tobytes())
    else:
        main()
