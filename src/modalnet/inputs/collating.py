"""Encoded stimuli put together into one batch.

Text fields are padded; every other field is concatenated along its first dimension. Reads pad on the right unless told
otherwise: behind a causal mask, padding that follows a token cannot reach it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

from modalnet.inputs.batch import Batch, Encoded, TextTokens, is_text_field

if TYPE_CHECKING:
    import inspect

    import torch

    from modalnet.models.loading import Loaded
    from modalnet.models.towers import Tower


class Collator:
    """Puts encoded stimuli into batches.

    Parameters
    ----------
    loaded
        The model with its tokenizer.
    towers
        Its towers.
    parameters
        The parameters of its forward.
    image_token_id, sound_token_id
        The tokens that hold an image's and a sound's features; None where there is none.
    sees, dual
        Whether the model reads images, and whether it does so in a tower that never meets the text.
    padding_side
        ``"right"`` or ``"left"``.
    """

    def __init__(
        self,
        loaded: Loaded,
        towers: dict[str, Tower],
        parameters: Mapping[str, inspect.Parameter],
        *,
        image_token_id: int | None,
        sound_token_id: int | None,
        sees: bool,
        dual: bool,
        padding_side: Literal["right", "left"] = "right",
    ) -> None:
        self.loaded = loaded
        self.towers = towers
        self.image_token_id = image_token_id
        self.sound_token_id = sound_token_id
        self.sees = sees
        self.dual = dual
        self.padding_side = padding_side
        #: Whether the user chose the side.
        self.chosen = False
        #: Per kind of stimulus, the side where it is not that: on the other one padding changes what is computed.
        self.sides: dict[Any, Literal["right", "left"]] = {}
        #: Per kind of stimulus, the token type with which tokens of a continuation look back only, where it matters.
        self.suffix_type: dict[Any, int] = {}
        self._parameters = parameters

    def collate(self, items: Sequence[Encoded]) -> Batch:
        """Put encoded stimuli into one batch.

        Text fields are padded on the right, unless told or measured otherwise (:meth:`side`). Other fields are
        concatenated along their first dimension; where their other dimensions differ (tiles, canvas size) they are
        padded with zeros at the end, as processors do.
        """
        import torch

        lengths = [item.n_tokens for item in items]
        width, side = max(lengths), self.side(items)
        inputs: dict[str, Any] = {}
        written: tuple[TextTokens, ...] = ()
        written_width = max(len(item.prepared.written) for item in items)
        if written_width:
            written = self._written(items, written_width, inputs)
        for name, first in items[0].inputs.items():
            values = [item.inputs[name] for item in items]
            if name == "decoder_input_ids":
                continue
            if name == "token_type_ids" and items[0].kind in self.suffix_type:
                scored = [item.prepared.n_scored for item in items]
                values = [
                    _ending_in(value, n, self.suffix_type[items[0].kind])
                    for value, n in zip(values, scored, strict=True)
                ]
            if is_text_field(name, first, items[0].inputs):
                fill = self.pad_id if name == "input_ids" else 0
                inputs[name] = torch.cat([_pad_text(value, width, fill, side) for value in values])
            else:
                inputs[name] = torch.cat(_to_one_shape(values))
        if width == 0:
            media = "image" if items[0].n_images else "audio"
            root = next(tower.root for tower in self.towers.values() if tower.modality == media) if self.dual else ""
            return Batch(tuple(items), inputs, (), 0, root, written, written_width)
        if "attention_mask" not in inputs:
            ones = [torch.ones_like(item.inputs["input_ids"]) for item in items]
            inputs["attention_mask"] = torch.cat([_pad_text(one, width, 0, side) for one in ones])
        if side == "left" and min(lengths) < width and self._takes_positions and items[0].n_media == 0:
            # Learned absolute positions would count the padding; rotary ones do not mind either way.
            inputs["position_ids"] = (inputs["attention_mask"].cumsum(1) - 1).clamp(min=0)
        root = self.towers["encoder"].root if self.dual and items[0].n_media == 0 else ""
        return Batch(tuple(items), inputs, self._text_tokens(items, width), width, root, written, written_width)

    def _written(self, items: Sequence[Encoded], width: int, inputs: dict[str, Any]) -> tuple[TextTokens, ...]:
        """The decoder's ids, padded at the end: it looks back only, and learned positions count from the start."""
        import torch

        rows = [item.inputs["decoder_input_ids"][0] for item in items]
        inputs["decoder_input_ids"] = torch.nn.utils.rnn.pad_sequence(rows, True, self.pad_id)
        if "decoder_attention_mask" in self._parameters:
            ones = [torch.ones_like(row) for row in rows]
            inputs["decoder_attention_mask"] = torch.nn.utils.rnn.pad_sequence(ones, True, 0)
        return tuple(TextTokens(row, 0, len(ids), None, None, ids) for row, ids in enumerate(rows))

    def _text_tokens(self, items: Sequence[Encoded], width: int) -> tuple[TextTokens, ...]:
        tokens = []
        for row, item in enumerate(items):
            ids = item.inputs["input_ids"][0]
            mask = item.inputs.get("attention_mask")
            own = mask[0].bool() if mask is not None else None
            # Some processors pad a single text to a fixed length (SigLIP); what they mask is not the stimulus' own.
            first = int(own.nonzero()[0]) if own is not None else 0
            length = int(own.sum()) if own is not None else len(ids)
            first, length = item.own or (first, length)
            shift = 0 if self.side(items) == "right" else width - len(ids)
            span = ids[first : first + length]
            image = span == self.image_token_id if self.image_token_id is not None and item.n_images else None
            heard = self.sound_token_id is not None and item.n_sounds > 0
            sound = span == self.sound_token_id if heard else None
            marked = item.inputs.get("image_embeds_position_mask")
            if image is None and marked is not None:
                image = marked[0, first : first + length].bool()
            cls_id = getattr(self.loaded.tokenizer, "cls_token_id", None)
            at_cls = (span == cls_id).nonzero().flatten() if cls_id is not None else []
            cls = int(at_cls[0]) if len(at_cls) else None
            tokens.append(TextTokens(row, shift + first, length, image, cls, span, sound))
        return tuple(tokens)

    def side(self, items: Sequence[Encoded]) -> Literal["right", "left"]:
        """On which side the texts of a batch are padded."""
        return self.sides.get(items[0].kind, self.padding_side)

    @cached_property
    def pad_id(self) -> int:
        """Token id that fills the padding; what it is does not matter, since the mask hides it."""
        for name in ("pad_token_id", "eos_token_id", "unk_token_id"):
            value = getattr(self.loaded.tokenizer, name, None)
            if isinstance(value, int):
                return value
        return 0

    @cached_property
    def _takes_positions(self) -> bool:
        return not self.sees and "position_ids" in self._parameters


def _pad_text(value: torch.Tensor, width: int, fill: int, side: Literal["right", "left"]) -> torch.Tensor:
    import torch

    missing = width - value.shape[1]
    if not missing:
        return value
    padding = torch.full((value.shape[0], missing, *value.shape[2:]), fill, dtype=value.dtype)
    return torch.cat([value, padding] if side == "right" else [padding, value], dim=1)


def _ending_in(value: torch.Tensor, count: int, end: int) -> torch.Tensor:
    """``[1, token]`` with another number in its last places."""
    changed = value.clone()
    changed[:, value.shape[1] - count :] = end
    return changed


def _to_one_shape(values: list[torch.Tensor]) -> list[torch.Tensor]:
    """Pad tensors with zeros at the end of every dimension but the first, up to the largest of them."""
    import torch

    largest = [max(sizes) for sizes in zip(*(value.shape[1:] for value in values), strict=True)]
    padded = []
    for value in values:
        amounts = [
            n
            for size, whole in zip(reversed(value.shape[1:]), reversed(largest), strict=True)
            for n in (0, whole - size)
        ]
        padded.append(torch.nn.functional.pad(value, amounts) if any(amounts) else value)
    return padded
