"""English subject-verb agreement in number: pairs of sentences that differ in the form of the verb alone.

Verbs are of two kinds. A regular verb is a letter longer in the singular (*writes*), an auxiliary in the plural
(*were*). Each frame of a sentence comes with a singular and a plural subject, and there are as many frames of the one
kind as of the other, so that the two sides of the contrast hold the same words, and their sentences have the same
lengths on average and in spread.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from modalnet._validation import check_bool, check_int, check_seed
from modalnet.errors import InputError
from modalnet.stimuli.contrast import Contrast
from modalnet.stimuli.minimal_pairs import pairs_contrast

MOST_PAIRS = 1_000
NUMBERS = ("singular", "plural")
PAIRS_PER_ROUND = 4  # two kinds of verb, two numbers of the subject
ADJECTIVES = ("young", "old", "tall", "quiet", "clever", "famous", "busy", "kind", "happy", "friendly")
PREPOSITIONS = ("near", "behind", "beside")


@dataclass(frozen=True)
class Vocabulary:
    """Words of the sentences: nouns whose plural ends in -s, and predicates as (singular form, plural form, rest)."""

    subjects: tuple[str, ...]
    attractors: tuple[str, ...]
    regular: tuple[tuple[str, str, str], ...]
    auxiliary: tuple[tuple[str, str, str], ...]


class AgreementPair(NamedTuple):
    """A pair of sentences.

    Attributes
    ----------
    item
        Name: frame, kind of verb and number of the subject, such as ``"001-regular-singular"``.
    frame
        Frame, which a singular and a plural pair share.
    good, bad
        The sentences.
    """

    item: str
    frame: str
    good: str
    bad: str


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


def _predicates(text: str) -> tuple[tuple[str, str, str], ...]:
    """Predicates from lines such as ``"writes/write a letter"``."""
    parts = (line.strip().partition(" ") for line in text.strip().splitlines())
    return tuple((*forms.split("/"), rest) for forms, _, rest in parts)  # type: ignore[misc]


# The tasks have words of their own, so that no noun and no predicate of a tested sentence occurs in a localizer's.
LOCALIZER = Vocabulary(
    subjects=_words("author baker dancer farmer lawyer pilot singer tailor doctor guard student cousin"),
    attractors=_words("car tree window table tower bridge"),
    regular=_predicates("""
        writes/write a letter
        likes/like the music
        sings/sing an old song
        reads/read a book
        walks/walk to the station
        wants/want a new coat
        sleeps/sleep in the garden
        laughs/laugh at the joke
    """),
    auxiliary=_predicates("""
        is/are at home today
        was/were late for dinner
        has/have a red bicycle
        is/are in the kitchen
        was/were ill last week
        has/have two small dogs
        is/are ready for work
        was/were on the train
    """),
)
TEST = Vocabulary(
    subjects=_words("actor builder driver gardener manager painter sailor teacher nurse guest waiter uncle"),
    attractors=_words("door wall statue river lamp boat"),
    regular=_predicates("""
        draws/draw a map
        hears/hear the bell
        cooks/cook a warm meal
        runs/run to the market
        needs/need some advice
        waits/wait for the bus
        sits/sit on the bench
        knows/know the answer
    """),
    auxiliary=_predicates("""
        is/are away this month
        was/were early for lunch
        has/have a blue umbrella
        is/are in the office
        was/were tired last night
        has/have three white cats
        is/are afraid of thunder
        was/were at the theatre
    """),
)


def agreement(n: int = 120, *, attractors: bool = False, seed: int = 0) -> Contrast:
    """Agreement in number > violations of it, in English sentences made from templates.

    The two sentences of a pair differ in the form of the verb alone::

        good  The young author writes a letter.      The young authors write a letter.
        bad   The young author write a letter.       The young authors writes a letter.

    Half of the subjects are singular and half plural, and half of the verbs are regular (*writes, write*) and half
    auxiliaries (*was, were*). Both sides therefore have the same words equally often, verbs in -s included, and the
    same mean and standard deviation of length: :meth:`~modalnet.stimuli.Contrast.describe` gives equal rows. What
    distinguishes them is the relation of the verb to its subject.

    Parameters
    ----------
    n
        Number of pairs, a multiple of 4 from 4 to 1,000. Pair *i* does not depend on ``n``.
    attractors
        True puts a noun of the other number between subject and verb, and no adjective before the subject: "The author
        near the windows writes a letter."
    seed
        Seed of the draw of sentences.

    Returns
    -------
    Contrast
        Conditions ``good`` and ``bad``. The two sentences of a pair are one item, so that :func:`modalnet.localize`
        tests them as pairs. :func:`modalnet.tasks.agreement` has other nouns and predicates for every seed.

    Raises
    ------
    InputError
        ``n`` is out of range or not a multiple of 4, ``attractors`` is not a bool, or ``seed`` is not a non-negative
        integer.

    References
    ----------
    Linzen, Dupoux & Goldberg (2016). Assessing the ability of LSTMs to learn syntax-sensitive dependencies. TACL 4,
    521-535.
    Marvin & Linzen (2018). Targeted syntactic evaluation of language models. EMNLP, 1192-1202.
    Bock & Miller (1991). Broken agreement. Cognitive Psychology 23, 45-93, for attractors.

    Examples
    --------
    >>> agreement(8)
    Contrast('good > bad': 8 positive, 8 negative)
    """
    check_int("n", n, minimum=PAIRS_PER_ROUND, maximum=MOST_PAIRS)
    if n % PAIRS_PER_ROUND:
        raise InputError(f"`n` must be a multiple of {PAIRS_PER_ROUND}, so that the two sides are matched, got {n}.")
    pairs = agreement_pairs(n, LOCALIZER, attractors=attractors, seed=seed)
    return pairs_contrast([pair.item for pair in pairs], [(pair.good, pair.bad) for pair in pairs])


def agreement_pairs(n: int, vocabulary: Vocabulary, *, attractors: bool, seed: int) -> list[AgreementPair]:
    """Make pairs of sentences; every four in turn are of each kind of verb with each number of the subject.

    Raises
    ------
    InputError
        ``n`` is out of range, ``attractors`` is not a bool, or ``seed`` is not a non-negative integer.
    """
    check_int("n", n, minimum=1, maximum=MOST_PAIRS)
    check_bool("attractors", attractors)
    rng = np.random.default_rng([check_seed(seed), int(attractors)])
    kinds = {"regular": vocabulary.regular, "auxiliary": vocabulary.auxiliary}
    frames = {kind: _frames(vocabulary, predicates, attractors, rng) for kind, predicates in kinds.items()}
    pairs = []
    for number in range(-(-n // PAIRS_PER_ROUND)):
        for kind in kinds:
            subject, modifier, (singular, plural, rest) = next(frames[kind])
            frame = f"{number + 1:03d}-{kind}"
            for which, correct, wrong in zip(NUMBERS, (singular, plural), (plural, singular), strict=True):
                phrase = _subject(subject, modifier, which == "plural", attractors)
                good, bad = (f"The {phrase} {verb} {rest}." for verb in (correct, wrong))
                pairs.append(AgreementPair(f"{frame}-{which}", frame, good, bad))
    return pairs[:n]


def _frames(
    vocabulary: Vocabulary, predicates: Sequence[tuple[str, str, str]], attractors: bool, rng: np.random.Generator
) -> Iterator[tuple[str, str, tuple[str, str, str]]]:
    """Subject, modifier and predicate of different frames, in random order."""
    modifiers: Sequence[str] = (
        [f"{preposition} the {noun}" for preposition in PREPOSITIONS for noun in vocabulary.attractors]
        if attractors
        else ADJECTIVES
    )
    shape = (len(vocabulary.subjects), len(modifiers), len(predicates))
    for place in rng.permutation(int(np.prod(shape))):
        subject, modifier, predicate = np.unravel_index(place, shape)
        yield vocabulary.subjects[subject], modifiers[modifier], predicates[predicate]


def _subject(noun: str, modifier: str, plural: bool, attractors: bool) -> str:
    nouns = f"{noun}s" if plural else noun
    if not attractors:
        return f"{modifier} {nouns}"
    return f"{nouns} {modifier if plural else f'{modifier}s'}"
