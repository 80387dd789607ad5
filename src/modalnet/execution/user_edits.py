"""Edits that a user's own nnsight model carries: they hold in every pass, to its end and at every generated step.

nnsight replays an edit once per trace, which in a generation is the pass over the prompt, so there its block is
replayed in each pass. A part of the model that runs on its own, such as one tower of a dual encoder, is traced by
itself and would know nothing of the edits, so it is lent them.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nnsight import Envoy

    from modalnet.execution.compile import Program


def edits_of(envoy: Envoy | None) -> list[Any]:
    """The edits that an nnsight model carries."""
    return list(getattr(envoy, "_edits", None) or ())


@contextlib.contextmanager
def holding(envoy: Envoy, programs: Sequence[Program]) -> Iterator[None]:
    """Let the edits of a model hold in programs, whichever part of it they run, and at every step.

    Raises
    ------
    InputError
        Where an edit cannot be made at a generated step.
    """
    edits = edits_of(envoy)
    if not edits:
        yield
        return
    from modalnet.execution.each_step import EachStep

    generates = any(program.generates for program in programs)
    lent = [EachStep(edit) for edit in edits] if generates else edits
    roots = list({id(root): root for root in (envoy, *(program.root for program in programs))}.values())
    before = [root._edits for root in roots]
    for root in roots:
        root._edits = list(lent)
    try:
        yield
    finally:
        for root, own in zip(roots, before, strict=True):
            root._edits = own
    for edit in lent:
        if isinstance(edit, EachStep):
            edit.check()
