"""The stimuli and items of a protocol: given, read from the user's data, or generated after the same design.

Every set is used in one of three ways, and a report says in which:

==============  ==========================================================================================
``given``       a contrast or a task that the user passes by its name
``read``        the published files (or those that are free), read from a folder of the user
``generated``   a set of the same design that this library makes; how it differs from the published one is said
==============  ==========================================================================================
"""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from modalnet.errors import InputError
from modalnet.protocols.protocol import Protocol, ProtocolContrast, ProtocolTask, Source
from modalnet.stimuli.contrast import Contrast
from modalnet.tasks.base import Task
from modalnet.tasks.minimal_pairs import MinimalPairs
from modalnet.tasks.multiple_choice import MultipleChoice

DataLike: TypeAlias = "str | os.PathLike[str] | Mapping[str, Any] | None"
GENERATE = "generate"
#: Name of the folder with authors' numbers in a user's data.
REPORTED = "reported_numbers"


@dataclass(frozen=True)
class Material:
    """Where a set that was used comes from.

    Attributes
    ----------
    name
        Of the contrast or task.
    kind
        ``"contrast"`` or ``"task"``.
    used
        ``"given"``, ``"read"`` or ``"generated"``.
    n
        Number of stimuli or items.
    published
        What the publication used.
    differs
        How the set that was used differs from it; empty where it is the same.
    """

    name: str
    kind: str
    used: str
    n: int
    published: str
    differs: str

    def row(self) -> dict[str, Any]:
        """The material as a row of a table."""
        return asdict(self)


@dataclass(frozen=True)
class Materials:
    """How the sets of a protocol are found.

    Attributes
    ----------
    protocol
        The protocol.
    data
        None: all sets are generated; a folder: sets are read below it; a mapping from names of contrasts and tasks to
        ``"generate"``, a file or folder, a contrast or a task, the others being generated. In both, the folder
        ``"reported_numbers"`` has the authors' own numbers.
    n_stimuli, n_items
        The most stimuli of a condition, and items of a task, evenly from all; None for all.
    """

    protocol: Protocol
    data: DataLike = None
    n_stimuli: int | None = None
    n_items: int | None = None

    def __post_init__(self) -> None:
        names = [name for name, _ in self._sources()]
        if isinstance(self.data, Mapping):
            unknown = next((name for name in self.data if name not in (*names, REPORTED)), None)
            if unknown is not None:
                raise InputError(
                    f"`data` must name contrasts or tasks of {self.protocol.id} ({', '.join(map(repr, names))}), got "
                    f"{unknown!r}."
                )
            self.reported()
        elif self.data is not None:
            folder = Path(self.data)
            if not folder.is_dir():
                raise InputError(
                    f"`data` must be a folder, a mapping from names of sets, or None to generate all, got "
                    f"{os.fspath(self.data)!r}, which is no folder."
                )
            self._check_folder(folder)

    def reported(self) -> Path | None:
        """The folder with the authors' own numbers, where the data has them.

        Raises
        ------
        InputError
            If such a folder is named, and has no such table.
        """
        table, named = self.protocol.reported, isinstance(self.data, Mapping)
        folder = self.data.get(REPORTED) if isinstance(self.data, Mapping) else self.data and Path(self.data, REPORTED)
        if not table or folder is None:
            return None
        if isinstance(folder, str | os.PathLike) and Path(folder, table).is_file():
            return Path(folder)
        if named:
            raise InputError(
                f"`data[{REPORTED!r}]` must be a folder with the authors' table {table!r}, got {folder!r}, which has "
                "none."
            )
        return None

    def _check_folder(self, folder: Path) -> None:
        """Refuse a folder that lacks a set, before anything runs."""
        for name, source in self._sources():
            if source.folder and source.reader and not (folder / source.folder).exists():
                instead = (
                    f"data={{{name!r}: 'generate', ...}} makes {source.differs} instead"
                    if source.generator
                    else "no set of the same design can be generated"
                )
                raise InputError(
                    f"{self.protocol.id} needs {source.published} as {source.folder!r} in `data` ({folder}), which is "
                    f"not there. The set is described in: {self.protocol.citation} ({self.protocol.code}); {instead}, "
                    "and data=None generates every set."
                )

    def _sources(self) -> list[tuple[str, Source]]:
        contrasts = [(each.name, each.source) for each in self.protocol.contrasts]
        return contrasts + [(each.name, each.source) for each in self.protocol.tasks]

    def contrast(self, of: ProtocolContrast) -> tuple[Contrast, Material]:
        """The stimuli of one contrast.

        Raises
        ------
        InputError
            If what was given is no contrast, or the set can neither be read nor generated.
        """
        made, used = self._made(of.name, of.source, Contrast, "contrast", self.n_stimuli)
        if used == "read":
            made = part_of_contrast(made, of.source.part)
        made = thinned_contrast(made, self.n_stimuli)
        return made, self._material(of.name, "contrast", used, len(made), of.source)

    def task(self, of: ProtocolTask) -> tuple[Task, Material]:
        """The items of one task; raises as :meth:`contrast`."""
        made, used = self._made(of.name, of.source, Task, "task", self.n_items)
        if used == "read":
            made = part_of_task(made, of.source.part)
        made = thinned_task(made, self.n_items)
        return made, self._material(of.name, "task", used, len(made), of.source)

    def _material(self, name: str, kind: str, used: str, n: int, source: Source) -> Material:
        differs = {"read": "", "given": "given by the user", "generated": source.differs}[used]
        return Material(name, kind, used, n, source.published, differs)

    def _made(self, name: str, source: Source, wanted: type, noun: str, n: int | None) -> tuple[Any, str]:
        given = self.data.get(name, GENERATE) if isinstance(self.data, Mapping) else self.data
        if isinstance(given, wanted):
            return given, "given"
        if given is not None and not isinstance(given, str | os.PathLike):
            raise InputError(
                f"`data[{name!r}]` must be a {noun}, a file or folder, or 'generate', got a {type(given).__name__}."
            )
        if given is not None and given != GENERATE:
            path = Path(given) if isinstance(self.data, Mapping) else Path(given) / source.folder
            if isinstance(self.data, Mapping) or (source.folder and source.reader):
                if not source.reader:
                    raise InputError(
                        f"{self.protocol.id} has no reader of {name!r} ({source.published}). Pass a {noun} as "
                        f"`data[{name!r}]`, or 'generate'."
                    )
                return _function(source.reader)(path, **source.read_with), "read"
        if not source.generator:
            raise InputError(
                f"{self.protocol.id} needs {source.published}, which cannot be generated. Pass a {noun} as "
                f"data={{{name!r}: ...}}."
            )
        return self._generated(source, n), "generated"

    def _generated(self, source: Source, n: int | None) -> Any:
        """A generated set; that of a task which is made of stimuli gets these first."""
        options = dict(source.made_with)
        inside = options.get("source")
        if isinstance(inside, str):
            contrast = generated_by(_function(inside), {}, n)
            options["source"] = [
                each for each in contrast.stimuli if not source.conditions or each.condition in source.conditions
            ]
        return generated_by(_function(source.generator), options, n)


