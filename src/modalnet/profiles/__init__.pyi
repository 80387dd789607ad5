from .human import HumanComparison as HumanComparison
from .profiler import Profiler as Profiler, profile as profile
from .result import Profile as Profile
