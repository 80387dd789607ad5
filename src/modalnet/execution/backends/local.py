"""Programs run in this process, on the module itself."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from modalnet.execution import trace
from modalnet.execution.backends.protocol import Backend, Capabilities
from modalnet.execution.chance import Chance
from modalnet.execution.compile import GenerationProgram
from modalnet.execution.own_hooks import inside, site_modules
from modalnet.execution.turns import turn

if TYPE_CHECKING:
    import torch
    from nnsight import Envoy

    from modalnet.execution.compile import Program
    from modalnet.execution.trace import Saved


class LocalBackend(Backend):
    """Runs programs one after another in this process; one pass at a time, whatever the number of threads."""

    capabilities = Capabilities()

    def __init__(self) -> None:
        self._chance = Chance()

    def run(self, envoy: Envoy, programs: Sequence[Program]) -> list[Saved]:
        """Run each program's body, in turns with other threads.

        Raises
        ------
        InputError
            For a model that draws random numbers which decide what a pass gives.
        """
        return [self._one(envoy._module, program) for program in programs]

    def _one(self, module: torch.nn.Module, program: Program) -> Saved:
        with turn(module), inside(site_modules(program)):
            if program.samples:
                return program.body(program)
            logits = (lambda: trace.plain_logits(program)) if isinstance(program, GenerationProgram) else None
            return self._chance.watched(module, lambda: program.body(program), logits)
