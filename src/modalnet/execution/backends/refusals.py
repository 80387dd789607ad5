"""Exceptions for jobs that an NDIF server rejects or does not finish."""

from __future__ import annotations

from modalnet.errors import InputError, RemoteError, RemoteLimitError, RemoteMemoryError

#: Status codes of a server that is temporarily unavailable.
BUSY = (408, 425, 429, 500, 502, 503, 504)
#: Messages of jobs that failed for reasons other than their content.
PASSING = ("cancelled or preempted", "evicted", "could not be reached", "temporarily unavailable", "actor died")


class LostError(Exception):
    """The server does not know a job any more, or abandoned it."""


def refused(host: str, status: int, message: str, size: int) -> Exception:
    """The exception for an HTTP status.

    Parameters
    ----------
    host, status, message
        Who answered what, the API key removed.
    size
        Number of bytes that were sent.
    """
    if status in (400, 401, 403) and "key" in message.lower():
        return InputError(
            f"{host} rejects the API key ({status}). Set NDIF_API_KEY to a key of that server, or NDIF_HOST to the "
            "server of the key; nnsight.CONFIG.set_default_api_key(...) saves a key."
        )
    if status == 413:
        return RemoteLimitError(f"{host} does not accept a job of {size / 1e6:.1f} MB.")
    if status == 400 and "version" in message.lower():
        return InputError(
            f"{host} is incompatible with the installed versions: {message} Install the version that it requires."
        )
    if status in (404, 405):
        return InputError(f"{host} is not an NDIF server, or has an incompatible version: {message}. Set NDIF_HOST.")
    return RemoteError(f"{host} refused the job ({status}): {message}")


def ended(host: str, key: str, message: str) -> Exception:
    """The exception for a job that ended with an error.

    Parameters
    ----------
    host, key
        The server, and its name for the model.
    message
        What the server says, the API key removed.
    """
    low = message.lower()
    if any(words in low for words in PASSING):
        return LostError(message)
    if "out of memory" in low:
        return RemoteMemoryError(f"the job ran out of memory on {host}: {_last_line(message)}")
    if "execution timeout" in low or "timed out" in low:
        return RemoteLimitError(f"the job took longer than {host} allows: {_last_line(message)}")
    if "deploy" in low and "traceback" not in low:
        return RemoteError(
            f"{host} does not serve {key}: {' '.join(message.split())} Check the name; nnsight.ndif_status() lists "
            "the available models."
        )
    return RemoteError(f"the job failed on {host}: {message}")


def _last_line(message: str) -> str:
    return (message.strip().splitlines() or [""])[-1]
