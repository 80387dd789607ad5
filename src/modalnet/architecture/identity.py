"""What makes a model this model: a fingerprint of its weights, its config and what encodes its inputs.

Results are stored under it, so it reads every weight, each time: a model whose weights were edited in place is another
model, and no counter of torch notices an edit through ``.data``. xxh3 reads them at the speed of memory.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

    from modalnet.architecture.loading import Loaded

_CHUNK = 1 << 26  # bytes brought to the CPU at a time, for weights that live on a GPU


def model_fingerprint(module: torch.nn.Module) -> str:
    """A hash of a model's class, config, parameters and buffers (32 hexadecimal characters)."""
    import xxhash

    digest = xxhash.xxh3_128(type(module).__name__.encode())
    config = getattr(module, "config", None)
    if config is not None:
        values = config.to_dict()
        # Where a model came from and which transformers wrote it do not change what it computes.
        for name in ("_name_or_path", "transformers_version"):
            values.pop(name, None)
        digest.update(json.dumps(values, sort_keys=True, default=str).encode())
    for name, tensor in sorted([*module.named_parameters(), *module.named_buffers()], key=lambda pair: pair[0]):
        digest.update(f"{name}:{tensor.dtype}:{tuple(tensor.shape)}:".encode())
        for piece in _bytes(tensor.detach()):
            digest.update(piece)
    return digest.hexdigest()


def _bytes(tensor: torch.Tensor) -> Iterator[Any]:
    import torch

    if tensor.device.type == "meta" or tensor.numel() == 0:
        return
    if tensor.is_complex():
        tensor = torch.view_as_real(tensor)
    for piece in tensor.contiguous().reshape(-1).view(torch.uint8).split(_CHUNK):
        yield piece.cpu().numpy().data


def encoding_fingerprint(loaded: Loaded) -> dict[str, Any]:
    """What decides how images become inputs: the image processor's settings and the processor's class."""
    parts: dict[str, Any] = {"processor": type(loaded.processor).__name__ if loaded.processor is not None else None}
    if loaded.image_processor is not None:
        settings = loaded.image_processor.to_dict() if hasattr(loaded.image_processor, "to_dict") else {}
        parts["image_processor"] = json.loads(json.dumps(settings, sort_keys=True, default=str))
    return parts
