"""Stimuli to model inputs, and the map from each stimulus to its tokens in the language tower.

Each stimulus is encoded alone, by the model's own processor, and a batch is put together from the encoded ones: text
fields are padded, everything else is concatenated (:mod:`modalnet.inputs.collating`). So a stimulus is encoded once
whatever batch it ends up in, a batch that does not fit into memory is split without encoding again, and the length of
each stimulus is known before padding blurs it.

An encoder-decoder model reads its prompt in the encoder and writes in the decoder, which holds a start token and then
what is written: the continuation, where one is scored. Where the encoder reads no text, but images or sounds alone, a
stimulus' text is what the decoder has written so far.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any, Literal

from modalnet.errors import InputError
from modalnet.inputs.batch import Batch, Encoded, Prepared, is_text_field
from modalnet.inputs.collating import Collator
from modalnet.inputs.continuations import Continuation, Continuations
from modalnet.inputs.prompts import Prompt, Prompts
from modalnet.inputs.sound_features import SoundFeatures, frames_in
from modalnet.inputs.tokens import added_ids, n_embeddings, tokenizer_turn
from modalnet.inputs.trained_length import TrainedLength

if TYPE_CHECKING:
    import numpy as np
    import torch
    from jaxtyping import Float
    from PIL import Image

    from modalnet.models.loading import Loaded
    from modalnet.models.towers import Tower
    from modalnet.stimuli import Stimulus

# Parameters of a model's forward that take pictures, whether or not a tower of blocks looks at them.
_PICTURES = ("pixel_values", "flattened_patches", "image_patches")

_A = {"image": "an image", "sound": "a sound", "text": "text"}
_PLURAL = {"image": "images", "sound": "sounds", "text": "text"}


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
        self.image_token_id = _image_token_id(loaded)
        self.sound_token_id = _sound_token_id(loaded)
        self.prompts = Prompts(
            loaded.processor, loaded.tokenizer, chat_template, self.image_token_id, self.sound_token_id
        )
        config = loaded.module.config
        self.text_config = config.get_text_config() if hasattr(config, "get_text_config") else config
        self.reads_text = any(tower.modality == "text" for tower in towers.values())
        #: Where logits come from and continuations stand.
        self.text_tower = "decoder" if "decoder" in towers else "encoder"
        modalities = {tower.modality for tower in towers.values()}
        self.sees = "image" in modalities or any(name in self._parameters for name in _PICTURES)
        self.hears = "audio" in modalities
        self.sound_features = SoundFeatures(loaded, self._parameters)
        #: A dual encoder (CLIP, CLAP) reads media and texts in towers that do not meet: each runs without the other.
        placed = (self.image_token_id, self.sound_token_id)
        apart = bool({"image", "audio"} & modalities) and placed == (None, None)
        self.dual = apart and "encoder" in towers and "decoder" not in towers
        #: An encoder-decoder model writes in another tower than it reads in.
        self.writes_apart = bool(getattr(config, "is_encoder_decoder", False)) and "decoder" in towers
        #: Its encoder may read no text at all.
        self.only_writes = self.writes_apart and "encoder" not in towers
        self.continuations = Continuations(
            loaded, self.prompts, self.text_config, writes_apart=self.writes_apart, only_writes=self.only_writes
        )
        self.collator = Collator(
            loaded,
            towers,
            self._parameters,
            image_token_id=self.image_token_id,
            sound_token_id=self.sound_token_id,
            sees=self.sees,
            dual=self.dual,
            padding_side=padding_side,
        )
        self.trained_length = TrainedLength(loaded, towers["encoder"] if self.dual else None, self.collator.pad_id)

    @property
    def _tokenizes(self) -> Any:
        """What threads take turns with."""
        return self.loaded.module if self.loaded.tokenizer is None else self.loaded.tokenizer

    @property
    def padding_side(self) -> Literal["right", "left"]:
        """On which side texts are padded."""
        return self.collator.padding_side

    @padding_side.setter
    def padding_side(self, side: Literal["right", "left"]) -> None:
        self.collator.padding_side, self.collator.chosen = side, True
        self.collator.sides.clear()

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
        with tokenizer_turn(self._tokenizes):
            prepared = self._prepared(stimuli, max_tokens, raw, continuations, cuts)
        read, written = self._n_embeddings()
        for item in prepared:
            if item.text_inputs is not None:
                self._check_length(len(item.text_inputs["input_ids"]), item.stimulus.label)
                self._check_known(item.text_inputs["input_ids"], read, item.stimulus.label)
            self._check_length(len(item.written), item.stimulus.label)
            self._check_known(item.written, written, item.stimulus.label)
        return prepared

    def _prepared(
        self,
        stimuli: Sequence[Stimulus],
        max_tokens: int | None,
        raw: bool,
        continuations: Sequence[str] | None,
        cuts: Sequence[Sequence[int]] | None,
    ) -> list[Prepared]:
        prompts = [self._prompt(stimulus, raw) for stimulus in stimuli]
        parts = [Continuation()] * len(prompts)
        if self.writes_apart or continuations is not None:
            for index, stimulus in enumerate(stimuli):
                text = continuations[index] if continuations is not None else ""
                prompts[index], parts[index] = self.continuations.after(
                    stimulus, prompts[index], text, cuts[index] if cuts else (), max_tokens
                )
        texts = self._texts(stimuli, prompts, max_tokens)
        return [
            Prepared(
                i,
                stimulus,
                prompts[i].text,
                prompts[i].special_tokens,
                texts.get(i),
                parts[i].n_scored,
                parts[i].segments,
                parts[i].written,
                parts[i].appended,
                parts[i].plain,
            )
            for i, stimulus in enumerate(stimuli)
        ]

    def _texts(
        self, stimuli: Sequence[Stimulus], prompts: Sequence[Prompt], max_tokens: int | None
    ) -> dict[int, dict[str, list[int]]]:
        """Token ids of the stimuli without media, by place, tokenized together."""
        texts: dict[int, dict[str, list[int]]] = {}
        for special_tokens in (True, False):
            chosen = [
                i
                for i, stimulus in enumerate(stimuli)
                if stimulus.n_media == 0 and prompts[i].special_tokens is special_tokens
            ]
            if not chosen:
                continue
            rows = self._tokenize([prompts[i].text or "" for i in chosen], special_tokens, max_tokens)
            for place, i in enumerate(chosen):
                texts[i] = {name: list(values[place]) for name, values in rows.items()}
        return texts

    def _prompt(self, stimulus: Stimulus, raw: bool) -> Prompt:
        """The prompt of a stimulus, as far as a text goes in beside its media."""
        if self.only_writes or not self.reads_text or (self.dual and stimulus.text is None):
            return Prompt(None)
        # Nothing is not a user's turn, so no template is put around it.
        return self.prompts.write(stimulus, raw=raw or stimulus.text == "")

    def _check_fit(self, stimuli: Sequence[Stimulus]) -> None:
        for stimulus in stimuli:
            self._check_read(stimulus)
        name = self.loaded.name
        why = f" ({self.loaded.missing})" if self.loaded.missing else ""
        if any(not stimulus.n_media for stimulus in stimuli) and self.loaded.tokenizer is None:
            raise InputError(f"{name} came without a tokenizer{why}. Pass tokenizer= to modalnet.load().")
        placed = self.reads_text and not (self.dual or self.only_writes)
        for held, part, noun in (
            (any(stimulus.n_images for stimulus in stimuli), self.loaded.image_processor, "an image processor"),
            (any(stimulus.n_sounds for stimulus in stimuli), self.loaded.feature_extractor, "a feature extractor"),
        ):
            if held and placed and self.loaded.processor is None:
                raise InputError(f"{name} came without a processor{why}. Pass processor= to modalnet.load().")
            if held and part is None:
                raise InputError(f"{name} came without {noun}{why}. Pass processor= to modalnet.load().")
        needs = self.only_writes or (self.sees and not self.dual and self._needs_pictures)
        bare = next((stimulus for stimulus in stimuli if not stimulus.n_media), None)
        if self.reads_text and needs and bare is not None:
            what = "image" if self.sees else "sound"
            raise InputError(f"stimulus {bare.label} has no {what}, but {name} requires one with every text.")

    def _check_read(self, stimulus: Stimulus) -> None:
        """Refuse a stimulus that holds what the model does not read."""
        reads = {"image": self.sees, "sound": self.hears, "text": self.reads_text}
        able = [what for what, is_read in reads.items() if is_read]
        others = {"image": " or a vision-language model", "sound": " or a model that reads sounds", "text": ""}
        for what, held in (
            ("text", stimulus.text is not None),
            ("image", stimulus.n_images > 0),
            ("sound", stimulus.n_sounds > 0),
        ):
            if not held or reads[what]:
                continue
            beside = what == "text" and stimulus.n_media
            hint = "leave out its text" if beside else f"use {' or '.join(able)} stimuli{others[what]}"
            raise InputError(
                f"stimulus {stimulus.label} has {_A[what]}, but {self.loaded.name} reads "
                f"{' and '.join(_PLURAL[one] for one in able)} only; {hint}."
            )

    def _tokenize(self, texts: list[str], special_tokens: bool, max_tokens: int | None) -> dict[str, list[list[int]]]:
        # verbose=False: texts that exceed the maximum length raise an error below that names the stimulus.
        encoded = self.loaded.tokenizer(
            texts, add_special_tokens=special_tokens, truncation=False, padding=False, verbose=False
        )
        empty = next((i for i, ids in enumerate(encoded["input_ids"]) if len(ids) == 0), None)
        if empty is not None:
            raise InputError(f"The tokenizer of {self.loaded.name} returns no tokens for the text {texts[empty]!r}.")
        rows = {name: encoded[name] for name in ("input_ids", "token_type_ids") if name in encoded}
        if max_tokens is None:
            return rows
        # A tokenizer cuts on the side that it is set to, and setting it is not safe in several threads.
        n_last = len(added_ids(self.loaded.tokenizer)[1]) if special_tokens else 0
        return {name: [_cut(row, max_tokens, n_last) for row in values] for name, values in rows.items()}

    def _check_length(self, n_tokens: int, label: str) -> None:
        limit = getattr(self.text_config, "max_position_embeddings", None) or getattr(
            self.text_config, "n_positions", None
        )
        if isinstance(limit, int) and 0 < limit < n_tokens:
            raise InputError(
                f"Stimulus {label} has {n_tokens} tokens, more than the maximum of {limit} of {self.loaded.name}. "
                "Shorten it, or split it into several stimuli."
            )

    def _check_known(self, ids: Sequence[int], rows: float, label: str) -> None:
        """Refuse tokens beyond the rows of an embedding; media take the place of their own."""
        media = (self.image_token_id, self.sound_token_id)
        unknown = next((id_ for id_ in ids if id_ >= rows and id_ not in media), None)
        if unknown is None:
            return
        tokenizer = self.loaded.tokenizer
        raise InputError(
            f"stimulus {label} has the token {tokenizer.convert_ids_to_tokens(unknown)!r} with id {unknown}, but "
            f"{self.loaded.name} has embeddings of {rows} tokens only; its tokenizer knows {len(tokenizer)}. Load the "
            "tokenizer of the model, or call model.module.resize_token_embeddings(len(tokenizer)) before load()."
        )

    def _n_embeddings(self) -> tuple[float, float]:
        """How many tokens the model has an embedding of, where it reads and where an encoder-decoder model writes."""
        module = self.loaded.module
        roots = [module.get_submodule(tower.root) for tower in self.towers.values() if tower.modality == "text"]
        if not self.writes_apart:
            return n_embeddings(module, *roots), float("inf")
        return n_embeddings(module), n_embeddings(module.get_submodule(self.towers["decoder"].root))

    def next_tokens(self, stimulus: Stimulus, text: str) -> tuple[int, ...]:
        """The tokens that a text becomes straight after a stimulus; see :meth:`Continuations.next_tokens`."""
        with tokenizer_turn(self._tokenizes):
            ids = self.continuations.next_tokens(stimulus, text)
        read, written = self._n_embeddings()
        self._check_known(ids, written if self.writes_apart else read, f"{stimulus.label} with {text!r}")
        return ids

    def check_open(self, item: Encoded) -> None:
        """Refuse to continue a text that the tokenizer closes; see :meth:`Continuations.check_open`."""
        if item.n_tokens and item.prepared.special_tokens:
            self.continuations.check_open(int(item.inputs["input_ids"][0, -1]))

    def collate(self, items: Sequence[Encoded]) -> Batch:
        """Put encoded stimuli into one batch; see :class:`modalnet.inputs.collating.Collator`."""
        return self.collator.collate(items)

    # -- encoding ----------------------------------------------------------------------------------------------------

    def encode(self, prepared: Prepared) -> Encoded:
        """Turn one prepared stimulus into model inputs; images and sounds are decoded here.

        Raises
        ------
        InputError
            Where one cannot be read or the processor refuses it; the message names the stimulus.
        """
        import torch

        written = {"decoder_input_ids": torch.tensor([prepared.written])} if prepared.written else {}
        if prepared.text_inputs is not None:
            inputs = {name: torch.tensor([ids]) for name, ids in prepared.text_inputs.items()}
            if self._wants_token_types:
                inputs.setdefault("token_type_ids", torch.zeros_like(inputs["input_ids"]))
            if "bbox" in self._parameters:  # places of words on a page, which a text by itself has not
                inputs["bbox"] = torch.zeros(*inputs["input_ids"].shape, 4, dtype=torch.long)
            return self.trained_length.fill(Encoded(prepared, {**inputs, **written}))
        if prepared.prompt is None and prepared.stimulus.n_sounds:
            heard, frames = self.sound_features.features(prepared.stimulus)
            return Encoded(prepared, {**heard, **written}, frames=frames)
        images = prepared.stimulus.images()
        sounds = self.sound_features.samples(prepared.stimulus) if prepared.stimulus.n_sounds else []
        made = self._processed(prepared, images, sounds)
        make = partial(self._processed, prepared, images)
        self.sound_features.check_whole(sounds, made, make, prepared.stimulus.label)
        if "mm_token_type_ids" in self._parameters and "input_ids" in made and self.image_token_id is not None:
            # Not every processor marks the image tokens unless it is asked to, and positions of some models need it.
            made.setdefault("mm_token_type_ids", (made["input_ids"] == self.image_token_id).long())
        if prepared.appended:
            made = _with_continuation(made, prepared.appended)
        encoded = Encoded(prepared, {**made, **written}, frames=frames_in(made) if sounds else None)
        self._check_length(encoded.n_tokens, prepared.stimulus.label)
        if "input_ids" in made:
            self._check_known(made["input_ids"].flatten().tolist(), self._n_embeddings()[0], prepared.stimulus.label)
        return self.trained_length.fill(encoded)

    def _processed(
        self, prepared: Prepared, images: list[Image.Image], sounds: list[Float[np.ndarray, " sample"]]
    ) -> dict[str, torch.Tensor]:
        """What the processor makes of a prompt and its media; of images alone, the image processor."""
        try:
            if prepared.prompt is None:
                features = self.loaded.image_processor(images=images, return_tensors="pt")
            else:
                with tokenizer_turn(self._tokenizes):
                    features = self.prompts.process(prepared.prompt, images, prepared.special_tokens, sounds)
        except InputError:
            raise
        except Exception as error:
            # Processors raise whatever their array code raises; only here is it known which stimulus it was.
            sizes = ", ".join(f"{image.width}x{image.height}" for image in images)
            lengths = ", ".join(f"{len(sound) / self.sound_features.rate:.2f}" for sound in sounds)
            media = [f"images of {sizes} pixels"] * bool(images) + [f"sounds of {lengths} s"] * bool(sounds)
            raise InputError(
                f"The processor of {self.loaded.name} cannot process stimulus {prepared.stimulus.label} "
                f"({', '.join(media)}): {type(error).__name__}: {error}"
            ) from error
        return {name: _tensor(value) for name, value in features.items() if _useful(name, value)}

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


def _sound_token_id(loaded: Loaded) -> int | None:
    """Token id that holds a sound's features in the language tower; None where the model has no such token."""
    config = getattr(loaded.module, "config", None)
    for name in ("audio_token_id", "audio_token_index"):
        for holder in (config, loaded.processor):
            value = getattr(holder, name, None)
            if isinstance(value, int):
                return value
    return None


