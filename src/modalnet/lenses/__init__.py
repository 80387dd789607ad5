"""Lenses: the next tokens that the residual stream of each layer would predict."""

from modalnet._lazy import attach

__getattr__, __dir__, __all__ = attach(__name__, __file__)
