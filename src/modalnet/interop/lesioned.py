"""A modalnet model as a language model of the lm-evaluation-harness.

The harness asks for three things: the log-probability of a continuation given a context, the log-probability of a
whole text, and the text that a model generates from a context. Requests are strings, so tokenization is the model's
own, as everywhere in modalnet.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any, Literal

from lm_eval.api.model import LM

from modalnet._validation import check_batch_size, check_int
from modalnet.errors import InputError
from modalnet.execution.likelihood import Request
from modalnet.interop.greedy_generation import generate_until, greedy_settings
from modalnet.model import Model
from modalnet.stimuli import Stimulus

_log = logging.getLogger(__name__)

#: Tokens by which a window may be shortened so that its text alone is tokenized as it is within the whole text.
_SEARCH = 16
_DEFAULT_LENGTH = 256  # the harness' default


class LesionedLM(LM):
    """A model under interventions, with the interface of the harness.

    It follows the conventions of the harness:

    - An empty context is the beginning-of-sequence token of the tokenizer, or its end-of-sequence token if it has none.
    - Trailing spaces of a context are moved to the continuation.
    - A context that is too long for the model is truncated from the left.
    - A text that is too long for the model is split into windows, each character scored once; every window but the last
      has one token of context, the last one as much as fits. Each window is tokenized like any text, with the
      beginning-of-sequence token if the tokenizer adds one.

    Parameters
    ----------
    model
        The model, or a view of it under interventions.
    batch_size
        Requests per forward pass.
    max_length
        Maximum input length in tokens; None for the model's maximum.

    Raises
    ------
    InputError
        If the tokenizer has neither a beginning- nor an end-of-sequence token, or ``max_length`` is not an integer from
        3 to the model's maximum.
    """

    def __init__(
        self, model: Model, *, batch_size: int | Literal["auto"] = "auto", max_length: int | None = None
    ) -> None:
        super().__init__()
        check_batch_size(batch_size)
        self.model = model
        self.tokenizer = model.tokenizer
        self.batch_size = batch_size
        holds = _holds(model)
        if max_length is not None:
            check_int("max_length", max_length, minimum=3, maximum=holds)
        self.max_length: int | None = max_length or holds
        self._own = len(self.tokenizer("")["input_ids"])  # special tokens that it adds to every text
        self._prefix = self.tokenizer.bos_token or self.tokenizer.eos_token
        if not self._own and not self._prefix:
            raise InputError(
                f"The tokenizer of {model.name} has neither a beginning- nor an end-of-sequence token, so texts cannot "
                "be scored without a context. Set its bos_token."
            )

    # -- requests of the harness --------------------------------------------------------------------------------------

    def loglikelihood(self, requests: Sequence[Any]) -> list[tuple[float, bool]]:
        """Natural-log probability of each continuation given its context, and whether it is the greedy continuation."""
        asked = [self._request(*one.args) for one in requests]
        return [
            (one.logprob, one.greedy) for one in self.model._executor.likelihoods(asked, batch_size=self.batch_size)
        ]

    def loglikelihood_rolling(self, requests: Sequence[Any]) -> list[float]:
        """Natural-log probability of each whole text."""
        windows = [(index, one) for index, request in enumerate(requests) for one in self._windows(request.args[0])]
        totals = [0.0] * len(requests)
        if windows:
            found = self.model._executor.likelihoods([one for _, one in windows], batch_size=self.batch_size)
            for (index, _), one in zip(windows, found, strict=True):
                totals[index] += one.logprob
        return totals

    def generate_until(self, requests: Sequence[Any]) -> list[str]:
        """The text that the model generates from each context, up to its first stop string."""
        return [self._write(*one.args) for one in requests]

    # -- likelihood ---------------------------------------------------------------------------------------------------

    def _request(self, context: str, continuation: str) -> Request:
        kept = context.rstrip()
        context, continuation = kept, context[len(kept) :] + continuation
        if not continuation:
            raise InputError(f"The harness requested an empty continuation after {context[-60:]!r}.")
        if not context:
            return self._after_nothing(self._check(continuation))
        context = self._shortened(context, continuation)
        return Request(Stimulus(text=context), continuation)

    def _after_nothing(self, text: str) -> Request:
        """A request for a text after the beginning-of-sequence token."""
        if not self._own:
            return Request(Stimulus(text=self._prefix), text)
        # A text that already starts with the token does not get it twice.
        bos = self.tokenizer.bos_token
        if bos and text.startswith(bos) and len(text) > len(bos):
            return Request(Stimulus(text=bos), text[len(bos) :])
        return Request(None, text)

    def _check(self, text: str) -> str:
        if self.max_length is not None and self._beginning + len(self._ids(text)) > self.max_length:
            raise InputError(f"{text[:60]!r}... is longer than the maximum input of {self.max_length} tokens.")
        return text

    def _shortened(self, context: str, continuation: str, room: int = 0) -> str:
        """Truncate a context from the left, to leave room for its continuation and ``room`` further tokens."""
        if self.max_length is None:
            return context
        limit = self.max_length - room
        over = self._count(context + continuation) - limit
        if over <= 0:
            return context
        ends = self._ends(context)
        while over < len(ends) - 1:
            cut = context[ends[over] :]
            left = self._count(cut + continuation) - limit
            if left <= 0:
                _log.warning("A context is too long; its first %d tokens are dropped.", over)
                return cut
            over += left
        raise InputError(
            f"{continuation[:60]!r}... and {room} new tokens leave no room for a context in the maximum input of "
            f"{self.max_length} tokens."
        )

    def _windows(self, text: str) -> Iterator[Request]:
        if not text:
            return
        limit = self.max_length
        ids = self._ids(text)
        if limit is None or self._beginning + len(ids) <= limit:
            yield self._after_nothing(text)
            return
        ends = self._ends(text)
        done = self._stop(text, ids, ends, 0, limit - self._beginning)
        yield self._after_nothing(text[: ends[done]])
        room = limit - self._own
        while done < len(ids):
            first, stop = done - 1, min(len(ids), done - 1 + room)
            if stop < len(ids) or self._count(text[ends[first] :]) > limit:
                stop = self._stop(text, ids, ends, first, stop)
            else:
                earlier = range(max(0, stop - room), first + 1)
                first = next((at for at in earlier[:_SEARCH] if self._ids(text[ends[at] :]) == ids[at:]), first)
            context, continuation = text[ends[first] : ends[done]], text[ends[done] : ends[stop]]
            # A stimulus cannot be blank; _stop avoids blank contexts where it can.
            yield (
                Request(Stimulus(text=context), continuation) if context.strip() else self._after_nothing(continuation)
            )
            done = stop

    def _stop(self, text: str, ids: list[int], ends: list[int], first: int, last: int) -> int:
        """The last token boundary up to ``last`` at which splitting the text does not change its tokens.

        If there is none nearby, as with a tokenizer that prepends a space to every text, the last boundary that fits.
        """
        for stop in range(last, max(first + 1, last - _SEARCH), -1):
            alone = self._ids(text[ends[first] : ends[stop]])
            before = text[ends[stop - 1] : ends[stop]]  # the context of the next window
            if before.strip() and alone == ids[first:stop] and self._ids(before) == ids[stop - 1 : stop]:
                return stop
        fits = (
            stop
            for stop in range(last, first + 1, -1)
            if self._beginning + len(self._ids(text[ends[first] : ends[stop]])) <= (self.max_length or 0)
        )
        return next(fits, last)

    # -- generation ---------------------------------------------------------------------------------------------------

    def _write(self, context: str, settings: Mapping[str, Any]) -> str:
        until, length, rest = greedy_settings(settings, _DEFAULT_LENGTH, remedy='gen_kwargs={"do_sample": False}')
        if self.max_length is not None and length >= self.max_length:
            raise InputError(
                f"The task generates up to {length} tokens, but {self.model.name} has a maximum of {self.max_length} "
                'including the context. Give gen_kwargs={"max_gen_toks": ...}.'
            )
        context = self._shortened(context, "", length) if context.strip() else (self._prefix or "") + context
        return generate_until(self.model, Stimulus(text=context), until, length, rest)

    # -- tokens -------------------------------------------------------------------------------------------------------

    @cached_property
    def _beginning(self) -> int:
        """Number of tokens before a text with an empty context."""
        return self._own or len(self._ids(self._prefix))

    def _ids(self, text: str) -> list[int]:
        return list(self.tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"])

    def _count(self, text: str) -> int:
        return len(self.tokenizer(text, verbose=False)["input_ids"])

    def _ends(self, text: str) -> list[int]:
        """Character offsets at which the text can be split: before each of its tokens, and at the end."""
        if not getattr(self.tokenizer, "is_fast", False):
            raise InputError(
                f"A text exceeds the maximum length of {self.model.name} and cannot be split, as "
                f"{type(self.tokenizer).__name__} does not return character offsets. Load a fast tokenizer."
            )
        encoded = self.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
        # Some tokenizers exclude the leading space of a word from its offsets: a token starts where the last one ended.
        return [0, *(end for _, end in encoded["offset_mapping"][:-1]), len(text)]

    # -- metadata for the harness -------------------------------------------------------------------------------------

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        """Format a chat with the tokenizer's chat template."""
        return self.tokenizer.apply_chat_template(
            chat_history,
            tokenize=False,
            add_generation_prompt=add_generation_prompt,
            continue_final_message=not add_generation_prompt,
        )

    def chat_template(self, chat_template: bool | str = False) -> str | None:
        """The tokenizer's chat template, for the harness' logs."""
        return self.tokenizer.chat_template if chat_template else None

    @property
    def tokenizer_name(self) -> str:
        """Name of the tokenizer, for the harness' logs and its cache of requests."""
        return str(self.tokenizer.name_or_path).replace("/", "__")

    def get_model_info(self) -> dict[str, Any]:
        """Information about the model that the harness stores with its results."""
        return {"model": self.model.name, "interventions": [str(one) for one in self.model.interventions]}


def _holds(model: Model) -> int | None:
    """Maximum input length of a model in tokens, by its config; None if the config does not say."""
    config = model.module.config
    config = config.get_text_config() if hasattr(config, "get_text_config") else config
    found = getattr(config, "max_position_embeddings", None) or getattr(config, "n_positions", None)
    return found if isinstance(found, int) and found > 0 else None
