"""One small random model for each class, with what turns stimuli into its inputs."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from families import finish, make_tokenizer

from .feed import TensorProcessor, Tensors, UnfitError
from .shrink import ALIKE, APART, COMMON_IDS, shrink


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
    without
        Parts of the class that were left out because transformers cannot build them from its config.
    """

    model: Any
    tokenizer: Any
    processor: Any
    without: tuple[str, ...] = ()

    def inputs(self, text: str | None, images: Sequence[Any], written: str = "") -> Tensors:
        """What the model's ``forward`` takes for one stimulus alone, and a continuation that is written after it."""
        wanted = inspect.signature(self.model.forward).parameters
        if not getattr(self.model.config, "is_encoder_decoder", False):
            made = self._read((text or "") + written, images)
        else:
            reads = self.model.main_input_name == "input_ids"
            made = self._read(text or "", images) if reads else self.processor.image_processor(images=list(images))
            own = written if reads else (text or "") + written
            ids = self.tokenizer(own, add_special_tokens=False)["input_ids"]
            made["decoder_input_ids"] = torch.tensor([[self.start, *ids]])
        return {name: value for name, value in made.items() if name in wanted}

    def _read(self, text: str, images: Sequence[Any]) -> Tensors:
        if images:
            return dict(self.processor(text=[text], images=[list(images)]))
        made = dict(self.tokenizer([text], return_tensors="pt"))
        if "bbox" in inspect.signature(self.model.forward).parameters:
            made["bbox"] = torch.zeros(*made["input_ids"].shape, 4, dtype=torch.long)
        return made

    @property
    def start(self) -> int:
        """The token that an encoder-decoder model begins to write with."""
        config = self.model.generation_config
        return config.bos_token_id if config.decoder_start_token_id is None else config.decoder_start_token_id


def build(config_class: Any, model_class: Any) -> Small:
    """Build a class small.

    Its parts get widths of their own or, where it cannot be built so, one; parts that are optional are left out where
    transformers cannot build them.

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
                model = finish(model_class(shrink(config_class, sizes=sizes, **dict.fromkeys(without))))
            except ImportError as error:
                raise NotBuiltError(_first_line(error)) from error
            except Exception as error:  # a class says in many ways that a config does not suit it
                problems.append(f"{type(error).__name__}: {_first_line(error)}")
                continue
            settings = model.generation_config
            if all(getattr(settings, name, None) is None for name in ("decoder_start_token_id", "bos_token_id")):
                settings.decoder_start_token_id = COMMON_IDS["decoder_start"]  # as that of a checkpoint says
            try:
                return Small(model, tokenizer, TensorProcessor(model, tokenizer) if _sees(model) else None, without)
            except UnfitError as error:
                problems.append(_first_line(error))
    raise NotBuiltError(problems[0])


def _sees(model: Any) -> bool:
    return any(name.startswith(("pixel", "image", "flattened")) for name in inspect.signature(model.forward).parameters)


def _first_line(error: BaseException) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
