"""What tasks ask and how they score: against plain transformers, on small random models; and what they refuse."""

from __future__ import annotations

import json
import math
import re
import subprocess
import sys
from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st
from scipy import stats

import modalnet as mn
from families import build, picture
from modalnet import tasks
from modalnet.bundled import evaluate, items
from modalnet.bundled.arithmetic import ONES, TENS
from modalnet.bundled.minimal_pairs import PHENOMENA
from modalnet.execution.likelihood import Likelihood
from modalnet.stats.proportions import score_interval
from modalnet.tasks.formula import Formula
from reference import load, prompt

GOOD = ["the dog ran across the field", "a cat sleeps here", "what is this", "the house is red"]
BAD = ["the dog run across the field", "a cat sleep here", "what are this", "the house are red"]


# ---------------------------------------------------------------------------------------------------- references


def logprobs(text, name="llama"):
    """log p(token | before) of each token of a text but the first, by plain transformers."""
    family = build(name)
    ids = family.tokenizer(text, return_tensors="pt")["input_ids"]
    with torch.no_grad():
        logits = family.model(input_ids=ids).logits[0]
    return torch.log_softmax(logits.double(), -1)[:-1].gather(1, ids[0, 1:, None])[:, 0].numpy()


def after(question, text, name="llama"):
    """(log p(text | question), number of its tokens)."""
    whole, before = (len(build(name).tokenizer(one)["input_ids"]) for one in (question + text, question))
    return float(logprobs(question + text, name)[before - whole :].sum()), whole - before


def after_image(image, text, continuation, name="llava_clip"):
    """log p(continuation | prompt around the image and the text), one number per token."""
    family, images = build(name), [] if image is None else [image]
    before, special = prompt(family, text, len(images))
    given = {"images": [images]} if images else {}
    inputs, start = (
        family.processor(text=[written], return_tensors="pt", add_special_tokens=special, **given)
        for written in (before + continuation, before)
    )
    ids = inputs["input_ids"][0]
    with torch.no_grad():
        logp = torch.log_softmax(family.model(**inputs).logits[0].double(), -1)
    return np.array([float(logp[k - 1, ids[k]]) for k in range(start["input_ids"].shape[1], len(ids))])


def answers(values):
    """Likelihoods with these log-probabilities, of two tokens each."""
    return [Likelihood(np.array([float(value)]), 2, False) for value in values]


def refused(message, call):
    with pytest.raises(mn.InputError, match=message):
        call()


# -------------------------------------------------------------------------------------------------- minimal pairs


PAIRS = tuple(zip(GOOD, BAD, strict=True))


def blimp(path, pairs=PAIRS):
    rows = [
        {"sentence_good": a, "sentence_bad": b, "UID": path.stem, "pairID": str(i)} for i, (a, b) in enumerate(pairs)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_minimal_pairs_are_scored_as_by_plain_transformers(tmp_path):
    blimp(tmp_path / "agreement.jsonl")
    blimp(tmp_path / "swapped.jsonl", list(zip(BAD, GOOD, strict=True)))
    task = tasks.minimal_pairs(tmp_path)
    found = task.run(load("llama"))
    expected = [float(logprobs(a).sum() > logprobs(b).sum()) for a, b in zip(GOOD, BAD, strict=True)]
    assert found.scores.tolist() == [*expected, *(1 - score for score in expected)]
    assert 0 < sum(expected) < 4 or found.mean == 0.5
    assert found.items[:2] == ("agreement/0", "agreement/1")
    assert Counter(task.groups.values()) == {"agreement": 4, "swapped": 4}
    assert (found.task, found.measure, found.chance) == (tmp_path.name, "accuracy", 0.5)


def test_a_tie_is_half_a_point_and_not_a_number_is_none():
    task = tasks.minimal_pairs(list(zip(GOOD[:4], BAD[:4], strict=True)))
    assert task.grade(answers([-1, -2, -2, -1, -3, -3, math.nan, -1])).tolist() == [1, 0, 0.5, 0]


def test_the_same_pairs_from_every_kind_of_source(tmp_path):
    expected = tuple(zip(GOOD, BAD, strict=True))
    table = tmp_path / "pairs.csv"
    table.write_text("good,bad\n" + "".join(f"{a},{b}\n" for a, b in expected))
    tabbed = tmp_path / "pairs.tsv"
    tabbed.write_text("right\tother\twrong\n" + "".join(f"{a}\tx\t{b}\n" for a, b in expected), encoding="utf-16")
    assert tasks.minimal_pairs(list(expected)).pairs == expected
    assert tasks.minimal_pairs(table).pairs == expected
    assert tasks.minimal_pairs(table).items[0] == "pairs/2"
    assert tasks.minimal_pairs(tabbed, good="right", bad="wrong", encoding="utf-16").pairs == expected
    assert tasks.minimal_pairs(str(blimp(tmp_path / "p.jsonl")), name="mine").pairs == expected


def test_a_draw_is_of_each_file_and_does_not_depend_on_the_others(tmp_path):
    many = [(f"the dog sees {i} cats", f"the dog see {i} cats") for i in range(30)]
    for name in ("one", "two", "three"):
        blimp(tmp_path / f"{name}.jsonl", many)
    task = tasks.minimal_pairs(tmp_path, n=5)
    assert set(Counter(task.groups.values()).values()) == {5}
    alone = tasks.minimal_pairs(tmp_path / "two.jsonl", n=5)
    assert set(alone.items) == {item for item in task.items if item.startswith("two/")}
    assert set(alone.items) != set(tasks.minimal_pairs(tmp_path / "two.jsonl", n=5, seed=1).items)
    assert [item.split("/")[1] for item in alone.items] != [i.split("/")[1] for i in task.items if i[:3] == "one"]


def test_a_pair_may_come_twice_and_items_keep_names_of_their_own():
    task = tasks.minimal_pairs([("a b", "b a")] * 3)
    assert len(set(task.items)) == 3
    assert len(task.groups) == 3


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("p.jsonl", '{"sentence_good": "a"}\n', r"p.jsonl, line 1 has no 'sentence_bad'"),
        ("p.jsonl", '{"good": "a", "bad": "b"}\n\n{"good": "a"}\n', r"line 3 has no 'bad'"),
        ("p.jsonl", '{"good": "a", "bad": " "}\n', r"line 1: bad is empty"),
        ("p.jsonl", '{"good": "a", "bad": null}\n', r"line 1: bad must be a string, got None"),
        ("p.jsonl", '{"good": "a", "bad": "a "}\n', r"line 1: the two sentences are equal"),
        ("p.jsonl", '{"good": "a", "bad": "b"}\n{"good": \n', r"line 2 is not valid JSON"),
        ("p.jsonl", "[1]\n", r"line 1 must be a JSON object, got a list"),
        ("p.jsonl", "[" * 100_000, r"line 1 is not valid JSON"),
        ("p.jsonl", "", r"p.jsonl has no rows"),
        ("p.jsonl", '{"a": 1}\n', r"line 1 has neither sentence_good.*It has: a\."),
        ("p.csv", "good,bad\na,b\nc\n", r"p.csv, row 3: 1 cells where the header has 2"),
        ("p.csv", "good,bad\n,b\n", r"p.csv, row 2: good is empty"),
        ("p.csv", "good,good\na,b\n", r"2 columns named 'good'"),
        ("p.txt", "a b\n", r"p.txt must end in one of .jsonl, .csv, .tsv"),
        ("p.jsonl", b'{"good": "caf\xe9", "bad": "b"}\n', r"p.jsonl is not utf-8 \(line 1, byte 13\).*encoding="),
    ],
)
def test_bad_files_of_pairs(tmp_path, name, content, message):
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    refused(message, lambda: tasks.minimal_pairs(path))
    if name != "p.txt":
        refused(message, lambda: tasks.minimal_pairs(tmp_path))


