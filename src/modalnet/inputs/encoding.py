"""Stimuli to model inputs, and the map from each stimulus to its tokens in the language tower.

Each stimulus is encoded alone, by the model's own processor, and a batch is put together from the encoded ones: text
fields are padded, everything else is concatenated. So a stimulus is encoded once whatever batch it ends up in, a batch
that does not fit into memory is split without encoding again, and the length of each stimulus is known before padding
blurs it.

Reads pad on the right unless told otherwise: behind a causal mask, padding that follows a token cannot reach it.

An encoder-decoder model reads its prompt in the encoder and writes in the decoder, which holds a start token and then
what is written: the continuation, where one is scored. Where the encoder reads images alone, a stimulus' text is what
the decoder has written so far.
"""

from __future__ import annotations

import bisect
import inspect
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

from modalnet.errors import InputError
from modalnet.inputs.prompts import Prompt, Prompts
from modalnet.models.towers import modality_of

if TYPE_CHECKING:
    import torch

    from modalnet.models.loading import Loaded
    from modalnet.models.towers import Tower
    from modalnet.stimuli import Stimulus

# Parameters of a model's forward that take pictures, whether or not a tower of blocks looks at them.
_PICTURES = ("pixel_values", "flattened_patches", "image_patches")


@dataclass(frozen=True)
class Prepared:
    """A stimulus whose prompt is known and whose images are not decoded yet.

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
        Token ids and what belongs to them, for a stimulus without images.
    n_scored
        How many tokens at the end are a continuation whose probability is wanted.
    segments
        For each of those tokens, which segment of the continuation it belongs to; empty where there is only one.
    written
        Token ids in the decoder of an encoder-decoder model, from its start token on; empty for other models.
    appended
        Token ids of a continuation that stands behind what a processor closes the prompt with.
    plain
        Token ids of a prompt and its continuation beside images, before a processor makes room for these.
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
        """The token ids that a continuation ends, as far as they are known before images are decoded."""
        if self.text_inputs is None or self.written:
            return self.written or self.appended or self.plain
        return tuple(self.text_inputs["input_ids"])

    @property
    def but_last(self) -> tuple[Any, ...]:
        """Everything that the model reads but the last token: what is equal here differs in that token at most."""
        # Where the ids are the continuation's alone, the prompt is a text of its own.
        prompt = self.prompt if self.written or self.appended else None
        pictures = tuple(
            os.fspath(source) if isinstance(source, str | os.PathLike) else id(source)
            for source in self.stimulus.sources
        )
        return pictures, prompt, self.special_tokens, self.n_scored, self.ids[:-1]

    def scored_in(self, tower: str) -> int:
        """How many tokens at the end of a tower's own are the continuation's."""
        return self.n_scored if modality_of(tower) == "text" and (not self.written or tower == "decoder") else 0

    @property
    def order(self) -> tuple[Any, ...]:
        """Sort key that puts stimuli which batch well side by side, longest first."""
        if self.text_inputs is not None:
            return (0, -len(self.text_inputs["input_ids"]), self.index)
        return (1, self.stimulus.n_images, self.prompt is not None, self.index)


@dataclass(frozen=True)
class Encoded:
    """One stimulus as model inputs, with a first dimension of its own.

    Attributes
    ----------
    prepared
        Where it comes from.
    inputs
        Model inputs by name.
    """

    prepared: Prepared
    inputs: dict[str, Any]

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
    def n_tokens(self) -> int:
        """Number of text tokens, image placeholders included; 0 for a model without text."""
        ids = self.inputs.get("input_ids")
        return 0 if ids is None else int(ids.shape[1])

    @cached_property
    def kind(self) -> tuple[Any, ...]:
        """What a batch must share: the names of the inputs and the number of images."""
        return (self.n_images, tuple(sorted(self.inputs)))

    @cached_property
    def signature(self) -> tuple[Any, ...]:
        """What decides how many rows and tokens the images become: shapes, and the sizes that whole numbers hold."""
        parts = []
        for name, value in sorted(self.inputs.items()):
            if _is_text_field(name, value, self.inputs):
                continue
            sizes = hash(value.cpu().numpy().tobytes()) if not value.is_floating_point() else 0
            parts.append((name, tuple(value.shape), sizes))
        return tuple(parts)

    def without_last(self) -> Encoded:
        """The same without the last token of its text."""
        cut = {
            name: value[:, :-1] if _is_text_field(name, value, self.inputs) else value
            for name, value in self.inputs.items()
        }
        return Encoded(self.prepared, cut)

    @property
    def vision_masks(self) -> list[torch.Tensor]:
        """Masks over pixels, patches or tiles: where a processor padded the images."""
        return [
            value
            for name, value in self.inputs.items()
            if "mask" in name and not _is_text_field(name, value, self.inputs)
        ]


@dataclass(frozen=True)
class TextTokens:
    """The tokens of one stimulus in a padded batch.

    Attributes
    ----------
    row, start, length
        Its row, the first of its tokens, and how many there are (image placeholders included).
    image
        Which of its tokens hold an image; None where the model places no image tokens in the text.
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


