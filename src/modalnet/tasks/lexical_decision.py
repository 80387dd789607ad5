"""Lexical decision: whether a printed string is a word."""

from __future__ import annotations

import numpy as np

from modalnet._validation import check_int, check_seed
from modalnet.stimuli.nonwords import nonword
from modalnet.stimuli.picture_sets import check_size
from modalnet.stimuli.printed_words import TEST_WORDS
from modalnet.stimuli.stimulus import Stimulus
from modalnet.stimuli.word_pictures import draw_word
from modalnet.tasks.multiple_choice import MultipleChoice, MultipleChoiceQuestion

QUESTION = "is this a real word?"
ANSWERS = ("yes", "no")
_SERIES = 5


def lexical_decision(n: int = 100, *, size: int = 224, seed: int = 0, question: str = QUESTION) -> MultipleChoice:
    """Printed words and pseudowords: is this a real word?

    Every word has a pseudoword of the same length, which can be pronounced (:func:`modalnet.stimuli.nonword`), in a
    grey picture with the same ink and ground. The words are other ones than those of
    :func:`modalnet.stimuli.word_pictures`, and the pictures have its luminance and contrast.

    Parameters
    ----------
    n
        Number of pictures, 2 to 266; words and pseudowords alternate, so that an even number is balanced. Picture *i*
        does not depend on ``n``.
    size
        Pixels per side of the square pictures, 32 to 2048; choose the input size of the model.
    seed
        Seed of the choice of words, of the pseudowords and of what varies in the pictures.
    question
        The question, the same for every picture.

    Returns
    -------
    MultipleChoice
        Between "yes" and "no" by likelihood; chance is 0.5, and so is the score of a model that always gives the same
        answer. Items are named ``001-word`` and ``001-pseudoword``; the two are a group.

    Raises
    ------
    InputError
        ``n`` or ``size`` is out of range, ``seed`` is not a non-negative integer, or ``question`` is empty.

    References
    ----------
    Meyer & Schvaneveldt (1971). Facilitation in recognizing pairs of words: evidence of a dependence between retrieval
    operations. Journal of Experimental Psychology 90, 227-234.
    Yeatman, Tang, Donnelly, Yablonski, Ramamurthy, Karipidis et al. (2021). Rapid online assessment of reading ability.
    Scientific Reports 11, 6396.
    """
    check_int("n", n, minimum=2, maximum=2 * len(TEST_WORDS))
    check_size(size)
    order = np.random.default_rng([check_seed(seed), _SERIES]).permutation(len(TEST_WORDS))
    questions = []
    for index in range(n):
        number, is_pseudoword = divmod(index, 2)
        word = TEST_WORDS[order[number]]
        shown = nonword(word, seed) if is_pseudoword else word
        item = f"{number + 1:03d}-{'pseudoword' if is_pseudoword else 'word'}"
        image, _ = draw_word(shown, number, size, (_SERIES, seed))
        stimulus = Stimulus(question, image=image, id=item)
        questions.append(MultipleChoiceQuestion(item, stimulus, ANSWERS, is_pseudoword, group=f"{number + 1:03d}"))
    return MultipleChoice("lexical decision", questions)
