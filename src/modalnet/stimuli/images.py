"""Conversion of any image to 8-bit RGB.

A model reads three channels of eight bits. Every other kind of image is converted in one stated way, or refused with a
reason, because a silent conversion would change what the model is shown:

===========================  ===========================================================================
input                        conversion
===========================  ===========================================================================
grayscale, palette, 1 bit    repeated or looked up into RGB
CMYK, YCbCr, HSV             converted by Pillow, without colour management
16 bits per channel          divided by 257 (65535 becomes 255); Pillow's own conversion clips at 255. A TIFF that
                             declares fewer bits, by BitsPerSample or a largest sample value of 2 ** n - 1, is scaled
                             by these (4095 becomes 255); no scale is guessed from the values
transparency                 composited over white
camera orientation (EXIF)    applied
several frames               refused: select a frame. Of a camera's MPO file the main picture is used
text                         a path, or base64 or a data URI of an image file
arrays uint8, uint16, bool   0..255, 0..65535 and False/True as black to white
arrays of floats             0..1 as black to white; anything outside is refused
===========================  ===========================================================================
"""

from __future__ import annotations

import base64
import io
import os
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias, TypeGuard

from modalnet.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy as np
    import torch
    from jaxtyping import Shaped, UInt8
    from PIL.Image import Image

ImageLike: TypeAlias = "str | os.PathLike[str] | bytes | Image | np.ndarray | torch.Tensor"

WHITE = (255, 255, 255, 255)
FULL_16_BIT = 65535
# Resizing filters produce floats slightly outside 0..1: rounding, not another scale.
FLOAT_TOLERANCE = 1e-6
SHORTEST_BASE64 = 48  # characters; the smallest image files are longer
LONGEST_PATH = 200  # characters of a path that a message repeats
ENDS = {"JPEG": b"\xff\xd9", "MPO": b"\xff\xd9", "PNG": b"IEND\xaeB`\x82", "GIF": b";"}
# Tags of a TIFF file.
BITS, WORDS, LARGEST, SIGNED_LARGEST = 258, 279, 281, 341
CHANNELS = (1, 3, 4)
ALPHA_MODES = ("RGBA", "LA", "PA", "RGBa")
KEYED_MODES = ("1", "L", "P", "RGB")  # one colour of these can be declared transparent


def checked_source(source: Any, label: str) -> Any:
    """Validate an image source as far as possible without decoding it.

    Parameters
    ----------
    source
        The image source.
    label
        Name of the stimulus, for the message.

    Returns
    -------
    object
        The source; the bytes of an image file where it was a text that holds these.

    Raises
    ------
    InputError
        The type is none of those that :func:`load_image` accepts, the path does not exist, the bytes are no whole
        image file, or the array does not have the shape or type of an image.
    """
    if isinstance(source, str) and (content := embedded(source, label)) is not None:
        source = content
    if isinstance(source, bytes):
        _check_content(source, f"Stimulus {label}: the image")
    elif isinstance(source, str | os.PathLike):
        _check_path(Path(source), label)
    elif _is_pil(source):
        _check_size(source, f"Stimulus {label}: the image")
    elif _is_array(source):
        _check_array(_as_array(source, label), label)
    else:
        hint = " (an empty cell of a table?)" if isinstance(source, float) else ""
        raise InputError(
            f"Stimulus {label}: an image must be a path, a PIL image, an array, the bytes of an image file, or a "
            f"list of these, got a {type(source).__name__}{hint}."
        )
    return source


def load_image(source: ImageLike, label: str = "image") -> Image:
    """Decode an image to 8-bit RGB.

    Parameters
    ----------
    source
        A path; the bytes of an image file, also as base64 or a data URI; a PIL image of any mode; or an array
        (height, width), (height, width, 1), (height, width, 3) or (height, width, 4) of uint8, uint16, bool, or
        floats in 0..1. Tensors are accepted where ``numpy.asarray`` accepts them.
    label
        Name of the stimulus, for the message.

    Returns
    -------
    PIL.Image.Image
        A new image in mode ``RGB``, upright, with transparency composited over white.

    Raises
    ------
    InputError
        The source is not an image, is damaged, has no pixels, has more than ``PIL.Image.MAX_IMAGE_PIXELS``, has several
        frames, or holds values of unknown scale.
    """
    where = f"Stimulus {label}: the image"
    if not isinstance(source, bytes):  # those are checked by being decoded
        source = checked_source(source, label)
    if isinstance(source, str | os.PathLike):
        where = f"Stimulus {label}: the file {os.fspath(source)!r}"
        return _read_file(source, where)
    if isinstance(source, bytes):
        return _read_file(io.BytesIO(source), where)
    image = source if _is_pil(source) else _array_to_image(_as_array(source, label), where)
    with _decoding(where):
        return _to_rgb(image, where)


