"""The same stimulus twice, in every reader; and folders that may not be read."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from modalnet import stimuli
from modalnet.errors import InputError
from modalnet.stimuli import Contrast, Stimulus
from modalnet.stimuli.duplicates import refuse_duplicates
from modalnet.stimuli.spec import parse


def picture(path: Path, shade: int) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (4, 4), (shade, 0, 0)).save(path)
    return path


def table(folder: Path, *rows: str) -> Path:
    path = folder / "w.csv"
    path.write_text("\n".join(["name,text,pic,condition", *rows]))
    return path


def test_two_rows_with_one_text(tmp_path: Path) -> None:
    rows = ["p,one,,x", "q,two,,x", 'r,"one ",,x', "s,three,,y", "t,four,,y"]
    with pytest.raises(InputError, match=r"row 4 repeats row 2: the same text, both in the condition x\. Remove"):
        stimuli.from_csv(table(tmp_path, *rows), id="name", positive="x")
    assert stimuli.from_csv(tmp_path / "w.csv", positive="x", duplicates="keep").n == {"x": 3, "y": 2}
    assert parse(f"csv:{tmp_path / 'w.csv'}", "x", duplicates="keep").n == {"x": 3, "y": 2}
    rows = ["p,one,,x", "q,two,,x", "r,three,,z", "s,one,,y", "t,two,,y", "u,two,,y"]
    message = r"row 5 repeats row 2: .*in the conditions x and y\. So do 2 others"
    with pytest.raises(InputError, match=message):
        stimuli.from_csv(table(tmp_path, *rows), positive="x", negative="y")


def test_rows_of_other_conditions_may_repeat(tmp_path: Path) -> None:
    rows = ["p,one,,x", "q,two,,x", "r,three,,y", "s,four,,y", "t,one,,z", "u,one,,z"]
    assert len(stimuli.from_csv(table(tmp_path, *rows), positive="x", negative="y")) == 4


def test_one_text_with_two_images_is_two_stimuli(tmp_path: Path) -> None:
    for shade in range(4):
        picture(tmp_path / f"{shade}.png", shade)
    rows = ["p,what?,0.png,x", "q,what?,1.png,x", "r,what?,2.png,y", "s,what?,3.png,y"]
    assert len(stimuli.from_csv(table(tmp_path, *rows), image="pic", positive="x")) == 4
    picture(tmp_path / "3.png", 1)
    with pytest.raises(InputError, match=r"row 5 repeats row 3: the same image and text, in the conditions x and y"):
        stimuli.from_csv(tmp_path / "w.csv", image="pic", positive="x")


def test_two_files_with_one_picture(tmp_path: Path) -> None:
    for shade, name in enumerate(("a/1.png", "a/2.png", "b/1.png", "b/2.png")):
        picture(tmp_path / name, shade)
    assert len(stimuli.from_folder(tmp_path, positive="a")) == 4
    picture(tmp_path / "b" / "3.png", 0)
    with pytest.raises(InputError, match=r"b/3\.png repeats a/1\.png: the same image, in the conditions a and b"):
        stimuli.from_folder(tmp_path, positive="a")
    assert len(stimuli.from_folder(tmp_path, positive="a", duplicates="keep")) == 5
    with pytest.raises(InputError, match="`duplicates` must be one of 'error', 'keep', got 'drop'"):
        stimuli.from_folder(tmp_path, positive="a", duplicates="drop")  # type: ignore[arg-type]


def test_two_rows_of_a_dataset(tmp_path: Path) -> None:
    data = picture(tmp_path / "a.png", 1).read_bytes()
    rows = [{"pic": {"bytes": data + bytes([i])}, "kind": "xy"[i % 2]} for i in range(4)]
    options = {"image": "pic", "condition": "kind", "positive": "x"}
    assert len(stimuli.from_dataset(rows, **options)) == 4
    rows[3] = rows[1]
    with pytest.raises(InputError, match=r"The dataset, row-3 repeats row-1: the same image, both in the condition y"):
        stimuli.from_dataset(rows, **options)
    assert len(stimuli.from_dataset(rows, **options, duplicates="keep")) == 4


def test_pictures_and_arrays_are_compared_by_their_pixels() -> None:
    black, white = np.zeros((2, 2)), np.ones((2, 2))
    different = [Stimulus(image=image) for image in (black, white, np.zeros((2, 3)), [black, black])]
    refuse_duplicates("here", different)
    with pytest.raises(InputError, match="here, 2x2 array repeats 2x2 array"):
        refuse_duplicates("here", [*different, Stimulus(image=black.copy())])
    with pytest.raises(InputError, match="repeats"):
        refuse_duplicates("here", [Stimulus(image=Image.new("L", (2, 2))) for _ in range(2)])


def test_only_files_of_one_size_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = [tmp_path / f"{i}.png" for i in range(4)]
    for size, path in enumerate(paths[:3], start=10):
        path.write_bytes(b"x" * size)
    paths[3].write_bytes(b"y" * 12)
    read: list[str] = []
    original = Path.read_bytes
    monkeypatch.setattr(Path, "read_bytes", lambda path: read.append(path.name) or original(path))
    refuse_duplicates("here", [Stimulus(image=path) for path in paths])
    assert read == ["2.png", "3.png"]


def test_a_file_that_may_not_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pair = [Stimulus(image=picture(tmp_path / name, 0)) for name in ("a.png", "b.png")]
    monkeypatch.setattr(Path, "read_bytes", refused)
    with pytest.raises(InputError, match=r"the file '.*a\.png' cannot be read: Permission denied"):
        refuse_duplicates("here", pair)


def refused(path: Path) -> object:
    raise PermissionError(13, "Permission denied", str(path))


@pytest.mark.parametrize(
    "read",
    [
        lambda folder: stimuli.from_folder(folder, positive="a"),
        stimuli.fedorenko2010,
        stimuli.floc,
        stimuli.tom_saxe,
    ],
)
@pytest.mark.parametrize("method", ["iterdir", "is_dir"])
def test_a_folder_that_may_not_be_read(
    read: Callable[[Path], Contrast], method: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Path, method, refused)
    with pytest.raises(InputError, match=r"The folder .* cannot be read: Permission denied\. Check its permissions"):
        read(tmp_path)


def test_a_table_that_may_not_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = table(tmp_path, "p,one,,x")
    monkeypatch.setattr(Path, "is_file", refused)
    with pytest.raises(InputError, match=r"w\.csv cannot be read: Permission denied"):
        stimuli.from_csv(path, positive="x")


def test_a_table_of_two_encodings(tmp_path: Path) -> None:
    path = tmp_path / "w.csv"
    path.write_bytes(b"text,condition\n" + "café,x\n".encode() + "thé,x\n".encode("cp1252"))
    with pytest.raises(InputError, match=r"w\.csv is not utf-8 \(line 3, byte \d+\).*only some lines differ"):
        stimuli.from_csv(path, positive="x")
