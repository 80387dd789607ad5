from .lesion import Lesion as Lesion
from .result import LesionStudy as LesionStudy
from .study import lesion_study as lesion_study
