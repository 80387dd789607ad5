"""Stimuli, contrasts, the readers and the bundled set."""

from __future__ import annotations

import dataclasses
import hashlib
import os
import re
import string
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, strategies as st
from PIL import Image

import assets
from modalnet import stimuli
from modalnet.errors import InputError
from modalnet.stimuli import Contrast, Stimulus, nonword
from modalnet.stimuli.nonwords import WORD, english_words
from modalnet.stimuli.published import INTACT, LANGUAGE_FILES
from modalnet.stimuli.spec import parse

ENVIRONMENT = dict(os.environ)
EXPECTED = ["Gry", "merdent", "E", "dri'r", "pamagitrort"]


def texts(**conditions: int) -> list[Stimulus]:
    return [Stimulus(f"{name} {i}", condition=name) for name, n in conditions.items() for i in range(n)]


def picture(path: Path, shade: int | None = None) -> Path:
    """A small picture of the given red, else of a colour that its name decides."""
    path.parent.mkdir(parents=True, exist_ok=True)
    own = hashlib.sha256(f"{path.parent.name}/{path.name}".encode()).digest()
    Image.new("RGB", (3, 2), (own[0], own[1], own[2]) if shade is None else (shade, 0, 0)).save(path)
    return path


def words_of(text: str) -> list[str]:
    return WORD.findall(text.lower())


# --- importing ------------------------------------------------------------------------------------------------------


