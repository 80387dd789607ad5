"""Published localizers, read from the files that their authors distribute."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from modalnet.errors import InputError
from modalnet.stimuli.contrast import Contrast
from modalnet.stimuli.readers import Duplicates, by_prefix, image_stimuli, images_in, listed, make_contrast, open_folder
from modalnet.stimuli.stimulus import Stimulus
from modalnet.stimuli.tables import column, read_table

LANGUAGE_FILES = tuple(f"langloc_fmri_run{run}_stim_set{part}.csv" for run in (1, 2) for part in (1, 2, 3, 4, 5))
WORD_COLUMNS = tuple(f"stim{index}" for index in range(2, 14))
LABEL_COLUMN = "stim14"
LABELS = {"S": "sentences", "N": "nonwords"}

INTACT = ("adult", "child", "body", "limb", "car", "instrument", "corridor", "house", "word", "number")
SCRAMBLED = "scrambled"
FACES = ("adult", "child")


def fedorenko2010(folder: str | os.PathLike[str], *, lower: bool = True, duplicates: Duplicates = "error") -> Contrast:
    """The language localizer of Fedorenko et al. (2010): sentences > strings of nonwords.

    Parameters
    ----------
    folder
        The folder with the ten files ``langloc_fmri_run{1,2}_stim_set{1..5}.csv``: twelve words per row in the columns
        stim2 to stim13, S (sentence) or N (nonwords) in stim14.
    lower
        Lower-case the words, which the files hold in capitals, as in the published code of "The LLM Language Network":
        tokenizers split capitals into more tokens than ordinary text. False keeps the capitals.
    duplicates
        The published items are all different, so a repeated text is an error of the copy; ``"keep"`` accepts it.

    Returns
    -------
    Contrast
        240 stimuli of the condition ``sentences`` and 240 of ``nonwords``, the words joined by single spaces. An id
        such as ``"run1-set3-07"`` names file and item.

    Raises
    ------
    InputError
        A file or column is missing, a cell is empty, a label is neither S nor N, a row has another number of cells, or
        a text is repeated. The message names the file and the row, or the ids.

    References
    ----------
    Fedorenko, Hsieh, Nieto-Castañón, Whitfield-Gabrieli & Kanwisher (2010). New method for fMRI investigations of
    language: defining ROIs functionally in individual subjects. Journal of Neurophysiology 104, 1177-1194.
    AlKhamissi, Tuckute, Bosselut & Schrimpf (2025). The LLM Language Network. arXiv 2411.02280.
    """
    folder = open_folder(folder)
    missing = [name for name in LANGUAGE_FILES if not (folder / name).is_file()]
    if missing:
        raise InputError(f"{folder} lacks {len(missing)} of the 10 files of the localizer: {', '.join(missing)}.")
    stimuli = []
    for name in LANGUAGE_FILES:
        stimuli += _language_file(folder / name, lower)
    return make_contrast(folder, stimuli, "sentences", "nonwords", duplicates=duplicates)


def _language_file(path: Path, lower: bool) -> list[Stimulus]:
    header, rows = read_table(path)
    columns = [column(path, header, name) for name in WORD_COLUMNS]
    label_column = column(path, header, LABEL_COLUMN)
    run, part = path.stem.split("_")[2], path.stem.split("_")[4]
    stimuli = []
    for item, (number, row) in enumerate(rows, start=1):
        words = [row[index].strip() for index in columns]
        if not all(words):
            raise InputError(f"{path}, row {number}: column {WORD_COLUMNS[words.index('')]} is empty.")
        label = row[label_column].strip()
        if label not in LABELS:
            raise InputError(f"{path}, row {number}: column {LABEL_COLUMN} must be S or N, got {label!r}.")
        text = " ".join(words)
        stimuli.append(
            Stimulus(text.lower() if lower else text, condition=LABELS[label], id=f"{run}-{part}-{item:02d}")
        )
    return stimuli


def floc(
    folder: str | os.PathLike[str],
    positive: str | Sequence[str] = FACES,
    negative: str | Sequence[str] | None = None,
    *,
    duplicates: Duplicates = "error",
) -> Contrast:
    """The fLoc localizer of visual categories; by default faces > the other intact categories.

    Other contrasts are selected by category: ``positive=("house", "corridor")`` for places, ``("word", "number")`` for
    characters, ``("body", "limb")`` for bodies. Intact > scrambled is
    ``floc(folder, positive=INTACT, negative="scrambled")`` with ``INTACT`` from ``modalnet.stimuli.published``.

    Parameters
    ----------
    folder
        Images named by category and number (``adult-001.jpg``): adult, child, body, limb, car, instrument, corridor,
        house, word, number, scrambled.
    positive
        Categories.
    negative
        Categories; None means the intact categories that are not positive, never ``scrambled``.
    duplicates
        The published images are all different, so two identical files are an error of the copy; ``"keep"`` accepts
        them.

    Returns
    -------
    Contrast
        Image-only stimuli.

    Raises
    ------
    InputError
        The folder does not exist, an image has another name or category, a named category has no images, or two files
        are identical.

    References
    ----------
    Stigliani, Weiner & Grill-Spector (2015). Temporal processing capacity in high-level visual cortex is domain
    specific. Journal of Neuroscience 35, 12412-12424.
    """
    folder = open_folder(folder)
    images = images_in(folder)
    if not images:
        raise InputError(f"{folder} has no images; fLoc images are named like adult-001.jpg.")
    groups = by_prefix(folder, images)
    unknown = [name for name in groups if name not in (*INTACT, SCRAMBLED)]
    if unknown:
        raise InputError(
            f"{folder} has images of categories that fLoc does not have: {', '.join(unknown)}. fLoc has "
            f"{', '.join((*INTACT, SCRAMBLED))}; modalnet.stimuli.from_folder reads any categories."
        )
    if negative is None:
        negative = tuple(name for name in INTACT if name not in listed(positive))
        missing = [name for name in negative if name not in groups]
        if missing:
            raise InputError(
                f"{folder} has no images of {', '.join(missing)}, which the default negative side includes. Name the "
                "negative categories with `negative` to omit them."
            )
    return make_contrast(folder, image_stimuli(folder, groups), positive, negative, duplicates=duplicates)
