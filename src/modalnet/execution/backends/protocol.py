"""The interface of execution backends, which run programs on a model in this process or elsewhere.

The rest of the package depends on the :class:`Capabilities` of a backend, never on its class. A new backend is one
class with the members of :class:`Backend`; deriving it from :class:`Backend` gives it defaults for all but
``capabilities`` and ``run``. Pass an instance to ``modalnet.load(source, remote=backend)``.

    class Recording(Backend):
        capabilities = LocalBackend.capabilities

        def __init__(self):
            self.local, self.programs = LocalBackend(), []

        def run(self, envoy, programs):
            self.programs += programs
            return self.local.run(envoy, programs)
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from modalnet.execution.backends.accounting import Limits, Pace
from modalnet.execution.reading import check_layout
from modalnet.execution.reduction import gathered

if TYPE_CHECKING:
    from nnsight import Envoy

    from modalnet.execution.compile import Program
    from modalnet.execution.reduction import Reduction, Sums
    from modalnet.execution.trace import Saved


@dataclass(frozen=True)
class Capabilities:
    """What a backend can do, and how programs should be passed to it.

    Attributes
    ----------
    weights_here
        The module in this process has the weights; otherwise it only describes the architecture.
    in_place
        Programs run directly on that module, so their tensors are moved to its device. Otherwise tensors stay on the
        CPU, and the backend moves them.
    jobs
        Each call of ``run`` has an overhead, so many programs are passed to one call.
    skips_blocks
        Programs may skip blocks, which is cheaper than running them.
    measures
        Programs may contain functions of the user, such as a metric to be differentiated.
    input_gradients
        Gradients with respect to model inputs can be computed.
    reduces
        ``reduce`` avoids transferring activations.
    deferred
        Jobs can be written, submitted and fetched later: the backend is a :class:`DeferredBackend`.
    """

    weights_here: bool = True
    in_place: bool = True
    jobs: bool = False
    skips_blocks: bool = True
    measures: bool = True
    input_gradients: bool = True
    reduces: bool = False
    deferred: bool = False


@runtime_checkable
class Backend(Protocol):
    """Runs programs on one model.

    Attributes
    ----------
    capabilities
        See :class:`Capabilities`.
    key
        Names the weights where they are not here: results are stored under it.
    """

    capabilities: Capabilities
    key: str = ""

    def run(self, envoy: Envoy, programs: Sequence[Program]) -> list[Saved]:
        """Run programs, as one job where there are jobs.

        Parameters
        ----------
        envoy
            nnsight's wrapper of the whole model.
        programs
            In the order in which they run; ``program.body(program)`` runs one in this process.

        Returns
        -------
        list
            What each body saved, on any device.

        Raises
        ------
        RemoteMemoryError, RemoteLimitError
            Where the job is too large; it is tried again in parts.
        """
        ...

    def reduce(self, envoy: Envoy, programs: Sequence[Program], reductions: Sequence[Reduction]) -> Sums:
        """Run programs as one job, and return the moments of what they read, on the CPU."""
        sums: Sums = {}
        for saved, reduction in zip(self.run(envoy, programs), reductions, strict=True):
            check_layout(saved)
            gathered(sums, saved["vectors"], reduction)
        return {tower: {name: value.cpu() for name, value in moments.items()} for tower, moments in sums.items()}

    def where(self) -> str:
        """Where the model runs, for a reader; empty for this process."""
        return ""

    def pace(self) -> Pace:
        """Decides how many programs the next job takes; made anew for each series of jobs."""
        return Pace(Limits())

    def last_seconds(self) -> float | None:
        """How long the last job ran, without what it waited; None where the time of the call says it."""
        return None

    @contextlib.contextmanager
    def telling(self, tell: Callable[[str], None]) -> Iterator[None]:
        """While this holds, ``tell`` is called with a word at each change of a job's state."""
        yield


@runtime_checkable
class DeferredBackend(Backend, Protocol):
    """A backend whose jobs can be written, submitted, and fetched by another process."""

    def write(self, envoy: Envoy, programs: Sequence[Program], reductions: Sequence[Reduction]) -> bytes:
        """Write a job that reduces what programs read, without sending it."""
        ...

    def submit(self, job: bytes) -> str:
        """Send a job that was written; return its id."""
        ...

    def status(self, job_id: str) -> str:
        """The state of a job in one word, such as ``"queued"``, ``"running"``, ``"completed"`` or ``"unknown"``."""
        ...

    def fetch(self, job_id: str, job: bytes) -> tuple[Sums, str]:
        """Wait for the result of a job; one that was lost is sent again. Also return the id that it ended under."""
        ...

    def to_dict(self) -> Mapping[str, Any]:
        """What :func:`modalnet.execution.backends.choice.restored` makes the backend from in another process."""
        ...
