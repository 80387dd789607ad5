"""What a published localizer fixes.

A protocol is data and no code: a record with the arguments of :func:`modalnet.localize` that the publication prescribes
and the publication itself. One file of this folder holds one protocol.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from modalnet.interventions.positions import TokenChoice


@dataclass(frozen=True)
class Protocol:
    """A published localizer.

    Attributes
    ----------
    id
        The name by which ``protocol=`` refers to it: first author and year.
    title
        One line on what it localizes and how.
    citation
        The publication, in words.
    tokens
        The token positions over which activations are pooled.
    magnitude
        ``"absolute"`` or ``"signed"`` activation.
    max_tokens
        Number of tokens to which texts are truncated, special tokens included; None for no truncation.
    raw
        Whether texts are encoded without a chat template.
    text_only
        Whether the protocol is defined for texts alone.
    """

    id: str
    title: str
    citation: str
    tokens: TokenChoice
    magnitude: Literal["absolute", "signed"]
    max_tokens: int | None = None
    raw: bool = False
    text_only: bool = False
