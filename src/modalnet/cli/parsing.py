"""From the strings of a command line to the values that the package takes."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypedDict

from modalnet.errors import InputError, StoreError

if TYPE_CHECKING:
    from modalnet.stimuli import Contrast


class Size(TypedDict, total=False):
    """The size of a network, as keyword arguments of ``Localization.top``; one of the two."""

    fraction: float
    k: int


def parse_top(text: str) -> Size:
    """Parse the size of a network: "1%", a share such as "0.01", or a number of units."""
    expected = f'--top takes a share of the units, such as 1% or 0.01, or a number of units, such as 115; got "{text}".'
    given = text.strip()
    if given.isdecimal():
        if int(given) < 1:
            raise InputError(expected)
        return {"k": int(given)}
    percent = given.endswith("%")
    try:
        share = float(given.removesuffix("%")) / (100 if percent else 1)
    except ValueError as error:
        raise InputError(expected) from error
    # 1.0 could mean one unit, one percent or all: only percent may reach 1.
    if not math.isfinite(share) or not 0 < share <= 1 or (share == 1 and not percent):
        raise InputError(expected)
    return {"fraction": share}


def parse_fractions(option: str, text: str) -> list[float]:
    """Parse shares of the units, separated by commas, such as "0.25%,1%"."""
    sizes = [parse_top(part) for part in text.split(",")]
    if not all("fraction" in size for size in sizes):
        raise InputError(f"{option} takes shares of the units, such as 0.25%,1%; got {text}.")
    return [float(size["fraction"]) for size in sizes]


def parse_tokens(given: Sequence[str] | None) -> str | tuple[int, ...] | dict[str, str | tuple[int, ...]] | None:
    """Parse ``tokens=``: "last", "0,-1", or TOWER=CHOICE for each tower."""
    if not given:
        return None
    if all("=" in item for item in given):
        return {tower.strip(): _choice(choice) for tower, _, choice in (item.partition("=") for item in given)}
    if len(given) > 1 or "=" in given[0]:
        raise InputError(
            f"--tokens takes one choice for all towers (mean), or TOWER=CHOICE for each; got {' '.join(given)}."
        )
    return _choice(given[0])


def _choice(text: str) -> str | tuple[int, ...]:
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        return text.strip()


def parse_batch_size(text: str) -> int | Literal["auto"]:
    """Parse ``batch_size=``: "auto" or a number."""
    if text == "auto":
        return "auto"
    if not text.isdecimal() or int(text) < 1:
        raise InputError(f'--batch-size takes "auto" or a number of stimuli, at least 1; got "{text}".')
    return int(text)


def parse_names(text: str | None) -> list[str] | None:
    """Parse names that are separated by commas."""
    return None if text is None else [part.strip() for part in text.split(",") if part.strip()]


def parse_units(text: str | None) -> list[str] | str:
    """Parse ``units=``: kinds of units, or spaces, separated by commas; by default the residual stream.

    Raises
    ------
    InputError
        There is none.
    """
    if text is None:
        return "residual"
    names = parse_names(text)
    if not names:
        raise InputError(f'--units takes kinds of units or spaces, such as neurons,heads; got "{text}".')
    return names


def parse_networks(text: str | None) -> dict[str, Contrast]:
    """Parse contrasts by name: "language,faces=floc:FOLDER"."""
    from modalnet.stimuli import spec

    contrasts = {}
    for part in parse_names(text or "language") or []:
        name, equals, contrast = part.partition("=")
        contrasts[name] = spec.parse(contrast if equals else part)
    return contrasts


def parse_protocols(given: Sequence[str] | None, contrasts: Mapping[str, Contrast]) -> dict[str, str | None]:
    """Parse the protocol of each network: one for all, or NETWORK=PROTOCOL for some.

    Raises
    ------
    InputError
        For both at once, a network that is not there, or a network whose stimuli are not texts alone.
    """
    given = given or []
    if len(given) == 1 and "=" not in given[0]:
        protocols: dict[str, str | None] = dict.fromkeys(contrasts, given[0])
    elif all("=" in item for item in given):
        named = {name.strip(): protocol.strip() for name, _, protocol in (item.partition("=") for item in given)}
        unknown = [name for name in named if name not in contrasts]
        if unknown:
            raise InputError(f"--protocol names the network {unknown[0]!r}; the networks are {', '.join(contrasts)}.")
        protocols = {name: named.get(name) for name in contrasts}
    else:
        raise InputError(
            f"--protocol takes one name for all networks, or NETWORK=NAME for each; got {' '.join(given)}."
        )
    from modalnet.protocols.registry import find_localizer

    for name, contrast in contrasts.items():
        protocol = protocols[name]
        text_only = protocol is not None and find_localizer(protocol)[1].modality == "text"
        if text_only and any(stimulus.n_images for stimulus in contrast.stimuli):
            raise InputError(
                f"--protocol {protocols[name]} is defined for text, and the stimuli of the network {name!r} have "
                f"images. Name the networks that it applies to: --protocol NETWORK={protocols[name]}."
            )
    return protocols


def writable(folder: Path) -> Path:
    """Make the folder and check that it can be written to, before hours of work.

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