def test_bad_sources_of_pairs(tmp_path):
    pairs = list(zip(GOOD, BAD, strict=True))
    refused(r"has no files of minimal pairs", lambda: tasks.minimal_pairs(tmp_path))
    refused(r"no file at .*nothing", lambda: tasks.minimal_pairs(tmp_path / "nothing"))
    refused(r"no file at .*nothing.csv", lambda: tasks.minimal_pairs(tmp_path / "nothing.csv"))
    refused(r"`source` is empty", lambda: tasks.minimal_pairs([]))
    refused(r"Pair 1 must be two sentences", lambda: tasks.minimal_pairs([("a", "b"), "ab"]))
    refused(r"got a int", lambda: tasks.minimal_pairs(3))
    refused(r"`n` must be an integer from 1 to 4, got 5", lambda: tasks.minimal_pairs(pairs, n=5))
    refused(r"got True", lambda: tasks.minimal_pairs(pairs, n=True))
    refused(r"`seed` must be a non-negative integer", lambda: tasks.minimal_pairs(pairs, seed=-1))
    refused(r"`good` and `bad` must be given together", lambda: tasks.minimal_pairs(pairs, good="good"))


def test_a_published_pair_of_equal_sentences_is_a_tie(tmp_path):
    path = blimp(tmp_path / "case.jsonl", [("the dog ran", "the dog ran"), ("a b", "b a")])
    assert tasks.minimal_pairs(path).run(load("llama")).scores[0] == 0.5


# ------------------------------------------------------------------------------------------------------- formulas

VALUES = {(region, name): float((3 * region + len(name)) % 7) for region in range(1, 5) for name in ("a", "b-b", "c_1")}
terms = st.sampled_from(sorted(VALUES)).map(lambda term: f"({term[0]};%{term[1]}%)")
numbers = st.recursive(
    st.one_of(terms, st.integers(0, 9).map(str)),
    lambda inner: st.one_of(
        st.tuples(inner, st.sampled_from("+-"), inner).map(" ".join),
        inner.map("( {} )".format),
        inner.map("(-{})".format),
    ),
    max_leaves=6,
)
truths = st.recursive(
    st.tuples(numbers, st.sampled_from("<>="), numbers).map("".join),
    lambda inner: st.one_of(st.tuples(inner, st.sampled_from("&|"), inner).map(" ".join), inner.map("({})".format)),
    max_leaves=5,
)


class Number(float):
    """A float whose ``==`` allows what the published evaluator allows."""

    __hash__ = float.__hash__

    def __eq__(self, other):
        return bool(np.isclose(float(self), float(other), rtol=1e-5, atol=1e-3))

    def __add__(self, other):
        return Number(float(self) + float(other))

    def __sub__(self, other):
        return Number(float(self) - float(other))

    def __neg__(self):
        return Number(-float(self))


def in_python(text):
    def translated(match):
        region, name, number = match[1], match[2], match[3]
        if region or number:
            return f"Number({VALUES[int(region), name] if region else number})"
        return {"&": " and ", "|": " or ", "=": "=="}[match[0]]

    return re.sub(r"\((\d);%([^%]+)%\)|(\d+)|[&|=]", translated, text)


