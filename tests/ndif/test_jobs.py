"""Jobs on a real NDIF server: how many, how large, and what a broken server costs."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import zipfile
from pathlib import Path

import numpy as np
import pytest
from server import Server

import modalnet as mn
from modalnet.errors import RemoteError, TransportError

pytestmark = [pytest.mark.ndif, pytest.mark.timeout(600)]


def part(step: int) -> mn.Contrast:
    language = mn.stimuli.language()
    return mn.Contrast(language.stimuli[::step], positive=language.positive, negative=language.negative)


def test_a_localization_is_few_jobs_and_few_bytes(sources: dict[str, str]) -> None:
    model = mn.load(sources["gemma"], remote=True)
    mn.localize(model, part(3), cache=False, progress=False)
    assert model.remote is not None
    sent = model.remote.sent
    assert sent["jobs"] <= 3
    assert sent["bytes_up"] < 200_000
    units = model.towers["decoder"].n_units
    assert sent["bytes_down"] <= sent["jobs"] * 21 * units * 16 * 1.1


def test_a_finished_job_is_not_done_again(sources: dict[str, str], tmp_path: Path) -> None:
    contrast = part(4)
    model = mn.load("tiny", remote=True)
    assert model.remote is not None
    model.remote.limits.seconds = 0.0  # one batch a job
    whole = mn.localize(model, contrast, batch_size=8, cache=False, progress=False)
    jobs = len(model.remote.jobs)
    engine = model._executor.engine
    sent = engine.reduce

    def breaking(*args: object, **options: object) -> object:
        if len(model.remote.jobs) >= jobs + jobs // 2:  # type: ignore[union-attr]
            raise KeyboardInterrupt
        return sent(*args, **options)  # type: ignore[arg-type]

    engine.reduce = breaking  # type: ignore[method-assign, assignment]
    with pytest.raises(KeyboardInterrupt):
        mn.localize(model, contrast, batch_size=8, cache=tmp_path, progress=False)
    done = len(model.remote.jobs) - jobs
    engine.reduce = sent  # type: ignore[method-assign]
    again = mn.localize(model, contrast, batch_size=8, cache=tmp_path, progress=False)
    total = len(model.remote.jobs)
    assert 2 * jobs - 1 <= total <= 2 * jobs  # the first job of a call takes two batches
    assert 0 < done < jobs
    assert np.nanmax(np.abs(again.t["decoder"] - whole.t["decoder"])) < 1e-9
    # What was kept of the parts is gone, and the whole is answered without a job.
    assert len(list(tmp_path.glob("*.safetensors"))) == 1
    mn.localize(model, contrast, batch_size=8, cache=tmp_path, progress=False)
    assert len(model.remote.jobs) == total


def test_a_job_is_picked_up_by_its_id(ndif: Server, sources: dict[str, str], tmp_path: Path) -> None:
    contrast = part(4)
    model = mn.load("tiny", remote=True)
    handle = mn.localize(model, contrast, batch_size=4, blocking=False, cache=tmp_path, progress=False)
    assert handle.status()
    script = (
        "import modalnet as mn\n"
        f"job = mn.LocalizationJob.from_id({handle.id!r}, cache={str(tmp_path)!r})\n"
        "found = job.result()\n"
        "print(job.status(), float(abs(found.t['decoder']).max()))\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    state, largest = done.stdout.split()
    expected = mn.localize(mn.load("tiny", dtype="float32"), contrast, cache=False, progress=False)
    assert state == "completed"
    assert float(largest) == pytest.approx(float(np.abs(expected.t["decoder"]).max()), abs=1e-5)
    # What the other process put into the store answers here.
    jobs = len(model.remote.jobs)  # type: ignore[union-attr]
    again = mn.localize(model, contrast, cache=tmp_path, progress=False)
    assert len(model.remote.jobs) == jobs  # type: ignore[union-attr]
    assert np.nanmax(np.abs(again.t["decoder"] - expected.t["decoder"])) < 1e-5
    assert handle.result().n == expected.n
    handle.forget()
    assert not list((tmp_path / "jobs").iterdir())


def test_an_error_of_the_model_is_told_at_once(sources: dict[str, str]) -> None:
    model = mn.load("tiny", remote=True)
    with pytest.raises(RemoteError, match="no_such_setting"):
        model.generate("a", no_such_setting=3)
    assert all(job.attempts == 1 for job in model.remote.jobs)  # type: ignore[union-attr]


def test_a_server_that_is_not_there(ndif: Server) -> None:
    model = mn.load("tiny", remote="http://127.0.0.1:9")
    assert model.remote is not None
    model.remote.limits.patience = 1.0
    with pytest.raises(TransportError, match=r"cannot be reached.*NDIF_HOST"):
        model.run("a")


def test_a_model_that_is_not_there(ndif: Server, tmp_path: Path, sources: dict[str, str]) -> None:
    import shutil

    from modalnet.models.loading import BUNDLED

    shutil.copytree(BUNDLED, tmp_path / "gone")
    model = mn.load(tmp_path / "gone", remote=True)
    shutil.rmtree(tmp_path / "gone")
    with pytest.raises(RemoteError, match="gone"):
        model.run("a")


def test_a_client_that_is_too_old(ndif: Server, sources: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    from nnsight.intervention.backends import remote

    model = mn.load("tiny", remote=True)
    monkeypatch.setattr(remote, "_NNSIGHT_VERSION", "0.5.0")
    with pytest.raises(mn.InputError, match=r"0\.5\.0 is below the minimum.*pip install --upgrade nnsight"):
        model.run("a")


def test_pairs_are_differenced_on_the_server(sources: dict[str, str], tmp_path: Path) -> None:
    language = mn.stimuli.language(24, items=True)
    numbers = np.random.default_rng(0).standard_normal(48)
    adjusted = mn.Contrast(language.stimuli, language.positive, language.negative, covariates={"rating": numbers})
    here, there = mn.load("tiny", dtype="float32"), mn.load("tiny", remote=True)
    for contrast in (language, adjusted):
        handle = mn.localize(there, contrast, batch_size=8, blocking=False, cache=tmp_path, progress=False)
        found = mn.LocalizationJob.from_id(handle.id, cache=tmp_path).result()
        expected = mn.localize(here, contrast, cache=False, progress=False)
        assert found.test == expected.test == "paired"
        assert np.nanmax(np.abs(found.t["decoder"] - expected.t["decoder"])) < 1e-3
        again = mn.localize(there, contrast, cache=False, progress=False)
        assert np.nanmax(np.abs(again.t["decoder"] - expected.t["decoder"])) < 1e-3


def test_from_a_zip(ndif: Server, sources: dict[str, str], tmp_path: Path) -> None:
    """The code that is sent is found wherever modalnet is imported from."""
    package = Path(mn.__file__).parent
    with zipfile.ZipFile(tmp_path / "modalnet.zip", "w") as archive:
        for path in [*package.rglob("*.py"), *package.rglob("*.pyi")]:
            archive.write(path, path.relative_to(package.parent))
    script = (
        "import modalnet as mn, sys\n"
        "assert '.zip' in mn.__file__, mn.__file__\n"
        f"model = mn.load({sources['gemma']!r}, remote=True)\n"
        "print(float(model.run('A dog').residual['decoder'].abs().sum()))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        env={**os.environ, "PYTHONPATH": str(tmp_path / "modalnet.zip"), "NDIF_HOST": ndif.host},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    expected = float(mn.load(sources["gemma"], dtype="float32").run("A dog").residual["decoder"].abs().sum())
    assert float(done.stdout) == pytest.approx(expected, rel=1e-5)


def test_a_server_that_dies_in_the_middle_of_a_job(ndif: Server, sources: dict[str, str]) -> None:
    contrast = part(2)
    expected = mn.localize(mn.load("tiny", dtype="float32"), contrast, cache=False, progress=False)
    model = mn.load("tiny", remote=True)
    assert model.remote is not None
    model.remote.limits.recovery = 5.0
    found: list[mn.Localization] = []
    states: list[str] = []
    killed = threading.Event()

    def work() -> None:
        found.append(mn.localize(model, contrast, batch_size=16, cache=False, progress=False))

    from modalnet.execution.backends import transport

    post = transport.post

    def watched(*args: object) -> str:
        job = post(*args)  # type: ignore[arg-type]
        if len(model.remote.jobs) == 1 and not killed.is_set():  # type: ignore[union-attr]
            ndif.kill()
            killed.set()
        states.append(job)
        return job

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(transport, "post", watched)
        thread = threading.Thread(target=work)
        thread.start()
        assert killed.wait(120)
        ndif.start()
        thread.join(240)
    assert found
    assert max(job.attempts for job in model.remote.jobs) == 2
    assert np.nanmax(np.abs(found[0].t["decoder"] - expected.t["decoder"])) < 1e-5
