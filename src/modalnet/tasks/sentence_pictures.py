"""Matching of a sentence with one of two scenes, which requires the order of its words and not only the words."""

from __future__ import annotations

import numpy as np

from modalnet._validation import check_int, check_seed
from modalnet.stimuli.picture_sets import check_size
from modalnet.stimuli.scene_pairs import LETTERS, draw_scene_pair, scene_pair
from modalnet.stimuli.stimulus import Stimulus
from modalnet.tasks.choices import check_template
from modalnet.tasks.multiple_choice import MultipleChoice, MultipleChoiceQuestion

PROMPT = "{} which scene fits, A or B?"
BLOCK = 6  # three kinds of difference, each with either answer
_SERIES = 7


def sentence_pictures(n: int = 80, *, size: int = 224, seed: int = 0, prompt: str = PROMPT) -> MultipleChoice:
    """A sentence and a picture with the scenes A and B: which one does the sentence describe?

    "the red circle is left of the blue square." stands with a scene of which it is true and another that differs from
    it in one respect, in turn: the two shapes have changed places, have exchanged their colours, or one of them is of
    another kind. In the first two kinds, the other scene has the same words.

    Parameters
    ----------
    n
        Number of items. Item *i* does not depend on ``n``.
    size
        Pixels per side of the square pictures, 32 to 2048, both scenes included; choose the input size of the model.
    seed
        Seed of the scenes and of the order of the two.
    prompt
        Format string with ``{}`` for the sentence.

    Returns
    -------
    MultipleChoice
        Between "A" (left) and "B" (right) by likelihood; chance is 0.5. An even number of items is balanced, and so is
        each kind in a multiple of 6. Items are named ``001-order``, ``002-colour``, ``003-shape`` and so on.

    Raises
    ------
    InputError
        ``n`` is not a positive integer, ``size`` is out of range, ``seed`` is not a non-negative integer, or ``prompt``
        has no ``{}``.

    References
    ----------
    Bishop (1983). The test for reception of grammar. Medical Research Council.
    Thrush, Jiang, Bartolo, Singh, Williams, Kiela & Ross (2022). Winoground: probing vision and language models for
    visio-linguistic compositionality. CVPR, 5238-5248, for scenes with the same words.
    """
    check_int("n", n, minimum=1)
    check_size(size)
    check_seed(seed)
    check_template(prompt, "prompt")
    rng = np.random.default_rng([seed, _SERIES])
    # Answers alternate, and start anew for every six items, so that every kind of difference is balanced as well.
    starts = rng.integers(2, size=-(-n // BLOCK)).tolist()
    questions = []
    for number in range(n):
        pair = scene_pair(number, seed)
        answer = (number + starts[number // BLOCK]) % 2
        shown = (pair.target, pair.other) if answer == 0 else (pair.other, pair.target)
        item = f"{number + 1:03d}-{pair.kind}"
        image = draw_scene_pair(*shown, size, [_SERIES, seed, number])
        stimulus = Stimulus(prompt.format(pair.sentence), image=image, id=item)
        questions.append(MultipleChoiceQuestion(item, stimulus, LETTERS, answer))
    return MultipleChoice("sentence-picture matching", questions)