@given(text=truths)
@settings(max_examples=300, deadline=None)
def test_a_formula_is_what_python_makes_of_it(text):
    expected = eval(in_python(text), {"Number": Number})
    assert Formula(text)(VALUES) is bool(expected)


def test_what_a_formula_speaks_of():
    formula = Formula("((6;%a%) + (*;%b-b%)) > 2.5")
    assert formula.terms == {(6, "a"), (None, "b-b")}
    assert formula({(6, "a"): 1.0, (None, "b-b"): 2.0})
    assert not formula({(6, "a"): 1.0, (None, "b-b"): 1.0})
    nan = math.nan
    assert not any(Formula(f"(1;%a%) {sign} (2;%a%)")({(1, "a"): nan, (2, "a"): 1.0}) for sign in "<>=")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", r"a region, a number or a parenthesis was expected at 'its end'"),
        ("(1;%a%)", r"is a number; a prediction needs a comparison"),
        ("(1;%a%) < ", r"was expected at 'its end'"),
        ("((1;%a%) < (2;%a%)", r"closing parenthesis was expected"),
        ("(1;%a%) < (2;%a%))", r"an operator was expected at '\)'"),
        ("(1;%a%) < (2;%a%) < (3;%a%)", r"'<' combines surprisals"),
        ("(1;%a%) & (2;%a%)", r"'&' combines comparisons"),
        ("(1;%a%) * (2;%a%) < 3", r"cannot be parsed from '\* \(2"),
        ("__import__('os') < 3", r"cannot be parsed from"),
        ("(x;%a%) < 3", r"cannot be parsed from"),
        ("(" * 100_000, r"nested parentheses|was expected"),
    ],
)
def test_bad_formulas(text, message):
    refused(message, lambda: Formula(text))


# ------------------------------------------------------------------------------------------------------ SyntaxGym

REGIONS = {"match": ["the dog", "that", "", "ran"], "mismatch": ["the dog", "that", "", "run"]}


def suite(path, regions=REGIONS, formulas=("(4;%match%) < (4;%mismatch%)",), n=2, **meta):
    items = [
        {
            "item_number": number + 1,
            "conditions": [
                {
                    "condition_name": condition,
                    "regions": [
                        {"region_number": i, "content": text + (" red" if number and text and i == 1 else "")}
                        for i, text in enumerate(texts, start=1)
                    ],
                }
                for condition, texts in regions.items()
            ],
        }
        for number in range(n)
    ]
    predictions = [{"type": "formula", "formula": formula} for formula in formulas]
    path.write_text(
        json.dumps({"meta": {"name": path.stem, "metric": "sum", **meta}, "predictions": predictions, "items": items})
    )
    return path


def surprisal(texts, mean=False):
    """Region → bits. A word never shares a token with another, so the tokens of each can be counted apart."""
    there = [i for i, text in enumerate(texts, start=1) if text]
    tokenizer = build("llama").tokenizer
    pieces = [(" " if i > there[0] else "") + texts[i - 1] for i in there]
    counts = [len(tokenizer(piece, add_special_tokens=False)["input_ids"]) for piece in pieces]
    values = -logprobs("".join(pieces)) / math.log(2)
    assert len(values) == sum(counts)
    parts = np.split(values, np.cumsum(counts)[:-1])
    return dict.fromkeys(range(1, len(texts) + 1), 0.0) | {
        i: float(part.mean() if mean else part.sum()) for i, part in zip(there, parts, strict=True)
    }


@pytest.mark.parametrize("metric", ["sum", "mean"])
def test_suites_are_scored_as_by_plain_transformers(tmp_path, metric):
    task = tasks.syntaxgym(suite(tmp_path / "s.json", formulas=["(4;%match%) < (4;%mismatch%)"] * 2, metric=metric))
    model = load("llama")
    # Formulas over all regions have all of them scored.
    every = ["(*;%match%) < (*;%mismatch%)"]
    found = model._executor.likelihoods(
        tasks.syntaxgym(suite(tmp_path / "e.json", formulas=every, metric=metric)).requests()
    )
    values = {
        (item, name): surprisal(
            [text + " red" if item and i == 0 else text for i, text in enumerate(texts)], metric == "mean"
        )
        for item in range(2)
        for name, texts in REGIONS.items()
    }
    # The surprisals themselves, through formulas that bracket each of them.
    for (item, name), own in values.items():
        for region, value in {**own, "*": sum(own.values())}.items():
            near = f"(({region};%{name}%) > {value - 0.002:.6f}) & (({region};%{name}%) < {value + 0.002:.6f})"
            near = near.replace("> -", "> 0 -")
            one = tasks.syntaxgym(
                suite(tmp_path / "t.json", formulas=[near, "1 < 2", f"({region};%{name}%) > 500"], metric=metric)
            )
            assert one.grade(found)[item] == pytest.approx(2 / 3), (item, name, region)
    expected = [values[item, "match"][4] < values[item, "mismatch"][4] for item in range(2)]
    assert task.run(model).scores.tolist() == expected
    assert task.items == ("s/1", "s/2")
    assert np.isnan(task.chance)


def test_regions_are_joined_by_single_spaces_and_empty_ones_left_out(tmp_path):
    task = tasks.syntaxgym(suite(tmp_path / "s.json", n=1))
    assert [(one.continuation, one.cuts) for one in task.requests()] == [
        ("the dog that ran", (7, 12)),
        ("the dog that run", (7, 12)),
    ]
    assert all(one.stimulus is None for one in task.requests())


