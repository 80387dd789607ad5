"""Limits and costs of jobs, and the number of passes per job."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any


@dataclass
class Limits:
    """Limits on the size and duration of jobs, and on waiting and retrying.

    Attributes
    ----------
    seconds
        Target duration of a job on the server; the number of passes per job is adapted to it.
    megabytes
        Approximate maximum that a job uploads or downloads.
    attempts
        Maximum number of times that a lost job is sent.
    patience
        Seconds for which an unreachable server is retried.
    recovery
        Seconds after a broken connection until an unfinished job counts as lost.
    """

    seconds: float = 60.0
    megabytes: float = 64.0
    attempts: int = 4
    patience: float = 120.0
    recovery: float = 60.0


@dataclass(frozen=True)
class Job:
    """The cost of one job.

    Attributes
    ----------
    id
        The server's id of the job.
    up, down
        Bytes uploaded and downloaded.
    seconds
        Seconds from sending the job to receiving its result.
    running
        Seconds for which the job ran, as reported by the server.
    attempts
        Number of times that the job was sent.
    """

    id: str
    up: int
    down: int
    seconds: float
    running: float
    attempts: int


class Pace:
    """The number of passes of the next job, from the duration of the last one.

    Parameters
    ----------
    limits
        See :class:`Limits`.
    """

    FIRST = 2  # before anything is known of how fast the server is
    GROWTH = 16

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.passes = self.FIRST

    def full(self, passes: int, up: float, down: float) -> bool:
        """Whether a job of so many passes is full; its inputs have ``up`` bytes, its results ``down``."""
        # Inputs shrink on the way: token ids hardly count, pixels become a table and small indices.
        room = self.limits.megabytes * 1e6
        return passes >= self.passes or up > 4 * room or down > room

    def ran(self, passes: int, seconds: float) -> None:
        """Record how long a job of so many passes took."""
        fitting = int(passes * self.limits.seconds / max(seconds, 1e-3))
        self.passes = max(1, min(fitting, self.GROWTH * max(passes, self.passes)))

    def unknown(self) -> None:
        """Durations will not be known: use jobs of intermediate size."""
        self.passes = self.GROWTH

    def slower(self, passes: int) -> None:
        """Record that a job of so many passes was too large."""
        self.passes = max(1, passes // 2)


class Account:
    """Keeps account of the jobs of a backend.

    Attributes
    ----------
    limits
        See :class:`Limits`.
    jobs
        The jobs that were run, in order.
    told
        Called with a word at each change of a job's state.
    """

    def __init__(self, limits: Limits | None = None) -> None:
        self.limits: Limits = limits or Limits()
        self.jobs: list[Job] = []
        self.told: Callable[[str], None] = lambda state: None

    @property
    def sent(self) -> dict[str, Any]:
        """The number of jobs, how often they were sent, and the bytes uploaded and downloaded."""
        return {
            "jobs": len(self.jobs),
            "attempts": sum(job.attempts for job in self.jobs),
            "bytes_up": sum(job.up for job in self.jobs),
            "bytes_down": sum(job.down for job in self.jobs),
            "seconds": round(sum(job.seconds for job in self.jobs), 3),
        }

    def pace(self) -> Pace:
        """The object that decides the number of programs of the next job."""
        return Pace(self.limits)

    def last_seconds(self) -> float | None:
        """Seconds for which the last job ran on the server."""
        return self.jobs[-1].running if self.jobs else None

    @contextlib.contextmanager
    def telling(self, tell: Callable[[str], None]) -> Iterator[None]:
        """Within this context, ``tell`` is called with the new state of a job at each change."""
        before, self.told = self.told, tell
        try:
            yield
        finally:
            self.told = before
