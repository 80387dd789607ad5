"""Jobs on a server: how a session is sent to NDIF, waited for, tried again and accounted for.

A session is turned into bytes once. The bytes are posted, and what happened to them is asked for by the job's id, so
that a connection that breaks costs nothing but the question. A job that the server has lost is posted again; a job that
failed by itself is not, since it would fail again. What modalnet needs on the server travels with the job: functions of
this package are pickled by value while a job is written, and refer to torch and nnsight alone.

The API key is read when a job is sent, goes into the request's header, and is kept nowhere. A server may repeat it in a
message, so every message is cleaned before it is shown, and errors that may hold one are not chained.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from modalnet.errors import InputError, RemoteError, RemoteLimitError, RemoteMemoryError, TransportError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import torch

PUBLIC_HOST = "https://api.ndif.us"
#: Answers of the server that say "not now".
BUSY = (408, 425, 429, 500, 502, 503, 504)
#: Ends of a job that are no fault of what was sent.
PASSING = ("cancelled or preempted", "evicted", "could not be reached", "temporarily unavailable", "actor died")
# Different values among the pixels of a batch up to which they are sent as a table and indices into it.
_PALETTE = 1 << 15
_SHORTEST, _LONGEST = 0.05, 2.0


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


@dataclass
class Remote:
    """A model on a server.

    Attributes
    ----------
    key
        Names the model on the server: nnsight's class and the checkpoint.
    mode
        True for the configured host, a host's address, or ``"local"``: write the job, read it back as a server would
        that has no modalnet, and run it here.
    env
        What the server sets up on the model before a job.
    limits
        See :class:`Limits`.
    jobs
        The jobs that were run, in order.
    told
        Called with a word at each change of a job's state.
    later
        While it is a list, jobs are written into it and not sent.
    """

    key: str
    mode: bool | str = True
    env: Mapping[str, Any] = field(default_factory=dict)
    limits: Limits = field(default_factory=Limits)
    jobs: list[Job] = field(default_factory=list)
    told: Callable[[str], None] = lambda state: None
    later: list[bytes] | None = field(default=None, repr=False)

    @property
    def host(self) -> str:
        """The server's address."""
        from nnsight.schema.config import CONFIG

        if isinstance(self.mode, str):
            return self.mode.rstrip("/")
        return str(os.environ.get("NDIF_HOST") or CONFIG.API.HOST or PUBLIC_HOST).rstrip("/")

    @property
    def simulated(self) -> bool:
        """Whether jobs run in this process."""
        return self.mode == "local"

    def check(self) -> None:
        """Raise an InputError that says what to set where the host or the key cannot be right."""
        if self.simulated:
            return
        if not self.host.startswith(("http://", "https://")):
            raise InputError(
                f"{self.host!r} is no address of an NDIF server: it begins with http:// or https://. Set NDIF_HOST, or "
                "give remote= an address."
            )
        if self.host == PUBLIC_HOST and not _key():
            raise InputError(
                f"{PUBLIC_HOST} wants an API key, and none is set. Get one at https://login.ndif.us, then set "
                "NDIF_API_KEY or run nnsight.CONFIG.set_default_api_key(...) once. For a server of your own set "
                "NDIF_HOST."
            )

    def backend(self, module: Any, envoy: Any) -> Any:
        """What nnsight hands a finished session to."""
        return _simulation(module, envoy, self) if self.simulated else _transport(self)

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


def check_mode(remote: Any) -> bool | str:
    """``remote=`` as the user gave it; an InputError for what is none."""
    if isinstance(remote, bool) or remote == "local":
        return remote
    if isinstance(remote, str) and remote.startswith(("http://", "https://")):
        return remote
    raise InputError(
        f'remote={remote!r} is not known. Give True (the server that NDIF_HOST names), "local" (a dry run here) or the '
        "address of a server, http://... or https://..."
    )


def _key() -> str:
    from nnsight.schema.config import CONFIG

    return os.environ.get("NDIF_API_KEY") or CONFIG.API.APIKEY or ""


def _clean(message: Any) -> str:
    """A message without the API key, which servers repeat."""
    key = _key()
    return str(message).replace(key, "***") if key else str(message)


@contextlib.contextmanager
def _by_value() -> Iterator[None]:
    """While a job is written, functions of this room are pickled with their source and not by their name.

    For no longer: what else a program pickles is none of modalnet's business.
    """
    from cloudpickle.cloudpickle import _PICKLE_BY_VALUE_MODULES

    room = "modalnet.execution"
    fresh = room not in _PICKLE_BY_VALUE_MODULES
    _PICKLE_BY_VALUE_MODULES.add(room)
    try:
        yield
    finally:
        if fresh:
            _PICKLE_BY_VALUE_MODULES.discard(room)