def generated_by(function: Callable[..., Any], options: Mapping[str, Any], n: int | None) -> Any:
    """Call a generator with its options, and with a number of stimuli or items where one is asked for."""
    known = inspect.signature(function).parameters
    asked = dict(options)
    if n is not None and "n" in known and "n" not in asked:
        default = known["n"].default
        most = n if not isinstance(default, int) else min(n, default)
        # Sets that are balanced (singular and plural, yes and no, four categories) come in fours.
        try:
            return function(**asked | {"n": most - most % 4 or most})
        except InputError:
            pass  # it makes fewer, or other numbers: all are made, and thinned later
    return function(**asked)


def _function(name: str) -> Callable[..., Any]:
    room, _, function = name.partition(".")
    found: Callable[..., Any] = getattr(import_module(f"modalnet.{room}"), function)
    return found


# -- parts and smaller sets --------------------------------------------------------------------------------------------


def part_of_contrast(contrast: Contrast, part: str) -> Contrast:
    """The first or second half of the items of every group of a contrast; of its stimuli, where it has no items."""
    if part == "all":
        return contrast
    items = [item if item is not None else f"{label}/{place}" for place, (item, label) in enumerate(_named(contrast))]
    kept = set(_half(list(dict.fromkeys(items)), part))
    return _subset(contrast, [place for place, item in enumerate(items) if item in kept])


def thinned_contrast(contrast: Contrast, n: int | None) -> Contrast:
    """At most `n` stimuli of every condition, evenly from all; whole items, where it has items."""
    if n is None:
        return contrast
    if all(item is not None for item in contrast.items):
        items = list(dict.fromkeys(contrast.items))
        kept = {items[place] for place in evenly(len(items), n)}
        return _subset(contrast, [place for place, item in enumerate(contrast.items) if item in kept])
    places: list[int] = []
    for condition in contrast.conditions:
        own = [place for place, label in enumerate(contrast.labels) if label == condition]
        places += [own[at] for at in evenly(len(own), n)]
    return _subset(contrast, sorted(places))


def part_of_task(task: Any, part: str) -> Any:
    """The first or second half of the items of every group of a task."""
    if part == "all":
        return task
    kept = set(_half(list(task.items), part))
    return _task_of(task, [place for place, item in enumerate(task.items) if item in kept])


def thinned_task(task: Any, n: int | None) -> Any:
    """At most `n` items of a task, evenly from all, where its items can be taken apart."""
    return task if n is None or n >= len(task) else _task_of(task, evenly(len(task), n))


def evenly(count: int, n: int) -> list[int]:
    """Places of at most `n` of so many things, evenly from the first to the last."""
    return np.linspace(0, count - 1, min(count, n)).round().astype(int).tolist() if count else []


def _named(contrast: Contrast) -> list[tuple[str | None, str]]:
    return list(zip(contrast.items, contrast.labels, strict=True))


def _half(items: Sequence[str], part: str) -> list[str]:
    """Half of the items of each group; the group of an item is what stands before the last slash of its name."""
    groups: dict[str, list[str]] = {}
    for item in items:
        groups.setdefault(item.rpartition("/")[0], []).append(item)
    halves = [(some[: len(some) // 2], some[len(some) // 2 :]) for some in groups.values()]
    return [item for first, second in halves for item in (first if part == "first half" else second)]


def _subset(contrast: Contrast, places: Sequence[int]) -> Contrast:
    covariates = {name: values[list(places)] for name, values in contrast.covariates.items()} or None
    stimuli = [contrast.stimuli[place] for place in places]
    return Contrast(stimuli, contrast.positive, contrast.negative, contrast.name, covariates=covariates)


def _task_of(task: Any, places: Sequence[int]) -> Any:
    return task.subset(places) if isinstance(task, MinimalPairs | MultipleChoice) else task
