"""What is added to the residual stream in one block, worked out from a few positions of what its modules take and give.

The stream is seen where the block begins and ends and where its norms begin and end. A sublayer's output is what is
added if two of these differ by it, as it is or times a number or a number per column.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import permutations
from typing import TYPE_CHECKING

from modalnet.models.places import Side

if TYPE_CHECKING:
    import torch
    from jaxtyping import Float

#: A module's path inside the block, and a side of it.
End = tuple[str, Side]


@dataclass
class Seen:
    """What was seen of one block in a pass.

    Attributes
    ----------
    rows
        Per module and side, ``[position, number]`` at a few positions of the stream.
    rank
        Per module and side, its place in the order of the pass.
    visits
        How often each module was called.
    n_positions
        Per module and side, how many positions it has; of the stream for the block itself.
    epsilon
        Relative error of one number in the precision of the model.
    """

    rows: dict[End, Float[torch.Tensor, "position number"]] = field(default_factory=dict)
    rank: dict[End, int] = field(default_factory=dict)
    visits: dict[str, int] = field(default_factory=dict)
    n_positions: dict[End, int] = field(default_factory=dict)
    epsilon: float = 1e-7

    @property
    def tolerance(self) -> float:
        """Relative difference up to which a vector equals another."""
        return 1e-4 if self.epsilon < 1e-5 else 3e-2

    def order(self, end: End) -> float:
        """When an end is reached, from 0 where the block begins to 100 where it ends."""
        begin, last = self.rank.get(("", "input"), 0), self.rank.get(("", "output"), 0)
        return 100 * (self.rank[end] - begin) / max(1, last - begin)

    def equal(self, one: End, other: End) -> bool:
        """Whether the numbers of two ends are the same, position by position."""
        import torch

        left, right = self.rows.get(one), self.rows.get(other)
        if left is None or right is None or left.shape != right.shape:
            return False
        allowed = 4 * self.epsilon * torch.maximum(left.abs(), right.abs())
        return bool(left.abs().max() > 0) and bool(((left - right).abs() <= allowed).all())

    def fits(self, rest: torch.Tensor, size: torch.Tensor, *around: torch.Tensor) -> bool:
        """Whether what is left of a difference is rounding."""
        # The median, since a few dimensions may be a thousand times larger than the others.
        allowed = self.tolerance * (size.abs() + size.abs().median())
        for each in around:
            allowed = allowed + 3 * self.epsilon * each.abs()
        return bool(size.abs().max() > 0) and float((rest.abs() <= allowed).float().mean()) >= 0.98

    def scale(self, end: End, change: Change, *, columns: bool = False) -> torch.Tensor | None:
        """What an output is multiplied with to be a change of the stream; None where it is not."""
        output = self.rows[end]
        if output.shape != change.value.shape:
            return None
        # Some blocks leave out tokens, such as those before an image.
        there = (change.value != 0).any(1)
        output, value, before, after = (each[there] for each in (output, change.value, change.before, change.after))
        if len(output) < min(2, len(there)):
            return None
        axis = 0 if columns else (0, 1)
        weight = output.square().sum(axis)
        scale = (output * value).sum(axis) / weight.clamp_min(1e-30)
        fits = self.fits(value - scale * output, scale * output, before, after)
        return scale if fits else None

    def between(self, end: End, change: Change) -> bool:
        """Whether an output is there after the first of two states of the stream and before the second."""
        return self.rank[change.start] < self.rank[end] < self.rank[change.end]

    def scale_beside(self, end: End, change: Change, *, columns: bool = False) -> torch.Tensor | None:
        """What an output is multiplied with where the stream is multiplied as well; None where they make no change."""
        output, before, after = self.rows[end], change.before, change.after
        if output.shape != after.shape or len(output) < 4:
            return None
        axis = 0 if columns else (0, 1)
        (a, b, c) = ((one * two).sum(axis) for one, two in ((before, before), (before, output), (output, output)))
        d, e = (before * after).sum(axis), (output * after).sum(axis)
        whole = (a * c - b * b).clamp_min(1e-30)
        keeps, scale = (c * d - b * e) / whole, (a * e - b * d) / whole
        fits = self.fits(after - keeps * before - scale * output, scale * output, before, after)
        return scale if fits else None

    def scales_together(self, ends: Sequence[End], change: Change) -> torch.Tensor | None:
        """What several outputs are multiplied with for their sum to be a change; None where it is none."""
        import torch

        parts = [self.rows[end] for end in ends]
        if any(part.shape != change.value.shape for part in parts):
            return None
        matrix = torch.stack([part.flatten() for part in parts]).double()
        scales, info = torch.linalg.solve_ex(matrix @ matrix.T, matrix @ change.value.flatten().double())
        if bool(info) or not bool((scales.abs() > 1e-6).all()):  # NaN is not either
            return None
        scales = scales.float()
        made = sum(scale * part for scale, part in zip(scales, parts, strict=True))
        assert isinstance(made, torch.Tensor)
        return scales if self.fits(change.value - made, made, change.before, change.after) else None


@dataclass(frozen=True, eq=False)
class Change:
    """The stream in two places of a block, and the difference."""

    start: End
    end: End
    before: Float[torch.Tensor, "position dim"]
    after: Float[torch.Tensor, "position dim"]

    @property
    def value(self) -> Float[torch.Tensor, "position dim"]:
        """What the stream changes by."""
        return self.after - self.before


@dataclass(frozen=True, eq=False)
class Addition:
    """What a sublayer adds: the module that puts it out, its scale, and the change that it makes."""

    end: End
    scale: torch.Tensor
    change: Change


def changes(seen: Seen, ends: Iterable[End]) -> list[Change]:
    """Every change between two different places of the stream, from earlier to later ones."""
    unique: list[End] = []
    for end in sorted(ends, key=lambda each: seen.rank.get(each, 0)):
        if end in seen.rows and not any(seen.equal(end, other) for other in unique):
            unique.append(end)
    pairs = [(one, two) for one, two in permutations(unique, 2) if seen.rank[one] < seen.rank[two]]
    return [Change(one, two, seen.rows[one], seen.rows[two]) for one, two in pairs]


def reached(seen: Seen, start: Sequence[str], candidates: Sequence[str]) -> list[str]:
    """Those candidates that hand on what some modules put out: the modules around them, and those that they feed."""
    found = [path for path in candidates if path in start]
    growing = True
    while growing:
        growing = False
        for path in candidates:
            if path in found or (path, "output") not in seen.rows:
                continue
            if any(seen.equal((path, "input"), (each, "output")) for each in found):
                found.append(path)
                growing = True
    return found


def alone(seen: Seen, outputs: Sequence[str], made: Sequence[Change], *, rescaled: bool = False) -> Addition | None:
    """The first output that is a change of the stream by itself, times a number or else a number per column.

    Where it is none, and ``rescaled``, the stream may be multiplied as well, by a number or a number per column.
    """
    ways = [seen.scale, seen.scale_beside] if rescaled else [seen.scale]
    for way in ways:
        for columns in (False, True):
            for path in outputs:
                end: End = (path, "output")
                for change in made:
                    scale = way(end, change, columns=columns) if seen.between(end, change) else None
                    if scale is not None:
                        return Addition(end, scale, change)
    return None


def together(
    seen: Seen, outputs: Sequence[str], others: Sequence[str], made: Sequence[Change]
) -> tuple[Addition, Addition] | None:
    """The first output that is a change of the stream together with another one."""
    for change in made:
        for one, two in _pairs(outputs, others):
            ends: list[End] = [(one, "output"), (two, "output")]
            if any(end not in seen.rows or not seen.between(end, change) for end in ends) or seen.equal(*ends):
                continue
            scales = seen.scales_together(ends, change)
            if scales is not None:
                return Addition(ends[0], scales[0], change), Addition(ends[1], scales[1], change)
    return None


def _pairs(outputs: Sequence[str], others: Sequence[str]) -> Iterator[tuple[str, str]]:
    return ((one, two) for one in outputs for two in others if one != two)