def test_importing_reads_no_heavy_library() -> None:
    code = (
        "import sys, modalnet.stimuli as s; c = s.language();"
        "print([m for m in ('torch', 'transformers', 'pandas', 'PIL', 'datasets') if m in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


# --- Stimulus -------------------------------------------------------------------------------------------------------


def test_a_stimulus_knows_its_kind(tmp_path: Path) -> None:
    path = picture(tmp_path / "a.png")
    text, image, both = Stimulus("hello"), Stimulus(image=path), Stimulus("hello", [path, np.zeros((2, 2))], "c", "id")
    assert [s.kind for s in (text, image, both)] == ["text", "image", "image+text"]
    assert [s.n_images for s in (text, image, both)] == [0, 1, 2]
    assert [s.label for s in (text, image, both)] == ["'hello'", "a.png", "id"]
    assert repr(both) == "Stimulus(text='hello', image=a.png, 2x2 array, condition='c', id='id')"
    assert len(Stimulus("long " * 100).label) < 50
    with pytest.raises(dataclasses.FrozenInstanceError):
        text.text = "bye"  # type: ignore[misc]


def test_stimuli_with_arrays_can_be_compared_and_hashed() -> None:
    a, b = Stimulus(image=np.zeros((2, 2))), Stimulus(image=np.zeros((2, 2)))
    assert a != b
    assert len({a, b, a}) == 2


def test_images_are_decoded_anew_each_time(tmp_path: Path) -> None:
    stimulus = Stimulus(image=picture(tmp_path / "a.png", 1))
    first = stimulus.images()[0]
    picture(tmp_path / "a.png", 200)
    assert first.getpixel((0, 0)) == (1, 0, 0)
    assert stimulus.images()[0].getpixel((0, 0)) == (200, 0, 0)
    assert Stimulus("text").images() == []


def test_inspect_hashes_the_content_and_nothing_else(tmp_path: Path) -> None:
    path = picture(tmp_path / "a.png", 7)
    pixels = np.asarray(Image.open(path))
    inspected = Stimulus("t", path, "c", "i").inspect()
    assert inspected.sizes == ((3, 2),)
    assert re.fullmatch("[0-9a-f]{64}", inspected.digest)
    assert inspected == Stimulus("t", pixels, "another", "name").inspect()
    others = [
        Stimulus("t"),
        Stimulus(image=path),
        Stimulus("u", path),
        Stimulus("t", [path, path]),
        Stimulus("t", pixels.reshape(3, 2, 3)),
        Stimulus("t", pixels + 1),
    ]
    assert len({inspected.digest, *(s.inspect().digest for s in others)}) == 1 + len(others)


def test_inspect_finds_a_truncated_file(tmp_path: Path) -> None:
    path = tmp_path / "half.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)).save(path)
    path.write_bytes(path.read_bytes()[:5000])
    stimulus = Stimulus(image=path, id="item 4")
    with pytest.raises(InputError, match=r"Stimulus item 4: the file '.*half\.png' is damaged or truncated"):
        stimulus.inspect()


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({}, "needs a text, an image or a sound"),
        ({"id": "x"}, "'x' has none of them"),
        ({"text": ""}, r"is empty: ''. Use text=None for an image-only stimulus"),
        ({"text": " \n"}, "is empty"),
        ({"text": 5}, "must be a string, got 5"),
        ({"text": float("nan"), "id": "x"}, "text of stimulus 'x' is NaN: an empty cell"),
        ({"text": "a\ud800"}, "lone surrogate"),
        ({"image": []}, r"image list .* is empty"),
        ({"image": "nowhere.png"}, r"no image file at 'nowhere\.png'"),
        ({"image": ["nowhere.png"]}, r"no image file at 'nowhere\.png'"),
        ({"image": 3}, "got a int"),
        ({"image": float("nan")}, "an empty cell of a table"),
        ({"image": [[0, 1], [1, 0]]}, "got a list"),
        ({"image": np.zeros((3, 8, 8))}, "channels first"),
        ({"text": "a", "condition": 1}, "`condition` of a stimulus must be a non-empty string"),
        ({"text": "a", "condition": " "}, "`condition` of a stimulus must be a non-empty string"),
        ({"text": "a", "id": float("nan")}, "`id` of a stimulus must be a non-empty string"),
    ],
)
def test_what_is_no_stimulus(fields: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        Stimulus(**fields)  # type: ignore[arg-type]


# --- Contrast -------------------------------------------------------------------------------------------------------


def test_a_contrast_keeps_the_named_conditions_in_order() -> None:
    given_ = texts(a=2, b=3, c=2)
    mixed = [given_[i] for i in (5, 0, 2, 6, 3, 1, 4)]
    contrast = Contrast(mixed, positive="c", negative=["b"])
    assert contrast.stimuli == tuple(s for s in mixed if s.condition != "a")
    assert (contrast.positive, contrast.negative, contrast.conditions) == (("c",), ("b",), ("c", "b"))
    assert contrast.n == {"c": 2, "b": 3}
    assert contrast.sides == ("positive", "negative", "positive", "negative", "negative")
    assert [contrast.side(i) for i in range(len(contrast))] == list(contrast.sides)
    assert repr(contrast) == "Contrast('c > b': 2 positive, 3 negative)"


def test_negative_is_all_the_others_by_default() -> None:
    contrast = Contrast(texts(a=1, b=1, c=1, d=1), ["b", "a"])
    assert (contrast.positive, contrast.negative) == (("b", "a"), ("c", "d"))
    assert contrast.name == "b,a > c,d"


def test_flipping_exchanges_the_sides() -> None:
    contrast = Contrast(texts(a=2, b=2, c=2), "a", ["b", "c"])
    flipped = ~contrast
    assert flipped.stimuli == contrast.stimuli
    assert (flipped.positive, flipped.negative, flipped.name) == (("b", "c"), ("a",), "b,c > a")
    assert all(x != y for x, y in zip(contrast.sides, flipped.sides, strict=True))
    assert (~flipped).sides == contrast.sides
    named = Contrast(texts(a=2, b=2), "a", name="mine")
    assert ((~named).name, (~~named).name) == ("mine (flipped)", "mine")


def test_describe_shows_how_well_conditions_match(tmp_path: Path) -> None:
    path = picture(tmp_path / "a.png")
    given_ = [
        Stimulus("one two", condition="a"),
        Stimulus("one two three four", [path, path], condition="a"),
        Stimulus(image=path, condition="b"),
        Stimulus(image=path, condition="b"),
    ]
    table = Contrast(given_, "a").describe()
    first, second = table.to_dict("records")
    expected = {"condition": "a", "side": "positive", "n": 2, "mean_words": 3.0, "mean_characters": 12.5, "n_images": 2}
    assert first.items() >= expected.items()
    assert np.isnan(second["mean_words"])
    assert second["n_images"] == 2


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Contrast([], "a"), "`stimuli` is empty"),
        (lambda: Contrast("abc", "a"), "`stimuli` must be a list of Stimulus objects, got a str"),
        (lambda: Contrast(None, "a"), "got a NoneType"),
        (lambda: Contrast([*texts(a=2), "text"], "a"), r"`stimuli\[2\]` must be a Stimulus, got a str"),
        (lambda: Contrast([*texts(a=2, b=2), Stimulus("bare")], "a"), "1 of 5 stimuli have no condition: 'bare'"),
        (lambda: Contrast(texts(sentences=2, nonwords=3), "sentence"), r"Did you mean 'sentences'\?.*nonwords \(3\)"),
        (lambda: Contrast(texts(a=2, b=2), "a", "zzz"), r"negative condition 'zzz'. Conditions: a \(2\), b \(2\)"),
        (lambda: Contrast(texts(a=2, b=2), []), "names no condition"),
        (lambda: Contrast(texts(a=2, b=2), "a", []), "negative side names no condition"),
        (lambda: Contrast(texts(a=2, b=2), None), r"`positive` must be .*got None"),
        (lambda: Contrast(texts(a=2, b=2), 7), "got 7"),
        (lambda: Contrast(texts(a=2, b=2), [1]), r"got \[1\]"),
        (lambda: Contrast(texts(a=2, b=2), ["a", "b"], "b"), "on both sides of the contrast: b"),
        (lambda: Contrast(texts(a=2), "a"), "negative side of the contrast is empty"),
        (lambda: Contrast(texts(a=1, b=5), "a"), r"positive side .* needs at least 2 stimuli, got 1.*a \(1\), b \(5\)"),
        (lambda: Contrast(texts(a=5, b=1), "a"), "negative side of the contrast needs at least 2 stimuli, got 1"),
        (
            lambda: Contrast([*texts(a=2, b=2), Stimulus("x", None, "a", "i"), Stimulus("y", None, "b", "i")], "a"),
            "Two stimuli have the id 'i'",
        ),
    ],
)
def test_what_is_no_contrast(make: Callable[[], Contrast], message: str) -> None:
    with pytest.raises(InputError, match=message):
        make()