def test_some_items_of_each_suite(tmp_path):
    for name in ("one.json", "two.json"):
        suite(tmp_path / name, n=5)
    whole, some = tasks.syntaxgym(tmp_path), tasks.syntaxgym(tmp_path, n=2, seed=1)
    assert len(some) == 4
    assert set(some.items) < set(whole.items)
    assert some.items == tasks.syntaxgym(tmp_path, n=2, seed=1).items
    refused("1 to 5", lambda: tasks.syntaxgym(tmp_path, n=6))


def test_a_folder_of_suites_is_one_task(tmp_path):
    suite(tmp_path / "one.json")
    suite(tmp_path / "two.json", formulas=["(4;%match%) > (4;%mismatch%)"])
    task = tasks.syntaxgym(tmp_path)
    assert task.items == ("one/1", "one/2", "two/1", "two/2")
    assert Counter(task.groups.values()) == {"one": 2, "two": 2}
    scores = task.run(load("llama")).scores
    assert (scores[:2] + scores[2:]).tolist() == [1, 1]
    other = tasks.syntaxgym(suite(tmp_path / "two.json", formulas=["(4;%match%) < (4;%mismatch%)"]), name="two")
    assert other.identity() != tasks.syntaxgym(suite(tmp_path / "two.json"), name="2").identity()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.pop("items"), r"s.json lacks 'items'"),
        (lambda s: s.update(items=[]), r"items must be a non-empty list"),
        (lambda s: s.pop("meta"), r"lacks 'meta'"),
        (lambda s: s["meta"].update(metric="median"), r"metric must be one of sum, mean, got 'median'"),
        (lambda s: s.update(predictions=[{"formula": "(4;%match%) <"}]), r"s.json, prediction 0: The formula"),
        (lambda s: s.update(predictions=[{}]), r"prediction 0 lacks 'formula'"),
        (
            lambda s: s.update(predictions=[{"formula": "(4;%other%) < 1"}]),
            r"item 1 has no condition 'other'.*It has: match",
        ),
        (
            lambda s: s.update(predictions=[{"formula": "(9;%match%) < 1"}]),
            r"'match' has no region 9.*It has: 1, 2, 3, 4",
        ),
        (lambda s: s["items"][0].pop("conditions"), r"item 1 lacks 'conditions'"),
        (lambda s: s["items"][1]["conditions"][0].pop("regions"), r"item 2, condition 'match' lacks 'regions'"),
        (lambda s: s["items"][1]["conditions"][1].update(condition_name="match"), r"condition 'match' twice"),
        (lambda s: s["items"][0]["conditions"][0]["regions"][1].update(region_number=1), r"has region 1 twice"),
        (lambda s: s["items"][0]["conditions"][0]["regions"][1].pop("content"), r"region 2 lacks 'content'"),
        (
            lambda s: s["items"][0]["conditions"][0]["regions"][1].update(region_number="2"),
            r"number must be an integer",
        ),
        (lambda s: [r.update(content="") for r in s["items"][0]["conditions"][0]["regions"]], r"all regions are empty"),
        (lambda s: s.update(items=[3]), r"item 1 lacks 'conditions'"),
    ],
)
def test_bad_suites(tmp_path, change, message):
    path = suite(tmp_path / "s.json")
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))
    refused(message, lambda: tasks.syntaxgym(path))


def test_bad_sources_of_suites(tmp_path):
    refused("has no SyntaxGym suites", lambda: tasks.syntaxgym(tmp_path))
    refused("no file at", lambda: tasks.syntaxgym(tmp_path / "s.json"))
    (tmp_path / "s.json").write_text("{")
    refused("s.json is not valid JSON", lambda: tasks.syntaxgym(tmp_path))
    (tmp_path / "s.json").write_text("[]")
    refused("s.json lacks 'meta'", lambda: tasks.syntaxgym(tmp_path))


# ----------------------------------------------------------------------------------------------------- perplexity


def test_perplexity_is_that_of_plain_transformers():
    found = tasks.perplexity(GOOD).run(load("llama"))
    expected = [logprobs(text).mean() for text in GOOD]
    np.testing.assert_allclose(found.scores, expected, atol=1e-4)
    assert found.perplexity == pytest.approx(math.exp(-np.mean(expected)), rel=1e-4)
    assert found.measure == "nats per token"
    assert np.isnan(found.chance)


def test_a_text_is_predicted_after_its_image():
    image = picture(1, 40, 40)
    found = tasks.perplexity([mn.Stimulus("a red house", image=image)]).run(load("llava_clip"))
    assert found.scores[0] == pytest.approx(after_image(image, None, " a red house").mean(), abs=1e-4)


def test_texts_of_a_file(tmp_path):
    path = tmp_path / "t.txt"
    path.write_bytes(b"one two\r\nthree\r\n\r\n  \r\nfour five\r\n\r\n")

    def texts(**options):
        return [one.continuation for one in tasks.perplexity(path, **options).requests()]

    assert texts() == texts(split="paragraphs") == ["one two three", "four five"]
    assert texts(split="lines") == ["one two", "three", "four five"]
    path.write_text("one two\nthree\n")
    assert texts() == ["one two", "three"]
    assert tasks.perplexity(str(path)).items == ("t:1", "t:2")


def test_texts_of_a_contrast():
    contrast = mn.stimuli.language(n=2)
    assert tasks.perplexity(contrast).items == tuple(stimulus.id for stimulus in contrast.stimuli)


