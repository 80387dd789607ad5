"""Which positions of a stimulus in a vision tower are padding.

Some processors pad images within the rows of a vision tower, and mark the padding in a mask over pixels or patches.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from modalnet.inputs.batch import Encoded

if TYPE_CHECKING:
    import torch
    from jaxtyping import Bool


@dataclass(frozen=True)
class Share:
    """The part of a vision tower's activations that one stimulus occupies: rows of tokens, and their shape."""

    rows: int
    tokens: int
    shape: tuple[int, ...]

    @property
    def positions(self) -> int:
        """Number of positions."""
        return self.rows * self.tokens


def filled(item: Encoded, share: Share, changing: Callable[[], torch.Tensor]) -> tuple[torch.Tensor, bool]:
    """Which positions of a stimulus in a vision tower are not padding, and whether that is known.

    A processor that pads images within their rows marks the padding in a mask over pixels or patches. Learned tokens
    may stand before or behind the patches of a row: then the patches are those that ``changing()`` says.
    """
    import torch

    everything = torch.ones(share.positions, dtype=torch.bool)
    for mask in item.vision_masks:
        if mask.dim() == 2 and tuple(mask.shape) == (share.rows, share.tokens):
            return mask.bool().flatten(), True
        if mask.dim() < 3 and bool(mask.all()):
            continue
        if mask.dim() < 3 or min(mask.shape[-2:]) < 2:
            return everything, False
        tiles = mask.reshape(-1, *mask.shape[-2:]).bool()
        tiles = tiles[tiles.flatten(1).any(1)]  # tiles that only pad a batch never reach the tower
        if bool(tiles.all()) and len(tiles) == share.rows:
            continue
        found = _among_learned(tiles, share, changing) if len(tiles) == share.rows else None
        return (everything, False) if found is None else (found, True)
    return everything, True


def _among_learned(
    tiles: Bool[torch.Tensor, "row height width"], share: Share, changing: Callable[[], torch.Tensor]
) -> Bool[torch.Tensor, " position"] | None:
    """The patches of tiles and the learned tokens before or behind them; None where they cannot be told apart."""
    import torch

    patches = _patches(tiles, share.tokens)
    if patches is not None:
        return patches.flatten()
    images = changing()
    for extra in range(1, share.tokens):
        patches = _patches(tiles, share.tokens - extra)
        if patches is None:
            continue
        for front in (extra, 0):
            around = torch.nn.functional.pad(patches, (front, extra - front), value=False)
            if torch.equal(around.flatten(), images):
                return torch.nn.functional.pad(patches, (front, extra - front), value=True).flatten()
    return None


def _patches(tiles: Bool[torch.Tensor, "row height width"], count: int) -> Bool[torch.Tensor, "row patch"] | None:
    """Which of so many square patches of each tile are in a mask over its pixels; None where it has not so many."""
    height, width = tiles.shape[-2:]
    side = round((height * width / count) ** 0.5)
    if side < 1 or (height // side) * (width // side) != count:
        return None
    return tiles.unfold(1, side, side).unfold(2, side, side).flatten(3).any(-1).flatten(1)