# --- CSV ------------------------------------------------------------------------------------------------------------

ROWS = 'text,condition\n"Yes, it is.",s\nNA,s\nblug,n\nnull,n\nlast,other\n'


def test_a_csv_is_read_word_for_word(tmp_path: Path) -> None:
    (tmp_path / "w.csv").write_text(ROWS)
    contrast = stimuli.from_csv(tmp_path / "w.csv", positive="s", negative="n")
    assert [s.text for s in contrast.stimuli] == ["Yes, it is.", "NA", "blug", "null"]
    assert [s.id for s in contrast.stimuli] == ["w:2", "w:3", "w:4", "w:5"]
    assert stimuli.from_csv(tmp_path / "w.csv", positive="s").negative == ("n", "other")


def test_a_csv_with_images_and_ids(tmp_path: Path) -> None:
    for name in "abcd":
        picture(tmp_path / "pictures" / f"{name}.png", ord(name))
    lines = ["name;pic;q;kind", "1;pictures/a.png;what?;x", "2;;what?;x", "3;pictures/b.png;;y", "4;pictures/c.png;q;y"]
    path = tmp_path / "w.csv"
    path.write_text("\n".join(lines))
    options = {"text": "q", "image": "pic", "condition": "kind", "id": "name", "positive": "x", "delimiter": ";"}
    contrast = stimuli.from_csv(path, **options)
    assert [(s.id, s.kind) for s in contrast.stimuli] == [
        ("1", "image+text"),
        ("2", "text"),
        ("3", "image"),
        ("4", "image+text"),
    ]
    assert contrast.stimuli[0].images()[0].getpixel((0, 0)) == (ord("a"), 0, 0)
    images = stimuli.from_csv(
        write(
            tmp_path, "im.csv", "im,condition\npictures/a.png,x\npictures/b.png,x\npictures/c.png,y\npictures/d.png,y"
        ),
        text=None,
        image="im",
        positive="x",
    )
    assert {s.kind for s in images.stimuli} == {"image"}


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "cp1252", "utf-16"])
def test_csv_encodings(encoding: str, tmp_path: Path) -> None:
    path = tmp_path / "w.csv"
    path.write_text("text,condition\ncafé,a\nthé,a\nx,b\ny,b\n", encoding=encoding)
    asked = "utf-8" if encoding == "utf-8-sig" else encoding
    assert stimuli.from_csv(path, positive="a", encoding=asked).stimuli[0].text == "café"
    if encoding == "cp1252":
        with pytest.raises(InputError, match=r"w\.csv is not utf-8 \(line 2, byte 18\).*encoding='cp1252'"):
            stimuli.from_csv(path, positive="a")
    if encoding == "utf-16":
        with pytest.raises(InputError, match=r"encoding='utf-16'"):
            stimuli.from_csv(path, positive="a")


def write(folder: Path, name: str, content: str) -> Path:
    (folder / name).write_text(content)
    return folder / name


