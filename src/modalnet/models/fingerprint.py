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

    from modalnet.models.loading import Loaded

_CHUNK = 1 << 26  # bytes brought to the CPU at a time, for weights that live on a GPU


def model_fingerprint(module: torch.nn.Module) -> str:
    """A hash of a model's class, config, parameters and buffers (32 hexadecimal characters)."""
    import xxhash

    digest = xxhash.xxh3_128(type(module).__name__.encode())
    config = getattr(module, "config", None)
    if config is not None:
        digest.update(_settings(config.to_dict()).encode())
    for name, tensor in sorted([*module.named_parameters(), *module.named_buffers()], key=lambda pair: pair[0]):
        digest.update(f"{name}:{tensor.dtype}:{tuple(tensor.shape)}:".encode())
        for piece in _bytes(tensor.detach()):
            digest.update(piece)
    return digest.hexdigest()


def served_fingerprint(module: torch.nn.Module, key: str) -> str:
    """The same for a model on a server: its name there, its class, config and commit stand for the weights.

    The server may hold it in another precision from one day to the next; nothing says so.
    """
    import xxhash

    config = getattr(module, "config", None)
    known = [type(module).__name__, key, getattr(config, "_commit_hash", None)]
    known.append(_settings(config.to_dict()) if config is not None else "")
    return xxhash.xxh3_128(json.dumps(known).encode()).hexdigest()


def _bytes(tensor: torch.Tensor) -> Iterator[Any]:
    import torch

    if tensor.device.type == "meta" or tensor.numel() == 0:
        return
    if tensor.is_complex():
        tensor = torch.view_as_real(tensor)
    for piece in tensor.contiguous().reshape(-1).view(torch.uint8).split(_CHUNK):
        yield piece.cpu().numpy().data


def encoding_fingerprint(loaded: Loaded) -> dict[str, Any]:
    """What decides how images become inputs: classes and settings of the processor and the image processor."""
    parts = {"processor": loaded.processor, "image_processor": loaded.image_processor}
    return {
        name: [type(part).__name__, _settings(part.to_dict()) if hasattr(part, "to_dict") else ""]
        for name, part in parts.items()
    }


# Where a config came from, what wrote it, and the precision that it names (the weights have theirs) do not change what
# is computed, but they change when a model is saved and loaded.
_INCIDENTAL = ("_name_or_path", "architectures", "dtype", "torch_dtype", "transformers_version")


def _settings(values: dict[Any, Any]) -> str:
    """The settings of a config or processor as one string, the same for the same settings."""

    def keep(value: Any) -> Any:
        if isinstance(value, dict):
            return {str(key): keep(each) for key, each in value.items() if key not in _INCIDENTAL}
        return [keep(each) for each in value] if isinstance(value, list | tuple) else value

    return json.dumps(keep(values), sort_keys=True, default=lambda value: type(value).__name__)
