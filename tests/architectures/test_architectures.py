"""Every class of transformers that reads images and texts does what `docs/architectures.md` says of it."""

from __future__ import annotations

import pytest

from .suite import COMMAND, IMAGE_TEXT, PAGE, Case, cases, examine, rows

pytestmark = pytest.mark.architectures


@pytest.mark.parametrize("case", cases(), ids=str)
def test_class(case: Case) -> None:
    outcome = examine(case)
    said = [row for row in rows() if row.startswith(case.start)]
    assert [outcome.row] == said, f"{PAGE.name} says otherwise. To write it again: {COMMAND}"


def test_page_is_whole() -> None:
    """Nothing is missing, and nothing stands there that is not examined."""
    assert [" | ".join(row.split(" | ")[:2]) + " |" for row in rows()] == [case.start for case in cases()]


def test_most_types_that_read_images_and_text_pass_every_check() -> None:
    own = tuple(case.start for case in cases() if case.group == IMAGE_TEXT)
    passed = [row for row in rows() if row.startswith(own) and "**" not in row]
    assert len(passed) >= len(own) * 93 // 97
