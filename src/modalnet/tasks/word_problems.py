"""Arithmetic word problems, and the choice among problems that are worth different numbers of points."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple

import numpy as np

from modalnet._validation import check_int, check_option, check_seed
from modalnet.stimuli.stimulus import Stimulus
from modalnet.tasks.choices import check_template
from modalnet.tasks.multiple_choice import MultipleChoice, MultipleChoiceQuestion

_NAMES = "Anna Ben Clara David Emma Felix Grace Henry Julia Leo Maria Oscar Paula Simon Tara Victor"
_THINGS = "apples books cards coins cookies flowers marbles pencils shells stamps stickers toys"
_PLACES = "baskets boxes drawers jars shelves bags"
NAMES, THINGS, PLACES = (tuple(text.split()) for text in (_NAMES, _THINGS, _PLACES))
POINTS = (10, 20, 30, 40)
# Orders of the values that no rotation makes equal; with their four rotations each, they are all 24.
ORDERS = ((0, 1, 2, 3), (0, 1, 3, 2), (0, 2, 1, 3), (0, 2, 3, 1), (0, 3, 1, 2), (0, 3, 2, 1))
INSTRUCTION = "Choose one of these problems. You get its points if your answer is correct."
REQUEST = "Which problem do you choose? Answer with its number.\nAnswer:"
_SERIES = 8


class WordProblem(NamedTuple):
    """A problem in words, its answer, and the results of other operations on its numbers."""

    operation: str
    text: str
    answer: int
    wrong: tuple[int, ...]


def word_problems(
    n: int = 96,
    *,
    n_choices: int = 4,
    prompt: str = "Question: {}\nAnswer:",
    template: str = "{}.",
    seed: int = 0,
) -> MultipleChoice:
    """Arithmetic word problems of one step, made from templates, answered by likelihood.

    "Anna has 23 stamps. Ben gives her 14 more stamps. How many stamps does Anna have now?" Sums, differences, products
    and quotients take turns, three templates of each, in the manner of the problems for school in ASDiv (Miao et al.
    2020); the texts are this package's own.

    Parameters
    ----------
    n
        Number of problems, all different, 1 to 1,000. Problem *i* does not depend on ``n``.
    n_choices
        Number of answers to choose among, 2 to 6: the correct one, the result of another operation on the numbers of
        the problem, and numbers near the correct one.
    prompt
        Format string with ``{}`` for the problem.
    template
        Format of the answers. The full stop is needed: "4" would otherwise be a beginning of "42".
    seed
        Seed of the draw.

    Returns
    -------
    MultipleChoice
        Items are named ``001-sum``, ``002-difference``, ``003-product``, ``004-quotient`` and so on. Chance is
        1 / ``n_choices``.

    Raises
    ------
    InputError
        ``n`` or ``n_choices`` is out of range, ``seed`` is not a non-negative integer, or ``prompt`` or ``template``
        has no ``{}``.

    References
    ----------
    Miao, Liang & Su (2020). A diverse corpus for evaluating and developing English math word problem solvers. ACL,
    975-984.
    """
    check_int("n_choices", n_choices, minimum=2, maximum=6)
    check_template(prompt, "prompt")
    check_template(template)
    check_int("n", n, minimum=1, maximum=1_000)
    problems = _problems(n, np.random.default_rng([check_seed(seed), _SERIES]))
    rng = np.random.default_rng([seed, _SERIES, 3])
    questions = []
    for number, problem in enumerate(problems):
        choices = [problem.answer, *_distractors(problem, n_choices - 1, rng)]
        order = rng.permutation(n_choices)
        item = f"{number + 1:03d}-{problem.operation}"
        written = tuple(template.format(choices[place]) for place in order)
        stimulus = Stimulus(prompt.format(problem.text), id=item)
        questions.append(MultipleChoiceQuestion(item, stimulus, written, int(np.argmin(order))))
    return MultipleChoice("word problems", questions)


def incentive_choice(n: int = 96, seed: int = 0, *, score: Literal["highest", "points"] = "highest") -> MultipleChoice:
    """Choose one of four word problems that are worth 10, 20, 30 and 40 points.

    A trial lists four problems with their points and asks for the number of one; the likeliest of "1" to "4" is the
    model's choice. In four trials in turn the same four problems have each value and each value each place once, so
    that neither the difficulty of a problem nor its place goes with its value, and a model that always takes the first
    problem scores at chance. The problems themselves are not solved here: see :func:`word_problems`.

    Parameters
    ----------
    n
        Number of trials; a multiple of 4 is balanced, and one of 24 has every order of the values. Trial *i* does not
        depend on ``n``.
    seed
        Seed of the draw of problems and of the order of the trials.
    score
        ``"highest"``: 1 for the problem of 40 points and 0 for the others; chance is 0.25. ``"points"``: the points of
        the chosen problem divided by 40; chance is 0.625.

    Returns
    -------
    MultipleChoice
        Items are named ``001``, …; the four trials with the same problems are a group. Every trial has a choice, since
        likelihoods are compared. The choices of :func:`generated` text can be missing; they score 0 and are counted in
        ``TaskScores.unparsed``.

    Raises
    ------
    InputError
        ``n`` is out of range, ``seed`` is not a non-negative integer, or ``score`` is unknown.

    References
    ----------
    Treadway, Buckholtz, Schwartzman, Lambert & Zald (2009). Worth the 'EEfRT'? The effort expenditure for rewards task
    as an objective measure of motivation and anhedonia. PLoS ONE 4, e6598, for the choice between tasks of different
    reward.
    """
    check_int("n", n, minimum=1, maximum=1_000)
    check_option("score", score, ("highest", "points"))
    check_seed(seed)
    n_series = -(-n // len(POINTS))
    problems = _problems(n_series * len(POINTS), np.random.default_rng([seed, _SERIES, 1]))
    rng = np.random.default_rng([seed, _SERIES, 2])
    trials: list[MultipleChoiceQuestion] = []
    for series in range(n_series):
        if series % len(ORDERS) == 0:
            orders = rng.permutation(ORDERS).tolist()
        places = range(series * len(POINTS), (series + 1) * len(POINTS))
        texts = [problems[place].text for place in rng.permutation(places)]
        order = orders[series % len(ORDERS)]
        # Problems keep their numbers while the values move on by one place.
        for turn in range(len(POINTS)):
            values = [POINTS[(place + turn) % len(POINTS)] for place in order]
            trials.append(_trial(f"{len(trials) + 1:03d}", f"{series + 1:03d}", texts, values, score == "points"))
    return MultipleChoice("incentive choice", trials[:n])


def _trial(item: str, group: str, texts: list[str], values: list[int], by_points: bool) -> MultipleChoiceQuestion:
    """A choice among problems that are worth these points."""
    listed = enumerate(zip(values, texts, strict=True), start=1)
    lines = [f"{number}. ({points} points) {text}" for number, (points, text) in listed]
    credits = tuple(value / max(POINTS) for value in values) if by_points else None
    stimulus = Stimulus("\n".join([INSTRUCTION, *lines, REQUEST]), id=item)
    best = values.index(max(POINTS))
    return MultipleChoiceQuestion(item, stimulus, ("1", "2", "3", "4"), best, group, credits)


def _problems(n: int, rng: np.random.Generator) -> list[WordProblem]:
    """Draw different problems, the operations in turn."""
    problems: dict[str, WordProblem] = {}
    while len(problems) < n:
        problem = _OPERATIONS[len(problems) % len(_OPERATIONS)](rng)
        problems.setdefault(problem.text, problem)
    return list(problems.values())


def _distractors(problem: WordProblem, n: int, rng: np.random.Generator) -> list[int]:
    """Wrong answers: one by another operation, and near ones."""
    near = [problem.answer + step for step in rng.permutation([1, -1, 2, -2, 10, -10, 5, -5]).tolist()]
    candidates = dict.fromkeys([*rng.permutation(problem.wrong).tolist()[:1], *near])
    return [value for value in candidates if value > 0 and value != problem.answer][:n]


def _people(rng: np.random.Generator) -> tuple[str, str]:
    first, second = rng.permutation(NAMES)[:2]
    return str(first), str(second)


def _pick(words: Sequence[str], rng: np.random.Generator) -> str:
    return words[int(rng.integers(len(words)))]


def _sum(rng: np.random.Generator) -> WordProblem:
    (one, other), things = _people(rng), _pick(THINGS, rng)
    a, b = (int(value) for value in rng.integers(11, 60, size=2))
    texts = (
        f"{one} has {a} {things}. {other} gives {one} {b} more {things}. How many {things} does {one} have now?",
        f"{one} found {a} {things} and {other} found {b} {things}. How many {things} did they find together?",
        f"There are {a} {things} on the table and {b} {things} on the floor. How many {things} are there in all?",
    )
    return WordProblem("sum", texts[rng.integers(len(texts))], a + b, (abs(a - b) or a, a + b + 10))


def _difference(rng: np.random.Generator) -> WordProblem:
    (one, other), things = _people(rng), _pick(THINGS, rng)
    b = int(rng.integers(11, 40))
    a = b + int(rng.integers(5, 50))
    texts = (
        f"{one} has {a} {things} and gives {b} of them to {other}. How many {things} does {one} have left?",
        f"{one} has {a} {things} and {other} has {b}. How many more {things} does {one} have than {other}?",
        f"There were {a} {things} in a box. {one} took out {b} of them. How many {things} are still in the box?",
    )
    return WordProblem("difference", texts[rng.integers(len(texts))], a - b, (a + b, a - b + 10))


def _product(rng: np.random.Generator) -> WordProblem:
    (one, other), things, places = _people(rng), _pick(THINGS, rng), _pick(PLACES, rng)
    a, b = (int(value) for value in rng.integers(3, 13, size=2))
    texts = (
        f"{one} has {a} {places} with {b} {things} in each. How many {things} does {one} have?",
        f"{one} collects {b} {things} every day. How many {things} does {one} collect in {a} days?",
        f"{one} buys {a} packs of {b} {things} for {other}. How many {things} does {other} get?",
    )
    return WordProblem("product", texts[rng.integers(len(texts))], a * b, (a + b, a * b + a))


def _quotient(rng: np.random.Generator) -> WordProblem:
    (one, other), things, places = _people(rng), _pick(THINGS, rng), _pick(PLACES, rng)
    a, b = (int(value) for value in rng.integers(3, 13, size=2))
    texts = (
        f"{one} puts {a * b} {things} equally into {a} {places}. How many {things} are in each of them?",
        f"{one} shares {a * b} {things} equally among {a} friends. How many {things} does each friend get?",
        f"{one} and {other} pack {a * b} {things} into bags of {a}. How many bags do they fill?",
    )
    return WordProblem("quotient", texts[rng.integers(len(texts))], b, (a * b - a, a * b))


_OPERATIONS: tuple[Callable[[np.random.Generator], WordProblem], ...] = (_sum, _difference, _product, _quotient)
