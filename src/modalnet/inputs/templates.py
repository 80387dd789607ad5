"""How a chat template takes a message, measured on the template.

A chat template is a program, and nothing says how it takes the content of a message: as a string (Llama 3, Gemma 2,
Vicuna), or as a list of parts of text, images and sounds (LLaVA, Qwen2-VL, Qwen2-Audio). Given the other one, many
write a list out as Python prints it, or leave the text out. So a message with a known text is rendered both ways, and
the form counts that gives the text and nothing of the list around it. The same renderings tell whether the template
writes something for an image or a sound, and how its turns begin and end, by which a text that is in the template
already is known.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from modalnet.errors import InputError

# What is rendered to see where a template puts a text; another one stands for the message of a system.
SENTINEL, OF_SYSTEM = "Qx7jZw", "Kv3yPb"
# What stands before a text where a list of parts was printed, by Python or as JSON.
_PRINTED = re.compile(r"""['"]text['"]\s*:\s*['"]$""")


@dataclass(frozen=True)
class Form:
    """How one template takes a user's message.

    Attributes
    ----------
    parts
        Whether the content is a list of parts; otherwise it is a string.
    draws
        Of which media a part leaves a mark in the prompt: ``"image"``, ``"audio"``.
    media_tokens
        The special tokens that these marks hold.
    openings
        How a conversation begins, from its first special token on: ``"<|im_start|>user"``.
    before, after
        What stands before and after the text, without a beginning-of-sequence token and without white space at its
        ends.
    prompts
        Whether the template prompts for an answer, so that ``after`` ends with the beginning of one.
    """

    parts: bool
    draws: frozenset[str]
    media_tokens: frozenset[str]
    openings: tuple[str, ...]
    before: str
    after: str
    prompts: bool


class ChatTemplate:
    """The chat template of a processor or tokenizer.

    Parameters
    ----------
    holder
        What has the template.
    multimodal
        Whether the holder is a processor: where a template takes both forms, a processor gets parts.
    bos
        The beginning-of-sequence token; empty for none.
    special_tokens
        Every special token of the tokenizer.
    """

    def __init__(self, holder: Any, *, multimodal: bool, bos: str, special_tokens: Sequence[str]) -> None:
        self.holder = holder
        self.multimodal = multimodal
        self.bos = bos
        self.special_tokens = sorted(special_tokens, key=len, reverse=True)
        self._forms: dict[str, Form] = {}

    @property
    def form(self) -> Form:
        """How the template, as it is now, takes a message; measured once.

        Raises
        ------
        InputError
            Where it fails, or writes the text of a message in neither form.
        """
        now = str(self.holder.chat_template)
        if now not in self._forms:
            self._forms[now] = self._measured()
        return self._forms[now]

    def render(self, text: str | None, media: Sequence[tuple[str, str]] = ()) -> str:
        """The prompt of one user message: its images and sounds, then its text.

        Parameters
        ----------
        text
            None for a message of media alone.
        media
            For each image and sound without a place in the text: ``"image"`` or ``"audio"``, and what stands for it in
            the text where the template writes nothing for one.

        Raises
        ------
        InputError
            Where the template fails.
        """
        drawn = [kind for kind, _ in media if kind in self.form.draws]
        written = "".join(placeholder for kind, placeholder in media if kind not in self.form.draws)
        if written:
            text = written + (text or "")
        try:
            return self._render(_content(text, drawn, parts=self.form.parts))
        except Exception as error:
            raise self._failed(error) from error

    def holds(self, text: str) -> bool:
        """Whether a text is in the template already: it begins as a conversation does, or ends as a prompt does."""
        form = self.form
        body = _without(text.lstrip(), self.bos)
        if body.startswith(form.openings) or (form.prompts and body.rstrip().endswith(form.after)):
            return True
        if not form.before:
            return not form.after and body != text.lstrip()  # the template writes no more than a bos
        return not form.openings and body.startswith(form.before) and form.after in body

    def _measured(self) -> Form:
        failures: list[Exception] = []
        for parts in (True, False) if self.multimodal else (False, True):
            try:
                rendered = self._render(_content(SENTINEL, parts=parts))
            except Exception as error:  # whatever a template raises: it does not take this form
                failures.append(error)
                continue
            if SENTINEL in rendered and not _PRINTED.search(rendered.partition(SENTINEL)[0]):
                return self._form(rendered, parts=parts)
        if failures:
            raise self._failed(failures[0]) from failures[0]
        raise InputError(
            f"the chat template of {type(self.holder).__name__} writes the text of a user message neither as a string "
            "nor as a list of parts. Pass chat_template=False to modalnet.load() to give texts as they are."
        )

    def _form(self, rendered: str, *, parts: bool) -> Form:
        before, _, after = rendered.partition(SENTINEL)
        user = {"role": "user", "content": _content(SENTINEL, parts=parts)}
        system = {"role": "system", "content": _content(OF_SYSTEM, parts=parts)}
        marks: dict[str, set[str]] = {}
        for kind in ("image", "audio") if parts else ():
            drawn = self._attempt([{"role": "user", "content": _content(SENTINEL, [kind], parts=True)}])
            if drawn != rendered and SENTINEL in drawn:
                marks[kind] = {token for token in self.special_tokens if drawn.count(token) > rendered.count(token)}
        conversation = self._attempt([system, user]).partition(OF_SYSTEM)[0]
        return Form(
            parts,
            frozenset(marks),
            frozenset(token for tokens in marks.values() for token in tokens),
            tuple(sorted({*self._openings(before), *self._openings(conversation)})),
            _without(before.strip(), self.bos).strip(),
            after.strip(),
            bool(after.strip()) and self._attempt([user], prompt=False) != rendered,
        )

    def _openings(self, before: str) -> set[str]:
        """The first special token of a prompt wherever it stands, each with the word or space that follows it."""
        body = _without(before.lstrip(), self.bos).lstrip()
        first = next((token for token in self.special_tokens if body.startswith(token)), None)
        if first is None:
            return set()
        return {found.group() for found in re.finditer(re.escape(first) + r"(?:\w+|\s?)", body)}

    def _attempt(self, messages: list[dict[str, Any]], *, prompt: bool = True) -> str:
        """A rendering, or nothing where the template refuses."""
        try:
            return str(self.holder.apply_chat_template(messages, tokenize=False, add_generation_prompt=prompt))
        except Exception:  # whatever a template raises
            return ""

    def _render(self, content: Any) -> str:
        message = [{"role": "user", "content": content}]
        return str(self.holder.apply_chat_template(message, tokenize=False, add_generation_prompt=True))

    def _failed(self, error: Exception) -> InputError:
        return InputError(
            f"the chat template of {type(self.holder).__name__} failed: {error}. Pass chat_template=False to "
            "modalnet.load() to give texts as they are."
        )


def _content(text: str | None, media: Sequence[str] = (), *, parts: bool) -> Any:
    if not parts:
        return text or ""
    made: list[dict[str, str]] = [{"type": kind} for kind in media]
    return made if text is None else [*made, {"type": "text", "text": text}]


def _without(text: str, beginning: str) -> str:
    return text.removeprefix(beginning) if beginning else text
