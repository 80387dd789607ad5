"""Rules for every test: no network, a result store of its own, and no silent skips where they would hide something.

With ``MODALNET_CHECK_TYPES=1`` every function of modalnet checks its annotations (tests/helpers/runtime_types.py).
With ``MODALNET_REQUIRE_REAL=1``, as in CI, a test marked `real`, `ndif` or `browser` that is skipped fails, and so does
a session in which no real one ran. Tests marked `ndif` start a server of their own (tests/ndif), those marked `browser`
open pages in a headless Chromium (tests/browser).
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Generator
from typing import Any

import pytest

import runtime_types

# Before anything imports huggingface_hub, which reads them once.
os.environ |= {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}

if os.environ.get("MODALNET_CHECK_TYPES") == "1":
    runtime_types.install()

REQUIRE_REAL = os.environ.get("MODALNET_REQUIRE_REAL") == "1"
real_tests_that_ran = pytest.StashKey["RealTests"]()


class RealTests:
    """How many tests marked `real` ran, in this process or in those that it started."""

    def __init__(self) -> None:
        self.ran = 0

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self.ran += report.when == "call" and "real" in report.keywords and not report.skipped


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> Generator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MODALNET_CACHE", str(tmp_path_factory.mktemp("modalnet-cache")))
        yield


@pytest.fixture(autouse=True)
def _no_open_figures() -> Generator[None]:
    """Figures are closed with the test that drew them: matplotlib warns of many, whichever test drew the last."""
    yield
    if "matplotlib.pyplot" in sys.modules:
        sys.modules["matplotlib.pyplot"].close("all")


def pytest_runtest_setup() -> None:
    runtime_types.next_test()


@pytest.fixture(scope="module", autouse=True)
def _models_of_a_file() -> None:
    """Only the models that its own tests use are looked at after each of these."""
    if "shared_models" in sys.modules:  # as it is with the first family that is built
        sys.modules["shared_models"].in_this_file.clear()


@pytest.fixture(autouse=True)
def _shared_models_stay_as_they_are() -> Generator[None]:
    yield
    if "shared_models" in sys.modules:
        changed = sys.modules["shared_models"].changes()
        assert not changed, f"This test changed a model that other tests share: {', '.join(changed)}."


def pytest_configure(config: pytest.Config) -> None:
    config.stash[real_tests_that_ran] = counted = RealTests()
    config.pluginmanager.register(counted)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.suffix == ".ipynb":
            item.add_marker("notebook")


#: The files that take longest come first, so that none of them runs alone at the end.
LONGEST = ("tests/bundled/test_tiny.py", "tests/study/test_study.py", "tests/cli/test_cli.py")


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Where tests run in several processes, those of a file share one, and there is one server.

    Every architecture is built anew, so these need not stay together.
    """
    from xdist.scheduler import LoadScopeScheduling

    class ByFile(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            path = nodeid.partition("::")[0]
            return nodeid if "/architectures/" in path else "ndif" if "/ndif/" in path else path

        def _assign_work_unit(self, node: Any) -> None:
            for path in reversed(LONGEST):
                if path in self.workqueue:
                    self.workqueue.move_to_end(path, last=False)
            super()._assign_work_unit(node)

    return ByFile(config, log)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    must_run = any(item.get_closest_marker(name) for name in ("real", "ndif", "browser"))
    if must_run and report.skipped and REQUIRE_REAL and not hasattr(report, "wasxfail"):
        report.outcome = "failed"
        report.longrepr = f"a test that must run was skipped: {report.longrepr}"
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report() -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    report = yield
    if report.skipped and REQUIRE_REAL:
        report.outcome = "failed"
        report.longrepr = f"a whole file was skipped, and nobody sees what is in it: {report.longrepr}"
    return report


def _real_is_missing(config: pytest.Config) -> bool:
    worker = hasattr(config, "workerinput")  # one of several processes, which need not run a real test each
    # A run that leaves out the real tests on purpose is followed by one of the others (scripts/test.sh).
    left_out = config.option.markexpr.startswith("not (real")
    required = REQUIRE_REAL and not worker and not left_out and not config.option.collectonly
    return required and not config.stash[real_tests_that_ran].ran


@pytest.hookimpl(tryfirst=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    if _real_is_missing(session.config) and session.exitstatus == pytest.ExitCode.OK:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if _real_is_missing(terminalreporter.config):
        terminalreporter.write_line("MODALNET_REQUIRE_REAL: no test marked `real` ran: failed", red=True)


@pytest.fixture
def no_installs(monkeypatch: pytest.MonkeyPatch) -> Generator[list[str]]:
    """Commands that would install something: none gets through, and the test fails where one was tried.

    A library may swallow the error that it gets, so what was tried is looked at when the test is over. A test that
    means to try empties the list.
    """
    tried: list[str] = []

    class Guarded(subprocess.Popen):  # type: ignore[type-arg]
        def __init__(self, args: Any, *rest: Any, **options: Any) -> None:
            command = args if isinstance(args, str) else " ".join(map(str, args))
            if "install" in command:
                tried.append(command)
                raise OSError(f"a test may install nothing: {command}")
            super().__init__(args, *rest, **options)

    monkeypatch.setattr(subprocess, "Popen", Guarded)
    yield tried
    assert tried == []
