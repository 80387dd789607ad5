"""Sounds: every format against what was written, bad input, and stimuli that hold them."""

from __future__ import annotations

import io
import struct
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings, strategies as st
from hypothesis.extra import numpy as hnp
from scipy import signal

from modalnet import stimuli
from modalnet.errors import InputError
from modalnet.stimuli import Contrast, Sound, Stimulus, spec
from modalnet.stimuli.sounds import load_sound

RATE = 16_000


def tone(n: int = 1600, frequency: float = 440, rate: int = RATE) -> np.ndarray:
    return (0.5 * np.sin(2 * np.pi * frequency * np.arange(n) / rate)).astype(np.float32)


def content(samples: np.ndarray, rate: int = RATE, form: str = "WAV", subtype: str | None = None) -> bytes:
    file = io.BytesIO()
    soundfile.write(file, samples, rate, format=form, subtype=subtype)
    return file.getvalue()


# --- decoding -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("form", "subtype", "exact"),
    [
        ("WAV", "PCM_U8", 1 / 128),
        ("WAV", "PCM_16", 1 / 32768),
        ("WAV", "PCM_24", 1e-6),
        ("WAV", "PCM_32", 1e-7),
        ("WAV", "FLOAT", 0),
        ("WAV", "DOUBLE", 1e-7),
        ("FLAC", "PCM_16", 1 / 32768),
        ("AIFF", "PCM_16", 1 / 32768),
    ],
)
def test_formats_without_loss(tmp_path: Path, form: str, subtype: str, exact: float) -> None:
    samples = tone()
    path = tmp_path / f"tone.{form.lower()}"
    path.write_bytes(content(samples, 22_050, form, subtype))
    for source in (path, str(path), path.read_bytes(), path.open("rb")):
        sound = load_sound(source)
        assert sound.rate == 22_050
        assert sound.samples.dtype == np.float32
        np.testing.assert_allclose(sound.samples, samples, atol=exact)
        assert sound.duration == len(samples) / 22_050


@pytest.mark.parametrize(("form", "subtype"), [("OGG", "VORBIS"), ("MP3", "MPEG_LAYER_III")])
def test_formats_with_loss(form: str, subtype: str) -> None:
    samples = tone(32_000)
    sound = load_sound(content(samples, RATE, form, subtype))
    assert sound.rate == RATE
    shared = min(len(sound.samples), len(samples))
    assert shared >= 0.95 * len(samples)
    spectrum = np.abs(np.fft.rfft(sound.samples))
    assert np.argmax(spectrum) * sound.rate / len(sound.samples) == pytest.approx(440, abs=2)
    assert float(np.sqrt((sound.samples**2).mean())) == pytest.approx(float(np.sqrt((samples**2).mean())), rel=0.05)


def test_channels_are_averaged() -> None:
    left, right = tone(), tone(frequency=1000)
    both = np.stack([left, right], axis=1)
    expected = (left.astype(float) + right) / 2
    np.testing.assert_allclose(load_sound((both, RATE)).samples, expected, atol=1e-7)
    np.testing.assert_allclose(load_sound(content(both, subtype="FLOAT")).samples, expected, atol=1e-7)


