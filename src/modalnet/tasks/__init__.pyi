from .base import (
    GenerationTask as GenerationTask,
    LikelihoodTask as LikelihoodTask,
    Task as Task,
    TaskScores as TaskScores,
)
from .exact_match import ExactMatch as ExactMatch, exact_match as exact_match
from .examples import bundled as bundled, default as default
from .minimal_pairs import MinimalPairs as MinimalPairs, minimal_pairs as minimal_pairs
from .multiple_choice import (
    MultipleChoice as MultipleChoice,
    MultipleChoiceQuestion as MultipleChoiceQuestion,
    multiple_choice as multiple_choice,
)
from .perplexity import Perplexity as Perplexity, perplexity as perplexity
from .reasoning import arithmetic as arithmetic, theory_of_mind as theory_of_mind
from .syntaxgym import SyntaxGym as SyntaxGym, syntaxgym as syntaxgym
from .visual import naming as naming, visual_questions as visual_questions
