"""The result of a forward pass over a list of stimuli."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from modalnet._deprecation import moved_method

if TYPE_CHECKING:
    import torch
    import xarray as xr
    from jaxtyping import Float

    from modalnet.interventions.positions import StimulusTokens, TokenRow
    from modalnet.models.sites import Space


@dataclass
class Run:
    """Activations and logits that :meth:`modalnet.Model.run` read.

    Attributes
    ----------
    activations
        Per space, in float32 on the CPU: ``[stimulus, layer, unit]`` where tokens are pooled; with ``tokens="all"`` a
        list with one ``[layer, token, unit]`` per stimulus, without padding.
    vectors
        Per space whose units have several numbers, such as heads, the numbers of each unit, with ``vectors=True``: as
        ``activations``, with a last axis for the numbers, so ``[stimulus, layer, unit, number]``, or a list of
        ``[layer, token, unit, number]``. Where tokens are pooled, the mean vector, whose length is at most the mean
        length that ``activations`` has.
    logits
        ``[stimulus, vocab]`` for ``logits="last"``; for ``"all"`` a list with one ``[token, vocab]`` per stimulus,
        without padding; None where they were not requested.
    layers
        Per space, the layers along the layer dimension.
    tokens
        Per space, the token choice.
    named
        Names the tokens of the stimuli when :attr:`token_rows` is first asked for.
    attention
        Per tower, with ``attention=True`` a list with one ``[layer, head, token, token]`` per stimulus, in float32 on
        the CPU: how much each token (third axis) attends to each other (last axis). With ``"mean"``
        ``[layer, token, token]``, the mean over heads. NaN in layers where tokens do not attend to each other (no
        attention, or cross-attention), and for heads that a layer with fewer does not have.
    attention_layers
        Per tower, the layers along the layer dimension of ``attention``.
    """

    activations: dict[str, Any] = field(default_factory=dict)
    logits: Any = None
    layers: dict[str, tuple[int, ...]] = field(default_factory=dict)
    tokens: dict[str, StimulusTokens] = field(default_factory=dict)
    named: Callable[[], list[dict[str, TokenRow]]] | None = field(default=None, repr=False, compare=False)
    vectors: dict[str, Any] = field(default_factory=dict)
    attention: dict[str, list[Float[torch.Tensor, "layer ... target source"]]] = field(default_factory=dict)
    attention_layers: dict[str, tuple[int, ...]] = field(default_factory=dict)

    @cached_property
    def token_rows(self) -> list[dict[str, TokenRow]]:
        """Per stimulus and space its own tokens: their names, and which are image and class tokens."""
        return [] if self.named is None else self.named()

    @property
    def token_names(self) -> dict[str, list[tuple[str, ...]]]:
        """Per space and stimulus, what its tokens read, along the token axis of activations and of logits."""
        spaces = self.token_rows[0] if self.token_rows else {}
        return {name: [row[name].names for row in self.token_rows] for name in spaces}

    def to_xarray(self) -> xr.Dataset:
        """Return activations and logits as labelled arrays.

        Returns
        -------
        xarray.Dataset
            A variable per space, with dimensions ``stimulus``, ``<space>_layer`` (labelled with the layers), where
            tokens are not pooled ``<space>_token``, and ``<space>_unit``; ``<space>_vectors``, with ``<space>_number``
            after these, for each of :attr:`vectors`; ``<tower>_attention``, with ``stimulus``,
            ``<tower>_attention_layer``, where it is not the mean over heads ``<tower>_head``, ``<tower>_target`` and
            ``<tower>_source``, for each of :attr:`attention`; and ``logits``, with ``stimulus``, where they
            are those of all tokens ``logits_token``, and ``vocab``. Stimuli with fewer tokens than others are filled up
            with NaN; ``<space>_token_name`` says what each token reads (empty where there is none).
        """
        import xarray as xr

        data: dict[str, Any] = {}
        for name, values in self.activations.items():
            apart = isinstance(values, list)
            axes = ("stimulus", f"{name}_layer", *([f"{name}_token"] if apart else []), f"{name}_unit")
            array = _filled(values, axis=1) if apart else values.numpy()
            coords = {f"{name}_layer": list(self.layers[name])}
            data[name] = xr.DataArray(array, dims=axes, coords=coords)
            if name in self.vectors:
                numbers = self.vectors[name]
                numbers = _filled(numbers, axis=1) if apart else numbers.numpy()
                data[f"{name}_vectors"] = xr.DataArray(numbers, dims=(*axes, f"{name}_number"), coords=coords)
            if apart and self.token_rows:
                names = np.full(array.shape[:1] + array.shape[2:3], "", dtype=object)
                for index, row in enumerate(self.token_names[name]):
                    names[index, : len(row)] = row
                data[f"{name}_token_name"] = (("stimulus", f"{name}_token"), names)
        for tower, weights in self.attention.items():
            axes = ("stimulus", f"{tower}_attention_layer", *([f"{tower}_head"] if weights[0].ndim == 4 else []))
            dims = (*axes, f"{tower}_target", f"{tower}_source")
            coords = {axes[1]: list(self.attention_layers[tower])}
            data[f"{tower}_attention"] = xr.DataArray(_filled(weights, axis=(-2, -1)), dims=dims, coords=coords)
        if isinstance(self.logits, list):
            data["logits"] = (("stimulus", "logits_token", "vocab"), _filled(self.logits, axis=0))
        elif self.logits is not None:
            data["logits"] = (("stimulus", "vocab"), self.logits.numpy())
        return xr.Dataset(data)

    def __getstate__(self) -> dict[str, Any]:
        """What a copy or a file holds: the names of tokens, not the model that would tell them."""
        return {**self.__dict__, "token_rows": self.token_rows, "named": None}

    @property
    def residual(self) -> dict[str, Any]:
        """The same as :attr:`activations`; the residual stream of a tower has the tower's name."""
        return self.activations

    to_cache = moved_method("to_cache", "modalnet.interop.transformer_lens:cache")


def as_vectors(
    space: Space, layers: Sequence[int], values: Float[torch.Tensor, "layer ... number"]
) -> Float[torch.Tensor, "layer ... unit size"]:
    """Numbers along the last axis, unit by unit; NaN for units that a layer does not have."""
    import torch

    units = values.unflatten(-1, (space.width, space.size))
    missing = torch.from_numpy(~space.exists[list(layers)])
    return units.masked_fill(missing.reshape(len(layers), *(1,) * (units.ndim - 3), space.width, 1), float("nan"))


def _filled(parts: Sequence[torch.Tensor], axis: int | tuple[int, ...]) -> Float[np.ndarray, "stimulus ..."]:
    """Arrays of stimuli with different numbers of tokens as one, filled up with NaN."""
    shape = list(parts[0].shape)
    for each in (axis,) if isinstance(axis, int) else axis:
        shape[each] = max(part.shape[each] for part in parts)
    filled = np.full((len(parts), *shape), np.nan, dtype=np.float32)
    for place, part in zip(filled, parts, strict=True):
        place[tuple(map(slice, part.shape))] = part.float().numpy()
    return filled
