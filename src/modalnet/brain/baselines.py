"""Simple properties of stimuli that predict brain responses on their own.

A long sentence drives a language network more than a short one, and every layer of every model knows the length of its
input. What a network predicts means something beyond what these predict.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from modalnet.brain.dataset import BrainDataset
from modalnet.brain.topics import words_of
from modalnet.errors import InputError
from modalnet.stimuli.frequency import zipf_frequencies

TEXT = ("length", "frequency", "position", "bag of words")
IMAGE = ("image statistics", "pixels")
SIDE = 16  # pixels of a picture made small
FLOOR = 1.0  # Zipf units below the rarest listed word, for words that are not listed


def baselines(
    dataset: BrainDataset, names: Sequence[str] | None = None
) -> tuple[dict[str, Float[np.ndarray, "stimulus feature"]], list[str]]:
    """Features of the stimuli that need no model.

    Parameters
    ----------
    dataset
        The stimuli. What is known of a response is not looked at.
    names
        Which; None for every one that the stimuli have.

        ``"length"``: words and characters of the text. ``"frequency"``: mean and lowest Zipf frequency of its words,
        and the share of words that are not among the 5,000 listed (these count as one unit rarer than the rarest).
        ``"position"``: place within the group and, where rows are in order, among all rows. ``"bag of words"``: how
        often each word occurs that two stimuli or more have. ``"image statistics"``: mean and standard deviation of
        the luminance, width, height. ``"pixels"``: the luminance of 16 x 16 areas.

    Returns
    -------
    features
        By name, float64 [stimulus, feature].
    notes
        What was left out, and why.

    Raises
    ------
    InputError
        For a name that is none, or that these stimuli do not have.

    References
    ----------
    Kamali Hadidi, Feghhi, Song, Blank & Kao (2024), arXiv:2406.01538: position, length and static words account for
    most of what language models predict in Pereira2018, Fedorenko2016 and Blank2014. van Heuven, Mandera, Keuleers &
    Brysbaert (2014), Quarterly Journal of Experimental Psychology 67:1176-1190, for the Zipf scale.
    """
    texts, pictured = dataset.texts, all(stimulus.n_images for stimulus in dataset.stimuli)
    possible = [*(TEXT if texts is not None else ()), *(IMAGE if pictured else ())]
    wanted = list(possible) if names is None else [names] if isinstance(names, str) else list(names)
    for name in wanted:
        if name not in (*TEXT, *IMAGE):
            raise InputError(f"There is no baseline {name!r}; there are {', '.join((*TEXT, *IMAGE))}.")
        if name not in possible:
            raise InputError(
                f"The baseline {name!r} needs {'a text' if name in TEXT else 'an image'} in each stimulus."
            )
    found, notes = {}, []
    for name in wanted:
        features = _make(name, dataset, texts)
        if features is None or not (np.ptp(features, axis=0) > 0).any():
            what = "the order of the stimuli is not known" if name == "position" else "it is the same for all stimuli"
            notes.append(f"baseline {name!r} left out: {what}")
            continue
        found[name] = features
    return found, notes


def _make(name: str, dataset: BrainDataset, texts: Sequence[str] | None) -> np.ndarray | None:
    if name == "position":
        return _position(dataset)
    if name in IMAGE:
        return np.stack([_picture(name, stimulus) for stimulus in dataset.stimuli])
    assert texts is not None
    words = [words_of(text) for text in texts]
    if name == "length":
        return np.array([[len(found), len(text)] for found, text in zip(words, texts, strict=True)], dtype=float)
    if name == "frequency":
        zipf = zipf_frequencies()
        rarest = min(zipf.values()) - FLOOR
        rows = []
        for found in words:
            values = [zipf.get(word, rarest) for word in found] or [rarest]
            unlisted = [float(word not in zipf) for word in found] or [1.0]
            rows.append([np.mean(values), min(values), np.mean(unlisted)])
        return np.array(rows)
    spread = Counter(word for found in words for word in set(found))
    place = {word: index for index, word in enumerate(word for word, n in spread.items() if n > 1)}
    counts = np.zeros((len(texts), max(len(place), 1)))
    for row, found in enumerate(words):
        for word in found:
            if word in place:
                counts[row, place[word]] += 1
    return counts


def _position(dataset: BrainDataset) -> np.ndarray | None:
    if not dataset.ordered:
        return None
    columns = [np.arange(len(dataset), dtype=float)]
    if dataset.groups is not None:
        seen: Counter[str] = Counter()
        inside = []
        for group in dataset.groups:
            inside.append(float(seen[group]))
            seen[group] += 1
        columns += [
            np.array(inside),
            np.array([i / max(seen[g] - 1, 1) for i, g in zip(inside, dataset.groups, strict=True)]),
        ]
    return np.stack(columns, axis=1)


def _picture(name: str, stimulus: object) -> np.ndarray:
    grey = [np.asarray(image.convert("L"), dtype=float) for image in stimulus.images()]  # type: ignore[attr-defined]
    if name == "image statistics":
        return np.mean([[one.mean(), one.std(), one.shape[1], one.shape[0]] for one in grey], axis=0)
    small = [image.convert("L").resize((SIDE, SIDE)) for image in stimulus.images()]  # type: ignore[attr-defined]
    return np.mean([np.asarray(one, dtype=float).ravel() for one in small], axis=0)
