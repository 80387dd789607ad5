"""Pairs of a clean and a corrupt stimulus: what patching is given, checked before anything runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from modalnet.errors import InputError
from modalnet.interventions.operations import Site
from modalnet.models.sites import choose_spaces, get_space
from modalnet.patching.token_alignment import Column, Match, Pair, check_tokens, needs_boxes, plan_columns
from modalnet.stimuli.conversion import as_stimuli

if TYPE_CHECKING:
    from modalnet.model import Model
    from modalnet.patching.metrics import Measure
    from modalnet.stimuli import Stimulus


@dataclass(frozen=True)
class Layout:
    """Where the pairs of a job are patched.

    Attributes
    ----------
    clean, corrupt
        The stimuli.
    digests
        Of the content of each pair.
    layers
        Per tower, which blocks.
    columns
        Per tower.
    matches
        Per tower and column, for each pair: the (clean, corrupt) tokens.
    """

    clean: list[Stimulus]
    corrupt: list[Stimulus]
    digests: list[tuple[str, str]]
    layers: dict[str, tuple[int, ...]]
    columns: dict[str, list[Column]]
    matches: dict[str, list[list[Match]]]


def lay_out(
    model: Model,
    stimuli: tuple[list[Stimulus], list[Stimulus]],
    measure: Measure,
    *,
    sites: Any,
    towers: Any,
    tokens: Any,
    align: Any,
) -> Layout:
    """Check pairs and say where they are patched.

    Raises
    ------
    InputError
        Pictures of different sizes; pairs without a difference; towers that a stimulus does not reach; tokens that
        cannot be aligned.
    """
    clean, corrupt = stimuli
    digests = _check_content(clean, corrupt)
    layers = _layers(model, clean + corrupt, sites, towers, same_pictures=_same_pictures(clean, corrupt))
    check_tokens(tokens, list(layers))
    answers = measure.continuations
    rows = [model._executor.token_rows(side, list(layers), answers) for side in (clean, corrupt)]
    columns: dict[str, list[Column]] = {}
    matches: dict[str, list[list[Match]]] = {}
    known: dict[Any, Any] = {}
    for tower in layers:
        pairs = []
        for place, stimulus in enumerate(clean):
            boxes = None
            if stimulus.n_images == 1 and needs_boxes(tokens, tower):
                # A picture of one size is laid out in one way, whatever it shows; text before it moves it along.
                row = rows[0][place][tower]
                key = (tower, stimulus.inspect().sizes, row.image.tobytes())
                if key not in known:
                    known[key] = model._executor.image_places(stimulus, tower)
                boxes = known[key]
                boxes = boxes if boxes is None else boxes[: len(row)]
            pairs.append(Pair(stimulus.label, rows[0][place][tower], rows[1][place][tower], boxes))
        columns[tower], matches[tower] = plan_columns(pairs, tokens, align, tower)
    return Layout(clean, corrupt, digests, layers, columns, matches)


def as_pairs(clean: Any, corrupt: Any) -> tuple[list[Stimulus], list[Stimulus]]:
    """Two lists of stimuli of the same length."""
    one, two = as_stimuli(clean), as_stimuli(corrupt)
    if len(one) != len(two):
        raise InputError(f"There are {len(one)} clean and {len(two)} corrupt stimuli; each clean one needs its own.")
    for first, second in zip(one, two, strict=True):
        if first.kind != second.kind or first.n_images != second.n_images:
            raise InputError(
                f"pair {first.label}: the clean stimulus is {first.kind} ({first.n_images} images), the corrupt one "
                f"{second.kind} ({second.n_images}). Both must be of one kind: corrupt the content, not the form."
            )
    return one, two


def tokens_of(
    model: Model, stimuli: Any, words: str | Sequence[str], *, tower: str = "decoder"
) -> list[tuple[int, ...]]:
    """The tokens that words become in their stimuli, to be patched together in all pairs.

    Parameters
    ----------
    model
        Whose tokens.
    stimuli
        Mostly the clean ones: indices count in these.
    words
        One text for all, or one per stimulus; where it first begins with a token.
    tower
        Which reads the text.

    Returns
    -------
    list of tuple
        Per stimulus the indices among its own tokens, for ``tokens={"subject": tokens_of(...)}``.

    Raises
    ------
    InputError
        For a stimulus without the word, or another number of words than of stimuli.
    """
    given = as_stimuli(stimuli)
    wanted = [words] * len(given) if isinstance(words, str) else list(words)
    if len(wanted) != len(given):
        raise InputError(f"There are {len(given)} stimuli and {len(wanted)} words.")
    found = []
    for stimulus, row, word in zip(given, model._executor.token_rows(given, [tower]), wanted, strict=True):
        # Tokenizers disagree on whether a token brings the space before it, and on signs for what goes on.
        plain = [
            "" if one.startswith("<image ") else "".join(one.removeprefix("##").split()) for one in row[tower].names
        ]
        target = "".join(word.split())
        for first in range(len(plain)):
            last = first
            while last < len(plain) and len("".join(plain[first:last])) < len(target):
                last += 1
            if plain[first] and "".join(plain[first:last]) == target:
                found.append(tuple(range(first, last)))
                break
        else:
            raise InputError(f"stimulus {stimulus.label} has no tokens that read {word!r}; it has {row[tower].names}.")
    return found


def _check_content(clean: Sequence[Stimulus], corrupt: Sequence[Stimulus]) -> list[tuple[str, str]]:
    digests = []
    for one, two in zip(clean, corrupt, strict=True):
        first, second = one.inspect(), two.inspect()
        if first.digest == second.digest:
            raise InputError(f"pair {one.label}: the clean and the corrupt stimulus are the same.")
        if first.sizes != second.sizes:
            shown = [", ".join(f"{width}x{height}" for width, height in own.sizes) for own in (first, second)]
            raise InputError(
                f"pair {one.label}: its pictures have {shown[0]} and {shown[1]} pixels, so their tokens do not show "
                "the same places. Make them equal: modalnet.corrupt.resize(stimulus, (width, height)), or crop them."
            )
        digests.append((first.digest, second.digest))
    return digests


def _same_pictures(clean: Sequence[Stimulus], corrupt: Sequence[Stimulus]) -> bool:
    """Whether no pair differs in its pictures: then patching a vision tower changes nothing."""
    for one, two in zip(clean, corrupt, strict=True):
        for first, second in zip(one.images(), two.images(), strict=True):
            if first.tobytes() != second.tobytes():
                return False
    return True


def _layers(
    model: Model, stimuli: list[Stimulus], sites: Any, towers: Any, *, same_pictures: bool
) -> dict[str, tuple[int, ...]]:
    reached = model._executor.reached(stimuli)
    listed = list(sites) if isinstance(sites, list | tuple) else []
    if not isinstance(sites, str) and not (listed and all(isinstance(one, Site) for one in listed)):
        raise InputError(
            f'sites={sites!r:.80} is not known. Give "residual" for every block\'s output, the name of another kind of '
            'space, or a list of sites such as modalnet.site("decoder", 5).'
        )
    if listed and towers is not None:
        raise InputError("Give sites= as a list or towers=, not both.")
    if listed:
        chosen = list(dict.fromkeys(one.space for one in listed))
    else:
        named = choose_spaces(model.spaces, sites, model.name)
        if towers is None:
            here = [name for name in reached if not (model.towers[name].modality == "image" and same_pictures)]
        else:
            here = [towers] if isinstance(towers, str) else list(towers)
            _check_towers(model, here, reached)
        chosen = [name for name in named if model.spaces[name].tower.name in here]
    for name in chosen:
        get_space(model.spaces, name, model.name)
    _check_towers(model, [model.spaces[name].tower.name for name in chosen], reached)
    layers: dict[str, tuple[int, ...]] = {}
    for name in (name for name in model.spaces if name in chosen):
        depth = model.spaces[name].n_layers
        if not listed:
            layers[name] = tuple(range(depth))
            continue
        own = [one.layer for one in listed if one.space == name]
        for layer in own:
            if not -depth <= layer < depth:
                raise InputError(f"site {name}[{layer}]: {name} has layers 0..{depth - 1}.")
        layers[name] = tuple(sorted({layer % depth for layer in own}))
    if not layers:
        raise InputError("there is no tower to patch: the pairs differ in nothing that a tower of this model reads.")
    return layers


def _check_towers(model: Model, chosen: Sequence[str], reached: Sequence[str]) -> None:
    for name in chosen:
        if name not in model.towers:
            raise InputError(f"there is no tower {name!r} in {model.name}; its towers are {', '.join(model.towers)}.")
        if name not in reached:
            raise InputError(
                f"the {name} tower is not reached by all of these stimuli: give stimuli with {model.towers[name].noun}."
            )
