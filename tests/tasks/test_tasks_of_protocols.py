"""Tasks that published lesion studies need: balanced, held out from the localizers, and scored as they say."""

from __future__ import annotations

import importlib
import json
import re
from collections import Counter

import numpy as np
import pytest

import modalnet as mn
from families import build
from modalnet import tasks
from modalnet.execution.likelihood import Likelihood
from modalnet.stimuli.nonwords import english_words
from modalnet.stimuli.printed_words import LOCALIZER_WORDS, TEST_WORDS
from modalnet.tasks.spec import WITHOUT_PATH, parse
from reference import load


def refused(message, call):
    with pytest.raises(mn.InputError, match=message):
        call()


def likelihoods(values, n_tokens=None):
    counts = n_tokens or [1] * len(values)
    return [Likelihood(np.array([float(value)]), count, False) for value, count in zip(values, counts, strict=True)]


# ------------------------------------------------------------------------------------------------- minimal pairs


def test_pairs_are_compared_per_token():
    pairs = [("a b", "b a"), ("c d", "d c"), ("e f", "f e")]
    logprobs, counts = [-6, -4, -4, -6, -6, -4], [3, 1, 2, 3, 3, 2]
    assert tasks.minimal_pairs(pairs).grade(likelihoods(logprobs, counts)).tolist() == [0, 1, 0]
    task = tasks.minimal_pairs(pairs, per_token=True)
    assert task.grade(likelihoods(logprobs, counts)).tolist() == [1, 0.5, 0.5]
    assert task.identity() != tasks.minimal_pairs(pairs).identity()
    assert task.identity() == tasks.minimal_pairs(pairs, per_token=True).identity()
    refused("`per_token` must be True or False, got 1", lambda: tasks.minimal_pairs(pairs, per_token=1))


def test_per_token_divides_by_the_tokens_of_the_model():
    pairs = [("the dog ran across the field", "the dog run"), ("a cat", "a cat sleeps here now")]
    model = load("llama")
    summed, mean = (tasks.minimal_pairs(pairs, per_token=which).run(model).scores for which in (False, True))
    asked = tasks.minimal_pairs(pairs).requests()
    scored = [len(build("llama").tokenizer(request.continuation)["input_ids"]) - 1 for request in asked]
    found = model._executor.likelihoods(asked)
    assert [one.n_tokens for one in found] == scored
    values = np.array([one.logprob for one in found]).reshape(-1, 2)
    means = values / np.reshape(scored, (-1, 2))
    assert summed.tolist() == (values[:, 0] > values[:, 1]).tolist()
    assert mean.tolist() == (means[:, 0] > means[:, 1]).tolist()


def test_agreement_shares_no_sentence_with_the_localizer():
    for attractors in (False, True):
        task = tasks.agreement(40, attractors=attractors, seed=3)
        assert Counter(item.split("-", 1)[1] for item in task.items) == dict.fromkeys(
            ("regular-singular", "regular-plural", "auxiliary-singular", "auxiliary-plural"), 10
        )
        assert set(Counter(task.groups.values()).values()) == {2}
        known = {s.text for seed in range(2) for s in mn.stimuli.agreement(1000, seed=seed).stimuli}
        assert not known & {sentence for pair in task.pairs for sentence in pair}
        assert tasks.agreement(5, attractors=attractors, seed=3).pairs == task.pairs[:5]
    refused("`n` must be an integer from 1 to 1000, got 0", lambda: tasks.agreement(0))


# ------------------------------------------------------------------------------------------------------ MMToM-QA

SCENE = "What's inside: a box.\nActions taken by Ann: Ann walks.\n"


def mmtomqa_file(path, rows=None):
    asked = "Question: Which is more likely? (a) Ann wants {a}. (b) Ann wants {b}. Please respond with either a or b."
    made = [
        {"question": f"{SCENE}{asked.format(a=f'tea {i}', b='milk')}", "answer": "ab"[i % 2], "question_type": kind}
        for kind in (1.1, 2.1)
        for i in range(4)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows or made))
    return path


