"""How many attention heads an attention module has, from its attributes and config, held against its matrices."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import product
from typing import Any

from modalnet.models.streams import plain

# Names in attention modules and configs, those first that mean the heads whose parts enter the output projection.
_COUNTS = (
    "num_v_heads",
    "linear_num_value_heads",
    "num_heads",
    "num_attention_heads",
    "n_heads",
    "n_head",
    "nhead",
    "num_attn_heads",
    "attention_heads",
    "encoder_attention_heads",
    "decoder_attention_heads",
)
_SIZES = (
    "head_v_dim",
    "linear_value_head_dim",
    "v_head_dim",
    "head_dim",
    "attention_head_size",
    "dim_head",
    "dim_per_head",
    "head_size",
    "key_value_proj_dim",
    "d_kv",
    "depth",
)


def head_count(attention: Any, block: Any, n_in: int) -> int | None:
    """Number of heads whose parts, side by side, are the input of an attention's output projection.

    Parameters
    ----------
    attention, block
        The attention module, and the block that it is in.
    n_in
        How many numbers enter the output projection for each token.

    Returns
    -------
    int or None
        None where neither modules nor configs say it in agreement with ``n_in``.
    """
    modules = [plain(module) for module in attention.modules()]
    configs = [module.config for module in (plain(attention), plain(block)) if hasattr(module, "config")]
    for holders in (modules, configs, [*modules, *configs]):
        counts, sizes = _numbers(holders, _COUNTS), _numbers(holders, _SIZES)
        for count, size in product(counts, sizes):
            if count * size == n_in:
                return count
    # A count or a size alone: of heads with a width that no attribute names.
    for holders in (modules, configs):
        counts, sizes = _numbers(holders, _COUNTS), _numbers(holders, _SIZES)
        whole = [count for count in counts if n_in % count == 0]
        if whole and not sizes:
            return whole[0]
        if sizes and not counts and n_in % sizes[0] == 0:
            return n_in // sizes[0]
    return None


def _numbers(holders: Iterable[Any], names: Iterable[str]) -> list[int]:
    """What the holders say under these names, in the order of the names, each once."""
    held = list(holders)
    found = [_said(holder, name) for name in names for holder in held]
    return list(dict.fromkeys(value for value in found if isinstance(value, int) and value > 0))


def _said(holder: Any, name: str) -> Any:
    """What a module or config says under a name; None where it says nothing, or nothing that holds for all layers."""
    try:
        return getattr(holder, name, None)
    except Exception:  # configs of layers that differ raise errors of their own
        return None
