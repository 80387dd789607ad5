"""A stimulus: a text, images, sounds, or several of these, with the label of its condition.

A stimulus stores what it was made from; a path remains a path, and images and sounds are decoded each time they are
needed. Ten thousand image stimuli therefore need no more memory than ten thousand file names. What can be validated
without decoding is validated at construction; :meth:`Stimulus.inspect` validates the rest.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass
from numbers import Real
from typing import TYPE_CHECKING, Any

import numpy as np

from modalnet.errors import InputError
from modalnet.stimuli.images import checked_source, describe_source, load_image
from modalnet.stimuli.sounds import Sound, checked_sound, describe_sound, load_sound

if TYPE_CHECKING:
    from collections.abc import Sequence

    from PIL.Image import Image

    from modalnet.stimuli.images import ImageLike
    from modalnet.stimuli.sounds import AudioLike

LABEL_CHARACTERS = 40


@dataclass(frozen=True)
class Inspected:
    """What decoding a stimulus yields.

    Attributes
    ----------
    sizes
        (width, height) of each image in pixels, as decoded.
    digest
        SHA-256, in hexadecimal, of the text, of the decoded RGB pixels with their sizes, and of the decoded samples
        with their rates. The condition, the id and the item do not enter: the same content with another label has the
        same digest.
    lengths
        (samples, samples per second) of each sound, as decoded.
    """

    sizes: tuple[tuple[int, int], ...]
    digest: str
    lengths: tuple[tuple[int, int], ...] = ()


@dataclass(frozen=True, eq=False, repr=False)
class Stimulus:
    """A text, images, sounds, or several of these, with a condition.

    Two stimuli are equal only if they are the same object; compare the digests of :meth:`inspect` to compare content.

    Parameters
    ----------
    text
        The text; None for a stimulus without.
    image
        A PIL image, an array (height, width) or (height, width, 1 | 3 | 4), a path, the bytes of an image file (also as
        base64 or a data URI, which become bytes), or a list of these; None for a stimulus without.
        :func:`modalnet.stimuli.images.load_image` states how each is converted to 8-bit RGB. Images and arrays are not
        copied.
    condition
        The label by which a :class:`~modalnet.stimuli.Contrast` selects stimuli.
    id
        Name for messages and tables.
    item
        What the stimulus is a version of. Stimuli of one item are alike in all but the condition: the two sentences of
        a minimal pair, a photograph intact and scrambled. A contrast whose items are complete is tested pair by pair;
        see :func:`modalnet.localize`.
    audio
        A path (WAV, FLAC, OGG, MP3), the bytes of a sound file, an open binary file, ``(array, rate)`` with an array
        (sample,) or (sample, channel), a :class:`~modalnet.stimuli.Sound`, a sound of the datasets library, or a list
        of these; None for a stimulus without. :func:`modalnet.stimuli.sounds.load_sound` states how each is converted
        to one channel; a model gets it at the rate that it reads.

    Raises
    ------
    InputError
        There is neither text nor image nor sound; the text is empty or not a string; an image or a sound has an
        unsupported type, an array another shape, bytes are no whole file, or a path does not exist.
    """

    text: str | None = None
    image: ImageLike | Sequence[ImageLike] | None = None
    condition: str | None = None
    id: str | None = None
    item: str | None = None
    audio: AudioLike | Sequence[AudioLike] | None = None

    def __post_init__(self) -> None:
        for field in ("condition", "id", "item"):
            _check_name(getattr(self, field), field)
        if isinstance(self.image, list):
            object.__setattr__(self, "image", tuple(self.image))
        if isinstance(self.audio, list):
            object.__setattr__(self, "audio", tuple(self.audio))
        # The label depends on fields that are not validated yet, so the first messages use the id alone.
        name = repr(self.id) if self.id else "without id"
        if self.text is None and self.image is None and self.audio is None:
            raise InputError(f"A stimulus needs a text, an image or a sound; stimulus {name} has none of them.")
        if self.text is not None:
            _check_text(self.text, name)
        if isinstance(self.image, tuple) and not self.image:
            raise InputError(f"The image list of stimulus {name} is empty; use image=None for a stimulus without.")
        if isinstance(self.audio, tuple) and not self.audio:
            raise InputError(f"The list of sounds of stimulus {name} is empty; use audio=None for a stimulus without.")
        checked = tuple(checked_source(source, self.label) for source in self.sources)
        if self.image is not None:
            # An image that a text holds is read from it once.
            object.__setattr__(self, "image", checked if isinstance(self.image, tuple) else checked[0])
        if self.audio is not None:
            # An open file is read once.
            heard = tuple(checked_sound(source, self.label) for source in self.sound_sources)
            object.__setattr__(self, "audio", heard[0] if _is_one_sound(self.audio) else heard)

    @property
    def sources(self) -> tuple[Any, ...]:
        """The image sources as given, not decoded; empty for a stimulus without images."""
        if self.image is None:
            return ()
        return self.image if isinstance(self.image, tuple) else (self.image,)

    @property
    def n_images(self) -> int:
        """Number of images."""
        return len(self.sources)

    @property
    def sound_sources(self) -> tuple[Any, ...]:
        """The sounds as given, not decoded; empty for a stimulus without sounds."""
        if self.audio is None:
            return ()
        return (self.audio,) if _is_one_sound(self.audio) else tuple(self.audio)  # type: ignore[arg-type]

    @property
    def n_sounds(self) -> int:
        """Number of sounds."""
        return len(self.sound_sources)

    @property
    def n_media(self) -> int:
        """Number of images and sounds: of what a processor encodes, and not a tokenizer."""
        return self.n_images + self.n_sounds

    @property
    def kind(self) -> str:
        """What it holds: ``"text"``, ``"image"``, ``"audio"``, or several of these, as in ``"image+text"``."""
        held = (("image", self.image), ("audio", self.audio), ("text", self.text))
        return "+".join(name for name, value in held if value is not None)

    @property
    def label(self) -> str:
        """Short name for messages: the id, else the beginning of the text, else the first image or sound."""
        if self.id is not None:
            return self.id
        if self.text is not None:
            text = " ".join(self.text.split())
            return repr(text if len(text) <= LABEL_CHARACTERS else text[: LABEL_CHARACTERS - 1] + "…")
        return describe_source(self.sources[0]) if self.image is not None else describe_sound(self.sound_sources[0])

    def images(self) -> list[Image]:
        """Decode the images. Each call decodes them anew.

        Returns
        -------
        list of PIL.Image.Image
            8-bit RGB, in the order given; empty for a stimulus without images.

        Raises
        ------
        InputError
            An image cannot be decoded or used; the message names the stimulus, the image and a remedy.
        """
        return [load_image(source, self.label) for source in self.sources]

    def sounds(self) -> list[Sound]:
        """Decode the sounds. Each call decodes them anew.

        Returns
        -------
        list of Sound
            One channel each, at the rate that it has, in the order given; empty for a stimulus without sounds.

        Raises
        ------
        InputError
            A sound cannot be decoded or used; the message names the stimulus, the sound and a remedy.
        """
        return [load_sound(source, self.label) for source in self.sound_sources]

    @classmethod
    def blank(cls) -> Stimulus:
        """A stimulus without content: the context of a text from its beginning. Users' stimuli are never empty."""
        made = object.__new__(cls)
        for name in ("image", "audio", "condition", "item"):
            object.__setattr__(made, name, None)
        object.__setattr__(made, "text", "")
        object.__setattr__(made, "id", "(nothing)")
        return made

    def inspect(self) -> Inspected:
        """Decode everything once, so that a damaged file is found before a long computation starts.

        Returns
        -------
        Inspected
            Image sizes, lengths of sounds and a digest of the content.

        Raises
        ------
        InputError
            As for :meth:`images` and :meth:`sounds`.
        """
        digest = hashlib.sha256()
        # Each part is preceded by its length, so different stimuli never feed the same bytes to the hash.
        if self.text is not None:
            encoded = self.text.encode()
            digest.update(f"text {len(encoded)}\n".encode() + encoded)
        sizes = []
        for source in self.sources:
            image = load_image(source, self.label)
            digest.update(f"image {image.width} {image.height}\n".encode() + image.tobytes())
            sizes.append((image.width, image.height))
        lengths = []
        for sound in self.sounds():
            digest.update(f"sound {len(sound.samples)} {sound.rate}\n".encode() + sound.samples.tobytes())
            lengths.append((len(sound.samples), sound.rate))
        return Inspected(tuple(sizes), digest.hexdigest(), tuple(lengths))

    def __repr__(self) -> str:
        parts = []
        if self.text is not None:
            parts.append(f"text={self.text!r}")
        if self.image is not None:
            parts.append(f"image={', '.join(describe_source(source) for source in self.sources)}")
        if self.audio is not None:
            parts.append(f"audio={', '.join(describe_sound(source) for source in self.sound_sources)}")
        parts += [f"{field}={getattr(self, field)!r}" for field in ("condition", "id", "item") if getattr(self, field)]
        return f"Stimulus({', '.join(parts)})"


