"""The result of a forward pass over a list of stimuli."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from modalnet._deprecation import moved_method

if TYPE_CHECKING:
    from modalnet.interventions.positions import TokenChoice


@dataclass
class Run:
    """Activations and logits that :meth:`modalnet.Model.run` read.

    Attributes
    ----------
    activations
        Per space, in float32 on the CPU: ``[stimulus, layer, unit]`` where tokens are pooled; with ``tokens="all"`` a
        list with one ``[layer, token, unit]`` per stimulus, without padding.
    logits
        ``[stimulus, vocab]`` for ``logits="last"``; for ``"all"`` a list with one ``[token, vocab]`` per stimulus,
        without padding; None where they were not requested.
    layers
        Per space, the layers along the layer dimension.
    tokens
        Per space, the token choice.
    """

    activations: dict[str, Any] = field(default_factory=dict)
    logits: Any = None
    layers: dict[str, tuple[int, ...]] = field(default_factory=dict)
    tokens: dict[str, TokenChoice] = field(default_factory=dict)

    @property
    def residual(self) -> dict[str, Any]:
        """The same as :attr:`activations`; the residual stream of a tower has the tower's name."""
        return self.activations

    to_cache = moved_method("to_cache", "modalnet.interop.transformer_lens:cache")
