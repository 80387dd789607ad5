"""Where to patch: which tokens of the clean stimulus go with which of the corrupt one, and how they are named.

A *column* of a result is a token, or a group of tokens, that all pairs have. It is found in two steps. ``align=`` says
which tokens of the two stimuli of a pair stand for each other; ``tokens=`` says which of those matches are patched
together.

==================  ==================================================================================================
``align``
==================  ==================================================================================================
None                the i-th with the i-th; both stimuli need the same number of tokens of each role
``"last"``          from the end: the last with the last; what one of them has more at its start is left alone
``"role"``          image tokens with image tokens; each stretch of text from its end
list of (i, j)      given: clean token i with corrupt token j; one list for all pairs, or one per pair
==================  ==================================================================================================

==================  ==================================================================================================
``tokens``
==================  ==================================================================================================
None                each text token by itself; the image tokens as one group
``"each"``          each token by itself, image tokens (patches) too
``Grid(r, c)``      each text token by itself; image tokens grouped by where in the picture they are
a role              ``"last"``, ``"image"``, ``"text"``, ``"cls"`` or ``"all"``: one group
indices             a tuple of places among the clean stimulus' tokens: one group
a list of these     a column for each; whole numbers in it stand for themselves
a mapping           name → role, indices, or a list with the indices of each pair (see :func:`tokens_of`): a column
                    each; or tower → any of the above
==================  ==================================================================================================
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from modalnet.errors import InputError
from modalnet.interventions.positions import TokenRow
from modalnet.models.roots import ROLES as TOWERS
from modalnet.models.towers import tower_of

if TYPE_CHECKING:
    from jaxtyping import Float

ROLES = ("last", "image", "text", "cls", "all")
Match = list[tuple[int, int]]


@dataclass(frozen=True)
class Grid:
    """Image tokens grouped by where in the picture they are.

    Attributes
    ----------
    rows, columns
        How many groups the picture is cut into, from top to bottom and from left to right.
    """

    rows: int
    columns: int

    def __post_init__(self) -> None:
        for value in (self.rows, self.columns):
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise InputError(
                    f"Grid(rows, columns) takes whole numbers from 1; got {self.rows!r}, {self.columns!r}."
                )


@dataclass(frozen=True)
class Column:
    """One column of a result.

    Attributes
    ----------
    name
        What the token reads, or the name of the group.
    kind
        ``"text"``, ``"image"``, ``"cls"`` or ``"group"``.
    box
        Where in the picture it is, as shares of its width and height (left, top, right, bottom); None where it is no
        part of a picture, or where that is not known.
    """

    name: str
    kind: Literal["text", "image", "cls", "group"]
    box: tuple[float, float, float, float] | None = None


@dataclass(frozen=True)
class Pair:
    """The tokens of the two stimuli of a pair in one tower.

    Attributes
    ----------
    label
        For messages.
    clean, corrupt
        Their tokens.
    boxes
        Where in the picture each token of the clean stimulus is, ``[token, 4]``, NaN for those of no picture; None
        where it is not known.
    """

    label: str
    clean: TokenRow
    corrupt: TokenRow
    boxes: Float[np.ndarray, "token 4"] | None = None


#: Per column and pair, what is patched: (clean token, corrupt token) each; empty where a pair lacks the column.
Plan = tuple[list[Column], list[list[Match]]]


def needs_boxes(tokens: Any, tower: str) -> bool:
    """Whether columns will be made of image tokens one by one or by place."""
    own = _of_tower(tokens, tower)
    listed = list(own.values()) if isinstance(own, Mapping) else own if isinstance(own, list) else [own]
    return any(one == "each" or isinstance(one, Grid) for one in listed)


def plan_columns(pairs: Sequence[Pair], tokens: Any, align: Any, tower: str) -> Plan:
    """The columns of one tower, and which tokens each takes of every pair.

    Raises
    ------
    InputError
        Stimuli that cannot be aligned as asked; choices that are none, or that no token answers to.
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
        raise InputError(f"tokens={tokens!r} chooses nothing in the {tower} tower.")
    return [column for column, _ in made], [per_pair for _, per_pair in made]


