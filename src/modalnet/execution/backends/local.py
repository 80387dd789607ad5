"""Programs run in this process, on the module itself."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from modalnet.execution.backends.protocol import Backend, Capabilities

if TYPE_CHECKING:
    from nnsight import Envoy

    from modalnet.execution.compile import Program
    from modalnet.execution.trace import Saved


class LocalBackend(Backend):
    """Runs programs one after another in this process."""

    capabilities = Capabilities()

    def run(self, envoy: Envoy, programs: Sequence[Program]) -> list[Saved]:
        """Run each program's body."""
        return [program.body(program) for program in programs]
