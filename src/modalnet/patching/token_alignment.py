"""Alignment of the tokens of clean and corrupt stimuli, and their grouping into columns.

A *column* of a result is a token, or a group of tokens, that all pairs have. Columns are determined in two steps:
``align`` matches tokens of the clean stimulus with tokens of the corrupt one, and ``tokens`` groups these matches into
sets that are patched together.

==================  ==================================================================================================
``align``
==================  ==================================================================================================
None                the i-th with the i-th; both stimuli must have the same number of tokens of each role
``"last"``          from the end: the last with the last; surplus tokens at the start of the longer one are unmatched
``"role"``          image tokens with image tokens; each span of text from its end
list of (i, j)      clean token i with corrupt token j; one list for all pairs, or one per pair
==================  ==================================================================================================

==================  ==================================================================================================
``tokens``
==================  ==================================================================================================
None                each text token singly; the image tokens as one group
``"each"``          each token singly, including image tokens (patches)
``Grid(r, c)``      each text token singly; image tokens grouped by position in the image
a role              ``"last"``, ``"image"``, ``"text"``, ``"cls"`` or ``"all"``: one group
indices             a tuple of token indices of the clean stimulus: one group
a list of these     one column each; integers in it are single tokens
a mapping           from names to a role, indices, or a list of indices per pair (see
                    :func:`modalnet.patching.tokens_of`): one column each; or from towers to any of the above
==================  ==================================================================================================
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from modalnet._validation import check_int
from modalnet.errors import InputError
from modalnet.interventions.positions import KINDS, TokenRow
from modalnet.models.roots import ROLES as TOWERS
from modalnet.models.towers import tower_of

if TYPE_CHECKING:
    from jaxtyping import Float

ROLES = ("last", *KINDS, "all")
Match = list[tuple[int, int]]


@dataclass(frozen=True)
class Grid:
    """Grouping of image tokens by their position in the image.

    Attributes
    ----------
    rows, columns
        Number of cells from top to bottom and from left to right.

    Raises
    ------
    InputError
        If a number is not a positive integer.
    """

    rows: int
    columns: int

    def __post_init__(self) -> None:
        check_int("rows", self.rows, minimum=1)
        check_int("columns", self.columns, minimum=1)


@dataclass(frozen=True)
class Column:
    """One column of a result.

    Attributes
    ----------
    name
        The text of the token, or the name of the group.
    kind
        ``"text"``, ``"image"``, ``"audio"``, ``"cls"`` or ``"group"``.
    box
        Position in the image as fractions of its width and height (left, top, right, bottom); None if it is not part of
        an image, or its position is unknown.
    """

    name: str
    kind: Literal["text", "image", "audio", "cls", "group"]
    box: tuple[float, float, float, float] | None = None


@dataclass(frozen=True)
class Pair:
    """The tokens of the two stimuli of a pair in one tower.

    Attributes
    ----------
    label
        Label of the pair, for messages.
    clean, corrupt
        Tokens of the two stimuli.
    boxes
        Position in the image of each token of the clean stimulus, ``[token, 4]``, NaN for tokens outside images; None
        if unknown.
    """

    label: str
    clean: TokenRow
    corrupt: TokenRow
    boxes: Float[np.ndarray, "token 4"] | None = None


#: Columns, and per column and pair the matched (clean, corrupt) tokens; empty where a pair lacks the column.
Plan = tuple[list[Column], list[list[Match]]]


def needs_boxes(tokens: Any, tower: str) -> bool:
    """Whether columns consist of single image tokens or of grid cells, which require positions in the image."""
    own = _of_tower(tokens, tower)
    listed = list(own.values()) if isinstance(own, Mapping) else own if isinstance(own, list) else [own]
    return any(one == "each" or isinstance(one, Grid) for one in listed)


def plan_columns(pairs: Sequence[Pair], tokens: Any, align: Any, tower: str) -> Plan:
    """Return the columns of one tower, and the matched tokens of each column in every pair.

    Raises
    ------
    InputError
        If stimuli cannot be aligned as requested, or a choice of tokens is invalid or selects no token.
    """
    matches = [_matched(pair, align, place, len(pairs), tower) for place, pair in enumerate(pairs)]
    chosen = _of_tower(tokens, tower)
    if isinstance(chosen, Mapping):
        made: list[tuple[Column, list[Match]]] = []
        for name, choice in chosen.items():
            made += _one(pairs, matches, choice, align, tower, name=str(name))
    else:
        listed = chosen if isinstance(chosen, list) else [chosen]
        made = [column for choice in listed for column in _one(pairs, matches, choice, align, tower)]
    if not made:
        raise InputError(f"`tokens` must select at least one token of the {tower} tower, got {tokens!r}.")
    return [column for column, _ in made], [per_pair for _, per_pair in made]


def check_tokens(tokens: Any, towers: Sequence[str]) -> None:
    """Validate a choice of tokens before any run."""
    if isinstance(tokens, Mapping) and not tokens:
        raise InputError("`tokens` must not be an empty mapping.")
    if isinstance(tokens, Mapping) and any(_is_space(name) for name in tokens):
        unknown = [name for name in tokens if name not in towers and name not in map(tower_of, towers)]
        if unknown:
            raise InputError(
                f"`tokens` must have keys among the patched towers ({', '.join(towers)}), got {unknown[0]!r}."
            )
    for tower in towers:
        own = _of_tower(tokens, tower)
        for value in own.values() if isinstance(own, Mapping) else [own]:
            for one in value if isinstance(value, list) else [value]:
                _check_choice(one)


def _check_choice(choice: Any) -> None:
    if choice is None or choice == "each" or isinstance(choice, Grid) or _is_index(choice):
        return
    if isinstance(choice, str) and choice in ROLES:
        return
    if isinstance(choice, tuple) and choice and all(map(_is_index, choice)):
        return
    raise InputError(
        f"`tokens` must be 'each', one of {', '.join(map(repr, ROLES))}, a tuple of indices, Grid(rows, columns), a "
        f"list of these, or a mapping from names to them, got {choice!r}."
    )


def _is_index(value: Any) -> bool:
    return isinstance(value, int | np.integer) and not isinstance(value, bool)


def _of_tower(tokens: Any, tower: str) -> Any:
    if isinstance(tokens, Mapping) and any(_is_space(name) for name in tokens):
        return tokens.get(tower, tokens.get(tower_of(tower)))
    return tokens


def _is_space(name: Any) -> bool:
    return isinstance(name, str) and tower_of(name) in TOWERS


# Alignment


def _matched(pair: Pair, align: Any, place: int, n_pairs: int, tower: str) -> Match:
    clean, corrupt = pair.clean, pair.corrupt
    if align is None:
        if len(clean) != len(corrupt) or not np.array_equal(clean.image, corrupt.image):
            raise InputError(
                f"Pair {pair.label}: the clean stimulus has {_counted(clean)} in the {tower} tower and the corrupt one "
                f"{_counted(corrupt)}, which cannot be aligned one to one. Give `align` as 'last', 'role', or (clean, "
                "corrupt) indices."
            )
        return [(i, i) for i in range(len(clean))]
    if align == "last":
        count = min(len(clean), len(corrupt))
        found = [(len(clean) - count + i, len(corrupt) - count + i) for i in range(count)]
        if any(clean.image[i] != corrupt.image[j] for i, j in found):
            raise InputError(
                f'Pair {pair.label}: `align="last"` aligns image tokens with text tokens in the {tower} tower. Use '
                '`align="role"`.'
            )
        return found
    if align == "role":
        return _by_role(pair, tower)
    return _given(pair, align, place, n_pairs, tower)


def _by_role(pair: Pair, tower: str) -> Match:
    one, two = _spans(pair.clean), _spans(pair.corrupt)
    if [role for role, _ in one] != [role for role, _ in two]:
        raise InputError(
            f'Pair {pair.label}: `align="role"` requires text and images in the same order in the clean and the '
            f"corrupt stimulus ({tower} tower)."
        )
    found: Match = []
    for (is_image, first), (_, second) in zip(one, two, strict=True):
        if is_image and len(first) != len(second):
            raise InputError(
                f"Pair {pair.label}: images must have the same number of tokens in the {tower} tower, got {len(first)} "
                f"and {len(second)} tokens. Use modalnet.corrupt.resize(stimulus, size), or images of one size."
            )
        count = min(len(first), len(second))
        found += list(zip(first[len(first) - count :], second[len(second) - count :], strict=True))
    return found


def _spans(row: TokenRow) -> list[tuple[bool, list[int]]]:
    found: list[tuple[bool, list[int]]] = []
    for place, is_image in enumerate(row.image.tolist()):
        if not found or found[-1][0] != is_image:
            found.append((is_image, []))
        found[-1][1].append(place)
    return found


def _given(pair: Pair, align: Any, place: int, n_pairs: int, tower: str) -> Match:
    listed = align.get(tower) if isinstance(align, Mapping) else align
    if listed is None:
        return _matched(pair, None, place, n_pairs, tower)
    try:
        if isinstance(listed, str):
            raise TypeError(listed)
        per_pair = not _is_index(listed[0][0])
        own = listed if not per_pair else listed[place] if len(listed) == n_pairs else []
        found = [(int(i), int(j)) for i, j in own]
    except (TypeError, ValueError, IndexError, KeyError) as error:
        raise InputError(
            f"`align` must be None, 'last', 'role', or a list of (clean, corrupt) indices (one for all pairs, or one "
            f"per pair), got {align!r:.80}."
        ) from error
    if per_pair and len(listed) != n_pairs:
        raise InputError(f"`align` must have one list per pair, got {len(listed)} for {n_pairs} pairs.")
    n, m = len(pair.clean), len(pair.corrupt)
    for i, j in found:
        if not (-n <= i < n and -m <= j < m):
            raise InputError(
                f"Pair {pair.label}: `align` matches token {i} with token {j}, but the stimuli have {n} and {m} tokens "
                f"in the {tower} tower."
            )
    made = [(i % n, j % m) for i, j in found]
    if len({i for i, _ in made}) < len(made) or len({j for _, j in made}) < len(made):
        raise InputError(f"Pair {pair.label}: `align` must not use a token twice.")
    return made


def _counted(row: TokenRow) -> str:
    images = int(row.image.sum())
    return f"{len(row)} tokens" + (f" ({images} of images)" if images else "")


# Columns


def _one(
    pairs: Sequence[Pair], matches: Sequence[Match], choice: Any, align: Any, tower: str, *, name: str | None = None
) -> list[tuple[Column, list[Match]]]:
    if choice is None or choice == "each" or isinstance(choice, Grid):
        return _each(pairs, matches, choice, align, tower)
    per_pair = choice if isinstance(choice, list) else [choice] * len(pairs)
    if len(per_pair) != len(pairs):
        raise InputError(
            f"`tokens[{name!r}]` must have one entry per pair, got {len(per_pair)} for {len(pairs)} pairs."
        )
    found = []
    for pair, match, its in zip(pairs, matches, per_pair, strict=True):
        _check_choice(its)
        places = set(_chosen(pair, (int(its),) if _is_index(its) else its, tower))
        own = [(i, j) for i, j in match if i in places]
        if not own:
            raise InputError(
                f"`tokens` selects {its!r}, but pair {pair.label} has no such token in both stimuli in the "
                f"{tower} tower."
            )
        found.append(own)
    shown = name or (choice if isinstance(choice, str | int) else ", ".join(map(str, choice)))
    kind: Any = choice if choice in ("image", "audio", "cls") else "group"
    return [(Column(str(shown), kind), found)]


def _chosen(pair: Pair, choice: Any, tower: str) -> list[int]:
    row, n = pair.clean, len(pair.clean)
    if choice == "all":
        return list(range(n))
    if choice == "last":
        return [n - 1]
    if isinstance(choice, tuple):
        outside = [i for i in choice if not -n <= i < n]
        if outside:
            raise InputError(
                f"`tokens` selects token {outside[0]}, but the clean stimulus of pair {pair.label} has {n} tokens in "
                f"the {tower} tower."
            )
        return [int(i) % n for i in choice]
    kind = row.kind(choice)
    return np.flatnonzero(kind & ~row.cls if choice == "text" else kind).tolist()


def _each(
    pairs: Sequence[Pair], matches: Sequence[Match], choice: Any, align: Any, tower: str
) -> list[tuple[Column, list[Match]]]:
    """Return columns of single tokens, and of image tokens grouped as requested."""
    keyed = [_keys(pair, match, choice, tower) for pair, match in zip(pairs, matches, strict=True)]
    shapes = {tuple(keys) for keys in keyed}
    if len(shapes) > 1:
        if align is None:
            raise InputError(
                f"The pairs have different numbers of tokens in the {tower} tower, so columns have no counterparts. "
                "Give `align` as 'last' or 'role' to align them from the end, or `tokens` as roles or groups that all "
                "pairs have."
            )
        keyed = [_from_end(pair, keys, choice) for pair, keys in zip(pairs, keyed, strict=True)]
    order = sorted({key for keys in keyed for key in keys})
    made = []
    for key in order:
        own = [keys.get(key, []) for keys in keyed]
        made.append((_column(key, own, pairs, shifted=len(shapes) > 1), own))
    return made


_Key = tuple[int, Any, int]


def _keys(pair: Pair, match: Match, choice: Any, tower: str) -> dict[_Key, Match]:
    """Return the columns of one pair: (span, kind, number) → matched tokens."""
    row = pair.clean
    media = row.image | row.sound
    stretch = np.concatenate([[0], np.cumsum(media[1:] != media[:-1])]).astype(int)
    found: dict[_Key, Match] = {}
    for i, j in match:
        where = int(stretch[i])
        if row.cls[i]:
            key = (where, "cls", i)
        elif not media[i]:
            key = (where, "text", i)
        elif choice is None or choice == "each":
            key = (where, "audio" if row.sound[i] else "image", -1 if choice is None else i)
        else:
            key = (where, "grid", _cell(pair, i, choice, tower))
        found.setdefault(key, []).append((i, j))
    return found


def _cell(pair: Pair, place: int, grid: Grid, tower: str) -> int:
    if pair.boxes is None or not np.isfinite(pair.boxes[place]).all():
        raise InputError(
            f"Pair {pair.label}: the positions of the image tokens of the {tower} tower in the image are unknown (each "
            "token may depend on the whole image), so that Grid cannot group them. Give `tokens` without Grid."
        )
    left, top, right, bottom = pair.boxes[place]
    row = min(int((top + bottom) / 2 * grid.rows), grid.rows - 1)
    column = min(int((left + right) / 2 * grid.columns), grid.columns - 1)
    return row * grid.columns + column


def _from_end(pair: Pair, keys: dict[_Key, Match], choice: Any) -> dict[_Key, Match]:
    """Number text columns from the end of their span, so that pairs of different lengths share them."""
    last: dict[int, int] = {}
    for where, _, number in keys:
        last[where] = max(last.get(where, 0), number)
    first = {where: min(number for w, _, number in keys if w == where) for where in last}
    made = {}
    for (where, kind, number), own in keys.items():
        medium = kind in ("image", "audio")
        counted = number - last[where] - 1 if kind == "text" else number - first[where] if medium else number
        made[(where, kind, counted if choice is not None or not medium else -1)] = own
    return made


def _column(key: _Key, own: Sequence[Match], pairs: Sequence[Pair], *, shifted: bool) -> Column:
    _, kind, number = key
    box = _box(own, pairs)
    if kind == "grid":
        return Column(f"<part {number}>", "image", box)
    if kind in ("image", "audio") and number == -1:
        return Column(f"<{kind}>", kind)
    seen = {
        (pair.clean.names[i], pair.corrupt.names[j]) for pair, match in zip(pairs, own, strict=True) for i, j in match
    }
    if len(seen) == 1:
        ((clean, corrupt),) = seen
        name = clean if clean == corrupt else f"{clean} | {corrupt}"
    else:
        # Tokens that differ between pairs are named by their position from the end.
        name = f"[{number if shifted else number - len(pairs[0].clean)}]"
    return Column(name, kind, box)


def _box(own: Sequence[Match], pairs: Sequence[Pair]) -> tuple[float, float, float, float] | None:
    """Return the position of a column in the image, if it is the same in all pairs."""
    boxes = []
    for match, pair in zip(own, pairs, strict=True):
        if pair.boxes is None:
            return None
        inside = pair.boxes[[i for i, _ in match]] if match else np.empty((0, 4))
        if not len(inside) or not np.isfinite(inside).all():
            return None
        boxes.append((*inside[:, :2].min(0), *inside[:, 2:].max(0)))
    spread = np.ptp(np.array(boxes), axis=0)
    if (spread > 0.02).any():
        return None
    left, top, right, bottom = np.mean(boxes, axis=0).tolist()
    return left, top, right, bottom