def check_tokens(tokens: Any, towers: Sequence[str]) -> None:
    """Raise an InputError for a choice that is none, before anything runs."""
    if isinstance(tokens, Mapping) and not tokens:
        raise InputError("tokens= is empty.")
    if isinstance(tokens, Mapping) and any(_is_space(name) for name in tokens):
        unknown = [name for name in tokens if name not in towers and name not in map(tower_of, towers)]
        if unknown:
            raise InputError(f"tokens= names {unknown[0]!r}; patched are {', '.join(towers)}.")
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
        f'tokens= holds {choice!r}. Give "each", one of {", ".join(ROLES)}, a tuple of indices, Grid(rows, columns), a '
        "list of these, or a mapping of names to them."
    )


def _is_index(value: Any) -> bool:
    return isinstance(value, int | np.integer) and not isinstance(value, bool)


def _of_tower(tokens: Any, tower: str) -> Any:
    if isinstance(tokens, Mapping) and any(_is_space(name) for name in tokens):
        return tokens.get(tower, tokens.get(tower_of(tower)))
    return tokens


def _is_space(name: Any) -> bool:
    return isinstance(name, str) and tower_of(name) in TOWERS


# Which token stands for which


def _matched(pair: Pair, align: Any, place: int, n_pairs: int, tower: str) -> Match:
    clean, corrupt = pair.clean, pair.corrupt
    if align is None:
        if len(clean) != len(corrupt) or not np.array_equal(clean.image, corrupt.image):
            raise InputError(
                f"pair {pair.label}: the clean stimulus has {_counted(clean)} in the {tower} tower, the corrupt one "
                f'{_counted(corrupt)}, so their tokens do not go together one by one. Give align="last", align="role", '
                "or (clean, corrupt) indices."
            )
        return [(i, i) for i in range(len(clean))]
    if align == "last":
        count = min(len(clean), len(corrupt))
        found = [(len(clean) - count + i, len(corrupt) - count + i) for i in range(count)]
        if any(clean.image[i] != corrupt.image[j] for i, j in found):
            raise InputError(
                f'pair {pair.label}: align="last" sets image tokens against text tokens in the {tower} tower. Give '
                'align="role".'
            )
        return found
    if align == "role":
        return _by_role(pair, tower)
    return _given(pair, align, place, n_pairs, tower)


def _by_role(pair: Pair, tower: str) -> Match:
    one, two = _stretches(pair.clean), _stretches(pair.corrupt)
    if [role for role, _ in one] != [role for role, _ in two]:
        raise InputError(
            f"pair {pair.label}: text and images follow each other in another order in the clean stimulus than in the "
            f"corrupt one ({tower} tower), so they cannot be aligned by role."
        )
    found: Match = []
    for (is_image, first), (_, second) in zip(one, two, strict=True):
        if is_image and len(first) != len(second):
            raise InputError(
                f"pair {pair.label}: its images have {len(first)} and {len(second)} tokens in the {tower} tower. Make "
                "them equal: modalnet.corrupt.resize(stimulus, size), or pictures of one size."
            )
        count = min(len(first), len(second))
        found += list(zip(first[len(first) - count :], second[len(second) - count :], strict=True))
    return found


def _stretches(row: TokenRow) -> list[tuple[bool, list[int]]]:
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
            f'align={align!r:.80} is not known. Give None, "last", "role", or (clean, corrupt) indices: a list of '
            "them, or a list per pair."
        ) from error
    if per_pair and len(listed) != n_pairs:
        raise InputError(f"align= has {len(listed)} lists for {n_pairs} pairs.")
    n, m = len(pair.clean), len(pair.corrupt)
    for i, j in found:
        if not (-n <= i < n and -m <= j < m):
            raise InputError(
                f"pair {pair.label}: align= sets token {i} against {j}, but the stimuli have {n} and {m} in the "
                f"{tower} tower."
            )
    made = [(i % n, j % m) for i, j in found]
    if len({i for i, _ in made}) < len(made) or len({j for _, j in made}) < len(made):
        raise InputError(f"pair {pair.label}: align= uses a token twice.")
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
        raise InputError(f"tokens= has {len(per_pair)} entries for {name!r}, and there are {len(pairs)} pairs.")
    found = []
    for pair, match, its in zip(pairs, matches, per_pair, strict=True):
        _check_choice(its)
        places = set(_chosen(pair, (int(its),) if _is_index(its) else its, tower))
        own = [(i, j) for i, j in match if i in places]
        if not own:
            raise InputError(
                f"tokens={its!r}: pair {pair.label} has no such token in the {tower} tower that both of its stimuli "
                "have."
            )
        found.append(own)
    shown = name or (choice if isinstance(choice, str | int) else ", ".join(map(str, choice)))
    kind: Any = choice if choice in ("image", "cls") else "group"
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
                f"tokens= asks for token {outside[0]}, but the clean stimulus of pair {pair.label} has {n} in the "
                f"{tower} tower."
            )
        return [int(i) % n for i in choice]
    mask = row.image if choice == "image" else row.cls if choice == "cls" else ~row.image & ~row.cls
    return np.flatnonzero(mask).tolist()


