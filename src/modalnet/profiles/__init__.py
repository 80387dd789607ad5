"""Response profiles: what a network does under conditions that did not select it.

:data:`profile` measures any conditions; ``profile.language`` the four classic ones, sentences, word lists, Jabberwocky
and nonwords, with their lexical and syntactic contrasts.
"""

from modalnet.profiles.human import HumanComparison
from modalnet.profiles.profiler import Profiler, profile
from modalnet.profiles.result import Profile

__all__ = ["HumanComparison", "Profile", "Profiler", "profile"]
