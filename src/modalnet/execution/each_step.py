"""An edit of nnsight that is replayed in each pass of a generation, rather than in the first one alone."""

from __future__ import annotations

from typing import Any

from nnsight.intervention.interleaver import EarlyStopException, Mediator, OutOfOrderError
from nnsight.intervention.iterator import Iterations

from modalnet.errors import InputError


class EachStep(Mediator):
    """The block of an edit in a loop over the passes.

    Parameters
    ----------
    edit
        As nnsight holds it.
    """

    def __init__(self, edit: Mediator) -> None:  # a copy: an edit has no constructor that takes another
        self.__dict__.update(edit.__dict__)
        self.step = -1
        self.asked: dict[int, list[str]] = {}

    def _run(self) -> None:
        self.asked = {}
        for step in Iterations():
            self.step = step
            try:
                super()._run()
            except (OutOfOrderError, EarlyStopException):
                raise
            except Exception as error:
                if not step:
                    raise
                raise InputError(
                    "An edit of the nnsight model cannot be made at a generated token, which a pass of its own reads: "
                    f"{type(error).__name__}: {error}. Write it for passes over one token too, or clear_edits()."
                ) from error

    def switch(self, *args: Any) -> Any:
        """Go on, and note what is asked for at this step."""
        pending = super().switch(*args)
        if pending is not None and pending.provider is not None:
            self.asked.setdefault(self.step, []).append(pending.provider)
        return pending

    def check(self) -> None:
        """Refuse a block that changes what runs once together with what runs in every pass.

        Raises
        ------
        InputError
            It would wait in the second pass for what never comes again, and the rest of it would not hold there.
        """
        first, second = set(self.asked.get(0, ())), set(self.asked.get(1, ()))
        if not self.interleaver or len(second) != 1 or len(first) < 2:
            return
        (waiting,) = second
        if self.occurrence(waiting) == 1 and max(map(self.occurrence, first)) > 1:
            raise InputError(
                f"An edit of the nnsight model changes {waiting}, which runs once in a generation, together with what "
                "runs in every pass. Make one edit of each."
            )
