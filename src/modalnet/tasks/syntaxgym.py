"""SyntaxGym: test suites that state where in a sentence a grammatical reader is surprised.

A suite holds items in several conditions, divided into the same regions, and formulas over the surprisals of the
regions.
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

from modalnet._validation import check_seed
from modalnet.errors import InputError
from modalnet.execution.likelihood import Likelihood, Request
from modalnet.stimuli.readers import open_folder
from modalnet.stimuli.rows import draw, unique_names
from modalnet.stimuli.tables import read_text
from modalnet.tasks.base import LikelihoodTask, digest
from modalnet.tasks.formula import Formula, Term, bits
from modalnet.tasks.requests import text_request

if TYPE_CHECKING:
    from jaxtyping import Float

METRICS = ("sum", "mean")


@dataclass(frozen=True)
class Sentence:
    """An item in one condition.

    Attributes
    ----------
    regions
        Region number -> its text, in order; some may be empty.
    """

    regions: Mapping[int, str]

    @property
    def parts(self) -> list[str]:
        """The non-empty regions; single spaces join them."""
        return [text for text in self.regions.values() if text]

    def requests(self, metric: str, scored: Container[int | None]) -> list[Request]:
        """Request the sentence, cut into its regions.

        With the metric ``"mean"`` the prefixes of the sentence are requested as well: their token counts give those of
        the regions. Only the regions in `scored` are scored (all, where it contains None), since formulas read few of
        them.
        """
        # The space before a region belongs to the region, where a tokenizer makes it part of a token.
        cuts = tuple(end - 1 for end in accumulate(len(text) + 1 for text in self.parts[:-1]))
        present = [number for number, text in self.regions.items() if text]
        needed = None if None in scored else tuple(index for index, number in enumerate(present) if number in scored)
        whole = replace(text_request(" ".join(self.parts), cuts), needed=needed)
        if metric == "sum":
            return [whole]
        prefixes = [" ".join(self.parts[:end]) for end in range(1, len(self.parts))]
        return [whole, *(replace(text_request(text), needed=()) for text in prefixes)]

    def surprisals(self, likelihoods: Sequence[Likelihood], metric: str) -> dict[int | None, float]:
        """Surprisal of each region in bits: 0 for an empty region, NaN for one not scored; None maps to their sum."""
        values = np.array([bits(value) for value in likelihoods[0].segments])
        if metric == "mean":
            ends = [*(likelihood.n_tokens for likelihood in likelihoods[1:]), likelihoods[0].n_tokens]
            values = values / np.maximum(np.diff(ends, prepend=0), 1)
        present = [number for number, text in self.regions.items() if text]
        surprisals: dict[int | None, float] = dict.fromkeys(self.regions, 0.0)
        surprisals |= {number: float(value) for number, value in zip(present, values, strict=True)}
        return {**surprisals, None: float(values.sum())}


@dataclass(frozen=True)
class SuiteItem:
    """An item of a suite: its sentence in each condition, and the predictions about them."""

    suite: str
    number: str
    conditions: Mapping[str, Sentence]
    predictions: tuple[Formula, ...]
    metric: str

    def requests(self, condition: str) -> list[Request]:
        """Request the sentence of one condition."""
        terms = {term for formula in self.predictions for term in formula.terms}
        scored = {region for region, where in terms if where == condition}
        return self.conditions[condition].requests(self.metric, scored)


class SyntaxGym(LikelihoodTask):
    """Test suites, scored by the share of predictions that hold. Made by :func:`syntaxgym`."""

    def __init__(self, name: str, items: Sequence[SuiteItem]) -> None:
        self.name = name
        self._contents = tuple(items)
        self._items = unique_names(f"{item.suite}/{item.number}" for item in items)

    @property
    def items(self) -> tuple[str, ...]:
        return self._items

    @property
    def groups(self) -> dict[str, str]:
        """Item -> its suite."""
        return {name: item.suite for name, item in zip(self._items, self._contents, strict=True)}

    def requests(self) -> list[Request]:
        return [
            request for item in self._contents for condition in item.conditions for request in item.requests(condition)
        ]

    def grade(self, likelihoods: Sequence[Likelihood]) -> Float[np.ndarray, " item"]:
        remaining = iter(likelihoods)
        scores = []
        for item in self._contents:
            values: dict[Term, float] = {}
            for condition, sentence in item.conditions.items():
                answers = [next(remaining) for _ in item.requests(condition)]
                for region, value in sentence.surprisals(answers, item.metric).items():
                    values[region, condition] = value
            scores.append(np.mean([formula(values) for formula in item.predictions]))
        return np.array(scores)

    def identity(self) -> str:
        predictions = [[item.metric, [formula.text for formula in item.predictions]] for item in self._contents]
        regions = [
            [[name, list(sentence.regions)] for name, sentence in item.conditions.items()] for item in self._contents
        ]
        return digest([super().identity(), predictions, regions])


def syntaxgym(
    source: str | os.PathLike[str],
    *,
    name: str | None = None,
    n: int | None = None,
    seed: int = 0,
    encoding: str = "utf-8",
) -> SyntaxGym:
    """Test suites of SyntaxGym, with their prediction formulas.

    Parameters
    ----------
    source
        A suite in the published JSON format, or a folder of suites.
    name
        Name of the task; by default that of the file or folder.
    n
        Number of items per suite, drawn with the seed; None takes all.
    seed
        Seed of the draw.
    encoding
        Encoding of the files.

    Returns
    -------
    SyntaxGym
        An item's score is the share of its suite's predictions that hold for it; most suites have one prediction.
        Regions are joined by single spaces; empty regions are omitted and have surprisal 0. The surprisal of a region,
        in bits, is the sum or the mean over its tokens, according to the suite's ``metric``. Items are named
        ``suite/item_number``; ``groups`` maps each item to its suite.

    Raises
    ------
    InputError
        The file or folder does not exist or holds no suites; a suite has fewer than ``n`` items, is not valid JSON, or
        lacks a key; a formula cannot be parsed, or names a condition or region that an item does not have; the metric
        is neither ``sum`` nor ``mean``. The message names the file and the item.

    References
    ----------
    Gauthier, Hu, Wilcox, Qian & Levy (2020). SyntaxGym: an online platform for targeted evaluation of language models.
    ACL system demonstrations, 70-76.
    Hu, Gauthier, Qian, Wilcox & Levy (2020). A systematic assessment of syntactic generalization in neural language
    models. ACL, 1725-1744.
    """
    check_seed(seed)
    path = Path(source)
    if path.is_dir():
        files = sorted(file for file in open_folder(path).glob("*.json") if file.name[0] != ".")
        if not files:
            raise InputError(f"{path} has no SyntaxGym suites (*.json files).")
    else:
        files = [path]
    items: list[SuiteItem] = []
    for file in files:
        suite = _suite(file, encoding)
        items += [suite[index] for index in draw(n, len(suite), seed, file.stem)]
    return SyntaxGym(name or (path.resolve().name if path.is_dir() else path.stem), items)


def _suite(path: Path, encoding: str) -> list[SuiteItem]:
    try:
        suite = json.loads(read_text(path, encoding))
    except (json.JSONDecodeError, RecursionError) as error:
        raise InputError(f"{path} is not valid JSON: {error}.") from error
    meta = _get(suite, "meta", dict, str(path))
    metric = meta.get("metric", "sum")
    if metric not in METRICS:
        raise InputError(f"{path}: the metric must be one of {', '.join(METRICS)}, got {metric!r}.")
    predictions = tuple(
        _prediction(prediction, f"{path}, prediction {i}")
        for i, prediction in enumerate(_get(suite, "predictions", list, str(path)))
    )
    suite_items = []
    for index, item in enumerate(_get(suite, "items", list, str(path)), start=1):
        where = f"{path}, item {item.get('item_number', index) if isinstance(item, dict) else index}"
        conditions: dict[str, Sentence] = {}
        for entry in _get(item, "conditions", list, where):
            condition = _get(entry, "condition_name", str, where)
            if condition in conditions:
                raise InputError(f"{where} has the condition {condition!r} twice.")
            conditions[condition] = _sentence(entry, f"{where}, condition {condition!r}")
        for formula in predictions:
            _check_terms(formula, conditions, where)
        number = str(item.get("item_number", index))
        suite_items.append(SuiteItem(str(meta.get("name") or path.stem), number, conditions, predictions, metric))
    return suite_items


def _prediction(prediction: Any, where: str) -> Formula:
    try:
        return Formula(_get(prediction, "formula", str, where))
    except InputError as error:
        raise error if str(error).startswith(where) else InputError(f"{where}: {error}") from error


def _sentence(condition: Any, where: str) -> Sentence:
    regions: dict[int, str] = {}
    for index, region in enumerate(_get(condition, "regions", list, where), start=1):
        number = _get(region, "region_number", int, f"{where}, region {index}")
        if number in regions:
            raise InputError(f"{where} has region {number} twice.")
        regions[number] = " ".join(_get(region, "content", str, f"{where}, region {number}").split())
    if not any(regions.values()):
        raise InputError(f"{where}: all regions are empty.")
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
    """The value of a key; an InputError where it is missing, of another type, or an empty list."""
    if not isinstance(holder, dict) or key not in holder:
        raise InputError(f"{where} lacks {key!r}, which a SyntaxGym suite must have.")
    value = holder[key]
    if not isinstance(value, kind) or isinstance(value, bool) or (kind is list and not value):
        expected = {list: "a non-empty list", dict: "an object", int: "an integer", str: "a string"}[kind]
        raise InputError(f"{where}: {key} must be {expected}, got {repr(value)[:80]}.")
    return value
