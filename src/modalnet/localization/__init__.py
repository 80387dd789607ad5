"""Localization: which units prefer one side of a contrast."""

from modalnet.localization.job import LocalizationJob, pick_up
from modalnet.localization.localizer import localize
from modalnet.localization.reliability import Reliability
from modalnet.localization.result import Localization

__all__ = ["Localization", "LocalizationJob", "Reliability", "localize", "pick_up"]
