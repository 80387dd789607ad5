"""A researcher's own responses as a data set: arrays, a CSV file, an xarray, or a folder of pictures with responses."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from modalnet.brain.dataset import BrainDataset, as_labels, make_stimuli, some
from modalnet.errors import InputError
from modalnet.stimuli import Stimulus
from modalnet.stimuli.readers import images_in, open_folder
from modalnet.stimuli.tables import column, read_table

MISSING = ("", "na", "nan", "n/a", "null", "none")


def from_arrays(
    stimuli: Any,
    responses: Any,
    *,
    groups: Any = None,
    ordered: bool = False,
    ceiling: Any = None,
    subjects: Any = None,
    regions: Any = None,
    name: str = "dataset",
    source: str = "",
) -> BrainDataset:
    """A data set from what is in memory.

    Parameters
    ----------
    stimuli
        Texts or Stimulus objects, one per row.
    responses
        [stimulus], [stimulus, target], or [repeat, stimulus, target] for repeated measurements (or one per
        participant), whose mean is predicted and whose agreement gives the noise ceiling. NaN where missing.
    groups
        The group of each stimulus: passage, story, run.
    ordered
        Whether rows are in the order in which they were shown.
    ceiling
        [target] or a number: the correlation that a perfect model would reach, where it is known.
    subjects, regions
        Per target: whose it is, and where.
    name, source
        A readable name, and what to cite.

    Returns
    -------
    BrainDataset

    Raises
    ------
    InputError
        For parts that do not fit each other; see :class:`BrainDataset`.
    """
    made = make_stimuli(stimuli, name)
    try:
        values = np.asarray(responses, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise InputError(f"{name}: responses are numbers, [stimulus, target]: {error}") from error
    repeats = None
    if values.ndim == 1:
        values = values[:, None]
    elif values.ndim == 3:
        repeats = values
        values = _mean(values)
    if values.ndim != 2 or len(values) != len(made):
        raise InputError(
            f"{name}: responses are [stimulus], [stimulus, target] or [repeat, stimulus, target]; got "
            f"{np.shape(responses)} for {len(made)} stimuli."
        )
    n_targets = values.shape[1]
    if ceiling is not None:
        ceiling = np.asarray(ceiling, dtype=np.float64)
        ceiling = np.full(n_targets, float(ceiling)) if ceiling.ndim == 0 else ceiling
    return BrainDataset(
        name=name,
        stimuli=made,
        responses=values,
        groups=as_labels(groups, "groups", len(made)),
        ordered=bool(ordered),
        ceiling=ceiling,
        repeats=repeats,
        subjects=as_labels(subjects, "subjects", n_targets),
        regions=as_labels(regions, "regions", n_targets),
        source=source,
    )


def from_csv(
    path: str | os.PathLike[str],
    *,
    text: str | None = "text",
    image: str | None = None,
    responses: str | Sequence[str],
    group: str | None = None,
    subject: str | None = None,
    region: str | None = None,
    repeat: str | None = None,
    ordered: bool = False,
    ceiling: Any = None,
    name: str | None = None,
    encoding: str = "utf-8",
    delimiter: str = ",",
    source: str = "",
) -> BrainDataset:
    """Read a CSV file with a header: one row per stimulus, or per stimulus and participant or region.

    Parameters
    ----------
    path
        The file.
    text, image
        Columns of the texts, and of image paths, which count from the folder of the file. One may be None.
    responses
        The column of the responses. A list of columns makes one target of each.
    group
        The column of groups.
    subject, region
        Columns that say whose and where a response is: then each row is one response, rows with one text are one
        stimulus, and each subject and region is a target. Needs a single column of responses.
    repeat
        With one row per response, the column that numbers repeated measurements; without it, several responses of one
        subject and region to one stimulus are averaged.
    ordered
        Whether stimuli are in the order in which they were shown.
    ceiling, source
        As for :func:`from_arrays`.
    name
        A readable name; that of the file, if None.
    encoding, delimiter
        How the file is written.

    Returns
    -------
    BrainDataset
        Stimuli in file order. Empty cells, NA and NaN of a response column are missing responses.

    Raises
    ------
    InputError
        No such file or column; a response that is no number; a stimulus that stands in two rows or two groups. The
        message names the file and the row.
    """
    path = Path(path)
    name = name or path.stem
    if text is None and image is None:
        raise InputError(f"{path}: name the column of the texts (text=), of the images (image=), or both.")
    header, rows = read_table(path, encoding, delimiter)
    wanted = [responses] if isinstance(responses, str) else list(responses)
    if not wanted:
        raise InputError(f"{path}: responses= names no column. It has: {', '.join(header)}.")
    columns = {
        what: column(path, header, title, delimiter)
        for what, title in (
            ("text", text),
            ("image", image),
            ("group", group),
            ("subject", subject),
            ("region", region),
            ("repeat", repeat),
        )
        if title is not None
    }
    values = [column(path, header, title, delimiter) for title in wanted]
    if not rows:
        raise InputError(f"{path} has a header and no rows.")
    long = subject is not None or region is not None or repeat is not None
    if long and len(values) > 1:
        raise InputError(
            f"{path}: with subject=, region= or repeat= each row is one response; name one column of them."
        )
    table = _Table(path, columns, values, rows)
    stimuli, groups = table.stimuli(name, repeated=long)
    if not long:
        found: np.ndarray = np.array([table.numbers(row) for row in rows])
        regions = wanted if len(wanted) > 1 else None
        return from_arrays(
            stimuli, found, groups=groups, ordered=ordered, ceiling=ceiling, regions=regions, name=name, source=source
        )
    found, subjects, regions = table.pivot(len(stimuli))
    return from_arrays(
        stimuli,
        found,
        groups=groups,
        ordered=ordered,
        ceiling=ceiling,
        subjects=subjects if subject is not None else None,
        regions=regions if region is not None else None,
        name=name,
        source=source,
    )


def from_xarray(
    array: Any,
    *,
    stimulus: str = "stimulus",
    group: str | None = None,
    subject: str | None = None,
    region: str | None = None,
    order: Sequence[str] = (),
    ordered: bool = False,
    ceiling: Any = None,
    name: str | None = None,
    source: str = "",
) -> BrainDataset:
    """A data set from an xarray ``DataArray``, such as an assembly of Brain-Score.

    Parameters
    ----------
    array
        Two dimensions: that of the stimuli, which carries the coordinate ``stimulus``, and that of the targets.
    stimulus
        The coordinate that holds the texts.
    group
        The coordinate, along the stimuli, of the groups.
    subject, region
        Coordinates along the targets.
    order
        Coordinates along the stimuli to sort by first (``["story", "stimulus_id"]``).
    ordered, ceiling, source
        As for :func:`from_arrays`.
    name
        A readable name; ``array.name`` or ``"dataset"``, if None.

    Returns
    -------
    BrainDataset

    Raises
    ------
    InputError
        For something else, another number of dimensions, or a coordinate that is not there.
    """
    dims, coords = getattr(array, "dims", None), getattr(array, "coords", None)
    if dims is None or coords is None or not hasattr(array, "values"):
        raise InputError(f"from_xarray() takes an xarray DataArray; got a {type(array).__name__}.")
    name = name or str(getattr(array, "name", None) or "dataset")
    if len(dims) != 2:
        raise InputError(f"{name}: two dimensions were expected, stimuli and targets; got {tuple(dims)}.")

    def coordinate(title: str, along: Any = None) -> np.ndarray:
        if title not in coords:
            raise InputError(f"{name} has no coordinate {title!r}; it has {', '.join(map(str, coords))}.")
        found = coords[title]
        if len(found.dims) != 1 or (along is not None and found.dims[0] != along):
            raise InputError(
                f"{name}: the coordinate {title!r} lies along {found.dims}; {along or 'one'} was expected."
            )
        return np.asarray(found.values)

    texts = coordinate(stimulus)
    rows = coords[stimulus].dims[0]
    targets = next(dim for dim in dims if dim != rows)
    values = np.asarray(array.transpose(rows, targets).values, dtype=np.float64)
    chosen = np.arange(len(texts))
    if order:
        keys = [coordinate(title, rows) for title in order]
        chosen = np.lexsort([np.unique(key, return_inverse=True)[1] for key in reversed(keys)])
    groups = None if group is None else coordinate(group, rows)[chosen]
    return from_arrays(
        [str(text) for text in texts[chosen]],
        values[chosen],
        groups=groups,
        ordered=ordered,
        ceiling=ceiling,
        subjects=None if subject is None else coordinate(subject, targets),
        regions=None if region is None else coordinate(region, targets),
        name=name,
        source=source,
    )


def from_folder(
    folder: str | os.PathLike[str],
    responses: Any,
    *,
    names: Sequence[str] | None = None,
    image: str = "image",
    columns: Sequence[str] | None = None,
    groups: Any = None,
    ordered: bool = False,
    ceiling: Any = None,
    ncsnr: Any = None,
    n_repeats: int = 3,
    subjects: Any = None,
    regions: Any = None,
    name: str | None = None,
    source: str = "",
) -> BrainDataset:
    """Pictures in a folder and the responses to them, in the manner of the Natural Scenes Dataset.

    Parameters
    ----------
    folder
        Of image files.
    responses
        An array [image, target] or [repeat, image, target]; or the path of such an array (``.npy``); or of a CSV file
        with the file name of each image in the column ``image``.
    names
        The file name of each row of an array; without it, rows are the images of the folder sorted by name.
    image, columns
        For a CSV file: the column of the file names, and those of the responses (all others, if None).
    groups, ordered, ceiling, subjects, regions, source
        As for :func:`from_arrays`. For images, groups may be categories, so that one category is held out whole.
    ncsnr, n_repeats
        [target] noise ceiling signal-to-noise ratios as NSD ships them, and over how many repeats the responses are
        averaged: the ceiling is the root of ncsnr² / (ncsnr² + 1 / n_repeats).
    name
        A readable name; the folder's, if None.

    Returns
    -------
    BrainDataset

    Raises
    ------
    InputError
        No such folder, file or image; rows that do not match the images; both ``ceiling`` and ``ncsnr``.

    References
    ----------
    Allen et al. (2022), Nature Neuroscience 25:116-126, "Noise ceiling estimation".
    """
    folder = open_folder(folder)
    name = name or folder.name
    if isinstance(responses, str | os.PathLike) and Path(responses).suffix.lower() == ".csv":
        table, titles = _image_table(Path(responses), image, columns)
        names, values = list(table), np.array(list(table.values()))
        regions = titles if regions is None and len(titles) > 1 else regions
    elif isinstance(responses, str | os.PathLike):
        try:
            values = np.load(responses, allow_pickle=False)
        except (OSError, ValueError) as error:
            raise InputError(f"{os.fspath(responses)} cannot be read as .npy or .csv: {error}") from error
    else:
        values = np.asarray(responses, dtype=np.float64)
    there = {path.name: path for path in images_in(folder)}
    listed = list(there) if names is None else [str(one) for one in names]
    missing = [one for one in listed if one not in there]
    if missing or not listed:
        raise InputError(f"{folder} lacks {len(missing)} images that have responses: {some(missing)}.")
    if len(set(listed)) < len(listed):
        raise InputError(
            f"{folder}: an image has two rows of responses: {some([o for o in listed if listed.count(o) > 1])}."
        )
    if ncsnr is not None:
        if ceiling is not None:
            raise InputError("Give ceiling= or ncsnr=, not both.")
        ratio = np.asarray(ncsnr, dtype=np.float64) ** 2
        ceiling = np.sqrt(ratio / (ratio + 1 / n_repeats))
    return from_arrays(
        [Stimulus(image=there[one], id=one) for one in listed],
        values,
        groups=groups,
        ordered=ordered,
        ceiling=ceiling,
        subjects=subjects,
        regions=regions,
        name=name,
        source=source,
    )


class _Table:
    """Rows of a CSV file with what its columns mean."""

    def __init__(
        self, path: Path, columns: Mapping[str, int], values: Sequence[int], rows: Sequence[tuple[int, list[str]]]
    ) -> None:
        self.path, self.columns, self.values, self.rows = path, columns, values, rows
        self.of_row: list[int] = []

    def numbers(self, row: tuple[int, list[str]]) -> list[float]:
        return [number(cells[index], f"{self.path}, row {at}") for at, cells in [row] for index in self.values]

    def stimuli(self, name: str, *, repeated: bool) -> tuple[list[Stimulus], list[str] | None]:
        """The different stimuli, in file order, and their groups."""
        found: dict[tuple[str, ...], int] = {}
        stimuli: list[Stimulus] = []
        groups: list[str] = []
        first: list[int] = []
        for at, cells in self.rows:
            where = f"{self.path}, row {at}"
            content = tuple(cells[self.columns[what]].strip() for what in ("text", "image") if what in self.columns)
            if not any(content):
                raise InputError(f"{where} names no stimulus: its cell is empty.")
            group = cells[self.columns["group"]].strip() if "group" in self.columns else ""
            if content in found:
                place = found[content]
                if not repeated:
                    raise InputError(
                        f"{where} repeats the stimulus of row {first[place]}. Where rows are responses of several "
                        "participants or regions, name their column (subject=, region=, repeat=)."
                    )
                if group != groups[place]:
                    raise InputError(f"{where}: this stimulus has the group {groups[place]!r} in row {first[place]}.")
                self.of_row.append(place)
                continue
            found[content] = len(stimuli)
            self.of_row.append(len(stimuli))
            first.append(at)
            groups.append(group)
            fields: dict[str, Any] = {"id": f"{name}-{len(stimuli) + 1:04d}"}
            for what in ("text", "image"):
                cell = cells[self.columns[what]].strip() if what in self.columns else ""
                fields[what] = (self.path.parent / cell if what == "image" else cell) if cell else None
            try:
                stimuli.append(Stimulus(**fields))
            except InputError as error:
                raise InputError(f"{where}: {error}") from error
        return stimuli, groups if "group" in self.columns else None

    def pivot(self, n: int) -> tuple[np.ndarray, list[str], list[str]]:
        """[stimulus, target], or [repeat, stimulus, target] where repeats are numbered, and what each target is."""

        def label(cells: list[str], what: str) -> str:
            return cells[self.columns[what]].strip() if what in self.columns else ""

        keys = [(label(cells, "subject"), label(cells, "region")) for _, cells in self.rows]
        targets = {key: index for index, key in enumerate(dict.fromkeys(keys))}
        rounds = [label(cells, "repeat") for _, cells in self.rows]
        repeats = {one: index for index, one in enumerate(dict.fromkeys(rounds))}
        total = np.zeros((len(repeats), n, len(targets)))
        count = np.zeros_like(total)
        for row, place, key, turn in zip(self.rows, self.of_row, keys, rounds, strict=True):
            (value,) = self.numbers(row)
            if np.isfinite(value):
                where = (repeats[turn], place, targets[key])
                total[where] += value
                count[where] += 1
        with np.errstate(invalid="ignore"):
            found = total / np.where(count > 0, count, np.nan)
        subjects, regions = ([key[i] for key in targets] for i in (0, 1))
        return (found if "repeat" in self.columns else found[0]), subjects, regions


def number(cell: str, where: str) -> float:
    """A response as it stands in a cell; NaN where it is missing, an InputError where it is no number."""
    if cell.strip().lower() in MISSING:
        return float("nan")
    try:
        return float(cell)
    except ValueError:
        raise InputError(
            f"{where}: the response {cell!r} is no number. Leave the cell empty where it is missing."
        ) from None


def _image_table(path: Path, image: str, columns: Sequence[str] | None) -> tuple[dict[str, list[float]], list[str]]:
    header, rows = read_table(path)
    names = column(path, header, image)
    titles = [title for title in header if title != image] if columns is None else list(columns)
    places = [column(path, header, title) for title in titles]
    found: dict[str, list[float]] = {}
    for at, cells in rows:
        key = cells[names].strip()
        if key in found:
            raise InputError(f"{path}, row {at}: the image {key!r} has a row of responses already.")
        found[key] = [number(cells[place], f"{path}, row {at}") for place in places]
    if not found or not titles:
        raise InputError(f"{path} has no rows, or no column of responses beside {image!r}.")
    return found, titles


def _mean(values: np.ndarray) -> np.ndarray:
    """Mean over repeats, of those that are there."""
    there = np.isfinite(values)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(there, values, 0).sum(axis=0) / there.sum(axis=0)