def test_bad_texts(tmp_path):
    path = tmp_path / "t.txt"
    path.write_text(" \n\n")
    refused("t.txt is empty", lambda: tasks.perplexity(path))
    path.write_bytes(b"caf\xe9")
    refused("t.txt is not utf-8", lambda: tasks.perplexity(path))
    refused("`split` must be one of", lambda: tasks.perplexity(path, split="words"))
    refused("put a single text in a list", lambda: tasks.perplexity("the dog"))
    refused("`texts` is empty", lambda: tasks.perplexity([]))
    refused("text 1: .*is empty", lambda: tasks.perplexity(["a", " "]))
    refused(r"`texts\[0\]` must be a Stimulus or a string, got int", lambda: tasks.perplexity([3]))
    refused("has no text", lambda: tasks.perplexity([mn.Stimulus(image=picture(0, 8, 8))]))


# ------------------------------------------------------------------------------------------------ multiple choice

ROWS = [
    {"question": f"what is the {colour} dog", "answer": i % 3, "choices": ["the house", "red", "a cat sleeps"]}
    for i, colour in enumerate(("red", "blue", "small", "old"))
]


@pytest.mark.parametrize("per_token", [False, True])
def test_choices_are_scored_as_by_plain_transformers(per_token):
    found = tasks.multiple_choice(ROWS, per_token=per_token).run(load("llama"))
    expected = []
    for row in ROWS:
        values = [after(row["question"], f" {choice}") for choice in row["choices"]]
        best = int(np.argmax([total / count if per_token else total for total, count in values]))
        expected.append(float(best == row["answer"]))
    assert found.scores.tolist() == expected
    assert found.chance == pytest.approx(1 / 3)


def test_summed_and_per_token_differ_and_ties_share():
    pair = [{"question": "a", "answer": 0, "choices": ["b", "c"]}]
    short, long = Likelihood(np.array([-3.0]), 1, False), Likelihood(np.array([-4.0]), 4, False)
    assert tasks.multiple_choice(pair).grade([short, long]).tolist() == [1]
    assert tasks.multiple_choice(pair, per_token=True).grade([short, long]).tolist() == [0]
    assert tasks.multiple_choice(pair).grade([short, short]).tolist() == [0.5]
    assert tasks.multiple_choice(pair).grade(answers([math.nan, -1])).tolist() == [0]


def test_labels_a_prompt_and_shots():
    rows = [{"a": f"it rains {i}", "b": f"it is wet {i}", "label": i % 2} for i in range(6)]
    task = tasks.multiple_choice(
        rows, prompt="{a}. {b}?\nAnswer:", answer="label", choices=["no", "yes"], shots=2, template="{}!"
    )
    asked = [question.stimulus.text for question in task.questions]
    solved = {f"it rains {i}. it is wet {i}?\nAnswer: {('no', 'yes')[i % 2]}!": i for i in range(6)}
    drawn = []
    for i, text in enumerate(asked):
        *before, own = text.split("\n\n")
        assert own == f"it rains {i}. it is wet {i}?\nAnswer:"
        drawn.append([solved[shot] for shot in before])
        assert len(set(drawn[-1])) == 2
        assert i not in drawn[-1]
    assert len({tuple(shots) for shots in drawn}) > 1
    again = tasks.multiple_choice(rows, prompt="{a}", answer="label", choices=["no", "yes"], shots=2, seed=0)
    assert [question.answer for question in again.questions] == [i % 2 for i in range(6)]
    assert task.requests()[1].continuation == " yes!"


def test_a_space_stands_between_question_and_answer_once():
    rows = [{"question": "what is it?\n", "answer": 0, "choices": ["a", "b"]}]
    assert tasks.multiple_choice(rows).requests()[0].continuation == "a"


def test_choices_from_files_and_datasets(tmp_path):
    datasets = pytest.importorskip("datasets")
    expected = [("the house", "red", "a cat sleeps"), [0, 1, 2, 0]]

    def read(source, **options):
        task = tasks.multiple_choice(source, **options)
        assert [q.stimulus.text for q in task.questions] == [row["question"] for row in ROWS]
        assert {q.choices for q in task.questions} == {expected[0]}
        assert [q.answer for q in task.questions] == expected[1]
        return task

    lines = tmp_path / "q.jsonl"
    lines.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    assert read(lines).items == ("q:1", "q:2", "q:3", "q:4")
    table = tmp_path / "q.csv"
    table.write_text(
        "question,answer,choices\n"
        + "".join(f"{r['question']},{r['answer']},the house|red|a cat sleeps\n" for r in ROWS)
    )
    read(table)
    texts = [{**row, "answer": row["choices"][row["answer"]]} for row in ROWS]
    read(texts)
    lettered = [
        {**row, "choices": {"text": row["choices"], "label": ["A", "B", "C"]}, "answer": "ABC"[row["answer"]]}
        for row in ROWS
    ]
    read(lettered)
    read(datasets.Dataset.from_list(ROWS))
    read(datasets.Dataset.from_list(lettered))
    read(datasets.Dataset.from_list(ROWS).to_iterable_dataset())
    labels = datasets.ClassLabel(names=list(expected[0]))
    plain = [{"question": row["question"], "answer": row["answer"]} for row in ROWS]
    features = datasets.Features({"question": datasets.Value("string"), "answer": labels})
    read(datasets.Dataset.from_list(plain, features=features))


