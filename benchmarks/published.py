"""The published way to localize, as a short reimplementation to compare against.

It follows the procedure of the code of "The LLM Language Network" (AlKhamissi et al. 2025, arXiv 2411.02280): one text
at a time, a forward hook on every block, the whole model with its LM head, every activation kept as an array, and one
t-test per block at the end.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from scipy import stats
from torch import nn


def published_activations(
    module: nn.Module, tokenizer: Any, blocks: Sequence[nn.Module], texts: Sequence[str], max_tokens: int | None = 12
) -> list[np.ndarray]:
    """Per block, the activations at the last token of every text: ``[stimulus, dim]``."""
    kept: list[list[np.ndarray]] = [[] for _ in blocks]
    device = next(module.parameters()).device
    for text in texts:
        tokens = tokenizer(text, return_tensors="pt", truncation=max_tokens is not None, max_length=max_tokens)
        seen: list[torch.Tensor] = []
        keep = partial(_keep, seen)
        handles = [block.register_forward_hook(keep) for block in blocks]
        with torch.no_grad():
            module(**tokens.to(device))
        for handle in handles:
            handle.remove()
        for layer, hidden in zip(kept, seen, strict=True):
            layer.append(hidden[0, -1].float().cpu().numpy())
    return [np.stack(layer).astype(np.float64) for layer in kept]


def published_t(positive: Sequence[np.ndarray], negative: Sequence[np.ndarray]) -> np.ndarray:
    """Welch's t of |activation| for every unit, as float64 ``[layer, dim]``, from activations per block."""
    pairs = zip(positive, negative, strict=True)
    return np.stack([stats.ttest_ind(abs(a), abs(b), axis=0, equal_var=False)[0] for a, b in pairs])


def _keep(seen: list[torch.Tensor], _module: nn.Module, _args: Any, output: Any) -> None:
    seen.append(output[0] if isinstance(output, tuple) else output)
