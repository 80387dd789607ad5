"""Response profiles: what a network does under conditions that did not select it.

:data:`profile` measures any conditions; ``profile.language`` the four classic ones, sentences, word lists, Jabberwocky
and nonwords, with their lexical and syntactic contrasts.
"""

from modalnet._lazy import attach

__getattr__, __dir__, __all__ = attach(__name__, __file__)
