"""One small random model for each class, with what turns stimuli into its inputs."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from PIL import Image

from families import finish, make_tokenizer
from modalnet.errors import InputError
from modalnet.models.towers import find_towers

from .feed import TensorProcessor, Tensors, UnfitError, image_token_id
from .real import NoProcessorError, make_processor, token_ids
from .shrink import ALIKE, APART, COMMON_IDS, IMAGE, SIDE, Sizes, shrink


class NotBuiltError(Exception):
    """A class cannot be built here; the message says why."""


@dataclass
class Small:
    """A small random model.

    Attributes
    ----------
    model
        float32, in eval mode, on the CPU.
    tokenizer
        Of ids that the model has.
    processor
        Real, or a `TensorProcessor`; None for a model of text alone.
    placeholder
        What stands for a picture in a prompt, as this processor reads it.
    sizes
        Of its parts.
    without
        Parts of the class that were left out because transformers cannot build them from its config.
    """

    model: Any
    tokenizer: Any
    processor: Any
    placeholder: str = ""
    sizes: Sizes = APART
    without: tuple[str, ...] = ()

    @property
    def real(self) -> bool:
        """Whether pictures go through the processor of transformers."""
        return self.processor is not None and not isinstance(self.processor, TensorProcessor)

    def inputs(self, text: str | None, images: Sequence[Any], written: str = "") -> Tensors:
        """What the model's ``forward`` takes for one stimulus alone, and a continuation that is written after it."""
        wanted = inspect.signature(self.model.forward).parameters
        if text is None and not self.writes:
            made = self._look(images)
        elif not self.writes:
            made = self._read((text or "") + written, images)
        else:
            reads = self.model.main_input_name == "input_ids"
            made = self._read(text or "", images) if reads else self._look(images)
            own = written if reads else (text or "") + written
            ids = self.tokenizer(own, add_special_tokens=False)["input_ids"]
            made["decoder_input_ids"] = torch.tensor([[self.start, *ids]])
        return {name: value for name, value in made.items() if name in wanted}

    @property
    def writes(self) -> bool:
        """Whether it is an encoder-decoder model."""
        return bool(getattr(self.model.config, "is_encoder_decoder", False))

    @property
    def text_length(self) -> int | None:
        """The number of tokens that transformers' own pipeline pads texts to; None where it does not."""
        config = getattr(self.model.config, "text_config", None)
        return config.max_position_embeddings if "siglip" in self.model.config.model_type and config else None

    def _padded(self, made: Tensors) -> Tensors:
        """A text as long as the model was trained with."""
        if self.text_length is None:
            return made
        around = (0, self.text_length - made["input_ids"].shape[1])
        mask = torch.nn.functional.pad(torch.ones_like(made["input_ids"]), around)
        ids = torch.nn.functional.pad(made["input_ids"], around, value=self.tokenizer.pad_token_id)
        return {**made, "input_ids": ids, "attention_mask": mask}

    def _look(self, images: Sequence[Any]) -> Tensors:
        return dict(self.processor.image_processor(images=list(images), return_tensors="pt"))

    def _read(self, text: str, images: Sequence[Any]) -> Tensors:
        if images:
            prompt = self.placeholder * len(images) + text
            try:
                made = dict(self.processor(text=[prompt], images=[list(images)], return_tensors="pt"))
            except ValueError:  # a few take one list of images
                made = dict(self.processor(text=[prompt], images=list(images), return_tensors="pt"))
            if "mm_token_type_ids" in inspect.signature(self.model.forward).parameters:
                here = made["input_ids"] == image_token_id(self.model.config)
                made.setdefault("mm_token_type_ids", here.long())
            return self._padded({name: value for name, value in made.items() if name != "labels"})
        made = dict(self.tokenizer([text], return_tensors="pt"))
        if "bbox" in inspect.signature(self.model.forward).parameters:
            made["bbox"] = torch.zeros(*made["input_ids"].shape, 4, dtype=torch.long)
        return self._padded(made)

    @property
    def start(self) -> int:
        """The token that an encoder-decoder model begins to write with."""
        config = self.model.generation_config
        return config.bos_token_id if config.decoder_start_token_id is None else config.decoder_start_token_id


