"""Which region of the image each image token represents, measured on the model.

Processors resize and crop, towers cut images into tiles and reorder patches by window, connectors merge neighbouring
patches, so no rule gives the region of a token. It is measured with a vertical edge, white to its left and black to its
right, that moves across the image. The edge changes the input of the first vision block at exactly those tokens whose
patch it has reached: a patch starts where its token starts to change, and ends where the change is complete. A
horizontal edge gives the other two sides.

For decoder tokens the edge moves over the tokens of the vision tower: the outputs of its blocks are patched from a
white image for tokens to the left of the edge and from a black image for those to the right, and the input of the
first decoder block shows which image tokens depend on them. If every image token depends on the whole image, as after
a Q-Former, it has no region; its change then extends over the whole path of the edge.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from modalnet.errors import ModalnetError
from modalnet.execution.cells import Cell, State, Swap
from modalnet.execution.plan import Plan, Prefix
from modalnet.execution.states import read_states, token_row
from modalnet.execution.sweep import Sweep
from modalnet.execution.turns import one_step
from modalnet.inputs.batch import Encoded
from modalnet.models.sites import Space

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import torch
    from jaxtyping import Bool, Float

    from modalnet.interventions.positions import TokenRow
    from modalnet.models.towers import Tower
    from modalnet.stimuli import Stimulus

# Bounds on the number of steps of the edge, which makes about two steps per patch.
FEWEST_STEPS, MOST_STEPS = 16, 64
# Tokens have no region if their change extends over a larger share of the edge's path.
WIDEST = 0.5
AT_ONCE = 16
# Pictures are kept as thumbnails: they are for display.
THUMBNAIL = 224
# Share of a token's total change at which the change counts as started: resizing blurs the edge a little.
NOTICED = 0.05


@one_step
def image_places(sweep: Sweep, stimulus: Stimulus, tower: str) -> Float[np.ndarray, "token 4"] | None:
    """Which region of the image each token of a stimulus with one image represents.

    Parameters
    ----------
    sweep
        The sweep of the model.
    stimulus
        A stimulus with one image; the size of the image matters, its content does not.
    tower
        Name of the tower whose tokens are located.

    Returns
    -------
    array
        ``[token, 4]``: left, top, right and bottom as shares of the image; NaN for tokens that are not image tokens.
        None if the regions cannot be measured.
    """
    first, own = sweep.layouts.image_tower, sweep.layouts.towers[tower]
    # Only the first image encoder is measured.
    if stimulus.n_images != 1 or first is None or (own.modality == "image" and own != first):
        return None
    ((width, height),) = stimulus.inspect().sizes
    try:
        found = _vision(sweep, stimulus, (width, height), first)
        if found is None or tower == first.name:
            return found
        return _text(sweep, stimulus, (width, height), found, (first, own))
    except (ModalnetError, RuntimeError, ValueError, IndexError):
        return None  # the model's token layout cannot be measured


def _vision(sweep: Sweep, stimulus: Stimulus, size: tuple[int, int], tower: Tower) -> np.ndarray | None:
    n = sweep.layouts.share(_encoded(sweep, stimulus, _picture(size, 0, 0)), tower.name).positions
    extents = []
    for axis in (0, 1):
        steps = _steps(n, size[axis])
        rows = []
        for start in range(0, len(steps), AT_ONCE):
            pictures = [_picture(size, axis, step) for step in steps[start : start + AT_ONCE]]
            items = [_encoded(sweep, stimulus, picture) for picture in pictures]
            rows += _entering(
                sweep, items, lambda batch: sweep.engine.entering(batch.inputs, tower, _plan(batch)), (tower,)
            )
        extents.append(_extent(rows, steps / size[axis]))
    return _boxes(*extents)


def _text(
    sweep: Sweep, stimulus: Stimulus, size: tuple[int, int], seen: np.ndarray, towers: tuple[Tower, Tower]
) -> np.ndarray | None:
    """The regions of a text tower's tokens, from those of the image tower's; ``towers`` are the two."""
    import torch

    image, text = towers
    space = Space(image)

    black, white = read_states(
        sweep.runner,
        sweep.encoder.prepare([_with(stimulus, _picture(size, 0, at)) for at in (0, size[0])]),
        [space],
        None,
        "auto",
    )
    row = token_row(sweep.runner, black.encoded, text.name)
    middles = (seen[:, :2] + seen[:, 2:]) / 2
    depth = image.n_layers
    extents = []
    for axis in (0, 1):
        # Halfway between neighbouring patches, so that each step covers one more row or column of patches.
        known = np.unique(np.round(middles[np.isfinite(middles[:, axis]), axis], 3))
        steps = np.concatenate([[0.0], (known[:-1] + known[1:]) / 2, [1.0]])
        rows = []
        for start in range(0, len(steps), AT_ONCE):
            cells = []
            for step in steps[start : start + AT_ONCE]:
                tokens = torch.from_numpy(np.flatnonzero(middles[:, axis] < step))
                values = [white.activations[image.name][layer][tokens] for layer in range(depth)]
                cells.append(Cell(0, tuple(Swap(space, layer, tokens, values[layer]) for layer in range(depth))))
            items = [black.encoded] * len(cells)
            rows += _entering(sweep, items, lambda batch, c=cells: _behind(sweep, batch, black, c, text), towers)
        extents.append(_extent(rows, steps))
    found = _boxes(*extents)
    if found is None:
        return None
    found[~row.image] = np.nan
    return found


def _behind(sweep: Sweep, batch: Any, state: State, cells: Sequence[Cell], tower: Tower) -> torch.Tensor:
    """The input of a text tower when the image tower's outputs are patched as the cells say."""
    image = sweep.layouts.image_tower
    assert image is not None
    prefix: Prefix = sweep.media_prefix(batch, [state], cells, image)
    return sweep.engine.entering(batch.inputs, tower, _plan(batch, prefix))


