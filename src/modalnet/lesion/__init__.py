"""Lesion studies: take networks out, beside controls, and see what breaks."""

from modalnet._lazy import attach

__getattr__, __dir__, __all__ = attach(__name__, __file__, renamed={"Condition": "modalnet.lesion:Lesion"})
