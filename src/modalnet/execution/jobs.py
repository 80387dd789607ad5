"""Forward passes grouped into as few jobs as the limits of a backend allow; jobs that are too large are split."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from modalnet.errors import ModalnetError, RemoteLimitError, RemoteMemoryError
from modalnet.execution.backends.accounting import Pace
from modalnet.execution.batching import BatchLimit, halves
from modalnet.execution.engine import Engine
from modalnet.execution.passes import Pass
from modalnet.execution.plan import Plan

_T = TypeVar("_T")


@dataclass
class JobQueue(Generic[_T]):
    """Turns groups that share a batch into jobs.

    Attributes
    ----------
    groups
        Members that are sent together: stimuli that share a batch, or items, whose stimuli are in the same job.
    make
        The passes over a group; None where it must be split.
    send
        Sends passes as one job.
    limit
        Limit of the batch size, lowered when memory runs out.
    engine
        The engine of the model.
    reduced
        Whether results are reduced on the server, so that their size does not depend on the number of passes.
    written
        Whether jobs are only serialized, not sent, so that their durations are unknown.
    """

    groups: Iterator[list[_T]]
    make: Callable[[list[_T]], list[Pass] | None]
    send: Callable[[list[Pass]], Any]
    limit: BatchLimit
    engine: Engine
    reduced: bool = False
    written: bool = False

    def __post_init__(self) -> None:
        self._back: deque[list[_T]] = deque()  # groups that did not fit, before the others

    def __iter__(self) -> Iterator[tuple[list[Pass], Any]]:
        """Yield the passes of each job with what was sent back."""
        pace = self.engine.backend.pace()
        while True:
            groups, passes = self._next(pace)
            if not groups:
                return
            started = time.monotonic()
            try:
                result = self.send(passes)
            except (RemoteMemoryError, RemoteLimitError) as error:
                self._too_large(error, groups, passes)
                pace.slower(len(passes))
                continue
            if self.written:
                pace.unknown()
            else:
                running = self.engine.backend.last_seconds()
                pace.ran(len(passes), time.monotonic() - started if running is None else running)
            yield passes, result
            del passes, result  # or they would be held while the next job runs

    def _next(self, pace: Pace) -> tuple[list[list[_T]], list[Pass]]:
        """The groups and passes of the next job; none where nothing is left."""
        groups: list[list[_T]] = []
        passes: list[Pass] = []
        up = down = 0.0
        while not groups or not pace.full(len(passes), up, down):
            group = self._back.popleft() if self._back else next(self.groups, None)
            if group is None:
                break
            made = self.make(group) if len(group) <= self.limit.count else None
            if made is None:
                self._back.extendleft(reversed(halves(group)))
                continue
            groups.append(group)
            passes += made
            different = {id(each.batch): each.batch for each in made}.values()
            up += sum(getattr(value, "nbytes", 0) for batch in different for value in batch.inputs.values())
            up += sum(write.nbytes for each in made for write in each.plan.writes)
            down += 0 if self.reduced else sum(_bytes_back(each.plan, self.engine) for each in made)
        return groups, passes

    def _too_large(self, error: Exception, groups: list[list[_T]], passes: list[Pass]) -> None:
        """Put the groups of a job back, in smaller batches where that may help."""
        largest = max(len(each.batch.items) for each in passes)
        if len(groups) == 1 and len(groups[0]) == 1 and largest == 1:
            label = passes[0].batch.items[0].label
            raise ModalnetError(
                f"Stimulus {label} alone exceeds the limits of the server: {error} Use a smaller input, or raise "
                "model.remote.limits if those are exceeded."
            ) from error
        if isinstance(error, RemoteMemoryError) or len(groups) == 1:
            self.limit.count = max(1, largest // 2)
        self._back.extendleft(reversed(groups))


def _bytes_back(plan: Plan, engine: Engine) -> float:
    """About how many bytes a plan brings back."""
    size = 0
    for sites, pool in plan.reads:
        rows = pool.n_positions if pool.lengths is None else len(pool.lengths)
        size += rows * len(sites.layers) * pool.width(sites.space)
    if plan.logit_rows is not None and plan.next_tokens is not None:
        size += len(plan.logit_rows) * (4 * plan.next_tokens.k + 4 * len(plan.next_tokens.tokens))
    elif plan.logit_rows is not None and plan.targets is None:
        size += plan.columns.numel() if plan.columns is not None else len(plan.logit_rows) * engine.vocabulary
    return 4.0 * size
