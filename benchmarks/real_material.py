"""The models and data of the real-data tests (tests/helpers/assets.py), for benchmarks to which none is given."""

from __future__ import annotations

import atexit
import shutil
import sys
import tempfile
from pathlib import Path

MODELS = ("dinov2", "gemma", "qwen")


def of_tests(what: str, option: str) -> Path:
    """The folder of a model (built on first use) or of a data set.

    Parameters
    ----------
    what
        ``"dinov2"``, ``"gemma"``, ``"qwen"``, or the name of a data set.
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


def some_of(folder: Path, every: int) -> Path:
    """A folder with every so many of the JSON files of a folder, evenly; the folder itself where that is all of them.

    A task's name, its items and their draws are those of the files, so scores of a file are the same in both.
    """
    if every == 1:
        return folder
    chosen = Path(tempfile.mkdtemp(prefix=f"{folder.name}-"))
    atexit.register(shutil.rmtree, chosen, ignore_errors=True)
    for file in sorted(one for one in folder.iterdir() if one.suffix in {".jsonl", ".json"})[::every]:
        (chosen / file.name).symlink_to(file.resolve())
    return chosen
