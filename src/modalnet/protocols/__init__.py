"""Published localizer and lesion protocols as data, one file each; ``modalnet.protocols`` lists them by id."""

from modalnet._lazy import attach

__getattr__, __dir__, __all__ = attach(__name__, __file__)
