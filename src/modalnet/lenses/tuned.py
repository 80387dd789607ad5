"""The tuned lens: per layer an affine map from the stream there to the stream that enters the final norm.

The published tuned lens (Belrose et al. 2023) adds ``A h + b`` to the stream ``h`` of a layer before the final norm and
the head, and learns A and b by gradient descent on the divergence from the model's own distribution. Here the same map
is found in closed form: ridge regression of what the later blocks add, ``h_last - h``, on ``h``. The penalty draws the
map towards zero, which is the plain lens with an offset; it is chosen on held-out stimuli, where the plain lens itself
is one of the candidates. Each token is weighted by one over its mean square in the last block, since the final norm
divides by that: without it, a few tokens with massive activations would decide the fit.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from modalnet.errors import InputError
from modalnet.stats.affine import fit_affine
from modalnet.stats.folds import assign_folds

if TYPE_CHECKING:
    import torch
    from jaxtyping import Float

FOLDS = 5
#: Bytes that the activations of the fit stimuli may take; of more, evenly spaced tokens of each stimulus are taken.
MOST_BYTES = 1 << 31


@dataclass(frozen=True, eq=False)
class Translators:
    """What is added to the streams of some layers.

    Attributes
    ----------
    layers
        The layers.
    matrices, offsets
        ``[layer, source, target]`` and ``[layer, target]``, float32.
    penalties
        Of each layer, per token.
    n_stimuli, n_tokens
        What they were fitted on.
    """

    layers: tuple[int, ...]
    matrices: Float[torch.Tensor, "layer source target"]
    offsets: Float[torch.Tensor, "layer target"]
    penalties: tuple[float, ...]
    n_stimuli: int
    n_tokens: int

    def __call__(self, streams: Float[torch.Tensor, "layer token dim"]) -> Float[torch.Tensor, "layer token dim"]:
        """The streams of these layers as they may be at the last block."""
        import torch

        return streams + torch.baddbmm(self.offsets[:, None], streams, self.matrices)


def check_enough(n_stimuli: int) -> None:
    """Raise an InputError for too few stimuli to fit a lens on."""
    if n_stimuli < 2:
        raise InputError(
            f"`fit` must have at least two stimuli, as penalties are chosen on held-out ones, got {n_stimuli}."
        )


def fit_translators(
    found: Iterator[tuple[int, Float[torch.Tensor, "layer token dim"]]],
    n_stimuli: int,
    layers: Sequence[int],
) -> Translators:
    """Fit the maps of some layers to the stream of the last one.

    Parameters
    ----------
    found
        Index of each stimulus with its streams: of the layers, in their order, and then of the last block.
    n_stimuli
        Number of stimuli.
    layers
        The layers.

    Raises
    ------
    InputError
        For fewer than two stimuli, or a token whose activations are not finite.
    """
    import torch

    check_enough(n_stimuli)
    folds = assign_folds(["fit"] * n_stimuli, n_folds=min(FOLDS, n_stimuli))
    parts: list[np.ndarray] = []
    groups: list[np.ndarray] = []
    for index, streams in found:
        most = max(1, MOST_BYTES // (n_stimuli * streams[:, 0].nelement() * 4))
        some = np.unique(np.linspace(0, streams.shape[1] - 1, min(most, streams.shape[1])).round().astype(int))
        parts.append(streams[:, some].float().numpy())
        groups.append(np.full(len(some), folds[index]))
    held, of = np.concatenate(parts, axis=1), np.concatenate(groups)
    if not np.isfinite(held).all():
        raise InputError("The activations of the `fit` stimuli are not all finite, so no lens can be fitted to them.")
    last = held[-1].astype(np.float64)
    weights = 1 / np.maximum((last**2).mean(1), np.finfo(np.float64).tiny)
    # Of the normed vector, as the errors are weighted by.
    scale = np.sqrt(
        np.maximum((weights[:, None] * last**2).mean(0) - (np.sqrt(weights)[:, None] * last).mean(0) ** 2, 0)
    )
    width = held.shape[2]
    matrices, offsets, penalties = torch.empty(len(layers), width, width), torch.empty(len(layers), width), []
    # Layer by layer, as float64 takes twice the memory.
    for place, own in enumerate(held[:-1]):
        made = fit_affine(own.astype(np.float64), last - own, of, weights=weights, scale=scale)
        matrices[place], offsets[place] = torch.from_numpy(made.matrix), torch.from_numpy(made.offset)
        penalties.append(made.penalty)
    return Translators(tuple(layers), matrices, offsets, tuple(penalties), n_stimuli, held.shape[1])
