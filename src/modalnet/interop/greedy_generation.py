"""Greedy decoding up to a stop string, as evaluation harnesses ask for it.

Both EleutherAI's lm-evaluation-harness and lmms-eval give one mapping of settings per request: stop strings, the number
of new tokens under one of several names, and arguments of transformers' ``generate``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from modalnet.errors import InputError

if TYPE_CHECKING:
    import torch

    from modalnet.model import Model
    from modalnet.stimuli import Stimulus

#: Names for the maximum number of new tokens, in the harness' order of precedence.
_LENGTHS = ("max_gen_toks", "max_new_tokens", "max_tokens", "max_completion_tokens")
_SAMPLING = ("do_sample", "temperature", "top_p", "top_k", "min_p", "typical_p")


def greedy_settings(
    settings: Mapping[str, Any], default_length: int, *, remedy: str
) -> tuple[list[str], int, dict[str, Any]]:
    """Stop strings, number of new tokens, and the remaining arguments of transformers' ``generate``.

    Parameters
    ----------
    settings
        As a task has them.
    default_length
        The number of new tokens where the task names none.
    remedy
        What a user passes to decode greedily, for the message.

    Raises
    ------
    InputError
        If the settings ask for sampling: the effect of a lesion would be confounded with sampling noise.
    """
    rest = dict(settings)
    given = [rest.pop(name, None) for name in _LENGTHS]
    length = next((int(value) for value in given if value is not None), default_length)
    until = rest.pop("until", None) or []
    sampling = {name: rest.pop(name) for name in _SAMPLING if name in rest}
    drawn = sampling.get("do_sample")
    if drawn or (drawn is None and float(sampling.get("temperature") or 0) > 0):
        raise InputError(
            f"The task samples its answers ({sampling}), but modalnet decodes greedily for the harness. Give {remedy}."
        )
    return [stop for stop in ([until] if isinstance(until, str) else until) if stop], length, rest


def generate_until(model: Model, stimulus: Stimulus, until: list[str], length: int, rest: Mapping[str, Any]) -> str:
    """The text that a model generates after a stimulus, up to its first stop string."""
    settings = dict(rest)
    if until:
        settings["stopping_criteria"] = [_has_written(until, model.tokenizer)]
    written: str = model.generate(stimulus, max_new_tokens=length, **settings)
    for stop in until:
        written = written.split(stop, maxsplit=1)[0]
    return written


def _has_written(until: list[str], tokenizer: Any) -> Callable[..., torch.Tensor]:
    """A stopping criterion for transformers: a stop string has been written."""
    import torch

    start: list[int] = []

    def found(input_ids: torch.Tensor, scores: Any, **_: Any) -> torch.Tensor:
        start[:] = start or [input_ids.shape[1] - 1]  # first called after one new token
        text = tokenizer.decode(input_ids[0, start[0] :], skip_special_tokens=True)
        return torch.tensor([any(stop in text for stop in until)], device=input_ids.device)

    return found
