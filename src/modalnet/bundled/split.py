"""The split of generated items into training and test sets, by a hash of their content.

An item is identified by its content (the sentence, the terms of a sum, the coloured shapes of a scene). One item in ten
is held out. Training and evaluation agree on the split whatever their seeds, without a stored list.
"""

from __future__ import annotations

import hashlib

ONE_IN = 10


def held_out(*content: object) -> bool:
    """Whether the item with this content belongs to the test set, as one in ten does."""
    text = "\x1f".join(str(part) for part in content)
    return hashlib.blake2b(text.encode(), digest_size=8).digest()[0] % ONE_IN == 0
