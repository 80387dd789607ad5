"""Spoken sentences and their controls: matched, reproducible, and small enough for the package."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from modalnet import stimuli
from modalnet.errors import InputError
from modalnet.stimuli import Contrast, Stimulus
from modalnet.stimuli.package_data import data_rows
from modalnet.stimuli.sound_scramble import border_cochleagrams, segment_edges
from modalnet.stimuli.sound_sets import LEVEL, rms
from modalnet.stimuli.spec import BUNDLED, parse

pytest.importorskip("soundfile")
FOLDER = Path(stimuli.__file__).parent / "data" / "speech"
CONDITIONS = ("sentences", "phase-scrambled", "quilted", "nonwords")
N = 30


@pytest.fixture(scope="module")
def four() -> Contrast:
    return stimuli.speech_conditions(items=True)


def by_item(contrast: Contrast) -> dict[str, dict[str, Stimulus]]:
    """Item -> condition -> stimulus."""
    items: dict[str, dict[str, Stimulus]] = {}
    for stimulus in contrast.stimuli:
        items.setdefault(stimulus.item, {})[stimulus.condition] = stimulus
    return items


def samples(stimulus: Stimulus) -> np.ndarray:
    (sound,) = stimulus.sounds()
    assert sound.rate == 16_000
    return sound.samples


def test_the_conditions_are_matched_item_by_item(four: Contrast) -> None:
    assert four.conditions == CONDITIONS
    assert set(four.n.values()) == {N}
    items = by_item(four)
    assert len(items) == N
    for versions in items.values():
        assert set(versions) == set(CONDITIONS)
        heard = [samples(each) for each in versions.values()]
        assert len({len(each) for each in heard}) == 1
        assert 2 < len(heard[0]) / 16_000 < 3
        for each in heard:
            assert rms(each) == pytest.approx(LEVEL, rel=1e-6)
            assert np.abs(each).max() < 0.6
        assert all(stimulus.text is None and stimulus.image is None for stimulus in versions.values())


def test_each_control_is_what_it_says(four: Contrast) -> None:
    ratios = []
    for versions in by_item(four).values():
        sentence, scrambled, quilted = (samples(versions[name]).astype(np.float64) for name in CONDITIONS[:3])
        before, after = np.abs(np.fft.rfft(sentence)), np.abs(np.fft.rfft(scrambled))
        assert np.abs(after - before).max() < 1e-6 * before.max()
        edges = segment_edges(len(sentence), 16_000, 0.03)
        borders = [border_cochleagrams(each, 16_000, edges) for each in (sentence, quilted)]
        original, made = (np.linalg.norm(left[1:] - right[:-1], axis=1).mean() for left, right in borders)
        ratios.append(made / original)
        assert np.abs(sentence - quilted).max() > 0.1
    assert np.mean(ratios) < 1.15
    assert max(ratios) < 1.25


def test_spoken_durations_agree_within_one_percent() -> None:
    rows = data_rows("speech/index.tsv")
    pairs = list(zip(rows[:N], rows[N:], strict=True))
    differences = []
    for sentence, nonwords in pairs:
        assert (sentence["condition"], nonwords["condition"]) == ("sentences", "nonwords")
        assert sentence["item"] == nonwords["item"]
        assert sentence["seconds"] == nonwords["seconds"]
        assert len(sentence["text"].split()) == len(nonwords["text"].split())
        assert abs(int(sentence["phonemes"]) - int(nonwords["phonemes"])) <= 2
        differences.append(abs(float(sentence["spoken_seconds"]) - float(nonwords["spoken_seconds"])))
        assert differences[-1] < 0.01 * float(sentence["seconds"])
    mean = np.mean([float(row["seconds"]) for row in rows])
    assert np.mean(differences) < 0.003 * mean


def test_the_texts_are_those_of_language() -> None:
    texts = {stimulus.id: stimulus.text for stimulus in stimuli.language().stimuli}
    rows = data_rows("speech/index.tsv")
    for row in rows:
        assert row["text"] == texts[f"{row['condition'][:-1]}-{row['item']}"]
        assert row["file"] == f"{row['condition'][:-1]}-{row['item']}.flac"
    ids = {stimulus.id for stimulus in stimuli.speech(against="nonwords").stimuli}
    assert ids == {f"spoken-{row['condition'][:-1]}-{row['item']}" for row in rows}


def test_the_files_are_recorded_at_the_common_level_without_clipping() -> None:
    import soundfile

    rows = data_rows("speech/index.tsv")
    for row in rows:
        values, rate = soundfile.read(FOLDER / row["file"], dtype="float64")
        info = soundfile.info(FOLDER / row["file"])
        assert (rate, info.channels, info.subtype, info.format) == (16_000, 1, "PCM_16", "FLAC")
        assert len(values) / rate == pytest.approx(float(row["seconds"]), abs=1e-4)
        assert rms(values) == pytest.approx(LEVEL, rel=1e-4)
        assert np.abs(values).max() < 0.6
    assert {path.name for path in FOLDER.glob("*.flac")} == {row["file"] for row in rows}


def test_the_files_take_at_most_three_megabytes() -> None:
    assert sum(path.stat().st_size for path in FOLDER.iterdir()) < 3e6
    assert {path.name for path in FOLDER.iterdir() if path.suffix != ".flac"} == {"README.txt", "index.tsv"}


def test_against_chooses_the_conditions() -> None:
    assert stimuli.speech(n=2).name == "sentences > phase-scrambled"
    for name in CONDITIONS[1:]:
        contrast = stimuli.speech(n=3, against=name)
        assert contrast.n == {"sentences": 3, name: 3}
        assert contrast.items == (None,) * 6
    two = stimuli.speech(n=2, against=["nonwords", "quilted"], items=True)
    assert two.conditions == ("sentences", "quilted", "nonwords")
    assert two.items == ("008", "010") * 3
    assert [s.id for s in two.stimuli][::2] == ["spoken-sentence-008", "quilted-sentence-008", "spoken-nonword-008"]


def test_no_id_is_that_of_another_set(four: Contrast) -> None:
    others = [*stimuli.language_conditions().stimuli, *stimuli.vision(against=None, n=40, size=32).stimuli]
    assert not {s.id for s in four.stimuli} & {s.id for s in others}


def digests(contrast: Contrast) -> dict[str, str]:
    return {str(s.id): hashlib.sha256(samples(s).tobytes()).hexdigest() for s in contrast.stimuli}


def test_the_seed_decides_the_scrambled_ones_alone(four: Contrast) -> None:
    first, again, other = (digests(stimuli.speech_conditions(n=5, seed=seed)) for seed in (0, 0, 1))
    assert first == again
    for name, digest in first.items():
        assert (digest == other[name]) == name.startswith("spoken"), name
    # sound i does not depend on how many there are
    assert first.items() <= digests(four).items()


def test_another_process_gives_the_same_sounds() -> None:
    program = (
        "from modalnet import stimuli\n"
        "print([s.inspect().digest for s in stimuli.speech_conditions(n=2, seed=3).stimuli])"
    )
    run = subprocess.run(
        [sys.executable, "-c", program],
        check=True,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONHASHSEED": "7"},
    )
    here = [s.inspect().digest for s in stimuli.speech_conditions(n=2, seed=3).stimuli]
    assert run.stdout.strip() == str(here)


@pytest.mark.parametrize("make", [stimuli.speech, stimuli.speech_conditions, stimuli.environment])
def test_the_command_line_names_them(make) -> None:
    kind = make.__name__.replace("_", "-")
    assert BUNDLED[kind] is make
    assert parse(kind).name == make(n=2).name
    assert parse("speech-conditions", "sentences,nonwords").negative == ("phase-scrambled", "quilted")


def test_bad_arguments() -> None:
    for make in (stimuli.speech, stimuli.speech_conditions):
        for n in (0, 1, 31, 2.5, "all", True):
            with pytest.raises(InputError, match="`n` must be an integer from 2 to 30"):
                make(n)
        with pytest.raises(InputError, match="`seed` must be a non-negative integer"):
            make(n=2, seed=-1)
        with pytest.raises(InputError, match="`items` must be True or False"):
            make(n=2, items=1)
    with pytest.raises(InputError, match="Did you mean 'quilted'"):
        stimuli.speech(against="quilt")
    for against in ("sentences", [], None, 3):
        with pytest.raises(InputError, match="`against` must"):
            stimuli.speech(against=against)