@pytest.mark.parametrize(
    ("dtype", "silence", "full"), [(np.uint8, 128, 128), (np.int16, 0, 32768), (np.int32, 0, 2147483648)]
)
def test_integers_are_divided_by_their_full_range(dtype: Any, silence: int, full: int) -> None:
    lowest = np.iinfo(dtype).min
    values = np.array([silence, lowest, silence + full // 2], dtype=dtype)
    np.testing.assert_allclose(load_sound((values, 8000)).samples, [0, -1, 0.5], atol=1e-7)


def test_resampling_keeps_a_tone() -> None:
    for old, new in ((44_100, 16_000), (8000, 16_000), (16_000, 24_000), (48_000, 8000)):
        made = Sound(tone(old, 440, old), old).at(new)
        assert made.rate == new
        assert len(made.samples) == pytest.approx(new, abs=2)
        middle = slice(new // 4, 3 * new // 4)
        reference = signal.resample_poly(tone(old, 440, old).astype(float), new, old)
        np.testing.assert_allclose(made.samples[middle], reference[middle], atol=0.005)
    sound = Sound(tone(), RATE)
    assert sound.at(RATE) is sound


def test_forms_of_other_libraries() -> None:
    samples = tone()
    for source in (
        {"array": samples, "sampling_rate": RATE, "path": None},
        {"bytes": content(samples, subtype="FLOAT"), "path": None},
        Sound(samples, RATE),
    ):
        np.testing.assert_allclose(load_sound(source).samples, samples, atol=1e-7)  # type: ignore[arg-type]


# --- bad input ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (tone(), r"an array without a rate\. Give \(array, rate\)"),
        ((tone(), 0), "rate 0. Expected samples per second"),
        ((tone(), -16_000), "rate -16000"),
        ((tone(), float("nan")), "rate nan"),
        ((tone(), 16_000.5), "rate 16000.5"),
        ((tone(), True), "rate True"),
        ((np.zeros(0), RATE), "has no samples"),
        ((np.zeros((0, 2)), RATE), "has no samples"),
        ((np.zeros((2, 1600)), RATE), "1600 channels of 2 samples.*transpose"),
        ((np.zeros((10, 2, 2)), RATE), r"shape \(10, 2, 2\)"),
        ((np.array(0.5), RATE), r"shape \(\)"),
        ((np.array([0.1, np.nan]), RATE), "1 samples that are NaN"),
        ((np.array([0.1, np.inf]), RATE), "NaN or infinite"),
        ((np.array([100.0, -3000.0]), RATE), "floats up to 3000.*divide them"),
        ((np.array([1, 2], dtype=np.int64), RATE), "type int64"),
        ((np.array([1j]), RATE), "type complex128"),
        ((np.array(["a"]), RATE), "type <U1"),
        (b"", "cannot be decoded"),
        (b"no sound at all, and long enough for a header" * 4, "cannot be decoded.*WAV, FLAC, OGG or MP3"),
        ("nowhere.wav", "'nowhere.wav' does not exist"),
        ("a" * 5000, "does not exist"),
        ("null\0byte", "does not exist"),
        ("https://example.org/bark.wav", "download it first"),
        (7, "got a int"),
        ((tone(), 10**400), "has the rate 10+"),
        (([[0.1], [0.2, 0.3]], RATE), "cannot be read as an array"),
        ((5, RATE), r"shape \(\)"),
        (float("nan"), "empty cell of a table"),
        ({"text": "x"}, "mapping with 'text'"),
        (io.StringIO("x"), "opened as text"),
    ],
    ids=lambda value: None if isinstance(value, str) else "",
)
def test_what_is_no_sound(source: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        load_sound(source, "x")
    for name in ("x", None):  # without an id a message describes the sound
        with pytest.raises(InputError, match=message):
            Stimulus(audio=source, id=name).sounds()


def test_a_picture_and_a_folder_are_no_sound(tmp_path: Path) -> None:
    from PIL import Image

    picture = tmp_path / "picture.wav"
    Image.new("RGB", (8, 8)).save(picture, "PNG")
    with pytest.raises(InputError, match=r"picture\.wav' cannot be decoded"):
        Stimulus(audio=picture).sounds()
    with pytest.raises(InputError, match="is a folder"):
        Stimulus(audio=tmp_path)


FORMS = [
    ("WAV", "PCM_16"),
    ("WAV", "PCM_U8"),
    ("WAV", "FLOAT"),
    ("AIFF", "PCM_16"),
    ("AU", "PCM_16"),
    ("W64", "PCM_16"),
    ("RF64", "PCM_16"),
    ("FLAC", "PCM_16"),
    ("CAF", "PCM_16"),
    ("OGG", "VORBIS"),
    ("OGG", "OPUS"),
    ("MP3", "MPEG_LAYER_III"),
]


def noise(n: int = 32_000) -> np.ndarray:
    return np.random.default_rng(0).uniform(-0.5, 0.5, n).astype(np.float32)


@pytest.mark.parametrize(("form", "subtype"), FORMS)
def test_a_file_that_is_cut_off(form: str, subtype: str, tmp_path: Path) -> None:
    whole = content(noise(), RATE, form, subtype)
    assert len(load_sound(whole).samples) == 32_000
    path = tmp_path / "cut"
    for share in (0.001, 0.02, 0.1, 0.3, 0.5, 0.6, 0.9, 0.95, 0.99, 0.999):
        path.write_bytes(whole[: int(share * len(whole))])
        for source in (path, path.read_bytes()):
            with pytest.raises(InputError, match=r"is cut off|cannot be decoded"):
                load_sound(source)


@pytest.mark.parametrize("size", [0xFFFFFFFF, 0x7FFFFFFF, 0x7FFFF000, 0x80000000])
def test_a_recording_through_a_pipe_does_not_know_its_length(size: int) -> None:
    whole = content(noise())
    place = whole.index(b"data") + 4
    piped = whole[:4] + struct.pack("<I", 0xFFFFFFFF) + whole[8:place] + struct.pack("<I", size) + whole[place + 4 :]
    np.testing.assert_array_equal(load_sound(piped).samples, load_sound(whole).samples)


@pytest.mark.parametrize(("form", "subtype"), [each for each in FORMS if each[0] in ("WAV", "OGG")])
def test_bytes_after_the_end_are_no_matter(form: str, subtype: str) -> None:
    whole = content(noise(), RATE, form, subtype)
    assert len(load_sound(whole + bytes(100)).samples) == 32_000


def mp3(samples: np.ndarray, mode: str) -> tuple[bytes, bytes]:
    """An MP3 file, and the same without its first frame, which says how long it is."""
    file = io.BytesIO()
    with soundfile.SoundFile(
        file, "w", RATE, 1, "MPEG_LAYER_III", format="MP3", bitrate_mode=mode, compression_level=0.5
    ) as opened:
        opened.write(samples)
    whole = file.getvalue()
    rates = (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160)
    frame = 72 * rates[whole[2] >> 4] * 1000 // RATE + (whole[2] >> 1 & 1)
    assert whole[frame] == 0xFF
    return whole, whole[frame:]


def test_mp3_files_without_a_length() -> None:
    tag = b"ID3\x03\0\0" + bytes([0, 0, 0x7F, 0x7F]) + bytes(0x3FFF)
    samples = noise()
    quiet_first = np.concatenate([np.zeros(320_000, np.float32), samples])
    whole, bare = mp3(samples, "CONSTANT")
    for source in (whole, tag + whole, whole + b"TAG" + bytes(125)):
        assert len(load_sound(source).samples) == 32_000
    assert len(load_sound(bare).samples) == pytest.approx(32_000, abs=2500)
    # libsndfile guesses the length from the first frames: too long, which says nothing of the file, or too short.
    _, bare = mp3(quiet_first, "VARIABLE")
    assert len(load_sound(bare).samples) == pytest.approx(352_000, abs=2500)
    _, bare = mp3(quiet_first[::-1].copy(), "VARIABLE")
    for source in (bare, tag + bare):
        with pytest.raises(InputError, match=r"does not say how long it is, so only \d+ samples.*convert it"):
            load_sound(source)


def test_files_of_floats_are_held_to_the_range_of_arrays() -> None:
    overshoot = tone() * 2.4
    np.testing.assert_array_equal(load_sound(content(overshoot, subtype="FLOAT")).samples, overshoot)
    with pytest.raises(InputError, match=r"floats up to 1.*divide them"):
        load_sound(content(tone() * 32_767, subtype="FLOAT"))
    with pytest.raises(InputError, match="1 samples that are NaN"):
        load_sound(content(np.array([0, np.nan, 0.5], np.float32), subtype="FLOAT"))


@pytest.mark.parametrize("rate", [0, -1, float("nan"), float("inf"), 8000.5, True, "8000", None, 10**9])
def test_resampling_to_what_is_no_rate(rate: Any) -> None:
    with pytest.raises(InputError, match="Expected samples per second"):
        Sound(tone(), RATE).at(rate)


def test_whole_floats_are_rates() -> None:
    for rate in (16_000.0, np.int64(16_000)):
        stimulus = Stimulus(audio=(tone(), rate))
        assert stimulus.label == "0.10 s of sound at 16000 Hz"
        assert isinstance(stimulus.sounds()[0].rate, int)


def test_without_the_libraries(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = content(tone())
    monkeypatch.setitem(sys.modules, "soundfile", None)
    monkeypatch.setitem(sys.modules, "soxr", None)
    sound = load_sound((tone(), RATE))
    assert sound.at(RATE) is sound
    with pytest.raises(InputError, match=r"modalnet needs soundfile: pip install 'modalnet\[audio\]'"):
        load_sound(whole)
    with pytest.raises(InputError, match=r"modalnet needs soxr: pip install 'modalnet\[audio\]'"):
        sound.at(8000)


@settings(max_examples=60, deadline=None)
@given(st.binary(max_size=400))
def test_any_bytes_are_a_sound_or_an_error(noise: bytes) -> None:
    for source in (noise, content(tone(64))[:60] + noise, b"RIFF" + noise, b"fLaC" + noise, b"OggS" + noise):
        try:
            sound = load_sound(source)
        except InputError:
            continue
        assert np.isfinite(sound.samples).all()


@settings(max_examples=60, deadline=None)
@given(
    hnp.arrays(np.float32, hnp.array_shapes(min_dims=1, max_dims=1, max_side=300), elements=st.floats(-1, 1, width=32)),
    st.integers(1, 192_000),
)
def test_any_samples_survive(samples: np.ndarray, rate: int) -> None:
    sound = load_sound((samples, rate))
    np.testing.assert_array_equal(sound.samples, samples)
    assert sound.rate == rate


# --- stimuli --------------------------------------------------------------------------------------------------------


def test_a_stimulus_that_sounds(tmp_path: Path) -> None:
    path = tmp_path / "bark.wav"
    path.write_bytes(content(tone(), subtype="FLOAT"))
    one = Stimulus(audio=path)
    pair = Stimulus("what?", audio=[path, (tone(800), 8000)], condition="c")
    assert [one.kind, pair.kind] == ["audio", "audio+text"]
    assert [one.n_sounds, pair.n_sounds, pair.n_media, pair.n_images] == [1, 2, 2, 0]
    assert one.label == "bark.wav"
    assert Stimulus(audio=(tone(), RATE)).label == "0.10 s of sound at 16000 Hz"
    assert repr(pair) == "Stimulus(text='what?', audio=bark.wav, 0.10 s of sound at 8000 Hz, condition='c')"
    assert [sound.rate for sound in pair.sounds()] == [RATE, 8000]
    assert pair.inspect().lengths == ((1600, RATE), (800, 8000))
    picture = Stimulus("a", image=np.zeros((4, 4)), audio=path)
    assert picture.kind == "image+audio+text"
    assert picture.n_media == 2
    assert Stimulus.blank().n_sounds == 0


def test_content_and_nothing_else_makes_the_digest(tmp_path: Path) -> None:
    samples = (tone() * 0.9).astype(np.float32)
    path = tmp_path / "a.wav"
    path.write_bytes(content(samples, subtype="FLOAT"))
    same = [
        Stimulus(audio=path, condition="x"),
        Stimulus(audio=path.read_bytes(), id="y"),
        Stimulus(audio=path.open("rb")),
        Stimulus(audio=(samples, RATE)),
        Stimulus(audio=[(samples, RATE)]),
    ]
    assert len({stimulus.inspect().digest for stimulus in same}) == 1
    other = [
        Stimulus(audio=(samples, 8000)),
        Stimulus(audio=[(samples, RATE)] * 2),
        Stimulus("a", audio=(samples, RATE)),
        Stimulus(audio=(-samples, RATE)),
    ]
    assert len({stimulus.inspect().digest for stimulus in (same[0], *other)}) == 5


def test_a_file_object_is_read_once(tmp_path: Path) -> None:
    file = io.BytesIO(content(tone()))
    stimulus = Stimulus(audio=file)
    assert len(stimulus.sounds()[0].samples) == len(stimulus.sounds()[0].samples) == 1600


def test_a_closed_file() -> None:
    file = io.BytesIO(content(tone()))
    file.close()
    with pytest.raises(InputError, match="a file that cannot be read"):
        Stimulus(audio=file)


def test_no_sound_at_all() -> None:
    with pytest.raises(InputError, match="list of sounds of stimulus 'x' is empty"):
        Stimulus(audio=[], id="x")


# --- readers --------------------------------------------------------------------------------------------------------


def folder_of_sounds(tmp_path: Path) -> Path:
    for condition, frequency in (("low", 200), ("high", 2000)):
        place = tmp_path / "sounds" / condition
        place.mkdir(parents=True)
        for number in range(3):
            soundfile.write(place / f"{number}.flac", tone(800 + number, frequency), RATE)
    return tmp_path / "sounds"


def test_a_folder_of_sounds(tmp_path: Path) -> None:
    folder = folder_of_sounds(tmp_path)
    contrast = stimuli.from_folder(folder, positive="low")
    assert [stimulus.id for stimulus in contrast.stimuli][:2] == ["high/0.flac", "high/1.flac"]
    assert {stimulus.kind for stimulus in contrast.stimuli} == {"audio"}
    described = contrast.describe()
    assert described["n_sounds"].tolist() == [3, 3]
    from PIL import Image

    Image.new("RGB", (8, 8)).save(folder / "low" / "picture.png")
    with pytest.raises(InputError, match=r"has both images .* and sounds"):
        stimuli.from_folder(folder, positive="low")


def test_a_table_of_sounds(tmp_path: Path) -> None:
    folder_of_sounds(tmp_path)
    rows = [f"sounds/{name}/{number}.flac,{name}" for name in ("low", "high") for number in range(3)]
    table = tmp_path / "table.csv"
    table.write_text("\n".join(["file,condition", *rows]))
    contrast = stimuli.from_csv(table, text=None, audio="file", positive="low")
    assert [stimulus.kind for stimulus in contrast.stimuli] == ["audio"] * 6
    same = spec.parse(f"csv:{table}", "low", audio="file")
    assert [stimulus.inspect() for stimulus in same.stimuli] == [stimulus.inspect() for stimulus in contrast.stimuli]
    with pytest.raises(InputError, match=r"name the text column .* the column of sounds"):
        stimuli.from_csv(table, text=None, positive="low")
    table.write_text("\n".join(["file,condition", *rows, rows[0]]))
    with pytest.raises(InputError, match="repeats row 2: the same audio"):
        stimuli.from_csv(table, text=None, audio="file", positive="low")


def test_a_data_set_of_sounds() -> None:
    rows = [
        {"sound": {"array": tone(100 + number), "sampling_rate": RATE}, "label": "ab"[number % 2]}
        for number in range(4)
    ]
    contrast = stimuli.from_dataset(rows, audio="sound", condition="label", positive="a")
    assert isinstance(contrast, Contrast)
    assert contrast.stimuli[0].sounds()[0].rate == RATE


@pytest.mark.parametrize("listed", [False, True])
def test_sounds_of_the_datasets_library_stay_as_stored(listed: bool) -> None:
    datasets = pytest.importorskip("datasets")
    sounds = [{"bytes": content(tone(100 + number), form="FLAC"), "path": None} for number in range(4)]
    data = datasets.Dataset.from_dict({"sound": [[one] for one in sounds] if listed else sounds, "label": list("abab")})
    audio = datasets.Audio()
    data = data.cast_column("sound", datasets.Sequence(audio) if listed else audio)
    contrast = stimuli.from_dataset(data, audio="sound", condition="label", positive="a")
    assert [stimulus.inspect().lengths for stimulus in contrast.stimuli] == [((100 + n, RATE),) for n in range(4)]
