"""Activation patching: which sites, tokens and towers mediate an answer.

A clean and a corrupt stimulus are run without intervention. The corrupt run is then repeated with the residual stream
of the clean run patched in at one block and token at a time, and the answer is measured. Where patching restores it
(denoising), the activations are sufficient for the difference within the pair. Patching corrupt activations into the
clean run (noising) shows which activations are necessary.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from modalnet._deprecation import renamed_arguments
from modalnet._validation import check_bool, check_option, check_shared
from modalnet.activations import check_units
from modalnet.errors import InputError
from modalnet.execution.cells import Cell, State, Swap
from modalnet.model import as_model
from modalnet.models.fingerprint import reads_weights_once
from modalnet.patching.metrics import Measure, as_metric
from modalnet.patching.pairs import Layout, as_pairs, lay_out
from modalnet.patching.paths import path_patching
from modalnet.patching.result import NetworkPatch, Patching
from modalnet.results.cache import Access, CacheLike, cached_parts
from modalnet.stats.controls import Match, check_matches, draw_each, match_ratios
from modalnet.units import NetworksLike, Units, as_networks, as_units

if TYPE_CHECKING:
    from jaxtyping import Int

    from modalnet.model import Model
    from modalnet.stimuli import Stimulus

# Pairs per batch of states, which bounds memory and what an interrupted sweep loses.
TOGETHER = 16
DIRECTIONS = ("denoise", "noise")
# Units of a sweep of path patching that are run exactly.
EXACT = 20
# Units that are patched one by one, per pair.
MOST_UNITS = 10_000


@dataclass(frozen=True, eq=False)
class _Set:
    """Units that are patched jointly: a network (``match`` is empty) or a control."""

    network: str
    match: str
    draw: int
    units: Units


@renamed_arguments(networks="units", controls="n_controls", matches="match")
@reads_weights_once
def activation_patching(
    model: Model,
    clean: Any,
    corrupt: Any,
    metric: Any,
    *,
    sites: Any = "residual",
    towers: str | Sequence[str] | None = None,
    tokens: Any = None,
    direction: Literal["denoise", "noise"] = "denoise",
    align: Any = None,
    units: NetworksLike | None = None,
    per_unit: bool = False,
    sender: Any = None,
    receiver: Any = None,
    exact: int = EXACT,
    freeze: Literal["all", "attention"] = "all",
    n_controls: int = 20,
    match: Match | Sequence[Match] = ("layer", "activation"),
    seed: int = 0,
    batch_size: int | Literal["auto"] = "auto",
    remote: bool | str | None = None,
    cache: CacheLike = True,
    progress: bool = True,
) -> Patching:
    """Patch activations between clean and corrupt runs, one site and token at a time.

    Parameters
    ----------
    model
        A model from :func:`modalnet.load`.
    clean, corrupt
        One stimulus each, or two lists of the same length. A pair may differ in its text, its image or both.
    metric
        The measure of each run: :func:`modalnet.patching.logit_difference`, ``log_probability``, ``kl_divergence``, or
        a function of the logits after a stimulus (see :func:`modalnet.patching.custom`).
    sites
        ``"residual"``: the block outputs; the name of another kind of space, or a list of names; or a list of
        :func:`modalnet.site`.
    towers
        Towers to patch. None: every tower that the stimuli reach, except the vision tower if no pair differs in its
        image.
    tokens
        Tokens to patch, singly or in groups; None for each text token singly and the image tokens as one group. See
        :mod:`modalnet.patching.token_alignment`.
    direction
        ``"denoise"``: clean activations are patched into the corrupt run, which shows what is sufficient for the
        answer. ``"noise"``: the reverse, which shows what is necessary. In both, a larger effect is a site that carries
        more of the difference between the runs.
    align
        Alignment of the tokens of the clean and the corrupt stimulus, if they differ in length: ``"last"``, ``"role"``,
        or indices. See :mod:`modalnet.patching.token_alignment`.
    units
        Networks to patch in addition to whole sites, per block and in all blocks jointly: Units, a Localization, or a
        mapping from names to these.
    per_unit
        Whether each unit of the patched sites is patched by itself, too, at all of the tokens jointly: ``.unit_effect``
        then has the effect of each, such as that of each head. Costs one run per unit, layer and pair, 72 for the heads
        of 12 layers of 6; for many units there is :func:`modalnet.attribution_patching`.
    sender, receiver
        Path patching: only what the sender sends to the receiver past all sublayers between is patched, its direct
        effect; both must be given, and ``sites``, ``towers`` and ``units`` must not. A sender is a site or a list of
        sites (whole layers), units (heads, neurons or dimensions of what sublayers add, patched jointly), or the name
        of a space or a list of names for a sweep over all senders before the receiver: single units of ``"heads"`` and
        ``"neurons"``, beside whole layers; ``per_unit`` sweeps over the units of other senders, too. A receiver is a
        site, units, or ``"logits"`` for the direct effect on the output. ``tokens`` are those of the sender; None for
        all jointly.
    exact
        Of a sweep over units: how many are run exactly, those with the largest estimates. The others stay estimates:
        the derivative of the direct effect at the unpatched run, times the difference of the activations.
    freeze
        Of path patching, what is frozen between sender and receiver: ``"all"`` attentions and MLPs, so that the stream
        alone carries what is sent; or ``"attention"`` alone, as in Wang et al. (2023), who count paths through MLPs as
        direct.
    n_controls, match, seed
        Number of sets of random units per network that are patched jointly as controls, the properties in which they
        match it (``"layer"``, ``"activation"``, ``"tower"``), and their seed. With fewer than 19 sets
        :meth:`Patching.network_table` leaves open whether a network carries more or less than they do. Units without
        ``mean_abs`` have no activation-matched controls, with a warning.
    batch_size
        Number of patched runs per forward pass.
    remote
        Where the model runs: None for its default, or a value that :func:`modalnet.load` accepts.
    cache
        Whether results are stored per pair and reused, so that an interrupted sweep resumes where it stopped. Results
        of a function as metric are not stored, because a function has no identity.
    progress
        Whether to show a progress bar.

    Returns
    -------
    Patching
        ``.effect[tower]`` ``[layer, column]``: the share of the difference between the clean and the corrupt run that
        patching restores (``"denoise"``) or destroys (``"noise"``). With ``per_unit`` ``.unit_effect[tower]``
        ``[layer, unit]`` is the same for each unit, and ``.plot(on="units")`` draws it. Of path patching these are
        direct effects of senders by way of ``.receiver``; ``.unit_exact`` says which units were run exactly,
        ``.unit_agreement()`` how far their estimates lay from that, and units that were given as the sender are a
        network, ``.network_table()``.

    Raises
    ------
    InputError
        If an argument is invalid, ``per_unit`` takes more than 10,000 runs per pair, the stimuli of a pair are equal or
        cannot be aligned, an answer is not a single token where the metric requires one, or a network has no unit at
        the patched sites; of path patching, if an end is missing or cannot send or receive (experts, latents), the
        sender does not come before the receiver, they lie in different towers, or a block between them changes the
        stream by more than its attention and its MLP. Raised before any patched run.

    References
    ----------
    Vig et al. (2020), Causal mediation analysis. NeurIPS. Meng et al. (2022), Locating and editing factual
    associations. NeurIPS. Zhang & Nanda (2024), Towards best practices of activation patching. ICLR. Heimersheim &
    Nanda (2024), How to use and interpret activation patching, arXiv:2404.15255. Wang et al. (2023), Interpretability
    in the wild, arXiv:2211.00593, section 3.1 and appendix B, and Goldowsky-Dill et al. (2023), Localizing model
    behavior with path patching, arXiv:2304.05969, for paths.
    """
    check_shared(n_controls=n_controls, seed=seed, batch_size=batch_size, progress=progress)
    check_option("direction", direction, DIRECTIONS)
    check_bool("per_unit", per_unit)
    kinds = check_matches(match)
    access = Access.of(cache)
    networks = _networks(units)
    model = as_model(model, remote)
    for name, network in networks.items():
        check_units(model, network, f"The units of network {name!r}")
    pairs = as_pairs(clean, corrupt)
    measure = as_metric(metric).bind(model, *pairs)
    if sender is not None or receiver is not None:
        _check_no_sites(sites, towers, units)
        return path_patching(
            model,
            pairs,
            measure,
            sender=sender,
            receiver=receiver,
            exact=exact,
            freeze=freeze,
            tokens=tokens,
            direction=direction,
            align=align,
            per_unit=per_unit,
            batch_size=batch_size,
            access=access,
            progress=progress,
            picture=first_picture(pairs[0]),
        )
    _check_no_path(exact, freeze)
    layout = lay_out(model, pairs, measure, sites=sites, towers=towers, tokens=tokens, align=align)
    if per_unit:
        _check_few(model, layout)
    sets = _sets(model, networks, layout, n_controls=n_controls, match=kinds, seed=seed)
    job = _Job(model, measure, layout, direction, sets, batch_size, per_unit)
    found = job.run(access if measure.metric.function is None else False, progress=progress)
    return job.result(found)


@dataclass
class _Job:
    model: Model
    measure: Measure
    layout: Layout
    direction: str
    sets: list[_Set]
    batch_size: int | Literal["auto"]
    per_unit: bool

    def run(self, cache: CacheLike, *, progress: bool) -> list[dict[str, np.ndarray]]:
        """Return the arrays of each pair, loaded from the store or computed and stored."""
        from tqdm.auto import tqdm

        def compute(missing: list[int]) -> Iterator[tuple[int, dict[str, np.ndarray]]]:
            for start in range(0, len(missing), TOGETHER):
                yield from self._patched(missing[start : start + TOGETHER])

        found: list[Any] = [None] * self.n
        parts = cached_parts(
            self.model, "patching", self._shared(), [self._of(pair) for pair in range(self.n)], compute, cache=cache
        )
        with tqdm(total=self.n, unit="pair", disable=not progress) as bar:
            for pair, arrays in parts:
                found[pair] = arrays
                bar.update()
        return found

    @property
    def n(self) -> int:
        return len(self.layout.clean)

    # -- running -------------------------------------------------------------------------------------------------

    def _patched(self, some: Sequence[int]) -> Iterator[tuple[int, dict[str, np.ndarray]]]:
        """Yield the arrays of some pairs: ``clean``, ``corrupt``, ``values/<tower>`` and those of the networks."""
        clean, corrupt = (self._states(side, some) for side in (self.layout.clean, self.layout.corrupt))
        self.measure.refer(some, clean)
        whole = {
            name: [self.measure.value(state.outcome, pair) for state, pair in zip(states, some, strict=True)]
            for name, states in (("clean", clean), ("corrupt", corrupt))
        }
        base, source = (corrupt, clean) if self.direction == "denoise" else (clean, corrupt)
        cells: list[Cell] = []
        where: list[tuple[int, str, tuple[int, ...]]] = []
        arrays: list[dict[str, np.ndarray]] = []
        unpatched = whole["corrupt" if self.direction == "denoise" else "clean"]
        for place, pair in enumerate(some):
            arrays.append({name: np.array(values[place]) for name, values in whole.items()})
            for name, at, swaps in self._cells(pair, source[place]):
                shape = self._shape(name, pair)
                array = arrays[-1].setdefault(name, np.full(shape, np.nan))
                if swaps:
                    cells.append(Cell(place, swaps))
                    where.append((place, name, at))
                else:
                    array[at] = unpatched[place]  # the network has no unit here, so nothing is patched
        for number, value in self._measured(base, cells, some):
            place, name, at = where[number]
            arrays[place][name][at] = value
        for pair in some:
            self.measure.reference.pop(pair, None)
        yield from zip(some, arrays, strict=True)

    def _states(self, side: Sequence[Stimulus], some: Sequence[int]) -> list[State]:
        stimuli = [side[pair] for pair in some]
        answers = self.measure.continuations
        return self.model._executor.states(
            stimuli,
            # Patching a decoder skips the blocks of a vision tower, so the outputs of that tower are required as well.
            spaces=[*self.model._executor.reached_spaces(stimuli), *self.layout.layers],
            continuations=None if answers is None else [answers[pair] for pair in some],
            outcome=self.measure.outcome_of(some),
            batch_size=self.batch_size,
        )

    def _measured(
        self, states: Sequence[State], cells: Sequence[Cell], some: Sequence[int]
    ) -> Iterator[tuple[int, float]]:
        outcome = self.measure.outcome_of(some)
        for number, found in self.model._executor.run_cells(states, cells, outcome, batch_size=self.batch_size):
            yield number, self.measure.value(found, some[cells[number].state])

    def _cells(self, pair: int, source: State) -> Iterator[tuple[str, tuple[int, ...], tuple[Swap, ...]]]:
        """Yield (array name, index, swaps) for every patched run of a pair."""
        networks = {one.network: one.units for one in self.sets if not one.match}
        for tower, layers in self.layout.layers.items():
            for place, per_pair in enumerate(self.layout.matches[tower]):
                if not per_pair[pair]:
                    continue
                for at, layer in enumerate(layers):
                    swap = self._swap(tower, layer, per_pair[pair], source)
                    yield f"values/{tower}", (at, place), (swap,) if swap else ()
                    for name, units in networks.items():
                        part = self._swap(tower, layer, per_pair[pair], source, _in_layer(units, tower, layer))
                        yield f"networks/{name}/values/{tower}", (at, place), (part,) if part else ()
        everywhere = {
            tower: sorted({match for per_pair in self.layout.matches[tower] for match in per_pair[pair]})
            for tower in self.layout.layers
        }
        for tower, layers in self.layout.layers.items() if self.per_unit else ():
            space = self.model.spaces[tower]
            for at, layer in enumerate(layers) if everywhere[tower] else ():
                for unit in np.flatnonzero(space.exists[layer]).tolist():
                    alone = self._swap(tower, layer, everywhere[tower], source, np.array([unit]))
                    yield f"units/{tower}", (at, unit), (alone,) if alone else ()
        for one in self.sets:
            swaps = []
            for tower, layers in self.layout.layers.items():
                swaps += [
                    self._swap(tower, layer, everywhere[tower], source, _in_layer(one.units, tower, layer))
                    for layer in layers
                ]
            made = tuple(swap for swap in swaps if swap)
            if one.match:
                yield f"networks/{one.network}/controls/{one.match}", (one.draw,), made
            else:
                yield f"networks/{one.network}/joint", (), made

    def _swap(
        self,
        tower: str,
        layer: int,
        match: Sequence[tuple[int, int]],
        source: State,
        units: Int[np.ndarray, " unit"] | None = None,
    ) -> Swap | None:
        """What some units of a layer, or all of them, have at some tokens of the source; None for no units."""
        import torch

        denoise = self.direction == "denoise"
        into = torch.tensor([j if denoise else i for i, j in match])
        out_of = torch.tensor([i if denoise else j for i, j in match])
        space = self.model.spaces[tower]
        values = source.activations[tower][layer][out_of]
        if units is None:
            return Swap(space, layer, into, values)
        dims = torch.from_numpy(space.numbers(units))
        return Swap(space, layer, into, values[:, dims], dims) if len(dims) else None

    def _shape(self, name: str, pair: int) -> tuple[int, ...]:
        parts = name.split("/")
        if "values" in parts:
            tower = parts[-1]
            return len(self.layout.layers[tower]), len(self.layout.columns[tower])
        if parts[0] == "units":
            return len(self.layout.layers[parts[1]]), self.model.spaces[parts[1]].width
        if "controls" in parts:
            return (sum(1 for one in self.sets if name == f"networks/{one.network}/controls/{one.match}"),)
        return ()

    # -- the store -----------------------------------------------------------------------------------------------

    def _shared(self) -> dict[str, Any]:
        """Return the settings that all pairs share, for the cache key."""
        return {
            "direction": self.direction,
            "layers": self.layout.layers,
            "sets": [
                [one.network, one.match, one.draw, {t: np.flatnonzero(m).tolist() for t, m in one.units.mask.items()}]
                for one in self.sets
            ],
            **({"per_unit": True} if self.per_unit else {}),
        }

    def _of(self, pair: int) -> dict[str, Any]:
        """Return the settings of one pair, for the cache key."""
        metric = self.measure.metric
        return {
            "pair": list(self.layout.digests[pair]),
            "metric": [metric.kind, *(_text_of(texts, pair) for texts in (metric.answers, metric.distractors))],
            "matches": {tower: [per_pair[pair] for per_pair in found] for tower, found in self.layout.matches.items()},
        }

    # -- the result ----------------------------------------------------------------------------------------------

    def result(self, found: Sequence[dict[str, np.ndarray]]) -> Patching:
        def stacked(name: str) -> np.ndarray:
            return np.stack([arrays[name] for arrays in found]).astype(np.float64)

        networks = {}
        for one in (one for one in self.sets if not one.match):
            drawn: dict[str, list[Units]] = {}
            for other in self.sets:
                if other.network == one.network and other.match:
                    drawn.setdefault(other.match, []).append(other.units)
            networks[one.network] = NetworkPatch(
                one.units.count,
                {tower: stacked(f"networks/{one.network}/values/{tower}") for tower in self.layout.layers},
                stacked(f"networks/{one.network}/joint"),
                {match: stacked(f"networks/{one.network}/controls/{match}").T for match in drawn},
                {match: match_ratios(one.units, controls) for match, controls in drawn.items()},
            )
        return Patching(
            self.model.name,
            self.measure.metric.name,
            self.direction,
            False,
            tuple(stimulus.label for stimulus in self.layout.clean),
            {tower: tuple(columns) for tower, columns in self.layout.columns.items()},
            self.layout.layers,
            stacked("clean"),
            stacked("corrupt"),
            {tower: stacked(f"values/{tower}") for tower in self.layout.layers},
            networks,
            picture=first_picture(self.layout.clean),
            unit_values={tower: stacked(f"units/{tower}") for tower in self.layout.layers} if self.per_unit else {},
        )


def first_picture(stimuli: Sequence[Stimulus]) -> np.ndarray | None:
    """Return the image of the first stimulus, if it has one, to draw effects on."""
    return np.asarray(stimuli[0].images()[0]) if stimuli[0].n_images == 1 else None


def _in_layer(units: Units, tower: str, layer: int) -> Int[np.ndarray, " unit"]:
    return np.flatnonzero(units.mask[tower][layer]) if tower in units.mask else np.zeros(0, dtype=np.intp)


def _check_no_sites(sites: Any, towers: Any, units: Any) -> None:
    """Refuse what says where to patch beside a sender."""
    for name, given in (("sites", None if sites == "residual" else sites), ("towers", towers), ("units", units)):
        if given is not None:
            raise InputError(f"`{name}` cannot be given with `sender` and `receiver`, which say what is patched.")


def _check_no_path(exact: int, freeze: str) -> None:
    """Refuse what is of path patching alone."""
    for name, given, default in (("exact", exact, EXACT), ("freeze", freeze, "all")):
        if given != default:
            raise InputError(f"`{name}` is of path patching alone. Give `sender` and `receiver`, too.")


def _text_of(texts: Any, pair: int) -> Any:
    return texts[pair] if isinstance(texts, tuple) else texts


def _check_few(model: Model, layout: Layout) -> None:
    """Refuse to patch one by one more units than anyone has the time for."""
    count = sum(model.spaces[name].widths[layer] for name, layers in layout.layers.items() for layer in layers)
    if count > MOST_UNITS:
        raise InputError(
            f"`per_unit` takes one run for each of {count:,} units per pair, and at most {MOST_UNITS:,} are allowed. "
            'Name a space with fewer units, such as sites="heads", or fewer layers, as [mn.site("decoder.neurons", '
            "5)]; or estimate the effect of every unit by mn.attribution_patching."
        )


def _networks(networks: NetworksLike | None) -> dict[str, Units]:
    units = {} if networks is None else {name: as_units(one) for name, one in as_networks(networks).items()}
    for name, network in units.items():
        if not network.count:
            raise InputError(f"Network {name!r} must have at least one unit, got an empty set.")
    return units


def _sets(
    model: Model, networks: Mapping[str, Units], layout: Layout, *, n_controls: int, match: Sequence[str], seed: int
) -> list[_Set]:
    found = []
    for name, units in networks.items():
        _check_network(model, name, units, layout)
        found.append(_Set(name, "", 0, units))
        controls = draw_each(units, n_controls, seed=seed, match=match, name=name)
        found += [_Set(name, kind, number, one) for kind, drawn in controls.items() for number, one in enumerate(drawn)]
    return found


def _check_network(model: Model, name: str, units: Units, layout: Layout) -> None:
    if "/" in name:
        raise InputError(f"Names of networks must not contain a slash, got {name!r}.")
    check_units(model, units, f"The units of network {name!r}")
    patched = [units.mask[tower][list(layers)].sum() for tower, layers in layout.layers.items() if tower in units.mask]
    if not sum(patched):
        raise InputError(
            f"Network {name!r} has no unit at the patched sites ({', '.join(layout.layers)}), so patching it has no "
            "effect."
        )
