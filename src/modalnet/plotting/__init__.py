"""Figures of results on matplotlib axes; global settings and the backend are left alone."""

from modalnet._lazy import attach

__getattr__, __dir__, __all__ = attach(__name__, __file__)
