"""What options mean: from the strings of a command line to the values that the package takes."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from modalnet.errors import InputError, StoreError


def parse_top(text: str) -> dict[str, Any]:
    """``fraction=`` or ``k=`` for ``Localization.top``: "1%", a share such as "0.01", or a number of units."""
    wanted = f'--top takes a share of the units, such as 1% or 0.01, or a number of units, such as 115; got "{text}".'
    given = text.strip()
    if given.isdecimal():
        if int(given) < 1:
            raise InputError(wanted)
        return {"k": int(given)}
    percent = given.endswith("%")
    try:
        share = float(given.removesuffix("%")) / (100 if percent else 1)
    except ValueError as error:
        raise InputError(wanted) from error
    # 1.0 could mean one unit, one percent or all: only percent may reach 1.
    if not math.isfinite(share) or not 0 < share <= 1 or (share == 1 and not percent):
        raise InputError(wanted)
    return {"fraction": share}


def parse_tokens(given: Sequence[str] | None) -> Any:
    """``tokens=``: "last", "0,-1", or TOWER=CHOICE for each tower."""
    if not given:
        return None
    if all("=" in item for item in given):
        return {tower.strip(): _choice(choice) for tower, _, choice in (item.partition("=") for item in given)}
    if len(given) > 1 or "=" in given[0]:
        raise InputError(
            f"--tokens is one choice for all towers (mean), or TOWER=CHOICE for each; got {' '.join(given)}."
        )
    return _choice(given[0])


def _choice(text: str) -> Any:
    parts = [part.strip() for part in text.split(",")]
    try:
        return tuple(int(part) for part in parts)
    except ValueError:
        return text.strip()


def parse_batch_size(text: str) -> Any:
    """``batch_size=``: "auto" or a number."""
    if text == "auto":
        return text
    if not text.isdecimal() or int(text) < 1:
        raise InputError(f'--batch-size takes "auto" or a number of stimuli, at least 1; got "{text}".')
    return int(text)


def names(text: str | None) -> list[str] | None:
    """A list from names separated by commas."""
    return None if text is None else [part.strip() for part in text.split(",") if part.strip()]


def writable(folder: Path) -> Path:
    """Make the folder, and try to write into it: that it cannot be is to be known before hours of work.

    Raises
    ------
    StoreError
        If it cannot be made or written to.
    """
    folder = folder.expanduser()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise StoreError(
            f"{folder} cannot be written to ({error.strerror or error}). Name another folder with --out."
        ) from error
    return folder
