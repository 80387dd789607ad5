"""Rules for every test: no network, a result store of its own, and no silent skips where they would hide something.

With ``MODALNET_REQUIRE_REAL=1``, as in CI, a test marked `real` or `ndif` that is skipped fails, and so does a session
in which no real one ran. Tests marked `ndif` start a server of their own (tests/ndif).
"""

from __future__ import annotations

import os
from collections.abc import Generator

import pytest

# Before anything imports huggingface_hub, which reads them once.
os.environ |= {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}

REQUIRE_REAL = os.environ.get("MODALNET_REQUIRE_REAL") == "1"
real_tests_that_ran = pytest.StashKey[int]()


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> Generator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MODALNET_CACHE", str(tmp_path_factory.mktemp("modalnet-cache")))
        yield


def pytest_configure(config: pytest.Config) -> None:
    config.stash[real_tests_that_ran] = 0


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    served = item.get_closest_marker("ndif")
    if item.get_closest_marker("real") or served:
        if report.skipped and REQUIRE_REAL and not hasattr(report, "wasxfail"):
            report.outcome = "failed"
            report.longrepr = f"a test on real input was skipped: {report.longrepr}"
        elif report.when == "call" and not served:
            item.config.stash[real_tests_that_ran] += 1
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report() -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    report = yield
    if report.skipped and REQUIRE_REAL:
        report.outcome = "failed"
        report.longrepr = f"a whole file was skipped, and nobody sees what is in it: {report.longrepr}"
    return report


def _real_is_missing(config: pytest.Config) -> bool:
    return REQUIRE_REAL and not config.option.collectonly and not config.stash[real_tests_that_ran]


@pytest.hookimpl(tryfirst=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    if _real_is_missing(session.config) and session.exitstatus == pytest.ExitCode.OK:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if _real_is_missing(terminalreporter.config):
        terminalreporter.write_line("MODALNET_REQUIRE_REAL: no test marked `real` ran: failed", red=True)
