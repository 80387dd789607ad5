"""The contrast of minimal pairs: the same pairs under the same names as the task, and halves that share nothing."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings, strategies as st

import modalnet as mn
from modalnet.stimuli.spec import parse

PAIRS = [(f"the dog sees {number} cats", f"the dog see {number} cats") for number in range(10)]


@pytest.fixture
def folder(tmp_path):
    for name in ("one", "two"):
        rows = [
            {"sentence_good": a, "sentence_bad": b, "UID": name, "pairID": str(i)} for i, (a, b) in enumerate(PAIRS)
        ]
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "three.csv").write_text("sentence_good,sentence_bad\n" + "".join(f"{a},{b}\n" for a, b in PAIRS))
    return tmp_path


def items_of(contrast):
    return [stimulus.item for stimulus in contrast.stimuli if stimulus.condition == "good"]


@pytest.mark.parametrize("options", [{}, {"paradigm": "two"}, {"paradigm": ["three", "one"]}, {"n": 3, "seed": 1}])
@pytest.mark.parametrize("rows", [None, slice(0, 5), slice(5, None), slice(1, None, 2), slice(-4, None)])
def test_a_contrast_has_the_pairs_of_the_task_under_its_names(folder, options, rows):
    contrast = mn.stimuli.minimal_pairs(folder, rows=rows, **options)
    task = mn.tasks.minimal_pairs(folder, rows=rows, **options)
    text = {(stimulus.item, stimulus.condition): stimulus.text for stimulus in contrast.stimuli}
    assert tuple(items_of(contrast)) == task.items
    assert tuple((text[item, "good"], text[item, "bad"]) for item in task.items) == task.pairs
    assert contrast.positive == ("good",)
    assert len(set(task.groups.values())) == (3 if "paradigm" not in options else 1 + (options["paradigm"] != "two"))
    if rows is not None and "n" not in options:
        assert len(task) == len(set(task.groups.values())) * len(PAIRS[rows])


@given(cut=st.integers(2, 8), seed=st.integers(0, 99))
@settings(max_examples=20, deadline=None)
def test_two_halves_share_no_pair_and_are_the_whole(cut, seed):
    # A pair that comes twice keeps its own name in either half.
    pairs = [*PAIRS, PAIRS[0]]
    first = mn.stimuli.minimal_pairs(pairs, rows=slice(0, cut))
    second = mn.tasks.minimal_pairs(pairs, rows=slice(cut, None))
    assert sorted([*items_of(first), *second.items]) == sorted(mn.tasks.minimal_pairs(pairs).items)
    drawn = mn.tasks.minimal_pairs(pairs, rows=slice(cut, None), n=2, seed=seed)
    assert set(drawn.items) <= set(second.items)


def test_the_command_line_reads_pairs(folder):
    contrast = parse(f"minimal-pairs:{folder / 'one.jsonl'}", "bad", "good")
    assert (contrast.positive, contrast.items) == (("bad",), mn.stimuli.minimal_pairs(folder / "one.jsonl").items)
    assert len(parse(f"minimal_pairs:{folder}").stimuli) == 2 * 3 * len(PAIRS)


def test_sides_can_be_exchanged():
    contrast = mn.stimuli.minimal_pairs(PAIRS, positive="bad", negative="good", name="errors")
    assert (contrast.positive, contrast.negative, contrast.name) == (("bad",), ("good",), "errors")
    assert {stimulus.item for stimulus in contrast.stimuli} == set(mn.tasks.minimal_pairs(PAIRS).items)


@pytest.mark.parametrize("make", [mn.stimuli.minimal_pairs, mn.tasks.minimal_pairs])
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rows": slice(0, 11)}, r"`rows` reaches beyond the 10 rows of minimal pairs, got slice\(0, 11, None\)"),
        ({"rows": slice(5, 5)}, r"`rows` takes none of the 10 rows"),
        ({"rows": slice("a", None)}, r"`rows` must be a slice of integers"),
        ({"rows": (0, 5)}, r"`rows` must be a slice, such as slice\(0, 500\).*got \(0, 5\)"),
        ({"rows": slice(0, 5), "n": 6}, r"`n` must be an integer from 1 to 5, got 6"),
        ({"paradigm": "one"}, r"`paradigm` must be None unless `source` is a folder, got 'one' with a list"),
        ({"seed": -1}, r"`seed` must be a non-negative integer, got -1"),
    ],
)
def test_bad_options_are_refused(make, options, message):
    with pytest.raises(mn.InputError, match=message):
        make(PAIRS, **options)


def test_bad_paradigms_and_sides_are_refused(folder):
    with pytest.raises(mn.InputError, match=r"name of a file in .* got 'four'. It has: one, three, two"):
        mn.stimuli.minimal_pairs(folder, paradigm="four")
    with pytest.raises(mn.InputError, match="unless `source` is a folder"):
        mn.tasks.minimal_pairs(folder / "one.jsonl", paradigm="one")
    with pytest.raises(mn.InputError, match="`positive` must be one of 'good', 'bad', got 'right'"):
        mn.stimuli.minimal_pairs(PAIRS, positive="right")
    with pytest.raises(mn.InputError, match="both sides"):
        mn.stimuli.minimal_pairs(PAIRS, positive="bad")
