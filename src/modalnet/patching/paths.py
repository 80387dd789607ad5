"""Path patching: what one site sends to another past everything between, the direct effect.

Activation patching lets everything after the patched site respond. Path patching lets a single edge respond: the
receiver gets what the sender changes of the residual stream, with all sublayers between frozen (or all attentions), and
only what comes after the receiver responds to that. See :mod:`modalnet.patching.path_runs` for how.

A sweep over the units of a space is estimated first, and run exactly for the units with the largest estimates.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from modalnet._validation import check_int, check_option
from modalnet.errors import InputError
from modalnet.interventions.operations import Site
from modalnet.patching.estimates import refuse_inference_mode
from modalnet.patching.pairs import Layout, lay_out
from modalnet.patching.path_ends import Ends
from modalnet.patching.path_runs import FREEZE, TOGETHER, Part, PathRuns, Sending
from modalnet.patching.result import NetworkPatch, Patching
from modalnet.results.cache import Access, cached_parts

if TYPE_CHECKING:
    from jaxtyping import Bool, Float

    from modalnet.model import Model
    from modalnet.patching.metrics import Measure
    from modalnet.stimuli import Stimulus

#: Name of the network of units that were given as the sender.
SENDER = "sender"
#: Most units that are run exactly, per pair.
MOST_UNITS = 10_000


def path_patching(
    model: Model,
    pairs: tuple[list[Stimulus], list[Stimulus]],
    measure: Measure,
    *,
    sender: Any,
    receiver: Any,
    exact: int,
    freeze: str,
    tokens: Any,
    direction: str,
    align: Any,
    per_unit: bool,
    batch_size: int | Literal["auto"],
    access: Access,
    progress: bool,
    picture: np.ndarray | None,
) -> Patching:
    """Patch paths; see :func:`modalnet.activation_patching`.

    Raises
    ------
    InputError
        As there.
    """
    check_int("exact", exact, minimum=0)
    check_option("freeze", freeze, FREEZE)
    ends = Ends.of(model, [*pairs[0], *pairs[1]], sender, receiver, per_unit=per_unit)
    count = sum(int(mask.sum()) for mask in ends.candidates.values())
    if min(exact, count) > MOST_UNITS:
        raise InputError(
            f"`exact` takes one run for each of {min(exact, count):,} units per pair, and at most {MOST_UNITS:,} are "
            "allowed. The others are estimated."
        )
    if count > exact:
        refuse_inference_mode("A sweep over units that are not all run exactly")
        if measure.needs_clean and direction == "noise":
            raise InputError(
                "`direction='noise'` cannot estimate KL(clean || run): its gradient is zero in the clean run, where it "
                f'has its minimum. Use `direction="denoise"`, another metric, or run all {count:,} units (`exact`).'
            )
    sites = [Site(name, layers) for name, layers in ends.layers.items()]
    layout = lay_out(
        model, pairs, measure, sites=sites, towers=None, tokens="all" if tokens is None else tokens, align=align
    )
    job = _Job(model, measure, layout, direction, batch_size, ends, exact, freeze)
    return job.run(access if measure.metric.function is None else Access(None), progress=progress, picture=picture)


@dataclass
class _Job:
    model: Model
    measure: Measure
    layout: Layout
    direction: str
    batch_size: int | Literal["auto"]
    ends: Ends
    exact: int
    freeze: str
    chosen: dict[str, Bool[np.ndarray, "layer unit"]] = field(default_factory=dict)

    def run(self, access: Access, *, progress: bool, picture: np.ndarray | None) -> Patching:
        """Estimate, choose what is run, and run it; each pair is loaded from the store or stored."""
        count = sum(int(mask.sum()) for mask in self.ends.candidates.values())
        estimates: list[Mapping[str, np.ndarray]] = [{} for _ in self.layout.clean]
        self.chosen = self.ends.candidates
        if count > self.exact or (count and self._has_slope()):
            estimates = self._parts("path estimates", {}, self._estimated, access, progress=False)
            self.chosen = self._largest(estimates)
        chosen = {name: np.argwhere(mask).tolist() for name, mask in self.chosen.items()}
        found = self._parts("paths", {"chosen": chosen}, self._patched, access, progress=progress)
        return self._result(found, estimates, picture)

    def _has_slope(self) -> bool:
        """Whether the metric is sure to have a gradient at the unpatched run that says something."""
        import torch

        flat = self.measure.needs_clean and self.direction == "noise"
        return not (flat or torch.is_inference_mode_enabled() or self.measure.metric.function is not None)

    # -- pairs -------------------------------------------------------------------------------------------------------

    def _parts(
        self,
        analysis: str,
        more: Mapping[str, Any],
        compute: Callable[[PathRuns], Iterator[tuple[int, dict[str, np.ndarray]]]],
        access: Access,
        *,
        progress: bool,
    ) -> list[Mapping[str, np.ndarray]]:
        from tqdm.auto import tqdm

        n = len(self.layout.clean)

        def computed(missing: list[int]) -> Iterator[tuple[int, dict[str, np.ndarray]]]:
            for start in range(0, len(missing), TOGETHER):
                some = missing[start : start + TOGETHER]
                args = (self.model, self.measure, self.layout, self.direction, self.batch_size, some)
                yield from compute(PathRuns(*args, self.ends, self.freeze))
                self.measure.reference.clear()

        made: list[Any] = [None] * n
        pairs = [self._of(pair) for pair in range(n)]
        found = cached_parts(self.model, analysis, {**self._shared(), **more}, pairs, computed, cache=access)
        with tqdm(total=n, unit="pair", disable=not progress) as bar:
            for pair, arrays in found:
                made[pair] = arrays
                bar.update()
        return made

    def _shared(self) -> dict[str, Any]:
        """The settings that all pairs share, for the cache key."""
        ends = self.ends
        units = (
            {} if ends.units is None else {name: np.argwhere(mask).tolist() for name, mask in ends.units.mask.items()}
        )
        return {
            "direction": self.direction,
            "freeze": self.freeze,
            "layers": ends.layers,
            "receivers": [
                [one.name, one.layer, None if one.units is None else one.units.tolist()] for one in ends.receivers
            ],
            "units": units,
            "swept": {name: np.argwhere(mask).tolist() for name, mask in ends.candidates.items()},
        }

    def _of(self, pair: int) -> dict[str, Any]:
        """The settings of one pair, for the cache key."""
        metric = self.measure.metric
        texts = [own[pair] if isinstance(own, tuple) else own for own in (metric.answers, metric.distractors)]
        return {
            "pair": list(self.layout.digests[pair]),
            "metric": [metric.kind, *texts],
            "matches": {name: [per_pair[pair] for per_pair in own] for name, own in self.layout.matches.items()},
        }

    def _estimated(self, runs: PathRuns) -> Iterator[tuple[int, dict[str, np.ndarray]]]:
        """Of each pair, the estimated change of the metric by each unit."""
        for place, found in runs.estimated(*runs.read()):
            yield runs.some[place], found

    def _patched(self, runs: PathRuns) -> Iterator[tuple[int, dict[str, np.ndarray]]]:
        """Of each pair, the metric of the unpatched and the patched runs."""
        bases, sources = runs.read()
        base, source = runs.sides
        arrays: list[dict[str, np.ndarray]] = []
        sendings: list[Sending] = []
        keys: list[tuple[int, str, tuple[int, ...]]] = []
        for place, pair in enumerate(runs.some):
            values = [self.measure.value(states[place].outcome, pair) for states in (bases, sources)]
            arrays.append({base: np.array(values[0]), source: np.array(values[1])})
            for name, shape in self._shapes().items():
                arrays[-1][name] = np.full(shape, np.nan)
            for name, at, parts in self._senders(runs, pair):
                sendings.append(Sending(place, parts))
                keys.append((place, name, at))
        for number, value in runs.exact(bases, sources, sendings):
            place, name, at = keys[number]
            arrays[place][name][at] = value
        yield from zip(runs.some, arrays, strict=True)

    def _shapes(self) -> dict[str, tuple[int, ...]]:
        made: dict[str, tuple[int, ...]] = {}
        for name, layers in self.ends.layers.items():
            made[f"values/{name}"] = len(layers), len(self.layout.columns[name])
        for name in self.ends.candidates:
            made[f"units/{name}"] = len(self.ends.layers[name]), self.model.spaces[name].width
        return made if self.ends.units is None else made | {"joint": ()}

    def _senders(self, runs: PathRuns, pair: int) -> Iterator[tuple[str, tuple[int, ...], tuple[Part, ...]]]:
        """Yield (array name, index, parts) of every sender of a pair."""
        joint: list[Part] = []
        for name, layers in self.ends.layers.items():
            everywhere = runs.everywhere(name, pair)
            for at, layer in enumerate(layers):
                units = None if self.ends.units is None else np.flatnonzero(self.ends.units.mask[name][layer])
                for column, match in enumerate(runs.matches(name, pair)):
                    if match:
                        yield f"values/{name}", (at, column), (Part(name, layer, match, units),)
                if everywhere:
                    joint.append(Part(name, layer, everywhere, units))
                swept = self.chosen[name][layer] if name in self.chosen else np.zeros(0, dtype=bool)
                for unit in np.flatnonzero(swept).tolist() if everywhere else ():
                    yield f"units/{name}", (at, unit), (Part(name, layer, everywhere, np.array([unit])),)
        if self.ends.units is not None and joint:
            yield "joint", (), tuple(joint)

    def _largest(self, estimates: Sequence[Mapping[str, np.ndarray]]) -> dict[str, Bool[np.ndarray, "layer unit"]]:
        """The units with the largest estimates, over all pairs."""
        names = list(self.ends.candidates)
        ranked = [
            (-abs(float(np.sum([one[name][layer, unit] for one in estimates]))), place, layer, unit)
            for place, name in enumerate(names)
            for layer, unit in np.argwhere(self.ends.candidates[name]).tolist()
        ]
        made = {name: np.zeros_like(mask) for name, mask in self.ends.candidates.items()}
        for _, place, layer, unit in sorted(ranked)[: self.exact]:
            made[names[place]][layer, unit] = True
        return made

    # -- the result --------------------------------------------------------------------------------------------------

    def _result(
        self,
        found: Sequence[Mapping[str, np.ndarray]],
        estimates: Sequence[Mapping[str, np.ndarray]],
        picture: np.ndarray | None,
    ) -> Patching:
        def stacked(name: str) -> Float[np.ndarray, "pair ..."]:
            return np.stack([arrays[name] for arrays in found]).astype(np.float64)

        layers = self.ends.layers
        base = stacked("corrupt" if self.direction == "denoise" else "clean")
        values = {name: stacked(f"values/{name}") for name in layers}
        units, guessed, ran = {}, {}, {}
        for name, mask in self.ends.candidates.items():
            own = list(layers[name])
            units[name], ran[name] = stacked(f"units/{name}"), self.chosen[name][own]
            if estimates[0]:
                change = np.stack([each[name][own] for each in estimates])
                guessed[name] = np.where(mask[own], base[:, None, None] + change, np.nan)
                units[name] = np.where(ran[name], units[name], guessed[name])
        networks = {}
        if self.ends.units is not None:
            networks[SENDER] = NetworkPatch(self.ends.units.count, values, stacked("joint"), {})
        return Patching(
            self.model.name,
            self.measure.metric.name,
            self.direction,
            False,
            tuple(stimulus.label for stimulus in self.layout.clean),
            {name: tuple(columns) for name, columns in self.layout.columns.items()},
            layers,
            stacked("clean"),
            stacked("corrupt"),
            values,
            networks,
            picture=picture,
            unit_values=units,
            receiver=self.ends.label,
            unit_exact=ran,
            unit_estimates=guessed,
            freeze=self.freeze,
        )
