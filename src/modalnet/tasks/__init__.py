"""Tasks: what a model is tested on, with one score per item.

:func:`minimal_pairs` (BLiMP and similar sets), :func:`syntaxgym` suites, :func:`perplexity` of texts,
:func:`multiple_choice` by likelihood, :func:`mmtomqa`, :func:`naming` of pictures and :func:`visual_questions` about
them, and :func:`exact_match` of generated answers. These need no files: :func:`agreement`, :func:`theory_of_mind`,
:func:`arithmetic`, :func:`word_problems`, :func:`incentive_choice`, :func:`lexical_decision`,
:func:`sentence_pictures`, :func:`bundled` and :func:`default`. :func:`generated` asks any multiple-choice task by
generated text.

A task reads and validates its items when it is made, and holds no model; :meth:`Task.run` scores a model on it.
"""

from modalnet._lazy import attach

__getattr__, __dir__, __all__ = attach(
    __name__,
    __file__,
    {
        "Choices": "modalnet.tasks.multiple_choice:MultipleChoice",
        "Question": "modalnet.tasks.multiple_choice:MultipleChoiceQuestion",
        "Suites": "modalnet.tasks.syntaxgym:SyntaxGym",
        "Texts": "modalnet.tasks.perplexity:Perplexity",
    },
)
