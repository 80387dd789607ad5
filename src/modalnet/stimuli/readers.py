"""Contrasts from files: a table of texts and paths of images or sounds, or a folder of images or of sounds."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypeAlias, get_args

from modalnet._validation import check_option
from modalnet.errors import InputError
from modalnet.stimuli.contrast import Contrast
from modalnet.stimuli.covariates import MEASURES
from modalnet.stimuli.duplicates import refuse_duplicates
from modalnet.stimuli.images import embedded
from modalnet.stimuli.stimulus import Stimulus
from modalnet.stimuli.tables import column, read_table

IMAGE_SUFFIXES = (
    ".png",
    ".jpg",
    ".jpeg",
    ".jfif",
    ".bmp",
    ".gif",
    ".tif",
    ".tiff",
    ".webp",
    ".pgm",
    ".ppm",
    ".jp2",
    ".avif",
)
SOUND_SUFFIXES = (".wav", ".flac", ".ogg", ".mp3", ".aif", ".aiff")
# "adult-001", "word_12": everything up to the last separator that only digits follow.
PREFIX = re.compile(r"^(?P<condition>.+)[-_]\d+$")
SHOWN = 5

Duplicates: TypeAlias = Literal["error", "keep"]


def from_csv(
    path: str | os.PathLike[str],
    *,
    text: str | None = "text",
    image: str | None = None,
    audio: str | None = None,
    condition: str = "condition",
    id: str | None = None,
    item: str | None = None,
    positive: str | Sequence[str] | None = None,
    negative: str | Sequence[str] | None = None,
    covariates: Sequence[str] = (),
    regressor: str | None = None,
    encoding: str = "utf-8",
    delimiter: str = ",",
    duplicates: Duplicates = "error",
) -> Contrast:
    """Read a contrast from a CSV file with a header, one stimulus per row.

    Parameters
    ----------
    path
        The file.
    text, image, audio, condition, id, item
        Column names. ``text=None`` reads stimuli of images or sounds alone. Paths of these are relative to the folder
        of the CSV file. Where several of text, image and audio are named, a row may leave all but one empty. Without
        an id column, a stimulus is named after its row: ``"words:12"`` is row 12 of words.csv, the header being row 1.
        An item column says which stimuli are versions of one item; where its cell is empty, a stimulus has no item.
    positive, negative
        Conditions, as for :class:`~modalnet.stimuli.Contrast`.
    covariates, regressor
        Columns of numbers, or a measure of the text (``"length"``, ``"words"``) where there is no such column; as for
        :class:`~modalnet.stimuli.Contrast`. With a regressor there are no positive and negative conditions, and a file
        without the condition column is read.
    encoding, delimiter
        Text encoding and cell delimiter of the file.
    duplicates
        ``"error"`` refuses two rows of the contrast with the same text, image and sound, in one condition or in two;
        ``"keep"`` accepts them.

    Returns
    -------
    Contrast
        The rows of the named conditions, in file order.

    Raises
    ------
    InputError
        The file or a column does not exist, or the encoding is another; a row has an empty cell, another number of
        cells, or an image or sound that does not exist; an id or a stimulus is repeated; or the conditions do not form
        a contrast. The message names the file and the row.
    """
    path = Path(path)
    if text is None and image is None and audio is None:
        raise InputError(
            f"{path}: name the text column (`text`), the image column (`image`), the column of sounds (`audio`), or "
            "several of them."
        )
    header, rows = read_table(path, encoding, delimiter)
    labelled = None if regressor is not None and condition not in header else condition
    columns = {
        field: column(path, header, name, delimiter)
        for field, name in (
            ("text", text),
            ("image", image),
            ("audio", audio),
            ("condition", labelled),
            ("id", id),
        )
        if name is not None
    }
    item_column = None if item is None else column(path, header, item, delimiter)
    stimuli = []
    ids: dict[str, int] = {}
    for number, row in rows:
        where = f"{path}, row {number}"
        cells = {field: row[index] for field, index in columns.items()}
        empty = [field for field, cell in cells.items() if not cell.strip()]
        if {"text", "image", "audio"} & set(columns) - set(empty):
            empty = [field for field in empty if field not in ("text", "image", "audio")]
        if empty:
            raise InputError(
                f"{where}: the cell for the {' and the '.join(empty)} is empty. Fill it in, or remove the row."
            )
        name = cells.get("id", f"{path.stem}:{number}").strip()
        if name in ids:
            raise InputError(f"{where} has the id {name!r} of row {ids[name]}. Ids must be unique.")
        ids[name] = number
        stimuli.append(
            stimulus_at(
                where,
                text=cells.get("text", "").strip() or None,
                image=_beside(path, cells.get("image", "").strip()),
                audio=_beside(path, cells.get("audio", "").strip()),
                condition=cells.get("condition", "").strip() or None,
                id=name,
                item=None if item_column is None else row[item_column].strip() or None,
            )
        )
    if not stimuli:
        raise InputError(f"{path} has a header and no rows.")
    locations = {name: f"row {number}" for name, number in ids.items()}
    options = {
        "covariates": {name: _numbers(path, header, rows, name, delimiter) for name in listed(covariates)},
        "regressor": None if regressor is None else _numbers(path, header, rows, regressor, delimiter),
    }
    return make_contrast(path, stimuli, positive, negative, duplicates=duplicates, locations=locations, **options)


def _numbers(
    path: Path, header: list[str], rows: Sequence[tuple[int, list[str]]], name: str, delimiter: str
) -> list[float] | str:
    """The numbers of a column; the name of a measure where there is no such column."""
    if name in MEASURES and name not in header:
        return name
    place = column(path, header, name, delimiter)
    values = []
    for number, row in rows:
        try:
            values.append(float(row[place]))
        except ValueError as error:
            raise InputError(f"{path}, row {number}: column {name} must hold numbers, got {row[place]!r}.") from error
    return values


def from_folder(
    folder: str | os.PathLike[str],
    *,
    positive: str | Sequence[str],
    negative: str | Sequence[str] | None = None,
    condition: Literal["auto", "subfolder", "prefix"] = "auto",
    duplicates: Duplicates = "error",
) -> Contrast:
    """Read a contrast from a folder of images, or of sounds.

    Parameters
    ----------
    folder
        Either one subfolder per condition (``faces/anna.png``), or file names that begin with the condition and end in
        a number (``face-001.png``, ``face_1.jpg``).
    positive, negative
        Conditions, as for :class:`~modalnet.stimuli.Contrast`.
    condition
        ``"subfolder"``, ``"prefix"``, or ``"auto"``: whichever of the two the folder uses.
    duplicates
        ``"error"`` refuses two identical files in the contrast, in one condition or in two; ``"keep"`` accepts them.

    Returns
    -------
    Contrast
        Stimuli of one image or one sound, sorted by name; their ids are the paths inside the folder. Hidden files are
        ignored, and files whose ending is not that of a PNG, JPEG, BMP, GIF, TIFF, WebP, PGM, PPM, WAV, FLAC, OGG, MP3
        or AIFF.

    Raises
    ------
    InputError
        The folder does not exist or has neither images nor sounds; it has both, or files beside and inside subfolders
        (``"auto"``); a name has no prefix and number; the subfolder of a condition has no files; two files are
        identical; or the conditions do not form a contrast.
    """
    folder = open_folder(folder)
    check_option("condition", condition, ("auto", "subfolder", "prefix"))
    folders = [item for item in _visible(folder) if item.is_dir()]
    sounds = [path for place in (folder, *folders) for path in files_in(place, SOUND_SUFFIXES)]
    pictures = [path for place in (folder, *folders) for path in images_in(place)]
    if sounds and pictures:
        raise InputError(
            f"{folder} has both images ({_some(pictures)}) and sounds ({_some(sounds)}). Move them to folders of their "
            "own, or name them in a table and read that with from_csv."
        )
    noun, endings = ("sounds", SOUND_SUFFIXES) if sounds else ("images", IMAGE_SUFFIXES)
    subfolders = {item.name: files_in(item, endings) for item in folders}
    beside = files_in(folder, endings)
    inside = any(subfolders.values())
    if condition == "auto":
        if inside and beside:
            raise InputError(
                f"{folder} has {noun} ({_some(beside)}) beside subfolders with {noun}. Pass condition='prefix' to read "
                "the former, condition='subfolder' to read the latter."
            )
        condition = "subfolder" if inside else "prefix"
    if condition == "subfolder" and inside:
        wanted = None if negative is None else {*listed(positive), *listed(negative)}
        empty = [name for name, images in subfolders.items() if not images and (wanted is None or name in wanted)]
        if empty:
            raise InputError(
                f"Subfolders of {folder} without {noun}: {', '.join(empty)}. Fill them, or name the negative "
                "conditions without them."
            )
        groups = subfolders
    elif condition == "prefix" and beside:
        groups = by_prefix(folder, beside, noun)
    else:
        where = "in its subfolders" if condition == "subfolder" else "in it"
        raise InputError(
            f"{folder} has no images {where}, and no sounds (endings: {', '.join(IMAGE_SUFFIXES + SOUND_SUFFIXES)}). "
            "Use one subfolder per condition, or names such as face-001.png."
        )
    stimuli = image_stimuli(folder, groups, field="audio" if sounds else "image")
    return make_contrast(folder, stimuli, positive, negative, duplicates=duplicates)


def files_in(folder: Path, endings: Sequence[str]) -> list[Path]:
    """The files directly in a folder that end so, sorted by name."""
    return [path for path in _visible(folder) if path.suffix.lower() in endings and path.is_file()]


def images_in(folder: Path) -> list[Path]:
    """The image files directly in a folder, sorted by name."""
    return files_in(folder, IMAGE_SUFFIXES)


def by_prefix(folder: Path, images: list[Path], noun: str = "images") -> dict[str, list[Path]]:
    """Group images named ``condition-number`` by condition; an :class:`InputError` names those that are not."""
    groups: dict[str, list[Path]] = {}
    unnumbered = []
    for path in images:
        if match := PREFIX.match(path.stem):
            groups.setdefault(match["condition"], []).append(path)
        else:
            unnumbered.append(path)
    if unnumbered:
        raise InputError(
            f"{folder} has {len(unnumbered)} {noun} whose names are not a condition, '-' or '_', and a number "
            f"(face-001.png): {_some(unnumbered)}. Rename them, move them, or use one subfolder per condition."
        )
    return groups


def image_stimuli(
    folder: Path, groups: dict[str, list[Path]], field: Literal["image", "audio"] = "image"
) -> list[Stimulus]:
    """One stimulus per file, of its image or sound alone, with its path inside the folder as id."""
    return [
        Stimulus(
            image=path if field == "image" else None,
            audio=path if field == "audio" else None,
            condition=condition,
            id=path.relative_to(folder).as_posix(),
        )
        for condition, paths in groups.items()
        for path in paths
    ]


def open_folder(folder: str | os.PathLike[str]) -> Path:
    """Return the folder as a path; an :class:`InputError` where it does not exist or cannot be read."""
    folder = Path(folder)
    try:
        exists, is_folder = folder.exists(), folder.is_dir()
        if is_folder:
            next(folder.iterdir(), None)
    except OSError as error:  # no permission for the folder, or for one above it
        raise InputError(f"The folder {folder} cannot be read: {error.strerror}. Check its permissions.") from error
    if not is_folder:
        raise InputError(f"{str(folder)!r} is a file, not a folder." if exists else f"No folder at {str(folder)!r}.")
    return folder


def stimulus_at(where: str, **fields: Any) -> Stimulus:
    """Make a stimulus; errors name its location in the source."""
    try:
        return Stimulus(**fields)
    except InputError as error:
        raise InputError(f"{where}: {error}") from error


def make_contrast(
    source: object,
    stimuli: list[Stimulus],
    positive: str | Sequence[str] | None,
    negative: str | Sequence[str] | None,
    *,
    duplicates: Duplicates = "error",
    locations: Mapping[str, str] | None = None,
    **options: Any,
) -> Contrast:
    """Make a contrast; errors name the file or folder, and the rows, that it was read from."""
    check_option("duplicates", duplicates, get_args(Duplicates))
    try:
        contrast = Contrast(stimuli, positive, negative, **options)
    except InputError as error:
        raise InputError(f"{source}: {error}") from error
    if duplicates == "error":
        refuse_duplicates(source, contrast.stimuli, locations)
    return contrast


def listed(names: str | Sequence[str] | None) -> tuple[str, ...]:
    """One condition name or several, as a tuple."""
    return (names,) if isinstance(names, str) else tuple(names or ())


def _visible(folder: Path) -> list[Path]:
    try:
        return sorted(path for path in folder.iterdir() if not path.name.startswith((".", "__MACOSX")))
    except OSError as error:
        raise InputError(f"The folder {folder} cannot be read: {error.strerror}. Check its permissions.") from error


def _beside(path: Path, image: str) -> Path | bytes | None:
    """The image that a cell of a table holds or names, relative to the table."""
    return embedded(image, path.name) or (path.parent / image if image else None)


def _some(paths: list[Path]) -> str:
    return ", ".join(path.name for path in paths[:SHOWN]) + (", …" if len(paths) > SHOWN else "")
