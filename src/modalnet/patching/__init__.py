"""Activation patching across text and pictures: which sites, tokens and towers carry an answer."""

from modalnet._lazy import attach

__getattr__, __dir__, __all__ = attach(__name__, __file__)
