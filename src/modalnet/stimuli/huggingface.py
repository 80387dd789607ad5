"""Contrasts from Hugging Face datasets.

Only the rows of the named conditions are read, and images and sounds remain as stored (compressed bytes or a path)
until a model needs them, so that a large dataset does not have to fit into memory decoded.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from modalnet._validation import check_int
from modalnet.errors import InputError
from modalnet.stimuli.contrast import Contrast
from modalnet.stimuli.readers import Duplicates, listed, make_contrast, stimulus_at


def from_dataset(
    dataset: Any,
    *,
    text: str | None = None,
    image: str | None = None,
    audio: str | None = None,
    condition: str,
    item: str | None = None,
    positive: str | Sequence[str],
    negative: str | Sequence[str] | None = None,
    split: str | None = None,
    limit: int | None = None,
    duplicates: Duplicates = "error",
) -> Contrast:
    """Read a contrast from a Hugging Face dataset, one stimulus per row.

    Parameters
    ----------
    dataset
        A ``datasets.Dataset`` or ``IterableDataset``, a ``DatasetDict`` (with ``split``), a list of dicts, the name of
        a dataset on the hub, or the path of a local copy (``save_to_disk``, or whatever ``datasets.load_dataset``
        takes).
    text, image, audio, condition
        Column names; at least one of text, image and audio. Class labels become their names, other values their string.
    item
        Column that says which stimuli are versions of one item.
    positive, negative
        Conditions, as for :class:`~modalnet.stimuli.Contrast`. With ``negative=None`` every row is read.
    split
        Name of the split, for datasets with several.
    limit
        Maximum number of stimuli per condition; the first ones are taken. None takes all.
    duplicates
        ``"error"`` refuses two rows of the contrast with the same text, image and sound, in one condition or in
        two; ``"keep"`` accepts them.

    Returns
    -------
    Contrast
        Ids are row numbers from 0: ``"row-17"``.

    Raises
    ------
    InputError
        ``datasets`` is not installed; the dataset cannot be opened; a split or column does not exist; a cell is empty;
        two rows have the same text, image and sound; or the conditions do not form a contrast.
    """
    if text is None and image is None and audio is None:
        raise InputError(
            "Name the text column (`text`), the image column (`image`), the column of sounds (`audio`), or several."
        )
    if limit is not None:
        check_int("limit", limit, minimum=1)
    source = "The dataset"
    if isinstance(dataset, str | os.PathLike):
        source = f"The dataset {os.fspath(dataset)!r}"
        dataset = _open(os.fspath(dataset), split)
    dataset = _one_split(dataset, split, source)
    _check_columns(dataset, [name for name in (text, image, audio, condition, item) if name is not None], source)
    wanted = None if negative is None else {*listed(positive), *listed(negative)}
    stimuli = []
    for number, label, row in _rows(_undecoded(_undecoded(dataset, image), audio), condition, wanted, limit, source):
        stimuli.append(
            stimulus_at(
                f"{source}, row {number}",
                text=row[text] if text is not None else None,
                image=_image(row[image]) if image is not None else None,
                audio=row[audio] if audio is not None else None,
                condition=label,
                id=f"row-{number}",
                item=None if item is None or row[item] is None else str(row[item]),
            )
        )
    return make_contrast(source, stimuli, positive, negative, duplicates=duplicates)


def _open(name: str, split: str | None) -> Any:
    try:
        import datasets
    except ImportError as error:
        raise InputError(
            f"Opening the dataset {name!r} requires the package datasets: pip install 'modalnet[datasets]'. "
            "A dataset object or a list of dicts works without it."
        ) from error
    try:
        folder = Path(name)
        if (folder / "dataset_dict.json").is_file() or (folder / "state.json").is_file():
            return datasets.load_from_disk(name)
        return datasets.load_dataset(name, split=split)
    except Exception as error:  # the hub, the network and damaged copies raise almost anything
        raise InputError(
            f"The dataset {name!r} (split {split!r}) cannot be opened: {error}. Check the name, the split and the "
            "connection, or open it with the datasets package and pass the object."
        ) from error


def _one_split(dataset: Any, split: str | None, source: str) -> Any:
    if not isinstance(dataset, Mapping):
        return dataset
    if split is None and len(dataset) == 1:
        return next(iter(dataset.values()))
    if split in dataset:
        return dataset[split]
    hint = "Pass one of them as `split`" if split is None else f"It has no split {split!r}"
    raise InputError(f"{source} has the splits {', '.join(map(str, dataset))}. {hint}.")


def _check_columns(dataset: Any, names: list[str], source: str) -> None:
    if isinstance(dataset, Sequence) and not isinstance(dataset, str):
        if not dataset:
            raise InputError(f"{source} is empty.")
        present = list(dataset[0]) if isinstance(dataset[0], Mapping) else None
    else:
        present = getattr(dataset, "column_names", None)
        if present is None and not hasattr(dataset, "features"):
            raise InputError(
                "`dataset` must be a datasets.Dataset, a list of dicts, a name or a path, "
                f"got a {type(dataset).__name__}."
            )
    # A stream may not know its columns before its first row.
    missing = [name for name in names if present is not None and name not in present]
    if missing:
        raise InputError(f"{source} has no column {', '.join(map(repr, missing))}. It has: {', '.join(present or ())}.")


def _undecoded(dataset: Any, image: str | None) -> Any:
    """The same dataset, with a column of images or sounds as stored bytes or paths."""
    feature: Any = (getattr(dataset, "features", None) or {}).get(image)
    each: Any = getattr(feature, "feature", None)  # of a column of lists
    if image is not None and getattr(feature, "decode", False):
        return dataset.cast_column(image, type(feature)(decode=False))
    if image is not None and getattr(each, "decode", False):
        return dataset.cast_column(image, type(feature)(type(each)(decode=False)))
    return dataset


def _rows(
    dataset: Any, condition: str, wanted: set[str] | None, limit: int | None, source: str
) -> Iterator[tuple[int, str, Mapping[str, Any]]]:
    """Row number, condition and cells of each row of the contrast."""
    name_of = _label_names((getattr(dataset, "features", None) or {}).get(condition))
    taken: Counter[str] = Counter()
    # A dataset on disk reads one column at a time: select the rows by their label, then read only those.
    rows = ({condition: value} for value in dataset[condition]) if hasattr(dataset, "select") else dataset
    for number, cells in enumerate(rows):
        if not isinstance(cells, Mapping) or condition not in cells:
            raise InputError(f"{source}, row {number}: no column {condition!r} in {cells!r}.")
        label = name_of(cells[condition])
        if label is None:
            raise InputError(f"{source}, row {number}: the column {condition!r} is empty. Filter out such rows first.")
        if (wanted is not None and label not in wanted) or (limit is not None and taken[label] >= limit):
            continue
        taken[label] += 1
        yield number, label, dataset[number] if hasattr(dataset, "select") else cells
        if wanted is not None and limit is not None and all(taken[name] >= limit for name in wanted):
            return


def _label_names(feature: Any) -> Callable[[Any], str | None]:
    names = getattr(feature, "names", None)

    def name_of(value: Any) -> str | None:
        if value is None or (isinstance(value, str) and not value.strip()):
            return None
        if names is not None and isinstance(value, int):
            return names[value] if value >= 0 else None  # -1 means "no label" on the hub
        return str(value)

    return name_of


def _image(cell: Any) -> Any:
    """Convert a cell of an image column to an image source."""
    if isinstance(cell, list):
        return [_image(item) for item in cell]
    if isinstance(cell, Mapping):
        return cell.get("bytes") or cell.get("path")
    return cell
