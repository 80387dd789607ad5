"""lmms-eval for tests, in a folder of its own.

The package asks for some fifty others (a pinned wandb, OpenCV, video decoders, servers), most of them for single
tasks. What evaluates a task beside the packages of the tests is itself and two small ones, without their dependencies.
They are kept in ``MODALNET_TEST_CACHE`` (default: ``~/.cache/modalnet-tests``); a process that has the folder on its
path has lmms-eval, and that of the tests stays as it is (lmms-eval changes file locks and SSL contexts).
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

from filelock import FileLock

PACKAGES = ("lmms-eval", "loguru", "tenacity")
PINS = Path(__file__).resolve().parents[2] / "constraints.txt"


def folder() -> Path:
    """The folder with lmms-eval, made where there is none."""
    cache = Path(os.environ.get("MODALNET_TEST_CACHE") or "~/.cache/modalnet-tests").expanduser()
    cache.mkdir(parents=True, exist_ok=True)
    target = cache / "lmms-eval"
    wanted = "\n".join(line for line in PINS.read_text().splitlines() if line.partition("==")[0] in PACKAGES)
    stamp = target / "installed.txt"
    with FileLock(cache / "lmms-eval.lock"):
        if not stamp.is_file() or stamp.read_text() != wanted:
            shutil.rmtree(target, ignore_errors=True)
            command = [sys.executable, "-m", "pip", "install", "-q", "--disable-pip-version-check", "--no-deps"]
            subprocess.run([*command, "--target", str(target), *wanted.splitlines()], check=True)
            stamp.write_text(wanted)
    return target
