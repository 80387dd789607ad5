from .base import (
    GenerationTask as GenerationTask,
    LikelihoodTask as LikelihoodTask,
    Task as Task,
    TaskScores as TaskScores,
)
from .exact_match import ExactMatch as ExactMatch, exact_match as exact_match
from .examples import bundled as bundled, default as default
from .multiple_choice import (
    Choices as Choices,
    Question as Question,
    naming as naming,
    visual_questions as visual_questions,
)
from .pairs import MinimalPairs as MinimalPairs, minimal_pairs as minimal_pairs
from .questions import multiple_choice as multiple_choice
from .reasoning import arithmetic as arithmetic, theory_of_mind as theory_of_mind
from .suites import Suites as Suites, syntaxgym as syntaxgym
from .texts import Texts as Texts, perplexity as perplexity