@pytest.mark.parametrize(
    ("content", "options", "message"),
    [
        ("", {}, r"w\.csv is empty"),
        ("text,condition\n", {}, "has a header and no rows"),
        ("words,kind\na,b\n", {}, "no column 'text'. It has: words, kind"),
        ("text,kind\na,b\n", {}, "no column 'condition'. It has: text, kind"),
        ("text;condition\na;b\n", {}, r"pass delimiter=';'"),
        ("text,text,condition\na,b,c\n", {}, "2 columns named 'text'"),
        ("text,condition\na,x\n,x\n", {}, r"w\.csv, row 3: the cell for the text is empty"),
        ("text,condition\na,x\nb, \n", {}, "row 3: the cell for the condition is empty"),
        ("text,condition\na,x\nb, c,x\n", {}, r"row 3: 3 cells where the header has 2.*double quotes"),
        ("text,condition\na,x\n\nb\n", {}, "row 4: 1 cells"),
        ("id,text,condition\n1,a,x\n1,b,x\n", {"id": "id"}, "row 3 has the id '1' of row 2"),
        ("text,condition\na,x\nb,x\nc,y\nd,y\n", {"positive": "z"}, r"w\.csv: No stimulus has .* 'z'"),
        ("text,condition\na,x\nb,x\nc,y\n", {}, r"w\.csv: The negative side .* needs at least 2 stimuli, got 1"),
        ('text,condition\n"a"b,x\n', {}, "cannot be read as a table"),
        ("text,condition\na,x\n", {"text": None}, r"name the text column"),
        ("im,condition\nno.png,x\n", {"text": None, "image": "im"}, r"row 2: .*no image file at '.*no\.png'"),
        ("text,im,condition\n,,x\n", {"image": "im"}, "row 2: the cell for the text and the image is empty"),
        ("text,condition\na,x\n", {"encoding": "klingon"}, "no encoding 'klingon'"),
    ],
)
def test_csv_complaints(content: str, options: dict[str, object], message: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=message):
        stimuli.from_csv(write(tmp_path, "w.csv", content), **{"positive": "x", **options})  # type: ignore[arg-type]


def test_a_csv_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no file at '.*none\.csv'"):
        stimuli.from_csv(tmp_path / "none.csv", positive="x")
    with pytest.raises(InputError, match="is a folder"):
        stimuli.from_csv(tmp_path, positive="x")


# --- folders --------------------------------------------------------------------------------------------------------


def test_a_folder_of_subfolders(tmp_path: Path) -> None:
    for name in ("face/b.png", "face/a.JPG", "house/1.png", "house/2.png", "tool/1.png"):
        picture(tmp_path / name)
    write(tmp_path, "readme.txt", "hello")
    write(tmp_path / "face", ".hidden.png", "hello")
    write(tmp_path / "face", "notes.txt", "hello")
    contrast = stimuli.from_folder(tmp_path, positive="face", negative="house")
    assert [s.id for s in contrast.stimuli] == ["face/a.JPG", "face/b.png", "house/1.png", "house/2.png"]
    assert contrast.n == {"face": 2, "house": 2}
    assert stimuli.from_folder(tmp_path, positive="face").negative == ("house", "tool")


def test_a_folder_of_prefixed_names(tmp_path: Path) -> None:
    for name in ("face-1.png", "face_2.png", "big-house-01.png", "big-house-02.png"):
        picture(tmp_path / name)
    contrast = stimuli.from_folder(tmp_path, positive="big-house")
    assert contrast.n == {"big-house": 2, "face": 2}
    assert contrast.sides == ("positive", "positive", "negative", "negative")