def _each(
    pairs: Sequence[Pair], matches: Sequence[Match], choice: Any, align: Any, tower: str
) -> list[tuple[Column, list[Match]]]:
    """Columns of single tokens, and of image tokens as the choice groups them."""
    keyed = [_keys(pair, match, choice, tower) for pair, match in zip(pairs, matches, strict=True)]
    shapes = {tuple(keys) for keys in keyed}
    if len(shapes) > 1:
        if align is None:
            raise InputError(
                f"the pairs have different numbers of tokens in the {tower} tower, so a column of one pair has no "
                'counterpart in another. Give align="last" or align="role" to line them up from the end, or tokens= as '
                "roles or groups that all have."
            )
        keyed = [_from_end(pair, keys, choice) for pair, keys in zip(pairs, keyed, strict=True)]
    order = sorted({key for keys in keyed for key in keys})
    made = []
    for key in order:
        own = [keys.get(key, []) for keys in keyed]
        made.append((_column(key, own, pairs, shifted=len(shapes) > 1), own))
    return made


_Key = tuple[int, str, int]


def _keys(pair: Pair, match: Match, choice: Any, tower: str) -> dict[_Key, Match]:
    """Columns of one pair: (stretch, kind, number) → tokens."""
    row = pair.clean
    stretch = np.concatenate([[0], np.cumsum(row.image[1:] != row.image[:-1])]).astype(int)
    found: dict[_Key, Match] = {}
    for i, j in match:
        where = int(stretch[i])
        if row.cls[i]:
            key = (where, "cls", i)
        elif not row.image[i]:
            key = (where, "text", i)
        elif choice is None:
            key = (where, "image", -1)
        elif choice == "each":
            key = (where, "image", i)
        else:
            key = (where, "grid", _cell(pair, i, choice, tower))
        found.setdefault(key, []).append((i, j))
    return found


def _cell(pair: Pair, place: int, grid: Grid, tower: str) -> int:
    if pair.boxes is None or not np.isfinite(pair.boxes[place]).all():
        raise InputError(
            f"pair {pair.label}: it is not known where in the picture the image tokens of the {tower} tower are (every "
            "token may look at all of it), so they cannot be grouped by place. Give tokens= without Grid."
        )
    left, top, right, bottom = pair.boxes[place]
    row = min(int((top + bottom) / 2 * grid.rows), grid.rows - 1)
    column = min(int((left + right) / 2 * grid.columns), grid.columns - 1)
    return row * grid.columns + column


def _from_end(pair: Pair, keys: dict[_Key, Match], choice: Any) -> dict[_Key, Match]:
    """Text columns counted from the end of their stretch, so that pairs of different lengths share them."""
    last: dict[int, int] = {}
    for where, _, number in keys:
        last[where] = max(last.get(where, 0), number)
    first = {where: min(number for w, _, number in keys if w == where) for where in last}
    made = {}
    for (where, kind, number), own in keys.items():
        counted = number - last[where] - 1 if kind == "text" else number - first[where] if kind == "image" else number
        made[(where, kind, counted if choice is not None or kind != "image" else -1)] = own
    return made


def _column(key: _Key, own: Sequence[Match], pairs: Sequence[Pair], *, shifted: bool) -> Column:
    _, kind, number = key
    box = _box(own, pairs)
    if kind == "grid":
        return Column(f"<part {number}>", "image", box)
    if kind == "image" and number == -1:
        return Column("<image>", "image")
    seen = {
        (pair.clean.names[i], pair.corrupt.names[j]) for pair, match in zip(pairs, own, strict=True) for i, j in match
    }
    if len(seen) == 1:
        ((clean, corrupt),) = seen
        name = clean if clean == corrupt else f"{clean} | {corrupt}"
    else:
        # Tokens that differ between pairs share a place, counted from the end, and no name.
        name = f"[{number if shifted else number - len(pairs[0].clean)}]"
    return Column(name, "cls" if kind == "cls" else "image" if kind == "image" else "text", box)


def _box(own: Sequence[Match], pairs: Sequence[Pair]) -> tuple[float, float, float, float] | None:
    """Where in the picture a column is, if that is the same in all pairs."""
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
