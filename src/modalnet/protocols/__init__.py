"""Published localizers as data: what each fixes, from stimuli to selection, with its source."""

from modalnet._lazy import attach

__getattr__, __dir__, __all__ = attach(__name__, __file__)
