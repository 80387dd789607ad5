"""The models and data of the real-data tests (tests/helpers/assets.py), for benchmarks to which none is given."""

from __future__ import annotations

import sys
from pathlib import Path

MODELS = ("dinov2", "gemma")


def of_tests(what: str, option: str) -> Path:
    """The folder of a model (built on first use) or of a data set.

    Parameters
    ----------
    what
        ``"dinov2"``, ``"gemma"``, or the name of a data set.
    option
        What would have named another one, for the message.
    """
    sys.path.append(str(Path(__file__).resolve().parents[1] / "tests" / "helpers"))
    try:
        import pytest

        import assets
    except ImportError as error:
        raise SystemExit(f"{option} is not given, and the tests' own cannot be found: {error}.") from error
    try:
        return getattr(assets, what)() if what in MODELS else assets.data(what)
    except pytest.skip.Exception as reason:
        raise SystemExit(f"Give {option}: {reason}.") from None
