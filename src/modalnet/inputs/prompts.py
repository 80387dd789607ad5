"""What a stimulus looks like as text: chat templates and image placeholders.

A vision-language model finds its images in the text by placeholder tokens. A processor with a chat template writes
them itself. For one without, the placeholder is what the processor says it is (``image_token``, ``boi_token`` where
that one is expanded, or another image token that it names), found out by asking the processor to read a small picture.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

from modalnet._validation import refusal
from modalnet.errors import InputError

if TYPE_CHECKING:
    from PIL import Image

    from modalnet.stimuli import Stimulus


@dataclass(frozen=True)
class Prompt:
    """The text that the tokenizer sees, and whether it adds special tokens to it."""

    text: str | None
    special_tokens: bool = True


class Prompts:
    """Writes the prompt of a stimulus for one processor.

    Parameters
    ----------
    processor
        A multimodal processor, or None for a model that reads only text or only images.
    tokenizer
        The tokenizer, or None.
    chat_template
        ``"auto"``, True or False; see :class:`modalnet.inputs.encoding.Encoder`.
    image_token_id
        The token that holds an image's features in the language tower, if the model has one.
    """

    def __init__(
        self,
        processor: Any,
        tokenizer: Any,
        chat_template: bool | Literal["auto"] = "auto",
        image_token_id: int | None = None,
    ) -> None:
        self.processor = processor
        self.image_token_id = image_token_id
        self.tokenizer = tokenizer
        holder = processor if processor is not None else tokenizer if chat_template is True else None
        if not isinstance(chat_template, bool) and chat_template != "auto":
            raise refusal("chat_template", "'auto', True or False", chat_template)
        template = getattr(processor, "chat_template", None) or getattr(tokenizer, "chat_template", None)
        if chat_template is True and not template:
            raise InputError("chat_template=True, but neither the processor nor the tokenizer has a chat template.")
        self.template_of: Any = holder if template and chat_template is not False else None
        self._nests: bool | None = None  # whether images are nested by text; None until a picture was read

    def write(self, stimulus: Stimulus, *, raw: bool = False) -> Prompt:
        """The prompt of a stimulus; ``raw`` leaves a text as it is."""
        text, n_images = stimulus.text, stimulus.n_images
        if n_images and self.processor is None:
            return Prompt(None)
        stray = [token for token in self._placeholder_candidates if not n_images and text and token in text]
        if stray:
            raise InputError(f"stimulus {stimulus.label} has the image placeholder {stray[0]!r} but no image.")
        if raw and not n_images:
            return Prompt(text)
        if text is not None and self._is_written(text):
            return Prompt(text, special_tokens=not self._starts_with_bos(text))
        if self.template_of is not None:
            rendered = self._in_template(text, n_images)
            return Prompt(rendered, special_tokens=not self._starts_with_bos(rendered))
        return Prompt((self.placeholder * n_images if n_images else "") + (text or ""))

    def process(self, prompt: str, images: list[Image.Image], special_tokens: bool) -> Any:
        """Run the processor on a prompt and its images."""
        options = {} if special_tokens else {"add_special_tokens": False}
        # Most processors take images nested by text; a few know no other way than one list of them.
        for given in ([images], images) if self._nests is None else ([images],) if self._nests else (images,):
            try:
                features = self.processor(text=[prompt], images=given, return_tensors="pt", **options)
            except ValueError as error:
                if self._nests is not None or given is images or "ested" not in str(error):
                    raise
                continue
            self._nests = given is not images
            return features
        raise AssertionError("the last way returns or raises")

    def _in_template(self, text: str | None, n_images: int) -> str:
        parts: list[dict[str, str]] = [{"type": "image"} for _ in range(n_images)]
        if text is not None:
            parts.append({"type": "text", "text": text})
        # A tokenizer's own template takes the message as a string.
        content: Any = parts if self.template_of is self.processor else text
        message = [{"role": "user", "content": content}]
        try:
            return self.template_of.apply_chat_template(message, tokenize=False, add_generation_prompt=True)
        except Exception as error:
            raise InputError(
                f"the chat template of {type(self.template_of).__name__} failed: {error}. Pass chat_template=False to "
                "modalnet.load() to give texts as they are."
            ) from error

    def _is_written(self, text: str) -> bool:
        """Whether the user placed images or template tokens in the text."""
        return any(token in text for token in self._control_tokens)

    def _starts_with_bos(self, text: str) -> bool:
        bos = getattr(self.tokenizer, "bos_token", None)
        return isinstance(bos, str) and bool(bos) and text.startswith(bos)

    @cached_property
    def _control_tokens(self) -> tuple[str, ...]:
        added = getattr(self.tokenizer, "added_tokens_decoder", None) or {}
        tokens = {str(token) for token in added.values() if getattr(token, "special", False)}
        tokens.update(self._placeholder_candidates)
        return tuple(sorted(token for token in tokens if token))

    @cached_property
    def _placeholder_candidates(self) -> list[str]:
        known = ("image_token", "boi_token")
        others = (
            (name for name in vars(self.processor) if re.fullmatch(r"image_\w+_token", name)) if self.processor else ()
        )
        names = dict.fromkeys([*known, *(name for name in others if not re.search(r"start|end|bos|eos", name))])
        values = (getattr(self.processor, name, None) for name in names)
        return list(dict.fromkeys(str(token) for token in values if token))

    @cached_property
    def placeholder(self) -> str:
        """The text that stands for one image, as this processor reads it."""
        from PIL import Image

        picture = Image.new("RGB", (64, 64), (127, 127, 127))
        problems = []
        # Nothing comes first: a processor that places image tokens by itself (PaliGemma, BLIP-2) would count one more.
        for candidate in ["", *self._placeholder_candidates]:
            try:
                features = self.process(candidate + "a", [picture], True)
            except Exception as error:  # whatever a processor raises means that this is not its placeholder
                problems.append(f"{candidate!r}: {error}")
                continue
            if self.image_token_id is None or bool((features["input_ids"] == self.image_token_id).any()):
                return candidate
            problems.append(f"{candidate!r}: it puts no image token into the text")
        raise InputError(
            f"{type(self.processor).__name__} accepts no image placeholder that it names ({'; '.join(problems)}). "
            "Write the placeholders into the text of the stimulus yourself."
        )
