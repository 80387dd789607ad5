"""Stimuli highlighted by activation: image patches and words on a colour whose opacity is the activation.

Opacity begins at the median over all tokens of a row and is strongest at the maximum.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from modalnet.models.towers import modality_of
from modalnet.plotting.layers import SMALL, TEXT

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from modalnet.features.result import TopStimuli

COLOUR = (0.902, 0.624, 0.0)
MAX_OPACITY = 0.8
LINE_WIDTH = 96  # characters
GAP = 0.4  # between tokens, in characters
CHARACTER = 0.602  # width of a character of matplotlib's monospaced font, in font sizes
NUMBER_WIDTH = 10  # characters


@dataclass(frozen=True)
class Opacity:
    """The scale from activation to colour."""

    start: float
    span: float

    @classmethod
    def of(cls, result: TopStimuli, row: int) -> Opacity:
        """Make the scale of one row; the first token of a text, in most decoders an attention sink, is left out."""
        parts = [
            values if modality_of(space) == "image" else values[1:]
            for (space, of_row, _), values in result.token_activations.activations.items()
            if of_row == row
        ]
        values = np.concatenate([part for part in parts if len(part)] or [np.zeros(1)])
        start = float(np.median(values))
        return cls(start, max(float(values.max()) - start, 1e-12))

    def colour(self, activation: float) -> tuple[float, float, float, float]:
        """Return the colour of an activation, with its opacity."""
        return (*COLOUR, MAX_OPACITY * min(max((float(activation) - self.start) / self.span, 0.0), 1.0))


def draw_image(ax: Axes, result: TopStimuli, row: int, rank: int, opacity: Opacity | None) -> None:
    """Draw one image, its patches highlighted."""
    index = int(result.row(row)[0][rank])
    image = np.asarray(result.stimuli[index].images()[0])
    ax.imshow(image)
    if opacity is None:
        return
    height, width = image.shape[:2]
    for (space, stimulus), boxes in result.token_activations.boxes.items():
        values = result.token_activations.activations.get((space, row, rank))
        if stimulus != index or values is None:
            continue
        overlay = np.zeros((height, width, 4))
        for box, value in zip(boxes, values, strict=True):
            if np.isfinite(box).all():
                left, top, right, bottom = np.round(box * [width, height, width, height]).astype(int)
                overlay[top:bottom, left:right] = opacity.colour(value)
        ax.imshow(overlay)


def draw_texts(ax: Axes, result: TopStimuli, row: int, ranks: Sequence[int], opacity: Opacity | None) -> None:
    """Draw texts below each other, their words highlighted."""
    from matplotlib.patches import Rectangle

    ax.set_axis_off()
    ax.set_title(result.name(row), fontsize=TEXT, loc="left")
    character = CHARACTER * SMALL / ax.get_window_extent().width * ax.figure.dpi / 72  # in widths of the axes
    ax.set_xlim(0, 1)
    for rank in ranks:
        index, activation = (values[rank] for values in result.row(row))
        ax.text(0, rank + 0.5, f"{activation:8.3g}", family="monospace", fontsize=SMALL, va="center", color="#555555")
        words = None if opacity is None else _words(result, row, rank, int(index))
        stimulus = result.stimuli[int(index)]
        x = NUMBER_WIDTH * character
        for word, value in words or [(escaped(stimulus.text or stimulus.label), 0.0)]:
            width = len(word) * character
            if opacity is not None and words is not None:
                colour = opacity.colour(value)
                ax.add_patch(Rectangle((x, rank + 0.08), width, 0.84, facecolor=colour, linewidth=0, clip_on=True))
            # Dollar signs would begin a formula.
            ax.text(
                x, rank + 0.5, word, family="monospace", fontsize=SMALL, va="center", parse_math=False, clip_on=True
            )
            x += width + GAP * character


def _words(result: TopStimuli, row: int, rank: int, index: int) -> list[tuple[str, float]] | None:
    """Tokens of a text and their activations, around the strongest; None where they were not measured."""
    shown = result.token_activations
    for space, of_row, of_rank in shown.activations:
        if (of_row, of_rank) == (row, rank) and modality_of(space) != "image":
            pairs = zip(shown.tokens[space, index], shown.activations[space, row, rank], strict=True)
            return around_strongest([(escaped(name), float(value)) for name, value in pairs], LINE_WIDTH)
    return None


def around_strongest(words: list[tuple[str, float]], width: int) -> list[tuple[str, float]]:
    """Return the longest run of words that fits on a line and has the strongest word in its middle."""
    if sum(len(word) + GAP for word, _ in words) <= width:
        return words
    first = last = 1 + int(np.argmax([value for _, value in words[1:]])) if len(words) > 1 else 0
    size = len(words[first][0])
    while True:
        before = len(words[first - 1][0]) if first else width
        after = len(words[last + 1][0]) if last + 1 < len(words) else width
        if size + min(before, after) > width:
            return words[first : last + 1]
        # Both sides grow in turn, so that the strongest stays in the middle.
        if before <= width - size and (len(words) - last <= first or size + after > width):
            first, size = first - 1, size + before
        else:
            last, size = last + 1, size + after


def escaped(word: str) -> str:
    """Write line breaks and tabs as escapes."""
    return word.replace("\n", "\\n").replace("\t", "\\t")
