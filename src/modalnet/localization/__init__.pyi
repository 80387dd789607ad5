from .job import LocalizationJob as LocalizationJob
from .localizer import localize as localize
from .reliability import Reliability as Reliability
from .result import Localization as Localization
