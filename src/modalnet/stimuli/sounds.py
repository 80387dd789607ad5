"""Conversion of any sound to samples of one channel.

A model reads one channel of numbers between -1 and 1, at a rate of its own. Every other kind of sound is converted in
one stated way, or refused with a reason, because a silent conversion would change what the model hears:

===========================  ===========================================================================
input                        conversion
===========================  ===========================================================================
WAV, FLAC, OGG, MP3, ...     decoded by libsndfile; integers of any width are divided by their full range,
                             and 8 bits without a sign are centred
files of floats              as arrays of floats
files that are cut off       refused (:mod:`modalnet.stimuli.sound_files`)
several channels             averaged
arrays of floats             as they are; anything beyond -1.5..1.5 is refused as of unknown scale
arrays uint8                 128 is silence, 255 almost 1
arrays int16, int32          divided by 32768, or 2147483648
other arrays of integers     refused: their full range is not known
another rate                 resampled by soxr, where a model asks for its rate (:meth:`Sound.at`)
===========================  ===========================================================================

Overshoot is kept: decoding and resampling pass 1 slightly. Silence is a sound; NaN and no sample at all are not.
"""

from __future__ import annotations

import io
import os
from collections.abc import Mapping
from dataclasses import dataclass
from numbers import Integral, Real
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from modalnet.errors import InputError
from modalnet.stimuli.sound_files import check_header, library, open_sound, read_sound

if TYPE_CHECKING:
    import torch
    from jaxtyping import Float, Shaped

#: A path, the bytes of a sound file, an open binary file, ``(array, rate)``, or a sound of the datasets library.
AudioLike: TypeAlias = (
    "str | os.PathLike[str] | bytes | io.IOBase | tuple[np.ndarray | torch.Tensor, int | float | np.integer] | Sound | "
    "Mapping[str, Any]"
)

FASTEST = 768_000  # samples per second; the highest rate that recorders have
LOUDEST = 1.5  # overshoot is below it, and integers that were turned into floats far above
MOST_CHANNELS = 64
LONGEST_PATH = 200  # characters of a path that a message repeats
QUALITY = "HQ"  # of soxr: 20 bits, and what resamples least before VHQ
EXPECTED = "a path, the bytes of a sound file, an open binary file, (array, rate), or a list of these"


@dataclass(frozen=True, eq=False)
class Sound:
    """A decoded sound.

    Attributes
    ----------
    samples
        One channel, in -1 to 1.
    rate
        Samples per second.
    """

    samples: Float[np.ndarray, " sample"]
    rate: int

    @property
    def duration(self) -> float:
        """Seconds."""
        return len(self.samples) / self.rate

    def at(self, rate: int) -> Sound:
        """The same sound at another rate, resampled by soxr; itself where it has that rate.

        Raises
        ------
        InputError
            If `rate` is no whole number from 1 to 768,000, soxr is not installed, or nothing of the sound is left.
        """
        _check_rate(rate, "The sound to resample")
        rate = int(rate)
        if rate == self.rate:
            return self
        soxr = library("soxr", f"resample a sound from {self.rate} to {rate} samples per second")
        samples = np.asarray(soxr.resample(self.samples, self.rate, rate, QUALITY), dtype=np.float32)
        if not len(samples):
            raise InputError(f"A sound of {len(self.samples)} samples at {self.rate} Hz has none at {rate} Hz.")
        return Sound(samples, rate)

    def __repr__(self) -> str:
        return f"Sound({self.duration:.2f} s at {self.rate} Hz)"


