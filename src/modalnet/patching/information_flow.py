"""Information flow: which tokens an answer needs to attend to which others, and in which layers.

The attention edges from one group of tokens to another are removed in a window of neighbouring layers, and the answer
is measured (Geva et al. 2023; Zhang et al. 2025 for pictures). What removing edges costs is compared with two kinds of
random edges of the same stimulus: as many, and as many as carry the same attention. Windows of all sets and their
random edges share batches, and the blocks before a window are not run again.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from modalnet._validation import check_int, check_shared, check_type
from modalnet.errors import InputError
from modalnet.execution.cells import Cell, EdgeCut
from modalnet.execution.knockouts import are_ahead
from modalnet.model import as_model
from modalnet.models.fingerprint import reads_weights_once
from modalnet.patching.edge_sets import EdgeSet, EdgesLike, check_edge_sets, equal_attention, equal_number, pairs_of
from modalnet.patching.flow_result import KINDS, InformationFlow
from modalnet.patching.metrics import Measure, as_metric
from modalnet.results.cache import Access, CacheLike, cached_parts
from modalnet.stimuli.conversion import as_stimuli

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int

    from modalnet.execution.cells import State
    from modalnet.model import Model
    from modalnet.models.masks import EdgeSpace
    from modalnet.stimuli import Stimulus

#: Stimuli whose activations are held at once.
TOGETHER = 16


@reads_weights_once
def information_flow(
    model: Model,
    stimuli: Any,
    metric: Any,
    *,
    window: int | None = None,
    stride: int | None = None,
    edges: EdgesLike = None,
    tower: str = "decoder",
    n_controls: int = 3,
    seed: int = 0,
    batch_size: int | Literal["auto"] = "auto",
    remote: bool | str | None = None,
    cache: CacheLike = True,
    progress: bool = True,
) -> InformationFlow:
    """Measure what an answer loses when groups of tokens no longer attend to others, window by window of layers.

    Parameters
    ----------
    model
        A model from :func:`modalnet.load`.
    stimuli
        Stimuli that end where the answer begins.
    metric
        What is measured after each: :func:`modalnet.patching.logit_difference`, ``log_probability``,
        ``kl_divergence`` (from the intact run), or a function of the logits.
    window
        Number of neighbouring layers in which edges are removed; None for about a quarter of the tower.
    stride
        From how many layers on the next window begins; None for half of a window.
    edges
        ``(source, target)`` pairs of token groups, or a mapping from names to pairs. Groups are those of
        :func:`modalnet.knockout`, or ``Grid(rows, columns)``, which makes a set for each cell of the picture. None:
        image to question, image to last token and question to last token, or for texts, all earlier tokens of the text
        to the last. The last token belongs to no other group of targets.
    tower
        Whose attention.
    n_controls
        Number of draws of random edges of each kind, for each stimulus, set and window.
    seed
        Of the random edges.
    batch_size
        Number of runs per forward pass.
    remote
        Where the model runs: None for its default, or a value that :func:`modalnet.load` accepts. Attention weights
        are read locally, so that on a server random edges are of equal number alone.
    cache
        Whether results are stored per stimulus and reused. Results of a function as metric are not stored.
    progress
        Whether to show a progress bar.

    Returns
    -------
    InformationFlow
        ``.drop[name]`` ``[window, stimulus]``, ``.table()``, ``.verdicts()``, ``.summary()``, ``.plot()``.

    Raises
    ------
    InputError
        Before any run under a knockout: for arguments that are invalid, a window outside the tower, tokens that a
        stimulus does not have, a set without an edge that attention allows, an attention whose mask cannot be set.

    References
    ----------
    Geva, Bastings, Filippova & Globerson (2023), Dissecting recall of factual associations in auto-regressive language
    models, EMNLP, arXiv:2304.14767. Zhang, Yadav, Han & Shutova (2025), Cross-modal information flow in multimodal
    large language models, CVPR, arXiv:2411.18620.
    """
    check_shared(n_controls=n_controls, seed=seed, batch_size=batch_size, progress=progress)
    check_type("tower", tower, str, "the name of a tower")
    access = Access.of(cache)
    model = as_model(model, remote)
    given = as_stimuli(stimuli)
    sets = check_edge_sets(edges, given)
    measure = as_metric(metric).bind(model, given, given)
    if tower not in model.towers:
        raise InputError(f"`tower` must be one of {', '.join(model.towers)}, got {tower!r}.")
    windows = choose_windows(model.towers[tower].n_layers, window, stride, tower)
    job = _Job(model, measure, given, sets, tower, windows, n_controls, seed, batch_size)
    found = job.run(access if measure.metric.function is None else False, progress=progress)
    return job.result(found)


def choose_windows(n_layers: int, window: int | None, stride: int | None, tower: str) -> tuple[range, ...]:
    """Windows of neighbouring layers over the depth of a tower; the last one ends with its last layer.

    Raises
    ------
    InputError
        For a window that is longer than the tower.
    """
    length = max(1, round(n_layers / 4)) if window is None else check_int("window", window, minimum=1)
    if length > n_layers:
        raise InputError(f"`window` is {length} layers, but the {tower} tower has {n_layers}.")
    step = max(1, length // 2) if stride is None else check_int("stride", stride, minimum=1)
    starts = list(range(0, n_layers - length + 1, step))
    if starts[-1] != n_layers - length:
        starts.append(n_layers - length)
    return tuple(range(start, start + length) for start in starts)


@dataclass
class _Job:
    model: Model
    measure: Measure
    stimuli: Sequence[Stimulus]
    sets: tuple[EdgeSet, ...]
    tower: str
    windows: tuple[range, ...]
    n_controls: int
    seed: int
    batch_size: int | Literal["auto"]

    def run(self, cache: CacheLike, *, progress: bool) -> list[dict[str, np.ndarray]]:
        """The arrays of each stimulus, from the store or computed and stored."""
        from tqdm.auto import tqdm

        executor = self.model._executor
        prepared = executor.prepare(list(self.stimuli))
        rows = [executor.token_row(item, self.tower) for item in prepared]
        pairs = [
            pairs_of(self.sets, self.model.towers[self.tower], stimulus, row, index, executor.image_places)
            for index, (stimulus, row) in enumerate(zip(self.stimuli, rows, strict=True))
        ]
        causal = executor.is_causal(self.model.towers[self.tower])
        for stimulus, row, own in zip(self.stimuli, rows, pairs, strict=True):
            for one, edges in zip(self.sets, own, strict=True):
                if not len(edges) or (causal and are_ahead(edges, row)):
                    raise InputError(
                        f"In stimulus {stimulus.label} no edge leads from {one.name}"
                        + (", since attention is causal. Exchange source and target." if len(edges) else ".")
                    )

        def compute(missing: list[int]) -> Iterator[tuple[int, dict[str, np.ndarray]]]:
            space = executor.edges_of(self.tower, prepared)
            for layer in range(self.windows[-1].stop):
                space.mask(layer)
            for start in range(0, len(missing), TOGETHER):
                yield from self._measured(space, missing[start : start + TOGETHER], pairs, causal=causal)

        found: list[Any] = [None] * len(self.stimuli)
        settings = [self._of(index, pairs[index]) for index in range(len(found))]
        parts = cached_parts(self.model, "information_flow", self._shared(), settings, compute, cache=cache)
        with tqdm(total=len(found), unit="stimulus", disable=not progress) as bar:
            for index, arrays in parts:
                found[index] = arrays
                bar.update()
        return found

    @property
    def kinds(self) -> tuple[str, ...]:
        """Kinds of random edges that can be drawn: attention weights are read locally."""
        if not self.n_controls:
            return ()
        return KINDS if self.model._executor.backend.capabilities.in_place else KINDS[:1]

    def _measured(
        self, space: EdgeSpace, some: Sequence[int], pairs: Sequence[list[np.ndarray]], *, causal: bool
    ) -> Iterator[tuple[int, dict[str, np.ndarray]]]:
        """Yield the arrays of some stimuli."""
        stimuli = [self.stimuli[index] for index in some]
        states = self._states(stimuli, some)
        self.measure.refer(some, states)
        weights = self._weights(stimuli)
        cells: list[Cell] = []
        where: list[tuple[int, str, tuple[int, ...]]] = []
        arrays: list[dict[str, np.ndarray]] = []
        for place, index in enumerate(some):
            value = self.measure.value(states[place].outcome, index)
            arrays.append(self._empty(value, pairs[index]))
            for name, at, window, edges in self._runs(index, pairs[index], weights[place], arrays[-1], causal=causal):
                cells.append(Cell(place, cuts=tuple(_cut(space, layer, edges) for layer in window)))
                where.append((place, name, at))
        outcome = self.measure.outcome_of(some)
        executor = self.model._executor
        for number, found in executor.run_cells(states, cells, outcome, batch_size=self.batch_size):
            place, name, at = where[number]
            arrays[place][name][at] = self.measure.value(found, some[place])
        for index in some:
            self.measure.reference.pop(index, None)
        yield from zip(some, arrays, strict=True)

    def _states(self, stimuli: Sequence[Stimulus], some: Sequence[int]) -> list[State]:
        answers = self.measure.continuations
        return self.model._executor.states(
            stimuli,
            continuations=None if answers is None else [answers[index] for index in some],
            outcome=self.measure.outcome_of(some),
            batch_size=self.batch_size,
        )

    def _weights(self, stimuli: Sequence[Stimulus]) -> list[Float[np.ndarray, "layer target source"] | None]:
        """The attention weights of the intact model, mean over heads; None where they are not read."""
        if self.kinds != KINDS:
            return [None] * len(stimuli)
        layers = range(self.windows[-1].stop)
        everything = self.model._executor.attention(
            stimuli, self.tower, layers, ends=lambda _, row: (range(len(row)), range(len(row))), mean=True
        )
        return [weights[:, 0].double().numpy() for weights in everything]

    def _empty(self, value: float, pairs: Sequence[np.ndarray]) -> dict[str, np.ndarray]:
        shape = len(self.sets), len(self.windows)
        found = {"whole": np.array(value), "values": np.full(shape, np.nan), "mass": np.full(shape, np.nan)}
        found["edges"] = np.array([len(edges) for edges in pairs], dtype=np.int64)
        for kind in self.kinds:
            found[f"controls/{kind}"] = np.full((*shape, self.n_controls), np.nan)
            found[f"mass/{kind}"] = np.full((*shape, self.n_controls), np.nan)
        return found

    def _runs(
        self,
        index: int,
        pairs: Sequence[Int[np.ndarray, "edge 2"]],
        weights: Float[np.ndarray, "layer target source"] | None,
        arrays: dict[str, np.ndarray],
        *,
        causal: bool,
    ) -> Iterator[tuple[str, tuple[int, ...], range, Int[np.ndarray, "edge 2"]]]:
        """Yield (array, place in it, window, edges) of every run of a stimulus."""
        for number, edges in enumerate(pairs):
            for at, window in enumerate(self.windows):
                summed = None if weights is None else weights[window.start : window.stop].sum(0)
                allowed = _allowed(pairs, causal=causal) if summed is None else summed > 0
                there = edges[_held(allowed, edges)]
                yield "values", (number, at), window, there
                if summed is not None:
                    arrays["mass"][number, at] = summed[there[:, 0], there[:, 1]].sum() / len(window)
                for kind in self.kinds:
                    for draw in range(self.n_controls):
                        rng = np.random.default_rng([self.seed, index, number, at, draw, KINDS.index(kind)])
                        if kind == "number":
                            drawn = equal_number(allowed, there, rng)
                        else:
                            assert summed is not None
                            drawn = equal_attention(allowed, summed, there, rng)
                        if summed is not None:
                            mass = summed[drawn[:, 0], drawn[:, 1]].sum() / len(window)
                            arrays[f"mass/{kind}"][number, at, draw] = mass
                        yield f"controls/{kind}", (number, at, draw), window, drawn

    # -- the store -----------------------------------------------------------------------------------------------

    def _shared(self) -> dict[str, Any]:
        return {
            "tower": self.tower,
            "windows": [[window.start, window.stop] for window in self.windows],
            "n_controls": self.n_controls,
            "kinds": list(self.kinds),
            "seed": self.seed,
        }

    def _of(self, index: int, pairs: Sequence[np.ndarray]) -> dict[str, Any]:
        metric = self.measure.metric
        texts = (metric.answers, metric.distractors)
        return {
            "stimulus": self.stimuli[index].inspect().digest,
            "number": index,
            "edges": [edges.tolist() for edges in pairs],
            "metric": [metric.kind, *(each[index] if isinstance(each, tuple) else each for each in texts)],
        }

    # -- the result ----------------------------------------------------------------------------------------------

    def result(self, found: Sequence[Mapping[str, np.ndarray]]) -> InformationFlow:
        """What was measured, stimuli last."""

        def stacked(name: str) -> np.ndarray:
            return np.stack([arrays[name] for arrays in found], axis=-1)

        return InformationFlow(
            self.model.name,
            self.tower,
            self.measure.metric.name,
            tuple(stimulus.label for stimulus in self.stimuli),
            tuple(one.name for one in self.sets),
            tuple((window.start, window.stop) for window in self.windows),
            stacked("whole").astype(np.float64),
            stacked("values"),
            {kind: stacked(f"controls/{kind}") for kind in self.kinds},
            stacked("mass"),
            {kind: stacked(f"mass/{kind}") for kind in self.kinds},
            stacked("edges"),
            higher=self.measure.metric.kind != "KL divergence",
        )


def _cut(space: EdgeSpace, layer: int, edges: Int[np.ndarray, "edge 2"]) -> EdgeCut:
    import torch

    ends = torch.from_numpy(np.ascontiguousarray(edges.T))
    return EdgeCut(space, layer, ends[0], ends[1])


def _allowed(pairs: Sequence[np.ndarray], *, causal: bool) -> Bool[np.ndarray, "target source"]:
    """Which edges there are where no weights tell: all to earlier tokens, or all."""
    n = 1 + max(int(edges.max()) for edges in pairs)
    every = np.ones((n, n), dtype=bool)
    return np.tril(every, -1) if causal else every


def _held(allowed: Bool[np.ndarray, "target source"], edges: Int[np.ndarray, "edge 2"]) -> Bool[np.ndarray, " edge"]:
    held: np.ndarray = allowed[edges[:, 0], edges[:, 1]]
    return held
