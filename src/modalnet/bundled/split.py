"""Which generated items belong to the test and are never shown in training.

An item is named by what makes it itself (the sentence, the numbers of a sum, the coloured shapes of a scene). One
name in ten is held out, by a hash, so training and evaluation agree on it without a list and whatever their seeds.
"""

from __future__ import annotations

import hashlib

HELD_OUT_OF = 10


def held_out(*name: object) -> bool:
    """True for the names, one in ten, that belong to the test."""
    text = "\x1f".join(str(part) for part in name)
    return hashlib.blake2b(text.encode(), digest_size=8).digest()[0] % HELD_OUT_OF == 0