def _is_one_sound(audio: object) -> bool:
    """Whether it is no list: ``(array, rate)`` is a tuple, and one sound."""
    if not isinstance(audio, tuple):
        return True
    return len(audio) == 2 and isinstance(audio[1], Real | np.generic)


def content_seed(stimulus: Stimulus) -> int:
    """A number of 64 bits that stands for what a stimulus contains, for draws that neither order nor names change."""
    return int(stimulus.inspect().digest[:16], 16)


def _check_text(text: object, name: str) -> None:
    if isinstance(text, float) and math.isnan(text):
        raise InputError(
            f"The text of stimulus {name} is NaN: an empty cell of a table? Fill it in, or remove the row."
        )
    if not isinstance(text, str):
        raise InputError(f"The text of stimulus {name} must be a string, got {text!r}.")
    if not text.strip():
        raise InputError(f"The text of stimulus {name} is empty: {text!r}. Use text=None for an image-only stimulus.")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise InputError(
            f"The text of stimulus {name} contains a lone surrogate at position {error.start}; read it again with the "
            "correct encoding."
        ) from error


def _check_name(value: object, field: str) -> None:
    if value is None or (isinstance(value, str) and value.strip()):
        return
    raise InputError(f"`{field}` of a stimulus must be a non-empty string or None, got {value!r}.")
