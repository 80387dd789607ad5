"""A researcher's own files as contrasts: a table of texts and image paths, or a folder of images."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypeAlias

from modalnet.errors import InputError
from modalnet.stimuli.contrast import Contrast
from modalnet.stimuli.duplicates import refuse_duplicates
from modalnet.stimuli.stimulus import Stimulus
from modalnet.stimuli.tables import column, read_table

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".pgm", ".ppm")
# "adult-001", "word_12": everything up to the last separator that only digits follow.
PREFIX = re.compile(r"^(?P<condition>.+)[-_]\d+$")
SHOWN = 5

Duplicates: TypeAlias = Literal["error", "keep"]


def from_csv(
    path: str | os.PathLike[str],
    *,
    text: str | None = "text",
    image: str | None = None,
    condition: str = "condition",
    id: str | None = None,
    positive: str | Sequence[str],
    negative: str | Sequence[str] | None = None,
    encoding: str = "utf-8",
    delimiter: str = ",",
    duplicates: Duplicates = "error",
) -> Contrast:
    """Read a contrast from a CSV file with a header, one stimulus per row.

    Parameters
    ----------
    path
        The file.
    text, image, condition, id
        Column names. ``text=None`` reads image-only stimuli. Image paths count from the folder of the CSV file.
        Where both text and image are named, a row may leave one of them empty. Without an id column, a stimulus is
        called after its row: ``"words:12"`` is row 12 of words.csv, the header being row 1.
    positive, negative
        Conditions, as for :class:`~modalnet.stimuli.Contrast`.
    encoding, delimiter
        How the file is written.
    duplicates
        What to do about two rows of the contrast with the same text and image, in one condition or in two:
        ``"error"`` or ``"keep"``.

    Returns
    -------
    Contrast
        The rows of the named conditions, in file order.

    Raises
    ------
    InputError
        No such file or column; another encoding; a row with an empty cell, another width, or an image that is not
        there; an id twice; two rows with the same text and image; conditions that make no contrast. The message
        names the file and the row.
    """
    path = Path(path)
    if text is None and image is None:
        raise InputError(f"{path}: name the column of the texts (text=), of the images (image=), or both.")
    header, rows = read_table(path, encoding, delimiter)
    columns = {
        field: column(path, header, name, delimiter)
        for field, name in (("text", text), ("image", image), ("condition", condition), ("id", id))
        if name is not None
    }
    stimuli = []
    ids: dict[str, int] = {}
    for number, row in rows:
        where = f"{path}, row {number}"
        cells = {field: row[index] for field, index in columns.items()}
        empty = [field for field, cell in cells.items() if not cell.strip()]
        if len({"text", "image"} & set(columns)) == 2 and len({"text", "image"} & set(empty)) == 1:
            empty = [field for field in empty if field not in ("text", "image")]
        if empty:
            raise InputError(
                f"{where}: the cell for the {' and the '.join(empty)} is empty. Fill it, or take the row out."
            )
        name = cells.get("id", f"{path.stem}:{number}").strip()
        if name in ids:
            raise InputError(f"{where} has the id {name!r} of row {ids[name]}. Ids name one stimulus each.")
        ids[name] = number
        stimuli.append(
            stimulus_at(
                where,
                text=cells.get("text", "").strip() or None,
                image=_beside(path, cells.get("image", "").strip()),
                condition=cells["condition"].strip(),
                id=name,
            )
        )
    if not stimuli:
        raise InputError(f"{path} has a header and no rows.")
    places = {name: f"row {number}" for name, number in ids.items()}
    return make_contrast(path, stimuli, positive, negative, duplicates=duplicates, places=places)


def from_folder(
    folder: str | os.PathLike[str],
    *,
    positive: str | Sequence[str],
    negative: str | Sequence[str] | None = None,
    condition: Literal["auto", "subfolder", "prefix"] = "auto",
    duplicates: Duplicates = "error",
) -> Contrast:
    """Read a contrast from a folder of images.

    Parameters
    ----------
    folder
        Either one subfolder per condition (``faces/anna.png``), or names that begin with the condition and end in a
        number (``face-001.png``, ``face_1.jpg``).
    positive, negative
        Conditions, as for :class:`~modalnet.stimuli.Contrast`.
    condition
        ``"subfolder"``, ``"prefix"``, or ``"auto"``: whichever of the two the folder holds.
    duplicates
        What to do about two files of the contrast with the same content, in one condition or in two: ``"error"`` or
        ``"keep"``.

    Returns
    -------
    Contrast
        Image-only stimuli sorted by name; their ids are the paths inside the folder. Hidden files and files that
        are no PNG, JPEG, BMP, GIF, TIFF, WebP, PGM or PPM by their ending are passed over.

    Raises
    ------
    InputError
        No such folder; no images; images both beside and inside the subfolders (``"auto"``); a name without prefix
        and number; a condition whose subfolder holds no images; two files with the same content; conditions that
        make no contrast.
    """
    folder = open_folder(folder)
    if condition not in ("auto", "subfolder", "prefix"):
        raise InputError(f"condition is 'auto', 'subfolder' or 'prefix'; this is {condition!r}.")
    subfolders = {item.name: images_in(item) for item in _visible(folder) if item.is_dir()}
    beside = images_in(folder)
    inside = any(subfolders.values())
    if condition == "auto":
        if inside and beside:
            raise InputError(
                f"{folder} holds images ({_some(beside)}) beside subfolders with images. Pass condition='prefix' to "
                "read the first, condition='subfolder' to read the others."
            )
        condition = "subfolder" if inside else "prefix"
    if condition == "subfolder" and inside:
        wanted = None if negative is None else {*listed(positive), *listed(negative)}
        bare = [name for name, images in subfolders.items() if not images and (wanted is None or name in wanted)]
        if bare:
            raise InputError(
                f"Subfolders of {folder} without images: {', '.join(bare)}. Fill them, or name the negative "
                "conditions without them."
            )
        groups = subfolders
    elif condition == "prefix" and beside:
        groups = by_prefix(folder, beside)
    else:
        where = "in its subfolders" if condition == "subfolder" else "in it"
        raise InputError(
            f"{folder} has no images {where}. Endings that count: {', '.join(IMAGE_SUFFIXES)}. "
            "One subfolder per condition or names such as face-001.png were expected."
        )
    return make_contrast(folder, image_stimuli(folder, groups), positive, negative, duplicates=duplicates)


def images_in(folder: Path) -> list[Path]:
    """The image files directly in a folder, sorted by name."""
    return [path for path in _visible(folder) if path.suffix.lower() in IMAGE_SUFFIXES and path.is_file()]


def by_prefix(folder: Path, images: list[Path]) -> dict[str, list[Path]]:
    """Sort images named ``condition-number`` by condition; an :class:`InputError` names those that are not."""
    groups: dict[str, list[Path]] = {}
    strangers = []
    for path in images:
        if match := PREFIX.match(path.stem):
            groups.setdefault(match["condition"], []).append(path)
        else:
            strangers.append(path)
    if strangers:
        raise InputError(
            f"{folder} holds {len(strangers)} images whose names do not end in a condition, '-' or '_', and a number "
            f"(face-001.png): {_some(strangers)}. Rename them, move them, or use one subfolder per condition."
        )
    return groups


def image_stimuli(folder: Path, groups: dict[str, list[Path]]) -> list[Stimulus]:
    """One image-only stimulus per file, called by its path inside the folder."""
    return [
        Stimulus(image=path, condition=condition, id=path.relative_to(folder).as_posix())
        for condition, paths in groups.items()
        for path in paths
    ]


def open_folder(folder: str | os.PathLike[str]) -> Path:
    """The folder as a path; an :class:`InputError` where there is none, or none that may be read."""
    folder = Path(folder)
    try:
        there, is_folder = folder.exists(), folder.is_dir()
        if is_folder:
            next(folder.iterdir(), None)
    except OSError as error:  # no permission for it, or for a folder above it
        raise InputError(f"The folder {folder} cannot be read: {error.strerror}. Check its permissions.") from error
    if not is_folder:
        raise InputError(f"{str(folder)!r} is a file, not a folder." if there else f"No folder at {str(folder)!r}.")
    return folder


def stimulus_at(where: str, **fields: Any) -> Stimulus:
    """A stimulus whose complaint says where in the file it stands."""
    try:
        return Stimulus(**fields)
    except InputError as error:
        raise InputError(f"{where}: {error}") from error


def make_contrast(
    source: object,
    stimuli: list[Stimulus],
    positive: str | Sequence[str],
    negative: str | Sequence[str] | None,
    *,
    duplicates: Duplicates = "error",
    places: Mapping[str, str] | None = None,
) -> Contrast:
    """A contrast whose complaint says which file or folder, and which rows of it, it was read from."""
    if duplicates not in ("error", "keep"):
        raise InputError(f"duplicates is 'error' or 'keep'; this is {duplicates!r}.")
    try:
        contrast = Contrast(stimuli, positive, negative)
    except InputError as error:
        raise InputError(f"{source}: {error}") from error
    if duplicates == "error":
        refuse_duplicates(source, contrast.stimuli, places)
    return contrast


def listed(names: str | Sequence[str] | None) -> tuple[str, ...]:
    """One condition name or several, as a tuple."""
    return (names,) if isinstance(names, str) else tuple(names or ())


def _visible(folder: Path) -> list[Path]:
    try:
        return sorted(path for path in folder.iterdir() if not path.name.startswith((".", "__MACOSX")))
    except OSError as error:
        raise InputError(f"The folder {folder} cannot be read: {error.strerror}. Check its permissions.") from error


def _beside(path: Path, image: str) -> Path | None:
    return path.parent / image if image else None


def _some(paths: list[Path]) -> str:
    return ", ".join(path.name for path in paths[:SHOWN]) + (", …" if len(paths) > SHOWN else "")
