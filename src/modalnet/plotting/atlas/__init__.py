"""The atlas: an interactive map of a model in one HTML file, with every unit's statistics and top stimuli."""

from modalnet._lazy import attach

__getattr__, __dir__, __all__ = attach(__name__, __file__)
