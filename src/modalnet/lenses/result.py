"""What a lens shows: the likeliest next tokens at every layer and token, and how true that is to the model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from jaxtyping import Float, Int, Shaped

from modalnet._validation import check_int, check_option, check_shared
from modalnet.errors import InputError
from modalnet.results.result import Labelled, Result
from modalnet.stats.resampling import LEVEL, mean_intervals

if TYPE_CHECKING:
    import pandas as pd

RESAMPLES = 2000


@dataclass(frozen=True)
class Fit:
    """What a tuned lens was fitted on.

    Attributes
    ----------
    n_stimuli, n_tokens
        How many stimuli and tokens.
    n_read
        How many of the stimuli that were read are among them: what is said of these is not held out.
    penalties
        Of each layer but the last block, per token: infinite where only an offset is added, -1 where nothing is.
    """

    n_stimuli: int
    n_tokens: int
    n_read: int
    penalties: tuple[float, ...]


@dataclass(frozen=True, eq=False)
class Lens(Result):
    """The result of :func:`modalnet.lens`.

    A *place* is a token of a stimulus at which the stream was read. Lenses are ``"plain"`` and, where one was fitted,
    ``"tuned"``.

    Attributes
    ----------
    model, tower
        Name of the model and of the tower.
    interventions
        Under which the model ran.
    tokens
        The choice of tokens.
    labels
        Labels of the stimuli.
    layers
        The layers that were read.
    lenses
        ``("plain",)`` or ``("plain", "tuned")``; the first axis of the arrays.
    stimulus, position
        ``[place]``: the index of the stimulus, and the position among its tokens.
    at
        Of each place, the token that is there.
    ids, probabilities
        ``[lens, layer, place, k]``: the likeliest next tokens, likeliest first, and their probabilities.
    divergence
        ``[lens, layer, place]``: KL(model || lens) in nats, from the model's own distribution at the same token in the
        same run, to that of the lens.
    names
        What tokens read, by id.
    words
        The words that were asked for, and their token ids.
    word_probabilities, word_ranks
        ``[lens, layer, place, word]``: the probability of each word, and its rank, from 1.
    fit
        What the tuned lens was fitted on; None where there is none.
    boxes
        ``[place, 4]``: the part of the image that a token covers (left, top, right, bottom, as shares of the image);
        NaN where that is not known, or not an image token.
    pictures
        By index, the image of each stimulus that has one, as a thumbnail.
    """

    NAME = "a lens"
    FORMAT = "modalnet.lens"
    SOURCES = ("nostalgebraist2020",)

    model: str
    tower: str
    interventions: tuple[str, ...]
    tokens: str
    labels: tuple[str, ...]
    layers: tuple[int, ...]
    lenses: tuple[str, ...]
    stimulus: Int[np.ndarray, " place"]
    position: Int[np.ndarray, " place"]
    at: tuple[str, ...]
    ids: Int[np.ndarray, "lens layer place k"]
    probabilities: Float[np.ndarray, "lens layer place k"]
    divergence: Float[np.ndarray, "lens layer place"]
    names: dict[int, str]
    words: dict[str, int]
    word_probabilities: Float[np.ndarray, "lens layer place word"]
    word_ranks: Int[np.ndarray, "lens layer place word"]
    fit: Fit | None = None
    boxes: Float[np.ndarray, "place 4"] | None = None
    pictures: dict[int, np.ndarray] = field(default_factory=dict)

    @property
    def k(self) -> int:
        """Number of likeliest tokens at each layer and place."""
        return self.ids.shape[-1]

    @property
    def top_tokens(self) -> Shaped[np.ndarray, "lens layer place k"]:
        """What the likeliest tokens read, ``[lens, layer, place, k]``, likeliest first."""
        ids, which = np.unique(self.ids, return_inverse=True)
        names = np.array([self.names[int(token)] for token in ids], dtype=object)
        return names[which.reshape(self.ids.shape)]

    def places(self, stimulus: int) -> Int[np.ndarray, " place"]:
        """The places of one stimulus: indices into the axis ``place`` of all arrays.

        Raises
        ------
        InputError
            For a stimulus that there is not.
        """
        check_int("stimulus", stimulus, minimum=0, maximum=len(self.labels) - 1)
        return np.flatnonzero(self.stimulus == stimulus)

    def index(self, lens: str | None = None) -> int:
        """The place of a lens on the first axis of the arrays; None for the tuned one where there is one."""
        return len(self.lenses) - 1 if lens is None else self.lenses.index(check_option("lens", lens, self.lenses))

    def probability(self, word: str, *, lens: str | None = None) -> Float[np.ndarray, "layer place"]:
        """Return the probability of a word at each layer and place.

        Parameters
        ----------
        word
            One of the words that were asked for; or one that is among the k likeliest tokens at every layer and place.
        lens
            ``"plain"`` or ``"tuned"``; None for the tuned lens where there is one.

        Raises
        ------
        InputError
            For another word: its probability was not kept.
        """
        return self._of(word, self.index(lens))[0]

    def rank(self, word: str, *, lens: str | None = None) -> pd.DataFrame:
        """Return the rank and probability of a word, one row per layer and place.

        Parameters
        ----------
        word, lens
            As for :meth:`probability`.

        Returns
        -------
        DataFrame
            Columns stimulus, label, tower, lens, layer, position, at (the token there), rank (from 1) and probability.

        Raises
        ------
        InputError
            As for :meth:`probability`.
        """
        number = self.index(lens)
        probability, rank = self._of(word, number)
        table = self._places_by_layer(number)
        return table.assign(rank=rank.ravel(), probability=probability.ravel())

    def table(self) -> pd.DataFrame:
        """Return the likeliest next tokens, one row per lens, layer, place and rank.

        Columns: stimulus, label, tower, lens, layer, position, at (the token there), token (a likely next one),
        probability, rank.
        """
        import pandas as pd

        parts = [self._places_by_layer(number) for number in range(len(self.lenses))]
        table = pd.concat(parts, ignore_index=True)
        table = table.loc[table.index.repeat(self.k)].reset_index(drop=True)
        ranks = np.tile(np.arange(1, self.k + 1), len(table) // self.k)
        return table.assign(token=self.top_tokens.ravel(), probability=self.probabilities.ravel(), rank=ranks)

    def faithfulness(self, level: float = LEVEL, n_resamples: int = RESAMPLES, seed: int = 0) -> pd.DataFrame:
        """Return how far each lens is from the model's own distribution, one row per lens and layer.

        Parameters
        ----------
        level, n_resamples, seed
            Of the intervals: symmetric bootstrap-t over stimuli (:func:`modalnet.stats.resampling.mean_intervals`).

        Returns
        -------
        DataFrame
            Columns lens, layer, kl (the mean over tokens and then stimuli of KL(model || lens), in nats), low, high;
            gain, gain_low and gain_high: by how much kl is below that of the plain lens. NaN bounds for one stimulus.
        """
        import pandas as pd

        check_shared(n_resamples=n_resamples, seed=seed)
        kl = self._by_stimulus()
        rows = []
        for number, name in enumerate(self.lenses):
            bounds = mean_intervals(kl[number], n_resamples, np.random.default_rng(seed), level)
            gains = kl[0] - kl[number]
            of_gain = mean_intervals(gains, n_resamples, np.random.default_rng(seed), level)
            for place, layer in enumerate(self.layers):
                row = {"lens": name, "layer": layer, "kl": kl[number, :, place].mean()}
                row |= {"low": bounds[0, place], "high": bounds[1, place], "gain": gains[:, place].mean()}
                rows.append(row | {"gain_low": of_gain[0, place], "gain_high": of_gain[1, place]})
        return pd.DataFrame(rows)

    def summary(self) -> str:
        """Return as text how true the lenses are to the model, and where the words that were asked for appear."""
        under = f", under {', '.join(self.interventions)}" if self.interventions else ""
        lines = [
            f"{self.model}: lens of the {self.tower}, {_counted(len(self.labels), 'stimulus', 'stimuli')}, "
            f"{_counted(len(self.position), 'token')} ({self.tokens}), {_counted(len(self.layers), 'layer')}{under}"
        ]
        shown = sorted({0, len(self.layers) // 2, len(self.layers) - 1})
        kl = self._by_stimulus().mean(1)
        for name, values in zip(self.lenses, kl, strict=True):
            parts = ", ".join(f"{values[place]:.3g} at layer {self.layers[place]}" for place in shown)
            lines.append(f"  {name} lens, KL from the model's own distribution (nats): {parts}")
        if self.fit is not None:
            lines.append(f"  {self._verdict()}")
        for word in self.words:
            mean = self.probability(word).mean(1)
            best = int(mean.argmax())
            lines.append(f"  {word!r}: largest mean probability {mean[best]:.3g}, at layer {self.layers[best]}")
        return "\n".join(lines)

    def _verdict(self) -> str:
        """What the tuned lens gains over the plain one, in words."""
        assert self.fit is not None
        table = self.faithfulness()
        tuned = table[table["lens"] == "tuned"].iloc[: len(self.fit.penalties)]  # all but the last block
        better, worse = int((tuned["gain_low"] > 0).sum()), int((tuned["gain_high"] < 0).sum())
        on = f"{self.fit.n_stimuli} stimuli" + (
            f", {self.fit.n_read} of which were read here (not held out)" if self.fit.n_read else " that were not read"
        )
        if len(self.labels) < 2:
            better = int((tuned["gain"] > 0).sum())
            return f"tuned on {on}: {_nearer(better, len(tuned))} (one stimulus)"
        found = _nearer(better, len(tuned))
        found += f", and farther at {worse}" if worse else ""
        return f"tuned on {on}: {found} (95% intervals)"

    def plot(self, *, on: Literal["grid", "picture"] = "grid", **options: Any) -> Any:
        """Draw the likeliest tokens.

        Parameters
        ----------
        on
            ``"grid"``: layers x tokens of one stimulus (:func:`modalnet.plotting.lens.token_grid`). ``"picture"``: over
            its image (:func:`modalnet.plotting.lens.lens_picture`).
        **options
            Of these functions.
        """
        from modalnet.plotting.lens import lens_picture, token_grid

        check_option("on", on, ("grid", "picture"))
        return (token_grid if on == "grid" else lens_picture)(self, **options)

    def _by_stimulus(self) -> Float[np.ndarray, "lens stimulus layer"]:
        """The mean divergence over the tokens of each stimulus."""
        parts = [self.divergence[:, :, self.places(number)].mean(2) for number in range(len(self.labels))]
        return np.stack(parts, axis=1).astype(np.float64)

    def _places_by_layer(self, lens: int) -> pd.DataFrame:
        """One row per layer and place."""
        import pandas as pd

        n_layers, n_places = len(self.layers), len(self.position)
        return pd.DataFrame(
            {
                "stimulus": np.tile(self.stimulus, n_layers),
                "label": np.tile(np.array(self.labels, dtype=object)[self.stimulus], n_layers),
                "tower": self.tower,
                "lens": self.lenses[lens],
                "layer": np.repeat(self.layers, n_places),
                "position": np.tile(self.position, n_layers),
                "at": np.tile(np.array(self.at, dtype=object), n_layers),
            }
        )

    def _of(self, word: str, lens: int) -> tuple[np.ndarray, np.ndarray]:
        """Probability and rank of a word, ``[layer, place]`` each."""
        if word in self.words:
            place = list(self.words).index(word)
            return self.word_probabilities[lens, ..., place], self.word_ranks[lens, ..., place]
        known = [token for token, name in self.names.items() if name == word]
        hits = np.isin(self.ids[lens], known)
        if len(known) == 1 and hits.any(-1).all():
            rank = hits.argmax(-1)
            return np.take_along_axis(self.probabilities[lens], rank[..., None], -1)[..., 0], rank + 1
        there = f"it is among the {self.k} likeliest tokens at {int(hits.any(-1).sum())} of {hits[..., 0].size} places"
        asked = f"asked for: {', '.join(map(repr, self.words))}" if self.words else "no words were asked for"
        raise InputError(
            f"The probability of {word!r} was not kept ({there}; {asked}). Ask for it: "
            f"modalnet.lens(..., words=[{word!r}])."
        )

    # -- files -------------------------------------------------------------------------------------------------------

    def _sources(self) -> tuple[str, ...]:
        return self.SOURCES if self.fit is None else (*self.SOURCES, "belrose2023")

    def _labelled(self) -> tuple[Labelled, Labelled]:
        axes = ("lens", "layer", "place")
        arrays: Labelled = {
            "probability": ((*axes, "rank"), self.probabilities),
            "token": ((*axes, "rank"), self.top_tokens),
            "divergence": (axes, self.divergence),
            "word_probability": ((*axes, "word"), self.word_probabilities),
            "word_rank": ((*axes, "word"), self.word_ranks),
        }
        coordinates: Labelled = {
            "lens": (("lens",), list(self.lenses)),
            "layer": (("layer",), list(self.layers)),
            "rank": (("rank",), np.arange(1, self.k + 1)),
            "word": (("word",), list(self.words)),
            "stimulus": (("place",), self.stimulus),
            "position": (("place",), self.position),
            "at": (("place",), list(self.at)),
        }
        return arrays, coordinates

    def _content(self) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        arrays = {name: np.ascontiguousarray(getattr(self, name)) for name in _ARRAYS}
        if self.boxes is not None:
            arrays["boxes"] = self.boxes
        arrays |= {f"picture/{index}": picture for index, picture in self.pictures.items()}
        document: dict[str, Any] = {name: getattr(self, name) for name in ("model", "tower", "tokens")}
        document |= {name: list(getattr(self, name)) for name in ("interventions", "labels", "layers", "lenses", "at")}
        document["names"] = [[token, name] for token, name in self.names.items()]
        document["words"] = [[word, token] for word, token in self.words.items()]
        if self.fit is not None:
            document["fit"] = vars(self.fit) | {"penalties": [str(penalty) for penalty in self.fit.penalties]}
        return arrays, document

    @classmethod
    def _from_content(cls, arrays: Mapping[str, np.ndarray], document: Mapping[str, Any]) -> Lens:
        fit = document.get("fit")
        pictures = {int(name.split("/")[1]): one for name, one in arrays.items() if name.startswith("picture/")}
        values: dict[str, Any] = {name: document[name] for name in ("model", "tower", "tokens")}
        values |= {name: tuple(document[name]) for name in ("interventions", "labels", "layers", "lenses", "at")}
        values |= {name: arrays[name] for name in _ARRAYS}
        return cls(
            **values,
            names={int(token): name for token, name in document["names"]},
            words={word: int(token) for word, token in document["words"]},
            fit=None if fit is None else Fit(**fit | {"penalties": tuple(map(float, fit["penalties"]))}),
            boxes=arrays.get("boxes"),
            pictures=pictures,
        )

    def __repr__(self) -> str:
        return (
            f"Lens({self.model}: {' and '.join(self.lenses)} lens of the {self.tower}, {len(self.labels)} stimuli, "
            f"{len(self.position)} tokens, {len(self.layers)} layers)"
        )


_ARRAYS = ("stimulus", "position", "ids", "probabilities", "divergence", "word_probabilities", "word_ranks")


def _nearer(better: int, n_layers: int) -> str:
    return f"nearer to the model than the plain lens at {better} of {n_layers} layers"


def _counted(n: int, noun: str, plural: str | None = None) -> str:
    return f"{n} {noun if n == 1 else plural or noun + 's'}"
