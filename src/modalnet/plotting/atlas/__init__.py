"""The atlas: the sheet as one page to look around in, with every unit's numbers, lesions, profiles and favourites."""

from modalnet._lazy import attach

__getattr__, __dir__, __all__ = attach(__name__, __file__)
