"""Results of patching: the metric of every patched run, with effects and intervals derived from it.

Only metric values are stored, one per pair, site and column. Effects, intervals, tables and figures are computed from
them without the model. With ``m`` the metric of a patched run, the effect over pairs is the share of the difference
between the clean and the corrupt runs that the patched site carries, a ratio of sums:

    denoise (restored):   sum(m - m_corrupt) / sum(m_clean - m_corrupt)
    noise (destroyed):    sum(m_clean - m)   / sum(m_clean - m_corrupt)

0 if patching changes nothing and 1 if it turns one run into the other, in either direction, so that a larger effect
always means a site that matters more. A mean of per-pair ratios would be dominated by pairs for which the model hardly
distinguishes the two stimuli.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Bool, Float, UInt8

from modalnet._validation import check_option, check_shared
from modalnet.errors import InputError
from modalnet.patching.token_alignment import Column
from modalnet.results.result import Labelled, Result
from modalnet.stats.controls import match_columns, match_sentence, stored_match
from modalnet.stats.new_draw import LEAST_DRAWS, against_draws
from modalnet.stats.permutation import p_in_words
from modalnet.stats.resampling import (
    LEVEL,
    bootstrap_counts,
    chunks,
    effective_number,
    expanded,
    intervals,
    product,
)

if TYPE_CHECKING:
    import pandas as pd

RESAMPLES = 2000


@dataclass(frozen=True, eq=False)
class NetworkPatch:
    """Patches of the units of one network.

    Attributes
    ----------
    count
        Number of units.
    values
        Per tower ``[pair, layer, column]``: the metric with only the units of the network in one block patched.
    joint
        ``[pair]``: the metric with all units patched jointly, in all blocks and columns.
    controls
        Per kind of match ``[draw, pair]``: the same for matched random units.
    match_ratios
        Per kind of match ``[draw]``: how well these match the network in activation (see
        :func:`modalnet.stats.controls.match_ratios`); absent from files of modalnet 0.1.
    """

    count: int
    values: dict[str, Float[np.ndarray, "pair layer column"]]
    joint: Float[np.ndarray, " pair"]
    controls: dict[str, Float[np.ndarray, "draw pair"]]
    match_ratios: dict[str, Float[np.ndarray, " draw"]] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Patching(Result):
    """The result of :func:`modalnet.activation_patching` or :func:`modalnet.attribution_patching`.

    Attributes
    ----------
    model, metric, direction
        Name of the model and the metric, and the direction: ``"denoise"`` patches clean activations into corrupt runs,
        ``"noise"`` the reverse. Effects are oriented alike in both: see :attr:`effect`.
    estimated
        Whether the values are gradient-based estimates.
    labels
        Labels of the pairs.
    columns
        Columns (tokens or groups of tokens) of each tower.
    layers
        Patched layers of each tower.
    clean, corrupt
        ``[pair]``: the metric of the unpatched runs.
    values
        Per tower ``[pair, layer, column]``: the metric of patched runs; NaN where a pair lacks the column. These, not
        effects, are what files, ``to_frame`` and ``to_xarray`` hold.
    networks
        Patches of networks, by name.
    unit_effect
        Per tower ``[layer, unit]``, in the order of ``layers``: the effect of each unit at all columns jointly,
        measured (``per_unit=True``) or estimated (attribution patching); NaN for a unit that a layer does not have.
    unit_values
        Per tower ``[pair, layer, unit]``: the metric with one unit patched at all columns; empty where it is estimated.
    receiver
        Of path patching (``sender=``, ``receiver=``), the receiver: the towers are then those of the senders, and
        effects are direct ones. Empty for other patching.
    freeze
        Of path patching, what was frozen between sender and receiver: ``"all"`` sublayers, or ``"attention"`` alone.
    unit_exact
        Of path patching, per tower ``[layer, unit]``: whether the unit was run exactly. The others are estimates.
    unit_estimates
        Of path patching, per tower ``[pair, layer, unit]``: the metric as estimated for each unit; empty where nothing
        was estimated.
    picture
        ``[height, width, 3]``: the image of the first clean stimulus, to draw on; None without one.
    method, steps
        How the values were estimated, ``"gradient"``, ``"integrated"`` or ``"atp*"``, and over how many steps (0 for
        other methods); ``"exact"`` where they were measured. Effects by ``"atp*"`` are magnitudes: never negative.
    """

    NAME = "a patching result"
    FORMAT = "modalnet.patching"
    SOURCES = ("vig2020", "meng2022", "zhang2024", "heimersheim2024")

    model: str
    metric: str
    direction: str
    estimated: bool
    labels: tuple[str, ...]
    columns: dict[str, tuple[Column, ...]]
    layers: dict[str, tuple[int, ...]]
    clean: Float[np.ndarray, " pair"]
    corrupt: Float[np.ndarray, " pair"]
    values: dict[str, Float[np.ndarray, "pair layer column"]]
    networks: dict[str, NetworkPatch] = field(default_factory=dict)
    unit_effect: dict[str, Float[np.ndarray, "layer unit"]] = field(default_factory=dict)
    picture: UInt8[np.ndarray, "height width 3"] | None = None
    method: str = "exact"
    steps: int = 0
    unit_values: dict[str, Float[np.ndarray, "pair layer unit"]] = field(default_factory=dict)
    receiver: str = ""
    unit_exact: dict[str, Bool[np.ndarray, "layer unit"]] = field(default_factory=dict)
    unit_estimates: dict[str, Float[np.ndarray, "pair layer unit"]] = field(default_factory=dict)
    freeze: str = ""

    def __post_init__(self) -> None:
        measured = {tower: self._ratio(values) for tower, values in self.unit_values.items()}
        object.__setattr__(self, "unit_effect", {**self.unit_effect, **measured})

    @property
    def n(self) -> int:
        """Number of pairs."""
        return len(self.clean)

    @cached_property
    def effect(self) -> dict[str, Float[np.ndarray, "layer column"]]:
        """Share of the difference between clean and corrupt runs that a site carries, per tower ``[layer, column]``.

        With ``direction="denoise"`` the share that patching restores, with ``"noise"`` the share that it destroys: 0
        where patching changes nothing, 1 where the patched run equals the run that it was patched from.
        """
        return {tower: self._ratio(values) for tower, values in self.values.items()}

    @cached_property
    def normalized(self) -> dict[str, Float[np.ndarray, "layer column"]]:
        """Metric of patched runs on the scale of the unpatched ones, per tower ``[layer, column]``.

        0 is the corrupt and 1 the clean run, whatever the direction: :attr:`effect` with ``direction="denoise"``, and
        1 - :attr:`effect` with ``"noise"``.
        """
        return {tower: effect if self._restores else 1 - effect for tower, effect in self.effect.items()}

    def network_effect(self, name: str) -> dict[str, Float[np.ndarray, "layer column"]]:
        """Return :attr:`effect` of patching only the units of a network in one block.

        Raises
        ------
        InputError
            If the network was not patched.
        """
        return {tower: self._ratio(values) for tower, values in self._network(name).values.items()}

    def interval(
        self, level: float = LEVEL, n_resamples: int = RESAMPLES, seed: int = 0
    ) -> dict[str, Float[np.ndarray, "2 layer column"]]:
        """Return bootstrap intervals of :attr:`effect` over pairs, per tower ``[bound, layer, column]``.

        They are expanded percentiles (:func:`modalnet.stats.resampling.expanded`) for the effective number of pairs:
        pairs that the model tells apart well carry more of the ratio of sums than others.

        Raises
        ------
        InputError
            If there are fewer than two pairs.

        References
        ----------
        Hesterberg (2015), The American Statistician 69(4):371-386, section 3.5; Kish (1965), Survey Sampling, section
        11.7, for the effective number.
        """
        check_shared(n_resamples=n_resamples, seed=seed)
        return {tower: self._bounds(values, level, n_resamples, seed) for tower, values in self.values.items()}

    def table(self) -> pd.DataFrame:
        """Return one row per tower, layer and column: effect, interval (for two or more pairs), number of pairs."""
        import pandas as pd

        bounds = self.interval() if self.n > 1 else None
        rows = []
        for tower, effect in self.effect.items():
            counts = np.isfinite(self.values[tower]).sum(0)
            for at, layer in enumerate(self.layers[tower]):
                for place, column in enumerate(self.columns[tower]):
                    low, high = bounds[tower][:, at, place] if bounds else (np.nan, np.nan)
                    rows.append(
                        {
                            "tower": tower,
                            "layer": layer,
                            "position": place,
                            "token": column.name,
                            "effect": effect[at, place],
                            "low": low,
                            "high": high,
                            "pairs": int(counts[at, place]),
                            **({"receiver": self.receiver} if self.receiver else {}),
                        }
                    )
        return pd.DataFrame(rows)

    def network_table(self) -> pd.DataFrame:
        """Return one row per network and kind of match: joint effect of its units, and that of random controls.

        ``share`` is the effect (see :attr:`effect`) with its interval over pairs, ``control`` the mean over draws,
        ``control_low`` and ``control_high`` the lowest and highest draw. ``p`` is the two-sided rank p value among the
        draws, at least 2 / (draws + 1), and ``p_new_draw`` the probability that one more draw lies as far out (see
        :func:`modalnet.stats.new_draw.beside_draws`); both are NaN where an effect is not finite. ``finding`` is
        ``"more"`` or ``"less"``, a network that carries more or less than random units, where ``p_new_draw`` is at most
        0.05 and the network lies beyond every draw (or ``p`` is at most 0.05), and empty otherwise; fewer than 19 draws
        cannot lead to a finding. The rows are not corrected for one another. ``match_ratio`` is the mean
        |activation| of the controls over that of the network, with the lowest and highest draw in ``match_ratio_low``
        and ``match_ratio_high``; NaN where unknown.

        References
        ----------
        North, Curtis & Sham (2002), American Journal of Human Genetics 71(2):439-441, for the p value.
        """
        import pandas as pd

        rows = []
        for name, network in self.networks.items():
            share = self._joint(network.joint)
            low, high = self._bounds(network.joint) if self.n > 1 and np.isfinite(share) else (np.nan, np.nan)
            row = {"network": name, "units": network.count, "share": share, "low": float(low), "high": float(high)}
            if not network.controls:
                rows.append(row)
            for match, drawn in network.controls.items():
                effects = np.array([self._joint(one) for one in drawn])
                rows.append(
                    {
                        **row,
                        "match": match,
                        "control": effects.mean(),
                        "control_low": effects.min(),
                        "control_high": effects.max(),
                        "draws": len(effects),
                        **against_draws(share, effects)._asdict(),
                        **match_columns(network.match_ratios.get(match, np.zeros(0))),
                    }
                )
        return pd.DataFrame(rows)

    def unit_table(self) -> pd.DataFrame:
        """Return one row per tower, layer and unit: its effect and, where measured on several pairs, its interval.

        Of path patching also the receiver, whether the unit was run exactly, and its estimated effect. The interval of
        an estimate is over pairs and does not cover its error.

        Raises
        ------
        InputError
            If the result has no effects of units.
        """
        import pandas as pd

        self._check_units()
        parts = []
        for tower, effect in self.unit_effect.items():
            at, unit = np.nonzero(np.isfinite(effect))
            low = high = np.full(len(at), np.nan)
            if self.n > 1 and tower in self.unit_values:
                low, high = self._bounds(self.unit_values[tower])[:, at, unit]
            layers = np.array(self.layers[tower])[at]
            parts.append({"tower": tower, "layer": layers, "unit": unit, "effect": effect[at, unit]})
            parts[-1] |= {"low": low, "high": high}
            if self.receiver:
                guessed = self._estimated_effect(tower)[at, unit]
                parts[-1] |= {"receiver": self.receiver, "exact": self.unit_exact[tower][at, unit], "estimate": guessed}
        return pd.concat([pd.DataFrame(part) for part in parts], ignore_index=True)

    def unit_agreement(self) -> pd.DataFrame:
        """Return how far estimates of path patching lie from exact runs, one row per tower that was swept.

        ``cells`` is the number of units that were run exactly, ``pearson``, ``spearman``, ``slope`` (of estimated on
        exact effects) and ``largest_error`` compare their effects, and ``left`` is the largest magnitude of the effect
        of a unit that was estimated alone.

        Raises
        ------
        InputError
            If no unit was estimated.
        """
        import pandas as pd

        if not self.unit_estimates:
            raise InputError("This result has no estimates of units: sweep over the units of a sender space.")
        rows = []
        for tower in self.unit_estimates:
            ran, guessed = self.unit_exact[tower], self._estimated_effect(tower)
            left = np.abs(guessed[~ran & np.isfinite(guessed)])
            compared = compare(self.unit_effect[tower][ran], guessed[ran])
            rows.append({"tower": tower, **compared, "left": float(left.max(initial=0.0))})
        return pd.DataFrame(rows)

    def _estimated_effect(self, tower: str) -> Float[np.ndarray, "layer unit"]:
        if tower not in self.unit_estimates:
            return np.full(self.unit_effect[tower].shape, np.nan)
        return self._ratio(self.unit_estimates[tower])

    def _check_units(self) -> None:
        if not self.unit_effect:
            raise InputError(
                "This result has no effects of units: patch with per_unit=True, or use mn.attribution_patching."
            )

    def top(self, k: int = 10) -> pd.DataFrame:
        """Return the ``k`` sites and columns that carry most: those with the largest effect."""
        return self.table().nlargest(k, "effect").reset_index(drop=True)

    def agreement(self, other: Patching) -> pd.DataFrame:
        """Compare with another result on the same pairs: see :func:`modalnet.patching.agreement`."""
        return agreement(self, other)

    def summary(self) -> str:
        """Return a summary as text: the unpatched runs, the largest effects, and the networks."""
        passed = "" if self.freeze == "all" else ", through the MLPs between, too"
        path = f"path patching to {self.receiver} (direct effects{passed})"
        how = (
            path
            if self.receiver
            else f"attribution patching ({self._method_in_words()})"
            if self.estimated
            else "activation patching"
        )
        into = "clean into corrupt" if self._restores else "corrupt into clean"
        lines = [
            f"{how} of {self.model}, {into}: {self.n} pair{'s' if self.n > 1 else ''}, {self.metric}",
            f"  clean {self.clean.mean():.3f}, corrupt {self.corrupt.mean():.3f} (means over pairs)",
            f"  effects: share of the difference that patching {'restores' if self._restores else 'destroys'}",
        ]
        wrong = int((self._whole <= 0).sum()) if self.metric != "KL divergence" else 0
        if wrong:
            lines.append(f"  in {wrong} of {self.n} pairs the metric is not larger for the clean stimulus")
        for tower, effect in self.effect.items():
            if not np.isfinite(effect).any():
                lines.append(f"  {tower}: no effect is defined, as clean and corrupt runs do not differ")
                continue
            at, place = np.unravel_index(np.nanargmax(effect), effect.shape)
            lines.append(
                f"  {tower}: largest effect {effect[at, place]:.2f} at block {self.layers[tower][at]}, "
                f"{self.columns[tower][place].name!r}"
            )
        lines += self._swept()
        for row in self.network_table().to_dict("records"):
            text = f"  {row['network']} ({row['units']} units, all blocks jointly): {row['share']:.2f}"
            if "control" in row and np.isfinite(row["control"]):
                text += f"; {row['match']}-matched random units {row['control']:.2f} {_in_words(row)}"
            lines.append(text)
        for name, network in self.networks.items():
            sentences = [match_sentence(ratios, match) for match, ratios in network.match_ratios.items()]
            lines += [f"  {name}, {sentence}" for sentence in sentences if sentence]
        return "\n".join(lines)

    def _swept(self) -> list[str]:
        """Sentences on the units that were swept."""
        lines = []
        for tower, ran in self.unit_exact.items():
            effect = self.unit_effect[tower]
            if not np.isfinite(effect).any():
                continue
            at, unit = np.unravel_index(np.nanargmax(effect), effect.shape)
            count = int(np.isfinite(effect).sum())
            lines.append(
                f"  {tower}, one by one: largest effect {effect[at, unit]:.2f} of unit {unit} of block "
                f"{self.layers[tower][at]}; {ran.sum()} of {count} units run exactly"
                + (", the others estimated" if ran.sum() < count else "")
            )
        if self.unit_estimates:
            for row in (each for each in self.unit_agreement().to_dict("records") if each["cells"]):
                lines.append(
                    f"  {row['tower']}: estimates of the {row['cells']} units lie at most {row['largest_error']:.3f} "
                    f"from exact effects (r {row['pearson']:.2f}, slope {row['slope']:.2f}); the largest of those not "
                    f"run is {row['left']:.3f}"
                )
        return lines

    def plot(self, **options: Any) -> Any:
        """Draw layer x position heatmaps: see :func:`modalnet.plotting.patching.heatmap`.

        With ``on="units"``, draw layer x unit heatmaps of :attr:`unit_effect`: see
        :func:`modalnet.plotting.unit_map.unit_effects`; this is the default for a sweep of path patching. With
        ``on="picture"``, overlay the effects of image tokens on the image: see
        :func:`modalnet.plotting.patching.picture_overlay`.
        """
        from modalnet.plotting.patching import heatmap, picture_overlay
        from modalnet.plotting.unit_map import unit_effects

        on = options.pop("on", "units" if self.unit_exact else "tokens")
        check_option("on", on, ("tokens", "units", "picture"))
        if on == "units":
            self._check_units()
            return unit_effects(self, **options)
        return heatmap(self, **options) if on == "tokens" else picture_overlay(self, **options)

    def _sources(self) -> Sequence[str]:
        if self.receiver:
            return ("wang2023", "goldowskydill2023")
        if not self.estimated:
            return self.SOURCES
        own = {"integrated": ("sundararajan2017",), "atp*": ("kramar2024",)}
        return (*own.get(self.method, ()), "syed2024", "heimersheim2024")

    def _labelled(self) -> tuple[Labelled, Labelled]:
        sites = [
            (tower, layer, column.name)
            for tower, layers in self.layers.items()
            for layer in layers
            for column in self.columns[tower]
        ]

        def flat(values: Mapping[str, np.ndarray]) -> np.ndarray:
            return np.concatenate([values[tower].reshape(self.n, -1) for tower in self.layers], axis=1)

        arrays: Labelled = {"value": (("pair", "site"), flat(self.values))}
        arrays |= {name: (("pair",), getattr(self, name)) for name in ("clean", "corrupt")}
        for name, one in self.networks.items():
            arrays[f"value of {name}"] = (("pair", "site"), flat(one.values))
            arrays[f"joint value of {name}"] = (("pair",), one.joint)
        coordinates: Labelled = {"label": (("pair",), list(self.labels))}
        for place, name in enumerate(("space", "layer", "tokens")):
            coordinates[name] = (("site",), [site[place] for site in sites])
        return arrays, coordinates

    def __repr__(self) -> str:
        towers = ", ".join(f"{t} {len(self.layers[t])}x{len(self.columns[t])}" for t in self.values)
        kind = "attribution" if self.estimated else f"paths to {self.receiver}" if self.receiver else "activation"
        return f"Patching({kind}, {self.direction}, {self.model}: {towers}; {self.n} pairs)"

    # -- files ---------------------------------------------------------------------------------------------------

    def _content(self) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        arrays = {"clean": self.clean, "corrupt": self.corrupt}
        arrays |= {f"values/{tower}": values for tower, values in self.values.items()}
        arrays |= {f"units/{tower}": values for tower, values in self.unit_effect.items()}
        arrays |= {f"unit values/{tower}": values for tower, values in self.unit_values.items()}
        arrays |= {f"unit exact/{tower}": ran.astype(np.uint8) for tower, ran in self.unit_exact.items()}
        arrays |= {f"unit estimates/{tower}": values for tower, values in self.unit_estimates.items()}
        if self.picture is not None:
            arrays["picture"] = np.ascontiguousarray(self.picture)
        networks = []
        for i, (name, one) in enumerate(self.networks.items()):
            arrays[f"networks/{i}/joint"] = one.joint
            arrays |= {f"networks/{i}/values/{tower}": values for tower, values in one.values.items()}
            arrays |= {f"networks/{i}/controls/{match}": drawn for match, drawn in one.controls.items()}
            arrays |= {f"networks/{i}/match_ratios/{match}": ratios for match, ratios in one.match_ratios.items()}
            networks.append([name, one.count, list(one.values), list(one.controls)])
        document = {
            "model": self.model,
            "metric": self.metric,
            "direction": self.direction,
            "estimated": self.estimated,
            "labels": list(self.labels),
            "columns": json.dumps({tower: [asdict(one) for one in columns] for tower, columns in self.columns.items()}),
            "layers": {tower: list(own) for tower, own in self.layers.items()},
            "networks": networks,
            "method": self.method,
            "steps": self.steps,
            "receiver": self.receiver,
            "freeze": self.freeze,
        }
        return arrays, document

    @classmethod
    def _from_content(cls, arrays: Mapping[str, np.ndarray], document: Mapping[str, Any]) -> Patching:
        columns = {
            tower: tuple(Column(**{**one, "box": tuple(one["box"]) if one["box"] else None}) for one in own)
            for tower, own in json.loads(document["columns"]).items()
        }
        networks = {
            name: NetworkPatch(
                count,
                {tower: arrays[f"networks/{i}/values/{tower}"] for tower in towers},
                arrays[f"networks/{i}/joint"],
                {stored_match(match): arrays[f"networks/{i}/controls/{match}"] for match in matches},
                {
                    match: arrays[f"networks/{i}/match_ratios/{match}"]
                    for match in matches
                    if f"networks/{i}/match_ratios/{match}" in arrays
                },
            )
            for i, (name, count, towers, matches) in enumerate(document["networks"])
        }
        return cls(
            document["model"],
            document["metric"],
            document["direction"],
            document["estimated"],
            tuple(document["labels"]),
            columns,
            {tower: tuple(own) for tower, own in document["layers"].items()},
            arrays["clean"],
            arrays["corrupt"],
            {tower: arrays[f"values/{tower}"] for tower in columns},
            networks,
            {tower: arrays[f"units/{tower}"] for tower in columns if f"units/{tower}" in arrays},
            arrays.get("picture"),
            # Absent from files of earlier versions, which had one way to estimate.
            document.get("method", "gradient" if document["estimated"] else "exact"),
            document.get("steps", 0),
            {tower: arrays[f"unit values/{tower}"] for tower in columns if f"unit values/{tower}" in arrays},
            document.get("receiver", ""),
            {t: arrays[f"unit exact/{t}"].astype(bool) for t in columns if f"unit exact/{t}" in arrays},
            {t: arrays[f"unit estimates/{t}"] for t in columns if f"unit estimates/{t}" in arrays},
            document.get("freeze", ""),
        )

    def _method_in_words(self) -> str:
        names = {"integrated": f"integrated gradients, {self.steps} steps", "atp*": "AtP*, magnitudes"}
        return names.get(self.method, "estimated")

    # -- numbers -------------------------------------------------------------------------------------------------

    @property
    def _whole(self) -> np.ndarray:
        return self.clean - self.corrupt

    @property
    def _restores(self) -> bool:
        return self.direction == "denoise"

    def _carried(self, values: np.ndarray) -> np.ndarray:
        """Return how far patching moved the metric, towards the clean run (denoise) or away from it (noise)."""
        spread = (slice(None), *[None] * (values.ndim - 1))
        return values - self.corrupt[spread] if self._restores else self.clean[spread] - values

    def _network(self, name: str) -> NetworkPatch:
        if name not in self.networks:
            raise InputError(f"No network {name!r} was patched; there is {', '.join(self.networks) or 'none'}.")
        return self.networks[name]

    def _parts(self, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return numerators and denominators of the ratio per pair, 0 where a pair lacks the column."""
        spread = (slice(None), *[None] * (values.ndim - 1))
        there = np.isfinite(values)
        over = np.where(there, self._carried(values), 0)
        return over, np.where(there, np.broadcast_to(self._whole[spread], values.shape), 0)

    def _magnitudes(self, tower: str) -> Float[np.ndarray, "layer column"]:
        """Return the magnitudes of the effects of single pairs, over that of the difference of their runs."""
        over, under = self._parts(self.values[tower])
        return _divided(np.abs(over).sum(0), np.abs(under.sum(0)))

    def _ratio(self, values: np.ndarray) -> np.ndarray:
        over, under = self._parts(values)
        return _divided(over.sum(0), under.sum(0))

    def _joint(self, values: Float[np.ndarray, " pair"]) -> float:
        """Return the effect of patches that every pair has, so that a value that is not finite is no missing column."""
        return float(self._ratio(values)) if np.isfinite(values).all() else math.nan

    def _bounds(
        self, values: np.ndarray, level: float = LEVEL, n_resamples: int = RESAMPLES, seed: int = 0
    ) -> np.ndarray:
        if self.n < 2:
            raise InputError("An interval over pairs requires at least two pairs, got 1.")
        over, under = (part.reshape(self.n, -1) for part in self._parts(values))
        drawn = bootstrap_counts(self.n, n_resamples, np.random.default_rng(seed))
        # Columns that all pairs have weigh the pairs alike, and share their percentiles.
        numbers, of_column = np.unique(np.fmax(effective_number(under), 2), return_inverse=True)
        bounds = np.full((2, over.shape[1]), np.nan)
        for number, effective in enumerate(numbers.tolist()):
            columns = np.flatnonzero(of_column == number)
            for part in chunks(len(columns), n_resamples):
                some = columns[part]
                ratios = _divided(product(drawn, over[:, some]), product(drawn, under[:, some]))
                bounds[:, some] = intervals(ratios, expanded(level, effective), skip_nan=True)
        return bounds.reshape(2, *values.shape[1:])


