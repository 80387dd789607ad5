"""Pictures that were painted for a network and for random units, and how each set of units responds to each of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float, Int, UInt8

from modalnet.results.result import Kept

if TYPE_CHECKING:
    import pandas as pd

    from modalnet.stimuli import Stimulus


@dataclass(frozen=True, eq=False)
class Natural:
    """How the sets of units respond to natural pictures.

    Attributes
    ----------
    response
        ``[set, stimulus]``.
    best
        ``[set]``: the stimulus with the largest response.
    labels
        Its label, per set.
    pictures
        ``[height, width, 3]`` per set: its picture, small.
    """

    response: Float[np.ndarray, "set stimulus"]
    best: Int[np.ndarray, " set"]
    labels: tuple[str, ...]
    pictures: tuple[UInt8[np.ndarray, "height width 3"], ...]


@dataclass(frozen=True, eq=False)
class Optimized(Kept):
    """The result of :func:`modalnet.features.optimize`.

    Sets and pictures are in one order: the network, then the controls; picture i was painted for set i.

    Attributes
    ----------
    model
        Its name.
    units
        Per set, (tower, layer, dim) of each unit.
    tokens
        Per tower, which tokens an activation is the mean over.
    magnitude
        ``"absolute"`` or ``"signed"``.
    scaled
        Whether each unit is divided by its mean \\|activation\\| before the mean over units.
    match
        What controls share with the network.
    settings
        Steps, learning rate, jitter, rotation and scale, weight of the total variation, colour, seed.
    text
        What the model read with the picture.
    frame
        (height, width) of the pictures that the processor takes, and the box (top, left, bottom, right) in them that
        the model sees.
    pictures
        ``[picture, height, width, 3]``: what the model sees, 8 bits.
    path
        ``[picture, step]``: the response on the way, to the shaken picture.
    response
        ``[set, picture]``: to the finished pictures, read like any stimulus.
    natural
        The same for natural pictures; None where none were given.
    """

    NAME = "optimized pictures"
    FORMAT = "modalnet.optimized"

    model: str
    units: tuple[tuple[tuple[str, int, int], ...], ...]
    tokens: dict[str, Any]
    magnitude: str
    scaled: bool
    match: str
    settings: dict[str, Any]
    text: str | None
    frame: tuple[tuple[int, int], tuple[int, int, int, int]]
    pictures: UInt8[np.ndarray, "picture height width 3"]
    path: Float[np.ndarray, "picture step"]
    response: Float[np.ndarray, "set picture"]
    natural: Natural | None = None

    def name(self, place: int) -> str:
        """What a set is called."""
        if place:
            return f"control {place}"
        if len(self.units[0]) > 1:
            return f"network ({len(self.units[0])} units)"
        ((tower, layer, dim),) = self.units[0]
        return f"{tower}[{layer}, {dim}]"

    def stimulus(self, picture: int = 0) -> Stimulus:
        """A stimulus of which the model sees a picture as it was optimized: with a border where its processor crops."""
        from modalnet.stimuli.stimulus import Stimulus

        size, (top, left, bottom, right) = self.frame
        whole = np.full((*size, 3), 128, dtype=np.uint8)
        whole[top:bottom, left:right] = self.pictures[picture]
        return Stimulus(self.text, image=whole, id=f"optimized for {self.name(picture)}")

    def table(self) -> pd.DataFrame:
        """One row per set.

        ``start`` is the response at the first step and ``reached`` that to its own finished picture; ``others`` the
        mean response to the pictures of the other sets. Beside them ``natural`` (mean), ``natural_sd``,
        ``natural_best`` and ``times_best``, reached over best.
        """
        import pandas as pd

        rows = []
        for place, own in enumerate(self.response):
            row: dict[str, Any] = {
                "set": self.name(place),
                "units": len(self.units[place]),
                "start": self.path[place, 0],
                "reached": own[place],
                "others": np.delete(own, place).mean() if len(own) > 1 else np.nan,
            }
            if self.natural is not None:
                values = self.natural.response[place]
                row |= {
                    "natural": values.mean(),
                    "natural_sd": values.std(ddof=1) if len(values) > 1 else np.nan,
                    "natural_best": values.max(),
                    "best": self.natural.labels[place],
                    "times_best": own[place] / values.max(),
                }
            rows.append(row)
        return pd.DataFrame(rows)

    def summary(self) -> str:
        """What matters, to be printed."""
        lines = [
            f"pictures for {self.model}, {self.settings['steps']} steps; response: mean {self.magnitude} activation"
        ]
        if self.scaled:
            lines[0] += " in units of each unit's usual size"
        for row in self.table().to_dict("records"):
            text = f"  {row['set']}: {row['reached']:.3g} from {row['start']:.3g}"
            if self.natural is not None:
                text += (
                    f"; natural pictures {row['natural']:.3g}, the best ({row['best']}) {row['natural_best']:.3g}: "
                    f"{row['times_best']:.2f} times that"
                )
            if np.isfinite(row["others"]):
                text += f"; to the pictures of other sets {row['others']:.3g}"
            lines.append(text)
        return "\n".join(lines)

    def plot(self, **options: Any) -> Any:
        """Draw the pictures beside the best natural ones: see :func:`modalnet.plotting.features.optimized`."""
        from modalnet.plotting.features import optimized

        return optimized(self, **options)

    def __repr__(self) -> str:
        height, width = self.pictures.shape[1:3]
        return f"Optimized({self.name(0)} and {len(self.units) - 1} controls of {self.model}, {height}x{width} pixels)"

    # -- files -------------------------------------------------------------------------------------------------------

    def _content(self) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        arrays = {"pictures": self.pictures, "path": self.path, "response": self.response}
        if self.natural is not None:
            arrays |= {"natural/response": self.natural.response, "natural/best": self.natural.best}
            arrays |= {f"natural/picture/{i}": picture for i, picture in enumerate(self.natural.pictures)}
        document = {
            "model": self.model,
            "units": [[list(unit) for unit in own] for own in self.units],
            "tokens": {tower: one if isinstance(one, str) else list(one) for tower, one in self.tokens.items()},
            "magnitude": self.magnitude,
            "scaled": self.scaled,
            "match": self.match,
            "settings": self.settings,
            "text": self.text,
            "frame": [list(part) for part in self.frame],
            "labels": None if self.natural is None else list(self.natural.labels),
        }
        return arrays, document

    @classmethod
    def _from_content(cls, arrays: Mapping[str, np.ndarray], document: Mapping[str, Any]) -> Optimized:
        natural, labels = None, document["labels"]
        if labels is not None:
            pictures = tuple(arrays[f"natural/picture/{i}"] for i in range(len(labels)))
            natural = Natural(arrays["natural/response"], arrays["natural/best"], tuple(labels), pictures)
        (height, width), (top, left, bottom, right) = document["frame"]
        return cls(
            document["model"],
            tuple(tuple((tower, layer, dim) for tower, layer, dim in own) for own in document["units"]),
            {tower: one if isinstance(one, str) else tuple(one) for tower, one in document["tokens"].items()},
            document["magnitude"],
            document["scaled"],
            document["match"],
            document["settings"],
            document["text"],
            ((height, width), (top, left, bottom, right)),
            arrays["pictures"],
            arrays["path"],
            arrays["response"],
            natural,
        )
