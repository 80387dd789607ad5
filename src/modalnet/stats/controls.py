"""Random controls: units that share something with a network."""

from __future__ import annotations

from typing import Any, Literal

from modalnet._deprecation import renamed_option
from modalnet._validation import check_option, check_options

Match = Literal["layer", "activation", "tower"]
MATCHES: tuple[Match, ...] = ("layer", "activation", "tower")
N_CONTROLS = 20  # with 20 draws the smallest p of a rank is 1/21, just below 0.05
RENAMED_MATCH = {"norm": "activation"}


def check_match(value: Any, name: str = "match") -> Match:
    """Return what a control shares with its network; ``"norm"``, the old spelling of ``"activation"``, warns."""
    return check_option(name, renamed_option(name, value, RENAMED_MATCH), MATCHES)  # type: ignore[return-value]


def check_matches(values: Any, name: str = "match") -> tuple[Match, ...]:
    """Return one or several kinds of controls, each once; none is accepted, too."""
    given = renamed_option(name, values, RENAMED_MATCH)
    return check_options(name, given, MATCHES, empty=True)  # type: ignore[return-value]


def stored_match(name: str) -> str:
    """Return what a kind of control, as a file names it, is called today; modalnet 0.1 wrote ``"norm"``."""
    return RENAMED_MATCH.get(name, name)
