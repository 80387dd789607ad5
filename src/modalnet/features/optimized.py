"""Images optimized for a network and for random units, and the response of each set of units to each image."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float, Int, UInt8

from modalnet.results.result import Labelled, Result
from modalnet.stats.controls import match_sentence

if TYPE_CHECKING:
    import pandas as pd

    from modalnet.stimuli import Stimulus


@dataclass(frozen=True, eq=False)
class Natural:
    """The responses of the sets of units to natural images.

    Attributes
    ----------
    response
        ``[set, stimulus]``.
    best
        ``[set]``: index of the stimulus with the largest response.
    labels
        Its label, per set.
    pictures
        Its image as a thumbnail ``[height, width, 3]``, per set.
    """

    response: Float[np.ndarray, "set stimulus"]
    best: Int[np.ndarray, " set"]
    labels: tuple[str, ...]
    pictures: tuple[UInt8[np.ndarray, "height width 3"], ...]


@dataclass(frozen=True, eq=False)
class Optimized(Result):
    """The result of :func:`modalnet.features.optimize`.

    Sets and images are in one order: the network, then the controls. Image i was optimized for set i.

    Attributes
    ----------
    model
        Its name.
    units
        Per set, (space, layer, index) of each unit.
    tokens
        Per space, the token positions that an activation is the mean over.
    magnitude
        ``"absolute"`` or ``"signed"``.
    scaled
        Whether each unit is divided by its mean absolute activation before the mean over units.
    match
        What the controls share with the network.
    settings
        Steps, learning rate, jitter, rotation and scale, weight of the total variation, colour, seed.
    text
        The text that accompanies the image.
    frame
        (height, width) of the image that the processor takes, and the box (top, left, bottom, right) of it that the
        model sees.
    pictures
        ``[image, height, width, 3]``: the optimized images as the model sees them, uint8.
    path
        ``[image, step]``: the response to the transformed image at each step.
    response
        ``[set, image]``: the response to the finished images, read like any stimulus.
    natural
        The responses to natural images; None if none were given.
    match_ratios
        ``[control]``: how well each control matches the network in activation (see
        :func:`modalnet.stats.controls.match_ratios`); empty in files of modalnet 0.1.
    """

    NAME = "optimized images"
    FORMAT = "modalnet.optimized"
    SOURCES = ("olah2017",)

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
    match_ratios: Float[np.ndarray, " control"] = field(default_factory=lambda: np.zeros(0))

    def name(self, index: int) -> str:
        """Return the label of a set."""
        if index:
            return f"control {index}"
        if len(self.units[0]) > 1:
            return f"network ({len(self.units[0])} units)"
        ((space, layer, dim),) = self.units[0]
        return f"{space}[{layer}, {dim}]"

    def stimulus(self, picture: int = 0) -> Stimulus:
        """Return a stimulus whose image the model sees as it was optimized, with a border that its processor crops."""
        from modalnet.stimuli.stimulus import Stimulus

        size, (top, left, bottom, right) = self.frame
        whole = np.full((*size, 3), 128, dtype=np.uint8)
        whole[top:bottom, left:right] = self.pictures[picture]
        return Stimulus(self.text, image=whole, id=f"optimized for {self.name(picture)}")

    def table(self) -> pd.DataFrame:
        """Return one row per set.

        ``start`` is the response at the first step, ``reached`` the response to the set's own finished image, and
        ``others`` the mean response to the images of the other sets. With natural images also ``natural`` (mean),
        ``natural_sd``, ``natural_best`` and ``times_best``, the ratio of ``reached`` to ``natural_best``.
        ``match_ratio`` is the mean |activation| of a control's units over that of the network's; NaN where unknown.
        """
        import pandas as pd

        rows = []
        for index, responses in enumerate(self.response):
            row: dict[str, Any] = {
                "set": self.name(index),
                "units": len(self.units[index]),
                "start": self.path[index, 0],
                "reached": responses[index],
                "others": np.delete(responses, index).mean() if len(responses) > 1 else np.nan,
                "match_ratio": self.match_ratios[index - 1] if 0 < index <= len(self.match_ratios) else np.nan,
            }
            if self.natural is not None:
                values = self.natural.response[index]
                row |= {
                    "natural": values.mean(),
                    "natural_sd": values.std(ddof=1) if len(values) > 1 else np.nan,
                    "natural_best": values.max(),
                    "best": self.natural.labels[index],
                    "times_best": responses[index] / values.max(),
                }
            rows.append(row)
        return pd.DataFrame(rows)

    def summary(self) -> str:
        """Return the responses of all sets as text."""
        lines = [
            f"images optimized for {self.model} in {self.settings['steps']} steps; response: mean {self.magnitude} "
            "activation"
        ]
        if self.scaled:
            lines[0] += ", each unit relative to its mean absolute activation"
        for row in self.table().to_dict("records"):
            text = f"  {row['set']}: {row['reached']:.3g}, from {row['start']:.3g} at the start"
            if self.natural is not None:
                text += (
                    f"; natural images {row['natural']:.3g} on average, best ({row['best']}) {row['natural_best']:.3g}"
                    f"; ratio to best {row['times_best']:.2f}"
                )
            if np.isfinite(row["others"]):
                text += f"; images of the other sets {row['others']:.3g}"
            lines.append(text)
        matched = match_sentence(self.match_ratios, self.match)
        lines += [f"  {matched}"] if matched else []
        return "\n".join(lines)

    def _labelled(self) -> tuple[Labelled, Labelled]:
        names = [self.name(place) for place in range(len(self.response))]
        arrays: Labelled = {
            "response": (("set", "image"), self.response),
            "path": (("image", "step"), self.path),
            "pixels": (("image", "row", "column", "channel"), self.pictures),
        }
        coordinates: Labelled = {
            "units_of": (("set",), names),
            "optimized_for": (("image",), names[: len(self.pictures)]),
        }
        return arrays, coordinates

    def plot(self, **options: Any) -> np.ndarray:
        """Draw the images beside the best natural ones; see :func:`modalnet.plotting.features.optimized`."""
        from modalnet.plotting.features import optimized

        return optimized(self, **options)

    def __repr__(self) -> str:
        height, width = self.pictures.shape[1:3]
        return f"Optimized({self.name(0)} and {len(self.units) - 1} controls of {self.model}, {height}x{width} pixels)"

    # -- files -------------------------------------------------------------------------------------------------------

    def _content(self) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        arrays = {"pictures": self.pictures, "path": self.path, "response": self.response}
        arrays["match_ratios"] = np.asarray(self.match_ratios, dtype=np.float64)
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
            arrays.get("match_ratios", np.zeros(0)),
        )
