"""Response profiles: the mean response of a network to each condition, on stimuli that did not select it.

:data:`profile` measures arbitrary conditions; ``profile.language`` the four classic ones, sentences, word lists,
Jabberwocky and nonwords, with their lexical and syntactic contrasts.
"""

from modalnet._lazy import attach

__getattr__, __dir__, __all__ = attach(__name__, __file__)
