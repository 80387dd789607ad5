"""Inputs as a job carries them: smaller, and bit for bit the same."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

# Different values among the pixels of a batch up to which they are sent as a table and indices into it.
_PALETTE = 1 << 15


def packed(value: Any) -> Any:
    """Pack an input: pixels become a table of their values and small indices into it.

    A processor turns bytes into floats, so a batch of images holds few different ones; indices compress as the image
    does, floats hardly.
    """
    import torch

    if not isinstance(value, torch.Tensor) or not value.is_floating_point() or value.numel() < 1 << 10:
        return value
    table, index = torch.unique(value, return_inverse=True)
    if len(table) > _PALETTE:
        return value
    kind = torch.uint8 if len(table) <= 1 << 8 else torch.int16
    return ("palette", table, index.to(kind))


def unpacked(value: Any, dtype: torch.dtype | None) -> Any:
    """Unpack an input, in the precision of the model; None leaves it as it is. Runs on the server."""
    import torch

    if isinstance(value, tuple):
        _, table, index = value
        value = table[index.long()]
    if isinstance(value, torch.Tensor) and value.is_floating_point() and dtype is not None:
        value = value.to(dtype)
    return value
