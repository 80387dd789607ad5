"""A server that runs jobs apart from the model, as NDIF does with those of strangers, gives the same."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
from server import Server

import assets
import modalnet as mn

pytestmark = [pytest.mark.ndif, pytest.mark.timeout(600)]

TEXTS = [f"word {number} and more" for number in range(6)]


@pytest.fixture(scope="module")
def apart(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    server = Server(tmp_path_factory.mktemp("apart"), apart=True)
    try:
        server.start()
        yield server
    finally:
        server.stop()


@pytest.fixture(scope="module", params=["tiny", "gemma"])
def pair(apart: Server, request: pytest.FixtureRequest) -> tuple[mn.Model, mn.Model]:
    source = "tiny" if request.param == "tiny" else str(assets.gemma())
    return mn.load(source, dtype="float32"), mn.load(source, remote=apart.host)


def test_several_passes_in_one_job(pair: tuple[mn.Model, mn.Model]) -> None:
    one, other = (model.run(TEXTS, batch_size=3) for model in pair)
    assert float((one.residual["decoder"] - other.residual["decoder"]).abs().max()) <= 1e-5
    there = pair[1].remote
    assert there is not None
    assert len(there.jobs) == 1


def test_edits_scores_and_words(pair: tuple[mn.Model, mn.Model]) -> None:
    lesion = mn.zero(mn.site("decoder", 2)).at("last")
    one, other = (model.run(TEXTS, lesion, logits="last") for model in pair)
    assert float((one.logits - other.logits).abs().max()) <= 1e-5 * max(1.0, float(one.logits.abs().max()))
    one, other = (model.score(TEXTS, [" more"] * len(TEXTS), lesion) for model in pair)
    assert np.allclose(np.concatenate(one.logprob), np.concatenate(other.logprob), atol=1e-5)
    one, other = (model.generate(TEXTS[0], max_new_tokens=3) for model in pair)
    assert one == other


def test_localize(pair: tuple[mn.Model, mn.Model]) -> None:
    language = mn.stimuli.language()
    chosen = mn.Contrast(language.stimuli[::10], positive=language.positive, negative=language.negative)
    one, other = (mn.localize(model, chosen, batch_size=6, cache=False, progress=False) for model in pair)
    assert np.nanmax(np.abs(one.t["decoder"] - other.t["decoder"])) <= 1e-5
