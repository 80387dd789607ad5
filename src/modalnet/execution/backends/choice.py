"""From ``remote=`` to a backend. This is the only place where it is looked at."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeAlias

from modalnet._validation import refusal
from modalnet.execution.backends.local import LocalBackend
from modalnet.execution.backends.ndif import NdifBackend
from modalnet.execution.backends.protocol import Backend, Capabilities
from modalnet.execution.backends.simulated import SimulatedBackend
from modalnet.models.loading import Loaded, served_as

#: Where a model runs: False for here, True for the configured NDIF server, its address, ``"local"`` for a dry run of
#: one, or a backend.
RemoteLike: TypeAlias = bool | str | Backend


def checked(remote: RemoteLike) -> RemoteLike:
    """``remote=`` as the user gave it; an InputError for anything that names no backend."""
    if isinstance(remote, bool) or remote == "local":
        return remote
    if isinstance(remote, str) and remote.startswith(("http://", "https://")):
        return remote
    if isinstance(remote, Backend) and not isinstance(remote, type):
        return remote
    raise refusal(
        "remote",
        "False, True (the server that NDIF_HOST names), 'local' (a dry run here), the address of a server "
        "(http://... or https://...) or a backend",
        remote,
    )


def capabilities_of(remote: RemoteLike) -> Capabilities:
    """What the backend that ``remote`` names can do."""
    if isinstance(remote, Backend):
        return remote.capabilities
    if not remote:
        return LocalBackend.capabilities
    return SimulatedBackend.capabilities if remote == "local" else NdifBackend.capabilities


def named_by_server(remote: RemoteLike) -> bool:
    """Whether a server has to know the model by a name of its own."""
    return bool(remote) and not isinstance(remote, Backend)


def chosen(remote: RemoteLike, loaded: Loaded) -> Backend:
    """The backend that ``remote`` names, for one model.

    Raises
    ------
    InputError
        For an unknown ``remote``; where a server cannot be told which model this is, or cannot be reached as set up.
    """
    remote = checked(remote)
    if isinstance(remote, Backend):
        return remote
    if not remote:
        return LocalBackend()
    key, env = loaded.served or served_as(loaded)
    return SimulatedBackend(key, env) if remote == "local" else NdifBackend(key, remote, env)


def is_at(backend: Backend, remote: RemoteLike) -> bool:
    """Whether a backend is the one that ``remote`` names."""
    return backend is remote or (not isinstance(remote, Backend) and remote == getattr(backend, "mode", False))


def restored(description: Mapping[str, Any]) -> NdifBackend:
    """The backend that :meth:`~modalnet.execution.backends.protocol.DeferredBackend.to_dict` described."""
    return NdifBackend(**description)
