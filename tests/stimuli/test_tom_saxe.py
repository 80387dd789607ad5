"""The text files of the Saxe lab's localizer, in the format in which they are distributed."""

from __future__ import annotations

from pathlib import Path

import pytest

from modalnet import stimuli
from modalnet.errors import InputError
from modalnet.stimuli.spec import parse


@pytest.fixture
def tomloc(tmp_path: Path) -> Path:
    folder = tmp_path / "tomloc" / "text_files"
    folder.mkdir(parents=True)
    for letter in "bp":
        for item in range(1, 11):
            (folder / f"{item}{letter}_story.txt").write_text(
                f"Story {item}{letter} is on\r\nseveral lines. \r\nIt ends.\r\n"
            )
            (folder / f"{item}{letter}_question.txt").write_text(
                f"Question {item}{letter} is\non two.\n\n\nTrue\t\tFalse\n"
            )
    return folder


def test_the_published_files(tomloc: Path) -> None:
    contrast = stimuli.tom_saxe(tomloc)
    assert contrast.n == {"belief": 10, "photo": 10}
    assert contrast.positive == ("belief",)
    assert [s.id for s in contrast.stimuli] == [f"{item}{letter}" for letter in "bp" for item in range(1, 11)]
    assert contrast.stimuli[10].text == "Story 1p is on several lines. It ends.\nQuestion 1p is on two."
    for given in (tomloc.parent, str(tomloc)):
        assert [s.text for s in stimuli.tom_saxe(given).stimuli] == [s.text for s in contrast.stimuli]
    assert parse(f"tom-saxe:{tomloc}", "photo").name == "photo > belief"


def test_story_alone_or_another_template(tomloc: Path) -> None:
    asked = stimuli.tom_saxe(tomloc, template="Story: {story}\nQuestion: {question}\nAnswer:")
    assert (
        asked.stimuli[0].text
        == "Story: Story 1b is on several lines. It ends.\nQuestion: Question 1b is on two.\nAnswer:"
    )
    for path in tomloc.glob("*_question.txt"):
        path.unlink()
    assert stimuli.tom_saxe(tomloc, template="{story}").stimuli[9].text == "Story 10b is on several lines. It ends."
    with pytest.raises(InputError, match=r"lacks 20 of the 40 files of the localizer: 1b_question\.txt, .*, …"):
        stimuli.tom_saxe(tomloc)
    with pytest.raises(InputError, match=r"`template` must .* got '\{question\}'"):
        stimuli.tom_saxe(tomloc, template="{question}")


def test_what_is_no_localizer(tomloc: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="No folder at"):
        stimuli.tom_saxe(tmp_path / "nowhere")
    with pytest.raises(InputError, match=r"lacks 40 of the 40 files .* text_files of the Saxe lab"):
        stimuli.tom_saxe(tmp_path)
    (tomloc / "3p_question.txt").write_text("True   False")
    with pytest.raises(InputError, match=r"3p_question\.txt is empty"):
        stimuli.tom_saxe(tomloc)
    (tomloc / "3p_question.txt").write_bytes("La lettre de René.".encode("cp1252"))
    with pytest.raises(InputError, match=r"3p_question\.txt is not utf-8 .*encoding='cp1252'"):
        stimuli.tom_saxe(tomloc)
    assert "René" in (stimuli.tom_saxe(tomloc, encoding="cp1252").stimuli[12].text or "")
    for part in ("story", "question"):
        (tomloc / f"3p_{part}.txt").write_text((tomloc / f"2b_{part}.txt").read_text())
    with pytest.raises(
        InputError, match="text_files, 3p repeats 2b: the same text, in the conditions belief and photo"
    ):
        stimuli.tom_saxe(tomloc)
    assert len(stimuli.tom_saxe(tomloc, duplicates="keep")) == 20
