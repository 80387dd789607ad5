"""SyntaxGym: what a grammar predicts about where in a sentence a reader is surprised.

A suite holds items in several conditions, cut into the same regions, and formulas over the regions' surprisals.
"""

from __future__ import annotations

import json
import os
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from modalnet.errors import InputError
from modalnet.execution.likelihood import Likelihood, Request
from modalnet.stimuli.readers import open_folder
from modalnet.stimuli.tables import read_text
from modalnet.tasks.base import LikelihoodTask, digest
from modalnet.tasks.formula import Formula, Term, bits
from modalnet.tasks.requests import alone, unique
from modalnet.tasks.rows import draw

if TYPE_CHECKING:
    from jaxtyping import Float

METRICS = ("sum", "mean")


@dataclass(frozen=True)
class Sentence:
    """An item in one condition.

    Attributes
    ----------
    regions
        Region number → its text, in order; some may be empty.
    """

    regions: Mapping[int, str]

    @property
    def parts(self) -> list[str]:
        """The regions that are not empty; single spaces join them."""
        return [text for text in self.regions.values() if text]

    def requests(self, metric: str, named: Container[int | None]) -> list[Request]:
        """One, cut into regions; for means also the beginnings of the sentence, whose tokens count the regions'.

        Only ``named`` regions are scored (all, where None is among them): formulas read few of them.
        """
        # A space before a region is the region's, where a tokenizer makes a token of it.
        cuts = tuple(end - 1 for end in accumulate(len(text) + 1 for text in self.parts[:-1]))
        there = [number for number, text in self.regions.items() if text]
        needed = None if None in named else tuple(place for place, number in enumerate(there) if number in named)
        whole = replace(alone(" ".join(self.parts), cuts), needed=needed)
        if metric == "sum":
            return [whole]
        beginnings = [" ".join(self.parts[:end]) for end in range(1, len(self.parts))]
        return [whole, *(replace(alone(text), needed=()) for text in beginnings)]

    def surprisals(self, answers: Sequence[Likelihood], metric: str) -> dict[int | None, float]:
        """Surprisal of each region in bits, of an empty one 0; under None the sum over all; NaN if not scored."""
        values = np.array([bits(value) for value in answers[0].segments])
        if metric == "mean":
            ends = [*(answer.n_tokens for answer in answers[1:]), answers[0].n_tokens]
            values = values / np.maximum(np.diff(ends, prepend=0), 1)
        there = [number for number, text in self.regions.items() if text]
        found: dict[int | None, float] = dict.fromkeys(self.regions, 0.0)
        found |= {number: float(value) for number, value in zip(there, values, strict=True)}
        return {**found, None: float(values.sum())}


@dataclass(frozen=True)
class SuiteItem:
    """One item of a suite: its sentence in each condition, and what is predicted of them."""

    suite: str
    number: str
    conditions: Mapping[str, Sentence]
    predictions: tuple[Formula, ...]
    metric: str

    def requests(self, condition: str) -> list[Request]:
        """What is asked of the sentence in one condition."""
        terms = {term for formula in self.predictions for term in formula.terms}
        named = {region for region, where in terms if where == condition}
        return self.conditions[condition].requests(self.metric, named)


class Suites(LikelihoodTask):
    """Which predictions hold? Made by :func:`syntaxgym`."""

    def __init__(self, name: str, items: Sequence[SuiteItem]) -> None:
        self.name = name
        self._contents = tuple(items)
        self._items = unique([f"{item.suite}/{item.number}" for item in items])

    @property
    def items(self) -> tuple[str, ...]:
        return self._items

    @property
    def groups(self) -> dict[str, str]:
        """Item → its suite."""
        return {name: item.suite for name, item in zip(self._items, self._contents, strict=True)}

    def requests(self) -> list[Request]:
        return [one for item in self._contents for condition in item.conditions for one in item.requests(condition)]

    def grade(self, likelihoods: Sequence[Likelihood]) -> Float[np.ndarray, " item"]:
        answers = iter(likelihoods)
        scores = []
        for item in self._contents:
            values: dict[Term, float] = {}
            for condition, sentence in item.conditions.items():
                own = [next(answers) for _ in item.requests(condition)]
                for region, value in sentence.surprisals(own, item.metric).items():
                    values[region, condition] = value
            scores.append(np.mean([formula(values) for formula in item.predictions]))
        return np.array(scores)

    def identity(self) -> str:
        asked = [[item.metric, [formula.text for formula in item.predictions]] for item in self._contents]
        regions = [[[name, list(one.regions)] for name, one in item.conditions.items()] for item in self._contents]
        return digest([super().identity(), asked, regions])


