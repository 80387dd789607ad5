"""Bundled pairs for patching: subject-verb agreement, facts about countries, colours in images."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from modalnet._validation import check_int, check_seed
from modalnet.patching.metrics import Metric, log_probability, logit_difference
from modalnet.stimuli import Stimulus
from modalnet.stimuli.rendering import COLOURS, SHAPES, draw_scene
from modalnet.stimuli.scenes import scene

# Singulars and plurals that are single tokens in common tokenizers, so that the sentences of a pair align.
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
# The last three have an attractor or a clause between subject and verb.
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
    """Pairs of stimuli with the correct answers to the clean and to the corrupt stimulus.

    Attributes
    ----------
    clean, corrupt
        The stimuli of each pair.
    answers, distractors
        The correct continuations of the clean and of the corrupt stimulus.
    words
        The word of each clean stimulus in which the pair differs, for :func:`modalnet.patching.tokens_of`.
    """

    clean: tuple[Stimulus, ...]
    corrupt: tuple[Stimulus, ...]
    answers: tuple[str, ...]
    distractors: tuple[str, ...]
    words: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.clean)

    def __getitem__(self, chosen: slice) -> PairSet:
        """Return a subset of the pairs."""
        return PairSet(
            self.clean[chosen], self.corrupt[chosen], self.answers[chosen], self.distractors[chosen], self.words[chosen]
        )

    def logit_difference(self) -> Metric:
        """Return the metric: logit of the answer minus logit of the distractor."""
        return logit_difference(self.answers, self.distractors)

    def log_probability(self) -> Metric:
        """Return the metric: log-probability of the answer, which may have several tokens."""
        return log_probability(self.answers)


def agreement_pairs(n: int = 60) -> PairSet:
    """Make subject-verb agreement pairs: *The keys near the house* (are) against *The key near the house* (is).

    The clean subject alternates between singular and plural, in five sentence frames, two of them with an attractor,
    with the verbs *is/are* and *was/were*. Written for this package, after the paradigm of Linzen et al. (2016) that
    Finlayson et al. (2021) analysed by causal mediation.

    Parameters
    ----------
    n
        Number of pairs, at most 150.

    Raises
    ------
    InputError
        If ``n`` is out of range.

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
    """Make pairs of facts: *The capital of France is the city of* (Paris) against the same for another country.

    Parameters
    ----------
    n
        Number of pairs, at most 30: fifteen capitals and fifteen languages, alternating. If the names of two countries
        differ in number of tokens, patch with ``align="last"``.

    Raises
    ------
    InputError
        If ``n`` is out of range.

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
    """Make pairs of images that differ in the colour of a shape: *what colour is the circle?* (red) against (blue).

    Each image shows a single shape; the clean and the corrupt image differ only in its colour.

    Parameters
    ----------
    n
        Number of pairs, at most 10,000.
    size
        Pixels per side.
    seed
        Seed of shapes, colours and positions.

    Raises
    ------
    InputError
        If ``n`` is out of range.
    """
    _check(n, 10_000)
    check_seed(seed)
    names = list(COLOURS)
    made = []
    for number in range(n):
        rng = np.random.default_rng([seed, number])
        kind = SHAPES[number % len(SHAPES)]
        (shape,) = scene(rng, [kind], number)
        other = replace(
            shape, colour=names[(names.index(shape.colour) + 1 + int(rng.integers(len(names) - 1))) % len(names)]
        )
        # The same seed gives the same background and the same edges.
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
    check_int("n", n, minimum=1, maximum=most)
