"""Topics of sentences, as groups for cross-validation where the passages are unknown.

Published averages of sentence responses often lack the passage of each sentence. Sentences of one passage can still be
recognized by the rare words that they share.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from modalnet._validation import check_fraction, check_int
from modalnet.errors import InputError
from modalnet.stimuli.package_data import data_text

WORD = re.compile(r"[a-z]+(?:'[a-z]+)?")
SUFFIXES = ("ies", "es", "s", "ing", "ed")
DISTANCE = 0.95


def words_of(text: str) -> list[str]:
    """Return the words of a text, in lower case."""
    return WORD.findall(text.lower().replace("’", "'"))


def topics(texts: Any, *, n: int | None = None, distance: float = DISTANCE) -> list[str]:
    """Cluster texts that share rare content words.

    Parameters
    ----------
    texts
        A list of texts, or a BrainDataset whose stimuli all have a text.
    n
        Number of groups; if None, the tree is cut at ``distance``.
    distance
        Largest mean cosine distance between the texts of two groups that are merged, above 0 and at most 1.

    Returns
    -------
    list of str
        One label per text, ``"topic-001"`` and so on, numbered by first appearance.

    Raises
    ------
    InputError
        If there are fewer than two texts, a stimulus has no text, or ``n`` or ``distance`` is out of range.

    Notes
    -----
    Content words, stripped of simple suffixes, are weighted by tf-idf (term frequency x log(n texts / n texts with the
    word)), and texts are clustered by average linkage of the cosine distance. A text that shares no word forms a group
    by itself. The groups approximate the passages of the experiment: two passages on one topic are merged, and a
    sentence without words of its topic is missed. Where the passages are known, use them.

    References
    ----------
    Spärck Jones (1972), Journal of Documentation 28(1):11-21, for the weights; Sokal & Michener (1958), University of
    Kansas Science Bulletin 38:1409-1438, for average linkage.
    """
    from scipy.cluster.hierarchy import fcluster, linkage
    from scipy.spatial.distance import squareform

    given = getattr(texts, "texts", texts)
    if given is None or isinstance(given, str) or any(not isinstance(text, str) for text in given):
        raise InputError("`texts` must be a list of strings, or a dataset whose stimuli all have a text.")
    given = list(given)
    if len(given) < 2:
        raise InputError(f"`texts` must hold at least two texts, got {len(given)}.")
    check_fraction("distance", distance)
    if n is not None:
        check_int("n", n, minimum=1, maximum=len(given))
    weights = _weights(given)
    similar = np.clip(weights @ weights.T, 0, 1)
    apart = squareform(1 - similar, checks=False)
    tree = linkage(apart, method="average")
    labels = fcluster(tree, n, "maxclust") if n is not None else fcluster(tree, distance, "distance")
    names = {label: f"topic-{place:03d}" for place, label in enumerate(dict.fromkeys(labels.tolist()), start=1)}
    return [names[label] for label in labels.tolist()]


def _weights(texts: Sequence[str]) -> np.ndarray:
    function_words = frozenset(data_text("function_words.txt").split())
    counted = [Counter(_stem(word) for word in words_of(text) if word not in function_words) for text in texts]
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