def test_questions_of_mmtomqa_are_read_in_their_parts(tmp_path):
    path = mmtomqa_file(tmp_path / "questions.jsonl")
    task = tasks.mmtomqa(path)
    assert (len(task), task.chance, set(task.groups.values())) == (8, 0.5, {"1.1", "2.1"})
    first = task.questions[1]
    assert first.stimulus.text == (
        f"{SCENE}Question: Which is more likely? (a) Ann wants tea 1. (b) Ann wants milk. "
        "Please respond with either a or b.\nAnswer:"
    )
    assert (first.choices, first.answer, first.id) == (("a", "b"), 1, "1.1/2")
    texts = tasks.mmtomqa(path, choices="texts", types=2.1, n=2)
    assert texts.questions[0].stimulus.text == f"{SCENE}Question: Which is more likely?\nAnswer:"
    assert texts.questions[0].choices[1] == "Ann wants milk."
    assert set(texts.groups.values()) == {"2.1"}
    assert len(texts) == 2
    own = tasks.mmtomqa(path, prompt="{a}|{b}|{question}|{scene}")
    assert own.questions[0].stimulus.text.startswith("Ann wants tea 0.|Ann wants milk.|Which")
    assert tasks.mmtomqa(path, n=2).items == tuple(
        i for kind in ("1.1", "2.1") for i in tasks.mmtomqa(path, n=2, types=kind).items
    )


def test_bad_questions_of_mmtomqa_are_refused(tmp_path):
    good = {"question": f"{SCENE}Question: Which? (a) x. (b) y. Please respond with either a or b.", "answer": "a"}
    good["question_type"] = 1.1
    for change, message in [
        ({"question": "Which?"}, r"line 1: the question must end in .*got 'Which\?'"),
        ({"question": 3}, r"line 1: the question must end in"),
        ({"answer": "c"}, r"line 1: the answer must be 'a' or 'b', got 'c'"),
        ({"question": good["question"].replace("y.", "x.")}, r"line 1: the two options are equal: 'x\.'"),
    ]:
        path = mmtomqa_file(tmp_path / "bad.jsonl", [good | change])
        refused(message, lambda path=path: tasks.mmtomqa(path))
    path = mmtomqa_file(tmp_path / "lacks.jsonl", [{"question": good["question"], "answer": "a"}])
    refused(r"line 1 has no 'question_type'", lambda: tasks.mmtomqa(path))
    path = mmtomqa_file(tmp_path / "questions.jsonl")
    refused(
        r"`types` must be question types of the file \(1.1, 2.1\), got \['3'\]",
        lambda: tasks.mmtomqa(path, types=["3"]),
    )
    refused(r"`n` must be an integer from 1 to 4, got 5", lambda: tasks.mmtomqa(path, n=5))
    refused(r"`choices` must be one of 'letters', 'texts'", lambda: tasks.mmtomqa(path, choices="text"))
    refused(
        r"`prompt` must be a format string with {scene}, {question}, {a}, {b}",
        lambda: tasks.mmtomqa(path, prompt="{scene}"),
    )
    refused(r"`prompt` must be a format string", lambda: tasks.mmtomqa(path, prompt="{x}", choices="texts"))


# -------------------------------------------------------------------------------------------------- word problems


def solved(text):
    """The answer to a problem, from its numbers and words alone."""
    a, b = map(int, re.findall(r"\d+", text))
    if re.search(r"equally|bags of", text):
        return a // b
    if re.search(r"in each\.|every day|packs of", text):
        return a * b
    return a - b if re.search(r"left\?|How many more|took out", text) else a + b


@pytest.mark.parametrize("n_choices", [2, 4, 6])
def test_word_problems_have_one_right_answer(n_choices):
    task = tasks.word_problems(200, n_choices=n_choices, seed=n_choices)
    assert task.chance == pytest.approx(1 / n_choices)
    assert len({question.stimulus.text for question in task.questions}) == 200
    assert Counter(item.split("-")[1] for item in task.items) == dict.fromkeys(
        ("sum", "difference", "product", "quotient"), 50
    )
    for question in task.questions:
        text = question.stimulus.text.removeprefix("Question: ").removesuffix("\nAnswer:")
        numbers = [int(choice.removesuffix(".")) for choice in question.choices]
        assert numbers[question.answer] == solved(text), text
        assert len(set(numbers)) == n_choices
        assert min(numbers) > 0
    assert min(Counter(question.answer for question in task.questions).values()) > 0.5 * 200 / n_choices
    few = tasks.word_problems(3, n_choices=n_choices, seed=n_choices)
    assert [q.choices for q in few.questions] == [q.choices for q in task.questions[:3]]
    refused("`n_choices` must be an integer from 2 to 6, got 7", lambda: tasks.word_problems(n_choices=7))
    refused("`template` must be a string with one placeholder", lambda: tasks.word_problems(template="x"))


