"""Backends whose job is one nnsight session, handed to an nnsight backend."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Protocol

from modalnet.execution.backends.protocol import Backend, Capabilities
from modalnet.execution.packing import packed
from modalnet.execution.reading import check_layout
from modalnet.execution.trace import session

if TYPE_CHECKING:
    from nnsight import Envoy

    from modalnet.execution.compile import Program
    from modalnet.execution.reduction import Reduction, Sums
    from modalnet.execution.trace import Saved


class SessionBackend(Backend, Protocol):
    """Runs the programs of a call in one session; a subclass says which nnsight backend executes it."""

    capabilities: Capabilities = Capabilities(
        in_place=False, jobs=True, skips_blocks=False, measures=False, input_gradients=False, reduces=True
    )

    @abstractmethod
    def nnsight_backend(self, envoy: Envoy) -> Any:
        """The nnsight backend that a finished session is handed to."""

    def run(self, envoy: Envoy, programs: Sequence[Program]) -> list[Saved]:
        """Run programs in one session."""
        return self._session(envoy, programs, [None] * len(programs))[0]

    def reduce(self, envoy: Envoy, programs: Sequence[Program], reductions: Sequence[Reduction]) -> Sums:
        """Run programs in one session, and return the moments of what they read."""
        saved, sums = self._session(envoy, programs, reductions)
        for each in saved:
            check_layout(each)
        return sums

    def _session(
        self, envoy: Envoy, programs: Sequence[Program], reductions: Sequence[Reduction | None]
    ) -> tuple[list[Saved], Sums]:
        return session(envoy, self.nnsight_backend(envoy), _packed(programs), reductions)


def _packed(programs: Sequence[Program]) -> list[Program]:
    """Programs as they are sent; inputs that several share are packed once, and so are sent once."""
    done: dict[int, Any] = {}
    for program in programs:
        for value in program.moved.values():
            if id(value) not in done:
                done[id(value)] = packed(value)
    return [
        replace(program, moved={name: done[id(value)] for name, value in program.moved.items()}) for program in programs
    ]
