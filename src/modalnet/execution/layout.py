"""Which positions of a batch belong to which stimulus, measured rather than assumed.

A text tower has one row per stimulus, and the encoder knows its tokens. Some models prepend or append image patches to
the text without placeholder tokens; running one stimulus alone, and again with a different last token, shows how many
patches there are and on which side. In a vision tower an image may be one row, several rows (tiles), or a segment of
one long packed row, and only the model knows which. So the layout is measured. A stimulus that runs alone shows how
many positions its images occupy; in a batch, each stimulus then occupies a contiguous segment, in order. Before the
first batch of a kind of input is trusted, two stimuli run separately and together through the first block of each
tower, and their activations must agree. If they do not, stimuli with images of different sizes run in separate
batches; if they still do not, stimuli run one at a time, which is slower but correct.

A tower that merges neighbouring patches has fewer positions in the blocks after the merge. This is detected when a
block has a different number of positions than the first; from then on, the tower is measured block by block.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from math import prod
from typing import TYPE_CHECKING, Any

from modalnet._warnings import warn
from modalnet.errors import InputError, RemoteError
from modalnet.execution.causality import Causality, two_endings
from modalnet.execution.engine import Engine
from modalnet.execution.image_padding import Share, filled
from modalnet.execution.image_tokens import ImageTokens
from modalnet.execution.memory import is_out_of_memory
from modalnet.execution.plan import Plan, Pool, Sites
from modalnet.execution.reading import LayoutError
from modalnet.execution.sound_tokens import SoundTokens
from modalnet.execution.text_padding import TextPadding
from modalnet.inputs.batch import Batch, Encoded, TextTokens
from modalnet.inputs.encoding import Encoder
from modalnet.interventions.positions import Span
from modalnet.models.sites import Space
from modalnet.models.state import scaled_together
from modalnet.models.towers import Tower

if TYPE_CHECKING:
    import torch


class Layouts:
    """Measures the layouts of one model and remembers them.

    Parameters
    ----------
    engine, encoder, towers
        Those of the model.
    """

    def __init__(self, engine: Engine, encoder: Encoder, towers: dict[str, Tower]) -> None:
        self.engine = engine
        self.encoder = encoder
        self.towers = towers
        self.image_tokens = ImageTokens(engine, encoder)
        self.sound_tokens = SoundTokens(engine, encoder)
        self.text_padding = TextPadding(engine, encoder, towers, self._remembered)
        self.causality = Causality(engine, encoder, towers, self._remembered)
        self._shares: dict[Any, Share] = {}
        self._together: dict[Any, bool] = {}
        self._stacked: dict[Any, int] = {}
        self._outlines: dict[str, tuple[tuple[int, ...], ...]] = {}
        self._beside: dict[Any, int] = {}
        self._beside_seen: dict[Any, torch.Tensor] = {}
        self._in_front: dict[str, bool] = {}
        self._looked_at: set[str] = set()  # towers checked for blocks that run more than once
        self._merging: dict[str, tuple[int, ...]] = {}  # per measured tower, the first block of each stage
        self._alone = scaled_together(engine.module)
        self._of: tuple[Batch, dict[Any, tuple[list[Span], int]]] | None = None

    @property
    def image_tower(self) -> Tower | None:
        """The first tower that reads images, or None."""
        return next((tower for tower in self.towers.values() if tower.modality == "image"), None)

    def media_tower(self, item: Encoded) -> Tower | None:
        """The first tower that reads the images or sounds of a stimulus, where what it puts out is all its own.

        None for a stimulus without, with both, or with a sound beside padding that the tower attends to.
        """
        if bool(item.n_images) == bool(item.n_sounds) or item.frames is not None:
            return None
        modality = "image" if item.n_images else "audio"
        return next((tower for tower in self.towers.values() if tower.modality == modality), None)

    def spans(self, batch: Batch, tower: str, layer: int = 0) -> tuple[list[Span], int]:
        """The positions of each stimulus of a batch in a block of a tower, and the total number of positions.

        Raises
        ------
        InputError
            If the model runs the tower's blocks more than once per forward pass.
        """
        if tower not in self._looked_at:
            self._runs_once(batch, tower)
        return self._remembered(batch, tower, layer)

    def head_spans(self, batch: Batch) -> tuple[list[Span], int]:
        """The positions of each stimulus in the input of the LM head; no block of the text tower needs to be read."""
        return self._remembered(batch, self.encoder.text_tower, 0)

    def _remembered(self, batch: Batch, tower: str, layer: int) -> tuple[list[Span], int]:
        known = self._of
        if known is None or known[0] is not batch:
            known = self._of = (batch, {})  # several interventions and reads ask for the same positions
        key = (tower, self._stage(tower, layer))
        if key not in known[1]:
            known[1][key] = self._spans(batch, tower, layer)
        return known[1][key]

    def _runs_once(self, batch: Batch, tower: str) -> None:
        """Refuse a tower whose blocks run more than once in a forward pass.

        If the forward pass that counts the runs fails, nothing is refused.

        Raises
        ------
        InputError
            If a block runs more than once: its output is then not a single state of the residual stream, so reading
            from or intervening on its first run would not do what the user expects.
        """
        self._looked_at.add(tower)
        alone = self.encoder.collate(batch.items[:1])
        paths = {name: self.towers[name].paths for name in self.towers if name == tower or name not in self._looked_at}
        try:
            found = self.engine.visits(alone.inputs, alone.root, [path for own in paths.values() for path in own])
        except Exception:  # the pass that the user asked for will raise the same error, or does not depend on this one
            return
        for name, own in paths.items():
            counts = [found[path] for path in own]
            if max(counts) > 1:
                self._looked_at.discard(tower)
                raise InputError(
                    f"{self.encoder.loaded.name} runs the blocks of its {name} tower more than once in a forward pass "
                    f"({own[counts.index(max(counts))]}: {max(counts)} times), so a block's output is not a single "
                    "state of the residual stream. modalnet requires each block to run once."
                )
            if min(counts) == 1:
                self._looked_at.add(name)

    def _spans(self, batch: Batch, tower: str, layer: int) -> tuple[list[Span], int]:
        import torch

        if self.towers[tower].modality == "text":
            tokens, width = batch.tokens_in(tower)
            extra, in_front = self.patches_beside(batch, tower)
            seen = [self._seen_beside(item, tower, extra, in_front=in_front) for item in batch.items] if extra else []
            spans = [
                _text_span(one, width, seen[place] if extra else None, in_front=in_front)
                for place, one in enumerate(tokens)
            ]
            return spans, len(batch.items) * (width + extra)
        spans, offset = [], 0
        for item in batch.items:
            share = self.share(item, tower, layer)
            if self.towers[tower].modality == "audio":
                spans.append(self._heard(item, tower, share, offset))
                offset += share.positions
                continue
            there, clear = filled(item, share, partial(self._changing, item, tower, share))
            index = offset + torch.arange(share.positions)[there]
            measured = partial(self._with_tokens, Span(index, clear=clear), item, tower, share, there)
            spans.append(Span(index, clear=clear, measured=measured))
            offset += share.positions
        return spans, offset

    def _heard(self, item: Encoded, tower: str, share: Share, offset: int) -> Span:
        """The span of a stimulus in an audio tower, without the padding that the feature extractor added."""
        import torch

        index = offset + torch.arange(share.positions)
        if item.frames is not None:
            own = self.sound_tokens.positions(item, self.towers[tower]).own
            if len(own) != share.positions:
                return Span(index, clear=False)
            index = index[own]
        return Span(index, measured=partial(self._with_sound, item, tower, share, index))

    def _with_sound(self, item: Encoded, tower: str, share: Share, index: torch.Tensor, kind: str) -> Span:
        """The span of a stimulus in an audio tower with the tokens that hold its sound; it has no class token."""
        found = self.sound_tokens.positions(item, self.towers[tower])
        if len(found.own) != share.positions:
            raise InputError(
                f"which tokens of the {tower} tower of {self.encoder.loaded.name} hold the sound cannot be determined: "
                f"its blocks have {share.positions} positions, and {len(found.own)} enter the first of them. Choose "
                'tokens by index, or "mean".'
            )
        return Span(index, sound=found.sound[found.own])

    def _with_tokens(  # noqa: PLR0917
        self, span: Span, item: Encoded, tower: str, share: Share, there: torch.Tensor, kind: str
    ) -> Span:
        """The span of a stimulus in an image tower with its image tokens or class tokens, of those that are there."""
        changing = self._changing(item, tower, share)
        if kind == "image":
            return replace(span, image=changing[there])
        if bool(changing.all()):
            return span
        cls = self.image_tokens.class_token(item, self.towers[tower], share.tokens, there)
        return replace(span, cls=cls[there].nonzero().flatten())

    def _changing(self, item: Encoded, tower: str, share: Share) -> torch.Tensor:
        """Which positions of a stimulus in an image tower are tokens of its images, ``[position]``.

        Raises
        ------
        InputError
            If there are others, and blocks have other positions than their input: merged patches, or windows.
        """
        changing = self.image_tokens.changing(item, self.towers[tower])
        if len(changing) == share.positions:
            return changing
        if not bool(changing.all()):
            raise InputError(
                f"which tokens of the {tower} tower of {self.encoder.loaded.name} are image tokens cannot be "
                f"determined: its blocks have {share.positions} positions, and {len(changing)} enter the first of "
                'them. Choose tokens by index, or "mean".'
            )
        return changing[:1].expand(share.positions)

    def token_ids(self, batch: Batch, tower: str) -> list[torch.Tensor]:
        """The token ids of each stimulus in a text tower, in order; -1 for image patches, which have no token id."""
        import torch

        extra, in_front = self.patches_beside(batch, tower)
        patches = torch.full((extra,), -1)
        found = [one.ids for one in batch.tokens_in(tower)[0]]
        return [torch.cat([patches, ids] if in_front else [ids, patches]) for ids in found] if extra else found

    def _seen_beside(self, item: Encoded, tower: str, extra: int, *, in_front: bool) -> torch.Tensor:
        """Which of the positions that a text tower has besides the text change with the images, ``[position]``."""
        import torch

        key = (tower, item.kind, item.signature)
        if key not in self._beside_seen:
            changing = self.image_tokens.changing(item, self.towers[tower])
            beside = changing[:extra] if in_front else changing[item.n_tokens :]
            known = len(changing) == item.n_tokens + extra and bool(beside.any())
            self._beside_seen[key] = beside if known else torch.ones(extra, dtype=torch.bool)
        return self._beside_seen[key]

    def patches_beside(self, batch: Batch, tower: str) -> tuple[int, bool]:
        """How many image patches each row of a text tower has besides the text, and whether they precede the text."""
        first = batch.items[0]
        tokens = batch.tokens_in(tower)[0]
        marked = any(one.image is not None and bool(one.image.any()) for one in tokens)
        # In an encoder-decoder model, images reach the decoder through the encoder.
        if not first.n_images or marked or not tokens or (batch.written and self.towers[tower].is_decoder):
            return 0, True
        for item in batch.items:
            key = (tower, item.kind, item.signature)
            if key not in self._beside:
                self._beside[key] = self._measured(item, tower).positions - item.n_tokens
        # If images of a batch differ in their number of patches, a later check of the number of positions fails.
        extra = max(self._beside[tower, item.kind, item.signature] for item in batch.items)
        if extra <= 0:
            return 0, True
        if tower not in self._in_front:
            self._in_front[tower] = self._text_is_last(first, tower)
        return extra, self._in_front[tower]

    def _text_is_last(self, item: Encoded, tower: str) -> bool:
        """Whether the last text token is at the end of its row, rather than where it would be without patches.

        Raises
        ------
        LayoutError
            If it is at neither position.
        """
        rows = []
        for ending in two_endings(item, tower):
            batch = self.encoder.collate([ending])
            rows.append(self.engine.entering(batch.inputs, self.towers[tower], Plan((), root=batch.root)))
        changed = (rows[0] != rows[1]).any(1).nonzero().flatten().tolist()
        if changed not in ([len(rows[0]) - 1], [item.n_tokens - 1]):
            raise LayoutError(
                f"changing the last of {item.n_tokens} tokens changes positions {changed} of the {tower} tower"
            )
        return changed[0] == len(rows[0]) - 1

    def share(self, item: Encoded, tower: str, layer: int = 0) -> Share:
        """The part of a block's activations that a stimulus occupies, measured once per kind and size of input."""
        stage = self._stage(tower, layer)
        key = (tower, stage, item.kind, item.signature)
        if key not in self._shares:
            self._shares[key] = self._measured(item, tower, stage)
        return self._shares[key]

    def _stage(self, tower: str, layer: int) -> int:
        return max(first for first in self._merging.get(tower, (0,)) if first <= layer)

    def stages(self, sites: Sites) -> list[Sites]:
        """Split the blocks of a tower into parts with the same number of positions."""
        parts: dict[int, list[int]] = {}
        for layer in sites.layers:
            parts.setdefault(self._stage(sites.tower.name, layer), []).append(layer)
        return [Sites(sites.space, tuple(layers)) for layers in parts.values()]

    def firsts(self, tower: str) -> tuple[int, ...]:
        """The first block of each part of a tower that has positions of its own; a tower that merges has several."""
        return self._merging.get(tower, (0,))

    def outlines(self, item: Encoded, tower: str) -> tuple[tuple[int, ...], ...]:
        """The shape of what each block of a tower puts out for a stimulus alone, as the block has it.

        Measured once per tower. Where blocks differ in their number of positions, the tower is known to merge patches.
        """
        if tower not in self._outlines:
            batch = self.encoder.collate([item])
            whole = Sites(Space(self.towers[tower]), tuple(range(self.towers[tower].n_layers)))
            shapes = self.engine.outlines(batch.inputs, Plan(((whole, Pool(0)),), root=batch.root))
            counts = [prod(shape) for shape in shapes]
            firsts = [layer for layer in range(1, len(counts)) if counts[layer] != counts[layer - 1]]
            if firsts:
                self._merging.setdefault(tower, (0, *firsts))
            self._outlines[tower] = tuple(shapes)
        return self._outlines[tower]

    def look_for_merging(self, item: Encoded) -> bool:
        """Measure every block that a stimulus' media reach; return whether a new merging tower was found."""
        found = False
        for name, tower in self.towers.items():
            held = {"image": item.n_images, "audio": item.n_sounds, "text": 0}[tower.modality]
            if not held or name in self._merging:
                continue
            counts = [self._measured(item, name, layer).positions for layer in range(tower.n_layers)]
            firsts = [layer for layer in range(1, len(counts)) if counts[layer] != counts[layer - 1]]
            self._merging[name] = (0, *firsts)
            found = found or bool(firsts)
        return found

    def _measured(self, item: Encoded, tower: str, layer: int = 0) -> Share:
        shape = self._first_block([item], [tower], layer)[1][tower]
        rows = 1
        for size in shape[:-2]:
            rows *= size
        return Share(rows, shape[-2], shape[:-1])

    def shape(self, batch: Batch, tower: str, layer: int = 0) -> tuple[int, ...]:
        """The shape of a block's output in a batch, without its width: ``[row, token]``, or ``[token]`` where packed.

        The dimension along which stimuli are concatenated is measured with a batch of two copies of one stimulus.
        """
        if self.towers[tower].modality == "text":
            return len(batch.items), self.spans(batch, tower)[1] // len(batch.items)
        shapes = [self.share(item, tower, layer).shape for item in batch.items]
        if len(shapes) == 1:
            return shapes[0]
        item = batch.items[0]
        key = (tower, item.kind)
        if key not in self._stacked:
            double = self._first_block([item, item], [tower])[1][tower][:-1]
            alone = self.share(item, tower).shape
            grown = [place for place, (one, two) in enumerate(zip(alone, double, strict=True)) if two == 2 * one]
            if len(grown) != 1:
                raise LayoutError(
                    f"the {tower} tower has shape {double} for two copies of a stimulus and {alone} for one"
                )
            self._stacked[key] = grown[0]
        along = self._stacked[key]
        return tuple(
            sum(shape[place] for shape in shapes) if place == along else size for place, size in enumerate(shapes[0])
        )

    def run_alone(self) -> None:
        """From now on run stimuli one at a time: this model's text towers do not keep one row per stimulus."""
        if not self._alone:
            warn(f"{self.encoder.loaded.name} does not keep one row per text in a batch, so stimuli run one at a time.")
        self._alone = True

    def check_images(self, item: Encoded) -> None:
        """Raise an InputError if the model does not read every image of a stimulus."""
        if item.n_images > 1:
            reads = item.prepared.written or (item.n_tokens and not self.encoder.dual)
            image_towers = [name for name, tower in self.towers.items() if tower.modality == "image"]
            last = self.encoder.text_tower if reads else image_towers[-1]
            self.image_tokens.check_read(item, self.towers[last])

    def group(self, items: Sequence[Encoded], towers: Sequence[str]) -> list[list[Encoded]]:
        """Split stimuli into batches whose layout is known to hold.

        Parameters
        ----------
        items
            Stimuli of one kind.
        towers
            The towers that are read.
        """
        self.check_images(items[0])
        groups = self._groups(items, towers)
        return [part for group in groups for part in ([group] if self.text_padding.fits(group) else _by_length(group))]

    def _groups(self, items: Sequence[Encoded], towers: Sequence[str]) -> list[list[Encoded]]:
        """Stimuli whose images and sounds may share a batch."""
        if self._alone:
            return [[item] for item in items]
        if len(items) < 2 or not items[0].n_media:
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
        """Whether two stimuli have the same activations in one batch as separately."""
        mixed = one.signature != two.signature
        key = (one.kind, mixed, tuple(towers))
        if key not in self._together:
            try:
                self._together[key] = self._compare(one, two, towers)
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
                return False  # not remembered: two smaller stimuli may fit into memory
            if not self._together[key] and not mixed:
                what = "images" if one.n_images else "sounds"
                warn(
                    f"{self.encoder.loaded.name} gives other activations for {what} in a batch than for each alone, "
                    f"so stimuli with {what} run one at a time."
                )
        return self._together[key]

    def _compare(self, one: Encoded, two: Encoded, towers: Sequence[str]) -> bool:
        """Run two stimuli separately and together through the first block of each tower, and compare."""

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
            return False  # the model does not accept the two in one batch
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
        self, items: Sequence[Encoded], towers: Sequence[str], layer: int = 0
    ) -> tuple[dict[str, torch.Tensor], dict[str, tuple[int, ...]], Batch]:
        """Activations of one block of each tower at all positions, flattened, with their shapes."""
        batch = self.encoder.collate(items)
        ordered = [name for name in self.towers if name in towers]
        plan = Plan(tuple((Sites(Space(self.towers[name]), (layer,)), Pool(0)) for name in ordered), root=batch.root)
        reading = self.engine.run(batch.inputs, plan)
        return {name: reading.activations[name][0] for name in ordered}, reading.shapes, batch


