"""A localization that a server works on: asked for by its id, from this process or another one.

All that is needed to finish it is kept in the store's folder: what was asked, the jobs' ids, and the jobs themselves,
for one that the server lost is sent again. The API key is not among it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from modalnet._files import write_bytes
from modalnet._warnings import warn
from modalnet.errors import InputError
from modalnet.execution.backends.choice import restored
from modalnet.execution.backends.protocol import DeferredBackend
from modalnet.localization.result import Localization
from modalnet.results.cache import CacheLike, Slot
from modalnet.stats.moments import Moments

FOLDER = "jobs"


class Sums(Protocol):
    """Moments per side, fold and condition, and of the absolute activation."""

    by_side: dict[str, dict[str, list[Moments]]]
    by_condition: dict[str, dict[str, Moments]]
    size: dict[str, Moments]


def made_of(sums: Sums, meta: dict[str, Any]) -> Localization:
    """The localization that moments make; says so where a unit's activation was not finite.

    The statistic of such a unit is not defined, and it is never selected.
    """
    made = Localization(
        sides=sums.by_side,
        conditions=sums.by_condition,
        mean_abs={tower: size.mean for tower, size in sums.size.items()},
        meta=meta,
    )
    broken = {
        tower: int((~np.isfinite(sizes)).sum())
        for tower, sizes in made.mean_abs.items()
        if not np.isfinite(sizes).all()
    }
    if broken:
        counts = ", ".join(f"{count:,} of {made.t[tower].size:,} in {tower}" for tower, count in broken.items())
        warn(
            f"units with NaN or infinite activations: {counts}. They have no t and are never selected. In float16, a "
            'model whose activations overflow may need dtype="bfloat16" or "float32".',
        )
    return made


class Tally:
    """The moments of a localization, from those of its finest groups.

    Parameters
    ----------
    names
        Side, fold and condition of each group.
    shapes
        Per tower ``(layer, dim)``.
    n_folds
        How many folds there are.
    """

    def __init__(
        self, names: Sequence[tuple[str, int, str]], shapes: Mapping[str, tuple[int, int]], n_folds: int
    ) -> None:
        self.names = list(names)
        self.shapes = dict(shapes)
        self.n_folds = n_folds
        self.by_side = {
            side: {tower: [Moments.zeros(shape) for _ in range(n_folds)] for tower, shape in shapes.items()}
            for side in ("positive", "negative")
        }
        conditions = dict.fromkeys(condition for _, _, condition in names)
        self.by_condition = {
            name: {tower: Moments.zeros(shape) for tower, shape in shapes.items()} for name in conditions
        }
        self.size = {tower: Moments.zeros(shape) for tower, shape in shapes.items()}

    def add(self, found: Mapping[str, Mapping[str, np.ndarray]]) -> None:
        """Take in what a job brought back: per tower ``n``, ``mean``, ``m2`` and ``size``."""
        for tower, sums in found.items():
            for place, (side, fold, condition) in enumerate(self.names):
                part = Moments(int(sums["n"][place]), sums["mean"][place], sums["m2"][place])
                self.by_side[side][tower][fold] += part
                self.by_condition[condition][tower] += part
            n = int(sums["n"].sum())
            mean = sums["size"] / max(n, 1)
            self.size[tower] += Moments(n, mean, np.zeros_like(mean))


class LocalizationJob:
    """A localization under way; made by ``localize(..., blocking=False)`` and :meth:`from_id`.

    Attributes
    ----------
    id
        Identifies the job; :meth:`from_id` finds it again.
    """

    def __init__(self, job_id: str, backend: DeferredBackend | None, slot: Slot | None, asked: dict[str, Any]) -> None:
        self.id = job_id
        self.backend = backend
        self._slot = slot
        self._asked = asked
        self._result: Localization | None = None

    @classmethod
    def submit(
        cls,
        backend: DeferredBackend,
        *,
        tally: Tally,
        meta: dict[str, Any],
        blobs: Sequence[bytes],
        slot: Slot,
    ) -> LocalizationJob:
        """Send jobs that were written, and keep what finishes them."""
        job_id = slot.derived({"localize": meta, "sizes": [len(blob) for blob in blobs]})
        slot.folder(FOLDER).mkdir(parents=True, exist_ok=True)
        asked: dict[str, Any] = {
            "id": job_id,
            "key": slot.key,
            "remote": dict(backend.to_dict()),
            "names": tally.names,
            "shapes": tally.shapes,
            "n_folds": tally.n_folds,
            "meta": meta,
            "jobs": [],
        }
        job = cls(job_id, backend, slot, asked)
        for number, blob in enumerate(blobs):
            write_bytes(job._payload(number), blob)
            asked["jobs"].append(backend.submit(blob))
        job._write()
        return job

    @classmethod
    def done(cls, result: Localization) -> LocalizationJob:
        """A job that the store answers."""
        job = cls("", None, None, {"jobs": []})
        job._result = result
        return job

    @classmethod
    def from_id(cls, job_id: str, *, cache: CacheLike | None = None) -> LocalizationJob:
        """Return a localization job that was submitted before, in this process or another one.

        Parameters
        ----------
        job_id
            The :attr:`id` of the job that ``localize(..., blocking=False)`` returned.
        cache
            The store's folder, if the job was submitted with one of its own.

        Raises
        ------
        InputError
            If the store has no such job.
        """
        slot = Slot.known(job_id, cache=True if cache is None else cache)
        path = slot.folder(FOLDER) / f"{job_id}.json"
        try:
            asked = json.loads(path.read_text())
        except FileNotFoundError:
            raise InputError(
                f"There is no job {job_id!r} in {slot.folder()}. If it was submitted with a store of its own, give its "
                "folder as cache=."
            ) from None
        return cls(job_id, restored(asked["remote"]), replace(slot, key=asked["key"]), asked)

    def status(self) -> str:
        """Where it stands: ``"completed"``, or how many of its jobs are in which state."""
        if self._result is not None or self.backend is None:
            return "completed"
        states = [self.backend.status(one) for one in self._asked["jobs"]]
        if set(states) == {"completed"}:
            return "completed"
        return ", ".join(f"{states.count(state)} {state}" for state in dict.fromkeys(states))

    def result(self) -> Localization:
        """The localization, waited for; kept in the store as any other.

        Raises
        ------
        RemoteError
            Where a job failed on the server.
        TransportError
            Where the server cannot be reached; ask again later.
        """
        if self._result is not None or self.backend is None or self._slot is None:
            assert self._result is not None
            return self._result
        asked = self._asked
        names = [(str(side), int(fold), str(condition)) for side, fold, condition in asked["names"]]
        tally = Tally(names, {tower: tuple(shape) for tower, shape in asked["shapes"].items()}, asked["n_folds"])
        for number, one in enumerate(asked["jobs"]):
            sums, asked["jobs"][number] = self.backend.fetch(one, self._payload(number).read_bytes())
            tally.add({name: {what: v.numpy() for what, v in found.items()} for name, found in sums.items()})
        self._result = made_of(tally, asked["meta"])
        self._slot.write(self._result)
        return self._result

    def forget(self) -> None:
        """Remove what is kept of it; its result stays in the store."""
        if self._slot is not None:
            for number in range(len(self._asked["jobs"])):
                self._payload(number).unlink(missing_ok=True)
            self._journal().unlink(missing_ok=True)

    def _journal(self) -> Path:
        assert self._slot is not None
        return self._slot.folder(FOLDER) / f"{self.id}.json"

    def _payload(self, number: int) -> Path:
        return self._journal().with_name(f"{self.id}-{number:04d}.bin")

    def _write(self) -> None:
        write_bytes(self._journal(), json.dumps(self._asked).encode())

    def __repr__(self) -> str:
        return f"LocalizationJob({self.id!r}: {len(self._asked['jobs'])} jobs)"
