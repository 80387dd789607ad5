"""Pairs of a clean and a corrupt stimulus, validated before any run.

The stimuli of a pair must have the same form, so that every patched token has a counterpart: the same number of images,
of the same size, and tokens that can be aligned.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from modalnet.errors import InputError
from modalnet.execution.knockouts import tokens_that_read
from modalnet.interventions.operations import Site
from modalnet.model import as_model
from modalnet.models.sites import absent_everywhere, choose_spaces, get_space, layers_of
from modalnet.patching.token_alignment import Column, Match, Pair, check_tokens, needs_boxes, plan_columns
from modalnet.stimuli.conversion import as_stimuli

if TYPE_CHECKING:
    from modalnet.model import Model
    from modalnet.patching.metrics import Measure
    from modalnet.stimuli import Stimulus


@dataclass(frozen=True)
class Layout:
    """Sites and tokens at which pairs are patched.

    Attributes
    ----------
    clean, corrupt
        The stimuli.
    digests
        Content hashes of the clean and the corrupt stimulus of each pair.
    layers
        Patched layers of each space.
    columns
        Columns of each space.
    matches
        Per space, column and pair: the (clean, corrupt) token indices.
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
    """Validate pairs and determine where they are patched.

    Raises
    ------
    InputError
        If images of a pair differ in size, a pair has no difference, a tower is not reached by all stimuli, or tokens
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
                # The layout of an image depends on its size alone; preceding text shifts it.
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
    """Convert to two lists of stimuli of the same length and kind."""
    one, two = as_stimuli(clean, "clean"), as_stimuli(corrupt, "corrupt")
    if len(one) != len(two):
        raise InputError(
            f"`clean` and `corrupt` must have the same length, got {len(one)} clean and {len(two)} corrupt stimuli."
        )
    for first, second in zip(one, two, strict=True):
        if first.kind != second.kind or first.n_images != second.n_images or first.n_sounds != second.n_sounds:
            noun = "images" if first.n_images != second.n_images else "sounds"
            counts = [each.n_images if noun == "images" else each.n_sounds for each in (first, second)]
            raise InputError(
                f"Pair {first.label}: both stimuli must be of the same kind, got {first.kind} ({counts[0]} {noun}) and "
                f"{second.kind} ({counts[1]} {noun}). Corrupt the content, not the form."
            )
    return one, two


def tokens_of(
    model: Model, stimuli: Any, words: str | Sequence[str], *, tower: str = "decoder"
) -> list[tuple[int, ...]]:
    """Return the token indices of words in their stimuli, for patching them as one group.

    Parameters
    ----------
    model
        The model whose tokenizer applies.
    stimuli
        The stimuli, usually the clean ones, whose tokens the indices refer to.
    words
        One text for all stimuli, or one per stimulus; its first occurrence that begins at a token is used.
    tower
        The tower that reads the text.

    Returns
    -------
    list of tuple
        Token indices in each stimulus, for ``tokens={"subject": tokens_of(...)}``.

    Raises
    ------
    InputError
        If a stimulus does not contain its word, or the numbers of words and stimuli differ.
    """
    model = as_model(model)
    given = as_stimuli(stimuli)
    wanted = [words] * len(given) if isinstance(words, str) else list(words)
    if len(wanted) != len(given):
        raise InputError(f"`words` must have one entry per stimulus, got {len(wanted)} for {len(given)} stimuli.")
    found = []
    for stimulus, row, word in zip(given, model._executor.token_rows(given, [tower]), wanted, strict=True):
        place = tokens_that_read(row[tower], word)
        if place is None:
            raise InputError(
                f"Stimulus {stimulus.label} has no tokens that read {word!r}; its tokens are {row[tower].names}."
            )
        found.append(place)
    return found


def _check_content(clean: Sequence[Stimulus], corrupt: Sequence[Stimulus]) -> list[tuple[str, str]]:
    digests = []
    for one, two in zip(clean, corrupt, strict=True):
        first, second = one.inspect(), two.inspect()
        if first.digest == second.digest:
            raise InputError(f"Pair {one.label}: the clean and the corrupt stimulus must differ, but are the same.")
        if first.sizes != second.sizes:
            shown = [", ".join(f"{width}x{height}" for width, height in side.sizes) for side in (first, second)]
            raise InputError(
                f"Pair {one.label}: images must have the same size, got {shown[0]} and {shown[1]} pixels. Use "
                "modalnet.corrupt.resize(stimulus, (width, height)), or crop them."
            )
        digests.append((first.digest, second.digest))
    return digests


def _same_pictures(clean: Sequence[Stimulus], corrupt: Sequence[Stimulus]) -> bool:
    """Whether no pair differs in its images, so that patching a vision tower has no effect."""
    for one, two in zip(clean, corrupt, strict=True):
        for first, second in zip(one.images(), two.images(), strict=True):
            if first.tobytes() != second.tobytes():
                return False
    return True


def _layers(
    model: Model, stimuli: list[Stimulus], sites: Any, towers: Any, *, same_pictures: bool
) -> dict[str, tuple[int, ...]]:
    reached = model._executor.reached(stimuli)
    given = [sites] if isinstance(sites, str) else list(sites) if isinstance(sites, list | tuple) else []
    listed = [one for one in given if isinstance(one, Site)]
    names = [one for one in given if isinstance(one, str)]
    if not given or len(given) not in (len(listed), len(names)):
        raise InputError(
            f"`sites` must be 'residual' (block outputs), the name of another kind of space, a list of such names, or "
            f"a list of sites such as modalnet.site('decoder', 5), got {sites!r:.80}."
        )
    if listed and towers is not None:
        raise InputError("`sites` as a list or `towers` can be given, not both.")
    if listed:
        chosen = list(dict.fromkeys(one.space for one in listed))
    else:
        spaces = choose_spaces(model.spaces, names, model.name)
        if towers is None:
            here = [name for name in reached if not (model.towers[name].modality == "image" and same_pictures)]
        else:
            here = [towers] if isinstance(towers, str) else list(towers)
            _check_towers(model, here, reached)
        chosen = [name for name in spaces if model.spaces[name].tower.name in here]
    for name in chosen:
        get_space(model.spaces, name, model.name)
    _check_towers(model, [model.spaces[name].tower.name for name in chosen], reached)
    # Where the units are is measured now, so that a space that there is not is refused before anything runs.
    model._executor.measure(chosen, model._executor.prepare(stimuli[:1]))
    for name in chosen:
        if reason := absent_everywhere(model.spaces[name]):
            raise InputError(f"{name} of {model.name} cannot be patched: {reason}.")
    layers: dict[str, tuple[int, ...]] = {}
    for name in (name for name in model.spaces if name in chosen):
        space = model.spaces[name]
        if not listed:
            layers[name] = space.layers
            continue
        own = [layer for one in listed if one.space == name for layer in layers_of(space, one.layer)]
        layers[name] = tuple(sorted({layer for layer in own if space.place(layer)}))
    if not layers:
        raise InputError("No tower can be patched: the pairs do not differ in any input of a tower of this model.")
    return layers


def _check_towers(model: Model, chosen: Sequence[str], reached: Sequence[str]) -> None:
    for name in chosen:
        if name not in model.towers:
            raise InputError(f"`towers` must be among {', '.join(model.towers)} of {model.name}, got {name!r}.")
        if name not in reached:
            raise InputError(
                f"The {name} tower is not reached by all stimuli. Use stimuli with {model.towers[name].noun}."
            )