def test_a_field_may_hold_the_image(tmp_path):
    datasets = pytest.importorskip("datasets")
    picture(3, 32, 32).save(tmp_path / "a.png")
    row = {"question": "what is this", "answer": 1, "choices": ["a cat", "a dog"]}
    (tmp_path / "q.jsonl").write_text(json.dumps({**row, "image": "a.png"}) + "\n")
    sources = [
        tmp_path / "q.jsonl",
        [{**row, "image": picture(3, 32, 32)}],
        [{**row, "image": tmp_path / "a.png"}],
        datasets.Dataset.from_list([{**row, "image": str(tmp_path / "a.png")}]).cast_column("image", datasets.Image()),
    ]
    digests = {tasks.multiple_choice(s, image="image").questions[0].stimulus.inspect().digest for s in sources}
    assert len(digests) == 1
    found = tasks.multiple_choice(sources[0], image="image").run(load("llava_clip"))
    values = [after_image(picture(3, 32, 32), "what is this", f" {choice}").sum() for choice in row["choices"]]
    assert found.scores.tolist() == [float(values[1] > values[0])]


@pytest.mark.parametrize(
    ("rows", "options", "message"),
    [
        ([], {}, r"`source` is empty"),
        (3, {}, r"got a int"),
        ({"train": []}, {}, r"dict of train; pass one of its splits"),
        ([{"question": "a"}], {}, r"row 0 has no 'answer'"),
        ([3], {}, r"row 0 has no 'question'"),
        ([{**ROWS[0], "question": " "}], {}, r"row 0: question is empty"),
        ([{**ROWS[0], "choices": ["a"]}], {}, r"at least two different choices"),
        ([{**ROWS[0], "choices": ["a", "a "]}], {}, r"at least two different choices"),
        ([{**ROWS[0], "choices": ["a", 3]}], {}, r"a choice must be a non-empty string, got 3"),
        ([{**ROWS[0], "choices": 3}], {}, r"the choices must be a list"),
        ([{**ROWS[0], "answer": -1}], {}, r"got -1. -1 marks a split without answers"),
        ([{**ROWS[0], "answer": 3}], {}, r"row 0: the answer must be one of"),
        ([{**ROWS[0], "answer": "blue"}], {}, r"got 'blue'"),
        (ROWS, {"choices": "options"}, r"row 0 has no 'options'. It has: question, answer, choices"),
        (ROWS, {"choices": ["a"]}, r"at least two different choices"),
        (ROWS, {"prompt": "{other}"}, r"row 0 has no 'other'"),
        (ROWS, {"prompt": "no field"}, r"`prompt` must name fields"),
        (ROWS, {"prompt": "{question.x}"}, r"`prompt` must name fields"),
        (ROWS, {"prompt": "{question"}, r"`prompt` must be a format string"),
        (ROWS, {"prompt": 3}, r"`prompt` must be a format string"),
        (ROWS, {"template": "yes"}, r"`template` must be a string with one placeholder"),
        (ROWS, {"shots": 4}, r"`shots` must be an integer from 0 to 3, got 4"),
        (ROWS, {"shots": 1, "image": "image"}, r"`shots` cannot be combined with `image`"),
        (ROWS, {"image": "image"}, r"row 0 has no image in 'image'"),
        (ROWS, {"n": 0}, r"`n` must be an integer from 1 to 4, got 0"),
    ],
)
def test_bad_questions(rows, options, message):
    refused(message, lambda: tasks.multiple_choice(rows, **options))


# -------------------------------------------------------------------------------------------------------- pictures

PICTURES = [mn.Stimulus(image=picture(i, 40, 40), condition=("faces", "houses")[i % 2], id=f"p{i}") for i in range(4)]


def test_naming_is_scored_as_by_plain_transformers():
    task = tasks.naming(
        mn.Contrast(PICTURES, "faces"),
        question="what is this",
        names={"faces": "cat", "houses": "house"},
        template="a {}",
    )
    found = task.run(load("llava_clip"))
    expected = []
    for i, stimulus in enumerate(PICTURES):
        cat, house = (after_image(stimulus.image, "what is this", f" a {name}").sum() for name in ("cat", "house"))
        expected.append(float((cat > house) == (i % 2 == 0)))
    assert found.scores.tolist() == expected
    assert found.items == ("p0", "p1", "p2", "p3")
    assert found.chance == 0.5


def test_names_that_are_never_right_and_questions_of_ones_own():
    task = tasks.naming(PICTURES, names=["faces", "houses", "cars", "words"])
    assert task.chance == 0.25
    assert {question.choices for question in task.questions} == {("faces", "houses", "cars", "words")}
    own = [mn.Stimulus(f"number {i}", image=one.image, condition=one.condition) for i, one in enumerate(PICTURES)]
    assert [q.stimulus.text for q in tasks.naming(own, question=None).questions] == [one.text for one in own]
    assert tasks.naming(PICTURES, question=None).questions[0].stimulus.text is None


