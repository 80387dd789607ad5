"""Activation patching across text and images: which sites, tokens and towers mediate an answer."""

from modalnet._lazy import attach

__getattr__, __dir__, __all__ = attach(__name__, __file__)