def checked_sound(source: Any, label: str) -> Any:
    """Validate a sound as far as possible without decoding it.

    Parameters
    ----------
    source
        The sound as given.
    label
        Name of the stimulus, for the message.

    Returns
    -------
    object
        The sound; the bytes of an open file, which is read once, and ``(array, rate)`` for a :class:`Sound` and a sound
        of the datasets library.

    Raises
    ------
    InputError
        The type is none of those that :func:`load_sound` accepts, the path does not exist, the bytes are no sound file,
        or the array does not have the shape or type of a sound.
    """
    where = f"Stimulus {label}: the sound"
    if isinstance(source, Mapping):
        source = _of_datasets(source, where)
    if isinstance(source, Sound):
        source = (source.samples, source.rate)
    if hasattr(source, "read") and not isinstance(source, bytes):
        source = _read_all(source, where)
    if isinstance(source, str | os.PathLike):
        _check_path(Path(source), label)
    elif isinstance(source, bytes):
        check_header(io.BytesIO(source), where)
    elif isinstance(source, tuple) and len(source) == 2 and not isinstance(source[1], tuple):
        _check_rate(source[1], where)
        _checked_array(source[0], where)
        source = (source[0], int(source[1]))
    elif hasattr(source, "__array__"):
        raise InputError(f"{where} is an array without a rate. Give (array, rate), such as (array, 16000).")
    else:
        hint = " (an empty cell of a table?)" if isinstance(source, float) else ""
        raise InputError(f"{where} must be {EXPECTED}, got a {type(source).__name__}{hint}.")
    return source


def load_sound(source: AudioLike, label: str = "sound") -> Sound:
    """Decode a sound to one channel.

    Parameters
    ----------
    source
        A path or the bytes of a sound file, an open binary file, ``(array, rate)`` with an array (sample,) or (sample,
        channel) of floats, uint8, int16 or int32, or a sound of the datasets library (a mapping with ``array`` and
        ``sampling_rate``, or with ``bytes`` or ``path``).
    label
        Name of the stimulus, for the message.

    Returns
    -------
    Sound
        float32, at the rate that it has.

    Raises
    ------
    InputError
        The source is not a sound, is damaged or cut off, has no samples, or holds NaN or values of unknown scale.
    """
    source = checked_sound(source, label)
    if isinstance(source, str | os.PathLike):
        where = f"Stimulus {label}: the file {_shown(source)}"
        with open_sound(source, where) as file:
            return _decoded(file, where)
    where = f"Stimulus {label}: the sound"
    if isinstance(source, bytes):
        return _decoded(io.BytesIO(source), where)
    assert isinstance(source, tuple)
    array, rate = source
    return _finished(_scaled(_checked_array(array, where), where), int(rate), where)


def describe_sound(source: object) -> str:
    """Describe a sound for messages: a file name, or how long it is."""
    if isinstance(source, str | os.PathLike):
        return Path(source).name
    if isinstance(source, bytes):
        return f"sound in {len(source)} bytes"
    if isinstance(source, Sound):
        source = (source.samples, source.rate)
    if isinstance(source, tuple) and len(source) == 2:
        # Messages about a sound that is refused name it, too.
        try:
            length, rate = len(source[0]), source[1]
        except TypeError:  # a number
            return "sound in an array"
        known = length > 0 and _is_rate(rate)
        return f"{length / rate:.2f} s of sound at {int(rate)} Hz" if known else "sound in an array"
    return type(source).__name__


def _of_datasets(source: Mapping[str, Any], where: str) -> Any:
    """What a sound of the datasets library holds."""
    if source.get("array") is not None and source.get("sampling_rate") is not None:
        return source["array"], source["sampling_rate"]
    for name in ("bytes", "path"):
        if source.get(name) is not None:
            return source[name]
    raise InputError(
        f"{where} is a mapping with {', '.join(map(repr, source)) or 'nothing'}. Expected 'array' and 'sampling_rate', "
        "or 'bytes' or 'path', as the datasets library gives."
    )


def _read_all(source: Any, where: str) -> bytes:
    try:
        content = source.read()
    except (OSError, ValueError) as error:  # a closed file, or one that was opened for writing
        raise InputError(f"{where} is a file that cannot be read: {error}.") from error
    if not isinstance(content, bytes):
        raise InputError(f"{where} is a file that was opened as text. Open it with mode 'rb'.")
    return content