# Over the wire


def _transport(remote: Remote) -> Any:
    from nnsight.intervention.backends.remote import RemoteBackend

    class Transport(RemoteBackend):
        """nnsight's own writing and reading, with modalnet's way of waiting."""

        down = 0

        def __call__(self, tracer: Any = None) -> Any:
            with _by_value():
                blob = self._serialize(tracer)
            if len(blob) > remote.limits.megabytes * 1e6:
                raise RemoteLimitError(
                    f"a job of {len(blob) / 1e6:.1f} MB is more than the {remote.limits.megabytes:g} MB that "
                    "model.remote.limits.megabytes allows."
                )
            if remote.later is not None:
                remote.later.append(blob)
                return None
            result = _carry(remote, self, blob)
            if isinstance(result, dict):
                self._push(result, tracer)
            return result

        def finalize(self, content: bytes) -> Any:
            self.down = len(content)
            return super().finalize(content)

    remote.check()
    backend = Transport(remote.key, host=remote.host, api_key=_key(), env=dict(remote.env), blocking=False)
    backend.display.enabled = False
    return backend


def post(remote: Remote, blob: bytes) -> str:
    """Send a job that was written before; gives its id."""
    return _post(remote, _transport(remote), blob)


def ask(remote: Remote, job_id: str) -> str:
    """The state of a job in one word, such as ``"queued"``, ``"running"``, ``"completed"`` or ``"unknown"``."""
    import httpx

    backend = _transport(remote)
    headers = {"ndif-api-key": backend.api_key} if backend.api_key else None
    for pause in _pauses(remote):
        try:
            answer = httpx.get(f"{remote.host}/response/{job_id}", headers=headers, timeout=10.0)
        except httpx.HTTPError as error:
            pause(_clean(error) or type(error).__name__)
            continue
        return str(_status(backend, answer.text).status.value.lower()) if answer.status_code == 200 else "unknown"
    raise AssertionError("the last pause raises")


def fetch(remote: Remote, job_id: str, blob: bytes) -> tuple[dict[str, Any], str]:
    """The result of a job, waited for; a job that was lost is sent again. Gives the id that it ended under, too."""
    started, lost = time.monotonic(), ""
    for attempt in range(1, remote.limits.attempts + 1):
        backend = _transport(remote)
        try:
            result, running = _wait(remote, backend, job_id)
        except _LostError as error:
            lost = str(error)
            job_id = _post(remote, backend, blob)
            continue
        remote.jobs.append(Job(job_id, len(blob), backend.down, time.monotonic() - started, running, attempt))
        return result, job_id
    raise TransportError(f"the job was lost {remote.limits.attempts} times by {remote.host} ({lost}).")


def _carry(remote: Remote, backend: Any, blob: bytes) -> Any:
    """Send a job until it ends, and account for it."""
    started, lost = time.monotonic(), ""
    for attempt in range(1, remote.limits.attempts + 1):
        remote.told("sending")
        job_id = _post(remote, backend, blob)
        try:
            result, running = _wait(remote, backend, job_id)
        except _LostError as error:
            lost = str(error)
            remote.told("lost, sending again")
            continue
        remote.jobs.append(Job(job_id, len(blob), backend.down, time.monotonic() - started, running, attempt))
        return result
    raise TransportError(
        f"the job was lost {remote.limits.attempts} times by {remote.host} ({lost}). What was finished before it is "
        "kept: run the same call again when the server is steady."
    )


class _LostError(Exception):
    """The server no longer knows of a job, or gave it up for a reason of its own."""


def _post(remote: Remote, backend: Any, blob: bytes) -> str:
    """Send a job; gives its id."""
    import httpx
    from nnsight.intervention.backends.remote import RemoteError as ServerError
    from nnsight.schema.request import RequestModel

    request = RequestModel(model_key=remote.key, compress=backend.compress, env=backend.env)
    for pause in _pauses(remote):
        try:
            return str(backend._post(request, blob).id)
        except ServerError as error:
            cause, message = error.__cause__, _clean(error)
        except ValueError:  # it may repeat what was sent, the key with it
            raise InputError(
                f"{remote.host} answers, but not as an NDIF server of this version does. Check NDIF_HOST, or remote=."
            ) from None
        status = cause.response.status_code if isinstance(cause, httpx.HTTPStatusError) else None
        if status is not None and status not in BUSY:
            raise _refused(remote, status, message, len(blob)) from None
        pause(message)
    raise AssertionError("the last pause raises")


