"""Pairs that come with the package: agreement and facts in words, colours in pictures."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from modalnet.errors import InputError
from modalnet.patching.metrics import Metric, log_probability, logit_difference
from modalnet.stimuli import Stimulus
from modalnet.stimuli.rendering import COLOURS, SHAPES, draw_scene
from modalnet.stimuli.scenes import scene

# Singular and plural that common tokenizers write as one token each, so that the two sentences of a pair line up.
NOUNS = (
    ("author", "authors"),
    ("boy", "boys"),
    ("car", "cars"),
    ("dog", "dogs"),
    ("doctor", "doctors"),
    ("friend", "friends"),
    ("girl", "girls"),
    ("key", "keys"),
    ("king", "kings"),
    ("lawyer", "lawyers"),
    ("letter", "letters"),
    ("picture", "pictures"),
    ("player", "players"),
    ("student", "students"),
    ("teacher", "teachers"),
)
# An attractor stands between subject and verb in the last three, so that the nearest noun does not decide.
FRAMES = (
    "The {}",
    "I think that the {}",
    "The {} near the house",
    "The {} behind the tree",
    "The {} that she knows",
)
VERBS = ((" is", " are"), (" was", " were"))
# Country, capital, language.
COUNTRIES = (
    ("France", "Paris", "French"),
    ("Italy", "Rome", "Italian"),
    ("Spain", "Madrid", "Spanish"),
    ("Germany", "Berlin", "German"),
    ("Russia", "Moscow", "Russian"),
    ("Japan", "Tokyo", "Japanese"),
    ("China", "Beijing", "Chinese"),
    ("Portugal", "Lisbon", "Portuguese"),
    ("Greece", "Athens", "Greek"),
    ("Turkey", "Ankara", "Turkish"),
    ("Sweden", "Stockholm", "Swedish"),
    ("Poland", "Warsaw", "Polish"),
    ("Denmark", "Copenhagen", "Danish"),
    ("Norway", "Oslo", "Norwegian"),
    ("Finland", "Helsinki", "Finnish"),
)
FACTS = (
    ("The capital of {} is the city of", 1),
    ("People who live in {} mostly speak", 2),
)


@dataclass(frozen=True)
class PairSet:
    """Pairs with what is right for the clean stimulus and what for the corrupt one.

    Attributes
    ----------
    clean, corrupt
        The stimuli, pair by pair.
    answers, distractors
        What continues the clean and the corrupt stimulus.
    words
        What the stimuli of a pair differ in, as the clean one has it: for :func:`tokens_of`.
    """

    clean: tuple[Stimulus, ...]
    corrupt: tuple[Stimulus, ...]
    answers: tuple[str, ...]
    distractors: tuple[str, ...]
    words: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.clean)

    def __getitem__(self, chosen: slice) -> PairSet:
        """Some of the pairs."""
        return PairSet(
            self.clean[chosen], self.corrupt[chosen], self.answers[chosen], self.distractors[chosen], self.words[chosen]
        )

    def logit_difference(self) -> Metric:
        """The metric: logit of the answer less that of the distractor."""
        return logit_difference(self.answers, self.distractors)

    def log_probability(self) -> Metric:
        """The metric: log-probability of the answer, of any number of tokens."""
        return log_probability(self.answers)


def agreement_pairs(n: int = 60) -> PairSet:
    """Subject-verb agreement: *The keys near the house* (are) against *The key near the house* (is).

    Singular and plural subjects are clean in turn, in five sentence frames, two of them with an attractor, with the
    verbs *is/are* and *was/were*. Written for this package, after the paradigm of Linzen et al. (2016) as patched by
    Finlayson et al. (2021).

    Parameters
    ----------
    n
        How many, at most 150.

    Raises
    ------
    InputError
        For another number.

    References
    ----------
    Linzen, Dupoux & Goldberg (2016). Assessing the ability of LSTMs to learn syntax-sensitive dependencies. TACL.
    Finlayson, Mueller, Gehrmann, Shieber, Linzen & Belinkov (2021). Causal analysis of syntactic agreement mechanisms
    in neural language models. ACL.
    """
    most = len(NOUNS) * len(FRAMES) * len(VERBS)
    _check(n, most)
    made: list[tuple[Stimulus, Stimulus, str, str, str]] = []
    for number in range(n):
        noun = NOUNS[number % len(NOUNS)]
        turn = number // len(NOUNS)
        frame, verbs = FRAMES[(number + turn) % len(FRAMES)], VERBS[(turn // len(FRAMES)) % len(VERBS)]
        right = number % 2
        sides = [Stimulus(frame.format(noun[side]), id=f"agreement-{number + 1:03d}") for side in (right, 1 - right)]
        made.append((sides[0], sides[1], verbs[right], verbs[1 - right], noun[right]))
    return _set(made)


def fact_pairs(n: int = 30) -> PairSet:
    """Facts about countries: *The capital of France is the city of* (Paris) against the same of another country.

    Parameters
    ----------
    n
        How many, at most 30: fifteen capitals and fifteen languages, in turn. Names of countries differ in number of
        tokens between tokenizers: patch with ``align="last"`` where they do.

    Raises
    ------
    InputError
        For another number.

    References
    ----------
    Meng, Bau, Andonian & Belinkov (2022). Locating and editing factual associations in GPT. NeurIPS.
    """
    _check(n, len(COUNTRIES) * len(FACTS))
    made = []
    for number in range(n):
        turn, kind = divmod(number, len(FACTS))
        frame, place = FACTS[kind]
        one, two = COUNTRIES[turn], COUNTRIES[(turn + 1) % len(COUNTRIES)]
        sides = [Stimulus(frame.format(country[0]), id=f"fact-{number + 1:03d}") for country in (one, two)]
        made.append((sides[0], sides[1], f" {one[place]}", f" {two[place]}", one[0]))
    return _set(made)


def colour_pairs(n: int = 24, *, size: int = 224, seed: int = 0) -> PairSet:
    """Pictures that differ in the colour of one thing: *what colour is the circle?* (red) against (blue).

    Each picture shows one shape, alone; clean and corrupt differ in nothing but its colour.

    Parameters
    ----------
    n
        How many.
    size
        Pixels per side.
    seed
        Of shapes and places.

    Raises
    ------
    InputError
        ``n`` below 1 or above 10,000.
    """
    _check(n, 10_000)
    names = list(COLOURS)
    made = []
    for number in range(n):
        rng = np.random.default_rng([seed, number])
        kind = SHAPES[number % len(SHAPES)]
        (shape,) = scene(rng, [kind], number)
        other = replace(
            shape, colour=names[(names.index(shape.colour) + 1 + int(rng.integers(len(names) - 1))) % len(names)]
        )
        # The same seed draws the same ground and the same edges.
        pictures = [draw_scene([one], size, (seed, number)) for one in (shape, other)]
        sides = [
            Stimulus(f"what colour is the {kind}?", image=picture, id=f"colour-{number + 1:03d}")
            for picture in pictures
        ]
        made.append((sides[0], sides[1], f" {shape.colour}", f" {other.colour}", shape.colour))
    return _set(made)


def _set(made: list[tuple[Stimulus, Stimulus, str, str, str]]) -> PairSet:
    clean, corrupt, answers, distractors, words = zip(*made, strict=True)
    return PairSet(clean, corrupt, answers, distractors, words)


def _check(n: int, most: int) -> None:
    if isinstance(n, bool) or not isinstance(n, int) or not 1 <= n <= most:
        raise InputError(f"n is a number of pairs from 1 to {most}; this is {n!r}.")