def test_folder_complaints(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"nowhere"):
        stimuli.from_folder(tmp_path / "nowhere", positive="a")
    with pytest.raises(InputError, match=r"is a file, not a folder"):
        stimuli.from_folder(write(tmp_path, "file.txt", ""), positive="a")
    with pytest.raises(InputError, match=r"no images in it.*face-001\.png"):
        stimuli.from_folder(tmp_path, positive="a")
    with pytest.raises(InputError, match=r"`condition` must be one of .*got 'colour'"):
        stimuli.from_folder(tmp_path, positive="a", condition="colour")  # type: ignore[arg-type]
    for name in ("a/1.png", "a/2.png", "b/1.png", "b/2.png"):
        picture(tmp_path / name)
    (tmp_path / "c").mkdir()
    with pytest.raises(InputError, match="without images: c"):
        stimuli.from_folder(tmp_path, positive="a")
    with pytest.raises(InputError, match="without images: c"):
        stimuli.from_folder(tmp_path, positive="a", negative="c")
    assert len(stimuli.from_folder(tmp_path, positive="a", negative="b")) == 4
    with pytest.raises(InputError, match=r"No stimulus has the positive condition 'd'"):
        stimuli.from_folder(tmp_path, positive="d", negative="b")
    with pytest.raises(InputError, match="has no images in it"):
        stimuli.from_folder(tmp_path, positive="a", condition="prefix")
    picture(tmp_path / "x.png")
    with pytest.raises(InputError, match=r"\(x\.png\) beside subfolders.*condition='prefix'"):
        stimuli.from_folder(tmp_path, positive="a", negative="b")
    with pytest.raises(InputError, match=r"1 images whose names are not a condition.*: x\.png"):
        stimuli.from_folder(tmp_path, positive="a", condition="prefix")


# --- Hugging Face datasets ------------------------------------------------------------------------------------------


def rows(n: int = 4) -> list[dict[str, object]]:
    return [{"q": f"text {i}", "kind": "xyz"[i % 3]} for i in range(3 * n)]


def test_a_dataset_as_a_list_of_dicts() -> None:
    contrast = stimuli.from_dataset(rows(), text="q", condition="kind", positive="x", negative="z", limit=2)
    assert [s.id for s in contrast.stimuli] == ["row-0", "row-2", "row-3", "row-5"]
    assert stimuli.from_dataset(rows(), text="q", condition="kind", positive="x").n == {"x": 4, "y": 4, "z": 4}


def test_a_hugging_face_dataset(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    features = datasets.Features({"pic": datasets.Image(), "kind": datasets.ClassLabel(names=["cat", "dog", "cow"])})
    paths = [str(picture(tmp_path / f"{i}.png", i)) for i in range(9)]
    data = datasets.Dataset.from_dict({"pic": paths, "kind": [0, 1, 2] * 3}, features=features)
    options = {"image": "pic", "condition": "kind", "positive": "dog", "negative": "cow"}
    data.save_to_disk(tmp_path / "one")
    datasets.DatasetDict({"train": data, "test": data}).save_to_disk(tmp_path / "two")
    for source, split in (
        (data, None),
        (data.to_iterable_dataset(), None),
        (tmp_path / "one", None),
        (str(tmp_path / "two"), "test"),
    ):
        contrast = stimuli.from_dataset(source, split=split, **options)
        assert contrast.n == {"dog": 3, "cow": 3}
        assert [s.images()[0].getpixel((0, 0))[0] for s in contrast.stimuli] == [1, 2, 4, 5, 7, 8]
        assert not any(isinstance(s.image, Image.Image) for s in contrast.stimuli)  # still as stored
    with pytest.raises(InputError, match=r"splits train, test. Pass one of them as `split`"):
        stimuli.from_dataset(str(tmp_path / "two"), **options)
    with pytest.raises(InputError, match="no split 'dev'"):
        stimuli.from_dataset(str(tmp_path / "two"), split="dev", **options)
    with pytest.raises(InputError, match=r"nothing-here.*cannot be opened"):
        stimuli.from_dataset(str(tmp_path / "nothing-here"), **options)
    unlabelled = datasets.Dataset.from_dict({"pic": paths[:1], "kind": [-1]}, features=features)
    with pytest.raises(InputError, match="row 0: the column 'kind' is empty"):
        stimuli.from_dataset(unlabelled, **options)


@pytest.mark.parametrize(
    ("data", "options", "message"),
    [
        (rows(), {"text": None}, r"Name the text column"),
        (rows(), {"text": "words"}, "no column 'words'. It has: q, kind"),
        (rows(), {"condition": "words"}, "no column 'words'"),
        (rows(), {"limit": 0}, "`limit` must be a positive integer, got 0"),
        (rows(), {"positive": "w"}, "No stimulus has the positive condition 'w'"),
        ([], {}, "is empty"),
        (7, {}, "got a int"),
        ([{"q": None, "kind": "x"}], {}, "row 0: A stimulus needs a text"),
        ([{"q": "a", "kind": None}], {}, "row 0: the column 'kind' is empty"),
        ([{"q": "a", "kind": "x"}, {"q": "b"}], {}, "row 1: no column 'kind'"),
    ],
)
def test_dataset_complaints(data: object, options: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        stimuli.from_dataset(data, **{"text": "q", "condition": "kind", "positive": "x", **options})  # type: ignore[arg-type]


def test_a_dataset_name_without_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(InputError, match=r"pip install 'modalnet\[datasets\]'"):
        stimuli.from_dataset("some/name", text="q", condition="kind", positive="x")


# --- published localizers -------------------------------------------------------------------------------------------


@pytest.fixture
def langloc(tmp_path: Path) -> Path:
    header = ",".join(f"stim{i}" for i in range(1, 15))
    for name in LANGUAGE_FILES:
        item = "".join(filter(str.isdigit, name))
        lines = [f"{n},{label}{item}," + "WORD," * 10 + f"NULL,{label}" for n, label in enumerate("SN", start=1)]
        write(tmp_path, name, "\n".join([header, *lines]))
    return tmp_path


def test_fedorenko2010_reads_its_format(langloc: Path) -> None:
    contrast = stimuli.fedorenko2010(langloc)
    assert contrast.n == {"sentences": 10, "nonwords": 10}
    assert contrast.stimuli[0].text == " ".join(["s11", *["word"] * 10, "null"])
    assert [s.id for s in contrast.stimuli[:3]] == ["run1-set1-01", "run1-set1-02", "run1-set2-01"]
    assert stimuli.fedorenko2010(langloc, lower=False).stimuli[0].text.endswith("WORD NULL")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("stim14", "label", "no column 'stim14'"),
        ("NULL,S", "NULL,X", "row 2: column stim14 must be S or N, got 'X'"),
        ("NULL,N", "NULL", "row 3: 13 cells where the header has 14"),
        ("NULL,N", ",N", "row 3: column stim13 is empty"),
    ],
)
def test_fedorenko2010_complaints(old: str, new: str, message: str, langloc: Path) -> None:
    path = langloc / LANGUAGE_FILES[3]
    path.write_text(path.read_text().replace(old, new))
    with pytest.raises(InputError, match=rf"set4\.csv.*{message}"):
        stimuli.fedorenko2010(langloc)