def agreement(exact: Patching, estimate: Patching, *others: Patching) -> pd.DataFrame:
    """Compare attribution patching with exact activation patching on the same pairs.

    Parameters
    ----------
    exact, estimate, *others
        Results of the same pairs, sites and columns: of exact patching, and of one or more methods of attribution
        patching.

    Returns
    -------
    DataFrame
        Per method and tower: the number of cells (sites x columns), the Pearson and Spearman correlation of their
        effects, the slope of the estimated on the exact effects (least squares; 1 where the scale is right), the
        largest difference between an estimated and an exact effect, and the Pearson correlation over the cells of
        single pairs (``pearson_pairs``). Magnitudes (``"atp*"``) are compared with the exact magnitudes, summed over
        pairs. The linear approximation is best for small effects and known to fail in the
        first blocks and for saturated softmaxes (Nanda 2023).

    Raises
    ------
    InputError
        If the results differ in pairs, sites or columns.
    """
    import pandas as pd

    for other in (estimate, *others):
        if (exact.labels, exact.columns, exact.layers) != (other.labels, other.columns, other.layers):
            raise InputError("`exact` and `estimate` must be of the same pairs, sites and columns.")
    return pd.DataFrame([_compared(exact, other, tower) for other in (estimate, *others) for tower in exact.effect])


