"""Every kind of picture becomes the RGB it should, or is refused with a message that helps."""

from __future__ import annotations

import base64
import io
import struct
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import modalnet as mn
from modalnet.errors import InputError
from modalnet.stimuli.images import load_image

RED, WHITE = (200, 10, 20), (255, 255, 255)


def encoded(image: Image.Image, form: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


def pixels(source: object) -> np.ndarray:
    image = load_image(source, "a")
    assert image.mode == "RGB"
    return np.asarray(image)


@pytest.fixture
def ramp() -> np.ndarray:
    """Every 16-bit value that an 8-bit value stands for exactly, 16 x 16."""
    return (np.arange(256, dtype=np.uint16) * 257).reshape(16, 16)


@pytest.mark.parametrize("form", ["PNG", "BMP", "TIFF", "WEBP", "PPM"])
def test_lossless_formats_keep_their_pixels(form: str) -> None:
    original = np.random.default_rng(0).integers(0, 256, (7, 5, 3), dtype=np.uint8)
    options = {"lossless": True} if form == "WEBP" else {}
    assert (pixels(encoded(Image.fromarray(original), form, **options)) == original).all()


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "RGBA", "LA", "CMYK", "YCbCr", "HSV"])
def test_white_and_a_colour_survive_every_mode(mode: str) -> None:
    source = Image.new("RGB", (2, 1), WHITE)
    source.putpixel((1, 0), RED)
    found = pixels(source.quantize(4) if mode == "P" else source.convert(mode)).astype(int)
    assert (found[0, 0] >= 254).all()
    if mode in ("1", "L", "LA"):
        gray = np.asarray(source.convert("1" if mode == "1" else "L")).astype(int)[0, 1] * (255 if mode == "1" else 1)
        assert (found[0, 1] == gray).all()
    else:
        assert np.abs(found[0, 1] - RED).max() <= 4


def test_a_cmyk_jpeg_is_read() -> None:
    found = pixels(encoded(Image.new("RGB", (16, 16), RED).convert("CMYK"), "JPEG", quality=100)).astype(int)
    assert np.abs(found - RED).max() <= 4


@pytest.mark.parametrize("kind", ["png", "tiff", "array", "mode I", "big-endian"])
def test_16_bits_are_scaled_and_not_clipped(kind: str, ramp: np.ndarray) -> None:
    sources = {
        "png": lambda: encoded(Image.fromarray(ramp)),
        "tiff": lambda: encoded(Image.fromarray(ramp), "TIFF"),
        "array": lambda: ramp,
        "mode I": lambda: Image.fromarray(ramp.astype(np.int32)),
        "big-endian": lambda: Image.frombytes("I;16B", (16, 16), ramp.astype(">u2").tobytes()),
    }
    found = pixels(sources[kind]())
    assert (found[..., 0].ravel() == np.arange(256)).all()
    assert (found == found[..., :1]).all()


def test_16_bits_are_rounded_to_the_nearest() -> None:
    assert pixels(np.array([[128, 129, 65535 - 128]], dtype=np.uint16))[0, :, 0].tolist() == [0, 1, 255]


def test_a_transparent_16_bit_value_becomes_white(ramp: np.ndarray) -> None:
    image = Image.fromarray(ramp)
    image.info["transparency"] = 0
    assert pixels(image)[0, 0].tolist() == [255, 255, 255]
    assert pixels(image)[0, 1].tolist() == [1, 1, 1]


def test_32_bit_values_of_unknown_scale_are_refused() -> None:
    with pytest.raises(InputError, match=r"from 0 to 70000, of unknown scale.*8 bits"):
        load_image(Image.fromarray(np.array([[0, 70000]], dtype=np.int32)), "a")
    with pytest.raises(InputError, match=r"from 0 to 200: either 8 bits or a nearly black"):
        load_image(Image.fromarray(np.array([[0, 200]], dtype=np.int32)), "a")
    assert not pixels(Image.fromarray(np.zeros((2, 2), dtype=np.int32))).any()


def test_float_pictures_run_from_0_to_1() -> None:
    assert pixels(Image.fromarray(np.array([[0, 0.5, 1]], dtype=np.float32)))[0, :, 0].tolist() == [0, 128, 255]
    with pytest.raises(InputError, match="divide them by their full scale"):
        load_image(Image.fromarray(np.array([[0, 255]], dtype=np.float32)), "a")


