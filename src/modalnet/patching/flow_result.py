"""What an answer loses without the attention edges between groups of tokens, window by window of layers.

Verdicts, one for each set of edges:

====================== ================================================================================================
*needed*               In at least one window, removing the set costs more than removing random edges of every kind
                       (:func:`modalnet.stats.within_items.within_items`, p below 0.05 after Holm's correction over
                       windows). Each kind must be exceeded, so the rate of false verdicts is at most 0.05.
*not more than random* It costs something (the interval over stimuli is above 0 somewhere), and not more than that.
*no measurable effect* It costs nothing that can be told from 0.
*cannot be tested*     There are too few stimuli or draws, or no random edges carry as much attention.
====================== ================================================================================================
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from jaxtyping import Float, Int

from modalnet._validation import check_shared
from modalnet.results.result import Labelled, Result
from modalnet.stats.holm import holm
from modalnet.stats.permutation import p_in_words
from modalnet.stats.resampling import LEVEL, mean_intervals
from modalnet.stats.within_items import within_items

if TYPE_CHECKING:
    import pandas as pd

#: Kinds of random edges: as many edges, and as many as carry the same attention.
KINDS = ("number", "attention")
RESAMPLES = 2000
PERMUTATIONS = 9999
#: Fewer stimuli decide nothing.
LEAST_ITEMS = 5
#: Random edges whose attention is not within this ratio of a set's are no match.
MATCHED = (0.5, 2.0)
Verdict = Literal["needed", "not more than random", "no measurable effect", "cannot be tested"]


@dataclass(frozen=True, eq=False)
class InformationFlow(Result):
    """The result of :func:`modalnet.information_flow`.

    Attributes
    ----------
    model, tower, metric
        Names of the model, of the tower whose attention it is, and of the metric.
    labels, names
        Labels of the stimuli; names of the sets of edges.
    windows
        The layers of each window: the first, and the one after the last.
    whole
        ``[stimulus]``: the metric of the intact runs.
    values
        ``[set, window, stimulus]``: the metric without the edges of a set in a window.
    controls
        Per kind of random edges ``[set, window, draw, stimulus]``: the same without these.
    mass, control_mass
        Attention that the edges of a set carry in a window, and random ones, ``[set, window, stimulus]`` and
        ``[set, window, draw, stimulus]``: the weights of one layer, summed over edges, mean over heads and layers; NaN
        where weights are not read.
    n_edges
        ``[set, stimulus]``: number of edges of a set.
    higher
        Whether a higher metric is better, so that a drop is what is lost.
    """

    NAME = "an information flow"
    FORMAT = "modalnet.information_flow"
    SOURCES = ("geva2023", "zhang2025")

    model: str
    tower: str
    metric: str
    labels: tuple[str, ...]
    names: tuple[str, ...]
    windows: tuple[tuple[int, int], ...]
    whole: Float[np.ndarray, " stimulus"]
    values: Float[np.ndarray, "set window stimulus"]
    controls: dict[str, Float[np.ndarray, "set window draw stimulus"]]
    mass: Float[np.ndarray, "set window stimulus"]
    control_mass: dict[str, Float[np.ndarray, "set window draw stimulus"]]
    n_edges: Int[np.ndarray, "set stimulus"]
    higher: bool = True

    @property
    def drop(self) -> dict[str, Float[np.ndarray, "window stimulus"]]:
        """What the metric loses without each set of edges, ``[window, stimulus]``."""
        return {name: self._lost(values) for name, values in zip(self.names, self.values, strict=True)}

    def control_drop(self, kind: str) -> dict[str, Float[np.ndarray, "window draw stimulus"]]:
        """The same without random edges of a kind, ``"number"`` or ``"attention"``."""
        return {name: self._lost(values) for name, values in zip(self.names, self.controls[kind], strict=True)}

    def _lost(self, values: np.ndarray) -> np.ndarray:
        lost: np.ndarray = (self.whole - values) * (1 if self.higher else -1)
        return lost

    def table(
        self, level: float = LEVEL, n_resamples: int = RESAMPLES, n_permutations: int = PERMUTATIONS, seed: int = 0
    ) -> pd.DataFrame:
        """Return one row per set of edges and window.

        ``drop`` is what the metric loses, with its interval over stimuli (bootstrap-t); for each kind of random edges,
        ``drop_<kind>`` is what it loses without these, ``mass_<kind>`` their attention as a multiple of the set's, and
        ``p_<kind>`` tests whether the set costs more, Holm-corrected over the windows of a set.
        """
        import pandas as pd

        check_shared(n_resamples=n_resamples, n_permutations=n_permutations, seed=seed)
        rows = []
        for number, name in enumerate(self.names):
            drop = self.drop[name]
            bounds = mean_intervals(drop.T, n_resamples, np.random.default_rng(seed), level)
            p = {kind: self._p(number, kind, n_permutations, seed) for kind in self.controls}
            for at, (first, stop) in enumerate(self.windows):
                low, high = bounds[:, at]
                row = {"edges": name, "first_layer": first, "last_layer": stop - 1, "drop": drop[at].mean()}
                row |= {"low": low, "high": high, "attention": self.mass[number, at].mean()}
                for kind in self.controls:
                    row[f"drop_{kind}"] = self.control_drop(kind)[name][at].mean()
                    row[f"mass_{kind}"] = self._ratio(number, at, kind)
                    row[f"p_{kind}"] = p[kind][at]
                rows.append(row)
        return pd.DataFrame(rows)

    def _p(self, number: int, kind: str, n_permutations: int, seed: int) -> Float[np.ndarray, " window"]:
        """Whether a set costs more than random edges, one p value per window, corrected over windows (Holm)."""
        name = self.names[number]
        draws = np.moveaxis(self.control_drop(kind)[name], 0, -1).swapaxes(0, 1)
        p = within_items(self.drop[name].T, draws, n_permutations, np.random.default_rng(seed))
        return holm(p)

    def _ratio(self, number: int, at: int, kind: str) -> float:
        """How much attention random edges carry, as a multiple of that of the set."""
        own = self.mass[number, at].mean()
        return float(self.control_mass[kind][number, at].mean() / own) if own > 0 else float("nan")

    def verdicts(self, n_permutations: int = PERMUTATIONS, seed: int = 0) -> pd.DataFrame:
        """Return one row per set of edges: its verdict, in which windows it is needed (by number), and a sentence."""
        import pandas as pd

        check_shared(n_permutations=n_permutations, seed=seed)

        table = self.table(n_permutations=n_permutations, seed=seed)
        rows = []
        for name in self.names:
            own = table[table["edges"] == name].reset_index(drop=True)
            verdict, windows = self._verdict(name, own)
            rows.append(
                {
                    "edges": name,
                    "verdict": verdict,
                    "windows": tuple(windows),
                    "sentence": self._sentence(name, own, verdict, windows),
                }
            )
        return pd.DataFrame(rows)

    def _verdict(self, name: str, own: pd.DataFrame) -> tuple[Verdict, list[int]]:
        if self._undecided(own):
            return "cannot be tested", []
        needed = [
            at
            for at in range(len(own))
            if own["drop"][at] > 0
            and all(own[f"p_{kind}"][at] < 1 - LEVEL and self._matches(own, at, kind) for kind in KINDS)
        ]
        if needed:
            return "needed", needed
        return ("not more than random" if (own["low"] > 0).any() else "no measurable effect"), []

    def _undecided(self, own: pd.DataFrame) -> str:
        """Why the data cannot decide; empty where they can."""
        n = len(self.labels)
        if set(self.controls) != set(KINDS):
            missing = "no random edges" if not self.controls else "no random edges of equal attention"
            return f"{missing} were drawn"
        if n < LEAST_ITEMS:
            return f"there are {n} stimuli, and {LEAST_ITEMS} are needed"
        draws = next(iter(self.controls.values())).shape[2]
        least = (draws + 1.0) ** -n * len(self.windows)
        if least >= 1 - LEVEL:
            return f"{draws} draws of {n} stimuli cannot tell {len(self.windows)} windows apart"
        if not any(self._matches(own, at, "attention") for at in range(len(own))):
            return "no random edges carry as much attention"
        return ""

    def _matches(self, own: pd.DataFrame, at: int, kind: str) -> bool:
        ratio = own[f"mass_{kind}"][at]
        return kind == "number" or bool(MATCHED[0] <= ratio <= MATCHED[1])

    def _sentence(self, name: str, own: pd.DataFrame, verdict: str, windows: list[int]) -> str:
        largest = int(own["drop"].to_numpy().argmax())
        row = own.iloc[largest]
        drop = f"{row['drop']:.2f} [{row['low']:.2f}, {row['high']:.2f}]"
        where = f"layers {row['first_layer']} to {row['last_layer']}"
        unit = self._unit
        if verdict == "cannot be tested":
            return f"{name}: cannot be tested, since {self._undecided(own)}; largest drop {drop}{unit} in {where}."
        beside = ", ".join(f"{row[f'drop_{kind}']:.2f} without random edges of equal {kind}" for kind in self.controls)
        p = p_in_words(float(max(row[f"p_{kind}"] for kind in self.controls)))
        if verdict == "needed":
            return f"{name}: needed in {self._spans(windows)}; largest drop {drop}{unit} in {where} ({beside}; p {p})."
        return f"{name}: {verdict}; largest drop {drop}{unit} in {where} ({beside}; p {p})."

    def _spans(self, windows: list[int]) -> str:
        """The layers of some windows, those that follow each other or overlap as one span."""
        spans: list[list[int]] = []
        for at in windows:
            first, stop = self.windows[at]
            if spans and at - 1 in windows:
                spans[-1][1] = stop - 1
            else:
                spans.append([first, stop - 1])
        written = [f"{first} to {last}" if last > first else str(first) for first, last in spans]
        return f"{'layer' if written == [str(spans[0][0])] else 'layers'} {' and '.join(written)}"

    @property
    def _unit(self) -> str:
        return " nats" if self.metric in ("log-probability", "KL divergence") else ""

    def summary(self) -> str:
        """Return a summary as text: the verdict on each set of edges."""
        lines = [
            f"{self.model}: {len(self.labels)} stimuli, {self.metric} {self.whole.mean():.2f}; attention edges of the "
            f"{self.tower} removed in {len(self.windows)} windows of {self.windows[0][1] - self.windows[0][0]} layers"
        ]
        return "\n".join([*lines, *(f"  {sentence}" for sentence in self.verdicts()["sentence"])])

    def plot(self, on: Literal["depth", "flow"] = "depth", **options: Any) -> Any:
        """Draw the drop over depth, or as a flow between groups of tokens: see :mod:`modalnet.plotting.flow`."""
        from modalnet._validation import check_option
        from modalnet.plotting import flow

        check_option("on", on, ("depth", "flow"))
        return flow.drop_over_depth(self, **options) if on == "depth" else flow.flow_between_groups(self, **options)

    def _labelled(self) -> tuple[Labelled, Labelled]:
        axes = ("edges", "window", "stimulus")
        arrays: Labelled = {
            "value": (axes, self.values),
            "attention": (axes, self.mass),
            "whole": (("stimulus",), self.whole),
        }
        if self.controls:
            kinds = list(self.controls)
            drawn = np.stack([self.controls[kind] for kind in kinds])
            arrays["control"] = (("kind", "edges", "window", "draw", "stimulus"), drawn)
        coordinates: Labelled = {
            "name": (("edges",), list(self.names)),
            "first_layer": (("window",), [first for first, _ in self.windows]),
            "label": (("stimulus",), list(self.labels)),
        }
        if self.controls:
            coordinates["kind"] = (("kind",), list(self.controls))
        return arrays, coordinates

    def _content(self) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        arrays = {"whole": self.whole, "values": self.values, "mass": self.mass, "n_edges": self.n_edges}
        arrays |= {f"controls/{kind}": values for kind, values in self.controls.items()}
        arrays |= {f"control_mass/{kind}": values for kind, values in self.control_mass.items()}
        about = {"model": self.model, "tower": self.tower, "metric": self.metric, "higher": self.higher}
        lists = {
            "labels": list(self.labels),
            "names": list(self.names),
            "windows": [list(each) for each in self.windows],
        }
        return arrays, about | lists | {"kinds": list(self.controls)}

    @classmethod
    def _from_content(cls, arrays: Mapping[str, np.ndarray], document: Mapping[str, Any]) -> InformationFlow:
        model, tower, metric = (document[name] for name in ("model", "tower", "metric"))
        return cls(
            model,
            tower,
            metric,
            tuple(document["labels"]),
            tuple(document["names"]),
            tuple((int(first), int(stop)) for first, stop in document["windows"]),
            arrays["whole"],
            arrays["values"],
            {kind: arrays[f"controls/{kind}"] for kind in document["kinds"]},
            arrays["mass"],
            {kind: arrays[f"control_mass/{kind}"] for kind in document["kinds"]},
            arrays["n_edges"],
            bool(document["higher"]),
        )

    def __repr__(self) -> str:
        return f"InformationFlow({self.model}: {', '.join(self.names)}; {len(self.labels)} stimuli)"