def syntaxgym(
    source: str | os.PathLike[str],
    *,
    name: str | None = None,
    n: int | None = None,
    seed: int = 0,
    encoding: str = "utf-8",
) -> Suites:
    """Test suites of SyntaxGym, with their own prediction formulas.

    Parameters
    ----------
    source
        A suite in its published JSON format, or a folder of them.
    name
        Of the task; by default that of the file or folder.
    n
        So many items of each suite; None for all.
    seed
        Of the draw.
    encoding
        How the files are written.

    Returns
    -------
    Suites
        An item's score is the share of its suite's predictions that hold for it; most suites have one. Regions are
        joined by single spaces, empty ones are left out and have a surprisal of 0, and a region's surprisal, in bits,
        is the sum or the mean over its tokens, as the suite's ``metric`` says. Items are called
        ``suite/item_number``; ``groups`` gives each item's suite.

    Raises
    ------
    InputError
        No such file or folder; no suites in it; fewer than ``n`` items in one; no JSON; missing keys; a formula that
        cannot be read, or that names a condition or region that an item does not have; a metric other than sum and
        mean. The message names the file and the item.

    References
    ----------
    Gauthier, Hu, Wilcox, Qian & Levy (2020). SyntaxGym: an online platform for targeted evaluation of language models.
    ACL system demonstrations, 70-76.
    Hu, Gauthier, Qian, Wilcox & Levy (2020). A systematic assessment of syntactic generalization in neural language
    models. ACL, 1725-1744.
    """
    path = Path(source)
    if path.is_dir():
        files = sorted(file for file in open_folder(path).glob("*.json") if file.name[0] != ".")
        if not files:
            raise InputError(f"{path} holds no SyntaxGym suites (files *.json).")
    else:
        files = [path]
    items: list[SuiteItem] = []
    for file in files:
        there = _suite(file, encoding)
        items += [there[place] for place in draw(n, len(there), seed, file.stem)]
    return Suites(name or (path.resolve().name if path.is_dir() else path.stem), items)


def _suite(path: Path, encoding: str) -> list[SuiteItem]:
    try:
        suite = json.loads(read_text(path, encoding))
    except (json.JSONDecodeError, RecursionError) as error:
        raise InputError(f"{path} is no JSON: {error}.") from error
    meta = _get(suite, "meta", dict, str(path))
    metric = meta.get("metric", "sum")
    if metric not in METRICS:
        raise InputError(f"{path}: the metric is one of {', '.join(METRICS)}; this is {metric!r}.")
    predictions = tuple(
        _prediction(one, f"{path}, prediction {i}") for i, one in enumerate(_get(suite, "predictions", list, str(path)))
    )
    made = []
    for place, item in enumerate(_get(suite, "items", list, str(path)), start=1):
        where = f"{path}, item {item.get('item_number', place) if isinstance(item, dict) else place}"
        conditions: dict[str, Sentence] = {}
        for one in _get(item, "conditions", list, where):
            condition = _get(one, "condition_name", str, where)
            if condition in conditions:
                raise InputError(f"{where} has the condition {condition!r} twice.")
            conditions[condition] = _sentence(one, f"{where}, condition {condition!r}")
        for formula in predictions:
            _check_terms(formula, conditions, where)
        number = str(item.get("item_number", place))
        made.append(SuiteItem(str(meta.get("name") or path.stem), number, conditions, predictions, metric))
    return made


def _prediction(prediction: Any, where: str) -> Formula:
    try:
        return Formula(_get(prediction, "formula", str, where))
    except InputError as error:
        raise error if str(error).startswith(where) else InputError(f"{where}: {error}") from error


def _sentence(condition: Any, where: str) -> Sentence:
    regions: dict[int, str] = {}
    for place, region in enumerate(_get(condition, "regions", list, where), start=1):
        number = _get(region, "region_number", int, f"{where}, region {place}")
        if number in regions:
            raise InputError(f"{where} has region {number} twice.")
        regions[number] = " ".join(_get(region, "content", str, f"{where}, region {number}").split())
    if not any(regions.values()):
        raise InputError(f"{where}: every region is empty.")
    return Sentence(regions)


def _check_terms(formula: Formula, conditions: Mapping[str, Sentence], where: str) -> None:
    for region, condition in sorted(formula.terms, key=str):
        if condition not in conditions:
            raise InputError(
                f"{where} has no condition {condition!r}, which the prediction {formula.text!r} names. It has: "
                f"{', '.join(conditions)}."
            )
        if region is not None and region not in conditions[condition].regions:
            raise InputError(
                f"{where}, condition {condition!r} has no region {region}, which the prediction {formula.text!r} "
                f"names. It has: {', '.join(map(str, conditions[condition].regions))}."
            )


def _get(holder: Any, key: str, kind: type, where: str) -> Any:
    """A key's value, of the right kind and not empty where it is a list."""
    if not isinstance(holder, dict) or key not in holder:
        raise InputError(f"{where} lacks {key!r}; a SyntaxGym suite has it there.")
    value = holder[key]
    if not isinstance(value, kind) or isinstance(value, bool) or (kind is list and not value):
        expected = "list with entries" if kind is list else kind.__name__
        raise InputError(f"{where}: {key} is a {expected}; this is {repr(value)[:80]}.")
    return value