def _by_length(items: Sequence[Encoded]) -> list[list[Encoded]]:
    """Stimuli of one length of text each, in the order in which the lengths come."""
    parts: dict[int, list[Encoded]] = {}
    for item in items:
        parts.setdefault(item.n_tokens, []).append(item)
    return list(parts.values())


def _text_span(tokens: TextTokens, width: int, beside: torch.Tensor | None, *, in_front: bool) -> Span:
    """The span of a text; ``beside`` tells of the positions besides the text which of them are image tokens."""
    import torch

    extra = 0 if beside is None else len(beside)
    row = tokens.row * (width + extra)
    index = row + (extra if in_front else 0) + tokens.start + torch.arange(tokens.length)
    text = torch.ones(tokens.length, dtype=torch.bool)
    for held in (tokens.image, tokens.sound):
        text = text if held is None else text & ~held
    image, sound = tokens.image, tokens.sound
    if beside is not None:
        patches = row + (0 if in_front else width) + torch.arange(extra)
        none, nowhere = torch.zeros_like(beside), torch.zeros_like(text)
        index = torch.cat([patches, index] if in_front else [index, patches])
        image = torch.cat([beside, nowhere] if in_front else [nowhere, beside])
        sound = None if sound is None else torch.cat([none, sound] if in_front else [sound, none])
        text = torch.cat([none, text] if in_front else [text, none])
    cls = tokens.cls + (extra if in_front else 0) if tokens.cls is not None else None
    return Span(index, image=image, text=text, cls=torch.tensor([cls]) if cls is not None else None, sound=sound)
