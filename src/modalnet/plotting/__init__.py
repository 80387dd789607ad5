"""Pictures of results, drawn on matplotlib axes; nothing here touches global settings or the backend."""

from modalnet._lazy import attach

__getattr__, __dir__, __all__ = attach(__name__, __file__)
