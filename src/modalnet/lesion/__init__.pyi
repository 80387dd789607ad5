from .lesion import Condition as Condition
from .result import LesionStudy as LesionStudy
from .study import lesion_study as lesion_study
