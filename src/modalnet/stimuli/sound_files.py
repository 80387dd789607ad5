"""Reading of sound files by libsndfile, and whether they are whole.

libsndfile takes the length of many files from what is there, so that half a recording is read as if it were the whole.
What its header promises is compared with the content here, in the form that each kind of file has it:

===========================  ===========================================================================
file                         is cut off where
===========================  ===========================================================================
WAV, AIFF, AU, W64, RF64     its header promises more bytes than the file has; the largest numbers stand for
                             an unknown length, as of a recording that was sent through a pipe
FLAC, CAF, ...               fewer samples can be decoded than the header promises
OGG                          the last page is incomplete, or not marked as the end
MP3                          fewer samples can be decoded than its first frame promises. Without such a frame
                             libsndfile estimates the length, and a file longer than this is refused
===========================  ===========================================================================
"""

from __future__ import annotations

import os
import re
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from modalnet.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy as np
    from jaxtyping import Float

# Lines in which libsndfile notes that a header promises more than there is.
TOO_LARGE = re.compile(r"^ *(?:data|SSND|Data Size|riff|Riff size) *: (\d+) \(should be \d+\)", re.MULTILINE)
UNKNOWN_LENGTH = 0x7FFF0000  # bytes; programs that write to a pipe put a number from here on
LENGTHS = (b"Xing", b"Info", b"VBRI")  # what marks the first frame of an MP3 file that says how long it is
FIRST_FRAME = 2048  # bytes
LONGEST_TAG = 4096  # bytes after the last frame of an MP3 file
# Of a page of an OGG file: how it begins, the bytes of its header without the sizes of its parts, and of the longest.
PAGE, PAGE_HEADER, LONGEST_PAGE = b"OggS\0", 27, 65_307
LAST_PAGE = 4  # a bit of the byte after the beginning
CONVERT = "convert it to WAV or FLAC (ffmpeg -i old.mp3 new.wav)"
AGAIN = "Copy or download it again, or omit the stimulus."


@dataclass(frozen=True)
class SoundFile:
    """What a sound file holds.

    Attributes
    ----------
    samples
        As floats; integers are divided by their full range.
    rate
        Samples per second.
    floats
        Whether the file holds floats, of which the scale is not known.
    """

    samples: Float[np.ndarray, "sample channel"]
    rate: int
    floats: bool


def library(name: str, purpose: str) -> Any:
    """Import a library of the extra ``modalnet[audio]``; an :class:`InputError` says how to install it."""
    try:
        return __import__(name)
    except (ImportError, OSError) as error:  # soundfile without its libsndfile raises an OSError
        raise InputError(f"To {purpose}, modalnet needs {name}: pip install 'modalnet[audio]' ({error}).") from error


def check_header(file: Any, where: str) -> None:
    """Refuse an open file that libsndfile does not know."""
    soundfile = library("soundfile", "decode a sound file")
    with _decoding(where, soundfile):
        soundfile.info(file)


def open_sound(path: str | os.PathLike[str], where: str) -> Any:
    """Open a file; an :class:`InputError` says why it may not be read."""
    try:
        return open(path, "rb")
    except OSError as error:
        raise InputError(f"{where} cannot be read: {error.strerror}. Check its permissions.") from error


def read_sound(file: Any, where: str) -> SoundFile:
    """Decode an open file.

    Parameters
    ----------
    file
        A binary file at its beginning.
    where
        What it is, for the message.

    Raises
    ------
    InputError
        It is no sound, damaged or cut off, or an MP3 file of which libsndfile reads the beginning only.
    """
    soundfile = library("soundfile", "decode a sound file")
    with _decoding(where, soundfile), soundfile.SoundFile(file) as opened:
        promised, rate, kind, notes = opened.frames, opened.samplerate, opened.format, opened.extra_info
        floats = opened.subtype in ("FLOAT", "DOUBLE")
        samples = opened.read(dtype="float32", always_2d=True)
    estimated = False
    if kind == "MP3":
        read, size = file.tell(), file.seek(0, os.SEEK_END)
        estimated = not _says_its_length(file)
        if estimated and len(samples) >= promised and size - read > LONGEST_TAG:
            raise InputError(
                f"{where} is an MP3 file of varying bit rate that does not say how long it is, so only {len(samples)} "
                f"samples of it can be read: {CONVERT}."
            )
    if len(samples) < promised and not estimated:
        raise InputError(f"{where} is cut off: {len(samples)} of {promised} samples can be read. {AGAIN}")
    if (kind == "OGG" and not _ends_with_a_page(file)) or any(
        int(size) < UNKNOWN_LENGTH for size in TOO_LARGE.findall(notes)
    ):
        raise InputError(f"{where} is cut off after {len(samples)} samples. {AGAIN}")
    return SoundFile(samples, rate, floats)


def _says_its_length(file: Any) -> bool:
    """Whether the first frame of an MP3 file holds the number of frames."""
    file.seek(0)
    head = file.read(10)
    # An ID3 tag comes before it: its size is in four bytes of seven bits.
    tag = sum(byte << 7 * place for place, byte in enumerate(reversed(head[6:10]))) + 10 if head[:3] == b"ID3" else 0
    file.seek(tag)
    start = file.read(FIRST_FRAME)
    return any(mark in start for mark in LENGTHS)


def _ends_with_a_page(file: Any) -> bool:
    """Whether the last page of an OGG file is marked as the last and is whole."""
    size = file.seek(0, os.SEEK_END)
    file.seek(max(0, size - 2 * LONGEST_PAGE))
    end = file.read()
    page = end[end.rfind(PAGE) :]
    if len(page) < PAGE_HEADER:
        return False
    sizes = page[PAGE_HEADER : PAGE_HEADER + page[PAGE_HEADER - 1]]
    whole = len(sizes) == page[PAGE_HEADER - 1] and len(page) >= PAGE_HEADER + len(sizes) + sum(sizes)
    return whole and bool(page[len(PAGE)] & LAST_PAGE)


@contextmanager
def _decoding(where: str, soundfile: Any) -> Iterator[None]:
    """Translate libsndfile's errors for this sound."""
    try:
        yield
    except InputError:
        raise
    except (soundfile.SoundFileError, RuntimeError, ValueError, TypeError, OSError, MemoryError) as error:
        # The whole message names the address of a file in memory.
        reason = str(getattr(error, "error_string", error)).rstrip(".")
        raise InputError(
            f"{where} cannot be decoded: {reason}. Expected WAV, FLAC, OGG or MP3; convert it, or copy it again if it "
            "is damaged."
        ) from error