def describe_source(source: object) -> str:
    """Describe an image source for messages: a file name, or the kind and size of an image."""
    if isinstance(source, str) and len(source) > LONGEST_PATH:
        return f"picture in a text of {len(source)} characters"
    if isinstance(source, str | os.PathLike):
        return Path(source).name
    if _is_pil(source):
        return f"{source.width}x{source.height} {source.mode} picture"
    if isinstance(source, bytes):
        return f"picture in {len(source)} bytes"
    shape = "x".join(str(size) for size in getattr(source, "shape", ()))
    return f"{shape} array" if shape else type(source).__name__


def _is_pil(source: object) -> TypeGuard[Image]:
    # A PIL image exists only where PIL is imported, and its package name tells it without importing PIL for text.
    return any(kind.__module__ == "PIL.Image" and kind.__name__ == "Image" for kind in type(source).__mro__)


def _is_array(source: object) -> bool:
    return hasattr(source, "__array__") or hasattr(source, "__array_interface__")


def embedded(text: str, label: str) -> bytes | None:
    """The bytes of an image file that a text holds as a data URI or base64; None for a text that is a path."""
    is_uri = text[:5].lower() == "data:"
    head, comma, body = text.partition(",") if is_uri else ("", "", text)
    if is_uri and not (comma and head.lower().endswith(";base64")):
        raise InputError(f"Stimulus {label}: a data URI must hold an image in base64 (data:image/png;base64,...).")
    if not is_uri and (len(text) < SHORTEST_BASE64 or _exists(Path(text))):
        return None
    try:
        found = base64.b64decode("".join(body.split()), validate=True)
    except ValueError as error:
        if not is_uri:
            return None
        raise InputError(f"Stimulus {label}: the base64 of its data URI is damaged ({error}).") from error
    # Long paths without a dot are base64 too, so the decoded bytes have to begin as an image file does.
    return found if is_uri or _begins_as_image(found) else None


def _begins_as_image(content: bytes) -> bool:
    from PIL import Image as pil

    try:
        pil.open(io.BytesIO(content)).close()
    except (pil.DecompressionBombWarning, pil.DecompressionBombError):
        return True
    except Exception:  # decoders raise almost anything on damaged bytes
        return False
    return True


def _check_content(content: bytes, where: str) -> None:
    """Refuse bytes that are no image file; those without the end of one are decoded, as most of these are cut off."""
    from PIL import Image as pil

    with _decoding(where), pil.open(io.BytesIO(content)) as image:
        _check_size(image, where)
        if not content.rstrip(b"\0").endswith(ENDS.get(image.format or "", b"")):
            image.load()


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except (OSError, ValueError):  # a name that is too long, or has a null byte
        return False


def _check_path(path: Path, label: str) -> None:
    if _exists(path) and path.is_file():
        return
    if len(str(path)) > LONGEST_PATH:
        raise InputError(
            f"Stimulus {label}: a text of {len(str(path))} characters is neither the path of an image file nor "
            f"base64 of an image: {str(path)[:LONGEST_PATH]!r}..."
        )
    if _exists(path) and path.is_dir():
        raise InputError(
            f"Stimulus {label}: {str(path)!r} is a folder, not an image; use modalnet.stimuli.from_folder."
        )
    hint = "; download it first and give its path" if "//" in str(path) or ":/" in str(path) else ""
    raise InputError(f"Stimulus {label}: there is no image file at {str(path)!r}{hint}.")


def _read_file(file: str | os.PathLike[str] | io.BytesIO, where: str) -> Image:
    from PIL import Image as pil

    with _decoding(where), pil.open(file) as image:
        return _to_rgb(image, where)


@contextmanager
def _decoding(where: str) -> Iterator[None]:
    """Translate Pillow's errors for this image."""
    from PIL import Image as pil, UnidentifiedImageError

    try:
        yield
    except InputError:
        raise
    except (pil.DecompressionBombWarning, pil.DecompressionBombError) as error:
        raise InputError(f"{where} is too large to decode safely: {str(error).rstrip('.')}. {_SHRINK}") from error
    except UnidentifiedImageError as error:
        raise InputError(
            f"{where} is not an image that Pillow can read. Check its content, or convert it to PNG or JPEG."
        ) from error
    except PermissionError as error:
        raise InputError(f"{where} may not be read ({error.strerror}). Check its permissions.") from error
    except Exception as error:  # decoders raise almost anything on damaged bytes
        raise InputError(
            f"{where} is damaged or truncated: {error}. Copy or download it again, or omit the stimulus."
        ) from error


