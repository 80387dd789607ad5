"""Where the tests find real data and real models.

Both live outside the repository, in the folder that ``MODALNET_TEST_ASSETS`` names (default: ``shared`` beside the
repository): data as files, models as scripts ``models/build_*.py`` that write a transformers folder. A model is built
on first use into ``MODALNET_TEST_CACHE`` (default: ``~/.cache/modalnet-tests``) and kept for the runs after it.

What is absent skips the test, with the reason; a build that fails is an error.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from filelock import FileLock

REPOSITORY = Path(__file__).resolve().parents[2]


def root() -> Path:
    return Path(os.environ.get("MODALNET_TEST_ASSETS") or REPOSITORY.parent / "shared").expanduser().resolve()


def data(name: str) -> Path:
    """The file or folder `name` of the data, such as ``fedorenko2010`` or ``floc/adult``."""
    path = root() / "data" / name
    if not path.exists():
        pytest.skip(f"no test data at {path} (MODALNET_TEST_ASSETS)")
    return path


def gemma() -> Path:
    """Gemma 3 270M, a trained language model: 18 blocks, width 640."""
    return _model("gemma3_270m")


def qwen() -> Path:
    """Qwen2.5 0.5B, a second trained language model, of another family: 24 blocks, width 896."""
    return _model("qwen25_05b")


def dinov2() -> Path:
    """DINOv2 ViT-S/14, a trained vision transformer: 12 blocks, width 384."""
    return _model("dinov2_small")


def whisper() -> Path:
    """Whisper tiny.en, a trained speech recognizer: 4 blocks of width 384 in its encoder and in its decoder."""
    return _model("whisper_tiny_en")


def _model(name: str) -> Path:
    script = root() / "models" / f"build_{name}.py"
    if not script.is_file():
        pytest.skip(f"no script to build the test model at {script} (MODALNET_TEST_ASSETS)")
    cache = Path(os.environ.get("MODALNET_TEST_CACHE") or "~/.cache/modalnet-tests").expanduser()
    cache.mkdir(parents=True, exist_ok=True)
    folder, partial = cache / name, cache / f"{name}.partial"
    # One process builds while others wait; the rename at the end makes a folder that is there a whole one.
    with FileLock(cache / f"{name}.lock"):
        if not folder.exists():
            shutil.rmtree(partial, ignore_errors=True)
            subprocess.run([sys.executable, str(script), str(partial)], check=True)
            partial.rename(folder)
    return folder
