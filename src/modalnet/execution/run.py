"""The result of a forward pass over a list of stimuli."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

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

    def to_cache(self, bridge: Any = None) -> Any:
        """What was read as TransformerLens' ``ActivationCache``; see :func:`modalnet.interop.transformer_lens.cache`.

        Parameters
        ----------
        bridge
            A ``TransformerBridge`` of the model, to take the names from; may be left out where nothing but the decoder
            of a decoder-only model was read.

        Raises
        ------
        InputError
            Where tokens were pooled, where stimuli have different numbers of tokens, or nothing was read; for a
            bridge of another model, or one that does not expose a tower.
        """
        from modalnet.interop.transformer_lens import cache

        return cache(self, bridge)