def test_fedorenko2010_lacks_files(langloc: Path) -> None:
    (langloc / LANGUAGE_FILES[2]).unlink()
    with pytest.raises(InputError, match=r"lacks 1 of the 10 files of the localizer: .*run1_stim_set3\.csv"):
        stimuli.fedorenko2010(langloc)
    with pytest.raises(InputError, match="No folder at"):
        stimuli.fedorenko2010(langloc / "nowhere")


@pytest.fixture
def floc_folder(tmp_path: Path) -> Path:
    for category in (*INTACT, "scrambled"):
        for i in (1, 2):
            picture(tmp_path / f"{category}-{i:03d}.jpg")
    return tmp_path


def test_floc_contrasts(floc_folder: Path) -> None:
    faces = stimuli.floc(floc_folder)
    assert (faces.positive, set(faces.negative)) == (("adult", "child"), set(INTACT) - {"adult", "child"})
    assert len(faces) == 20
    assert stimuli.floc(floc_folder, INTACT, "scrambled").sides.count("positive") == 20
    assert "scrambled" not in stimuli.floc(floc_folder, "house").negative


def test_floc_complaints(floc_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    with pytest.raises(InputError, match="has no images"):
        stimuli.floc(tmp_path_factory.mktemp("empty"))
    with pytest.raises(InputError, match="Did you mean 'house'"):
        stimuli.floc(floc_folder, "houses", "car")
    (floc_folder / "car-001.jpg").unlink()
    (floc_folder / "car-002.jpg").unlink()
    with pytest.raises(InputError, match="no images of car, which the default negative side includes"):
        stimuli.floc(floc_folder)
    assert len(stimuli.floc(floc_folder, negative="house")) == 6
    picture(floc_folder / "boat-001.jpg")
    with pytest.raises(InputError, match="categories that fLoc does not have: boat"):
        stimuli.floc(floc_folder)


@pytest.mark.real
def test_the_published_language_localizer() -> None:
    contrast = stimuli.fedorenko2010(assets.data("fedorenko2010"))
    assert contrast.n == {"sentences": 240, "nonwords": 240}
    assert {len(s.text.split()) for s in contrast.stimuli if s.text} == {12}
    assert len({s.text for s in contrast.stimuli}) == 480
    bundled = {s.text for s in stimuli.language().stimuli}
    assert not {s.text.lower() for s in contrast.stimuli if s.text} & {
        text.lower().strip(".") for text in bundled if text
    }


@pytest.mark.real
def test_the_published_category_localizer() -> None:
    folder = assets.data("floc")
    faces = stimuli.floc(folder)
    assert set(faces.n.values()) == {40}
    assert (len(faces.positive), len(faces.negative)) == (2, 8)
    assert len({s.inspect().digest for s in faces.stimuli}) == 400
    assert len(stimuli.floc(folder, INTACT, "scrambled")) == 440


# --- the bundled set and its nonwords -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def language() -> Contrast:
    return stimuli.language()


def test_the_bundled_language_set(language: Contrast) -> None:
    assert language.n == {"sentences": 240, "nonwords": 240}
    assert language.stimuli[0].id == "sentence-001"
    assert language.stimuli[-1].id == "nonword-240"
    assert len({s.text.lower() for s in language.stimuli if s.text}) == 480
    assert len(words_of(" ".join(s.text or "" for s in language.stimuli[:240]))) > 2000
    assert all(8 <= len((s.text or "").split()) <= 12 for s in language.stimuli)


def test_nonword_strings_match_their_sentences_letter_by_letter(language: Contrast) -> None:
    def shape(text: str) -> str:
        return re.sub("[a-z]", "x", re.sub("[A-Z]", "X", text))

    for sentence, twin in zip(language.stimuli[:240], language.stimuli[240:], strict=True):
        assert shape(sentence.text or "") == shape(twin.text or "")
        assert str(sentence.id).split("-")[1] == str(twin.id).split("-")[1]


def test_no_nonword_is_a_word_and_each_stands_for_one(language: Contrast) -> None:
    sentences, strings = (
        words_of(" ".join(s.text or "" for s in half)) for half in (language.stimuli[:240], language.stimuli[240:])
    )
    words, nonwords = set(sentences), set(strings)
    assert not words & nonwords
    assert not english_words() & nonwords
    assert len(words) == len(nonwords) == len(set(zip(sentences, strings, strict=True)))


def test_sentences_are_no_near_duplicates(language: Contrast) -> None:
    counts = Counter(word for s in language.stimuli[:240] for word in set(words_of(s.text or "")))
    content = [{w for w in words_of(s.text or "") if counts[w] < 12} for s in language.stimuli[:240]]
    overlap = max(len(a & b) / len(a | b) for i, a in enumerate(content) for b in content[:i])
    assert overlap < 0.3


def test_language_takes_the_first_n(language: Contrast) -> None:
    small = stimuli.language(5)
    assert small.n == {"sentences": 5, "nonwords": 5}
    assert [s.text for s in small.stimuli[5:]] == [s.text for s in language.stimuli[240:245]]
    for n in (1, 241, 2.5):
        with pytest.raises(InputError, match="from 2 to 240"):
            stimuli.language(n)  # type: ignore[arg-type]


def pronounceable(word: str) -> bool:
    return bool(re.search("[aeiouy]", word)) and not re.search("[^aeiouy]{4}", word)


@given(st.text(string.ascii_letters, min_size=1, max_size=20), st.integers(0, 99))
def test_a_nonword_has_the_length_the_case_and_vowels(word: str, seed: int) -> None:
    made = nonword(word, seed)
    assert made == nonword(word, seed)
    assert [c.isupper() for c in made] == [c.isupper() for c in word]
    assert made.isascii()
    assert made.isalpha()
    assert made.lower() != word.lower()
    assert made.lower() not in english_words()
    assert len(word) < 3 or pronounceable(made.lower())


@given(st.text("abcé 'x-,.09’ß", max_size=30).filter(lambda text: any(map(str.isalpha, text))))
def test_a_text_keeps_all_that_is_no_letter(text: str) -> None:
    made = nonword(text)
    assert len(made) == len(text)
    assert [c for c in made if not c.isalpha()] == [c for c in text if not c.isalpha()]
    assert words_of(made) == [nonword(word) for word in words_of(text)]


def test_nonwords_are_the_same_everywhere() -> None:
    """Fixed by hand: a change here changes the bundled stimuli, and with them every stored result."""
    assert [nonword(word, 1) for word in ("The", "kitchen", "I", "don't", "grandmother")] == EXPECTED
    code = "from modalnet.stimuli import nonword; print([nonword(w, 1) for w in ('The', 'kitchen')])"
    for hash_seed in ("1", "2"):
        run = subprocess.run(
            [sys.executable, "-c", code],
            capture_output=True,
            text=True,
            check=True,
            env={**ENVIRONMENT, "PYTHONHASHSEED": hash_seed},
        )
        assert run.stdout.strip() == repr(EXPECTED[:2])


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("", "at least one letter"),
        ("42!", "at least one letter, got '42!'"),
        ("дом", "has д, м, о"),
        (5, "must be a string, got 5"),
    ],
)
def test_what_nonword_refuses(word: object, message: str) -> None:
    with pytest.raises(InputError, match=message):
        nonword(word)  # type: ignore[arg-type]


