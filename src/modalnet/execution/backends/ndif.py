"""Jobs on an NDIF server.

A session is serialized once and posted; its status is then requested by the id of the job, so that after a broken
connection only the status request is repeated. A job that the server lost is posted again; a job that failed is not, as
it would fail again.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from modalnet.errors import InputError, RemoteLimitError
from modalnet.execution.backends import transport
from modalnet.execution.backends.accounting import Account, Limits
from modalnet.execution.backends.session import SessionBackend
from modalnet.execution.shipping import by_value

if TYPE_CHECKING:
    from nnsight import Envoy

    from modalnet.execution.compile import Program
    from modalnet.execution.reduction import Reduction, Sums

PUBLIC_HOST = "https://api.ndif.us"


class NdifBackend(Account, SessionBackend):
    """Runs programs on an NDIF server.

    Parameters
    ----------
    key
        Names the model on the server: nnsight's class and the checkpoint.
    mode
        True for the host that NDIF_HOST names, else nnsight's configured one; or the address of a server.
    env
        What the server sets up on the model before a job.
    limits
        See :class:`~modalnet.execution.backends.accounting.Limits`.

    Raises
    ------
    InputError
        Where the host or the API key cannot be right; it says what to set.
    """

    capabilities = replace(SessionBackend.capabilities, weights_here=False, deferred=True)

    def __init__(
        self,
        key: str,
        mode: bool | str = True,
        env: Mapping[str, Any] | None = None,
        limits: Limits | None = None,
    ) -> None:
        super().__init__(limits)
        self.key = key
        self.mode = mode
        self.env = dict(env or {})
        self._written: list[bytes] | None = None  # while it is a list, jobs are written into it and not sent
        self.check()

    def __repr__(self) -> str:
        return f"NdifBackend({self.host!r}, {self.key!r})"

    @property
    def host(self) -> str:
        """The address of the server."""
        from nnsight.schema.config import CONFIG

        if isinstance(self.mode, str):
            return self.mode.rstrip("/")
        return str(os.environ.get("NDIF_HOST") or CONFIG.API.HOST or PUBLIC_HOST).rstrip("/")

    def where(self) -> str:
        """The address of the server."""
        return self.host

    def check(self) -> None:
        """Raise an InputError that says what to set where the host or the key cannot be right."""
        if not self.host.startswith(("http://", "https://")):
            raise InputError(
                f"The address of an NDIF server must start with http:// or https://, got {self.host!r}. Set NDIF_HOST "
                "or `remote`."
            )
        if self.host == PUBLIC_HOST and not transport.api_key():
            raise InputError(
                f"{PUBLIC_HOST} requires an API key, and none is set. Get one at https://login.ndif.us, then set "
                "NDIF_API_KEY or call nnsight.CONFIG.set_default_api_key(...) once. For another server, set NDIF_HOST."
            )

    def nnsight_backend(self, envoy: Envoy) -> Any:
        """A backend of nnsight that writes a session, and sends it unless it is only written."""
        return self._client()

    # -- jobs for later ----------------------------------------------------------------------------------------------

    def write(self, envoy: Envoy, programs: Sequence[Program], reductions: Sequence[Reduction]) -> bytes:
        """Write a job that reduces what programs read, without sending it."""
        self._written = []
        try:
            self._session(envoy, programs, reductions)
            return self._written[0]
        finally:
            self._written = None

    def submit(self, job: bytes) -> str:
        """Send a job that was written; return its id."""
        return transport.post(self, self._client(), job)

    def status(self, job_id: str) -> str:
        """The state of a job in one word, such as ``"queued"``, ``"running"``, ``"completed"`` or ``"unknown"``."""
        return transport.status(self, self._client(), job_id)

    def fetch(self, job_id: str, job: bytes) -> tuple[Sums, str]:
        """Wait for the result of a job; one that was lost is sent again. Also return the id that it ended under."""
        result, ended = transport.carry(self, self._client(), job, job_id)
        return result["sums"], ended

    def to_dict(self) -> Mapping[str, Any]:
        """What restores the backend in another process; the API key is not among it."""
        return {"key": self.key, "mode": self.host, "env": self.env}

    def _client(self) -> Any:
        """nnsight's own writing and reading of jobs, with modalnet's way of waiting."""
        from nnsight.intervention.backends.remote import RemoteBackend

        backend = self

        class Client(RemoteBackend):
            down = 0

            def __call__(self, tracer: Any = None) -> Any:
                with by_value():
                    job = self._serialize(tracer)
                if len(job) > backend.limits.megabytes * 1e6:
                    raise RemoteLimitError(
                        f"The job has {len(job) / 1e6:.1f} MB, more than model.remote.limits.megabytes = "
                        f"{backend.limits.megabytes:g}."
                    )
                if backend._written is not None:
                    backend._written.append(job)
                    return None
                result, _ = transport.carry(backend, self, job)
                if isinstance(result, dict):
                    self._push(result, tracer)
                return result

            def finalize(self, content: bytes) -> Any:
                self.down = len(content)
                return super().finalize(content)

        self.check()
        client = Client(self.key, host=self.host, api_key=transport.api_key(), env=self.env, blocking=False)
        client.display.enabled = False
        return client