def test_transparency_is_laid_over_white() -> None:
    for source in (
        Image.new("RGBA", (1, 1), (0, 0, 0, 0)),
        Image.new("LA", (1, 1), (0, 0)),
        np.zeros((1, 1, 4), dtype=np.uint8),
        np.zeros((1, 1, 4)),
    ):
        assert pixels(source).tolist() == [[[255, 255, 255]]]
    half = pixels(Image.new("RGBA", (1, 1), (0, 0, 0, 128)))
    assert np.abs(half.astype(int) - 127).max() <= 1


@pytest.mark.parametrize("mode", ["P", "L", "RGB"])
def test_a_colour_declared_transparent_becomes_white(mode: str) -> None:
    image = Image.new("RGB", (2, 1), (0, 0, 0))
    image.putpixel((1, 0), RED)
    image = image.quantize(4) if mode == "P" else image.convert(mode)
    key = image.getpixel((0, 0))
    found = pixels(encoded(image, transparency=key))
    assert found[0, 0].tolist() == [255, 255, 255]
    assert found[0, 1].tolist() != [255, 255, 255]


def test_the_camera_orientation_is_applied() -> None:
    picture = np.zeros((2, 3, 3), dtype=np.uint8)
    picture[0, 0] = 255
    exif = Image.Exif()
    exif[0x0112] = 6  # turn a quarter clockwise
    found = pixels(encoded(Image.fromarray(picture), exif=exif))
    assert (found == np.rot90(picture, -1)).all()


def test_a_camera_file_with_a_second_picture_counts_as_its_first() -> None:
    first, second = Image.new("RGB", (8, 8), (0, 0, 0)), Image.new("RGB", (8, 8), WHITE)
    data = encoded(first, "MPO", save_all=True, append_images=[second])
    assert Image.open(io.BytesIO(data)).n_frames == 2
    assert pixels(data).max() < 5


def test_a_mode_that_pillow_cannot_convert() -> None:
    with pytest.raises(InputError, match="colour mode La, which Pillow cannot convert to RGB"):
        load_image(Image.new("La", (2, 2)), "a")


def test_several_frames_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "wave.gif"
    Image.new("L", (4, 4), 0).save(path, save_all=True, append_images=[Image.new("L", (4, 4), 255)])
    with pytest.raises(InputError, match=r"(?s)wave\.gif.*has 2 frames.*seek\(0\)"):
        load_image(path, "a")
    with Image.open(path) as animated:
        animated.seek(1)
        assert pixels(animated.convert("RGB")).min() == 255


def test_one_pixel_is_a_picture() -> None:
    assert pixels(Image.new("RGB", (1, 1), RED)).tolist() == [[list(RED)]]
    assert pixels(np.zeros((1, 1), dtype=np.uint8)).shape == (1, 1, 3)


def test_a_file_that_is_no_image(tmp_path: Path) -> None:
    path = tmp_path / "notes.png"
    path.write_text("not a picture")
    with pytest.raises(InputError, match=r"Stimulus a: the file '.*notes\.png' is not an image.*PNG or JPEG"):
        load_image(path, "a")
    with pytest.raises(InputError, match="is not an image"):
        load_image(b"", "a")


