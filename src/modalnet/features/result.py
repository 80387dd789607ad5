"""What drives units most: the stimuli, how much, and where in them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float, Int

from modalnet.errors import InputError
from modalnet.results.result import Kept

if TYPE_CHECKING:
    import pandas as pd

    from modalnet.stimuli import Stimulus

#: The row of the network, beside those of its units from 0.
NETWORK = -1
# Pictures are saved no larger than this; they are looked at, not run.
THUMBNAIL = 224


@dataclass(eq=False)
class Shown:
    """The best stimuli token by token.

    Attributes
    ----------
    tokens
        (tower, index of the stimulus) → the name of each of its tokens.
    boxes
        (tower, index) → ``[token, 4]``: where in the picture each looks (left, top, right, bottom, as shares of it);
        NaN for tokens of no picture. Absent where that is not known.
    shades
        (tower, row, rank) → ``[token]``: activation at each token; a network's is the mean over its units of that
        tower.
    """

    tokens: dict[tuple[str, int], tuple[str, ...]] = field(default_factory=dict)
    boxes: dict[tuple[str, int], Float[np.ndarray, "token 4"]] = field(default_factory=dict)
    shades: dict[tuple[str, int, int], Float[np.ndarray, " token"]] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class TopStimuli(Kept):
    """The result of :func:`modalnet.features.top_stimuli` and :func:`modalnet.features.top_tokens`.

    A file of it holds small copies of its pictures.

    Attributes
    ----------
    model
        Its name.
    units
        (tower, layer, dim) of each unit.
    tokens
        Per tower, which tokens an activation is the mean over.
    magnitude
        ``"absolute"`` or ``"signed"``.
    bottom
        Whether these are the stimuli that drive units least.
    scaled
        Whether, in the network's response, each unit is divided by its mean \\|activation\\|.
    n_stimuli
        How many stimuli were looked at.
    index
        ``[unit, n]``: places of the stimuli in what was given (token ids, for :func:`modalnet.features.top_tokens`),
        the most extreme first; -1 where there are fewer than n.
    activation
        ``[unit, n]``: the unit's activation, or its size.
    network_index, network_activation
        ``[n]``: the same for the mean over the units.
    stimuli
        Index → stimulus, of all that are named above.
    shown
        The same stimuli token by token.
    """

    NAME = "top stimuli"
    FORMAT = "modalnet.top_stimuli"

    model: str
    units: tuple[tuple[str, int, int], ...]
    tokens: dict[str, Any]
    magnitude: str
    bottom: bool
    scaled: bool
    n_stimuli: int
    index: Int[np.ndarray, "unit n"]
    activation: Float[np.ndarray, "unit n"]
    network_index: Int[np.ndarray, " n"]
    network_activation: Float[np.ndarray, " n"]
    stimuli: dict[int, Stimulus]
    shown: Shown = field(default_factory=Shown)

    @property
    def n(self) -> int:
        """How many stimuli there are per unit."""
        return self.index.shape[1]

    def row(self, row: int) -> tuple[Int[np.ndarray, " n"], Float[np.ndarray, " n"]]:
        """Index and activation ``[n]`` of a unit, by its place in :attr:`units`, or of the network (-1)."""
        if row == NETWORK:
            return self.network_index, self.network_activation
        if isinstance(row, bool) or not 0 <= row < len(self.units):
            raise InputError(f"row {row!r}: there are units 0..{len(self.units) - 1}, and {NETWORK} for the network.")
        return self.index[row], self.activation[row]

    def name(self, row: int) -> str:
        """What a row is called."""
        if row == NETWORK:
            return f"network ({len(self.units)} units)"
        tower, layer, dim = self.units[row]
        return f"{tower}[{layer}, {dim}]"

    def share(self, conditions: str | Iterable[str]) -> Float[np.ndarray, " unit"]:
        """``[unit]``: the share of each unit's stimuli that are of one of these conditions.

        Raises
        ------
        InputError
            Where the stimuli carry no conditions.
        """
        wanted = {conditions} if isinstance(conditions, str) else set(conditions)
        of = {index: stimulus.condition for index, stimulus in self.stimuli.items()}
        if not any(of.values()):
            raise InputError("These stimuli carry no conditions, so nothing can be counted; give Stimulus(condition=).")
        hits = np.array([[index >= 0 and of[int(index)] in wanted for index in row] for row in self.index])
        return hits.sum(1) / np.maximum((self.index >= 0).sum(1), 1)

    def table(self) -> pd.DataFrame:
        """One row per unit and rank, the network's first: tower, layer, dim (None), activation, and which stimulus."""
        import pandas as pd

        rows = []
        for row in range(NETWORK, len(self.units)):
            tower, layer, dim = (None, None, None) if row == NETWORK else self.units[row]
            for rank, (index, activation) in enumerate(zip(*self.row(row), strict=True)):
                if index < 0:
                    continue
                stimulus = self.stimuli[int(index)]
                rows.append(
                    {
                        "unit": self.name(row),
                        "tower": tower,
                        "layer": layer,
                        "dim": dim,
                        "rank": rank + 1,
                        "activation": float(activation),
                        "stimulus": int(index),
                        "label": stimulus.label,
                        "condition": stimulus.condition,
                    }
                )
        return pd.DataFrame(rows).astype({"layer": "Int64", "dim": "Int64"})

    def plot(self, **options: Any) -> Any:
        """Draw the stimuli, shaded by activation: see :func:`modalnet.plotting.features.top_stimuli`."""
        from modalnet.plotting.features import top_stimuli

        return top_stimuli(self, **options)

    def __repr__(self) -> str:
        what = "bottom" if self.bottom else "top"
        return f"TopStimuli({what} {self.n} of {self.n_stimuli} for {len(self.units)} units of {self.model})"

    # -- files -------------------------------------------------------------------------------------------------------

    def _content(self) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        arrays = {
            "index": self.index,
            "activation": self.activation,
            "network/index": self.network_index,
            "network/activation": self.network_activation,
        }
        described = []
        for index, stimulus in self.stimuli.items():
            for place, picture in enumerate(stimulus.images()):
                picture.thumbnail((THUMBNAIL, THUMBNAIL))
                arrays[f"picture/{index}/{place}"] = np.asarray(picture)
            described.append([index, stimulus.text, stimulus.condition, stimulus.label, stimulus.n_images])
        arrays |= {f"box/{tower}/{index}": boxes for (tower, index), boxes in self.shown.boxes.items()}
        arrays |= {f"shade/{t}/{row}/{rank}": values for (t, row, rank), values in self.shown.shades.items()}
        document = {
            "model": self.model,
            "units": [list(unit) for unit in self.units],
            "tokens": {tower: one if isinstance(one, str) else list(one) for tower, one in self.tokens.items()},
            "magnitude": self.magnitude,
            "bottom": self.bottom,
            "scaled": self.scaled,
            "n_stimuli": self.n_stimuli,
            "stimuli": described,
            "names": json.dumps([[*key, list(names)] for key, names in self.shown.tokens.items()]),
        }
        return arrays, document

    @classmethod
    def _from_content(cls, arrays: Mapping[str, np.ndarray], document: Mapping[str, Any]) -> TopStimuli:
        from modalnet.stimuli.stimulus import Stimulus

        stimuli = {
            index: Stimulus(text, [arrays[f"picture/{index}/{i}"] for i in range(images)] or None, condition, label)
            for index, text, condition, label, images in document["stimuli"]
        }
        parts = [(name.split("/"), array) for name, array in arrays.items()]
        shown = Shown(
            {(tower, index): tuple(names) for tower, index, names in json.loads(document["names"])},
            {(name[1], int(name[2])): array for name, array in parts if name[0] == "box"},
            {(name[1], int(name[2]), int(name[3])): array for name, array in parts if name[0] == "shade"},
        )
        return cls(
            document["model"],
            tuple((tower, layer, dim) for tower, layer, dim in document["units"]),
            {tower: one if isinstance(one, str) else tuple(one) for tower, one in document["tokens"].items()},
            document["magnitude"],
            document["bottom"],
            document["scaled"],
            document["n_stimuli"],
            arrays["index"],
            arrays["activation"],
            arrays["network/index"],
            arrays["network/activation"],
            stimuli,
            shown,
        )
