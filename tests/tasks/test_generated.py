"""Answers read from generated text: one stated rule each, and what no rule fits is counted and not guessed."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

import modalnet as mn
from modalnet import tasks
from modalnet.tasks.parsing import parse_choice
from reference import load

COLOURS = ("red", "dark red", "blue")


def refused(message, call):
    with pytest.raises(mn.InputError, match=message):
        call()


@pytest.mark.parametrize(
    ("rule", "choices", "text", "expected"),
    [
        ("first", COLOURS, "It is Blue, not red.", 2),
        ("first", COLOURS, "a dark\n red thing", 1),
        ("first", COLOURS, "red, dark red", 0),
        ("first", COLOURS, "reddish or bluer", None),
        ("first", COLOURS, "", None),
        ("first", ("real", "not real"), "This is not real.", 1),
        ("first", ("yes", "no"), "I know nothing", None),
        ("first", ("forty.", "forty two."), "forty two", 1),
        ("first", ("5.", "15."), "It costs 15.", 1),
        ("first", ("5.", "15."), "It is 5.5 or 1,5 or -5 or 5x", None),
        ("first", ("5.", "15."), "It is 5.", 0),
        ("first", ("5.", "-5."), "It is -5.", 1),
        ("exact", COLOURS, " Dark red.\nIt is blue.", 1),
        ("exact", COLOURS, "It is blue.", None),
        ("letter", ("a", "b"), "b", 1),
        ("letter", ("a", "b"), "(a) John thinks", 0),
        ("letter", ("a", "b"), "A dog is in the box, so the answer is b.", 1),
        ("letter", ("a", "b"), "a dog or b cat", None),
        ("letter", ("A", "B"), "The answer is B\nbecause", 1),
        ("letter", COLOURS, "C) blue", 2),
        ("letter", COLOURS, "D.", None),
        ("letter", COLOURS, "blue", None),
        ("letter", COLOURS, "John's cab.", None),
        ("digit", ("1", "2", "3", "4"), "I take problem 3, for 40 points.", 2),
        ("digit", ("1", "2", "3", "4"), "10 20 5 1st 2.5 x3 4%", 3),
        ("digit", ("1", "2", "3", "4"), "the last one", None),
        ("digit", COLOURS, "4 or 2", 1),
    ],
)
def test_an_answer_is_read_by_its_rule(rule, choices, text, expected):
    assert parse_choice(text, choices, rule) == expected


@given(
    choices=st.lists(
        st.text("abcde ", min_size=2).map(str.strip).filter(lambda t: len(t) > 1), min_size=2, unique=True
    ),
    before=st.sampled_from(["", "It is ", "Well: "]),
    data=st.data(),
)
@settings(max_examples=60, deadline=None)
def test_every_rule_reads_a_plain_answer(choices, before, data):
    choices = list(dict.fromkeys(" ".join(choice.split()) for choice in choices))[:9]
    answer = data.draw(st.integers(0, len(choices) - 1))
    assert parse_choice(f"{choices[answer]}.", choices, "exact") == answer
    assert parse_choice(f"{before}{'ABCDEFGHI'[answer]}.", choices, "letter") == answer
    assert parse_choice(f"{before}{answer + 1}.", choices, "digit") == answer
    found = parse_choice(f"{before}{choices[answer]}!", choices, "first")
    text = f" {choices[answer]}!".replace("!", " ")
    starts = [text.find(f" {choice} ") for choice in choices]
    first = min(place for place in starts if place >= 0)
    assert found == max((i for i, place in enumerate(starts) if place == first), key=lambda i: len(choices[i]))


ROWS = [
    {"question": "what colour is it?", "choices": ["red.", "blue."], "answer": 0},
    {"question": "what is this?", "choices": ["a dog", "a cat", "a house"], "answer": 2},
]


def test_unparsed_answers_score_nothing_and_are_counted():
    task = tasks.generated(tasks.multiple_choice(ROWS))
    texts = ["Blue, I think.", "who knows"]
    assert task.grade(texts).tolist() == [0, 0]
    assert task.unparsed(texts).tolist() == [False, True]
    scores = task.scores(task.grade(texts), task.unparsed(texts))
    assert scores.share_unparsed == 0.5
    assert repr(scores).endswith("2 items, chance 0.417, 50.0% unparsed)")
    plain = tasks.TaskScores("x", ("a",), np.ones(1), "accuracy", 0.5)
    assert plain.unparsed is None
    assert math.isnan(plain.share_unparsed)
    assert "unparsed" not in repr(plain)


def test_a_run_generates_reads_and_keeps_what_was_unparsed():
    model = load("llama")
    questions = tasks.multiple_choice(ROWS)
    task = tasks.generated(questions, max_new_tokens=4, prompt="{question} {choices}?")
    asked = [stimulus.text for stimulus in task.stimuli()]
    assert asked == ["what colour is it? red or blue?", "what is this? a dog, a cat or a house?"]
    texts = [model.generate(text, max_new_tokens=4) for text in asked]
    found = task.run(model)
    chosen = [parse_choice(text, row["choices"], "first") for text, row in zip(texts, ROWS, strict=True)]
    assert found.unparsed.tolist() == [choice is None for choice in chosen]
    assert found.scores.tolist() == [float(choice == row["answer"]) for choice, row in zip(chosen, ROWS, strict=True)]
    assert (found.items, found.chance) == (questions.items, questions.chance)
    assert tasks.exact_match([("a dog", "cat")], max_new_tokens=1).run(model).unparsed is None


def test_choices_are_listed_as_they_are_read():
    letters = tasks.generated(tasks.multiple_choice(ROWS), parse="letter", prompt="{question}\n{choices}\nAnswer:")
    assert letters.stimuli()[0].text == "what colour is it?\nA. red\nB. blue\nAnswer:"
    digits = tasks.generated(tasks.multiple_choice(ROWS), parse="digit", prompt="{choices} {question}")
    assert digits.stimuli()[1].text == "1. a dog\n2. a cat\n3. a house what is this?"
    trial = tasks.generated(tasks.incentive_choice(4, score="points"), parse="digit")
    assert trial.stimuli()[0].text == tasks.incentive_choice(4).questions[0].stimulus.text
    credits = trial.questions[0].credits
    assert trial.grade(["1", "I take 2.", "none", "9"]).tolist() == [credits[0], trial.questions[1].credits[1], 0, 0]
    assert trial.groups == tasks.incentive_choice(4).groups


def test_an_identity_holds_how_answers_are_asked_and_read():
    task = tasks.multiple_choice(ROWS)
    made = [
        tasks.generated(task),
        tasks.generated(task, parse="exact"),
        tasks.generated(task, max_new_tokens=8),
        tasks.generated(task, prompt="{question} {choices}?"),
        tasks.generated(tasks.multiple_choice([{**row, "answer": 1} for row in ROWS])),
    ]
    assert len({one.identity() for one in made}) == 5
    assert made[0].identity() == tasks.generated(task).identity()


def test_rules_that_do_not_fit_the_choices_are_refused():
    task = tasks.multiple_choice(ROWS)
    letters = tasks.multiple_choice(ROWS[:1], choices=["a", "b"])
    alike = tasks.multiple_choice(ROWS[:1], choices=["Polish", "polish"])
    picture = tasks.MultipleChoice(
        "x", [tasks.MultipleChoiceQuestion("i", mn.Stimulus(image=np.zeros((4, 4), np.uint8)), ("yes", "no"), 0)]
    )
    many = tasks.multiple_choice(ROWS[:1], choices=[f"n{i}" for i in range(10)])
    for message, options in [
        ("`task` must be a multiple-choice task.*got a ExactMatch", {"task": tasks.exact_match([("a", "b")])}),
        ("`parse` must be one of 'first', 'exact', 'letter', 'digit', got 'second'", {"task": task, "parse": "second"}),
        ("`parse='letter'` does not fit item .*: put {choices} into", {"task": task, "parse": "letter"}),
        ("`parse='digit'` does not fit item .*: put {choices} into", {"task": task, "parse": "digit"}),
        ("a letter can be a word", {"task": letters}),
        ("two are equal in lower case", {"task": alike}),
        ("more than there are digits: 10", {"task": many, "parse": "digit", "prompt": "{question}{choices}"}),
        ("`prompt` must be a format string with {question}", {"task": task, "prompt": "{choices}"}),
        ("`prompt` must be a format string with {question}", {"task": task, "prompt": "{question} {other}"}),
        ("Question 'i' has no text", {"task": picture, "prompt": "{question}"}),
        ("`max_new_tokens` must be a positive integer, got 0", {"task": task, "max_new_tokens": 0}),
    ]:
        refused(message, lambda options=options: tasks.generated(**options))
    assert tasks.generated(picture).stimuli()[0].text is None
    assert tasks.generated(letters, parse="letter").unparsed(
        [
            "a dog",
        ][:1]
    ).tolist() == [True]