def _entering(
    sweep: Sweep, items: list[Encoded], run: Callable[..., torch.Tensor], towers: Sequence[Tower]
) -> list[np.ndarray]:
    """The input of the last tower's first block at the tokens of each item, [token, dim]."""
    names = [tower.name for tower in towers]
    found = []
    groups = [items] if len(sweep.layouts.group(items, names)) == 1 else [[item] for item in items]
    for group in groups:
        batch = sweep.encoder.collate(group)
        flat = run(batch)
        spans, total = sweep.layouts.spans(batch, names[-1])
        if len(flat) != total:
            raise ModalnetError(
                f"the {names[-1]} tower has {len(flat)} positions at its input and {total} at the output of its blocks"
            )
        found += [flat[span.index].numpy() for span in spans]
    return found


def _extent(rows: list[np.ndarray], steps: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Per token, where on the edge's path its change starts and ends, each [token]; NaN without a change."""
    stacked = np.stack(rows)  # [step, token, dim]
    gone, left = (np.linalg.norm(stacked - stacked[end], axis=2) for end in (0, -1))
    whole = gone[-1]
    moved = whole > 1e-4 * max(float(np.abs(stacked).max()), 1e-12)
    starts, ends = np.full(len(whole), np.nan), np.full(len(whole), np.nan)
    for token in np.flatnonzero(moved):
        starts[token] = _crossing(gone[:, token] / whole[token], steps)
        ends[token] = (
            steps[0] + steps[-1] - _crossing(left[::-1, token] / whole[token], steps[0] + steps[-1] - steps[::-1])
        )
    return starts, ends


def _crossing(share: np.ndarray, steps: np.ndarray) -> float:
    """Where a change first exceeds the threshold, by linear interpolation."""
    after = int(np.argmax(share >= NOTICED))
    low, high = share[after - 1], share[after]
    return float(steps[after - 1] + (NOTICED - low) / (high - low) * (steps[after] - steps[after - 1]))


def _boxes(across: tuple[np.ndarray, np.ndarray], down: tuple[np.ndarray, np.ndarray]) -> np.ndarray | None:
    boxes = np.stack([across[0], down[0], across[1], down[1]], axis=1)
    wide = np.nanmedian(boxes[:, 2:] - boxes[:, :2], axis=0) if np.isfinite(boxes).any() else np.array([1.0, 1.0])
    if (wide > WIDEST).any():
        return None
    return np.clip(boxes, 0, 1)


def _steps(n_tokens: int, length: int) -> np.ndarray:
    count = int(np.clip(round(2 * n_tokens**0.5), FEWEST_STEPS, MOST_STEPS))
    return np.unique(np.round(np.linspace(0, length, count + 1)).astype(int))


def _picture(size: tuple[int, int], axis: int, edge: int) -> Any:
    """A black image that is white left of (or above) the edge."""
    from PIL import Image

    values = np.zeros((size[1], size[0], 3), dtype=np.uint8)
    if axis == 0:
        values[:, :edge] = 255
    else:
        values[:edge] = 255
    return Image.fromarray(values)


def _with(stimulus: Stimulus, picture: Any) -> Stimulus:
    from dataclasses import replace

    return replace(stimulus, image=picture)


def _encoded(sweep: Sweep, stimulus: Stimulus, picture: Any) -> Encoded:
    (prepared,) = sweep.encoder.prepare([_with(stimulus, picture)])
    return sweep.encoder.encode(prepared)


def _plan(batch: Any, *prefixes: Prefix) -> Plan:
    return Plan((), root=batch.root, prefixes=prefixes)


class ImageBoxes:
    """Where in its image each token looks, measured once per image size.

    Parameters
    ----------
    locate
        From a stimulus and the name of a space to what :func:`image_places` returns.
    """

    def __init__(self, locate: Callable[[Stimulus, str], Float[np.ndarray, "token 4"] | None]) -> None:
        self._locate = locate
        self._known: dict[object, Float[np.ndarray, "image_token 4"] | None] = {}

    def of(
        self, stimulus: Stimulus, space: str, is_image: Bool[np.ndarray, " token"]
    ) -> Float[np.ndarray, "token 4"] | None:
        """Return (left, top, right, bottom) per token, NaN outside the image; None where that is not known."""
        if stimulus.n_images != 1:
            return None
        key = space, stimulus.inspect().sizes, int(is_image.sum())
        if key not in self._known:
            found = self._locate(stimulus, space)
            self._known[key] = None if found is None or len(found) != len(is_image) else found[is_image]
        known = self._known[key]
        if known is None:
            return None
        boxes = np.full((len(is_image), 4), np.nan)
        boxes[is_image] = known
        return boxes


def boxes_and_pictures(
    locate: Callable[[Stimulus, str], Float[np.ndarray, "token 4"] | None],
    stimuli: Sequence[Stimulus],
    rows: Sequence[TokenRow],
    places: Sequence[Sequence[int]],
    tower: str,
) -> tuple[dict[int, Float[np.ndarray, "token 4"]], dict[int, np.ndarray]]:
    """Where in its picture each of some tokens of stimuli looks, and the pictures, for display.

    Parameters
    ----------
    locate
        As for :class:`ImageBoxes`.
    stimuli, rows, places
        The stimuli, their tokens, and which of these.
    tower
        Name of the tower.

    Returns
    -------
    boxes, pictures
        By index of the stimulus, ``[token, 4]`` and a thumbnail ``[height, width, 3]``; without stimuli where the
        places of tokens are not known, or none of these is an image token.
    """
    known = ImageBoxes(locate)
    boxes, pictures = {}, {}
    for index, (one, row, own) in enumerate(zip(stimuli, rows, places, strict=True)):
        found = known.of(one, tower, row.image) if row.image[list(own)].any() else None
        if found is not None:
            boxes[index] = found[list(own)]
            (picture,) = one.images()
            picture.thumbnail((THUMBNAIL, THUMBNAIL))
            pictures[index] = np.asarray(picture.convert("RGB"))
    return boxes, pictures
