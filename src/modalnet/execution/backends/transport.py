"""Sending serialized jobs to an NDIF server, waiting for them, and sending lost ones again.

The API key is read when a job is sent, put into the header of the request, and not stored. A server may repeat it in a
message, so messages are redacted before they are shown, and exceptions that may contain the key are not chained.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from modalnet.errors import InputError, TransportError
from modalnet.execution.backends.accounting import Job
from modalnet.execution.backends.refusals import BUSY, LostError, ended, refused

if TYPE_CHECKING:
    from modalnet.execution.backends.ndif import NdifBackend

_SHORTEST, _LONGEST = 0.05, 2.0


def api_key() -> str:
    """The API key that is set; empty for none."""
    from nnsight.schema.config import CONFIG

    return os.environ.get("NDIF_API_KEY") or CONFIG.API.APIKEY or ""


def cleaned(message: Any) -> str:
    """A message without the API key, which servers repeat."""
    key = api_key()
    return str(message).replace(key, "***") if key else str(message)


def carry(backend: NdifBackend, client: Any, job: bytes, job_id: str | None = None) -> tuple[Any, str]:
    """Send a job until it ends, and account for it.

    Parameters
    ----------
    backend
        Whose job it is.
    client
        nnsight's client of the server.
    job
        As it was written.
    job_id
        Of a job that was sent before; None to send it.

    Returns
    -------
    result, job_id
        What the job saved, and the id that it ended under.

    Raises
    ------
    TransportError
        Where the server lost the job as often as the limits allow.
    """
    started, lost = time.monotonic(), ""
    for attempt in range(1, backend.limits.attempts + 1):
        if job_id is None:
            backend.told("sending")
            job_id = post(backend, client, job)
        try:
            result, running = _wait(backend, client, job_id)
        except LostError as error:
            lost, job_id = str(error), None
            backend.told("lost, sending again")
            continue
        backend.jobs.append(Job(job_id, len(job), client.down, time.monotonic() - started, running, attempt))
        return result, job_id
    raise TransportError(
        f"{backend.host} lost the job {backend.limits.attempts} times ({lost}). Completed jobs are stored: repeat the "
        "call when the server is stable."
    )


def post(backend: NdifBackend, client: Any, job: bytes) -> str:
    """Send a job; return its id."""
    import httpx
    from nnsight.intervention.backends.remote import RemoteError as ServerError
    from nnsight.schema.request import RequestModel

    request = RequestModel(model_key=backend.key, compress=client.compress, env=client.env)
    for pause in _pauses(backend):
        try:
            return str(client._post(request, job).id)
        except ServerError as error:
            cause, message = error.__cause__, cleaned(error)
        except ValueError:  # it may repeat what was sent, the key with it
            raise InputError(
                f"{backend.host} does not respond like an NDIF server of this version. Check NDIF_HOST or `remote`."
            ) from None
        status = cause.response.status_code if isinstance(cause, httpx.HTTPStatusError) else None
        if status is not None and status not in BUSY:
            raise refused(backend.host, status, message, len(job)) from None
        pause(message)
    raise AssertionError("the last pause raises")


def status(backend: NdifBackend, client: Any, job_id: str) -> str:
    """The state of a job in one word."""
    import httpx

    headers = {"ndif-api-key": client.api_key} if client.api_key else None
    for pause in _pauses(backend):
        try:
            answer = httpx.get(f"{backend.host}/response/{job_id}", headers=headers, timeout=10.0)
        except httpx.HTTPError as error:
            pause(cleaned(error) or type(error).__name__)
            continue
        return str(client.parse(answer.text).status.value.lower()) if answer.status_code == 200 else "unknown"
    raise AssertionError("the last pause raises")


def _pauses(backend: NdifBackend) -> Iterator[Callable[[str], None]]:
    """Waits of increasing length, as functions of the error message; raises when the total would exceed the limit."""
    started, delay = time.monotonic(), 0.25

    def pause(message: str) -> None:
        nonlocal delay
        if time.monotonic() - started + delay > backend.limits.patience:
            raise TransportError(
                f"{backend.host} cannot be reached: {message}. Check the address (NDIF_HOST or `remote`) and that the "
                "server is up. Completed jobs are stored."
            ) from None
        backend.told(f"waiting for {backend.host}")
        time.sleep(delay)
        delay = min(2 * delay, 15.0)

    while True:
        yield pause


def _wait(backend: NdifBackend, client: Any, job_id: str) -> tuple[Any, float]:
    """The result of a job, asked for until it is there, and for how many seconds it ran."""
    import httpx

    delay, broken, unknown, began = _SHORTEST, None, 0.0, None
    pauses = _pauses(backend)
    headers = {"ndif-api-key": client.api_key} if client.api_key else None
    with httpx.Client(timeout=httpx.Timeout(10.0, read=60.0), headers=headers) as connection:
        while True:
            now = time.monotonic()
            if broken is not None and now - broken > backend.limits.recovery:
                raise LostError("it did not end after the connection broke")
            try:
                answer = connection.get(f"{backend.host}/response/{job_id}")
                if answer.status_code in BUSY:
                    raise httpx.TransportError(f"{backend.host} answers {answer.status_code}")
                if answer.status_code == 404:
                    # The first status takes a moment to be written.
                    unknown = unknown or now
                    if now - unknown > 10.0:
                        raise LostError("the server does not know it")
                elif answer.status_code != 200:
                    raise refused(backend.host, answer.status_code, cleaned(answer.text[:300]), 0)
                else:
                    unknown = 0.0
                    response = client.parse(answer.text)
                    backend.told(response.status.value.lower())
                    if response.status.value == "RUNNING" and began is None:
                        began = now
                    if response.status.value == "ERROR":
                        raise ended(backend.host, backend.key, cleaned(response.description))
                    if response.status.value == "COMPLETED":
                        ran = time.monotonic() - (now - delay if began is None else began)
                        backend.told("fetching")
                        return client.download_result(response.data), ran
            except httpx.HTTPError as error:
                # Only the status request is repeated; the job itself continues.
                broken = broken if broken is not None else now
                next(pauses)(cleaned(error) or type(error).__name__)
                broken = max(broken, time.monotonic() - backend.limits.recovery / 2)
                continue
            pauses = _pauses(backend)
            time.sleep(delay)
            delay = min(1.2 * delay, _LONGEST)
