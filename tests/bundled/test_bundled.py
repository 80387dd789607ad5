"""The bundled model's material: sentences, sums and pictures are correct, and test items are held out."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st

from modalnet.bundled import arithmetic, evaluate, grammar, items, lexicon, minimal_pairs, visual_questions
from modalnet.bundled.split import held_out
from modalnet.stimuli.rendering import Picture
from training import network

seeds = st.integers(0, 2**32 - 1)


@pytest.fixture(scope="module")
def processor():
    return network.build_processor()


# English


@pytest.mark.parametrize("phenomenon", minimal_pairs.PHENOMENA)
@given(seed=seeds)
@settings(max_examples=30, deadline=None)
def test_a_minimal_pair_differs_in_one_word_and_is_held_out(phenomenon, seed):
    good, bad = minimal_pairs.minimal_pair(np.random.default_rng(seed), phenomenon)
    different = [(a, b) for a, b in zip(good.split(), bad.split(), strict=True) if a != b]
    assert len(different) == 1
    assert held_out("sentence", good)


AGREEMENT = re.compile(r"^(this|that|these|those) (\w+) (is|was|are|were) \w+\.$")


def test_number_agrees_in_sentences_that_a_pattern_can_read():
    """A determiner, a noun and a form of be, straight after each other: read without the grammar."""
    rng = np.random.default_rng(0)
    plural = {noun.plural for noun in lexicon.PEOPLE + lexicon.ANIMALS + lexicon.THINGS + lexicon.FOODS}
    seen = 0
    for _ in range(20_000):
        if match := AGREEMENT.match(grammar.sentence(rng)):
            determiner, noun, verb = match.groups()
            many = determiner in ("these", "those")
            assert many == (noun in plural) == (verb in ("are", "were")), match[0]
            seen += 1
    assert seen > 20


@given(seed=seeds, test=st.booleans())
@settings(max_examples=50, deadline=None)
def test_sentences_are_of_their_side_of_the_split(seed, test):
    assert held_out("sentence", grammar.sentence_of_split(np.random.default_rng(seed), test)) == test


def test_one_name_in_ten_is_held_out():
    assert 0.08 < np.mean([held_out("name", i) for i in range(20_000)]) < 0.12


@pytest.mark.parametrize(
    ("entry", "forms"),
    [
        ("sing:sang:sung", ("sing", "sings", "sang", "sung", "singing")),
        ("carry", ("carry", "carries", "carried", "carried", "carrying")),
        ("hope", ("hope", "hopes", "hoped", "hoped", "hoping")),
        ("hug", ("hug", "hugs", "hugged", "hugged", "hugging")),
        ("die", ("die", "dies", "died", "died", "dying")),
        ("watch", ("watch", "watches", "watched", "watched", "watching")),
        ("go:went:gone", ("go", "goes", "went", "gone", "going")),
        ("play", ("play", "plays", "played", "played", "playing")),
        ("see:saw:seen", ("see", "sees", "saw", "seen", "seeing")),
    ],
)
def test_forms_of_verbs(entry, forms):
    verb = lexicon._verb(entry)
    assert (verb.base, verb.third, verb.past, verb.participle, verb.ing) == forms


# Sums

VALUES = {arithmetic.in_words(number): number for number in range(100)}


@given(seed=seeds, test=st.booleans())
def test_sums_are_right(seed, test):
    question, answer = arithmetic.sum_item(np.random.default_rng(seed), test)
    first, operation, second = re.fullmatch(r"what is (.+) (plus|minus) (.+)\?", question).groups()
    a, b = VALUES[first], VALUES[second]
    assert VALUES[answer] == (a + b if operation == "plus" else a - b)
    assert held_out("sum", a, operation, b) == test


@given(seed=seeds, test=st.booleans())
def test_comparisons_are_right(seed, test):
    question, answer = arithmetic.comparison_item(np.random.default_rng(seed), test)
    if match := re.fullmatch(r"which is (more|less), (.+) or (.+)\?", question):
        which, *terms = match.groups()
        a, b = (VALUES[term] for term in terms)
        assert VALUES[answer] == (max(a, b) if which == "more" else min(a, b))
    else:
        first, which, second = re.fullmatch(r"is (.+) (more|less) than (.+)\?", question).groups()
        a, b = VALUES[first], VALUES[second]
        assert answer == ("yes" if (a > b) == (which == "more") else "no")
    assert held_out("comparison", *sorted((a, b))) == test


# Pictures


@given(seed=seeds, test=st.booleans())
@settings(max_examples=60, deadline=None)
def test_questions_about_scenes_are_right(seed, test):
    rng = np.random.default_rng(seed)
    shapes = visual_questions.scene(rng, test)
    assert held_out("scene", *sorted(map(str, shapes))) == test
    for question in visual_questions.scene_questions(rng, shapes, 12):
        assert answer_to(question, shapes) == question.answer, question


def answer_to(question, shapes):  # noqa: PLR0911  # one for each kind of question
    """The answer, worked out from the question's words."""
    words = question.text.removesuffix("?").split()
    if question.ability == "colour":
        (match,) = [shape.colour for shape in shapes if shape.kind == words[-1]]
        return match
    if question.ability == "shape":
        (match,) = [shape.kind for shape in shapes if shape.colour == words[-1]]
        return match
    if question.ability == "count":
        named = words[2:-2]
        fits = [
            shape
            for shape in shapes
            if all(word in (shape.colour, "shapes", shape.kind + "s", shape.kind + "es") for word in named)
        ]
        return ("zero", "one", "two", "three", "four", "five")[len(fits)]
    if question.ability == "position":
        first, second = (part.split() for part in " ".join(words[3:]).split(" from the "))
        (a,) = [s for s in shapes if [s.colour, s.kind] == first]
        (b,) = [s for s in shapes if [s.colour, s.kind] == second]
        if abs(a.x - b.x) > abs(a.y - b.y):
            return "left" if a.x < b.x else "right"
        return "above" if a.y < b.y else "below"
    if question.ability == "place":
        (shape,) = [s for s in shapes if [s.colour, s.kind] == words[3:]]
        row, column = (min(2, int(3 * place)) for place in (shape.y, shape.x))
        return f"{('top', '', 'bottom')[row]} {('left', '', 'right')[column]}".strip() or "middle"
    if question.ability == "presence":
        named = words[3:]
        return "yes" if any(set(named) <= {s.colour, s.kind} for s in shapes) else "no"
    ordered = [str(shape) for shape in sorted(shapes, key=lambda shape: shape.x)]
    return re.sub(", (?=[^,]*$)", " and ", ", ".join(("an " if s[0] == "o" else "a ") + s for s in ordered))