def _pauses(remote: Remote) -> Iterator[Callable[[str], None]]:
    """Waits that grow, as functions of what went wrong; the one that would wait past the patience raises."""
    started, delay = time.monotonic(), 0.25

    def pause(message: str) -> None:
        nonlocal delay
        if time.monotonic() - started + delay > remote.limits.patience:
            raise TransportError(
                f"{remote.host} cannot be reached: {message}. Check the address (NDIF_HOST, or remote=) and that the "
                "server is up. What was finished before is kept."
            ) from None
        remote.told(f"waiting for {remote.host}")
        time.sleep(delay)
        delay = min(2 * delay, 15.0)

    while True:
        yield pause


def _refused(remote: Remote, status: int, message: str, size: int) -> Exception:
    if status in (400, 401, 403) and "key" in message.lower():
        return InputError(
            f"{remote.host} does not take the API key ({status}). Set NDIF_API_KEY to a key of that server, or "
            "NDIF_HOST to the server that the key is for; nnsight.CONFIG.set_default_api_key(...) keeps one."
        )
    if status == 413:
        return RemoteLimitError(f"{remote.host} does not take a job of {size / 1e6:.1f} MB.")
    if status == 400 and "version" in message.lower():
        return InputError(
            f"{remote.host} does not work with what is installed here: {message} Install the version that it asks for."
        )
    if status in (404, 405):
        return InputError(f"{remote.host} is no NDIF server, or one of another version: {message}. Set NDIF_HOST.")
    return RemoteError(f"{remote.host} refused the job ({status}): {message}")


def _wait(remote: Remote, backend: Any, job_id: str) -> tuple[Any, float]:
    """The result of a job, asked for until it is there, and for how many seconds it ran."""
    import httpx

    delay, broken, unknown, began = _SHORTEST, None, 0.0, None
    pauses = _pauses(remote)
    headers = {"ndif-api-key": backend.api_key} if backend.api_key else None
    with httpx.Client(timeout=httpx.Timeout(10.0, read=60.0), headers=headers) as client:
        while True:
            now = time.monotonic()
            if broken is not None and now - broken > remote.limits.recovery:
                raise _LostError("it did not end after the connection broke")
            try:
                answer = client.get(f"{remote.host}/response/{job_id}")
                if answer.status_code in BUSY:
                    raise httpx.TransportError(f"{remote.host} answers {answer.status_code}")
                if answer.status_code == 404:
                    # The first status takes a moment to be written.
                    unknown = unknown or now
                    if now - unknown > 10.0:
                        raise _LostError("the server does not know it")
                elif answer.status_code != 200:
                    raise _refused(remote, answer.status_code, _clean(answer.text[:300]), 0)
                else:
                    unknown = 0.0
                    response = _status(backend, answer.text)
                    remote.told(response.status.value.lower())
                    if response.status.value == "RUNNING" and began is None:
                        began = now
                    if response.status.value == "ERROR":
                        raise _failed(remote, response.description)
                    if response.status.value == "COMPLETED":
                        ran = time.monotonic() - (now - delay if began is None else began)
                        remote.told("fetching")
                        return backend.download_result(response.data), ran
            except httpx.HTTPError as error:
                # What is asked again is only how the job is; it goes on meanwhile.
                broken = broken if broken is not None else now
                next(pauses)(_clean(error) or type(error).__name__)
                broken = max(broken, time.monotonic() - remote.limits.recovery / 2)
                continue
            pauses = _pauses(remote)
            time.sleep(delay)
            delay = min(1.2 * delay, _LONGEST)


def _status(backend: Any, text: str) -> Any:
    return type(backend).parse(text)


def _failed(remote: Remote, description: str) -> Exception:
    """The error that an end of a job stands for."""
    message = _clean(description)
    low = message.lower()
    if any(words in low for words in PASSING):
        return _LostError(message)
    if "out of memory" in low:
        return RemoteMemoryError(f"the job ran out of memory on {remote.host}: {_last(message)}")
    if "execution timeout" in low or "timed out" in low:
        return RemoteLimitError(f"the job took longer than {remote.host} allows: {_last(message)}")
    if "deploy" in low and "traceback" not in low:
        return RemoteError(
            f"{remote.host} does not serve {remote.key}: {' '.join(message.split())} Check the name; "
            "nnsight.ndif_status() lists what it serves."
        )
    return RemoteError(f"the job failed on {remote.host}: {message}")


def _last(message: str) -> str:
    return (message.strip().splitlines() or [""])[-1]


# In this process


