"""Which positions of a batch belong to which stimulus, measured rather than assumed.

The language tower holds one row per stimulus, and the encoder knows its tokens. A vision tower is another matter: an
image may be one row, several (tiles), or a stretch of one long packed row, and only the model knows. So the layout is
measured. A stimulus that runs alone shows how many positions its images take, since all of them are its own; in a
batch, each stimulus then owns a contiguous stretch, in order. Before the first batch of a kind is trusted, two stimuli
run alone and together through the first block of each tower, and their positions must hold the same activations both
ways. Where they do not, stimuli of different image sizes are kept apart, and where that does not help, stimuli run one
at a time: slower, never wrong.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from modalnet.architecture.inputs import TEXT_TOWERS, Batch, Encoded, Encoder
from modalnet.architecture.towers import Tower
from modalnet.errors import RemoteError
from modalnet.interventions.engine import Engine, LayoutError
from modalnet.interventions.plan import Plan, Pool, Sites
from modalnet.interventions.positions import Span

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Share:
    """How much of a vision tower one stimulus takes: rows of tokens, in a tensor of some shape."""

    rows: int
    tokens: int
    shape: tuple[int, ...]

    @property
    def positions(self) -> int:
        """Number of positions."""
        return self.rows * self.tokens


class Layouts:
    """Measures and remembers the layouts of one model.

    Parameters
    ----------
    engine, encoder, towers
        The model's own.
    """

    def __init__(self, engine: Engine, encoder: Encoder, towers: dict[str, Tower]) -> None:
        self.engine = engine
        self.encoder = encoder
        self.towers = towers
        self._shares: dict[Any, Share] = {}
        self._together: dict[Any, bool] = {}
        self._stacked: dict[Any, int] = {}

    def spans(self, batch: Batch, tower: str) -> tuple[list[Span], int]:
        """The positions of each stimulus of a batch in a tower, and the number of positions in all."""
        import torch

        if tower in TEXT_TOWERS:
            total = len(batch.items) * batch.width
            return [_text_span(tokens, batch.width) for tokens in batch.text], total
        spans, offset = [], 0
        prefix = self.towers[tower].n_prefix
        for item in batch.items:
            share = self.share(item, tower)
            there, clear = _filled(item, share, prefix)
            place = torch.arange(share.positions)[there] % share.tokens
            cls = (place == 0).nonzero().flatten() if self.towers[tower].has_cls else None
            index = offset + torch.arange(share.positions)[there]
            spans.append(Span(index, image=place >= prefix, cls=cls, clear=clear))
            offset += share.positions
        return spans, offset

    def share(self, item: Encoded, tower: str) -> Share:
        """How much of a tower a stimulus takes, measured once per kind and size of input."""
        key = (tower, item.kind, item.signature)
        if key not in self._shares:
            shape = self._first_block([item], [tower])[1][tower]
            tokens = shape[-2]
            rows = 1
            for size in shape[:-2]:
                rows *= size
            self._shares[key] = Share(rows, tokens, shape[:-1])
        return self._shares[key]

    def shape(self, batch: Batch, tower: str) -> tuple[int, ...]:
        """The shape of a block's output in a batch, without its width: ``[row, token]``, or ``[token]`` where packed.

        Along which dimension stimuli follow each other is measured, with a stimulus beside its copy.
        """
        if tower in TEXT_TOWERS:
            return len(batch.items), batch.width
        shapes = [self.share(item, tower).shape for item in batch.items]
        if len(shapes) == 1:
            return shapes[0]
        item = batch.items[0]
        key = (tower, item.kind)
        if key not in self._stacked:
            double = self._first_block([item, item], [tower])[1][tower][:-1]
            grown = [place for place, (one, two) in enumerate(zip(shapes[0], double, strict=True)) if two == 2 * one]
            if len(grown) != 1:
                raise LayoutError(f"the {tower} tower holds {double} for two stimuli and {shapes[0]} for one of them")
            self._stacked[key] = grown[0]
        along = self._stacked[key]
        return tuple(
            sum(shape[place] for shape in shapes) if place == along else size for place, size in enumerate(shapes[0])
        )

    def group(self, items: Sequence[Encoded], towers: Sequence[str]) -> list[list[Encoded]]:
        """Split stimuli into batches whose layout is known to hold.

        Parameters
        ----------
        items
            Stimuli of one kind.
        towers
            The towers that are read.
        """
        if len(items) < 2 or not items[0].n_images:
            return [list(items)]
        first = items[0]
        other = next((item for item in items if item.signature != first.signature), None)
        if other is not None and self._run_together(first, other, towers):
            return [list(items)]
        by_signature: dict[Any, list[Encoded]] = {}
        for item in items:
            by_signature.setdefault(item.signature, []).append(item)
        groups = []
        for same in by_signature.values():
            together = len(same) < 2 or self._run_together(same[0], same[1], towers)
            groups += [same] if together else [[item] for item in same]
        return groups

    def _run_together(self, one: Encoded, two: Encoded, towers: Sequence[str]) -> bool:
        """Whether two stimuli hold the same activations in one batch as alone."""
        mixed = one.signature != two.signature
        key = (one.kind, mixed, tuple(towers))
        if key not in self._together:
            try:
                self._together[key] = self._compare(one, two, towers)
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
                return False  # two do not fit together now; smaller ones may
            if not self._together[key] and not mixed:
                warnings.warn(
                    f"{self.encoder.loaded.name} does not give the same activations for images in a batch as for each "
                    "alone, so stimuli with images run one at a time.",
                    stacklevel=2,
                )
        return self._together[key]

    def _compare(self, one: Encoded, two: Encoded, towers: Sequence[str]) -> bool:
        """Run two stimuli alone and together through the first block of each tower and compare."""

        alone: dict[str, list[torch.Tensor]] = {tower: [] for tower in towers}
        for item in (one, two):
            flat, _, batch = self._first_block([item], towers)
            for tower in towers:
                span = self.spans(batch, tower)[0][0]
                alone[tower].append(flat[tower][span.index])
        try:
            flat, _, batch = self._first_block([one, two], towers)
        except (RuntimeError, ValueError, IndexError, TypeError, LayoutError, RemoteError) as error:
            if is_out_of_memory(error):
                raise
            return False  # the model does not take the two in one batch
        half = next((p.dtype.itemsize < 4 for p in self.engine.module.parameters() if p.is_floating_point()), False)
        tolerance = 5e-2 if half else 1e-3
        for tower in towers:
            spans, total = self.spans(batch, tower)
            if flat[tower].shape[0] != total:
                return False
            for span, expected in zip(spans, alone[tower], strict=True):
                difference = (flat[tower][span.index] - expected).norm()
                if not bool(difference <= tolerance * expected.norm()):
                    return False
        return True

    def _first_block(
        self, items: Sequence[Encoded], towers: Sequence[str]
    ) -> tuple[dict[str, torch.Tensor], dict[str, tuple[int, ...]], Batch]:
        """Every position of the first block of each tower, flat, and its shape."""
        batch = self.encoder.collate(items)
        ordered = [name for name in self.towers if name in towers]
        plan = Plan(tuple((Sites(self.towers[name], (0,)), Pool(0)) for name in ordered), root=batch.root)
        reading = self.engine.run(batch.inputs, plan)
        return {name: reading.residual[name][0] for name in ordered}, reading.shapes, batch


def _filled(item: Encoded, share: Share, prefix: int) -> tuple[torch.Tensor, bool]:
    """Which positions of a stimulus in a vision tower hold something, and whether that is known.

    A processor that pads an image inside its rows says where in a mask, over pixels or over patches.
    """
    import torch

    everything = torch.ones(share.positions, dtype=torch.bool)
    for mask in item.vision_masks:
        if mask.dim() == 2 and tuple(mask.shape) == (share.rows, share.tokens):
            return mask.bool().flatten(), True
        if mask.dim() < 3 or min(mask.shape[-2:]) < 2:
            return everything, False
        tiles = mask.reshape(-1, *mask.shape[-2:]).bool()
        tiles = tiles[tiles.flatten(1).any(1)]  # tiles that a batch fills up with never reach the tower
        if bool(tiles.all()) and len(tiles) == share.rows:
            continue
        height, width = tiles.shape[-2:]
        side = round((height * width / max(share.tokens - prefix, 1)) ** 0.5)
        cells = (height // max(side, 1)) * (width // max(side, 1))
        if side < 1 or len(tiles) != share.rows or cells != share.tokens - prefix:
            return everything, False
        patches = tiles.unfold(1, side, side).unfold(2, side, side).flatten(3).any(-1).flatten(1)
        prefixed = torch.cat([torch.ones(share.rows, prefix, dtype=torch.bool), patches], dim=1)
        return prefixed.flatten(), True
    return everything, True


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory ran out, on the GPU or here."""
    import torch

    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    text = str(error).lower()
    return isinstance(error, RuntimeError) and ("out of memory" in text or "can't allocate memory" in text)


def _text_span(tokens: Any, width: int) -> Span:
    import torch

    index = tokens.row * width + tokens.start + torch.arange(tokens.length)
    text = ~tokens.image if tokens.image is not None else torch.ones(tokens.length, dtype=torch.bool)
    cls = torch.tensor([tokens.cls]) if tokens.cls is not None else None
    return Span(index, image=tokens.image, text=text, cls=cls)
