"""Estimates of the effects of patches from gradients, pair by pair.

The effect of patching an activation ``a`` is estimated as ``(a_source - a_base) . g``. The methods differ in the
gradient ``g`` of the metric: that at the unpatched run (``"gradient"``), its mean along the straight path from
``a_base`` to ``a_source`` (``"integrated"``), or several, each without the paths through one block (``"atp*"``, see
:mod:`modalnet.patching.atp_star`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import numpy as np

from modalnet._validation import check_int, check_option
from modalnet.errors import InputError
from modalnet.execution.cells import Cell, State, Swap

if TYPE_CHECKING:
    import torch
    from jaxtyping import Float

    from modalnet.model import Model
    from modalnet.patching.metrics import Measure
    from modalnet.patching.pairs import Layout
    from modalnet.patching.token_alignment import Match

#: Gradients of a pair: per space [layer, token, number].
Slopes: TypeAlias = "dict[str, Float[torch.Tensor, 'layer token number']]"

MethodName: TypeAlias = Literal["gradient", "integrated", "atp*"]
METHODS = ("gradient", "integrated", "atp*")
#: Those whose effects have a sign.
SIGNED = ("gradient", "integrated")
STEPS = 10  # of a path, where the user gives no number
# Pairs per batch of states, which bounds memory.
TOGETHER = 16


@dataclass(frozen=True)
class Method:
    """How effects are estimated: a name, and the number of steps of a path (0 for other methods)."""

    name: str = "gradient"
    steps: int = 0

    @classmethod
    def checked(cls, name: str, steps: int | None) -> Method:
        """Return the method of that name.

        Raises
        ------
        InputError
            If there is none, ``steps`` is not a positive integer, or is given for a method without steps.
        """
        check_option("method", name, METHODS)
        if steps is not None and name != "integrated":
            raise InputError(f"`steps` is for method='integrated' alone, got {steps!r} with method={name!r}.")
        if name != "integrated":
            return cls(name)
        return cls(name, STEPS if steps is None else check_int("steps", steps, minimum=1))


def refuse_inference_mode(what: str = "attribution_patching()") -> None:
    """Raise an InputError inside ``torch.inference_mode()``; ``what`` is what needs gradients."""
    import torch

    # no_grad() is undone for the backward pass; this mode is not, as the tensors made in it never have a gradient.
    if torch.is_inference_mode_enabled():
        raise InputError(f"{what} needs gradients, which torch.inference_mode() forbids. Call it outside of it.")


def check_differentiable(measure: Measure, direction: str, method: Method) -> None:
    """Raise an InputError for a metric whose gradient at the unpatched run is zero, where that is the one taken."""
    if measure.needs_clean and direction == "noise" and method.name != "integrated":
        raise InputError(
            "`direction='noise'` cannot estimate KL(clean || run): its gradient is zero in the clean run, where it has "
            "its minimum. Use `direction=\"denoise\"`, method='integrated' or another metric."
        )


@dataclass(frozen=True, eq=False)
class Estimated:
    """The estimated effects of the patches of one pair.

    Attributes
    ----------
    pair
        Index of the pair.
    base, source
        The metric of the run that is patched, and of the run that activations come from.
    columns
        Per space [layer, column], of the patched layers: the change of the metric, of ``"atp*"`` its magnitude; NaN
        where the pair lacks the column.
    units
        Per space [layer, dim], of the patched layers: the same by each unit, patched at all columns.
    """

    pair: int
    base: float
    source: float
    columns: dict[str, Float[np.ndarray, "layer column"]]
    units: dict[str, Float[np.ndarray, "layer dim"]]


def estimates(  # noqa: PLR0917
    model: Model,
    measure: Measure,
    layout: Layout,
    direction: str,
    method: Method,
    batch_size: int | Literal["auto"],
) -> Iterator[Estimated]:
    """Yield the estimates of every pair, not in order."""
    for start in range(0, len(layout.clean), TOGETHER):
        some = list(range(start, min(start + TOGETHER, len(layout.clean))))
        yield from Chunk(model, measure, layout, direction, batch_size, some).estimates(method)
        measure.reference.clear()


@dataclass
class Chunk:
    """Some pairs, which run together."""

    model: Model
    measure: Measure
    layout: Layout
    direction: str
    batch_size: int | Literal["auto"]
    some: list[int]

    @property
    def sides(self) -> tuple[str, str]:
        """Of the runs that are patched, and of those that activations come from."""
        return ("corrupt", "clean") if self.direction == "denoise" else ("clean", "corrupt")

    def estimates(self, method: Method) -> Iterator[Estimated]:
        """Yield the estimates of each pair, not in order, by a method whose effects have a sign."""
        base, source = self.sides
        sources = self.states(source)
        runs = self._at_base(base) if method.name == "gradient" else self._along(base, sources, method.steps)
        for place, state, slopes, value in runs:
            pair = self.some[place]
            columns, units = {}, {}
            for space, layers in self.layout.layers.items():
                columns[space] = np.stack(
                    [
                        self.products(space, match, state, sources[place], slopes[space]).sum(1)[list(layers)]
                        if match
                        else np.full(len(layers), np.nan)
                        for match in self.matches(space, pair)
                    ],
                    axis=1,
                )
                everywhere = self.everywhere(space, pair)
                units[space] = self.products(space, everywhere, state, sources[place], slopes[space])[list(layers)]
            yield Estimated(pair, value, self.measure.value(sources[place].outcome, pair), columns, units)

    # -- runs ------------------------------------------------------------------------------------------------------

    def options(self, more: Sequence[str] = ()) -> dict[str, Any]:
        """What the runs of either side have in common; ``more`` spaces than those that are patched may be read."""
        answers = self.measure.continuations
        continuations = None if answers is None else [answers[pair] for pair in self.some]
        return {"continuations": continuations, "batch_size": self.batch_size, "spaces": [*self.layout.layers, *more]}

    def stimuli(self, side: str) -> list[Any]:
        """The stimuli of one side."""
        stimuli = self.layout.clean if side == "clean" else self.layout.corrupt
        return [stimuli[pair] for pair in self.some]

    def states(self, side: str, more: Sequence[str] = ()) -> list[State]:
        """The runs of one side, with the metric's part of the logits."""
        outcome = self.measure.outcome_of(self.some)
        states = self.model._executor.states(self.stimuli(side), outcome=outcome, **self.options(more))
        if side == "clean":
            self.measure.refer(self.some, states)
        return states

    def measured(self, side: str) -> Callable[[torch.Tensor, Sequence[int]], torch.Tensor]:
        """The metric as a differentiable function of the logits of some of the pairs."""
        tokens = _answer_tokens(self.model, self.stimuli(side), self.options()["continuations"])

        def measured(logits: torch.Tensor, places: Sequence[int]) -> torch.Tensor:
            return self.measure.of_logits(logits, [self.some[p] for p in places], [tokens[p] for p in places])

        return measured

    def _at_base(self, base: str) -> Iterator[tuple[int, State, Slopes, float]]:
        """The gradients at the unpatched runs."""
        run = self.model._executor.gradients(self.stimuli(base), self.measured(base), **self.options())
        for place, state, slopes, value in run:
            yield place, state, slopes, float(value)

    def _along(self, base: str, sources: Sequence[State], steps: int) -> Iterator[tuple[int, State, Slopes, float]]:
        """The mean gradients on the straight paths from the unpatched to the patched activations of each site.

        The mean over the middles of equal steps (the midpoint rule), whose error falls with the square of their number.
        """
        import torch

        states = self.states(base)
        slopes = [{space: torch.zeros_like(values) for space, values in each.activations.items()} for each in states]
        cells: list[Cell] = []
        for place, pair in enumerate(self.some):
            for name, layers in self.layout.layers.items():
                match = self.everywhere(name, pair)
                into, out_of = self.tokens(match)
                for layer in layers if match else ():
                    if not self.model.spaces[name].widths[layer]:
                        continue
                    start, end = states[place].activations[name][layer], sources[place].activations[name][layer]
                    for step in range(steps):
                        values = torch.lerp(start[into], end[out_of], (step + 0.5) / steps)
                        cells.append(Cell(place, (Swap(self.model.spaces[name], layer, into, values),)))
        for number, gradient in self.model._executor.cell_gradients(
            states, cells, self.measured(base), batch_size=self.batch_size
        ):
            (swap,) = cells[number].swaps
            slopes[cells[number].state][swap.space.name][swap.layer] += gradient / steps
        for place, pair in enumerate(self.some):
            yield place, states[place], slopes[place], self.measure.value(states[place].outcome, pair)

    # -- products --------------------------------------------------------------------------------------------------

    def matches(self, space: str, pair: int) -> list[Match]:
        """The tokens of each column of a pair; none where the pair lacks the column."""
        return [per_pair[pair] for per_pair in self.layout.matches[space]]

    def everywhere(self, space: str, pair: int) -> list[tuple[int, int]]:
        """The tokens of all columns of a pair, each once."""
        return sorted({match for per_pair in self.layout.matches[space] for match in per_pair[pair]})

    def tokens(self, match: Sequence[tuple[int, int]]) -> tuple[torch.Tensor, torch.Tensor]:
        """The patched tokens, and those that their activations come from."""
        import torch

        side = 1 if self.direction == "denoise" else 0
        pairs = torch.tensor(match, dtype=torch.long).reshape(-1, 2)
        return pairs[:, side], pairs[:, 1 - side]

    def products(
        self,
        space: str,
        match: Sequence[tuple[int, int]],
        into: State,
        out_of: State,
        slopes: Float[torch.Tensor, "layer token number"],
    ) -> Float[np.ndarray, "layer dim"]:
        """Activation difference times gradient, summed over the patched tokens and the numbers of each unit."""
        first, second = self.tokens(match)
        difference = out_of.activations[space][:, second] - into.activations[space][:, first]
        each = (difference.double() * slopes[:, first].double()).sum(1).numpy()
        return self.model.spaces[space].of_units(each).sum(-1)


def _answer_tokens(model: Model, stimuli: Sequence[Any], continuations: Sequence[str] | None) -> list[tuple[int, ...]]:
    if continuations is None:
        return [() for _ in stimuli]
    return [model._executor.next_tokens(stimulus, text) for stimulus, text in zip(stimuli, continuations, strict=True)]
