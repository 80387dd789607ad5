"""The maximally activating stimuli of units: which, how strongly, and where in them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float, Int

from modalnet._deprecation import renamed
from modalnet.errors import InputError
from modalnet.results.result import Labelled, Result

if TYPE_CHECKING:
    import pandas as pd

    from modalnet.stimuli import Stimulus

#: The row of the network; those of its units count from 0.
NETWORK = -1
# Images are saved as thumbnails: they are for display.
THUMBNAIL = 224


@dataclass(eq=False)
class TokenActivations:
    """The maximally activating stimuli token by token.

    Attributes
    ----------
    tokens
        (space, index of the stimulus), then the name of each of its tokens.
    boxes
        (space, index), then ``[token, 4]``: the part of the image that each token covers (left, top, right, bottom, as
        fractions of the image); NaN for tokens that are not of an image. Absent if unknown.
    activations
        (space, row, rank), then ``[token]``: the activation at each token; for the network, the mean over its units in
        that space.
    """

    tokens: dict[tuple[str, int], tuple[str, ...]] = field(default_factory=dict)
    boxes: dict[tuple[str, int], Float[np.ndarray, "token 4"]] = field(default_factory=dict)
    activations: dict[tuple[str, int, int], Float[np.ndarray, " token"]] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class TopStimuli(Result):
    """The result of :func:`modalnet.features.top_stimuli` and :func:`modalnet.features.top_tokens`.

    A saved result holds thumbnails of its images.

    Attributes
    ----------
    model
        Its name.
    units
        (space, layer, index) of each unit.
    tokens
        Per space, the token positions that an activation is the mean over.
    magnitude
        ``"absolute"`` or ``"signed"``.
    bottom
        Whether these are the minimally activating stimuli.
    scaled
        Whether each unit is divided by its mean absolute activation in the network's response.
    n_stimuli
        Number of stimuli that were searched.
    index
        ``[unit, n]``: indices of the stimuli (token ids, for :func:`modalnet.features.top_tokens`), most extreme
        first; -1 where there are fewer than n.
    activation
        ``[unit, n]``: the unit's activation, or its absolute value.
    network_index, network_activation
        ``[n]``: the same for the mean over the units.
    stimuli
        Stimulus by index, of all stimuli above.
    token_activations
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
    token_activations: TokenActivations = field(default_factory=TokenActivations)

    shown = renamed("shown", "token_activations")

    @property
    def n(self) -> int:
        """Number of stimuli per unit."""
        return self.index.shape[1]

    def row(self, row: int) -> tuple[Int[np.ndarray, " n"], Float[np.ndarray, " n"]]:
        """Return index and activation, each ``[n]``, of a unit (its position in :attr:`units`) or the network (-1).

        Raises
        ------
        InputError
            For a row that is not there.
        """
        if row == NETWORK:
            return self.network_index, self.network_activation
        if isinstance(row, bool) or not 0 <= row < len(self.units):
            raise InputError(
                f"`row` must be a unit (0 to {len(self.units) - 1}) or the network ({NETWORK}), got {row!r}."
            )
        return self.index[row], self.activation[row]

    def name(self, row: int) -> str:
        """Return the label of a row."""
        if row == NETWORK:
            return f"network ({len(self.units)} units)"
        tower, layer, dim = self.units[row]
        return f"{tower}[{layer}, {dim}]"

    def share(self, conditions: str | Iterable[str]) -> Float[np.ndarray, " unit"]:
        """Return the fraction of each unit's stimuli that are of one of these conditions, ``[unit]``.

        Raises
        ------
        InputError
            If the stimuli have no conditions.
        """
        wanted = {conditions} if isinstance(conditions, str) else set(conditions)
        of = {index: stimulus.condition for index, stimulus in self.stimuli.items()}
        if not any(of.values()):
            raise InputError("The stimuli have no conditions. Make them with Stimulus(condition=...).")
        hits = np.array([[index >= 0 and of[int(index)] in wanted for index in row] for row in self.index])
        return hits.sum(1) / np.maximum((self.index >= 0).sum(1), 1)

    def table(self) -> pd.DataFrame:
        """Return one row per unit and rank, the network's first.

        Columns: unit, tower, layer, dim (missing for the network), rank, activation, stimulus (its index), label,
        condition.
        """
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

    def summary(self) -> str:
        """Return the most extreme stimuli of the network and of its first units, as text."""
        kind = "minimally" if self.bottom else "maximally"
        lines = [f"{kind} activating stimuli in {self.model}, of {self.n_stimuli:,} ({self.magnitude} activation)"]
        for row in range(NETWORK, min(len(self.units), 5)):
            best = [
                f"{self.stimuli[int(index)].label} ({activation:.3g})"
                for index, activation in zip(*self.row(row), strict=True)
                if index >= 0
            ]
            lines.append(f"  {self.name(row)}: {', '.join(best[:5])}")
        if len(self.units) > 5:
            lines.append(f"  and {len(self.units) - 5} more units")
        return "\n".join(lines)

    def _labelled(self) -> tuple[Labelled, Labelled]:
        arrays: Labelled = {
            "activation": (("unit", "rank"), self.activation),
            "stimulus": (("unit", "rank"), self.index),
            "network_activation": (("rank",), self.network_activation),
            "network_stimulus": (("rank",), self.network_index),
        }
        labels = [[self.stimuli[int(i)].label if i >= 0 else "" for i in row] for row in self.index]
        coordinates: Labelled = {
            name: (("unit",), [unit[place] for unit in self.units])
            for place, name in enumerate(("space", "layer", "index"))
        }
        coordinates["rank"] = (("rank",), np.arange(1, self.n + 1))
        coordinates["label"] = (("unit", "rank"), np.array(labels, dtype=object).reshape(self.index.shape))
        return arrays, coordinates

    def plot(self, **options: Any) -> np.ndarray:
        """Draw the stimuli, highlighted by activation; see :func:`modalnet.plotting.features.top_stimuli`."""
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
            sounds = stimulus.sounds()
            for place, sound in enumerate(sounds):
                arrays[f"sound/{index}/{place}"] = sound.samples
            rates = [sound.rate for sound in sounds]
            described.append([index, stimulus.text, stimulus.condition, stimulus.label, stimulus.n_images, rates])
        arrays |= {f"box/{tower}/{index}": boxes for (tower, index), boxes in self.token_activations.boxes.items()}
        arrays |= {
            f"shade/{space}/{row}/{rank}": values
            for (space, row, rank), values in self.token_activations.activations.items()
        }
        document = {
            "model": self.model,
            "units": [list(unit) for unit in self.units],
            "tokens": {tower: one if isinstance(one, str) else list(one) for tower, one in self.tokens.items()},
            "magnitude": self.magnitude,
            "bottom": self.bottom,
            "scaled": self.scaled,
            "n_stimuli": self.n_stimuli,
            "stimuli": described,
            "names": json.dumps([[*key, list(names)] for key, names in self.token_activations.tokens.items()]),
        }
        return arrays, document

    @classmethod
    def _from_content(cls, arrays: Mapping[str, np.ndarray], document: Mapping[str, Any]) -> TopStimuli:
        from modalnet.stimuli.stimulus import Stimulus

        stimuli = {}
        # Files from before stimuli could hold sounds say nothing of these.
        for index, text, condition, label, images, *heard in document["stimuli"]:
            pictures = [arrays[f"picture/{index}/{i}"] for i in range(images)]
            sounds = [(arrays[f"sound/{index}/{i}"], rate) for i, rate in enumerate(heard[0] if heard else ())]
            stimuli[index] = Stimulus(text, pictures or None, condition, label, audio=sounds or None)
        parts = [(name.split("/"), array) for name, array in arrays.items()]
        token_activations = TokenActivations(
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
            token_activations,
        )
