"""A protocol of attention edges gives what information_flow gives for the items that the model answers right."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

import modalnet as mn
from families import picture
from modalnet.replication import Replication, replicate
from modalnet.replication.edges import judge_edges
from reference import load


def questions(answers):
    shown = [(picture(number, 20, 20), "Is it red?", ["yes", "no"], answer) for number, answer in enumerate(answers)]
    return mn.tasks.visual_questions(shown)


@pytest.fixture(scope="module")
def model():
    return load("llava_clip")


def test_edges_are_removed_from_what_is_answered_right(model, tmp_path):
    first = questions([0] * 7).run(model).scores
    answers = [0 if right else 1 for right in first]
    task = questions([*answers[:6], 1 - answers[6]])  # the model answers the last one wrong
    made = replicate(model, "knockout2025", data={"visual questions": task}, n_controls=1, cache=False, progress=False)
    flow = made.flow["visual questions"]
    assert flow.names == ("image to question", "question to last")
    direct = mn.information_flow(
        model,
        [one.stimulus for one in task.questions[:6]],
        mn.patching.log_probability([f" {('yes', 'no')[answer]}" for answer in answers[:6]]),
        window=flow.windows[0][1] - flow.windows[0][0],
        stride=1,
        edges={"image to question": ("image", "question"), "question to last": ("question", "last")},
        n_controls=1,
        cache=False,
        progress=False,
    )
    np.testing.assert_allclose(flow.values, direct.values, atol=1e-6)
    claims = {claim.network: claim for claim in made.claims}
    for name in flow.names:
        # These weights are random: whether an edge matters differs, and both cases must be said.
        change = 100 * (np.exp(-flow.drop[name]) - 1).mean(axis=1).min()
        said = f"by {change:.0f}%, without {name}" if change <= -1 else f"loses less than 1% without {name}"
        assert said in claims[name].published_numbers
    for size, said in ((1e-6, "loses less than 1%"), (1e3, "changes most, by")):
        scaled = replace(flow, values=flow.whole - np.abs(flow.values - flow.whole) * size)
        for claim in judge_edges(mn.protocols["knockout2025"], {"visual questions": scaled}, {}):
            if claim.published != "not run":
                assert said in claim.published_numbers
                assert claim.published == "does not hold" or size > 1
    assert claims["object to question"].published == "not run"
    made.save(tmp_path / "edges.safetensors")
    assert Replication.load(tmp_path / "edges.safetensors").summary() == made.summary()
    made.report(tmp_path / "edges.html")
    assert "<td>(" not in (tmp_path / "edges.html").read_text()  # windows by number are for programs


@pytest.mark.filterwarnings("ignore:Task 'visual questions' of knockout2025 is skipped")
def test_too_few_right_answers_are_said(model):
    answers = [1 if right else 0 for right in questions([0] * 6).run(model).scores]
    task = questions(answers)  # all wrong
    made = replicate(model, "knockout2025", data={"visual questions": task}, cache=False, progress=False)
    assert "which are 0 of 6 here" in made.missing["visual questions"]
    assert all(claim.refereed == "cannot be tested" for claim in made.claims)