def test_a_description_lists_the_shapes_from_left_to_right():
    rng = np.random.default_rng(3)
    shapes = visual_questions.scene(rng, count=3)
    said = visual_questions.description_question(rng, shapes).answer
    places = [said.index(str(shape)) for shape in sorted(shapes, key=lambda shape: shape.x)]
    assert places == sorted(places)


@given(seed=seeds, test=st.booleans())
@settings(max_examples=40, deadline=None)
def test_pictures_are_of_their_side_of_the_split(seed, test):
    rng = np.random.default_rng(seed)
    shown = visual_questions.picture(rng, test)
    assert held_out("picture", shown) == test
    answers = {question.ability: question.answer for question in visual_questions.picture_questions(rng, shown)}
    assert answers["category"] == shown.category
    assert answers["colour"] == shown.colour


@pytest.mark.parametrize("word", ["dog", "kitchen", "mountain"])
def test_the_letters_of_a_word_stand_where_its_ink_is(word):
    shown = Picture("word", word, "black", variant=5)
    values = np.asarray(visual_questions.render(shown, 256, 0).convert("L"), dtype=float)
    ink = values < values.mean() - 40
    columns = np.flatnonzero(ink.any(axis=0)) / 256
    rows = np.flatnonzero(ink.any(axis=1)) / 256
    from modalnet.stimuli.rendering import word_letters

    letters = word_letters(shown, 256)
    assert "".join(letter for letter, _, _ in letters) == word
    assert all(columns.min() - 0.02 <= x <= columns.max() + 0.02 for _, x, _ in letters)
    assert all(rows.min() - 0.02 <= y <= rows.max() + 0.02 for _, _, y in letters)