def test_visual_questions_are_scored_as_by_plain_transformers():
    items = [(picture(i, 40, 40), "what is this", ["a cat", "a dog", "red"], i) for i in range(3)]
    items.append((None, "what is the dog", ("red", "here"), "here"))
    found = tasks.visual_questions(items).run(load("llava_clip"))
    for i in range(3):
        values = [after_image(items[i][0], "what is this", f" {choice}").sum() for choice in items[i][2]]
        assert found.scores[i] == float(np.argmax(values) == i)
    values = [after_image(None, "what is the dog", f" {choice}").sum() for choice in ("red", "here")]
    assert found.scores[3] == float(values[1] > values[0])
    assert found.chance == pytest.approx((1 + 0.5) / 4)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: tasks.naming([]), r"`source` is empty"),
        (lambda: tasks.naming("x"), r"has no image"),
        (lambda: tasks.naming([mn.Stimulus("a", condition="b")]), r"has no image"),
        (lambda: tasks.naming([mn.Stimulus(image=picture(0, 8, 8))]), r"has no condition"),
        (lambda: tasks.naming(PICTURES, names={"faces": "face"}), r"`names` lacks the conditions houses"),
        (lambda: tasks.naming(PICTURES, names=["faces"]), r"`names` lacks the conditions houses"),
        (lambda: tasks.naming(PICTURES, names={"faces": "", "houses": "b"}), r"`names` must hold non-empty strings"),
        (lambda: tasks.naming(PICTURES, names=3), r"`names` must be a list, or a dict"),
        (lambda: tasks.naming(PICTURES[::2]), r"at least two different choices"),
        (lambda: tasks.naming(PICTURES, template="{name}"), r"`template` must be a string with one placeholder"),
        (lambda: tasks.visual_questions([]), r"`items` must be a non-empty list"),
        (lambda: tasks.visual_questions([(None, "a", ["b", "c"])]), r"item 0 must be \(image, question"),
        (lambda: tasks.visual_questions([(None, "", ["b", "c"], 0)]), r"item 0: .*empty"),
        (lambda: tasks.visual_questions([("no.png", "a", ["b", "c"], 0)]), r"item 0: .*no.png"),
        (lambda: tasks.visual_questions([(None, "a", ["b", "c"], 2)]), r"item 0: the answer must be one of"),
    ],
)
def test_bad_pictures(call, message):
    refused(message, call)


# ----------------------------------------------------------------------------------------------------- exact match


def test_exact_match_of_what_a_model_writes():
    model = load("llama")
    written = model.generate(mn.Stimulus("the dog"), max_new_tokens=4)
    first = written.strip().split("\n")[0].strip()
    task = tasks.exact_match([("the dog", ["nothing", first.upper() + "."]), ("the dog", "nothing")], max_new_tokens=4)
    found = task.run(model)
    assert found.scores.tolist() == [1, 0]
    assert np.isnan(found.chance)
    assert task.identity() != tasks.exact_match([("the dog", "a"), ("the dog", "b")], max_new_tokens=4).identity()


def test_what_is_compared():
    task = tasks.exact_match([("q", ["A dog", "dog"])] * 8)
    texts = ["A dog", " a dog.\nIs it?", "\ndog", "DOG", "a dog .", "a dog..", "the dog", ""]
    assert task.grade(texts).tolist() == [1, 1, 1, 1, 1, 0, 0, 0]


@pytest.mark.parametrize(
    ("items", "options", "message"),
    [
        ([], {}, "`items` must be a non-empty list"),
        (["the dog"], {}, r"item 0 must be \(stimulus, answer\)"),
        ([("a", "")], {}, "item 0: the answer must be one or several non-empty strings"),
        ([("a", ["b", "."])], {}, "one or several non-empty strings"),
        ([("a", 3)], {}, "got 3"),
        ([("", "a")], {}, "item 0: .*empty"),
        ([("a", "b")], {"max_new_tokens": 0}, "`max_new_tokens` must be a positive integer, got 0"),
    ],
)
def test_bad_exact_match(items, options, message):
    refused(message, lambda: tasks.exact_match(items, **options))


# ------------------------------------------------------------------------------------------------------- own tasks


def test_theory_of_mind():
    task = tasks.theory_of_mind()
    assert len(task) == 24
    assert Counter(question.answer for question in task.questions) == {0: 12, 1: 12}
    first = task.questions[0].stimulus.text
    assert first.startswith("Nora left her bicycle")
    assert first.endswith("Nora expects to find her bicycle beside the bakery.\nAnswer:")
    photo = tasks.theory_of_mind("photo", n=5)
    belief = tasks.theory_of_mind(n=5)
    assert [item.split("-")[1] for item in photo.items] == [item.split("-")[1] for item in belief.items]
    refused("`stories` must be one of 'belief', 'photo'", lambda: tasks.theory_of_mind("ball"))
    refused("must combine {story} and {statement}", lambda: tasks.theory_of_mind(prompt="{other}"))
    refused("must contain {story} and {statement}", lambda: tasks.theory_of_mind(prompt="{story}"))
    refused("`n` must be an integer from 1 to 24", lambda: tasks.theory_of_mind(n=25))


def value(words):
    parts = words.rstrip(".").split()
    return sum(ONES.index(part) if part in ONES else 10 * (TENS.index(part) + 2) for part in parts)


def test_sums_have_one_right_answer_among_near_ones():
    task = tasks.arithmetic(100)
    for question in task.questions:
        _, _, *rest = question.stimulus.text.rstrip("?").split()
        sign = "plus" if "plus" in rest else "minus"
        place = rest.index(sign)
        first, second = value(" ".join(rest[:place])), value(" ".join(rest[place + 1 :]))
        right = first + second if sign == "plus" else first - second
        values = [value(choice) for choice in question.choices]
        assert values.index(right) == question.answer
        assert len(set(values)) == 4
        assert all(abs(other - right) in (0, 1, 2, 10) for other in values)
    assert len({question.answer for question in task.questions}) == 4
    assert task.chance == 0.25
    assert task.identity() == tasks.arithmetic(100).identity() != tasks.arithmetic(100, seed=1).identity()
    refused("`n` must be a positive integer", lambda: tasks.arithmetic(0))
    refused("seed", lambda: tasks.arithmetic(1, seed=-1))
    refused("`prompt` must be a string with one placeholder", lambda: tasks.arithmetic(1, prompt="x"))