class Encoder:
    """Turns stimuli into model inputs.

    Parameters
    ----------
    loaded
        The model with its tokenizer and processor.
    towers
        Its towers.
    chat_template
        ``"auto"`` writes prompts in the processor's chat template where it has one and the text is not already in it;
        False never does; True insists on one.
    padding_side
        ``"right"`` or ``"left"``.
    """

    def __init__(
        self,
        loaded: Loaded,
        towers: dict[str, Tower],
        *,
        chat_template: bool | Literal["auto"] = "auto",
        padding_side: Literal["right", "left"] = "right",
    ) -> None:
        self.loaded = loaded
        self.towers = towers
        self.padding_side = padding_side
        self.image_token_id = _image_token_id(loaded)
        self.prompts = Prompts(loaded.processor, loaded.tokenizer, chat_template, self.image_token_id)
        config = loaded.module.config
        self.text_config = config.get_text_config() if hasattr(config, "get_text_config") else config
        self.reads_text = any(tower.modality == "text" for tower in towers.values())
        #: Where logits come from and continuations stand.
        self.text_tower = "decoder" if "decoder" in towers else "encoder"
        self.sees = any(tower.modality == "image" for tower in towers.values()) or any(
            name in self._parameters for name in _PICTURES
        )
        #: A dual encoder (CLIP) reads images and texts in towers that do not meet: each can run without the other.
        self.dual = self.sees and "encoder" in towers and "decoder" not in towers
        #: An encoder-decoder model writes in another tower than it reads in.
        self.writes_apart = bool(getattr(config, "is_encoder_decoder", False)) and "decoder" in towers
        #: Per kind of stimulus, the token type with which tokens of a continuation look back only, where it matters.
        self.suffix_type: dict[Any, int] = {}
        #: Its encoder may read no text at all.
        self.only_writes = self.writes_apart and "encoder" not in towers

    # -- preparing ---------------------------------------------------------------------------------------------------

    def prepare(
        self,
        stimuli: Sequence[Stimulus],
        *,
        max_tokens: int | None = None,
        raw: bool = False,
        continuations: Sequence[str] | None = None,
        cuts: Sequence[Sequence[int]] | None = None,
    ) -> list[Prepared]:
        """Check every stimulus against the model and write its prompt, before anything runs.

        Parameters
        ----------
        stimuli
            The stimuli.
        max_tokens
            Cut texts to this many tokens (special tokens included), at the end.
        raw
            Leave texts as they are, without a chat template.
        continuations
            One per stimulus, written after its prompt.
        cuts
            Per continuation, the places (in characters) at which it is cut into segments.

        Raises
        ------
        InputError
            Where a stimulus does not fit the model; the message names the stimulus.
        """
        self._check_fit(stimuli)
        prompts = [self._prompt(stimulus, raw) for stimulus in stimuli]
        scored = [0] * len(prompts)
        segments: list[tuple[int, ...]] = [()] * len(prompts)
        written: list[tuple[int, ...]] = [()] * len(prompts)
        appended: list[tuple[int, ...]] = [()] * len(prompts)
        plain: list[tuple[int, ...]] = [()] * len(prompts)
        if self.writes_apart:
            for index, stimulus in enumerate(stimuli):
                text = continuations[index] if continuations is not None else ""
                prefix = (stimulus.text or "") if self.only_writes else ""
                ids, scored[index] = self._write(prefix, text, max_tokens)
                written[index] = (self._start_token, *ids)
                if cuts and cuts[index]:
                    starts = [len(prefix) + cut for cut in cuts[index]]
                    segments[index] = self._segments(Prompt(prefix + text, False), scored[index], starts)
        elif continuations is not None:
            for index, text in enumerate(continuations):
                before = prompts[index]
                if stimuli[index].n_images and self._closes_prompts:
                    start, whole = 0, Prompt(text, False)
                    appended[index] = self._bare(text)
                    scored[index] = len(appended[index])
                else:
                    start, whole = len(before.text or ""), Prompt((before.text or "") + text, before.special_tokens)
                    scored[index], ids = self._added(before, whole)
                    plain[index] = ids if stimuli[index].n_images else ()
                    prompts[index] = whole
                if cuts and cuts[index]:
                    places = [start + cut for cut in cuts[index]]
                    segments[index] = self._segments(whole, scored[index], places)
        texts = self._texts(stimuli, prompts, max_tokens)
        prepared = [
            Prepared(
                i,
                stimulus,
                prompts[i].text,
                prompts[i].special_tokens,
                texts.get(i),
                scored[i],
                segments[i],
                written[i],
                appended[i],
                plain[i],
            )
            for i, stimulus in enumerate(stimuli)
        ]
        for item in prepared:
            if item.text_inputs is not None:
                self._check_length(len(item.text_inputs["input_ids"]), item.stimulus.label)
            self._check_length(len(item.written), item.stimulus.label)
        return prepared

    def _texts(
        self, stimuli: Sequence[Stimulus], prompts: Sequence[Prompt], max_tokens: int | None
    ) -> dict[int, dict[str, list[int]]]:
        """Token ids of the stimuli without images, by place, tokenized together."""
        texts: dict[int, dict[str, list[int]]] = {}
        for special_tokens in (True, False):
            chosen = [
                i
                for i, stimulus in enumerate(stimuli)
                if stimulus.n_images == 0 and prompts[i].special_tokens is special_tokens
            ]
            if not chosen:
                continue
            rows = self._tokenize([prompts[i].text or "" for i in chosen], special_tokens, max_tokens)
            for place, i in enumerate(chosen):
                texts[i] = {name: list(values[place]) for name, values in rows.items()}
        return texts

    def _prompt(self, stimulus: Stimulus, raw: bool) -> Prompt:
        """The prompt of a stimulus, as far as a text goes in beside its images."""
        if self.only_writes or (self.dual and stimulus.text is None):
            return Prompt(None)
        # Nothing is not a user's turn, so no template is put around it.
        return self.prompts.write(stimulus, raw=raw or stimulus.text == "")

    def _write(self, prefix: str, text: str, max_tokens: int | None = None) -> tuple[tuple[int, ...], int]:
        """Token ids of what a decoder has written, without its start token, and how many of them are the text's."""
        if not prefix + text:
            return (), 0
        before = self._bare(prefix)
        if max_tokens is not None:
            before = before[:max_tokens]
        if not text:
            return before, 0
        whole = self._bare(prefix + text)
        same = next((i for i, (a, b) in enumerate(zip(before, whole, strict=False)) if a != b), len(before))
        return whole, len(whole) - same

    def _bare(self, text: str) -> tuple[int, ...]:
        """Token ids of a text without special tokens."""
        if not text:
            return ()
        return tuple(self.loaded.tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"])

    @cached_property
    def _closes_prompts(self) -> bool:
        """Whether the processor ends the text beside a picture with something of its own, such as a new line."""
        from PIL import Image

        from modalnet.stimuli.stimulus import Stimulus

        picture = Image.new("RGB", (64, 64), (127, 127, 127))
        prompt = self.prompts.write(Stimulus("a", image=picture))
        ids = self.prompts.process(prompt.text or "", [picture], prompt.special_tokens)["input_ids"]
        plain = self.loaded.tokenizer(prompt.text, add_special_tokens=prompt.special_tokens, verbose=False)["input_ids"]
        return int(ids[0][-1]) != plain[-1]

    @cached_property
    def _start_token(self) -> int:
        """The token that the decoder of an encoder-decoder model begins with."""
        module = self.loaded.module
        config = module.config
        holders = (
            getattr(module, "generation_config", None),
            config,
            self.text_config,
            getattr(config, "decoder", None),
        )
        for name in ("decoder_start_token_id", "bos_token_id"):
            for holder in holders:
                value = getattr(holder, name, None)
                if isinstance(value, int):
                    return value
        raise InputError(
            f"{self.loaded.name} does not say what token its decoder begins with. Set decoder_start_token_id in its "
            "generation_config."
        )

    def _added(self, before: Prompt, after: Prompt) -> tuple[int, tuple[int, ...]]:
        """How many tokens of the longer prompt are new (those from the first that differs), and all of its tokens."""
        rows = [
            self.loaded.tokenizer(prompt.text or "", add_special_tokens=prompt.special_tokens, verbose=False)[
                "input_ids"
            ]
            for prompt in (before, after)
        ]
        # A tokenizer that closes every text with a token of its own closes both, and that token is not of the text.
        end = 1 if rows[0] and rows[1] and rows[0][-1] == rows[1][-1] == self.loaded.tokenizer.eos_token_id else 0
        if end:
            raise InputError(
                f"the tokenizer of {self.loaded.name} ends every text with {self.loaded.tokenizer.eos_token!r}, so "
                "nothing can be continued. Set its add_eos_token to False."
            )
        same = next((i for i, (a, b) in enumerate(zip(*rows, strict=False)) if a != b), min(map(len, rows)))
        return len(rows[1]) - max(same, 1), tuple(rows[1])

    def next_tokens(self, stimulus: Stimulus, text: str) -> tuple[int, ...]:
        """The tokens that a text becomes when it is written straight after a stimulus.

        Raises
        ------
        InputError
            Where the stimulus' own last token would become another one.
        """
        if self.writes_apart:
            ids, count = self._write((stimulus.text or "") if self.only_writes else "", text)
            return ids[len(ids) - count :]
        if stimulus.n_images and self._closes_prompts:
            return self._bare(text)
        before = self.prompts.write(stimulus, raw=stimulus.text == "")
        rows = [
            self.loaded.tokenizer(one, add_special_tokens=before.special_tokens, verbose=False)["input_ids"]
            for one in (before.text or "", (before.text or "") + text)
        ]
        count = len(rows[0])
        if rows[1][:count] != rows[0]:
            raise InputError(
                f"written after stimulus {stimulus.label}, {text!r} changes its last token, so what comes next there "
                "is no token of the answer. Mostly a space stands at the end of the stimulus: move it to the answer."
            )
        return tuple(rows[1][count:])

    def _segments(self, prompt: Prompt, count: int, starts: Sequence[int]) -> tuple[int, ...]:
        """For each of the last tokens of a prompt, how many segments begin at or before its first letter."""
        text = prompt.text or ""
        if not getattr(self.loaded.tokenizer, "is_fast", False):
            raise InputError(
                f"{type(self.loaded.tokenizer).__name__} does not tell which characters its tokens stand for, so a "
                "continuation cannot be cut into segments. Load a fast tokenizer."
            )
        spans = self.loaded.tokenizer(
            text, add_special_tokens=prompt.special_tokens, return_offsets_mapping=True, verbose=False
        )["offset_mapping"]
        found = []
        for first, last in spans[len(spans) - count :]:
            # Many tokens begin with the space before their word.
            space = len(text[first:last]) - len(text[first:last].lstrip())
            found.append(bisect.bisect_right(starts, min(first + space, max(first, last - 1))))
        return tuple(found)

    def _check_fit(self, stimuli: Sequence[Stimulus]) -> None:
        name = self.loaded.name
        for stimulus in stimuli:
            if stimulus.text is not None and not self.reads_text:
                hint = "leave out its text" if stimulus.n_images else "use image stimuli"
                raise InputError(f"stimulus {stimulus.label} has text, but {name} reads images only; {hint}.")
            if stimulus.n_images and not self.sees:
                raise InputError(
                    f"stimulus {stimulus.label} has an image, but {name} reads text only; use text stimuli or a "
                    "vision-language model."
                )
        why = f" ({self.loaded.missing})" if self.loaded.missing else ""
        if any(not stimulus.n_images for stimulus in stimuli) and self.loaded.tokenizer is None:
            raise InputError(f"{name} came without a tokenizer{why}. Pass tokenizer= to modalnet.load().")
        if any(stimulus.n_images for stimulus in stimuli):
            if self.reads_text and not (self.dual or self.only_writes) and self.loaded.processor is None:
                raise InputError(f"{name} came without a processor{why}. Pass processor= to modalnet.load().")
            if self.loaded.image_processor is None:
                raise InputError(f"{name} came without an image processor{why}. Pass processor= to modalnet.load().")
        if self.reads_text and self.sees and not self.dual and (self.only_writes or self._needs_pictures):
            bare = next((stimulus for stimulus in stimuli if not stimulus.n_images), None)
            if bare is not None:
                raise InputError(f"stimulus {bare.label} has no image, but {name} does not read a text without one.")

    def _tokenize(self, texts: list[str], special_tokens: bool, max_tokens: int | None) -> dict[str, list[list[int]]]:
        # verbose=False: a text over the model's length is an error of ours below, which names the stimulus.
        encoded = self.loaded.tokenizer(
            texts,
            add_special_tokens=special_tokens,
            truncation=max_tokens is not None,
            max_length=max_tokens,
            padding=False,
            verbose=False,
        )
        empty = next((i for i, ids in enumerate(encoded["input_ids"]) if len(ids) == 0), None)
        if empty is not None:
            raise InputError(f"the tokenizer of {self.loaded.name} makes no token of the text {texts[empty]!r}.")
        return {name: encoded[name] for name in ("input_ids", "token_type_ids") if name in encoded}

    def _check_length(self, n_tokens: int, label: str) -> None:
        limit = getattr(self.text_config, "max_position_embeddings", None) or getattr(
            self.text_config, "n_positions", None
        )
        if isinstance(limit, int) and 0 < limit < n_tokens:
            raise InputError(
                f"stimulus {label} has {n_tokens} tokens, more than the {limit} that {self.loaded.name} can hold. "
                "Shorten it, or split it into several stimuli."
            )

    # -- encoding ----------------------------------------------------------------------------------------------------

    def encode(self, prepared: Prepared) -> Encoded:
        """Turn one prepared stimulus into model inputs; images are decoded here.

        Raises
        ------
        InputError
            Where an image cannot be read or the processor refuses it; the message names the stimulus.
        """
        import torch

        written = {"decoder_input_ids": torch.tensor([prepared.written])} if prepared.written else {}
        if prepared.text_inputs is not None:
            inputs = {name: torch.tensor([ids]) for name, ids in prepared.text_inputs.items()}
            if self._wants_token_types:
                inputs.setdefault("token_type_ids", torch.zeros_like(inputs["input_ids"]))
            if "bbox" in self._parameters:  # places of words on a page, which a text by itself has not
                inputs["bbox"] = torch.zeros(*inputs["input_ids"].shape, 4, dtype=torch.long)
            return Encoded(prepared, {**inputs, **written})
        images = prepared.stimulus.images()
        try:
            if prepared.prompt is None:
                features = self.loaded.image_processor(images=images, return_tensors="pt")
            else:
                features = self.prompts.process(prepared.prompt, images, prepared.special_tokens)
        except InputError:
            raise
        except Exception as error:
            # Processors raise whatever their array code raises; only here is it known which stimulus it was.
            sizes = ", ".join(f"{image.width}x{image.height}" for image in images)
            raise InputError(
                f"the processor of {self.loaded.name} cannot use stimulus {prepared.stimulus.label} (images of "
                f"{sizes} pixels): {type(error).__name__}: {error}"
            ) from error
        made = {name: _tensor(value) for name, value in features.items() if _useful(name, value)}
        if "mm_token_type_ids" in self._parameters and "input_ids" in made and self.image_token_id is not None:
            # Not every processor marks the image tokens unless it is asked to, and positions of some models need it.
            made.setdefault("mm_token_type_ids", (made["input_ids"] == self.image_token_id).long())
        if prepared.appended:
            made = _with_continuation(made, prepared.appended)
        encoded = Encoded(prepared, {**made, **written})
        self._check_length(encoded.n_tokens, prepared.stimulus.label)
        return encoded

    def collate(self, items: Sequence[Encoded]) -> Batch:
        """Put encoded stimuli into one batch.

        Text fields are padded on ``padding_side``. Other fields are concatenated along their first dimension; where
        their other dimensions differ (tiles, canvas size) they are padded with zeros at the end, as processors do.
        """
        import torch

        lengths = [item.n_tokens for item in items]
        width = max(lengths)
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
            if _is_text_field(name, first, items[0].inputs):
                fill = self.pad_id if name == "input_ids" else 0
                inputs[name] = torch.cat([self._pad_text(value, width, fill) for value in values])
            else:
                inputs[name] = torch.cat(_to_one_shape(values))
        if width == 0:
            root = self.towers["vision"].root if self.dual else ""
            return Batch(tuple(items), inputs, (), 0, root, written, written_width)
        if "attention_mask" not in inputs:
            ones = [torch.ones_like(item.inputs["input_ids"]) for item in items]
            inputs["attention_mask"] = torch.cat([self._pad_text(one, width, 0) for one in ones])
        if self.padding_side == "left" and min(lengths) < width and self._takes_positions and items[0].n_images == 0:
            # Learned absolute positions would count the padding; rotary ones do not mind either way.
            inputs["position_ids"] = (inputs["attention_mask"].cumsum(1) - 1).clamp(min=0)
        root = self.towers["encoder"].root if self.dual and items[0].n_images == 0 else ""
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
            shift = 0 if self.padding_side == "right" else width - len(ids)
            span = ids[first : first + length]
            image = span == self.image_token_id if self.image_token_id is not None and item.n_images else None
            marked = item.inputs.get("image_embeds_position_mask")
            if image is None and marked is not None:
                image = marked[0, first : first + length].bool()
            cls_id = getattr(self.loaded.tokenizer, "cls_token_id", None)
            at_cls = (span == cls_id).nonzero().flatten() if cls_id is not None else []
            cls = int(at_cls[0]) if len(at_cls) else None
            tokens.append(TextTokens(row, shift + first, length, image, cls, span))
        return tuple(tokens)

    def _pad_text(self, value: torch.Tensor, width: int, fill: int) -> torch.Tensor:
        import torch

        missing = width - value.shape[1]
        if not missing:
            return value
        padding = torch.full((value.shape[0], missing, *value.shape[2:]), fill, dtype=value.dtype)
        return torch.cat([value, padding] if self.padding_side == "right" else [padding, value], dim=1)

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

    @cached_property
    def _wants_token_types(self) -> bool:
        """Whether the processor marks image tokens by type; without them PaliGemma's mask changes with padding."""
        names = getattr(self.loaded.processor, "model_input_names", ())
        return "token_type_ids" in names and "token_type_ids" in self._parameters

    @cached_property
    def _needs_pictures(self) -> bool:
        """Whether the model's forward cannot do without pictures."""
        given = (self._parameters.get(name) for name in _PICTURES)
        return any(parameter is not None and parameter.default is inspect.Parameter.empty for parameter in given)

    @cached_property
    def _parameters(self) -> Mapping[str, inspect.Parameter]:
        return inspect.signature(self.loaded.module.forward).parameters


def _image_token_id(loaded: Loaded) -> int | None:
    """Token id that holds an image's features in the language tower; None where the model has no such token."""
    config = getattr(loaded.module, "config", None)
    # A model whose pictures are the frames of a video has a token for videos alone.
    takes = inspect.signature(loaded.module.forward).parameters
    frames = "pixel_values" in takes and "pixel_values_videos" not in takes
    stills = [(config, "video_token_id"), (config, "video_token_index")] if frames else []
    # A model made of whole models leaves it to the one that reads.
    parts = [getattr(config, name, None) for name in getattr(type(config), "sub_configs", None) or ()]
    for holder, name in (
        (config, "image_token_id"),
        (config, "image_token_index"),
        (loaded.processor, "image_token_id"),
        *stills,
        *((part, "image_token_id") for part in parts),
    ):
        value = getattr(holder, name, None)
        if isinstance(value, int):
            return value
    return None


def _is_text_field(name: str, value: Any, inputs: dict[str, Any]) -> bool:
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


def _with_continuation(inputs: dict[str, torch.Tensor], ids: Sequence[int]) -> dict[str, torch.Tensor]:
    """Model inputs with tokens behind their text."""
    import torch

    made = {}
    for name, value in inputs.items():
        more = value
        if name == "input_ids":
            more = torch.cat([value, torch.tensor([ids], dtype=value.dtype)], 1)
        elif _is_text_field(name, value, inputs):
            # What a mask says of the last token holds for those that follow; no token of text is of another type.
            last = value[:, -1:] if "mask" in name else torch.zeros_like(value[:, -1:])
            more = torch.cat([value, last.repeat_interleave(len(ids), 1)], 1)
        made[name] = more
    return made


def _ending_in(value: torch.Tensor, count: int, end: int) -> torch.Tensor:
    """``[1, token]`` with another number in its last places."""
    changed = value.clone()
    changed[:, value.shape[1] - count :] = end
    return changed


def _useful(name: str, value: Any) -> bool:
    # Some processors make training targets (PaliGemma's labels), with which a model computes a loss on the way.
    return name != "labels" and value is not None and not isinstance(value, str)


def _tensor(value: Any) -> torch.Tensor:
    import torch

    if isinstance(value, torch.Tensor):
        return value
    return torch.stack(list(value)) if isinstance(value[0], torch.Tensor) else torch.as_tensor(value)


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
