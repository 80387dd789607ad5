"""Stimulus baselines: simple properties of stimuli that predict brain responses without a model.

A long sentence drives the language network more than a short one, and every layer of every model encodes the length of
its input. The score of a network is informative only as far as it exceeds that of such properties.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from modalnet._validation import check_option
from modalnet.brain.dataset import BrainDataset
from modalnet.brain.topics import words_of
from modalnet.errors import InputError
from modalnet.stimuli.frequency import zipf_frequencies

TEXT = ("length", "frequency", "position", "bag of words")
IMAGE = ("image statistics", "pixels")
SIDE = 16  # pixels per side of a downsampled image
FLOOR = 1.0  # Zipf units below the rarest listed word, for words that are not listed


def baselines(
    dataset: BrainDataset, names: Sequence[str] | None = None
) -> tuple[dict[str, Float[np.ndarray, "stimulus feature"]], list[str]]:
    """Compute features of the stimuli that do not depend on a model.

    Parameters
    ----------
    dataset
        The stimuli; their responses are not used.
    names
        Names of the baselines; None for all that apply to the stimuli.

        ``"length"``: number of words and of characters. ``"frequency"``: mean and lowest Zipf frequency of the words,
        and the fraction of words that are not among the 5,000 listed (which are assigned one Zipf unit below the
        rarest). ``"position"``: serial position among all stimuli and within the group, for stimuli in presentation
        order. ``"bag of words"``: counts of each word that occurs in two or more stimuli. ``"image statistics"``: mean
        and standard deviation of the luminance (0 to 255), width and height (pixels). ``"pixels"``: luminance of the
        image downsampled to 16 x 16.

    Returns
    -------
    features
        Mapping from names to float64 arrays [stimulus, feature].
    notes
        The baselines that were left out, with the reason.

    Raises
    ------
    InputError
        If a name is unknown, or the baseline requires a text or an image that some stimulus does not have.

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
        check_option("baselines", name, (*TEXT, *IMAGE))
        if name not in possible:
            raise InputError(
                f"The baseline {name!r} requires {'a text' if name in TEXT else 'an image'} in every stimulus."
            )
    computed, notes = {}, []
    for name in wanted:
        features = _make(name, dataset, texts)
        if features is None or not (np.ptp(features, axis=0) > 0).any():
            what = "the order of the stimuli is not known" if name == "position" else "it is constant over stimuli"
            notes.append(f"baseline {name!r} left out: {what}")
            continue
        computed[name] = features
    return computed, notes


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
