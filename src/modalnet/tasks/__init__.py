"""What a model is asked, so that a lesion can be seen to break it: tasks with one score per item.

:func:`minimal_pairs` (BLiMP and the like), :func:`syntaxgym` suites, :func:`perplexity` of texts,
:func:`multiple_choice` by likelihood, :func:`naming` and :func:`visual_questions` about pictures, and
:func:`exact_match` of what a model writes. :func:`theory_of_mind`, :func:`arithmetic`, :func:`bundled` and
:func:`default` are made of what comes with the package.

A task is read and checked when it is made and holds no model; :meth:`Task.run` scores it on one.
"""

from modalnet._lazy import attach

__getattr__, __dir__, __all__ = attach(__name__, __file__)
