"""Sets of a protocol are given, read, or generated, and what is missing is named before anything runs."""

from __future__ import annotations

import csv
from dataclasses import replace

import pytest
from hypothesis import given, strategies

import modalnet as mn
from modalnet.protocols import Localizer, Protocol, ProtocolContrast, ProtocolTask, Source
from modalnet.replication.material import (
    Materials,
    evenly,
    generated_by,
    part_of_contrast,
    part_of_task,
    thinned_contrast,
    thinned_task,
)

PROTOCOL = Protocol(
    id="toy2026",
    title="a toy",
    citation="nobody (2026)",
    code="none",
    models="none",
    localizer=Localizer(),
    contrasts=(
        ProtocolContrast(
            "pairs",
            Source(
                "pairs of theirs",
                folder="pairs.csv",
                reader="stimuli.minimal_pairs",
                generator="stimuli.agreement",
                part="first half",
                differs="other pairs",
            ),
        ),
    ),
    tasks=(
        ProtocolTask(
            "held out",
            Source(
                "pairs of theirs",
                folder="pairs.csv",
                reader="tasks.minimal_pairs",
                generator="tasks.agreement",
                part="second half",
                differs="other pairs",
            ),
            "likelihood",
        ),
        ProtocolTask("closed", Source("a closed test"), "likelihood"),
    ),
)


@pytest.fixture
def folder(tmp_path):
    rows = [(f"The dog {i} sleeps.", f"The dog {i} sleep.") for i in range(20)]
    with open(tmp_path / "pairs.csv", "w", newline="") as file:
        csv.writer(file).writerows([("sentence_good", "sentence_bad"), *rows])
    return tmp_path


def test_halves_that_are_read_share_nothing(folder):
    found = Materials(PROTOCOL, folder)
    contrast, about = found.contrast(PROTOCOL.contrasts[0])
    task, _ = found.task(PROTOCOL.tasks[0])
    selecting = {stimulus.text for stimulus in contrast.stimuli}
    tested = {sentence for pair in task.pairs for sentence in pair}
    assert len(selecting) == len(tested) == 20
    assert not selecting & tested
    assert (about.used, about.n, about.differs) == ("read", 20, "")


def test_what_is_not_there_is_named_with_what_would_be_made(tmp_path):
    with pytest.raises(
        mn.InputError, match=r"toy2026 needs pairs of theirs as 'pairs.csv' in `data` .*nobody \(2026\)"
    ) as told:
        Materials(PROTOCOL, tmp_path)
    assert "makes other pairs instead, and data=None generates every set" in str(told.value)
    with pytest.raises(mn.InputError, match="which is no folder"):
        Materials(PROTOCOL, tmp_path / "nowhere")
    with pytest.raises(mn.InputError, match="must name contrasts or tasks of toy2026"):
        Materials(PROTOCOL, {"other": "generate"})
    with pytest.raises(mn.InputError, match="must be a contrast, a file or folder, or 'generate', got a int"):
        Materials(PROTOCOL, {"pairs": 3}).contrast(PROTOCOL.contrasts[0])
    with pytest.raises(mn.InputError, match="needs a closed test, which cannot be generated"):
        Materials(PROTOCOL).task(PROTOCOL.tasks[1])


def test_given_and_generated_sets_say_so():
    own = mn.stimuli.multiple_demand(4)
    contrast, about = Materials(PROTOCOL, {"pairs": own}).contrast(PROTOCOL.contrasts[0])
    assert contrast is own
    assert (about.used, about.differs) == ("given", "given by the user")
    contrast, about = Materials(PROTOCOL, n_stimuli=6).contrast(PROTOCOL.contrasts[0])
    assert (about.used, about.n, about.differs) == ("generated", 8, "other pairs")


def test_the_folder_of_the_authors_numbers_is_found_or_refused(tmp_path):
    asked, folder = replace(PROTOCOL, reported="theirs.csv"), tmp_path / "reported_numbers"
    with pytest.raises(
        mn.InputError, match=r"must be a folder with the authors' table 'theirs.csv', got .*reported_nu"
    ):
        Materials(asked, {"reported_numbers": folder})
    with pytest.raises(mn.InputError, match="got 3, which has none"):
        Materials(asked, {"reported_numbers": 3})
    folder.mkdir()
    (tmp_path / "pairs.csv").touch()
    (tmp_path / "closed").mkdir()
    assert Materials(asked, tmp_path).reported() is None
    (folder / "theirs.csv").touch()
    assert Materials(asked, tmp_path).reported() == Materials(asked, {"reported_numbers": folder}).reported() == folder
    assert Materials(PROTOCOL, {"reported_numbers": folder}).reported() is None
    assert Materials(asked).reported() is None


def test_a_generator_that_makes_fewer_gives_all():
    assert len(generated_by(mn.stimuli.multiple_demand, {}, 10_000)) == len(mn.stimuli.multiple_demand())


def test_smaller_sets_keep_items_whole():
    texts = {"sentences": "The dog sleeps", "nonwords": "Fla dob smeeps"}
    contrast = mn.Contrast(
        [
            mn.Stimulus(f"{text} {i}.", condition=name, item=f"text/{i}", id=f"{name}-{i}")
            for name, text in texts.items()
            for i in range(10)
        ],
        "sentences",
    )
    small = thinned_contrast(contrast, 4)
    assert small.n == {"sentences": 4, "nonwords": 4}
    assert len(set(small.items)) == 4
    bare = thinned_contrast(mn.Contrast([replace(one, item=None) for one in contrast.stimuli], "sentences"), 3)
    assert bare.n == {"sentences": 3, "nonwords": 3}
    first, second = (part_of_contrast(contrast, part) for part in ("first half", "second half"))
    assert not set(first.items) & set(second.items)
    assert set(first.items) | set(second.items) == set(contrast.items)
    task = mn.tasks.arithmetic(9)
    assert thinned_task(task, 4).items == tuple(task.items[i] for i in (0, 3, 5, 8))
    assert set(part_of_task(task, "first half").items).isdisjoint(part_of_task(task, "second half").items)


@given(strategies.integers(0, 200), strategies.integers(1, 200))
def test_even_places(count, n):
    places = evenly(count, n)
    assert places == sorted(set(places))
    assert len(places) == min(count, n)
    assert not places or (places[0] == 0 and (len(places) == 1 or places[-1] == count - 1))
