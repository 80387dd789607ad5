"""Results: their base class, the store, and the one way of an analysis to it."""

from modalnet.results.cache import CacheLike, Identity, cached, cached_parts
from modalnet.results.store import Store

__all__ = ["CacheLike", "Identity", "Store", "cached", "cached_parts"]
