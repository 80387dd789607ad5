"""What a stimulus looks like as text: chat templates and placeholders of images and sounds.

A model finds its images and sounds in the text by placeholder tokens. A processor with a chat template writes them
itself. For one without, the placeholder is what the processor says it is (``image_token``, ``boi_token`` where that one
is expanded, or another image token that it names; ``audio_token``), found out by asking the processor to read a small
picture, or a short sound.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

from modalnet._validation import refusal
from modalnet.errors import InputError
from modalnet.inputs.sound_features import noise
from modalnet.inputs.templates import ChatTemplate
from modalnet.inputs.tokens import added_tokens

if TYPE_CHECKING:
    import numpy as np
    from jaxtyping import Float
    from PIL import Image

    from modalnet.stimuli import Stimulus


# Samples of the sound that shows what stands for one.
SHORT = 16_000


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
    image_token_id, sound_token_id
        The tokens that hold an image's and a sound's features in the language tower, if the model has them.

    Attributes
    ----------
    template
        The chat template that prompts are written in; None for none.
    """

    def __init__(
        self,
        processor: Any,
        tokenizer: Any,
        chat_template: bool | Literal["auto"] = "auto",
        image_token_id: int | None = None,
        sound_token_id: int | None = None,
    ) -> None:
        self.processor = processor
        self.image_token_id = image_token_id
        self.sound_token_id = sound_token_id
        self.tokenizer = tokenizer
        if not isinstance(chat_template, bool) and chat_template != "auto":
            raise refusal("chat_template", "'auto', True or False", chat_template)
        # A processor may leave the template to its tokenizer.
        holder = next((one for one in (processor, tokenizer) if getattr(one, "chat_template", None)), None)
        if chat_template is True and holder is None:
            raise InputError("chat_template=True, but neither the processor nor the tokenizer has a chat template.")
        wanted = chat_template is True or (chat_template == "auto" and processor is not None)
        self.template: ChatTemplate | None = None
        if wanted and holder is not None:
            self.template = ChatTemplate(
                holder, multimodal=processor is not None, bos=self._bos, special_tokens=self._special_tokens
            )
        self._nests: bool | None = None  # whether images are nested by text; None until a picture was read

    def write(self, stimulus: Stimulus, *, raw: bool = False) -> Prompt:
        """The prompt of a stimulus; ``raw`` leaves a text as it is.

        Raises
        ------
        InputError
            For a placeholder without an image or a sound; for a special token in a text that the chat template goes
            around.
        """
        text, n_media = stimulus.text, stimulus.n_media
        if n_media and self.processor is None:
            return Prompt(None)
        held = {"image": stimulus.n_images, "audio": stimulus.n_sounds}
        for kind, noun in (("image", "image"), ("audio", "sound")):
            stray = [token for token in self._candidates[kind] if not held[kind] and text and token in text]
            if stray:
                raise InputError(f"stimulus {stimulus.label} has the {noun} placeholder {stray[0]!r} but no {noun}.")
        if self.template is None or (raw and not n_media):
            return self._plain(text or "", held)
        if text is not None and self.template.holds(text):
            return Prompt(text, special_tokens=not self._starts_with_bos(text))
        marks = {*self._all_candidates, *self.template.form.media_tokens} if n_media else set()
        found = [token for token in self._special_tokens if text and token in text]
        special = next((token for token in found if token not in marks), None)
        if special is not None:
            raise InputError(
                f"stimulus {stimulus.label} has the special token {special!r} in its text, which would be read as a "
                "token of the chat template around it. Remove it, write the whole prompt in the template, or pass "
                "chat_template=False to modalnet.load()."
            )
        # Images and sounds that the user placed in the text have their place.
        placed = any(token in (text or "") for token in marks)
        rest = [] if placed else [kind for kind, count in held.items() for _ in range(count)]
        drawn = self.template.form.draws
        written = self.template.render(text, [(kind, "" if kind in drawn else self._stands_for(kind)) for kind in rest])
        return Prompt(written, special_tokens=not self._starts_with_bos(written))

    def _stands_for(self, kind: str) -> str:
        return self.placeholder if kind == "image" else self.sound_placeholder

    def _plain(self, text: str, held: dict[str, int]) -> Prompt:
        """A prompt outside any template."""
        if text.startswith(self._first) or text.endswith(self._last):
            # A tokenizer does not add once more what the user wrote.
            first, last = added_tokens(self.tokenizer)
            text = text.removeprefix(first).removesuffix(last)
        if not any(held.values()):
            return Prompt(text)
        if any(token in text for token in self._all_candidates):
            return Prompt(text, special_tokens=not self._starts_with_bos(text))
        bos = self._bos if self._starts_with_bos(text) else ""
        media = "".join(self._stands_for(kind) * count for kind, count in held.items() if count)
        return Prompt(bos + media + text.removeprefix(bos), special_tokens=not bos)

    def process(
        self,
        prompt: str,
        images: list[Image.Image],
        special_tokens: bool,
        sounds: Sequence[Float[np.ndarray, " sample"]] = (),
    ) -> Any:
        """Run the processor on a prompt, its images, and its sounds at the rate of the processor."""
        options: dict[str, Any] = {} if special_tokens else {"add_special_tokens": False}
        if sounds:
            options |= {self._names_sounds: list(sounds)}
            if not images:
                return self.processor(text=[prompt], return_tensors="pt", **options)
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

    @property
    def _bos(self) -> str:
        bos = getattr(self.tokenizer, "bos_token", None)
        return bos if isinstance(bos, str) else ""

    def _starts_with_bos(self, text: str) -> bool:
        return bool(self._bos) and text.startswith(self._bos)

    @cached_property
    def _special_tokens(self) -> tuple[str, ...]:
        added = getattr(self.tokenizer, "added_tokens_decoder", None) or {}
        tokens = {str(token) for token in added.values() if getattr(token, "special", False)}
        tokens.update(map(str, getattr(self.tokenizer, "all_special_tokens", ())))
        tokens.update(self._all_candidates)
        return tuple(sorted(token for token in tokens if token))

    @cached_property
    def _first(self) -> tuple[str, ...]:
        """Special tokens that a text may begin with."""
        return self._named("bos_token", "cls_token")

    @cached_property
    def _last(self) -> tuple[str, ...]:
        """Special tokens that a text may end with."""
        return self._named("eos_token", "sep_token")

    def _named(self, *names: str) -> tuple[str, ...]:
        values = (getattr(self.tokenizer, name, None) for name in names)
        return tuple({str(value) for value in values if value})

    @cached_property
    def _candidates(self) -> dict[str, list[str]]:
        """What may stand for an image, and for a sound, by what the processor names."""
        made = {}
        for kind, known in (("image", ("image_token", "boi_token")), ("audio", ("audio_token", "boa_token"))):
            others = [name for name in vars(self.processor or object) if re.fullmatch(kind + r"_\w+_token", name)]
            names = dict.fromkeys([*known, *(name for name in others if not re.search(r"start|end|bos|eos", name))])
            values = (getattr(self.processor, name, None) for name in names)
            made[kind] = list(dict.fromkeys(str(token) for token in values if token))
        return made

    @property
    def _all_candidates(self) -> list[str]:
        return [token for tokens in self._candidates.values() for token in tokens]

    @cached_property
    def _names_sounds(self) -> str:
        """The parameter of the processor that takes sounds."""
        takes = inspect.signature(self.processor.__call__).parameters
        return next((name for name in ("audio", "audios") if name in takes), "audio")

    @cached_property
    def placeholder(self) -> str:
        """The text that stands for one image, as this processor reads it."""
        from PIL import Image

        picture = Image.new("RGB", (64, 64), (127, 127, 127))
        return self._accepted("image", self.image_token_id, lambda text: self.process(text, [picture], True))

    @cached_property
    def sound_placeholder(self) -> str:
        """The text that stands for one sound, as this processor reads it."""
        sound = noise(SHORT, 0)
        return self._accepted("audio", self.sound_token_id, lambda text: self.process(text, [], True, [sound]))

    def _accepted(self, kind: str, token_id: int | None, process: Callable[[str], Any]) -> str:
        """The first candidate that the processor takes for a placeholder."""
        problems = []
        # Nothing comes first: a processor that places image tokens by itself (PaliGemma, BLIP-2) would count one more.
        for candidate in ["", *self._candidates[kind]]:
            try:
                features = process(candidate + "a")
            except Exception as error:  # whatever a processor raises means that this is not its placeholder
                problems.append(f"{candidate!r}: {error}")
                continue
            if token_id is None or bool((features["input_ids"] == token_id).any()):
                return candidate
            problems.append(f"{candidate!r}: it puts no {kind} token into the text")
        raise InputError(
            f"{type(self.processor).__name__} accepts no {kind} placeholder that it names ({'; '.join(problems)}). "
            "Write the placeholders into the text of the stimulus yourself."
        )
