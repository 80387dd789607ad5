"""Maximally activating stimuli, tokens and optimized images of a unit or a network; maps of attention.

Two questions about units that a localizer selected: which natural inputs activate them most (:func:`top_stimuli` for
any stimuli, :func:`top_tokens` for every token of the vocabulary), and which image would activate them most
(:func:`optimize`, feature visualization). And one about tokens: how much each attends to parts of a picture
(:func:`attention_maps`).
"""

from modalnet._lazy import attach

__getattr__, __dir__, __all__ = attach(
    __name__, __file__, renamed={"Shake": "modalnet.features.parametrization:RandomTransform"}
)
