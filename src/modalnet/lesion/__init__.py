"""Lesion studies: take networks out, beside controls, and see what breaks."""

from modalnet.lesion.lesion import Condition
from modalnet.lesion.result import LesionStudy
from modalnet.lesion.study import lesion_study

__all__ = ["Condition", "LesionStudy", "lesion_study"]
