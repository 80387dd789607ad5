"""The same stimulus twice: a copying mistake more often than a wish.

A text or picture that stands twice in a condition counts twice; one that stands in both conditions of a contrast
pulls them together, and one that stands in two folds makes held-out figures look better than they are.
"""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from modalnet.errors import InputError
from modalnet.stimuli.images import describe_source, load_image
from modalnet.stimuli.stimulus import Stimulus


def refuse_duplicates(source: object, stimuli: Sequence[Stimulus], places: Mapping[str, str] | None = None) -> None:
    """Complain about stimuli with the same text (spaces apart) and the same images.

    Images are the same when their files are, byte for byte, whatever their names. Only files of one size are
    compared, so a folder of photographs is not read as a whole.

    Parameters
    ----------
    source
        The file or folder they were read from, for the message.
    stimuli
        What to compare.
    places
        Id of a stimulus → where in the source it stands, such as ``"row 7"``; by default its label.

    Raises
    ------
    InputError
        Two are the same. The message names both, and their conditions where these differ.
    """
    looks = [_look(stimulus) for stimulus in stimuli]
    how_many = Counter(looks)
    first: dict[Any, Stimulus] = {}
    repeats = []
    for look, stimulus in zip(looks, stimuli, strict=True):
        if how_many[look] == 1:
            continue
        content = (look, *(_content(image, stimulus.label) for image in stimulus.sources))
        if (earlier := first.setdefault(content, stimulus)) is not stimulus:
            repeats.append((earlier, stimulus))
    if not repeats:
        return
    earlier, later = repeats[0]

    def place(stimulus: Stimulus) -> str:
        return (places or {}).get(stimulus.id or "", stimulus.label)

    conditions = (
        f"both of the condition {later.condition}"
        if later.condition == earlier.condition
        else f"under the conditions {earlier.condition} and {later.condition}"
    )
    others = f" So do {len(repeats) - 1} others." if len(repeats) > 1 else ""
    raise InputError(
        f"{source}, {place(later)} repeats {place(earlier)}: the same {later.kind.replace('+', ' and ')}, {conditions}."
        f"{others} Take one of each out, or pass duplicates='keep' if they are meant."
    )


def _look(stimulus: Stimulus) -> tuple[Any, ...]:
    """What can be compared without reading the images."""
    text = None if stimulus.text is None else " ".join(stimulus.text.split())
    return text, *(_size(image) for image in stimulus.sources)


def _size(image: Any) -> int | str:
    if isinstance(image, str | os.PathLike):
        return Path(image).stat().st_size
    return len(image) if isinstance(image, bytes) else describe_source(image)


def _content(image: Any, label: str) -> bytes:
    if isinstance(image, str | os.PathLike):
        try:
            image = Path(image).read_bytes()
        except OSError as error:
            raise InputError(f"Stimulus {label}: the file {str(image)!r} cannot be read: {error.strerror}.") from error
    return hashlib.sha256(image if isinstance(image, bytes) else load_image(image, label).tobytes()).digest()
