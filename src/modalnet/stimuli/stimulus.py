"""One stimulus: a text, one or more images, or both, with the label of its condition.

A stimulus keeps what it was given, a path stays a path, and decodes its images afresh each time they are asked
for. Ten thousand image stimuli therefore cost no more memory than ten thousand file names. What can be checked
without decoding is checked when the stimulus is made; :meth:`Stimulus.inspect` checks the rest.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from modalnet.errors import InputError
from modalnet.stimuli.images import check_source, describe_source, load_image

if TYPE_CHECKING:
    from collections.abc import Sequence

    from PIL.Image import Image

    from modalnet.stimuli.images import ImageLike

LABEL_CHARACTERS = 40


@dataclass(frozen=True)
class Inspected:
    """What a full decoding of a stimulus shows.

    Attributes
    ----------
    sizes
        (width, height) of each image in pixels, as decoded.
    digest
        SHA-256, in hexadecimal, of the text and of the decoded RGB pixels with their sizes. The condition and the
        id are no part of it: the same content under another label has the same digest.
    """

    sizes: tuple[tuple[int, int], ...]
    digest: str


@dataclass(frozen=True, eq=False, repr=False)
class Stimulus:
    """One text and/or image, with its condition.

    Two stimuli are equal only when they are the same object; compare :meth:`inspect` digests to compare content.

    Parameters
    ----------
    text
        The text, or None for an image-only stimulus.
    image
        A PIL image, an array (height, width), (height, width, 1 | 3 | 4), a path, the bytes of an image file, or a
        list of these; None for a text-only stimulus. :func:`modalnet.stimuli.images.load_image` says how each kind
        becomes 8-bit RGB. The list becomes a tuple; pictures and arrays are kept, not copied.
    condition
        The label that a :class:`~modalnet.stimuli.Contrast` selects by.
    id
        A name for messages and tables.

    Raises
    ------
    InputError
        Neither text nor image; a text that is empty or no string; an image that is of another type, an array of
        another shape, or a path where no file lies.
    """

    text: str | None = None
    image: ImageLike | Sequence[ImageLike] | None = None
    condition: str | None = None
    id: str | None = None

    def __post_init__(self) -> None:
        for field in ("condition", "id"):
            _check_name(getattr(self, field), field)
        if isinstance(self.image, list):
            object.__setattr__(self, "image", tuple(self.image))
        # The label comes from the fields being checked, so each check names the stimulus with what is known by then.
        name = repr(self.id) if self.id else "this one"
        if self.text is None and self.image is None:
            raise InputError(f"A stimulus needs a text, an image or both; {name} has neither.")
        if self.text is not None:
            _check_text(self.text, name)
        if isinstance(self.image, tuple) and not self.image:
            raise InputError(
                f"The list of images of stimulus {name} is empty; leave image out (None) for a text-only stimulus."
            )
        for source in self.sources:
            check_source(source, self.label)

    @property
    def sources(self) -> tuple[Any, ...]:
        """What was given for each image, not decoded; empty for a text-only stimulus."""
        if self.image is None:
            return ()
        return self.image if isinstance(self.image, tuple) else (self.image,)

    @property
    def n_images(self) -> int:
        """How many images the stimulus has."""
        return len(self.sources)

    @property
    def kind(self) -> str:
        """``"text"``, ``"image"`` or ``"image+text"``."""
        return "+".join(name for name, value in (("image", self.image), ("text", self.text)) if value is not None)

    @property
    def label(self) -> str:
        """A short name for messages: the id, else the beginning of the text, else the first image."""
        if self.id is not None:
            return self.id
        if self.text is not None:
            text = " ".join(self.text.split())
            return repr(text if len(text) <= LABEL_CHARACTERS else text[: LABEL_CHARACTERS - 1] + "…")
        return describe_source(self.sources[0])

    def images(self) -> list[Image]:
        """Decode the images, anew on each call.

        Returns
        -------
        list of PIL.Image.Image
            8-bit RGB, in the order given; empty for a text-only stimulus.

        Raises
        ------
        InputError
            An image cannot be decoded or used; the message names the stimulus, the image and the cure.
        """
        return [load_image(source, self.label) for source in self.sources]

    @classmethod
    def blank(cls) -> Stimulus:
        """What comes before a text that nothing comes before. Not for users: an empty text is mostly a mistake."""
        made = object.__new__(cls)
        for name, value in {"text": "", "image": None, "condition": None, "id": "(nothing)"}.items():
            object.__setattr__(made, name, value)
        return made

    def inspect(self) -> Inspected:
        """Decode everything once, so that a damaged file is found before a long job starts.

        Returns
        -------
        Inspected
            The image sizes and a digest of the content.

        Raises
        ------
        InputError
            As :meth:`images`.
        """
        digest = hashlib.sha256()
        # Every part carries its length, so no two different stimuli feed the same bytes to the hash.
        if self.text is not None:
            encoded = self.text.encode()
            digest.update(f"text {len(encoded)}\n".encode() + encoded)
        sizes = []
        for source in self.sources:
            image = load_image(source, self.label)
            digest.update(f"image {image.width} {image.height}\n".encode() + image.tobytes())
            sizes.append((image.width, image.height))
        return Inspected(tuple(sizes), digest.hexdigest())

    def __repr__(self) -> str:
        parts = []
        if self.text is not None:
            parts.append(f"text={self.text!r}")
        if self.image is not None:
            parts.append(f"image={', '.join(describe_source(source) for source in self.sources)}")
        parts += [f"{field}={getattr(self, field)!r}" for field in ("condition", "id") if getattr(self, field)]
        return f"Stimulus({', '.join(parts)})"


def _check_text(text: object, name: str) -> None:
    if isinstance(text, float) and math.isnan(text):
        raise InputError(f"The text of stimulus {name} is NaN: an empty cell of a table? Fill it, or drop its row.")
    if not isinstance(text, str):
        raise InputError(f"The text of stimulus {name} must be a string; it is a {type(text).__name__}: {text!r}.")
    if not text.strip():
        raise InputError(
            f"The text of stimulus {name} is empty: {text!r}. Leave text out (None) for an image-only stimulus."
        )
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise InputError(
            f"The text of stimulus {name} holds half a character (a lone surrogate) at position {error.start}; "
            "read it again with the right encoding."
        ) from error


def _check_name(value: object, field: str) -> None:
    if value is None or (isinstance(value, str) and value.strip()):
        return
    raise InputError(f"The {field} of a stimulus must be a string that is not empty, or None; it is {value!r}.")
