"""Localizations that run asynchronously on a server, retrieved by their id from this process or another one.

Everything necessary to finish a job is stored in the store's folder: its settings, the ids of its parts, and the parts
themselves, so that a part that the server lost can be submitted again. The API key is not stored.
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
from modalnet.stats.regression import CrossMoments

FOLDER = "jobs"


class Sums(Protocol):
    """Moments per side, fold and condition, and of the absolute activation; cross moments where a test needs them."""

    by_side: dict[str, dict[str, list[Moments]]]
    by_condition: dict[str, dict[str, Moments]]
    size: dict[str, Moments]
    cross: dict[str, list[CrossMoments]] | None


def made_of(sums: Sums, meta: dict[str, Any]) -> Localization:
    """Make a localization of moments; warn if activations of some units were not finite.

    The t of such units is undefined, and they are never selected. Of units that the model does not have, in layers
    with fewer or none, nothing else is expected.
    """
    made = Localization(
        sides=sums.by_side,
        conditions=sums.by_condition,
        mean_abs={tower: size.mean for tower, size in sums.size.items()},
        meta=meta,
        cross=sums.cross,
    )
    broken = {space: int((~np.isfinite(sizes) & made.exists[space]).sum()) for space, sizes in made.mean_abs.items()}
    if any(broken.values()):
        counts = ", ".join(
            f"{count:,} of {int(made.exists[space].sum()):,} in {space}" for space, count in broken.items() if count
        )
        warn(
            f"units with NaN or infinite activations: {counts}. Their t is undefined and they are never selected. If "
            'activations overflow in float16, load the model with dtype="bfloat16" or "float32".',
        )
    return made


class Tally:
    """Accumulator of the moments of a localization over groups of stimuli.

    Parameters
    ----------
    names
        Side, fold and condition of each group.
    shapes
        Per tower ``(layer, dim)``.
    n_folds
        Number of folds.
    n_regressors
        Number of regressors of the cross moments; None where the test needs none.
    """

    def __init__(
        self,
        names: Sequence[tuple[str, int, str]],
        shapes: Mapping[str, tuple[int, int]],
        n_folds: int,
        n_regressors: int | None = None,
    ) -> None:
        self.names = list(names)
        self.shapes = dict(shapes)
        self.n_folds = n_folds
        self.n_regressors = n_regressors
        self.cross: dict[str, list[CrossMoments]] | None = None
        if n_regressors is not None:
            self.cross = {
                tower: [CrossMoments.zeros(n_regressors, shape) for _ in range(n_folds)]
                for tower, shape in shapes.items()
            }
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
        """Add the sums that a job returned, of which :data:`modalnet.execution.reduction.Sums` says what they are."""
        for tower, sums in found.items():
            for place, (side, fold, condition) in enumerate(self.names):
                part = Moments(int(sums["n"][place]), sums["mean"][place], sums["m2"][place])
                self.by_side[side][tower][fold] += part
                self.by_condition[condition][tower] += part
            n = int(sums["n"].sum())
            mean = sums["size"] / max(n, 1)
            self.size[tower] += Moments(n, mean, np.zeros_like(mean))
            if self.cross is not None:
                parts = [sums["cross_" + name] for name in ("n", "x", "y", "xx", "xy", "yy")]
                for fold in range(self.n_folds):
                    self.cross[tower][fold] += CrossMoments(*(part[fold] for part in parts))


class LocalizationJob:
    """A localization that runs on a server; made by ``localize(..., blocking=False)`` and :meth:`from_id`.

    Attributes
    ----------
    id
        The id of the job, for :meth:`from_id`.
    """

    def __init__(
        self, job_id: str, backend: DeferredBackend | None, slot: Slot | None, request: dict[str, Any]
    ) -> None:
        self.id = job_id
        self.backend = backend
        self._slot = slot
        self._request = request
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
        """Submit serialized jobs, and store what is necessary to finish them."""
        job_id = slot.derived({"localize": meta, "sizes": [len(blob) for blob in blobs]})
        slot.folder(FOLDER).mkdir(parents=True, exist_ok=True)
        request: dict[str, Any] = {
            "id": job_id,
            "key": slot.key,
            "remote": dict(backend.to_dict()),
            "names": tally.names,
            "shapes": tally.shapes,
            "n_folds": tally.n_folds,
            "n_regressors": tally.n_regressors,
            "meta": meta,
            "jobs": [],
        }
        job = cls(job_id, backend, slot, request)
        for number, blob in enumerate(blobs):
            write_bytes(job._payload(number), blob)
            request["jobs"].append(backend.submit(blob))
        job._write()
        return job

    @classmethod
    def done(cls, result: Localization) -> LocalizationJob:
        """Return a completed job, for a result that was in the store."""
        job = cls("", None, None, {"jobs": []})
        job._result = result
        return job

    @classmethod
    def from_id(cls, job_id: str, *, cache: CacheLike | None = None) -> LocalizationJob:
        """Return a localization job that was submitted earlier, in this process or another one.

        Parameters
        ----------
        job_id
            The :attr:`id` of the job that ``localize(..., blocking=False)`` returned.
        cache
            The folder of the store, if the job was submitted with a folder as ``cache``.

        Raises
        ------
        InputError
            If the store has no such job.
        """
        slot = Slot.known(job_id, cache=True if cache is None else cache)
        path = slot.folder(FOLDER) / f"{job_id}.json"
        try:
            request = json.loads(path.read_text())
        except FileNotFoundError:
            raise InputError(
                f"There is no job {job_id!r} in {slot.folder()}. If it was submitted with another store, give its "
                "folder as `cache`."
            ) from None
        return cls(job_id, restored(request["remote"]), replace(slot, key=request["key"]), request)

    def status(self) -> str:
        """Return the status: ``"completed"``, or the number of parts in each state."""
        if self._result is not None or self.backend is None:
            return "completed"
        states = [self.backend.status(one) for one in self._request["jobs"]]
        if set(states) == {"completed"}:
            return "completed"
        return ", ".join(f"{states.count(state)} {state}" for state in dict.fromkeys(states))

    def result(self) -> Localization:
        """Wait for the localization, store it and return it.

        Raises
        ------
        RemoteError
            If a part failed on the server.
        TransportError
            If the server cannot be reached; call again later.
        """
        if self._result is not None or self.backend is None or self._slot is None:
            assert self._result is not None
            return self._result
        request = self._request
        names = [(str(side), int(fold), str(condition)) for side, fold, condition in request["names"]]
        shapes = {tower: tuple(shape) for tower, shape in request["shapes"].items()}
        tally = Tally(names, shapes, request["n_folds"], request.get("n_regressors"))  # none in modalnet 0.1
        for number, one in enumerate(request["jobs"]):
            sums, request["jobs"][number] = self.backend.fetch(one, self._payload(number).read_bytes())
            tally.add({name: {what: v.numpy() for what, v in found.items()} for name, found in sums.items()})
        self._result = made_of(tally, request["meta"])
        self._slot.write(self._result)
        return self._result

    def forget(self) -> None:
        """Remove the stored parts of the job; its result remains in the store."""
        if self._slot is not None:
            for number in range(len(self._request["jobs"])):
                self._payload(number).unlink(missing_ok=True)
            self._journal().unlink(missing_ok=True)

    def _journal(self) -> Path:
        assert self._slot is not None
        return self._slot.folder(FOLDER) / f"{self.id}.json"

    def _payload(self, number: int) -> Path:
        return self._journal().with_name(f"{self.id}-{number:04d}.bin")

    def _write(self) -> None:
        write_bytes(self._journal(), json.dumps(self._request).encode())

    def __repr__(self) -> str:
        return f"LocalizationJob({self.id!r}: {len(self._request['jobs'])} jobs)"