def _simulation(module: Any, envoy: Any, remote: Remote) -> Any:
    from nnsight.intervention.backends.local import LocalSimulationBackend
    from nnsight.schema.request import RequestModel
    from nnsight.tracing.tracer import _saves, dec, inc, save
    from nnsight.tracing.util import push

    class Simulation(LocalSimulationBackend):
        """A job that is written, read without modalnet, and run from what was read."""

        def __call__(self, tracer: Any) -> None:
            import linecache

            started = time.monotonic()
            with _by_value():
                blob = RequestModel.serialize(tracer, compress=True)
            objects = {"Interleaver": envoy.interleaver}
            objects |= {f"Module:{each.path}": each._module for each in envoy.modules()}
            filename = tracer.info.frame.f_code.co_filename
            line = linecache.cache.get(filename)
            try:
                with _without_modalnet():
                    restored = RequestModel.deserialize(blob, objects, compress=True)
                inc()
                try:
                    restored.execute(restored.info.code)
                    saves = _saves()
                    found = {name: v for name, v in restored.info.frame.f_locals.items() if id(v) in saves}
                finally:
                    dec()
            finally:
                # What was read stands under this file's name now; the file itself is what later jobs are written from.
                linecache.cache.pop(filename, None)
                if line is not None:
                    linecache.cache[filename] = line
            took = time.monotonic() - started
            remote.jobs.append(Job("local", len(blob), 0, took, took, 1))
            for value in found.values():
                save(value)
            push(tracer.info.frame, found)

    return Simulation(module)


@contextlib.contextmanager
def _without_modalnet() -> Iterator[None]:
    """A process that cannot import modalnet, as a server cannot."""
    import sys

    root = __name__.partition(".")[0]
    hidden = {name: sys.modules.pop(name) for name in list(sys.modules) if name.split(".")[0] == root}

    class Absent:
        @staticmethod
        def find_spec(name: str, path: Any = None, target: Any = None) -> None:
            if name.partition(".")[0] == root:
                raise ModuleNotFoundError(f"No module named {name!r} (a server has no {root})")

    sys.meta_path.insert(0, Absent)  # type: ignore[arg-type]
    try:
        yield
    finally:
        sys.meta_path.remove(Absent)  # type: ignore[arg-type]
        sys.modules.update(hidden)


# What a job holds


def packed(value: Any) -> Any:
    """An input as it is sent: pixels as a table of their values and small indices into it, bit for bit the same.

    A processor turns bytes into floats, so a batch of images holds few different ones; indices compress as the picture
    does, floats hardly.
    """
    import torch

    if not isinstance(value, torch.Tensor) or not value.is_floating_point() or value.numel() < 1 << 10:
        return value
    table, index = torch.unique(value, return_inverse=True)
    if len(table) > _PALETTE:
        return value
    kind = torch.uint8 if len(table) <= 1 << 8 else torch.int16
    return ("palette", table, index.to(kind))


def unpacked(value: Any, dtype: torch.dtype | None) -> Any:
    """An input as the model takes it. Runs on the server, in the precision that the model has there."""
    import torch

    if isinstance(value, tuple):
        _, table, index = value
        value = table[index.long()]
    if isinstance(value, torch.Tensor) and value.is_floating_point() and dtype is not None:
        value = value.to(dtype)
    return value


def gathered(  # noqa: PLR0917  # plain arguments, as they are sent
    sums: dict[str, Any],
    vectors: Sequence[torch.Tensor],
    names: Sequence[str],
    groups: Sequence[int],
    n_groups: int,
    absolute: bool,
) -> None:
    """Add a batch to the moments of its groups. Runs on the server.

    Parameters
    ----------
    sums
        Per space ``n`` ``[group]``, ``mean`` and ``m2`` ``[group, layer, dim]``, and ``size``, the sum of |activation|
        ``[layer, dim]``, in float64; grows in place.
    vectors
        Per site that was read, ``[stimulus, dim]``.
    names
        Of each vector, the name of its space.
    groups
        Of each stimulus.
    n_groups
        How many there are.
    absolute
        Whether the moments are of |activation|.
    """
    import torch

    for name in dict.fromkeys(names):
        layers = [vectors[place] for place, other in enumerate(names) if other == name]
        device = layers[0].device
        read = torch.stack([layer.to(device) for layer in layers], dim=1).double()
        size = read.abs()
        values = size if absolute else read
        if name not in sums:
            shape = (n_groups, *values.shape[1:])
            sums[name] = {
                "n": torch.zeros(n_groups, dtype=torch.int64),
                "mean": torch.zeros(shape, dtype=torch.float64, device=device),
                "m2": torch.zeros(shape, dtype=torch.float64, device=device),
                "size": torch.zeros(shape[1:], dtype=torch.float64, device=device),
            }
        kept = sums[name]
        kept["size"] += size.sum(0)
        for group in sorted(set(groups)):
            part = values[[place for place, one in enumerate(groups) if one == group]]
            mean = part.mean(0)
            m2 = (part - mean).square().sum(0)
            before, n = int(kept["n"][group]), len(part)
            delta = mean - kept["mean"][group]
            kept["mean"][group] += delta * (n / (before + n))
            kept["m2"][group] += m2 + delta.square() * (before * n / (before + n))
            kept["n"][group] += n