_SHRINK = (
    "Save a smaller copy (for example PIL.Image.Image.thumbnail((1024, 1024))), or raise PIL.Image.MAX_IMAGE_PIXELS "
    "if you trust it."
)


def _check_size(image: Image, where: str) -> None:
    from PIL import Image as pil

    if image.width == 0 or image.height == 0:
        raise InputError(f"{where} has no pixels ({image.width} x {image.height}). Omit or replace it.")
    # Pillow itself raises only at twice its limit, and warns below that. The warning is not turned into an error, as
    # warning filters belong to the whole process and images are decoded in several threads.
    limit = pil.MAX_IMAGE_PIXELS
    if limit is not None and image.width * image.height > limit:
        raise InputError(
            f"{where} has {image.width * image.height:,} pixels ({image.width} x {image.height}), more "
            f"than the safety limit of {limit:,}. {_SHRINK}"
        )


def _to_rgb(image: Image, where: str) -> Image:
    """Convert an opened image of any mode to upright RGB. This decodes it; Pillow's errors pass to the caller."""
    from PIL import Image as pil, ImageOps

    if _is_closed(image):
        raise InputError(
            f"{where} is closed: its file was closed before it was decoded. Call image.load() inside the `with` "
            "block, or give its path."
        )
    _check_size(image, where)
    frames = getattr(image, "n_frames", 1)
    if frames > 1 and image.format != "MPO":
        raise InputError(
            f"{where} has {frames} frames. Select one, for example the first: "
            "image = PIL.Image.open(path); image.seek(0); image.convert('RGBA'); or pass several as a list."
        )
    full = _full_scale(image, where)
    image.load()
    try:
        image = ImageOps.exif_transpose(image)
    except Exception:  # damaged EXIF says nothing about the pixels
        image = image.copy()
    if image.mode.startswith(("I", "F")):
        image = _narrow(image, full, where)
    if image.mode in ALPHA_MODES or (image.mode in KEYED_MODES and "transparency" in image.info):
        image = image.convert("RGBA")
        return pil.alpha_composite(pil.new("RGBA", image.size, WHITE), image).convert("RGB")
    try:
        return image.convert("RGB")
    except ValueError as error:
        raise InputError(
            f"{where} has colour mode {image.mode}, which Pillow cannot convert to RGB. Save it as RGB first."
        ) from error


def _is_closed(image: Image) -> bool:
    """Whether a PIL image has neither pixels nor an open file to read them from."""
    try:
        if image.im is not None:
            return False
    except ValueError:  # Pillow's word for an image that close() was called on
        return True
    except AssertionError:  # and for one that is not decoded yet
        pass
    file = getattr(image, "fp", None)
    return file is None or bool(getattr(file, "closed", False))


def _full_scale(image: Image, where: str) -> int:
    """The largest value of a picture of 16 bits, as far as its file declares one; called before it is decoded."""
    tags: Any = getattr(image, "tag_v2", {})
    bits = {int(value) for value in _values(tags, BITS)}
    declared = [int(value) for value in (*_values(tags, LARGEST), *_values(tags, SIGNED_LARGEST))]
    full = min((value for value in declared if value > 255 and value & (value + 1) == 0), default=FULL_16_BIT)
    if image.mode == "RGB" and bits == {16} and full < FULL_16_BIT:
        raise InputError(
            f"{where} declares values up to {full} in 16 bits per channel, of which Pillow reads the upper 8. Scale "
            "them to 8 bits (0..255) first."
        )
    if len(bits) != 1 or not 8 < max(bits) < 16:
        return full
    if sum(_values(tags, WORDS)) == 2 * image.width * image.height:
        # Pillow takes samples of 12 bits to be packed, two in three bytes; here each has a word of 16 bits.
        file: Any = image
        order = "I;16B" if tags.prefix == b"MM" else "I;16"
        file.tile = [(*tile[:3], (order, *tile[3][1:])) if tile[0] == "raw" else tile for tile in file.tile]
    return 2 ** max(bits) - 1


def _values(tags: Any, number: int) -> tuple[Any, ...]:
    """The values of a tag of a TIFF file, of which some are a number and some a tuple."""
    value = tags.get(number, ())
    return tuple(value) if isinstance(value, tuple | list) else (value,)