def _shown(path: str | os.PathLike[str]) -> str:
    written = os.fspath(path)
    return repr(written if len(written) <= LONGEST_PATH else f"{written[:LONGEST_PATH]}…")


def _check_path(path: Path, label: str) -> None:
    try:
        found, is_folder = path.is_file(), path.is_dir()
    except (OSError, ValueError):  # a name that is too long, or has a null byte
        found = is_folder = False
    if not found:
        what = "is a folder, not a sound file; use modalnet.stimuli.from_folder" if is_folder else "does not exist"
        hint = "; download it first and give its path" if "//" in str(path) or ":/" in str(path) else ""
        raise InputError(f"Stimulus {label}: the file {_shown(path)} {what}{hint}.")


def _is_rate(rate: Any) -> bool:
    whole = isinstance(rate, Integral) or (isinstance(rate, Real) and float(rate).is_integer())
    return whole and not isinstance(rate, bool) and 1 <= int(rate) <= FASTEST


def _check_rate(rate: object, where: str) -> None:
    if not _is_rate(rate):
        raise InputError(
            f"{where} has the rate {rate!r:.40}. Expected samples per second, a whole number from 1 to {FASTEST:,}."
        )


def _checked_array(given: Any, where: str) -> Shaped[np.ndarray, "sample channel"]:
    """An array of samples, a channel per column."""
    try:
        array = np.asarray(given)
    except Exception as error:  # a tensor that needs a gradient, or is on another device, says so in its own words
        raise InputError(f"{where} cannot be read as an array: {error}") from error
    if array.ndim == 1:
        array = array[:, None]
    if array.ndim != 2:
        raise InputError(f"{where} has the shape {array.shape}. Expected (sample,) or (sample, channel).")
    if not len(array) or not array.shape[1]:
        raise InputError(f"{where} has no samples.")
    if array.shape[1] > MOST_CHANNELS or array.shape[1] > len(array):
        raise InputError(
            f"{where} has the shape {array.shape}, so {array.shape[1]} channels of {len(array)} samples. Expected "
            "(sample, channel): transpose it."
        )
    if array.dtype.kind != "f" and array.dtype not in (np.uint8, np.int16, np.int32):
        raise InputError(f"{where} has the type {array.dtype}. Expected floats in -1 to 1, or uint8, int16 or int32.")
    return array


def _scaled(array: Shaped[np.ndarray, "sample channel"], where: str) -> Float[np.ndarray, "sample channel"]:
    if array.dtype == np.uint8:
        return (array.astype(np.float32) - 128) / 128
    if array.dtype.kind == "i":
        return (array / -float(np.iinfo(array.dtype).min)).astype(np.float32)
    _check_floats(array, where)
    return array.astype(np.float32)


def _check_floats(array: Float[np.ndarray, "sample channel"], where: str) -> None:
    """Refuse floats that are no numbers, or integers of a known range that became floats."""
    if not np.isfinite(array).all():
        raise InputError(f"{where} has {int((~np.isfinite(array)).sum())} samples that are NaN or infinite.")
    largest = float(np.abs(array).max(initial=0))
    if largest > LOUDEST:
        raise InputError(
            f"{where} has floats up to {largest:g}. Expected -1 to 1: divide them by their full range (by 32768 for 16 "
            "bits), or give the integers."
        )


def _finished(samples: Float[np.ndarray, "sample channel"], rate: int, where: str) -> Sound:
    if not len(samples):
        raise InputError(f"{where} has no samples.")
    if not np.isfinite(samples).all():
        raise InputError(f"{where} has samples that are NaN or infinite.")
    one = samples[:, 0] if samples.shape[1] == 1 else samples.mean(axis=1, dtype=np.float64)
    return Sound(np.ascontiguousarray(one, dtype=np.float32), rate)


def _decoded(file: Any, where: str) -> Sound:
    found = read_sound(file, where)
    if found.floats:
        _check_floats(found.samples, where)
    return _finished(found.samples, found.rate, where)
