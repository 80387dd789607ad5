from .agreement import agreement as agreement
from .base import (
    GenerationTask as GenerationTask,
    LikelihoodTask as LikelihoodTask,
    Task as Task,
    TaskScores as TaskScores,
)
from .exact_match import ExactMatch as ExactMatch, exact_match as exact_match
from .examples import bundled as bundled, default as default
from .generated import GeneratedChoice as GeneratedChoice, generated as generated
from .lexical_decision import lexical_decision as lexical_decision
from .minimal_pairs import MinimalPairs as MinimalPairs, minimal_pairs as minimal_pairs
from .mmtomqa import mmtomqa as mmtomqa
from .multiple_choice import (
    MultipleChoice as MultipleChoice,
    MultipleChoiceQuestion as MultipleChoiceQuestion,
    multiple_choice as multiple_choice,
)
from .perplexity import Perplexity as Perplexity, perplexity as perplexity
from .reasoning import arithmetic as arithmetic, theory_of_mind as theory_of_mind
from .sentence_pictures import sentence_pictures as sentence_pictures
from .syntaxgym import SyntaxGym as SyntaxGym, syntaxgym as syntaxgym
from .visual import naming as naming, visual_questions as visual_questions
from .word_problems import incentive_choice as incentive_choice, word_problems as word_problems