def _compared(exact: Patching, estimate: Patching, tower: str) -> dict[str, Any]:
    """Return one row of :func:`agreement`."""
    from scipy import stats

    one, two = exact.effect[tower].ravel(), estimate.effect[tower].ravel()
    first, second = (result._carried(result.values[tower]).ravel() for result in (exact, estimate))
    if estimate.method == "atp*":
        one, first, second = exact._magnitudes(tower).ravel(), np.abs(first), np.abs(second)
    there = np.isfinite(first) & np.isfinite(second)
    return {
        "method": estimate.method,
        "tower": tower,
        **compare(one, two),
        "pearson_pairs": _correlation(stats.pearsonr, first[there], second[there]),
    }


def compare(exact: Float[np.ndarray, "..."], estimate: Float[np.ndarray, "..."]) -> dict[str, Any]:
    """Return how far estimated effects lie from exact ones, where both are finite: see :func:`agreement`."""
    from scipy import stats

    finite = np.isfinite(exact) & np.isfinite(estimate)
    one, two = exact[finite], estimate[finite]
    varies = len(one) > 1 and np.ptp(one) > 0
    return {
        "cells": len(one),
        "pearson": _correlation(stats.pearsonr, one, two),
        "spearman": _correlation(stats.spearmanr, one, two),
        "slope": float(stats.linregress(one, two).slope) if varies else math.nan,
        "largest_error": float(np.abs(one - two).max(initial=0.0)),
    }


def _correlation(measure: Any, one: np.ndarray, two: np.ndarray) -> float:
    """Return a correlation; NaN if one side is constant, as for a site that carries the whole answer."""
    if len(one) < 2 or np.ptp(one) == 0 or np.ptp(two) == 0:
        return float("nan")
    return float(measure(one, two).statistic)


def _in_words(row: Mapping[Any, Any]) -> str:
    """Return the test of a row of the network table as text."""
    p = f"p {p_in_words(row['p_new_draw'])}"
    if row["finding"]:
        return f"({p}: carries {row['finding']} than random units)"
    if row["draws"] < LEAST_DRAWS and np.isfinite(row["p"]):
        return f"({p}: {row['draws']} draws cannot decide, {LEAST_DRAWS} can)"
    return f"({p})"


def _divided(over: Any, under: Any) -> np.ndarray:
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(np.asarray(under) != 0, np.asarray(over) / np.asarray(under), np.nan)
