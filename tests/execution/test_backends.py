"""A backend of a third party, and what everything above the backends asks of one."""

from __future__ import annotations

import ast
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import modalnet as mn
from modalnet.execution.backends.local import LocalBackend
from modalnet.execution.backends.protocol import Backend, Capabilities

TEXTS = ["The dog runs.", "A cat sleeps here.", "The boy eats.", "Cats", "The girl waits for a dog."]


#: Where ``remote=`` is turned into a backend, and where transformers calls the code of a checkpoint remote.
CHOOSING = ("model.py", "execution/executor.py", "models/loading.py")


class Threaded(Backend):
    """Runs each program on another thread, as one job of a queue would be run, and records what it ran."""

    capabilities = Capabilities(skips_blocks=False, measures=False, input_gradients=False, jobs=True)

    def __init__(self, **changes: bool) -> None:
        self.capabilities = replace(self.capabilities, **changes)
        self.local = LocalBackend()
        self.programs: list[str] = []

    def run(self, envoy: Any, programs: Sequence[Any]) -> list[dict[str, Any]]:
        self.programs += [program.body.__name__ for program in programs]
        with ThreadPoolExecutor(1) as pool:
            return [saved for one in programs for saved in pool.submit(self.local.run, envoy, [one]).result()]


@pytest.fixture(
    params=[{}, {"jobs": False}, {"reduces": True}, {"in_place": False}, {"jobs": False, "skips_blocks": True}],
    ids=lambda changes: ",".join(changes) or "jobs",
)
def pair(request: pytest.FixtureRequest) -> tuple[mn.Model, mn.Model, Threaded]:
    backend = Threaded(**request.param)
    return mn.load("tiny"), mn.load("tiny", remote=backend), backend


def part_of(contrast: mn.Contrast, step: int) -> mn.Contrast:
    return mn.Contrast(contrast.stimuli[::step], positive=contrast.positive, negative=contrast.negative)


def test_localize_a_lesion_and_patching_are_those_of_a_local_run(pair: tuple[mn.Model, mn.Model, Threaded]) -> None:
    here, there, backend = pair
    language = part_of(mn.stimuli.language(), 12)
    found = [mn.localize(model, language, cache=False, progress=False) for model in (here, there)]
    np.testing.assert_allclose(found[1].t["decoder"], found[0].t["decoder"], rtol=1e-9, atol=1e-9)
    lesion = mn.zero(found[0].top(fraction=0.02))
    runs = [model.run(TEXTS, lesion, logits="last", tokens="mean") for model in (here, there)]
    torch.testing.assert_close(runs[1].logits, runs[0].logits, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(runs[1].residual["decoder"], runs[0].residual["decoder"], atol=1e-5, rtol=1e-5)
    scores = [model.score(TEXTS, [" dog"] * len(TEXTS), lesion).logprob for model in (here, there)]
    np.testing.assert_allclose(np.concatenate(scores[1]), np.concatenate(scores[0]), atol=1e-5)
    assert here.generate(TEXTS[0], lesion, max_new_tokens=4) == there.generate(TEXTS[0], lesion, max_new_tokens=4)
    clean, corrupt = ["The dog runs to the boy"], ["The cat runs to the boy"]
    metric = mn.patching.logit_difference([" dog"], [" cat"])
    for patching, options in ((mn.activation_patching, {"cache": False}), (mn.attribution_patching, {"cache": False})):
        grids = [
            patching(model, clean, corrupt, metric, progress=False, **options).effect["decoder"]
            for model in (here, there)
        ]
        np.testing.assert_allclose(grids[1], grids[0], atol=2e-4)
    assert {"forward", "generation"} <= set(backend.programs)


def test_it_is_what_the_model_runs_on(pair: tuple[mn.Model, mn.Model, Threaded]) -> None:
    here, there, backend = pair
    assert here.remote is None
    assert there.remote is backend
    assert there.fingerprint() == here.fingerprint()
    assert mn.load(here, remote=backend).remote is backend
    with pytest.raises(mn.InputError, match="gradients with respect to inputs"):
        there._executor.check_input_gradients()
    with pytest.raises(mn.InputError, match="`blocking` must be True"):
        mn.localize(there, part_of(mn.stimuli.language(), 24), blocking=False)


def test_only_the_backends_look_at_where_a_model_runs() -> None:
    """Nothing outside asks for a backend by its name, or whether there is one."""
    package = Path(mn.__file__).parent
    for path in sorted(package.rglob("*.py")):
        place = path.relative_to(package).as_posix()
        if place.startswith("execution/backends/"):
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            tests = [node.test] if isinstance(node, ast.If | ast.IfExp | ast.Assert) else []
            for inner in (inner for test in tests for inner in ast.walk(test)):
                named = getattr(inner, "attr", getattr(inner, "id", ""))
                assert named != "remote" or place in CHOOSING, f"{place}:{inner.lineno}"
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("modalnet.execution.backends"):
                assert node.module.rsplit(".", 1)[1] in ("accounting", "choice", "protocol", "local"), place
