from .job import LocalizationJob as LocalizationJob, pick_up as pick_up
from .localizer import localize as localize
from .reliability import Reliability as Reliability
from .result import Localization as Localization