# Evaluation: how answers and preferences are read off a model, here an untrained one


@pytest.fixture(scope="module")
def untrained(processor):
    import modalnet as mn

    return mn.load(network.build_model(len(processor.tokenizer), seed=3), processor=processor)


def test_log_probabilities_are_those_of_plain_transformers(untrained):
    sentences = ["the dog sleeps.", "the old keys near the box are small."]
    found = evaluate.log_probabilities(untrained, sentences)
    for sentence, total in zip(sentences, found, strict=True):
        inputs = untrained.tokenizer(sentence, return_tensors="pt")
        with torch.no_grad():
            loss = untrained.module(input_ids=inputs["input_ids"], labels=inputs["input_ids"]).loss
        assert total == pytest.approx(-float(loss) * (inputs["input_ids"].shape[1] - 1), rel=1e-4)


def test_answers_are_those_of_plain_transformers(untrained):
    asked = items.items("colour", 6)
    for item, said in zip(asked, evaluate.answers(untrained, asked), strict=True):
        inputs = untrained.processor(images=[item.image], text=["<image>" + item.text], return_tensors="pt")
        made = untrained.module.generate(**inputs, max_new_tokens=3, do_sample=False, eos_token_id=None)
        text = untrained.tokenizer.decode(made[0, inputs["input_ids"].shape[1] :])
        assert text.split(".")[0].split() == said.split()


@pytest.mark.parametrize(("trained", "restricted"), [(True, False), (False, True)])
def test_right_answers_are_those_that_are_given(untrained, trained, restricted):
    import modalnet as mn

    model = mn.load("tiny") if trained else untrained
    for ability, image in (("count", True), ("mood", False), ("described", True), ("sums", True)):
        asked = items.items(ability, 8)
        among = sorted({item.answer for item in asked}) if restricted else None
        said = evaluate.answers(model, asked, image=image, among=among)
        expected = [text == item.answer for text, item in zip(said, asked, strict=True)]
        assert evaluate.answered(model, asked, image=image, among=among) == expected
    # What it says itself is right, whatever that is and however long.
    said = evaluate.answers(model, asked, among=["one two", "red"])
    given = [items.Item(item.text, text, item.image) for item, text in zip(asked, said, strict=True)]
    assert all(evaluate.answered(model, given, among=["one two", "red"]))


def test_items_are_held_out_and_the_same_each_time():
    for ability in ("colour", "reading", "sums"):
        for one, other in zip(items.items(ability, 20), items.items(ability, 20), strict=True):
            assert (one.text, one.answer) == (other.text, other.answer)
            assert (one.image is None) or np.array_equal(one.image, other.image)
    trained = {grammar.sentence_of_split(np.random.default_rng(seed), test=False) for seed in range(500)}
    assert not trained & {good for name in minimal_pairs.PHENOMENA for good, _ in items.pairs(name, 50)}


def test_an_untrained_model_is_at_chance(untrained):
    table = evaluate.evaluate(untrained, untrained, 20, progress=False).set_index("ability")
    assert list(table.index) == [*items.ABILITIES, *minimal_pairs.PHENOMENA]
    assert (table["accuracy"][list(items.ABILITIES)] <= 0.05).all()
    assert table["no picture"].notna().sum() == 10
