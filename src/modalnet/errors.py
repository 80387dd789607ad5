"""The errors that modalnet raises on purpose.

Each message says three things: what was given, what was expected, and what to do next. They subclass the
builtin a caller would think of first, so ``except ValueError`` keeps working.
"""

from __future__ import annotations


class ModalnetError(Exception):
    """Base class of the exceptions of modalnet."""


class InputError(ModalnetError, ValueError):
    """An argument or input is invalid; the message says how to fix it."""


class StoreError(ModalnetError, OSError):
    """The result store cannot read or write an entry."""


class RemoteError(ModalnetError):
    """A job failed on the server."""


class RemoteMemoryError(RemoteError, MemoryError):
    """A job did not fit into the server's memory."""


class RemoteLimitError(RemoteError):
    """A job takes longer, or sends more, than is allowed."""


class TransportError(ModalnetError, ConnectionError):
    """The server cannot be reached, or does not finish what it is sent."""
