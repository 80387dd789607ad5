"""The bundled texts: what they hold, and how well their conditions are matched."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from itertools import pairwise

import numpy as np
import pytest

from modalnet import stimuli
from modalnet.errors import InputError
from modalnet.stimuli import Contrast
from modalnet.stimuli.frequency import zipf_frequencies
from modalnet.stimuli.nonwords import WORD, english_words
from modalnet.stimuli.package_data import data_rows, data_text
from modalnet.stimuli.spec import BUNDLED, parse

ALL: dict[Callable[..., Contrast], int] = {
    stimuli.language: 240,
    stimuli.language_conditions: 240,
    stimuli.theory_of_mind: 24,
    stimuli.multiple_demand: 100,
    stimuli.refusal: 64,
}
PROBLEM = re.compile(r"Question: Solve (\d+) ([+-]) (\d+)\?\nAnswer: (-?\d+)")


def texts(contrast: Contrast, condition: str) -> list[str]:
    return [stimulus.text or "" for stimulus in contrast.stimuli if stimulus.condition == condition]


def words_of(text: str) -> list[str]:
    return WORD.findall(text.lower())


def letters(text: str) -> int:
    return sum(map(str.isalpha, text))


@pytest.fixture(scope="module")
def four() -> dict[str, list[str]]:
    contrast = stimuli.language_conditions()
    return {condition: texts(contrast, condition) for condition in contrast.conditions}


# --- what holds for every set ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", ALL, ids=lambda make: make.__name__)
def test_a_bundled_set(make: Callable[..., Contrast]) -> None:
    contrast = make()
    assert set(contrast.n.values()) == {ALL[make]}
    plain = [" ".join((s.text or "").lower().split()) for s in contrast.stimuli]
    assert len(set(plain)) == len(plain)
    assert len({s.id for s in contrast.stimuli}) == len(plain)
    assert {s.text for s in make(2).stimuli} == {texts(contrast, c)[i] for c in contrast.conditions for i in (0, 1)}
    for n in (1, ALL[make] + 1, 2.5):
        with pytest.raises(InputError, match=f"`n` must be an integer from 2 to {ALL[make]}, got"):
            make(n)
    table = contrast.describe()
    assert (table["n"] == ALL[make]).all()
    assert table["mean_words"].max() / table["mean_words"].min() < 1.01


def test_the_sets_are_the_same_in_every_process() -> None:
    names = [*(make.__name__ for make in ALL), "agreement", "incentives"]
    code = (
        "import hashlib, sys; from modalnet import stimuli;"
        "print(*(hashlib.sha256('\\n'.join(s.text for s in getattr(stimuli, name)().stimuli).encode()).hexdigest()"
        " for name in sys.argv[1:]))"
    )
    runs = {
        subprocess.run(
            [sys.executable, "-c", code, *names],
            capture_output=True,
            text=True,
            check=True,
            env={**os.environ, "PYTHONHASHSEED": seed},
        ).stdout
        for seed in ("1", "2")
    }
    assert len(runs) == 1


def test_the_command_line_names_them_all() -> None:
    for make in ALL:
        kind = make.__name__.replace("_", "-")
        assert BUNDLED[kind] is make
        assert parse(kind).name == make().name
    assert parse("theory_of_mind", "photo").name == "photo > belief"
    lexical = parse("language-conditions", "sentences,word-lists")
    assert lexical.negative == ("jabberwocky", "nonwords")
    with pytest.raises(InputError, match="refusal takes no duplicates"):
        parse("refusal", duplicates="keep")


# --- sentences, word lists, Jabberwocky, nonwords -------------------------------------------------------------------


def test_the_four_conditions_agree_item_by_item(four: dict[str, list[str]]) -> None:
    assert list(four) == ["sentences", "word-lists", "jabberwocky", "nonwords"]
    for sentence, *others in zip(*four.values(), strict=True):
        for other in others:
            assert len(other.split()) == len(sentence.split())
            assert letters(other) == letters(sentence)
            assert WORD.sub("", other) == WORD.sub("", sentence)
            assert other[0].isupper()


def test_two_conditions_are_the_language_set(four: dict[str, list[str]]) -> None:
    language = stimuli.language()
    for condition in language.conditions:
        assert four[condition] == texts(language, condition)


def test_word_lists_are_the_words_of_the_sentences_in_no_order(four: dict[str, list[str]]) -> None:
    given, listed = ([words_of(text) for text in four[c]] for c in ("sentences", "word-lists"))
    assert Counter(word for words in given for word in words) == Counter(word for words in listed for word in words)
    neighbours = {pair for words in given for pair in pairwise(words)}
    assert not neighbours & {pair for words in listed for pair in pairwise(words)}
    assert not any(left == right for words in listed for left, right in pairwise(words))
    assert max(max(Counter(words).values()) for words in listed) <= 2
    # A list draws on many sentences: of its content words, few come from the sentence of its number.
    function = set(data_text("function_words.txt").split())
    content = [{word for word in words if word not in function} for words in listed]
    own = np.mean([len(c & set(words)) / max(len(c), 1) for c, words in zip(content, given, strict=True)])
    assert own < 0.05
    # Capitals stay with the first word and with names, and are not left on a word that began a sentence.
    inner = {word for text in four["word-lists"] for word in WORD.findall(text)[1:] if word[0].isupper()}
    assert inner == {"I", "Sunday", "Saturday", "Mondays", "December"}


def test_jabberwocky_keeps_function_words_and_endings(four: dict[str, list[str]]) -> None:
    function = set(data_text("function_words.txt").split())
    endings = {entry.replace("-", ""): entry.split("-")[1] for entry in data_text("endings.txt").split()}
    assert not function & endings.keys()
    assert set(endings.values()) <= {"s", "es", "ed", "ing", "er", "est", "ly"}
    stems: dict[str, str] = {}
    for sentence, twin in zip(four["sentences"], four["jabberwocky"], strict=True):
        for old, new in zip(words_of(sentence), words_of(twin), strict=True):
            if old in function:
                assert new == old
                continue
            ending = endings.get(old, "")
            assert new.endswith(ending)
            assert new not in english_words() | zipf_frequencies().keys()
            stem, made = old.removesuffix(ending), new.removesuffix(ending)
            assert stem != made
            assert stems.setdefault(stem, made) == made
    assert len(set(stems.values())) == len(stems)
    assert stems.keys() >= {"clean", "walk", "small"}
    assert endings.keys() <= set(words_of(" ".join(four["sentences"])))


# --- theory of mind -------------------------------------------------------------------------------------------------


def test_stories_are_matched_in_pairs() -> None:
    rows = data_rows("stories.tsv")
    beliefs, photos = rows[::2], rows[1::2]
    for belief, photo in zip(beliefs, photos, strict=True):
        assert (belief["condition"], photo["condition"]) == ("belief", "photo")
        assert belief["answer"] == photo["answer"]
        assert abs(len(belief["story"].split()) - len(photo["story"].split())) <= 2
        assert abs(len(belief["statement"].split()) - len(photo["statement"].split())) <= 1
        # The pair tells one change of the world in the same words.
        shared = Counter(words_of(belief["story"])) & Counter(words_of(photo["story"]))
        assert shared.total() > 0.5 * len(words_of(belief["story"]))
    assert Counter(row["answer"] for row in beliefs) == {"True": 12, "False": 12}
    assert sum(b["statement"] == p["statement"] for b, p in zip(beliefs, photos, strict=True)) == 9
    for field in ("story", "statement"):
        for measure in (lambda text: len(text.split()), letters):
            sides = [np.mean([measure(row[field]) for row in side]) for side in (beliefs, photos)]
            assert max(sides) / min(sides) < 1.01 + 0.02 * (field == "statement")


def test_people_are_on_both_sides_and_minds_on_one() -> None:
    rows = data_rows("stories.tsv")
    people = re.compile(r"(?<=[a-z,] )[A-Z][a-z]+|\b(?i:he|she|his|her|him|brother|farmer|coach|cook|aunt)\b")
    assert all(people.search(row["story"]) for row in rows)
    minds = re.compile(r"\b(?:thinks?|thought|believes?|expects?|knows?|knew|wants?|wanted)\b")
    told = Counter(row["condition"] for row in rows if minds.search(f"{row['story']} {row['statement']}"))
    assert told == {"belief": told["belief"]}
    assert told["belief"] >= 15


def test_the_template_puts_a_story_together() -> None:
    row = data_rows("stories.tsv")[0]
    assert stimuli.theory_of_mind().stimuli[0].text == f"{row['story']}\n{row['statement']}"
    assert stimuli.theory_of_mind(template="{story}").stimuli[0].text == row["story"]
    asked = stimuli.theory_of_mind(template="Story: {story}\nQuestion: {question}\nAnswer:").stimuli[0].text
    assert asked == f"Story: {row['story']}\nQuestion: {row['statement']}\nAnswer:"
    for template in ("{question}", "{story} {answer}", "{story", "{story:d}", "{story.x}", "{}", 5):
        with pytest.raises(InputError, match=r"must contain \{story\} and optionally \{question\}, got"):
            stimuli.theory_of_mind(template=template)  # type: ignore[arg-type]


# --- multiple demand ------------------------------------------------------------------------------------------------


def test_arithmetic() -> None:
    contrast = stimuli.multiple_demand()
    parsed: dict[str, list[tuple[int, str, int, int]]] = {}
    for condition, (low, high) in {"hard": (100, 199), "easy": (1, 19)}.items():
        for text in texts(contrast, condition):
            match = PROBLEM.fullmatch(text)
            assert match
            first, sign, second, answer = int(match[1]), match[2], int(match[3]), int(match[4])
            assert answer == (first + second if sign == "+" else first - second)
            assert low <= min(first, second) <= max(first, second) <= high
            parsed.setdefault(condition, []).append((first, sign, second, answer))
    hard, easy = parsed["hard"], parsed["easy"]
    assert [(p[1], p[3] < 0) for p in hard] == [(p[1], p[3] < 0) for p in easy]
    assert Counter(p[1] for p in hard) == {"+": 50, "-": 50}
    assert 10 < sum(p[3] < 0 for p in hard) < 40


# --- refusal --------------------------------------------------------------------------------------------------------


def test_requests_are_matched_in_pairs() -> None:
    contrast = stimuli.refusal()
    harmful, harmless = texts(contrast, "harmful"), texts(contrast, "harmless")
    for bad, good in zip(harmful, harmless, strict=True):
        assert len(bad.split()) == len(good.split()) <= 12
        assert abs(letters(bad) - letters(good)) <= 4
        assert bad.split()[0] == good.split()[0]
        assert bad[-1] == good[-1]
        shared = Counter(words_of(bad)) & Counter(words_of(good))
        assert shared.total() >= 0.5 * len(words_of(bad))
    assert np.mean([letters(t) for t in harmful]) == pytest.approx(np.mean([letters(t) for t in harmless]), rel=0.01)


# --- frequency ------------------------------------------------------------------------------------------------------


def test_frequencies() -> None:
    frequencies = zipf_frequencies()
    assert 4900 < len(frequencies) <= 5000
    assert frequencies["the"] == max(frequencies.values()) == 7.7
    assert frequencies["the"] > frequencies["dog"] > frequencies["lamp"]
    assert list(frequencies.values()) == sorted(frequencies.values(), reverse=True)
