"""What units like: the stimuli, tokens and pictures that drive a unit or a network most."""

from modalnet._lazy import attach

__getattr__, __dir__, __all__ = attach(__name__, __file__)
