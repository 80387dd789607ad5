"""The residual stream of a tower: its width, how many streams run side by side, and tokens that parameters hold."""

from __future__ import annotations

import re
from collections import Counter
from typing import Any

from modalnet.errors import InputError


def plain(module: Any) -> Any:
    """The transformers module behind a TransformerLens bridge component, or the module itself."""
    return getattr(module, "original_component", module)


def norm_width(block: Any) -> int | None:
    """Size of the first normalization that sits directly in a block: the width of the stream it normalizes."""
    for child in map(plain, plain(block).children()):
        if "norm" in type(child).__name__.lower():
            weight = getattr(child, "weight", None)
            if weight is not None and weight.dim() == 1:
                return int(weight.shape[0])
    return None


def width_of(blocks: list[Any], root: Any) -> int:
    """Width of the residual stream.

    The block's own normalization says it for certain. A config does not: Qwen2-VL calls the width of what its
    vision tower hands on ``hidden_size``. Without one, it is the number that a block's matrices share.
    """
    width = stream_width(blocks[0])
    if width is not None:
        return width
    config = getattr(root, "config", None)
    for name in ("embed_dim", "hidden_size", "d_model", "n_embd", "width"):
        value = getattr(config, name, None)
        if isinstance(value, int):
            return value
    raise InputError(
        f"the width of the residual stream of {type(blocks[0]).__name__} could not be determined: it has no "
        "normalization layer and its config names no hidden size."
    )


def stream_width(block: Any) -> int | None:
    """Width of the stream that a block reads and writes: most of its matrices begin or end there."""
    width = norm_width(block)
    if width is not None:
        return width
    ends: Counter[int] = Counter()
    for sub in plain(block).modules():
        weight: Any = getattr(sub, "weight", None)
        if getattr(weight, "ndim", 0) == 2:
            ends.update({int(weight.shape[0]), int(weight.shape[1])})
    if ends:
        return max(ends.items(), key=lambda pair: (pair[1], -pair[0]))[0]
    return next((width for sub in plain(block).modules() if (width := norm_width(sub)) is not None), None)


# What configs call the number of residual streams that blocks mix and write back: in hyper-connections, and in AltUp,
# which stacks them along the first dimension.
_STREAMS = re.compile(r"^(hc_(count|mult)|num_residual_streams|(?P<first>altup)_num_inputs)$")


def streams_of(root: Any) -> tuple[int, bool]:
    """How many residual streams the blocks of a tower carry side by side, and whether along the first dimension."""
    config: Any = getattr(root, "config", None)
    config = config.get_text_config() if hasattr(config, "get_text_config") else config
    for name, value in vars(config).items() if config is not None else ():
        match = _STREAMS.match(name)
        if match and isinstance(value, int) and value > 1:
            return value, match["first"] is not None
    return 1, False


_CLASS_TOKEN = re.compile(r"^(cls|class)_?(token|embedding|embeddings)?$")
_REGISTERS = re.compile(r"^register_?tokens?$")


def prefix_tokens(root: Any, inside_blocks: set[int]) -> tuple[bool, int]:
    """Class and register tokens of a vision tower, by the names of parameters of its embeddings, outside the blocks."""
    has_cls, n_registers = False, 0
    for sub in root.modules():
        if id(sub) in inside_blocks:
            continue
        for name, parameter in sub.named_parameters(recurse=False):
            if _CLASS_TOKEN.match(name):
                has_cls = True
            elif _REGISTERS.match(name) and parameter.dim() >= 2:
                n_registers = int(parameter.shape[-2])
    return has_cls, n_registers
