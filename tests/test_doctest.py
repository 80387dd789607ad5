"""The examples in docstrings run, on the bundled model where they need one."""

from __future__ import annotations

import doctest
import importlib.util
import pkgutil
from typing import Any

import numpy as np
import pytest

import modalnet as mn

#: Modules with a subclass of an optional library's class.
NEEDS = {"modalnet.interop.lesioned": "lm_eval", "modalnet.interop.lesioned_lmm": "lmms_eval"}
FLAGS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE


def examples() -> list[doctest.DocTest]:
    finder, found = doctest.DocTestFinder(exclude_empty=True), []
    for module in pkgutil.walk_packages(mn.__path__, "modalnet."):
        absent = module.name in NEEDS and importlib.util.find_spec(NEEDS[module.name]) is None
        if not module.name.endswith("__main__") and not absent:
            found += finder.find(importlib.import_module(module.name), extraglobs={"mn": mn, "np": np})
    # Names of the package root are found in their own modules; here its docstring alone is meant.
    found += doctest.DocTestFinder(exclude_empty=True, recurse=False).find(mn, extraglobs={"np": np})
    return [test for test in found if test.examples]


@pytest.fixture(scope="module")
def tiny() -> mn.Model:
    return mn.load("tiny")


@pytest.mark.parametrize("test", [pytest.param(test, id=test.name.removeprefix("modalnet.")) for test in examples()])
def test_example(
    test: doctest.DocTest, tiny: mn.Model, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    # Loaded once for all; everything else is as a reader would type it.
    load = mn.load

    def load_once(source: str, **options: Any) -> mn.Model:
        return tiny if source == "tiny" and not options else load(source, **options)

    monkeypatch.setattr(mn, "load", load_once)
    result = doctest.DocTestRunner(optionflags=FLAGS).run(test, clear_globs=False)
    assert result.failed == 0, capsys.readouterr().out
