"""What attention maps hold: weights between two groups of tokens, and what share of the attention they are."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float, Int

from modalnet._validation import check_int
from modalnet.errors import InputError
from modalnet.results.result import Labelled, Result

if TYPE_CHECKING:
    import pandas as pd

#: Layers that a summary names.
SHOWN = 3
_FIELDS = ("model", "tower", "source", "target")
_LISTS = ("interventions", "labels", "layers", "heads")


@dataclass(frozen=True, eq=False)
class AttentionMaps(Result):
    """The result of :func:`modalnet.features.attention_maps`.

    Attributes
    ----------
    model, tower
        Name of the model, and of the tower whose attention it is.
    interventions
        Under which the model ran.
    source, target
        The tokens that are attended to, and those that attend to them, in words.
    labels
        Labels of the stimuli.
    layers, heads
        The layers and heads that were read; no heads where the mean over them was.
    weights
        Per stimulus ``[layer, head, target, source]``, between 0 and 1: how much a target attends to a source. Where
        the mean over heads was read, there is one entry along the axis ``head``. NaN for heads that a layer with fewer
        does not have.
    sources, targets
        Per stimulus, the positions of these tokens among its own.
    source_names, target_names
        Per stimulus, what they read.
    n_tokens
        ``[stimulus]``: number of all its tokens in the tower.
    boxes
        By stimulus ``[source, 4]``: the part of the picture that each source covers (left, top, right, bottom, as
        shares of it); NaN where it is no image token. Stimuli where that is not known are not among them.
    pictures
        By stimulus, its picture as a thumbnail, where there are boxes.
    """

    NAME = "attention maps"
    FORMAT = "modalnet.attention_maps"
    SOURCES = ("caron2021", "jain2019")

    model: str
    tower: str
    interventions: tuple[str, ...]
    source: str
    target: str
    labels: tuple[str, ...]
    layers: tuple[int, ...]
    heads: tuple[int, ...]
    weights: tuple[Float[np.ndarray, "layer head target source"], ...]
    sources: tuple[Int[np.ndarray, " source"], ...]
    targets: tuple[Int[np.ndarray, " target"], ...]
    source_names: tuple[tuple[str, ...], ...]
    target_names: tuple[tuple[str, ...], ...]
    n_tokens: Int[np.ndarray, " stimulus"]
    boxes: dict[int, Float[np.ndarray, "source 4"]] = field(default_factory=dict)
    pictures: dict[int, np.ndarray] = field(default_factory=dict)

    @cached_property
    def share(self) -> Float[np.ndarray, "stimulus layer head"]:
        """How much of the targets' attention goes to all sources together, ``[stimulus, layer, head]``, from 0 to 1.

        The mean over targets; the rest goes to other tokens.
        """
        return np.stack([weights.astype(np.float64).sum(-1).mean(-1) for weights in self.weights])

    @property
    def fraction(self) -> Float[np.ndarray, " stimulus"]:
        """The number of sources over that of all tokens: what the share would be if all got equally much."""
        return np.array([len(places) for places in self.sources]) / self.n_tokens

    def map(self, stimulus: int = 0, layer: int | None = None, head: int | None = None) -> Float[np.ndarray, " source"]:
        """Return how much attention each source gets, the mean over targets.

        Parameters
        ----------
        stimulus
            Index of the stimulus.
        layer, head
            One of those that were read; None for the mean over all.

        Raises
        ------
        InputError
            For a stimulus, layer or head that was not read.
        """
        check_int("stimulus", stimulus, minimum=0, maximum=len(self.labels) - 1)
        weights = self.weights[stimulus].astype(np.float64)
        if layer is not None:
            if layer not in self.layers:
                raise InputError(
                    f"`layer` must be one of those that were read, {list(self.layers)}, got {layer!r:.50}."
                )
            weights = weights[[self.layers.index(layer)]]
        if head is not None:
            if head not in self.heads:
                known = (
                    f"one of those that were read, {list(self.heads)}" if self.heads else "None for the mean over heads"
                )
                raise InputError(
                    f'`head` must be {known}, got {head!r:.50}. Read with heads="each" or numbers of heads.'
                )
            weights = weights[:, [self.heads.index(head)]]
        found: np.ndarray = np.nanmean(weights, axis=(0, 1, 2))
        return found

    def table(self) -> pd.DataFrame:
        """Return one row per stimulus, layer and head.

        Columns stimulus, label, tower, layer, head ("mean" for the mean over heads), n_sources, n_targets, share (of
        the targets' attention that goes to the sources) and fraction (of tokens that are sources). The weights
        themselves are in :meth:`to_frame`.
        """
        import pandas as pd

        rows = [
            {
                "stimulus": index,
                "label": self.labels[index],
                "tower": self.tower,
                "layer": self.layers[place],
                "head": self.heads[head] if self.heads else "mean",
                "n_sources": len(self.sources[index]),
                "n_targets": len(self.targets[index]),
                "share": self.share[index, place, head],
                "fraction": self.fraction[index],
            }
            for index, place, head in np.ndindex(*self.share.shape)
        ]
        return pd.DataFrame(rows)

    def summary(self) -> str:
        """Return as text which layers attend to the sources most, and what that does not show."""
        under = f", under {', '.join(self.interventions)}" if self.interventions else ""
        share = np.nanmean(self.share, axis=(0, 2))
        order = np.argsort(-share)[:SHOWN]
        most = ", ".join(f"{share[place]:.1%} in layer {self.layers[place]}" for place in order)
        heads = f"heads {', '.join(map(str, self.heads))}" if self.heads else "mean over heads"
        lines = [
            f"{self.model}: attention of the {self.tower} tower from {self.target} to {self.source}, "
            f"{len(self.labels)} stimuli, {len(self.layers)} layers, {heads}{under}",
            f"  share of the attention: {np.nanmean(share):.1%} over all layers; most {most}",
            f"  sources are {self.fraction.mean():.1%} of all tokens",
        ]
        if len(self.heads) > 1:
            by_head = np.nanmean(self.share, axis=0)
            layer, head = np.unravel_index(int(np.nanargmax(by_head)), by_head.shape)
            lines.append(
                f"  most in one head: {by_head[layer, head]:.1%}, layer {self.layers[layer]}, head {self.heads[head]}"
            )
        lines.append(
            "  Attention shows where tokens read, not what the answer needs: test it with modalnet.knockout or "
            "modalnet.information_flow."
        )
        return "\n".join(lines)

    def plot(self, **options: Any) -> Any:
        """Draw the attention over the picture of a stimulus (:func:`modalnet.plotting.attention_picture`).

        Parameters
        ----------
        **options
            ``stimulus=0``; ``layer=``: a number, None for the mean over layers or ``"grid"`` for one panel per layer;
            ``head=``: a number, or None for the mean over those that were read; ``ax``.
        """
        from modalnet.plotting.attention import attention_picture

        return attention_picture(self, **options)

    # -- files -------------------------------------------------------------------------------------------------------

    def _labelled(self) -> tuple[Labelled, Labelled]:
        axes = ("stimulus", "layer", "head", "target", "source")
        shape = [max(weights.shape[axis] for weights in self.weights) for axis in (2, 3)]
        filled = np.full((*self.share.shape, *shape), np.nan, dtype=np.float32)
        names = {
            end: np.full((len(self.labels), size), "", dtype=object) for end, size in zip(axes[3:], shape, strict=True)
        }
        places = {end: np.full(names[end].shape, -1) for end in names}
        ends = {"target": (self.targets, self.target_names), "source": (self.sources, self.source_names)}
        for index, weights in enumerate(self.weights):
            filled[index, ..., : weights.shape[2], : weights.shape[3]] = weights
            for end, (positions, read) in ends.items():
                names[end][index, : len(read[index])] = read[index]
                places[end][index, : len(read[index])] = positions[index]
        arrays: Labelled = {"weight": (axes, filled), "share": (axes[:3], self.share)}
        arrays |= {f"{end}_name": (("stimulus", end), names[end]) for end in names}
        arrays |= {f"{end}_position": (("stimulus", end), places[end]) for end in names}
        coordinates: Labelled = {
            "stimulus": (("stimulus",), np.arange(len(self.labels))),
            "label": (("stimulus",), list(self.labels)),
            "layer": (("layer",), list(self.layers)),
            "head": (("head",), list(self.heads) or ["mean"]),
        }
        return arrays, coordinates

    def _content(self) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        arrays: dict[str, np.ndarray] = {"n_tokens": self.n_tokens}
        for index, weights in enumerate(self.weights):
            arrays[f"weights/{index}"] = np.ascontiguousarray(weights)
            arrays[f"sources/{index}"], arrays[f"targets/{index}"] = self.sources[index], self.targets[index]
        arrays |= {f"boxes/{index}": each for index, each in self.boxes.items()}
        arrays |= {f"picture/{index}": each for index, each in self.pictures.items()}
        document: dict[str, Any] = {name: getattr(self, name) for name in _FIELDS}
        document |= {name: list(getattr(self, name)) for name in _LISTS}
        document |= {name: [list(each) for each in getattr(self, name)] for name in ("source_names", "target_names")}
        return arrays, document

    @classmethod
    def _from_content(cls, arrays: Mapping[str, np.ndarray], document: Mapping[str, Any]) -> AttentionMaps:
        values: dict[str, Any] = {name: document[name] for name in _FIELDS}
        values |= {name: tuple(document[name]) for name in _LISTS}
        values |= {name: tuple(map(tuple, document[name])) for name in ("source_names", "target_names")}
        for name in ("weights", "sources", "targets"):
            values[name] = tuple(arrays[f"{name}/{index}"] for index in range(len(document["labels"])))
        return cls(
            **values,
            n_tokens=arrays["n_tokens"],
            boxes=_by_number(arrays, "boxes"),
            pictures=_by_number(arrays, "picture"),
        )

    def __repr__(self) -> str:
        return (
            f"AttentionMaps({self.model}: {self.target} to {self.source} in the {self.tower}, {len(self.labels)} "
            f"stimuli, {len(self.layers)} layers)"
        )


def _by_number(arrays: Mapping[str, np.ndarray], name: str) -> dict[int, np.ndarray]:
    """Arrays of which not every stimulus has one."""
    return {int(key.split("/")[1]): each for key, each in arrays.items() if key.startswith(f"{name}/")}
