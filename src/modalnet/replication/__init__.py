"""Published protocols, replicated: as published, and under the controls that a referee would ask for."""

from modalnet._lazy import attach

__getattr__, __dir__, __all__ = attach(__name__, __file__)
