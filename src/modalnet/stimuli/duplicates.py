"""Detection of repeated stimuli, which are more often a mistake than intended.

A stimulus that occurs twice in a condition counts twice; one that occurs in both conditions of a contrast reduces their
difference; one that occurs in two folds inflates cross-validated estimates.
"""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from modalnet.errors import InputError
from modalnet.stimuli.images import describe_source, load_image
from modalnet.stimuli.sounds import describe_sound, load_sound
from modalnet.stimuli.stimulus import Stimulus


def refuse_duplicates(source: object, stimuli: Sequence[Stimulus], locations: Mapping[str, str] | None = None) -> None:
    """Raise an error if two stimuli have the same text (up to whitespace), the same images and the same sounds.

    Images and sounds are the same if their files are identical byte for byte, whatever their names. Only files of the
    same size are compared, so a folder of photographs is not read completely.

    Parameters
    ----------
    source
        The file or folder that the stimuli were read from, for the message.
    stimuli
        The stimuli to compare.
    locations
        Id of a stimulus -> its location in the source, such as ``"row 7"``; by default its label.

    Raises
    ------
    InputError
        Two stimuli are the same. The message names both, and their conditions.
    """
    signatures = [_signature(stimulus) for stimulus in stimuli]
    counts = Counter(signatures)
    first: dict[Any, Stimulus] = {}
    repeats = []
    for signature, stimulus in zip(signatures, stimuli, strict=True):
        if counts[signature] == 1:
            continue
        images = (_content(image, stimulus.label) for image in stimulus.sources)
        content = (signature, *images, *(_samples(sound, stimulus.label) for sound in stimulus.sound_sources))
        if (earlier := first.setdefault(content, stimulus)) is not stimulus:
            repeats.append((earlier, stimulus))
    if not repeats:
        return
    earlier, later = repeats[0]

    def location(stimulus: Stimulus) -> str:
        return (locations or {}).get(stimulus.id or "", stimulus.label)

    conditions = (
        f"both in the condition {later.condition}"
        if later.condition == earlier.condition
        else f"in the conditions {earlier.condition} and {later.condition}"
    )
    others = f" So do {len(repeats) - 1} others." if len(repeats) > 1 else ""
    raise InputError(
        f"{source}, {location(later)} repeats {location(earlier)}: the same {later.kind.replace('+', ' and ')}, "
        f"{conditions}."
        f"{others} Remove one of each, or pass duplicates='keep' if they are intended."
    )


def _signature(stimulus: Stimulus) -> tuple[Any, ...]:
    """What can be compared without reading images and sounds."""
    text = None if stimulus.text is None else " ".join(stimulus.text.split())
    sounds = (_size(sound, describe_sound) for sound in stimulus.sound_sources)
    return text, *(_size(image, describe_source) for image in stimulus.sources), "sounds", *sounds


def _size(source: Any, describe: Callable[[Any], str]) -> int | str:
    if isinstance(source, str | os.PathLike):
        return Path(source).stat().st_size
    return len(source) if isinstance(source, bytes) else describe(source)


def _samples(sound: Any, label: str) -> bytes:
    if isinstance(sound, str | os.PathLike | bytes):
        return _content(sound, label)
    return hashlib.sha256(load_sound(sound, label).samples.tobytes()).digest()


def _content(image: Any, label: str) -> bytes:
    if isinstance(image, str | os.PathLike):
        try:
            image = Path(image).read_bytes()
        except OSError as error:
            raise InputError(f"Stimulus {label}: the file {str(image)!r} cannot be read: {error.strerror}.") from error
    return hashlib.sha256(image if isinstance(image, bytes) else load_image(image, label).tobytes()).digest()
