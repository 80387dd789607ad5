"""Continuations: the tokens of a text that is written after a stimulus.

A tokenizer may merge the end of a prompt with the beginning of what follows, so the tokens of a continuation are those
from the first that differs between the prompt alone and the prompt with the continuation.
"""

from __future__ import annotations

import bisect
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from modalnet.errors import InputError
from modalnet.inputs.prompts import SHORT, Prompt, Prompts
from modalnet.inputs.sound_features import noise
from modalnet.inputs.tokens import added_ids

if TYPE_CHECKING:
    from modalnet.models.loading import Loaded
    from modalnet.stimuli import Stimulus


@dataclass(frozen=True)
class Continuation:
    """What a continuation adds to a prepared stimulus; see :class:`modalnet.inputs.batch.Prepared` for each."""

    n_scored: int = 0
    segments: tuple[int, ...] = ()
    written: tuple[int, ...] = ()
    appended: tuple[int, ...] = ()
    plain: tuple[int, ...] = ()


class Continuations:
    """Tokenizes what is written after a stimulus.

    Parameters
    ----------
    loaded
        The model with its tokenizer and processor.
    prompts
        Writes the prompts.
    text_config
        The config of the text tower.
    writes_apart
        Whether the model writes in another tower than it reads in.
    only_writes
        Whether its encoder reads no text at all.
    """

    def __init__(
        self, loaded: Loaded, prompts: Prompts, text_config: Any, *, writes_apart: bool, only_writes: bool
    ) -> None:
        self.loaded = loaded
        self.prompts = prompts
        self.text_config = text_config
        self.writes_apart = writes_apart
        self.only_writes = only_writes
        self._closes: dict[str, bool] = {}

    def after(
        self, stimulus: Stimulus, prompt: Prompt, text: str, cuts: Sequence[int], max_tokens: int | None = None
    ) -> tuple[Prompt, Continuation]:
        """The prompt with a continuation, and what the continuation adds.

        Parameters
        ----------
        stimulus, prompt
            What comes before.
        text
            The continuation; may be empty in a model that writes in another tower than it reads in.
        cuts
            The places (in characters) at which it is cut into segments.
        max_tokens
            Cut what the decoder has written so far to this many tokens.
        """
        if self.writes_apart:
            prefix = (stimulus.text or "") if self.only_writes else ""
            ids, count = self._write(prefix, text, max_tokens)
            starts = [len(prefix) + cut for cut in cuts]
            segments = self._segments(Prompt(prefix + text, False), count, starts) if starts else ()
            return prompt, Continuation(count, segments, written=(self._start_token, *ids))
        appended: tuple[int, ...] = ()
        plain: tuple[int, ...] = ()
        if stimulus.n_media and self._closes_prompts("image" if stimulus.n_images else "audio"):
            start, whole = 0, Prompt(text, False)
            appended = self._bare(text)
            count = len(appended)
        else:
            start, whole = len(prompt.text or ""), Prompt((prompt.text or "") + text, prompt.special_tokens)
            count, ids = self._added(prompt, whole)
            plain = ids if stimulus.n_media else ()
            prompt = whole
        places = [start + cut for cut in cuts]
        segments = self._segments(whole, count, places) if places else ()
        return prompt, Continuation(count, segments, appended=appended, plain=plain)

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

    def _closes_prompts(self, kind: str) -> bool:
        """Whether the processor ends the text beside a picture, or a sound, with something of its own (a new line)."""
        if kind not in self._closes:
            from PIL import Image

            from modalnet.stimuli.stimulus import Stimulus

            images = [Image.new("RGB", (64, 64), (127, 127, 127))] if kind == "image" else []
            sounds = [] if images else [noise(SHORT, 0)]
            held = Stimulus("a", image=images or None, audio=[(sound, SHORT) for sound in sounds] or None)
            prompt = self.prompts.write(held)
            ids = self.prompts.process(prompt.text or "", images, prompt.special_tokens, sounds)["input_ids"]
            plain = self.loaded.tokenizer(prompt.text, add_special_tokens=prompt.special_tokens, verbose=False)
            self._closes[kind] = int(ids[0][-1]) != plain["input_ids"][-1]
        return self._closes[kind]

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
            f"{self.loaded.name} does not specify the start token of its decoder. Set decoder_start_token_id in its "
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
        if rows[0] and rows[1] and rows[0][-1] == rows[1][-1]:
            self.check_open(rows[1][-1])
        same = next((i for i, (a, b) in enumerate(zip(*rows, strict=False)) if a != b), min(map(len, rows)))
        return len(rows[1]) - max(same, 1), tuple(rows[1])

    def check_open(self, last: int) -> None:
        """Refuse to continue texts where the tokenizer closes every one with this token.

        Raises
        ------
        InputError
            In a model that writes where it reads: the token is not of the text, and nothing comes after it.
        """
        tokenizer = self.loaded.tokenizer
        if self.writes_apart or last != tokenizer.eos_token_id or last not in added_ids(tokenizer)[1]:
            return
        raise InputError(
            f"The tokenizer of {self.loaded.name} ends every text with {tokenizer.eos_token!r}, so texts cannot be "
            "continued. Set its add_eos_token to False."
        )

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
        if stimulus.n_media and self._closes_prompts("image" if stimulus.n_images else "audio"):
            return self._bare(text)
        before = self.prompts.write(stimulus, raw=stimulus.text == "")
        rows = [
            self.loaded.tokenizer(one, add_special_tokens=before.special_tokens, verbose=False)["input_ids"]
            for one in (before.text or "", (before.text or "") + text)
        ]
        count = len(rows[0])
        if rows[1][:count] != rows[0]:
            raise InputError(
                f"Appending {text!r} to stimulus {stimulus.label} changes its last token, so the next token is not the "
                "first of the answer. If the stimulus ends with a space, move the space to the answer."
            )
        return tuple(rows[1][count:])

    def _segments(self, prompt: Prompt, count: int, starts: Sequence[int]) -> tuple[int, ...]:
        """For each of the last tokens of a prompt, how many segments begin at or before its first letter."""
        text = prompt.text or ""
        if not getattr(self.loaded.tokenizer, "is_fast", False):
            raise InputError(
                f"{type(self.loaded.tokenizer).__name__} does not return character offsets, so continuations cannot be "
                "split into segments. Load a fast tokenizer."
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