def _narrow(image: Image, full: int, where: str) -> Image:
    """Convert an image of 16 bits, 32 bits or floats (modes I;16, I, F) to 8 bits; ``full`` is white."""
    import numpy as np
    from PIL import Image as pil

    transparent = image.info.get("transparency")
    values = np.asarray(image)
    mode = image.mode
    if mode == "F":
        return pil.fromarray(_floats_to_8_bit(values, where))
    lowest, highest = int(values.min()), int(values.max())
    # Pillow opens 16-bit files of some formats and versions in mode I, which has no defined full scale.
    if lowest < 0 or highest > FULL_16_BIT:
        raise InputError(
            f"{where} holds 32-bit values from {lowest} to {highest}, of unknown scale. Scale them to 8 bits (0..255) "
            "or 16 bits (0..65535) first."
        )
    if mode == "I" and 0 < highest <= 255:
        raise InputError(
            f"{where} holds 32-bit values (mode I) from {lowest} to {highest}: either 8 bits or a nearly black 16-bit "
            "picture. Convert it to 8 bits first, for example PIL.Image.fromarray(numpy.asarray(image, 'uint8'))."
        )
    narrow = _16_to_8_bit(values, full if highest <= full else FULL_16_BIT)
    if isinstance(transparent, int):
        narrow[values == transparent] = 255
    return pil.fromarray(narrow)


def _16_to_8_bit(values: Shaped[np.ndarray, "..."], full: int = FULL_16_BIT) -> UInt8[np.ndarray, "..."]:
    import numpy as np

    return np.rint(values.astype(np.float64) / (full / 255)).astype(np.uint8)


def _floats_to_8_bit(values: Shaped[np.ndarray, "..."], where: str) -> UInt8[np.ndarray, "..."]:
    import numpy as np

    values = values.astype(np.float64)
    if not np.isfinite(values).all():
        raise InputError(f"{where} holds {int((~np.isfinite(values)).sum())} values that are NaN or infinite.")
    lowest, highest = float(values.min()), float(values.max())
    if lowest < -FLOAT_TOLERANCE or highest > 1 + FLOAT_TOLERANCE:
        cure = (
            "undo the normalization first" if lowest < 0 else "divide them by their full scale (255 for 8-bit values)"
        )
        raise InputError(
            f"{where} holds floats from {lowest:.4g} to {highest:.4g}; floats must be from 0 (black) to 1 (white): "
            f"{cure}."
        )
    return np.rint(values.clip(0, 1) * 255).astype(np.uint8)


def _as_array(source: object, label: str) -> Shaped[np.ndarray, "..."]:
    import numpy as np

    try:
        return np.asarray(source)
    except Exception as error:  # each tensor library has its own error for "on the GPU", "needs grad", "bfloat16"
        raise InputError(
            f"Stimulus {label}: numpy cannot convert this {type(source).__name__} to an array ({error}). Pass a numpy "
            "array; for a torch tensor, tensor.detach().cpu().float().numpy()."
        ) from error


def _check_array(array: Shaped[np.ndarray, "..."], label: str) -> None:
    shape = " x ".join(str(size) for size in array.shape)
    where = f"Stimulus {label}: the image array of shape ({shape})"
    if array.size == 0:
        raise InputError(f"{where} has no pixels. Omit it or replace it.")
    if array.ndim == 4:
        raise InputError(f"{where} is a batch; pass its images as a list: list(array).")
    if array.ndim == 3 and array.shape[2] not in CHANNELS and array.shape[0] in CHANNELS:
        raise InputError(
            f"{where} has its channels first; transpose it to (height, width, channels): array.transpose(1, 2, 0)."
        )
    if array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[2] not in CHANNELS):
        raise InputError(f"{where} is not an image; its shape must be (height, width) or (height, width, 1, 3 or 4).")
    if not (array.dtype in ("uint8", "uint16", "bool") or array.dtype.kind == "f"):
        raise InputError(
            f"{where} holds {array.dtype}, whose scale is unknown. Cast it to uint8 (0..255) or uint16 (0..65535), or "
            "to floats in 0..1."
        )


def _array_to_image(array: Shaped[np.ndarray, "..."], where: str) -> Image:
    import numpy as np
    from PIL import Image as pil

    if array.dtype == "bool":
        array = array.astype(np.uint8) * 255
    elif array.dtype == "uint16":
        array = _16_to_8_bit(array)
    elif array.dtype.kind == "f":
        array = _floats_to_8_bit(array, where)
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[:, :, 0]
    return pil.fromarray(np.ascontiguousarray(array))
