"""Localization: which units prefer one side of a contrast."""

from modalnet.localization.localizer import localize
from modalnet.localization.reliability import Reliability
from modalnet.localization.result import Localization

__all__ = ["Localization", "Reliability", "localize"]
