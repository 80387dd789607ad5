"""Localization: which units prefer one side of a contrast."""

from modalnet._lazy import attach

__getattr__, __dir__, __all__ = attach(__name__, __file__, renamed={"pick_up": "modalnet:LocalizationJob.from_id"})
