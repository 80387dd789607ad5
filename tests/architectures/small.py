"""One small random model for each class, with what turns stimuli into its inputs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import transformers as tr

from families import finish, make_tokenizer

from .feed import TensorProcessor, UnfitError
from .shrink import ALIKE, APART, shrink


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


def build(config_class: Any, model_class: Any) -> Small:
    """Build a class small: with parts of different widths, else of one width; with all parts, else without optional ones.

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
            try:
                return Small(model, tokenizer, TensorProcessor(model, tokenizer) if _sees(model) else None, without)
            except UnfitError as error:
                problems.append(_first_line(error))
    raise NotBuiltError(problems[0])


def _sees(model: Any) -> bool:
    import inspect

    return any(name.startswith(("pixel", "image", "flattened")) for name in inspect.signature(model.forward).parameters)


def _first_line(error: BaseException) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
