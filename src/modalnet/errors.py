"""The errors that modalnet raises on purpose.

Each message says three things: what was given, what was expected, and what to do next. They subclass the
builtin a caller would think of first, so ``except ValueError`` keeps working.
"""

from __future__ import annotations


class ModalnetError(Exception):
    """Any error that modalnet raises on purpose."""


class InputError(ModalnetError, ValueError):
    """What the user gave cannot be used as it is; the message says what to do."""


class StoreError(ModalnetError, OSError):
    """The result store cannot read or write an entry."""