def build(config_class: Any, model_class: Any, **overrides: Any) -> Small:
    """Build a class small, with a processor that stands in for its own.

    Its parts get widths of their own or, where it cannot be built so, one; parts that are optional are left out where
    transformers cannot build them. ``overrides`` are fields of the config.

    Raises
    ------
    NotBuiltError
        With the reason.
    """
    tokenizer = make_tokenizer()
    optional = [name for name, spec in config_class.sub_configs_defaults.items() if spec.optional]
    problems = []
    for sizes in (APART, ALIKE):
        for without in ((), *((name,) for name in optional)):
            try:
                model = _model(config_class, model_class, sizes, without, **overrides)
            except ImportError as error:
                raise NotBuiltError(_first_line(error)) from error
            except Exception as error:  # a class says in many ways that a config does not suit it
                problems.append(f"{type(error).__name__}: {_first_line(error)}")
                continue
            try:
                processor = TensorProcessor(model, tokenizer) if _sees(model) else None
            except UnfitError as error:
                problems.append(_first_line(error))
                continue
            return Small(model, tokenizer, processor, "", sizes, without)
    raise NotBuiltError(problems[0])


def with_processor(kind: str, config_class: Any, model_class: Any, small: Small) -> Small:
    """The same class with the processor of transformers; the ids of its tokens are the model's.

    Raises
    ------
    NoProcessorError
        Where it cannot be made here, or makes what the small model does not take.
    """
    facts, cut = small.processor.facts, small.processor
    picture = Image.new("RGB", (IMAGE, IMAGE), (200, 30, 90))
    per_picture = cut.count([picture])
    config = small.model.config
    numbers = {
        "patch_size": facts.side,
        "merge_size": facts.merge,
        "spatial_merge_size": facts.merge,
        "temporal_patch_size": facts.frames,
        "pooling_kernel_size": facts.merge,
        "image_seq_length": per_picture,
        "image_seq_len": per_picture,
        "num_image_tokens": SIDE * SIDE if hasattr(config, "image_grid_pinpoints") else per_picture,
        "num_query_tokens": getattr(config, "num_query_tokens", per_picture),
        "img_size": IMAGE,
        "image_size": IMAGE,
        "size_conversion": {IMAGE: per_picture},
        "vision_feature_select_strategy": "default",
        "num_additional_image_tokens": _prefix(small.model),
        **{
            name: getattr(config, name)
            for name in (
                "vision_feature_select_strategy",
                "image_grid_pinpoints",
                "downsample_factor",
                "downsample_rate",
            )
            if hasattr(config, name)
        },
    }
    processor = make_processor(kind, numbers)
    model = _model(config_class, model_class, small.sizes, small.without, token_ids(config_class, processor))
    pictures = [Image.fromarray(np.random.default_rng(i).integers(0, 256, (53, 37, 3), dtype=np.uint8)) for i in (0, 1)]
    problems = []
    marks = [getattr(processor, name, None) for name in ("image_token", "boi_token", "image_placeholder_token")]
    for placeholder in ("", *(str(mark) for mark in marks if mark)):
        made = replace(small, model=model, tokenizer=processor.tokenizer, processor=processor, placeholder=placeholder)
        try:
            inputs = [made.inputs("What?", [picture]) for picture in pictures]
            if model.main_input_name == "input_ids" and image_token_id(model.config) is not None:
                assert (inputs[0]["input_ids"] == image_token_id(model.config)).any(), (
                    "it puts no image token into a text"
                )
            with torch.no_grad():
                one, two = (_numbers(model(**each)) for each in inputs)
            assert not torch.allclose(one, two, atol=1e-6), "the picture makes no difference"
        except Exception as error:  # whatever it is, this is not how the class reads pictures
            problems.append(f"{placeholder!r}: {type(error).__name__}: {_first_line(error)}")
            continue
        return made
    raise NoProcessorError("; ".join(problems))


def _model(
    config_class: Any,
    model_class: Any,
    sizes: Sizes,
    without: Sequence[str],
    tokens: dict[str, int] | None = None,
    **overrides: Any,
) -> Any:
    config = shrink(config_class, sizes=sizes, tokens=tokens, **dict.fromkeys(without), **overrides)
    model = finish(model_class(config))
    settings = getattr(model, "generation_config", None)
    if all(getattr(settings, name, 0) is None for name in ("decoder_start_token_id", "bos_token_id")):
        settings.decoder_start_token_id = COMMON_IDS["decoder_start"]  # as that of a checkpoint says
    return model


def _prefix(model: Any) -> int:
    """How many tokens stand before the patches of the first vision tower."""
    try:
        towers = find_towers(model)
    except InputError:
        return 0
    return int(towers["vision"].has_cls) + towers["vision"].n_registers if "vision" in towers else 0


def _numbers(output: Any) -> torch.Tensor:
    return output.logits if getattr(output, "logits", None) is not None else output[0]


def _sees(model: Any) -> bool:
    return any(name.startswith(("pixel", "image", "flattened")) for name in inspect.signature(model.forward).parameters)


def _first_line(error: BaseException) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