def test_incentives_are_balanced_over_places_and_problems():
    task = tasks.incentive_choice()
    assert len({question.stimulus.text for question in task.questions}) == 96
    orders = Counter()
    for start in range(0, 96, 4):
        trials = []
        for question in task.questions[start : start + 4]:
            listed = re.findall(r"^(\d)\. \((\d+) points\) (.+)$", question.stimulus.text, re.MULTILINE)
            assert [number for number, _, _ in listed] == list(question.choices) == list("1234")
            assert int(listed[question.answer][1]) == 40
            trials.append([(int(points), text) for _, points, text in listed])
            orders[tuple(points for points, _ in trials[-1])] += 1
        assert len({tuple(text for _, text in trial) for trial in trials}) == 1
        for place in zip(*trials, strict=True):
            assert sorted(points for points, _ in place) == [10, 20, 30, 40]
    assert len(orders) == 24
    assert set(orders.values()) == {4}
    assert Counter(task.groups.values()) == {f"{number:03d}": 4 for number in range(1, 25)}


def test_incentive_choices_are_scored_by_value():
    highest, points = tasks.incentive_choice(4), tasks.incentive_choice(4, score="points")
    assert (highest.chance, points.chance) == (0.25, 0.625)
    always_first = likelihoods([-1, -2, -2, -2] * 4)
    assert highest.grade(always_first).mean() == 0.25
    assert sorted(points.grade(always_first)) == [0.25, 0.5, 0.75, 1]
    # A tie shares what its choices are worth.
    assert points.grade(likelihoods([-1] * 16)).tolist() == [0.625] * 4
    assert np.isfinite(points.scores(points.grade(always_first)).mean)
    assert highest.identity() != points.identity()
    assert [q.stimulus.text for q in tasks.incentive_choice(2).questions] == [
        q.stimulus.text for q in highest.questions[:2]
    ]
    refused("`score` must be one of 'highest', 'points', got 'best'", lambda: tasks.incentive_choice(4, score="best"))


# ------------------------------------------------------------------------------------------------------- pictures


def test_lexical_decision_is_balanced_and_matched_in_length(monkeypatch):
    printed = []
    module = importlib.import_module("modalnet.tasks.lexical_decision")
    real = module.draw_word

    def drawn(word, *rest):
        printed.append(word)
        return real(word, *rest)

    monkeypatch.setattr(module, "draw_word", drawn)
    task = tasks.lexical_decision(40, size=32)
    words, pseudowords = printed[::2], printed[1::2]
    assert [len(word) for word in words] == [len(word) for word in pseudowords]
    assert set(words) <= set(TEST_WORDS) - set(LOCALIZER_WORDS)
    assert not set(pseudowords) & {*english_words(), *TEST_WORDS, *LOCALIZER_WORDS}
    assert Counter(question.choices[question.answer] for question in task.questions) == {"yes": 20, "no": 20}
    assert set(Counter(task.groups.values()).values()) == {2}
    assert all(question.stimulus.images()[0].size == (32, 32) for question in task.questions)
    assert tasks.lexical_decision(3, size=32).items == ("001-word", "001-pseudoword", "002-word")
    refused(r"`n` must be an integer from 2 to 266, got 267", lambda: tasks.lexical_decision(267))


def test_no_pseudoword_is_in_the_lists_of_words():
    words = {*english_words(), *TEST_WORDS, *LOCALIZER_WORDS}
    made = {mn.stimuli.nonword(word, seed) for word in TEST_WORDS for seed in range(3)}
    assert not made & words


def test_sentences_and_scenes_are_balanced():
    task = tasks.sentence_pictures(24, size=32)
    answers = [question.choices[question.answer] for question in task.questions]
    kinds = [item.split("-")[1] for item in task.items]
    assert Counter(answers) == {"A": 12, "B": 12}
    assert set(Counter(zip(kinds, answers, strict=True)).values()) == {4}
    assert task.questions[0].stimulus.text.endswith("which scene fits, A or B?")
    few = tasks.sentence_pictures(2, size=32)
    assert [q.stimulus.inspect().digest for q in few.questions] == [
        q.stimulus.inspect().digest for q in task.questions[:2]
    ]
    assert answers != [q.choices[q.answer] for q in tasks.sentence_pictures(24, size=32, seed=1).questions]
    refused("`prompt` must be a string with one placeholder", lambda: tasks.sentence_pictures(prompt="which?"))


def test_picture_tasks_run_on_a_model_that_sees():
    model = load("llava_clip")
    for task in (tasks.lexical_decision(4, size=32), tasks.sentence_pictures(4, size=32)):
        found = task.run(model)
        assert set(found.scores) <= {0, 0.5, 1}
        assert (len(found.items), found.chance) == (4, 0.5)


# -------------------------------------------------------------------------------------------------- command line


def test_tasks_of_the_command_line(tmp_path):
    names = [*WITHOUT_PATH, f"mmtomqa:{mmtomqa_file(tmp_path / 'questions.jsonl')}"]
    made = parse(",".join(names), n=4)
    assert [len(task) for task in made] == [4, 4, 4, 4, 4, 4, 8]
    assert parse("word_problems")[0].items == tasks.word_problems().items
