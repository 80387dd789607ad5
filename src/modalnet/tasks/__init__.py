"""What a model is asked, so that a lesion can be seen to break it: tasks with one score per item.

:func:`minimal_pairs` (BLiMP and the like), :func:`syntaxgym` suites, :func:`perplexity` of texts,
:func:`multiple_choice` by likelihood, :func:`naming` and :func:`visual_questions` about pictures, and
:func:`exact_match` of what a model writes. :func:`theory_of_mind`, :func:`arithmetic`, :func:`bundled` and
:func:`default` are made of what comes with the package.

A task is read and checked when it is made and holds no model; :meth:`Task.run` scores it on one.
"""

from __future__ import annotations

from modalnet.tasks.base import GenerationTask, LikelihoodTask, Task, TaskScores
from modalnet.tasks.exact_match import ExactMatch, exact_match
from modalnet.tasks.examples import bundled, default
from modalnet.tasks.multiple_choice import Choices, Question, naming, visual_questions
from modalnet.tasks.pairs import MinimalPairs, minimal_pairs
from modalnet.tasks.questions import multiple_choice
from modalnet.tasks.reasoning import arithmetic, theory_of_mind
from modalnet.tasks.suites import Suites, syntaxgym
from modalnet.tasks.texts import Texts, perplexity

__all__ = [
    "Choices",
    "ExactMatch",
    "GenerationTask",
    "LikelihoodTask",
    "MinimalPairs",
    "Question",
    "Suites",
    "Task",
    "TaskScores",
    "Texts",
    "arithmetic",
    "bundled",
    "default",
    "exact_match",
    "minimal_pairs",
    "multiple_choice",
    "naming",
    "perplexity",
    "syntaxgym",
    "theory_of_mind",
    "visual_questions",
]
