"""Minimal pairs: an acceptable sentence and an unacceptable one that differ in one respect.

The pairs are read here once, as the two sides of a contrast (:func:`minimal_pairs`) and as the items of a task
(:func:`modalnet.tasks.minimal_pairs`), so that both name them alike and take the same halves of a file.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from modalnet._validation import check_option
from modalnet.errors import InputError
from modalnet.stimuli.contrast import Contrast
from modalnet.stimuli.readers import open_folder, stimulus_at
from modalnet.stimuli.rows import SUFFIXES, Rows, draw, read_rows, unique_names

COLUMNS = (("sentence_good", "sentence_bad"), ("good", "bad"))
SIDES = ("good", "bad")


@dataclass(frozen=True)
class SentencePairs:
    """Minimal pairs from a source.

    Attributes
    ----------
    name
        Name of the source.
    items, pairs, groups
        Name, (good, bad) sentences and paradigm of each pair.
    """

    name: str
    items: tuple[str, ...]
    pairs: tuple[tuple[str, str], ...]
    groups: tuple[str, ...]


def minimal_pairs(
    source: str | os.PathLike[str] | Sequence[tuple[str, str]],
    *,
    paradigm: str | Sequence[str] | None = None,
    rows: slice | None = None,
    n: int | None = None,
    seed: int = 0,
    positive: str = "good",
    negative: str = "bad",
    name: str | None = None,
    good: str | None = None,
    bad: str | None = None,
    encoding: str = "utf-8",
    delimiter: str | None = None,
) -> Contrast:
    """Acceptable > unacceptable sentences, from BLiMP's files, from other tables, or from a list.

    Parameters
    ----------
    source
        A file of JSON lines in the format of BLiMP, a CSV or TSV file with a header (MultiBLiMP and similar sets), a
        folder of such files, or a list of (good, bad) sentences.
    paradigm
        With a folder, the file or files to read, without their ending; None reads all.
    rows
        The rows of each file to use, counted from 0: ``slice(0, 500)`` localizes on the first 500 pairs of a file, and
        ``mn.tasks.minimal_pairs(source, rows=slice(500, None))`` tests on the others. None uses all.
    n
        Number of pairs per file, drawn with the seed from `rows`; None takes all.
    seed
        Seed of the draw.
    positive, negative
        The condition of each side: ``"good"`` and ``"bad"``, or the reverse.
    name
        Name of the contrast; by default the conditions.
    good, bad, encoding, delimiter
        As for :func:`modalnet.tasks.minimal_pairs`.

    Returns
    -------
    Contrast
        Conditions ``good`` and ``bad``. The two sentences of a pair are one item, so that :func:`modalnet.localize`
        tests them as pairs; items are named as in the task, and ids are ``item/good`` and ``item/bad``.

    Raises
    ------
    InputError
        As for :func:`modalnet.tasks.minimal_pairs`; a side is neither ``"good"`` nor ``"bad"``, or both are the same.

    References
    ----------
    Warstadt, Parrish, Liu, Mohananey, Peng, Wang & Bowman (2020). BLiMP: the benchmark of linguistic minimal pairs for
    English. TACL 8, 377-392.
    Jumelet, Weissweiler, Nivre & Bisazza (2025). MultiBLiMP 1.0: a massively multilingual benchmark of linguistic
    minimal pairs. arXiv 2504.02768.
    Kryvosheieva, de Varda, Fedorenko & Tuckute (2026). Different types of syntactic agreement recruit the same units
    within large language models. ACL; arXiv 2512.03676.

    Examples
    --------
    >>> pairs = [("The dog sleeps.", "The dog sleep."), ("The dogs sleep.", "The dogs sleeps.")]
    >>> minimal_pairs(pairs)
    Contrast('good > bad': 2 positive, 2 negative)
    """
    check_option("positive", positive, SIDES)
    check_option("negative", negative, SIDES)
    read = read_pairs(
        source, paradigm, rows, n=n, seed=seed, good=good, bad=bad, encoding=encoding, delimiter=delimiter
    )
    return pairs_contrast(read.items, read.pairs, positive, negative, name=name)


def pairs_contrast(
    items: Sequence[str],
    pairs: Sequence[tuple[str, str]],
    positive: str = "good",
    negative: str = "bad",
    *,
    name: str | None = None,
) -> Contrast:
    """Make the contrast of pairs, each of which is one item."""
    stimuli = [
        stimulus_at(f"Pair {item!r}", text=pair[place], condition=side, id=f"{item}/{side}", item=item)
        for place, side in enumerate(SIDES)
        for item, pair in zip(items, pairs, strict=True)
    ]
    return Contrast(stimuli, positive, negative, name)


def read_pairs(
    source: Any,
    paradigm: str | Sequence[str] | None = None,
    rows: slice | None = None,
    *,
    n: int | None = None,
    seed: int = 0,
    good: str | None = None,
    bad: str | None = None,
    encoding: str = "utf-8",
    delimiter: str | None = None,
) -> SentencePairs:
    """Read minimal pairs; the parameters and errors are those of :func:`modalnet.tasks.minimal_pairs`.

    A pair's name does not depend on which other rows are taken.
    """
    if (good is None) != (bad is None):
        raise InputError(f"`good` and `bad` must be given together, got good={good!r}, bad={bad!r}.")
    if isinstance(source, str | os.PathLike):
        path = Path(source)
        tables = [read_rows(file, encoding, delimiter) for file in _files(path, paradigm)]
        default_name = path.stem if path.is_file() else path.resolve().name
    else:
        _refuse_paradigm(paradigm, f"a {type(source).__name__}")
        tables = [_from_list(source, good or "good", bad or "bad")]
        default_name = "minimal pairs"
    items: list[str] = []
    pairs, groups = [], []
    for table in tables:
        columns = _columns(table, good, bad)
        everything = range(len(table.cells))
        all_pairs = [_pair(table, index, columns) for index in everything]  # an invalid row is an error, drawn or not
        paradigms = [str(table.cells[index].get("UID") or table.name) for index in everything]
        names = unique_names(
            f"{paradigms[index]}/{table.cells[index].get('pairID', table.numbers[index])}" for index in everything
        )
        source_name = str(table.path.name if table.path else table.name)
        chosen = _chosen(rows, len(all_pairs), source_name)
        for index in (chosen[place] for place in draw(n, len(chosen), seed, source_name)):
            items.append(names[index])
            pairs.append(all_pairs[index])
            groups.append(paradigms[index])
    return SentencePairs(default_name, unique_names(items), tuple(pairs), tuple(groups))


def _chosen(rows: object, total: int, source: str) -> range:
    """The rows of a slice, none of whose ends lies beyond the source."""
    if rows is None:
        return range(total)
    if not isinstance(rows, slice):
        raise InputError(f"`rows` must be a slice, such as slice(0, 500), or None for all rows, got {rows!r}.")
    try:
        chosen = range(total)[rows]
    except (TypeError, ValueError) as error:
        raise InputError(f"`rows` must be a slice of integers, such as slice(0, 500), got {rows}: {error}.") from error
    # A slice of a list is silent about ends that are not there; half of a file would then be all of it.
    outside = [end for end in (rows.start, rows.stop) if end is not None and not -total <= end <= total]
    if outside or not chosen:
        problem = f"reaches beyond the {total} rows" if outside else f"takes none of the {total} rows"
        raise InputError(f"`rows` {problem} of {source}, got {rows}. Use None for an open end, as in slice(500, None).")
    return chosen


def _files(path: Path, paradigm: str | Sequence[str] | None) -> list[Path]:
    if not path.is_dir():
        _refuse_paradigm(paradigm, f"the file {path}")
        return [path]
    files = sorted(
        file for file in open_folder(path).iterdir() if file.suffix.lower() in SUFFIXES and file.name[0] != "."
    )
    if not files:
        raise InputError(f"{path} has no files of minimal pairs (endings: {', '.join(SUFFIXES)}).")
    if paradigm is None:
        return files
    wanted = [paradigm] if isinstance(paradigm, str) else paradigm
    known = {file.stem for file in files}
    if not isinstance(wanted, list | tuple) or not wanted or not all(name in known for name in wanted):
        raise InputError(
            f"`paradigm` must be the name of a file in {path} without its ending, or a list of such names, got "
            f"{paradigm!r}. It has: {', '.join(sorted(known))}."
        )
    return [file for file in files if file.stem in wanted]


def _refuse_paradigm(paradigm: object, source: str) -> None:
    if paradigm is not None:
        raise InputError(f"`paradigm` must be None unless `source` is a folder, got {paradigm!r} with {source}.")


def _from_list(source: Any, good: str, bad: str) -> Rows:
    if not isinstance(source, list | tuple):
        raise InputError(
            f"`source` must be a file, a folder, or a list of (good, bad) sentences, got a {type(source).__name__}."
        )
    for index, pair in enumerate(source):
        if not isinstance(pair, list | tuple) or len(pair) != 2:
            raise InputError(f"Pair {index} must be two sentences, (good, bad), got {pair!r}.")
    if not source:
        raise InputError("`source` is empty; at least one pair is needed.")
    return Rows("minimal pairs", [{good: pair[0], bad: pair[1]} for pair in source], range(len(source)), "pair")


def _columns(rows: Rows, good: str | None, bad: str | None) -> tuple[str, str]:
    if good is not None and bad is not None:
        return good, bad
    candidates = [names for names in COLUMNS if set(names) & set(rows.cells[0])]
    if not candidates:
        raise InputError(
            f"{rows.where(0)} has neither sentence_good and sentence_bad nor good and bad. It has: "
            f"{', '.join(map(str, rows.cells[0]))}. Name the columns with good= and bad=."
        )
    return candidates[0]


def _pair(rows: Rows, index: int, columns: tuple[str, str]) -> tuple[str, str]:
    cells, where = rows.cells[index], rows.where(index)
    for name in columns:
        if name not in cells:
            raise InputError(f"{where} has no {name!r}. It has: {', '.join(map(str, cells))}.")
        if not isinstance(cells[name], str):
            raise InputError(f"{where}: {name} must be a string, got {cells[name]!r}.")
        if not cells[name].strip():
            raise InputError(f"{where}: {name} is empty. Fill it in, or remove the row.")
    first, second = (cells[name].strip() for name in columns)
    if first == second and "UID" not in cells:
        raise InputError(f"{where}: the two sentences are equal: {first!r}.")
    return first, second