# --- the command line's names ---------------------------------------------------------------------------------------


def test_specs(langloc: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("floc")
    for category in (*INTACT, "scrambled"):
        for i in (1, 2):
            picture(folder / f"{category}-{i:03d}.jpg")
    table = write(
        folder, "w.csv", "text,pic,condition\na,car-001.jpg,x\nb,car-002.jpg,x\nc,word-001.jpg,y\nd,word-002.jpg,z\n"
    )
    assert parse("language").name == "sentences > nonwords"
    assert parse("language", "nonwords").name == "nonwords > sentences"
    assert parse(f"fedorenko2010:{langloc}").n == {"sentences": 10, "nonwords": 10}
    assert parse(f"floc:{folder}").positive == ("adult", "child")
    assert parse(f"floc:{folder}", "house, corridor", "car").name == "house,corridor > car"
    assert parse(f"folder:{folder}", ["word"], ["number"]).n == {"word": 2, "number": 2}
    assert parse(f"csv:{table}", "x", "y,z").name == "x > y,z"
    assert {s.kind for s in parse(f"csv:{table}", "x", image="pic").stimuli} == {"image"}
    assert {s.kind for s in parse(f"csv:{table}", "x", text="text", image="pic").stimuli} == {"image+text"}


@pytest.mark.parametrize(
    ("spec", "options", "message"),
    [
        (
            "langauge",
            {},
            r"Unknown contrast 'langauge'. Known contrasts: language, .*refusal, .*fedorenko2010:FOLDER",
        ),
        ("", {}, "Known contrasts: language"),
        (None, {}, "Unknown contrast None"),
        ("floc", {}, "must have the form floc:FOLDER"),
        ("csv:", {"positive": "x"}, r"must have the form csv:FILE\.csv"),
        ("language:x", {}, "must have the form language"),
        ("csv:w.csv", {}, "needs a positive condition"),
        ("folder:here", {}, "needs a positive condition"),
        ("language", {"text": "q"}, "language takes no text; it takes positive, negative"),
        ("language", {"positive": "words"}, "No stimulus has the positive condition 'words'"),
        ("csv:nowhere.csv", {"positive": "x"}, "no file at 'nowhere.csv'"),
    ],
)
def test_spec_complaints(spec: object, options: dict[str, str], message: str) -> None:
    with pytest.raises(InputError, match=message):
        parse(spec, **options)  # type: ignore[arg-type]


def test_which_bundled_sets_are_made_of_items() -> None:
    """Every item of these is in every condition once; the others have none unless asked."""
    import modalnet as mn

    of = {
        "language": mn.stimuli.language(5, items=True),
        "language_conditions": mn.stimuli.language_conditions(5, items=True),
        "theory_of_mind": mn.stimuli.theory_of_mind(5),
        "refusal": mn.stimuli.refusal(5),
        "vision": mn.stimuli.vision(None, n=5, size=32, items=True),
        "vision_vs_text": mn.stimuli.vision_vs_text(5, size=32, items=True),
    }
    for name, contrast in of.items():
        halves = {(stimulus.item, stimulus.condition) for stimulus in contrast.stimuli}
        assert len(halves) == len(contrast) == 5 * len(contrast.conditions), name
        assert len({item for item, _ in halves} - {None}) == 5, name
    for contrast in (
        mn.stimuli.language(5),
        mn.stimuli.language_conditions(5),
        mn.stimuli.vision(None, n=5, size=32),
        mn.stimuli.vision_vs_text(5, size=32),
        mn.stimuli.multiple_demand(5),
        mn.stimuli.categories(n=8, size=32),
    ):
        assert set(contrast.items) == {None}
    for name in ("language", "language_conditions", "vision", "vision_vs_text"):
        with pytest.raises(InputError, match="`items` must be True or False, got 1"):
            getattr(mn.stimuli, name)(items=1)


def test_an_item_is_a_name() -> None:
    assert "item='a'" in repr(Stimulus("x", item="a"))
    with pytest.raises(InputError, match="`item` of a stimulus must be a non-empty string or None, got ''"):
        Stimulus("x", item="")