def _cut(row: Sequence[int], max_tokens: int, n_last: int) -> list[int]:
    """The first tokens of a text, followed by those that close every text."""
    if len(row) <= max_tokens:
        return list(row)
    return [*row[: max(max_tokens - n_last, 0)], *row[len(row) - n_last :]]


def _with_continuation(inputs: dict[str, torch.Tensor], ids: Sequence[int]) -> dict[str, torch.Tensor]:
    """Model inputs with tokens behind their text."""
    import torch

    made = {}
    for name, value in inputs.items():
        more = value
        if name == "input_ids":
            more = torch.cat([value, torch.tensor([ids], dtype=value.dtype)], 1)
        elif is_text_field(name, value, inputs):
            # What a mask says of the last token holds for those that follow; no token of text is of another type.
            last = value[:, -1:] if "mask" in name else torch.zeros_like(value[:, -1:])
            more = torch.cat([value, last.repeat_interleave(len(ids), 1)], 1)
        made[name] = more
    return made


def _useful(name: str, value: Any) -> bool:
    # Some processors make training targets (PaliGemma's labels), with which a model computes a loss on the way.
    return name != "labels" and value is not None and not isinstance(value, str)


def _tensor(value: Any) -> torch.Tensor:
    import torch

    if isinstance(value, torch.Tensor):
        return value
    return torch.stack(list(value)) if isinstance(value[0], torch.Tensor) else torch.as_tensor(value)
