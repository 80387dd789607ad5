"""Which sentences are about the same thing, where a data set does not say.

Published averages of sentence responses often come without the passage of each sentence. Sentences of one passage
still give themselves away: they share their rare words.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from modalnet.errors import InputError
from modalnet.stimuli.package_data import data_text

WORD = re.compile(r"[a-z]+(?:'[a-z]+)?")
SUFFIXES = ("ies", "es", "s", "ing", "ed")
DISTANCE = 0.95


def words_of(text: str) -> list[str]:
    """The words of a text, in lower case."""
    return WORD.findall(text.lower().replace("’", "'"))


def topics(texts: Any, *, n: int | None = None, distance: float = DISTANCE) -> list[str]:
    """Group texts that share rare content words.

    Parameters
    ----------
    texts
        Texts, or a dataset of them.
    n
        Into how many groups; None cuts at ``distance``.
    distance
        Groups are merged as long as the mean cosine distance between their texts is at most this; from 0 to 1.

    Returns
    -------
    list of str
        A label per text, ``"topic-001"`` and so on, in the order in which topics first appear.

    Raises
    ------
    InputError
        For fewer than two texts, stimuli without text, or values out of range.

    Notes
    -----
    Content words, less simple endings, are weighed by term frequency x log(texts / texts with the word), and texts are
    merged by average linkage of the cosine distance. A text that shares nothing stays alone. These are not the
    passages of the experiment: two passages of one topic fall together, and a sentence without its topic's words is
    missed. Where the passages are known, give them.

    References
    ----------
    Spärck Jones (1972), Journal of Documentation 28(1):11-21, for the weights; Sokal & Michener (1958), University of
    Kansas Science Bulletin 38:1409-1438, for average linkage.
    """
    from scipy.cluster.hierarchy import fcluster, linkage
    from scipy.spatial.distance import squareform

    given = getattr(texts, "texts", texts)
    if given is None or isinstance(given, str) or any(not isinstance(text, str) for text in given):
        raise InputError("topics() groups texts; give a list of strings, or a dataset whose stimuli all have a text.")
    given = list(given)
    if len(given) < 2:
        raise InputError(f"topics() compares texts; got {len(given)}.")
    if not 0 < distance <= 1:
        raise InputError(f"distance= is a cosine distance above 0, at most 1; got {distance!r}.")
    if n is not None and not 1 <= n <= len(given):
        raise InputError(f"n= is a number of groups from 1 to the {len(given)} texts; got {n!r}.")
    weights = _weights(given)
    similar = np.clip(weights @ weights.T, 0, 1)
    apart = squareform(1 - similar, checks=False)
    tree = linkage(apart, method="average")
    found = fcluster(tree, n, "maxclust") if n is not None else fcluster(tree, distance, "distance")
    names = {label: f"topic-{place:03d}" for place, label in enumerate(dict.fromkeys(found.tolist()), start=1)}
    return [names[label] for label in found.tolist()]


def _weights(texts: Sequence[str]) -> np.ndarray:
    kept = frozenset(data_text("function_words.txt").split())
    counted = [Counter(_stem(word) for word in words_of(text) if word not in kept) for text in texts]
    spread = Counter(word for counts in counted for word in counts)
    place = {word: index for index, word in enumerate(word for word, n in spread.items() if n > 1)}
    weights = np.zeros((len(texts), max(len(place), 1)))
    for row, counts in enumerate(counted):
        for word, count in counts.items():
            if word in place:
                weights[row, place[word]] = count * math.log(len(texts) / spread[word])
    norms = np.linalg.norm(weights, axis=1, keepdims=True)
    return weights / np.where(norms > 0, norms, 1)


def _stem(word: str) -> str:
    for suffix in SUFFIXES:
        if word.endswith(suffix) and len(word) - len(suffix) >= 3:
            return word[: -len(suffix)] + ("y" if suffix == "ies" else "")
    return word
