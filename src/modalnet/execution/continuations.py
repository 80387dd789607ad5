"""Which logits of a row score its continuation: positions, target tokens, and endings that share a position."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch
    from jaxtyping import Int

    from modalnet.inputs.batch import Prepared


def predicting(index: Int[torch.Tensor, " position"], prepared: Prepared) -> Int[torch.Tensor, " place"]:
    """Of a row's own positions, those whose logits predict the tokens that are scored."""
    return index[len(index) - prepared.n_scored - 1 :][list(prepared.places)]


def targets(ids: Int[torch.Tensor, " position"], prepared: Prepared) -> Int[torch.Tensor, " target"]:
    """The tokens of a row whose probabilities are taken, followed by the other endings."""
    import torch

    scored = ids[len(ids) - prepared.n_scored :][list(prepared.places)]
    return torch.cat([scored, ids.new_tensor(prepared.endings)])


def target_rows(prepared: Sequence[Prepared]) -> Int[torch.Tensor, " target"]:
    """For each target of a batch, the number of the logits that it is taken from; every ending is from the last."""
    import torch

    rows: list[int] = []
    start = 0
    for item in prepared:
        end = start + len(item.places)
        rows += [*range(start, end), *[end - 1] * len(item.endings)]
        start = end
    return torch.tensor(rows)
