"""A dry run of a server in this process: ``remote="local"``.

Every job is serialized as for a server, deserialized without modalnet as on a server, and run on the module in this
process. This detects jobs that cannot be sent without a server; it does not reproduce behaviour that only a real server
has (such as losing writes to an outer variable).
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from modalnet.execution.backends.accounting import Account, Job, Limits
from modalnet.execution.backends.session import SessionBackend
from modalnet.execution.shipping import by_value
from modalnet.execution.turns import turn

if TYPE_CHECKING:
    from nnsight import Envoy


class SimulatedBackend(Account, SessionBackend):
    """Writes every job, reads it without modalnet, and runs it here.

    Parameters
    ----------
    key
        How a server would name the model.
    limits
        See :class:`~modalnet.execution.backends.accounting.Limits`.
    """

    capabilities = replace(SessionBackend.capabilities, weights_here=True)
    mode = "local"

    def __init__(self, key: str = "", env: Mapping[str, Any] | None = None, limits: Limits | None = None) -> None:
        super().__init__(limits)
        self.key = key
        self.env = dict(env or {})

    def nnsight_backend(self, envoy: Envoy) -> Any:
        """A backend of nnsight that writes, reads and runs a session."""
        return _simulation(self, envoy)


def _simulation(account: Account, envoy: Envoy) -> Any:
    import linecache

    from nnsight.intervention.backends.local import LocalSimulationBackend
    from nnsight.schema.request import RequestModel
    from nnsight.tracing.tracer import _saves, dec, inc, save
    from nnsight.tracing.util import push

    class Simulation(LocalSimulationBackend):
        """A job that is written, read without modalnet, and run from what was read."""

        def __call__(self, tracer: Any) -> None:
            with turn(envoy._module):
                self._run(tracer)

        def _run(self, tracer: Any) -> None:
            started = time.monotonic()
            with by_value():
                job = RequestModel.serialize(tracer, compress=True)
            objects = {"Interleaver": envoy.interleaver}
            objects |= {f"Module:{each.path}": each._module for each in envoy.modules()}
            filename = tracer.info.frame.f_code.co_filename
            line = linecache.cache.get(filename)
            try:
                with _without_modalnet():
                    restored = RequestModel.deserialize(job, objects, compress=True)
                inc()
                try:
                    restored.execute(restored.info.code)
                    saves = _saves()
                    saved = {name: v for name, v in restored.info.frame.f_locals.items() if id(v) in saves}
                finally:
                    dec()
            finally:
                # What was read stands under this file's name now; the file itself is what later jobs are written from.
                linecache.cache.pop(filename, None)
                if line is not None:
                    linecache.cache[filename] = line
            took = time.monotonic() - started
            account.jobs.append(Job("local", len(job), 0, took, took, 1))
            for value in saved.values():
                save(value)
            push(tracer.info.frame, saved)

    return Simulation(envoy._module)


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

    sys.meta_path.insert(0, Absent)
    try:
        yield
    finally:
        sys.meta_path.remove(Absent)
        sys.modules.update(hidden)
