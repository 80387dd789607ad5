"""A stimulus on its way into a model: prepared, then encoded, then in a batch with others.

Media are what stands beside a text: images and sounds.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

from modalnet.models.towers import modality_of
from modalnet.stimuli.stimulus import content_seed

if TYPE_CHECKING:
    import torch

    from modalnet.inputs.sound_features import Frames
    from modalnet.stimuli import Stimulus


@dataclass(frozen=True)
class Prepared:
    """A stimulus whose prompt is known and whose media are not decoded yet.

    Attributes
    ----------
    index
        Its place in the list of stimuli that the user gave.
    stimulus
        The stimulus itself.
    prompt
        The text that the tokenizer sees: the user's own, or in the model's chat template.
    special_tokens
        Whether the tokenizer adds its special tokens (False where the template already wrote them).
    text_inputs
        Token ids and what belongs to them, for a stimulus without media.
    n_scored
        How many tokens at the end are a continuation whose probability is wanted.
    segments
        For each of those tokens, which segment of the continuation it belongs to; empty where there is only one.
    written
        Token ids in the decoder of an encoder-decoder model, from its start token on; empty for other models.
    appended
        Token ids of a continuation that stands behind what a processor closes the prompt with.
    plain
        Token ids of a prompt and its continuation beside media, before a processor makes room for these.
    asked
        Which of the ``n_scored`` tokens are asked for; None for all of them.
    endings
        Other token ids whose probabilities are wanted in the place of the last token as well.
    """

    index: int
    stimulus: Stimulus
    prompt: str | None
    special_tokens: bool
    text_inputs: dict[str, list[int]] | None = None
    n_scored: int = 0
    segments: tuple[int, ...] = ()
    written: tuple[int, ...] = ()
    appended: tuple[int, ...] = ()
    plain: tuple[int, ...] = ()
    asked: tuple[int, ...] | None = None
    endings: tuple[int, ...] = ()

    @property
    def places(self) -> tuple[int, ...]:
        """Which of the tokens at the end have their probability taken."""
        return tuple(range(self.n_scored)) if self.asked is None else self.asked

    @property
    def n_targets(self) -> int:
        """How many probabilities are taken in all."""
        return len(self.places) + len(self.endings)

    @property
    def ids(self) -> tuple[int, ...]:
        """The token ids that a continuation ends, as far as they are known before media are decoded."""
        if self.text_inputs is None or self.written:
            return self.written or self.appended or self.plain
        return tuple(self.text_inputs["input_ids"])

    @property
    def but_last(self) -> tuple[Any, ...]:
        """Everything that the model reads but the last token: what is equal here differs in that token at most."""
        # Where the ids are the continuation's alone, the prompt is a text of its own.
        prompt = self.prompt if self.written or self.appended else None
        media = tuple(
            os.fspath(source) if isinstance(source, str | os.PathLike) else id(source)
            for source in (*self.stimulus.sources, None, *self.stimulus.sound_sources)
        )
        return media, prompt, self.special_tokens, self.n_scored, self.ids[:-1]

    def scored_in(self, tower: str) -> int:
        """How many tokens at the end of a tower's own are the continuation's."""
        return self.n_scored if modality_of(tower) == "text" and (not self.written or tower == "decoder") else 0

    @cached_property
    def content(self) -> str:
        """A digest of all that the model reads of it; what of its continuation is asked for does not count."""
        import xxhash

        media = self.stimulus.inspect().digest if self.stimulus.n_media else ""
        texts = (self.prompt, self.special_tokens, self.text_inputs, self.written, self.appended, self.plain)
        return xxhash.xxh3_128(repr((media, texts)).encode()).hexdigest()

    @property
    def seed(self) -> int:
        """What random draws at its tokens go by: what the stimulus contains, and where that is nothing, all of it."""
        stimulus = self.stimulus
        return content_seed(stimulus) if stimulus.text or stimulus.n_media else int(self.content[:16], 16)

    @property
    def order(self) -> tuple[Any, ...]:
        """Sort key that puts stimuli which batch well side by side, longest first."""
        if self.text_inputs is not None:
            return (0, -len(self.text_inputs["input_ids"]), self.index)
        return (1, self.stimulus.n_images, self.stimulus.n_sounds, self.prompt is not None, self.index)


@dataclass(frozen=True)
class Encoded:
    """One stimulus as model inputs, with a first dimension of its own.

    Attributes
    ----------
    prepared
        Where it comes from.
    inputs
        Model inputs by name.
    own
        First and number of the tokens of its text, where padding that the model attends to stands beside them.
    frames
        Which of the frames that its sound became are no padding; None where none is, or there is no sound.
    """

    prepared: Prepared
    inputs: dict[str, Any]
    own: tuple[int, int] | None = None
    frames: Frames | None = None

    @property
    def index(self) -> int:
        """Place in the list of stimuli that the user gave."""
        return self.prepared.index

    @property
    def label(self) -> str:
        """How messages name the stimulus."""
        return self.prepared.stimulus.label

    @property
    def n_images(self) -> int:
        """Number of images."""
        return self.prepared.stimulus.n_images

    @property
    def n_sounds(self) -> int:
        """Number of sounds."""
        return self.prepared.stimulus.n_sounds

    @property
    def n_media(self) -> int:
        """Number of images and sounds."""
        return self.prepared.stimulus.n_media

    @property
    def n_tokens(self) -> int:
        """Number of text tokens, placeholders of media included; 0 for a model without text."""
        ids = self.inputs.get("input_ids")
        return 0 if ids is None else int(ids.shape[1])

    @cached_property
    def kind(self) -> tuple[Any, ...]:
        """What a batch must share: the names of the inputs and the number of images and of sounds."""
        return (self.n_images, self.n_sounds, tuple(sorted(self.inputs)))

    @cached_property
    def signature(self) -> tuple[Any, ...]:
        """What decides how many rows and tokens media become: shapes, and the sizes that whole numbers hold."""
        parts = []
        for name, value in sorted(self.inputs.items()):
            if is_text_field(name, value, self.inputs):
                continue
            sizes = hash(value.cpu().numpy().tobytes()) if not value.is_floating_point() else 0
            parts.append((name, tuple(value.shape), sizes))
        return tuple(parts)

    def without_last(self) -> Encoded:
        """The same without the last token of its text."""
        cut = {
            name: value[:, :-1] if is_text_field(name, value, self.inputs) else value
            for name, value in self.inputs.items()
        }
        return replace(self, inputs=cut, own=None)

    @property
    def vision_masks(self) -> list[torch.Tensor]:
        """Masks over pixels, patches or tiles: where a processor padded the images."""
        return [
            value
            for name, value in self.inputs.items()
            if "mask" in name and not is_text_field(name, value, self.inputs)
        ]


@dataclass(frozen=True)
class TextTokens:
    """The tokens of one stimulus in a padded batch.

    Attributes
    ----------
    row, start, length
        Its row, the first of its tokens, and how many there are (placeholders of media included).
    image, sound
        Which of its tokens hold an image, or a sound; None where the model places no such tokens in the text.
    cls
        Offset of a [CLS] token, where the tokenizer has one.
    ids
        The token ids.
    """

    row: int
    start: int
    length: int
    image: torch.Tensor | None
    cls: int | None
    ids: torch.Tensor
    sound: torch.Tensor | None = None


@dataclass(frozen=True)
class Batch:
    """Stimuli encoded together.

    Attributes
    ----------
    items
        The stimuli, in the order of the rows.
    inputs
        Model inputs.
    text
        Tokens of each stimulus in the tower that reads its prompt; empty for a model without text.
    width
        Padded number of text tokens per row.
    root
        Module path of the part of the model that takes these inputs (``""`` for the whole).
    written, written_width
        The same for the decoder of an encoder-decoder model; empty for other models.
    """

    items: tuple[Encoded, ...]
    inputs: dict[str, Any]
    text: tuple[TextTokens, ...]
    width: int
    root: str = ""
    written: tuple[TextTokens, ...] = ()
    written_width: int = 0

    def tokens_in(self, tower: str) -> tuple[tuple[TextTokens, ...], int]:
        """Tokens of each stimulus in a text tower, and the padded number per row."""
        apart = bool(self.written) and tower == "decoder"
        return (self.written, self.written_width) if apart else (self.text, self.width)


def is_text_field(name: str, value: Any, inputs: dict[str, Any]) -> bool:
    """Whether a field runs along the text tokens, so that it is padded with them."""
    if name.startswith("decoder_"):
        return True
    ids = inputs.get("input_ids")
    if ids is None or value.dim() < 2 or value.shape[:2] != ids.shape[:2]:
        return False
    # Places of patches can be as many as the tokens of a text.
    if "pixel" in name or name.startswith(("image_position", "aspect_ratio")):
        return False
    return name in ("input_ids", "bbox") or "mask" in name or name.endswith("_ids")
