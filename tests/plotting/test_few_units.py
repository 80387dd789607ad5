"""Figures of spaces with few units per layer (heads), and of those that are no dimensions of the stream (neurons)."""

from __future__ import annotations

import pytest

import modalnet as mn


@pytest.fixture(scope="module")
def found():
    return mn.localize(mn.load("tiny"), mn.stimuli.language(8), units=["neurons", "heads"], cache=False, progress=False)


def texts(ax):
    return [text.get_text() for text in ax.texts]


@pytest.mark.parametrize("kind", ["layers", "histogram", "volcano", "glass", "units"])
def test_a_network_that_is_drawn_has_at_least_one_unit(found, kind):
    """A hundredth of 48 heads is less than one."""
    heads = found.only("decoder.heads")
    axes = heads.plot(kind)
    assert axes is not None
    assert heads.top(k=1).count == 1


def test_titles_name_a_space_that_is_not_the_stream(found):
    assert found.only("decoder.heads").plot().get_title(loc="left").endswith("decoder.heads")


def test_numbers_of_blocks_lie_between_the_rows_of_the_sheet(found):
    ax = found.only("decoder.heads").plot("sheet")
    numbers = [text for text in ax.texts if text.get_text().isdigit()]
    outlines = [patch.get_path().get_extents() for patch in ax.patches]
    assert len(numbers) == 8
    for text in numbers:
        _, y = text.get_position()
        assert not any(box.y0 < y < box.y1 for box in outlines)


def test_neurons_of_consecutive_blocks_are_not_said_to_be_the_same(found):
    assert not any("Lines join" in text for text in texts(found.plot("glass")))
