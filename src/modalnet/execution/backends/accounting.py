"""What jobs may cost and what they cost, and how many passes the next one takes."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any


@dataclass
class Limits:
    """What a job may cost, and how patiently it is waited for.

    Attributes
    ----------
    seconds
        How long the server should take for a job; the number of batches in the next one follows from the last.
    megabytes
        The most that a job sends or brings back, about.
    attempts
        How often a job that was lost is sent.
    patience
        Seconds for which a server that cannot be reached is tried again.
    recovery
        Seconds after a broken connection in which a job must end, before it counts as lost.
    """

    seconds: float = 60.0
    megabytes: float = 64.0
    attempts: int = 4
    patience: float = 120.0
    recovery: float = 60.0


@dataclass(frozen=True)
class Job:
    """What one job cost.

    Attributes
    ----------
    id
        The server's name for it.
    up, down
        Bytes sent and bytes brought back, as they went over the wire.
    seconds
        From sending to having the result.
    running
        Of these, how long the server said that it ran.
    attempts
        How often it was sent.
    """

    id: str
    up: int
    down: int
    seconds: float
    running: float
    attempts: int


class Pace:
    """How many passes the next job takes: as many as the last one says fit into its time.

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
        """Whether a job of so many passes takes no more; its inputs hold ``up`` bytes, its results ``down``."""
        # Inputs shrink on the way: token ids hardly count, pixels become a table and small indices.
        room = self.limits.megabytes * 1e6
        return passes >= self.passes or up > 4 * room or down > room

    def ran(self, passes: int, seconds: float) -> None:
        """Take in how long a job of so many passes took."""
        fitting = int(passes * self.limits.seconds / max(seconds, 1e-3))
        self.passes = max(1, min(fitting, self.GROWTH * max(passes, self.passes)))

    def unknown(self) -> None:
        """Nobody will tell how long jobs take: they stay of a middling size."""
        self.passes = self.GROWTH

    def slower(self, passes: int) -> None:
        """A job of so many passes was too much."""
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
        """How many jobs ran, how often they were sent, and the bytes both ways."""
        return {
            "jobs": len(self.jobs),
            "attempts": sum(job.attempts for job in self.jobs),
            "bytes_up": sum(job.up for job in self.jobs),
            "bytes_down": sum(job.down for job in self.jobs),
            "seconds": round(sum(job.seconds for job in self.jobs), 3),
        }

    def pace(self) -> Pace:
        """Decides how many programs the next job takes."""
        return Pace(self.limits)

    def last_seconds(self) -> float | None:
        """How long the server ran the last job."""
        return self.jobs[-1].running if self.jobs else None

    @contextlib.contextmanager
    def telling(self, tell: Callable[[str], None]) -> Iterator[None]:
        """While this holds, ``tell`` is called with a word at each change of a job's state."""
        before, self.told = self.told, tell
        try:
            yield
        finally:
            self.told = before