@pytest.mark.parametrize("form", ["PNG", "JPEG", "TIFF", "WEBP", "BMP", "GIF"])
def test_a_truncated_file(form: str, tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    path = tmp_path / f"half.{form.lower()}"
    data = encoded(Image.fromarray(noise), form)
    path.write_bytes(data[: len(data) // 2])
    with pytest.raises(InputError, match=rf"half\.{form.lower()}.*(damaged or truncated|is not an image)"):
        load_image(path, "a")
    path.write_bytes(data)
    assert pixels(path).shape == (64, 64, 3)


def test_a_truncated_picture_that_the_caller_opened() -> None:
    data = encoded(Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)))
    with pytest.raises(InputError, match="damaged or truncated"):
        load_image(Image.open(io.BytesIO(data[: len(data) // 2])), "a")


def test_no_pixels() -> None:
    with pytest.raises(InputError, match=r"no pixels \(0 x 5\)"):
        load_image(Image.new("RGB", (0, 5)), "a")
    with pytest.raises(InputError, match=r"shape \(0 x 5 x 3\) has no pixels"):
        load_image(np.zeros((0, 5, 3), dtype=np.uint8), "a")


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("side", [12, 20])  # Pillow only warns up to twice its limit, and raises above
def test_a_decompression_bomb(side: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "big.png"
    Image.new("L", (side, side)).save(path)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with pytest.raises(InputError, match=rf"(?s)big\.png.*{side * side} pixels.*limit of [12]00.*thumbnail"):
        load_image(path, "a")
    with pytest.raises(InputError, match=rf"{side * side} pixels \({side} x {side}\).*limit of 100"):
        load_image(Image.new("L", (side, side)), "a")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
    assert pixels(path).shape == (side, side, 3)


@pytest.mark.parametrize("shape", [(2, 4), (2, 4, 1), (2, 4, 3)])
def test_arrays_of_every_type(shape: tuple[int, ...]) -> None:
    bits = np.random.default_rng(0).random(shape) < 0.5
    expected = np.broadcast_to((bits if len(shape) == 3 else bits[..., None]) * np.uint8(255), (2, 4, 3))
    full = {"uint8": 255, "uint16": 65535, "bool": 1, "float16": 1, "float32": 1, "float64": 1}
    for kind, white in full.items():
        assert (pixels((bits * white).astype(kind)) == expected).all(), kind


def test_floats_are_rounded_and_a_hair_outside_is_forgiven() -> None:
    assert pixels(np.array([[-1e-9, 0.499, 1 + 1e-7]]))[0, :, 0].tolist() == [0, 127, 255]


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros((3, 8, 9), dtype=np.uint8), r"\(3 x 8 x 9\) has its channels first.*transpose\(1, 2, 0\)"),
        (np.zeros((1, 8, 9)), "channels first"),
        (np.zeros((2, 8, 8, 3)), r"batch.*list\(array\)"),
        (np.zeros((8, 9, 2)), r"\(8 x 9 x 2\) is not an image"),
        (np.zeros(8), r"\(8\) is not an image"),
        (np.zeros((8, 8), dtype=np.int64), "holds int64, whose scale is unknown.*uint8"),
        (np.zeros((8, 8), dtype=complex), "holds complex128"),
        (np.array([["a", "b"]], dtype=object), "holds object"),
        (np.array([[0, np.nan]]), "1 values that are NaN or infinite"),
        (np.array([[0, np.inf]]), "NaN or infinite"),
        (np.array([[0.0, 255.0]]), r"floats from 0 to 255.*divide"),
        (np.array([[-1.0, 1.0]]), r"floats from -1 to 1.*undo the normalization"),
    ],
)
def test_arrays_that_are_no_picture(array: np.ndarray, message: str) -> None:
    with pytest.raises(InputError, match=message):
        load_image(array, "a")


def test_tensors() -> None:
    torch = pytest.importorskip("torch")
    assert pixels(torch.ones(2, 4, 3)).min() == 255
    with pytest.raises(InputError, match="channels first"):
        load_image(torch.zeros(3, 8, 8), "a")
    for tensor in (torch.zeros(2, 2, requires_grad=True), torch.zeros(2, 2, dtype=torch.bfloat16)):
        with pytest.raises(InputError, match=r"numpy cannot convert this Tensor.*detach\(\)\.cpu\(\)"):
            load_image(tensor, "a")


@pytest.mark.parametrize("source", [3, 1.5, float("nan"), {"bytes": b""}, [1, 2]])
def test_what_is_no_image_source(source: object) -> None:
    with pytest.raises(InputError, match="must be a path, a PIL image, an array"):
        load_image(source, "a")


def test_paths_that_are_no_file(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no image file at '.*nowhere\.png'"):
        load_image(tmp_path / "nowhere.png", "a")
    with pytest.raises(InputError, match=r"is a folder.*from_folder"):
        load_image(tmp_path, "a")
    with pytest.raises(InputError, match="download it first"):
        load_image("https://example.org/cat.png", "a")


def test_a_file_that_may_not_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "closed.png"
    Image.new("L", (2, 2)).save(path)

    def refuse(*_: object) -> None:  # a mode of 000 stops everybody but root, who also runs tests
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Image, "open", refuse)
    with pytest.raises(InputError, match=r"closed\.png.*may not be read"):
        load_image(path, "a")


def test_the_given_picture_is_left_as_it_is() -> None:
    given = Image.new("RGB", (2, 2), RED)
    load_image(given, "a").putpixel((0, 0), (1, 2, 3))
    assert given.getpixel((0, 0)) == RED


@pytest.mark.parametrize("prefix", ["", "data:image/png;base64,"])
def test_base64_and_data_uris_are_images(prefix: str, tmp_path: Path) -> None:
    text = prefix + base64.b64encode(encoded(Image.new("RGB", (4, 4), RED))).decode()
    assert (pixels(text) == RED).all()
    assert "picture in" in mn.Stimulus(image=text).label
    (tmp_path / "table.csv").write_text("image,condition\n" + f'"{text}",a\n"{text}",b\n' * 2)
    read = mn.stimuli.from_csv(
        tmp_path / "table.csv", text=None, image="image", positive="a", negative="b", duplicates="keep"
    )
    assert (np.asarray(read.stimuli[0].images()[0]) == RED).all()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("A" * 5000, "neither the path of an image file nor base64"),
        ("x y" * 500, "neither the path of an image file nor base64"),
        ("data:image/png;base64,A", "base64 of its data URI is damaged"),
        ("data:image/png,abc", "must hold an image in base64"),
        ("a\0b.png", "no image file"),
    ],
)
def test_text_that_is_no_image_is_refused(text: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        load_image(text, "a")


@pytest.mark.parametrize("how", ["with", "close"])
def test_a_closed_image_is_refused(how: str, tmp_path: Path) -> None:
    Image.new("RGB", (4, 4), RED).save(tmp_path / "a.png")
    image = Image.open(tmp_path / "a.png")
    if how == "with":
        with image:
            pass
    else:
        image.close()
    with pytest.raises(InputError, match="is closed"):
        load_image(image, "a")


@pytest.mark.parametrize("suffix", [".jfif", ".jp2", ".avif"])
def test_folders_of_other_endings_are_read(suffix: str, tmp_path: Path) -> None:
    for condition, colour in (("a", RED), ("b", WHITE)):
        for number in range(2):
            image = Image.new("RGB", (32, 32), tuple(max(0, part - number) for part in colour))
            try:
                image.save(tmp_path / f"{condition}-{number}{suffix}")
            except (KeyError, OSError, ValueError):
                pytest.skip("this Pillow does not write it")
    read = mn.stimuli.from_folder(tmp_path, positive="a", negative="b")
    assert [stimulus.n_images for stimulus in read.stimuli] == [1] * 4


def test_12_bits_in_16_are_not_rescaled_by_their_maximum() -> None:
    assert pixels(np.full((2, 2), 4095, np.uint16)).max() == 16
    assert pixels(encoded(Image.fromarray(np.full((2, 2), 4095, np.uint16)), "TIFF")).max() == 16


# Files that declare fewer bits than their samples take


def packed_12_bit(values: np.ndarray) -> bytes:
    """Rows of samples of 12 bits, two in three bytes, as TIFF packs them in either byte order."""
    rows = []
    for row in values:
        bits = "".join(f"{value:012b}" for value in row)
        rows.append(int(bits.ljust(-(-len(bits) // 8) * 8, "0"), 2).to_bytes(-(-len(bits) // 8), "big"))
    return b"".join(rows)


def tiff(values: np.ndarray, data: bytes, tags: dict[int, int], order: str = "<") -> bytes:
    """A TIFF file of one strip, written tag by tag."""
    height, width = values.shape
    entries = {256: width, 257: height, 259: 1, 262: 1, 273: 0, 277: 1, 278: height, 279: len(data), **tags}
    head = (b"II" if order == "<" else b"MM") + struct.pack(f"{order}HI", 42, 8)
    start = 8 + 2 + 12 * len(entries) + 4
    entries[273] = start
    body = struct.pack(f"{order}H", len(entries))
    for tag, value in sorted(entries.items()):
        body += struct.pack(f"{order}HHII", tag, 4, 1, value)
    return head + body + struct.pack(f"{order}I", 0) + data


RAMP = np.linspace(0, 4095, 24).round().astype(np.uint16).reshape(4, 6)
SCALED = np.rint(RAMP / 4095 * 255).astype(np.uint8)


@pytest.mark.parametrize(
    ("tags", "order", "packed"),
    [
        ({258: 12}, "<", True),
        ({258: 12}, "<", False),
        ({258: 16, 281: 4095}, "<", False),
        ({258: 16, 281: 4095}, ">", False),
        ({258: 16, 341: 4095}, "<", False),
    ],
)
def test_a_tiff_is_scaled_by_the_bits_that_it_declares(
    tags: dict[int, int], order: str, packed: bool, tmp_path: Path
) -> None:
    data = packed_12_bit(RAMP) if packed else RAMP.astype(f"{order}u2").tobytes()
    file = tmp_path / "scan.tif"
    file.write_bytes(tiff(RAMP, data, tags, order))
    for source in (file, file.read_bytes(), Image.open(file)):
        assert (pixels(source)[..., 0] == SCALED).all()


@pytest.mark.parametrize("tags", [{258: 16}, {258: 16, 281: 65535}, {258: 16, 281: 3000}, {258: 16, 281: 1023}])
def test_no_scale_is_taken_from_a_statistic_or_against_the_values(tags: dict[int, int]) -> None:
    plain = np.rint(RAMP / 257).astype(np.uint8)
    assert (pixels(tiff(RAMP, RAMP.astype("<u2").tobytes(), tags))[..., 0] == plain).all()


def test_formats_that_scale_to_16_bits_themselves(tmp_path: Path) -> None:
    """PNG's samples fill their 16 bits whatever was significant, and a PGM says its largest value."""
    sixteen = np.rint(RAMP / 4095 * 65535).astype(np.uint16)
    Image.fromarray(sixteen).save(tmp_path / "a.png")
    assert (pixels(tmp_path / "a.png")[..., 0] == SCALED).all()
    (tmp_path / "a.pgm").write_bytes(b"P5 6 4 4095\n" + RAMP.astype(">u2").tobytes())
    assert (np.abs(pixels(tmp_path / "a.pgm")[..., 0].astype(int) - SCALED) <= 1).all()


# Images inside texts and bytes


@pytest.mark.parametrize("prefix", ["", "data:image/png;base64,"])
def test_base64_is_read_once(prefix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = prefix + base64.b64encode(encoded(Image.new("RGB", (16, 16), RED))).decode()
    others = [prefix + base64.b64encode(encoded(Image.new("RGB", (16, side), WHITE))).decode() for side in (16, 17, 18)]
    calls = []
    decode = base64.b64decode
    monkeypatch.setattr(base64, "b64decode", lambda *args, **options: calls.append(1) or decode(*args, **options))
    stimulus = mn.Stimulus(image=[text, others[0]])
    for _ in range(3):
        stimulus.images()
        stimulus.inspect()
        assert "picture in" in stimulus.label
        assert "picture in" in repr(stimulus)
    assert len(calls) == 2
    cells = zip((text, *others), "aabb", strict=True)
    (tmp_path / "table.csv").write_text("image,condition\n" + "".join(f'"{cell}",{name}\n' for cell, name in cells))
    contrast = mn.stimuli.from_csv(tmp_path / "table.csv", text=None, image="image", positive="a", negative="b")
    assert (np.asarray(contrast.stimuli[1].images()[0]) == WHITE).all()
    assert len(calls) == 2 + 4


@pytest.mark.parametrize("form", ["PNG", "JPEG", "GIF"])
@pytest.mark.parametrize("kind", ["bytes", "base64", "uri", "list"])
def test_a_picture_that_is_cut_off_is_refused_at_construction(form: str, kind: str) -> None:
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8))
    whole = encoded(noise, form)
    text = base64.b64encode(whole[: len(whole) // 2]).decode()
    cut = {
        "bytes": whole[: len(whole) // 2],
        "base64": text,
        "uri": f"data:image/{form.lower()};base64,{text}",
        "list": [whole, whole[: len(whole) // 2]],
    }[kind]
    with pytest.raises(InputError, match=r"Stimulus face 3: the image is damaged or truncated"):
        mn.Stimulus("a face", image=cut, id="face 3")
    mn.Stimulus(image=whole + b"\0\0")


def test_what_is_no_image_is_refused_at_construction() -> None:
    for source in (b"nothing", b"", "data:image/png;base64," + base64.b64encode(b"nothing at all").decode()):
        with pytest.raises(InputError, match=r"Stimulus face 3: the image is not an image that Pillow can read"):
            mn.Stimulus(image=source, id="face 3")
