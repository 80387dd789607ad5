"""One NDIF server for the session, and the models that are both here and there."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from server import Server, ServerError

import assets
import modalnet as mn


@pytest.fixture(scope="session")
def ndif(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A running server that ``remote=True`` finds; a test that ends it starts it again."""
    server = Server(tmp_path_factory.mktemp("ndif"))
    try:
        server.start()
    except ServerError as error:
        server.kill()
        if os.environ.get("MODALNET_REQUIRE_REAL") == "1":
            raise
        pytest.skip(f"no NDIF server: {error}")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NDIF_HOST", server.host)
        patch.delenv("NDIF_API_KEY", raising=False)
        yield server
    server.stop()


@pytest.fixture(scope="session")
def sources(ndif: Server) -> dict[str, str]:
    """What both sides load, by name."""
    return {"tiny": "tiny", "gemma": str(assets.gemma())}


@pytest.fixture(scope="session", params=["tiny", "gemma"])
def pair(request: pytest.FixtureRequest, sources: dict[str, str]) -> tuple[mn.Model, mn.Model]:
    """The same model here and on the server."""
    source = sources[request.param]
    return mn.load(source, dtype="float32"), mn.load(source, remote=True)


@pytest.fixture(scope="session")
def tiny(sources: dict[str, str]) -> tuple[mn.Model, mn.Model]:
    """The bundled vision-language model here and on the server."""
    return mn.load("tiny", dtype="float32"), mn.load("tiny", remote=True)


@pytest.fixture
def here() -> Path:
    """The folder of these tests."""
    return Path(__file__).parent