def test_bundled_tasks():
    made = tasks.bundled(25)
    names = ["grammar", "arithmetic", "colour", "shape", "count", "position", "category", "reading"]
    assert list(made) == names == [task.name for task in made.values()]
    assert {len(task) for task in made.values()} == {25}
    assert set(made["grammar"].groups.values()) == set(PHENOMENA)
    assert made["grammar"].pairs[:3] == tuple(items.pairs("subject-verb agreement", 3))
    for name in names[2:]:
        for question, item in zip(made[name].questions, items.items(name, 25), strict=True):
            assert question.choices[question.answer] == f"{item.answer}."
            assert question.stimulus.text == item.text
            assert question.stimulus.n_images == 1
    assert made["reading"].chance == 1 / 16
    assert made["shape"].chance == pytest.approx(1 / 6)
    refused("`n` must be a positive integer", lambda: tasks.bundled(0))


def test_bundled_tasks_run_on_the_untrained_bundled_model():
    from training import network

    processor = network.build_processor()
    model = mn.load(network.build_model(len(processor.tokenizer), seed=3), processor=processor)
    made = tasks.bundled(4)
    grammar = made["grammar"].run(model)
    assert grammar.scores.tolist() == [float(x) for x in evaluate.prefers_grammatical(model, made["grammar"].pairs)]
    colour = made["colour"].run(model)
    question = made["colour"].questions[0]
    scores = model.score(question.stimulus, [[f" {choice}" for choice in question.choices]])
    assert colour.scores[0] == float(scores.best()[0] == question.answer)
    # Words and full stop are each a token, with or without the space before.
    assert set(scores.n_tokens[0]) == {2}


def test_default_tasks():
    made = tasks.default(8)
    assert [task.name for task in made] == ["grammar", "arithmetic", "category"]
    assert {len(task) for task in made} == {8}
    assert Counter(question.answer for question in made[2].questions) == dict.fromkeys(range(4), 2)
    assert len(tasks.default(4)[2]) == 4
    refused("`n` must be an integer of at least 4", lambda: tasks.default(3))


# ---------------------------------------------------------------------------------------------------------- rooms


def test_an_identity_holds_what_scores_depend_on():
    first = tasks.multiple_choice(ROWS)
    assert first.identity() == tasks.multiple_choice(ROWS).identity()
    others = [
        tasks.multiple_choice([{**row, "answer": 0} for row in ROWS]),
        tasks.multiple_choice(ROWS, per_token=True),
        tasks.multiple_choice(ROWS, template="{}."),
        tasks.multiple_choice(ROWS, name="other"),
        tasks.multiple_choice(ROWS, shots=1),
    ]
    assert len({first.identity(), *(other.identity() for other in others)}) == 6


def test_interventions_are_handed_on():
    """Without anything in the residual stream every token is as likely as any other."""
    model = load("llama")
    found = tasks.perplexity(GOOD).run(model, mn.zero(model.units()), batch_size=2)
    np.testing.assert_allclose(found.scores, -math.log(model.module.config.vocab_size), rtol=1e-5)


def test_importing_tasks_is_light():
    code = (
        "import sys, modalnet.tasks\nprint([m for m in ('torch', 'transformers', 'pandas', 'PIL') if m in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    assert out.strip() == "[]"


def test_former_names_warn():
    for old, new in (("Choices", "MultipleChoice"), ("Question", "MultipleChoiceQuestion"), ("Suites", "SyntaxGym")):
        with pytest.warns(DeprecationWarning, match=new):
            assert getattr(tasks, old) is getattr(tasks, new)
    with pytest.warns(DeprecationWarning, match="Perplexity"):
        assert tasks.Texts is tasks.Perplexity


def test_scores_have_intervals_over_paradigms(tmp_path):
    """All right is not surely right; and what varies between paradigms does not average out over their items."""
    whole = tasks.TaskScores("sums", tuple("abcdefghijklmnop"), np.ones(16), "accuracy", np.nan)
    assert whole.interval() == pytest.approx(tuple(stats.binomtest(16, 16).proportion_ci(method="wilson")))
    names = ("one", "two", "three", "four", "five", "six")
    for index, name in enumerate(names):
        blimp(tmp_path / f"{name}.jsonl", list(zip(GOOD, BAD, strict=True))[: 2 + index % 2])
    task = tasks.minimal_pairs(tmp_path)
    scores = task.scores(np.array([item.startswith(("one", "two", "six")) * 1.0 for item in task.items]))
    assert scores.groups == tuple(task.groups.values())
    alone = tasks.TaskScores(task.name, task.items, scores.scores, "accuracy", 0.5)
    assert np.diff(scores.interval()) > 1.4 * np.diff(alone.interval())
    few = tasks.TaskScores("few", tuple("abcd"), np.array([1.0, 0, 1, 1]), "accuracy", 0.5, ("x", "x", "y", "y"))
    with pytest.warns(UserWarning, match="The items of 'few' come from 2 groups"):
        assert few.interval() == score_interval(few.scores)


def test_other_measures_have_bootstrap_intervals():
    values = np.random.default_rng(0).normal(-3, 1, 60)
    scores = tasks.TaskScores("texts", tuple(map(str, range(60))), values, "nats per token", np.nan)
    expected = stats.ttest_1samp(values, 0).confidence_interval()
    assert scores.interval() == pytest.approx(tuple(expected), abs=0.06)
    assert scores.interval() == scores.interval(seed=0)
    refused("`seed` must be a non-negative integer", lambda: scores.interval(seed=-1))
