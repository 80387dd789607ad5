"""Readers that make a BrainDataset of arrays, a CSV file, an xarray DataArray, or a folder of images.

Each reader pairs stimuli with responses and records the structure that later analyses require: groups of stimuli,
presentation order, participants and regions of the targets, and repeats or a noise ceiling.
"""

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
    """Make a dataset from arrays in memory.

    Parameters
    ----------
    stimuli
        Texts or Stimulus objects, one per row.
    responses
        Array [stimulus], [stimulus, target], or [repeat, stimulus, target] for repeated measurements (or one per
        participant), whose mean is the response and whose reliability gives the noise ceiling. NaN where missing.
    groups
        The group of each stimulus: passage, story, run.
    ordered
        Whether rows are in presentation order.
    ceiling
        Noise ceiling, if known: a correlation per target [target], or one number for all.
    subjects, regions
        The participant and the region of each target.
    name, source
        Name of the dataset, and the publication to cite.

    Returns
    -------
    BrainDataset

    Raises
    ------
    InputError
        If shapes disagree or values are invalid; see :class:`BrainDataset`.
    """
    made = make_stimuli(stimuli, name)
    try:
        values = np.asarray(responses, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise InputError(f"{name}: `responses` must be numbers, [stimulus, target]: {error}") from error
    repeats = None
    if values.ndim == 1:
        values = values[:, None]
    elif values.ndim == 3:
        repeats = values
        values = _mean(values)
    if values.ndim != 2 or len(values) != len(made):
        raise InputError(
            f"{name}: `responses` must be [stimulus], [stimulus, target] or [repeat, stimulus, target], got "
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
        Columns of the texts, and of image paths relative to the folder of the file. One of the two may be None.
    responses
        The column of the responses, or a list of columns, each of which becomes a target.
    group
        The column of groups.
    subject, region
        Columns of the participant and the region, for files in long format: each row is one response, rows with the
        same text are one stimulus, and each combination of participant and region is a target. Requires a single
        column of responses.
    repeat
        For files in long format, the column that numbers repeated measurements; without it, several responses of one
        participant and region to one stimulus are averaged.
    ordered
        Whether stimuli are in presentation order.
    ceiling, source
        As for :func:`from_arrays`.
    name
        Name of the dataset; by default that of the file.
    encoding, delimiter
        Character encoding and column delimiter of the file.

    Returns
    -------
    BrainDataset
        Stimuli in file order. Empty cells, NA and NaN in a response column are missing responses.

    Raises
    ------
    InputError
        If the file or a column does not exist, a response is not a number, or a stimulus occurs in two rows (outside
        the long format) or in two groups. The message gives the file and the row.
    """
    path = Path(path)
    name = name or path.stem
    if text is None and image is None:
        raise InputError(f"{path}: `text`, `image` or both must name a column, got None.")
    header, rows = read_table(path, encoding, delimiter)
    wanted = [responses] if isinstance(responses, str) else list(responses)
    if not wanted:
        raise InputError(f"{path}: `responses` must name at least one column of {', '.join(header)}, got none.")
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
        raise InputError(f"{path} has a header but no rows.")
    long = subject is not None or region is not None or repeat is not None
    if long and len(values) > 1:
        raise InputError(
            f"{path}: with `subject`, `region` or `repeat` each row is one response, so `responses` must name one "
            "column."
        )
    table = _Table(path, columns, values, rows)
    stimuli, groups = table.stimuli(name, repeated=long)
    if not long:
        table_values: np.ndarray = np.array([table.numbers(row) for row in rows])
        regions = wanted if len(wanted) > 1 else None
        return from_arrays(
            stimuli,
            table_values,
            groups=groups,
            ordered=ordered,
            ceiling=ceiling,
            regions=regions,
            name=name,
            source=source,
        )
    table_values, subjects, regions = table.pivot(len(stimuli))
    return from_arrays(
        stimuli,
        table_values,
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
    """Make a dataset from an xarray ``DataArray``, such as a Brain-Score assembly.

    Parameters
    ----------
    array
        A DataArray with two dimensions, stimuli (with the coordinate ``stimulus``) and targets, in any order.
    stimulus
        The coordinate that holds the texts.
    group
        The coordinate, along the stimuli, that holds the groups.
    subject, region
        Coordinates, along the targets, that hold participants and regions.
    order
        Coordinates along the stimuli by which to sort them (``["story", "stimulus_id"]``).
    ordered, ceiling, source
        As for :func:`from_arrays`.
    name
        Name of the dataset; by default ``array.name`` or ``"dataset"``.

    Returns
    -------
    BrainDataset

    Raises
    ------
    InputError
        If ``array`` is not a DataArray of two dimensions, or a coordinate does not exist.
    """
    dims, coords = getattr(array, "dims", None), getattr(array, "coords", None)
    if dims is None or coords is None or not hasattr(array, "values"):
        raise InputError(f"`array` must be an xarray DataArray, got {type(array).__name__}.")
    name = name or str(getattr(array, "name", None) or "dataset")
    if len(dims) != 2:
        raise InputError(f"{name}: `array` must have two dimensions, stimuli and targets, got {tuple(dims)}.")

    def coordinate(title: str, along: Any = None) -> np.ndarray:
        if title not in coords:
            raise InputError(f"{name} has no coordinate {title!r}; it has {', '.join(map(str, coords))}.")
        values = coords[title]
        if len(values.dims) != 1 or (along is not None and values.dims[0] != along):
            raise InputError(
                f"{name}: the coordinate {title!r} must lie along {along or 'one dimension'}, got {values.dims}."
            )
        return np.asarray(values.values)

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
    """Read a folder of images and the responses to them, as in the Natural Scenes Dataset.

    Parameters
    ----------
    folder
        A folder of image files.
    responses
        An array [image, target] or [repeat, image, target], the path of such an array (``.npy``), or the path of a CSV
        file with the file name of each image in the column ``image``.
    names
        The file name of each row of an array; by default, rows are the images of the folder sorted by name.
    image, columns
        For a CSV file: the column of the file names, and those of the responses (by default all others).
    groups, ordered, ceiling, subjects, regions, source
        As for :func:`from_arrays`. For images, groups may be categories, so that whole categories are held out.
    ncsnr, n_repeats
        Noise ceiling signal-to-noise ratios [target], as provided with NSD, and the number of repeats that the
        responses average: the ceiling is sqrt(ncsnr² / (ncsnr² + 1 / n_repeats)).
    name
        Name of the dataset; by default that of the folder.

    Returns
    -------
    BrainDataset

    Raises
    ------
    InputError
        If the folder, file or an image does not exist, rows do not match the images, or both ``ceiling`` and
        ``ncsnr`` are given.

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
        raise InputError(
            f"{folder} lacks {len(missing)} image{'s' * (len(missing) > 1)} with responses: {some(missing)}."
        )
    if len(set(listed)) < len(listed):
        raise InputError(
            f"{folder}: images must have one row of responses each, got several for "
            f"{some([o for o in dict.fromkeys(listed) if listed.count(o) > 1])}."
        )
    if ncsnr is not None:
        if ceiling is not None:
            raise InputError("`ceiling` or `ncsnr` can be given, not both.")
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
    """Rows of a CSV file, with the meaning of its columns."""

    def __init__(
        self, path: Path, columns: Mapping[str, int], values: Sequence[int], rows: Sequence[tuple[int, list[str]]]
    ) -> None:
        self.path, self.columns, self.values, self.rows = path, columns, values, rows
        self.of_row: list[int] = []

    def numbers(self, row: tuple[int, list[str]]) -> list[float]:
        return [number(cells[index], f"{self.path}, row {at}") for at, cells in [row] for index in self.values]

    def stimuli(self, name: str, *, repeated: bool) -> tuple[list[Stimulus], list[str] | None]:
        """Return the distinct stimuli, in file order, and their groups."""
        found: dict[tuple[str, ...], int] = {}
        stimuli: list[Stimulus] = []
        groups: list[str] = []
        first: list[int] = []
        for at, cells in self.rows:
            where = f"{self.path}, row {at}"
            content = tuple(cells[self.columns[what]].strip() for what in ("text", "image") if what in self.columns)
            if not any(content):
                raise InputError(f"{where} has no stimulus: its cell is empty.")
            group = cells[self.columns["group"]].strip() if "group" in self.columns else ""
            if content in found:
                place = found[content]
                if not repeated:
                    raise InputError(
                        f"{where} repeats the stimulus of row {first[place]}. If rows are responses of several "
                        "participants or regions, name their columns (`subject`, `region`, `repeat`)."
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
        """Return responses [(repeat,) stimulus, target], and the participant and region of each target."""

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
    """Parse a response; NaN if the cell is empty or NA, an InputError if it is not a number."""
    if cell.strip().lower() in MISSING:
        return float("nan")
    try:
        return float(cell)
    except ValueError:
        raise InputError(
            f"{where}: the response {cell!r} is not a number. Leave the cell empty if it is missing."
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
            raise InputError(f"{path}, row {at}: the image {key!r} already has a row of responses.")
        found[key] = [number(cells[place], f"{path}, row {at}") for place in places]
    if not found or not titles:
        raise InputError(f"{path} has no rows, or no column of responses besides {image!r}.")
    return found, titles


def _mean(values: np.ndarray) -> np.ndarray:
    """Mean over the repeats that were measured."""
    there = np.isfinite(values)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(there, values, 0).sum(axis=0) / there.sum(axis=0)
