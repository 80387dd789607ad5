"""Minimal pairs: an acceptable sentence and an unacceptable one that differ in one respect.

A model that knows the language assigns the acceptable sentence the higher probability. The probability is that of the
whole sentence, so that it need not be known where the two differ.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from modalnet._validation import check_bool
from modalnet.execution.likelihood import Likelihood, Request
from modalnet.stimuli.minimal_pairs import read_pairs
from modalnet.stimuli.rows import unique_names
from modalnet.tasks.base import LikelihoodTask, digest
from modalnet.tasks.requests import text_request

if TYPE_CHECKING:
    from jaxtyping import Float


class MinimalPairs(LikelihoodTask):
    """Minimal pairs, scored by whether log p(good) > log p(bad). Made by :func:`minimal_pairs`.

    Attributes
    ----------
    pairs
        (good, bad) sentences of each item.
    per_token
        Whether the mean log-probability per token is compared instead of the sum over tokens.
    """

    chance = 0.5

    def __init__(
        self,
        name: str,
        items: Sequence[str],
        pairs: Sequence[tuple[str, str]],
        groups: Sequence[str],
        *,
        per_token: bool = False,
    ) -> None:
        self.name = name
        self.per_token = per_token
        self.pairs = tuple(pairs)
        self._items = unique_names(items)
        self._groups = tuple(groups)

    @property
    def items(self) -> tuple[str, ...]:
        return self._items

    @property
    def groups(self) -> dict[str, str]:
        """Item -> its paradigm."""
        return dict(zip(self._items, self._groups, strict=True))

    def subset(self, places: Sequence[int]) -> MinimalPairs:
        """Return the task with some of its items, by number from 0."""
        items, pairs, groups = ([every[place] for place in places] for every in (self._items, self.pairs, self._groups))
        return MinimalPairs(self.name, items, pairs, groups, per_token=self.per_token)  # type: ignore[arg-type]

    def requests(self) -> list[Request]:
        return [text_request(sentence) for pair in self.pairs for sentence in pair]

    def grade(self, likelihoods: Sequence[Likelihood]) -> Float[np.ndarray, " item"]:
        values = [one.logprob / (max(one.n_tokens, 1) if self.per_token else 1) for one in likelihoods]
        good, bad = np.array(values).reshape(-1, 2).T
        return (good > bad) + 0.5 * (good == bad)

    def identity(self) -> str:
        return digest([super().identity(), "per token"]) if self.per_token else super().identity()


def minimal_pairs(
    source: str | os.PathLike[str] | Sequence[tuple[str, str]],
    *,
    name: str | None = None,
    paradigm: str | Sequence[str] | None = None,
    rows: slice | None = None,
    n: int | None = None,
    seed: int = 0,
    per_token: bool = False,
    good: str | None = None,
    bad: str | None = None,
    encoding: str = "utf-8",
    delimiter: str | None = None,
) -> MinimalPairs:
    """Minimal pairs from BLiMP's files, from other tables, or from a list.

    Parameters
    ----------
    source
        A file of JSON lines in the format of BLiMP, a CSV or TSV file with a header, a folder of such files, or a list
        of (good, bad) sentences.
    name
        Name of the task; by default that of the file or folder.
    paradigm
        With a folder, the file or files to read, without their ending; None reads all.
    rows
        The rows of each file to use, counted from 0: ``slice(500, None)`` leaves the first 500 pairs to
        :func:`modalnet.stimuli.minimal_pairs`, which takes the same argument. None uses all.
    n
        Number of pairs per file, drawn with the seed from `rows`; None takes all.
    seed
        Seed of the draw. The draw from a file does not depend on the other files.
    per_token
        Compare the mean log-probability per token instead of the sum over tokens. The sum asks which sentence is more
        probable; the mean, which minicons reports by default (Misra 2022), does not penalize the sentence that has more
        tokens.
    good, bad
        Columns (fields) of the acceptable and the unacceptable sentence; by default ``sentence_good`` and
        ``sentence_bad``, or ``good`` and ``bad``.
    encoding, delimiter
        Encoding of the files, and cell delimiter of tables; None is a comma in CSV and a tab in TSV files.

    Returns
    -------
    MinimalPairs
        An item scores 1 where the sum of log p(token | preceding tokens) is larger for the good sentence, 0.5 where the
        two are equal, and 0 otherwise: the full-sentence method of Warstadt et al. (2020); with `per_token` the sums
        are divided by the number of tokens. Chance is 0.5. Items are named ``paradigm/pairID``; the paradigm is the
        field ``UID`` or else the file, and without a ``pairID`` the line or row number is used. ``groups`` maps each
        item to its paradigm.

    Raises
    ------
    InputError
        The file or folder does not exist, holds no minimal pairs, or has another encoding; a row lacks a sentence, or
        has an empty one or two equal ones; ``paradigm`` names no file; ``rows`` reaches beyond a file or takes none of
        it; ``n`` exceeds the number of pairs of a file. The message names the file and
        the line. A pair may occur twice. In rows with a ``UID`` the two sentences may be equal, as in one published
        pair of BLiMP, which is then a tie.

    References
    ----------
    Warstadt, Parrish, Liu, Mohananey, Peng, Wang & Bowman (2020). BLiMP: the benchmark of linguistic minimal pairs for
    English. TACL 8, 377-392.
    Misra (2022). minicons: enabling flexible behavioral and representational analyses of transformer language models.
    arXiv 2203.13112.
    """
    check_bool("per_token", per_token)
    read = read_pairs(
        source, paradigm, rows, n=n, seed=seed, good=good, bad=bad, encoding=encoding, delimiter=delimiter
    )
    return MinimalPairs(name or read.name, read.items, read.pairs, read.groups, per_token=per_token)
