"""What is accepted as stimuli, and in which words anything else is refused."""

from __future__ import annotations

import pytest

from modalnet import Contrast, Stimulus
from modalnet.errors import InputError
from modalnet.stimuli.conversion import as_stimuli

TWO = [Stimulus("one", condition="a"), Stimulus("two", condition="a")]
CONTRAST = Contrast([*TWO, Stimulus("three", condition="b"), Stimulus("four", condition="b")], "a")


def test_everything_that_is_like_stimuli_becomes_a_list_of_them():
    assert as_stimuli(TWO[0]) == [TWO[0]]
    assert as_stimuli(tuple(TWO)) == as_stimuli(iter(TWO)) == TWO
    assert as_stimuli(CONTRAST) == list(CONTRAST.stimuli)
    assert [stimulus.text for stimulus in as_stimuli("alone")] == ["alone"]
    assert [stimulus.text for stimulus in as_stimuli([TWO[0], "a text"])] == ["one", "a text"]


@pytest.mark.parametrize(
    ("stimuli", "message"),
    [
        ([], "`stimuli` is empty; at least one stimulus is needed"),
        (None, "`stimuli` must be a Stimulus, a string, a sequence of these, or a Contrast, got None"),
        (3, "got int"),
        ({"a": TWO}, "got dict"),
        (b"bytes", "got bytes"),
        ([TWO[0], 3], r"`stimuli\[1\]` must be a Stimulus or a string, got int"),
        ([None], r"`stimuli\[0\]` must be a Stimulus or a string, got NoneType|got None"),
        ([""], "empty"),
    ],
)
def test_anything_else_is_refused(stimuli, message):
    with pytest.raises(InputError, match=message):
        as_stimuli(stimuli)


def test_the_argument_is_called_as_the_caller_calls_it():
    with pytest.raises(InputError, match=r"`reference` must be"):
        as_stimuli(1, "reference")
