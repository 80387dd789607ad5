"""Random controls: units that share something with a network."""

from __future__ import annotations

RENAMED_MATCH = {"norm": "activation"}


def stored_match(name: str) -> str:
    """Return what a kind of control, as a file names it, is called today; modalnet 0.1 wrote ``"norm"``."""
    return RENAMED_MATCH.get(name, name)
