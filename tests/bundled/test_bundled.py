"""The bundled model's world: sentences, sums and pictures are right, the test is kept apart, training resumes."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st

from modalnet.bundled import arithmetic, english, evaluate, lessons, network, scenes, train
from modalnet.bundled.split import held_out
from modalnet.stimuli.rendering import Picture

seeds = st.integers(0, 2**32 - 1)


@pytest.fixture(scope="module")
def processor():
    return network.build_processor()


# English


@pytest.mark.parametrize("phenomenon", english.PHENOMENA)
@given(seed=seeds)
@settings(max_examples=30, deadline=None)
def test_a_minimal_pair_differs_in_one_word_and_is_held_out(phenomenon, seed):
    good, bad = english.minimal_pair(np.random.default_rng(seed), phenomenon)
    different = [(a, b) for a, b in zip(good.split(), bad.split(), strict=True) if a != b]
    assert len(different) == 1
    assert held_out("sentence", good)


AGREEMENT = re.compile(r"^(this|that|these|those) (\w+) (is|was|are|were) \w+\.$")


def test_number_agrees_in_sentences_that_a_pattern_can_read():
    """A determiner, a noun and a form of be, straight after each other: read without the grammar."""
    rng = np.random.default_rng(0)
    plural = {noun.plural for noun in english.people + english.animals + english.things + english.edible}
    seen = 0
    for _ in range(20_000):
        if match := AGREEMENT.match(english.sentence(rng)):
            determiner, noun, verb = match.groups()
            many = determiner in ("these", "those")
            assert many == (noun in plural) == (verb in ("are", "were")), match[0]
            seen += 1
    assert seen > 20


@given(seed=seeds, test=st.booleans())
@settings(max_examples=50, deadline=None)
def test_sentences_are_of_their_side_of_the_split(seed, test):
    assert held_out("sentence", english.sentence_of(np.random.default_rng(seed), test)) == test


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
    verb = english._verb(entry)
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
    shapes = scenes.scene(rng, test)
    assert held_out("scene", *sorted(map(str, shapes))) == test
    for question in scenes.scene_questions(rng, shapes, 12):
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
    shapes = scenes.scene(rng, count=3)
    said = scenes.description_question(rng, shapes).answer
    places = [said.index(str(shape)) for shape in sorted(shapes, key=lambda shape: shape.x)]
    assert places == sorted(places)


@given(seed=seeds, test=st.booleans())
@settings(max_examples=40, deadline=None)
def test_pictures_are_of_their_side_of_the_split(seed, test):
    rng = np.random.default_rng(seed)
    shown = scenes.picture(rng, test)
    assert held_out("picture", shown) == test
    answers = {question.ability: question.answer for question in scenes.picture_questions(rng, shown)}
    assert answers["category"] == shown.category
    assert answers["colour"] == shown.colour


@pytest.mark.parametrize("word", ["dog", "kitchen", "mountain"])
def test_the_letters_of_a_word_stand_where_its_ink_is(word):
    shown = Picture("word", word, "black", variant=5)
    values = np.asarray(scenes.render(shown, 256, 0).convert("L"), dtype=float)
    ink = values < values.mean() - 40
    columns = np.flatnonzero(ink.any(axis=0)) / 256
    rows = np.flatnonzero(ink.any(axis=1)) / 256
    from modalnet.stimuli.rendering import word_letters

    letters = word_letters(shown, 256)
    assert "".join(letter for letter, _, _ in letters) == word
    assert all(columns.min() - 0.02 <= x <= columns.max() + 0.02 for _, x, _ in letters)
    assert all(rows.min() - 0.02 <= y <= rows.max() + 0.02 for _, _, y in letters)


# Lessons


def test_the_vocabulary_is_one_token_per_known_word(processor):
    tokenizer = processor.tokenizer
    assert len(tokenizer) == len(network.vocabulary()) == len(set(network.vocabulary()))
    assert all(len(tokenizer.tokenize(word)) == 1 for word in english.lexicon())
    assert tokenizer.tokenize("Flonk 42") == ["f", "##l", "##o", "##n", "##k", "4", "2"]
    assert tokenizer.decode(tokenizer("What colour is the circle?")["input_ids"]) == "<s> what colour is the circle?"


def test_a_lesson_depends_on_its_step_alone(processor):
    one, same = (lessons.Lessons(processor.tokenizer, seed=1)[7] for _ in range(2))
    other = lessons.Lessons(processor.tokenizer, seed=1)[8]
    assert torch.equal(one.pixels, same.pixels)
    assert torch.equal(one.tokens, same.tokens)
    assert not torch.equal(one.tokens, other.tokens)


def test_only_answers_are_learned_and_no_word_is_unknown(processor):
    lesson = lessons.Lessons(processor.tokenizer)[0]
    slots = lesson.tokens[:, lessons.PREFIX :].reshape(-1, lessons.SLOT)
    labels = lesson.labels[:, lessons.PREFIX :].reshape(-1, lessons.SLOT)
    for tokens, wanted in zip(slots[:40], labels[:40], strict=True):
        learned = processor.tokenizer.decode(wanted[wanted != lessons.IGNORED])
        text = processor.tokenizer.decode(tokens[tokens != network.PAD])
        assert text.split("?")[1].strip().startswith(learned.split(".")[0])
    everything = [lesson.tokens, *(tokens for tokens, _ in lesson.texts.values())]
    assert not any((tokens == network.UNKNOWN).any() for tokens in everything)


def test_patches_are_labelled_by_what_is_drawn_there():
    from modalnet.stimuli.rendering import Shape

    shapes = [
        Shape("star", "red", 0.3, 0.8, 0.12),
        Shape("star", "blue", 0.7, 0.2, 0.1),
        Shape("ring", "red", 0.8, 0.8, 0.1),
    ]
    labels = lessons.patch_labels(shapes).reshape(lessons.LABELS, 8, 8)
    what, colour, order, word, number, of_kind, of_colour = labels
    assert (what[6, 2], colour[6, 2], order[6, 2]) == (lessons.WHAT.index("star"), lessons.PALETTE.index("red"), 8)
    assert (number[6, 2], of_kind[6, 2], of_colour[6, 2]) == (3, 2, 2)
    assert (of_kind[6, 6], of_colour[1, 5]) == (1, 1)
    assert what[0, 0] == colour[0, 0] == order[0, 0] == 0
    assert number[0, 0] == of_kind[0, 0] == word[6, 2] == lessons.IGNORED
    printed = lessons.patch_labels(Picture("word", "garden", "black", variant=5)).reshape(lessons.LABELS, -1)
    places = {scenes.printed_words()[index] for index in printed[3][printed[3] != lessons.IGNORED]}
    assert places == {"garden"}
    assert (printed[4:] == lessons.IGNORED).all()


def test_the_words_of_a_question_point_at_what_they_stand_for(processor):
    """Mentions against the words of the question and the labels of the patches that they point at."""
    lesson = lessons.Lessons(processor.tokenizer, seed=2)[0]
    slots = lesson.tokens[:, lessons.PREFIX :].reshape(-1, lessons.SLOT)
    patches = lesson.patches.repeat_interleave(lessons.SLOTS, 0)
    kinds = set(lessons.SHAPES)
    seen = set()
    for tokens, places, referents, labels in zip(slots, lesson.mentions, lesson.referents, patches, strict=True):
        for place, where in zip(places, referents, strict=True):
            if not where.any():
                continue
            word = processor.tokenizer.convert_ids_to_tokens(int(tokens[place]))
            shown = {lessons.WHAT[index] for index in labels[0][where[1:]]}
            colours = {lessons.PALETTE[index] for index in labels[1][where[1:]]}
            if where[0]:
                assert not where[1:].any()
                seen.add("absent")
            elif word.removesuffix("s").removesuffix("e") in kinds or word in kinds:
                assert shown == {word if word in kinds else next(k for k in kinds if word in (k + "s", k + "es"))}
                seen.add("kind")
            elif word in lessons.COLOURS:
                assert colours == {word}
                seen.add("colour")
    assert seen == {"absent", "kind", "colour"}


def test_questions_side_by_side_give_what_each_gives_alone(processor, monkeypatch):
    """The slotted forward pass of the training against the stock model, one question at a time."""
    from transformers import AttentionInterface, AttentionMaskInterface

    AttentionInterface.register("slotted", train.slotted_attention)
    AttentionMaskInterface.register("slotted", lambda *_, **__: None)
    monkeypatch.setattr(lessons, "PICTURES", 2)
    lesson = lessons.Lessons(processor.tokenizer)[0]
    model = network.build_model(len(processor.tokenizer)).eval()
    learner = train.Learner(model, processor.tokenizer)
    with torch.no_grad():
        model.set_attn_implementation("slotted")
        _, _, together, pointed = learner.see(lesson.pixels, lesson.tokens)
        text = next(iter(lesson.texts.values()))[0][:3]
        read = learner.read(text)
        model.set_attn_implementation("eager")
        for slot in (0, 3, 7):
            at = lessons.PREFIX + slot * lessons.SLOT
            asked = torch.cat([lesson.tokens[:, : lessons.PREFIX], lesson.tokens[:, at : at + lessons.SLOT]], dim=1)
            alone = model.model(input_ids=asked, pixel_values=lesson.pixels).last_hidden_state
            found = together[:, at : at + lessons.SLOT]
            torch.testing.assert_close(found, alone[:, lessons.PREFIX :], atol=2e-5, rtol=1e-4)
            weights = model.model(input_ids=asked, pixel_values=lesson.pixels, output_attentions=True).attentions
            own = weights[train.POINTING][:, 0, lessons.PREFIX :, : lessons.PREFIX]
            torch.testing.assert_close(pointed.view(2, lessons.SLOTS, lessons.SLOT, -1)[:, slot].exp(), own)
        torch.testing.assert_close(read, model.model(input_ids=text).last_hidden_state, atol=2e-5, rtol=1e-4)


def test_training_that_was_stopped_goes_on_as_if_it_had_not_been(tmp_path, monkeypatch):
    monkeypatch.setattr(train, "CHECKPOINT_EVERY", 1)
    monkeypatch.setattr(lessons, "PICTURES", 2)
    monkeypatch.setattr(lessons, "GLANCES", 4)
    monkeypatch.setattr(lessons, "GLANCED", 3)
    train.train(tmp_path / "whole", (2, 2), 0, "cpu", False)

    class Stopped(Exception):
        pass

    def stop_after(step):
        def checkpoint(self, keep=train.Run._checkpoint):
            keep(self)
            if (self.stage, self.step) == step:
                raise Stopped

        return checkpoint

    for step in ((0, 1), (1, 1)):
        with monkeypatch.context() as patched:
            patched.setattr(train.Run, "_checkpoint", stop_after(step))
            with pytest.raises(Stopped):
                train.train(tmp_path / "parts", (2, 2), 0, "cpu", False)
    train.train(tmp_path / "parts", (2, 2), 0, "cpu", False)

    def final(folder):
        return torch.load(folder / "checkpoint.pt", weights_only=True)["learner"]

    whole, parts = final(tmp_path / "whole"), final(tmp_path / "parts")
    assert all(torch.equal(whole[name], parts[name]) for name in whole)
    steps = [(row["stage"], row["step"]) for row in map(json.loads, (tmp_path / "parts" / "log.jsonl").open())]
    assert steps == [(0, 1), (0, 2), (1, 1), (1, 2)]


def test_another_run_is_not_continued(tmp_path, monkeypatch):
    monkeypatch.setattr(lessons, "PICTURES", 2)
    monkeypatch.setattr(lessons, "GLANCES", 4)
    monkeypatch.setattr(lessons, "GLANCED", 3)
    train.train(tmp_path, (1, 1), 0, "cpu", False)
    with pytest.raises(ValueError, match=r"is of a run with .* \[1, 1, 0\]; this one has \[1, 2, 0\]"):
        train.train(tmp_path, (1, 2), 0, "cpu", False)


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
    asked = evaluate.items("colour", 6)
    for item, said in zip(asked, evaluate.answers(untrained, asked), strict=True):
        inputs = untrained.processor(images=[item.image], text=["<image>" + item.text], return_tensors="pt")
        made = untrained.module.generate(**inputs, max_new_tokens=3, do_sample=False, eos_token_id=None)
        text = untrained.tokenizer.decode(made[0, inputs["input_ids"].shape[1] :])
        assert text.split(".")[0].split() == said.split()


def test_items_are_held_out_and_the_same_each_time():
    for ability in ("colour", "reading", "sums"):
        for one, other in zip(evaluate.items(ability, 20), evaluate.items(ability, 20), strict=True):
            assert (one.text, one.answer) == (other.text, other.answer)
            assert (one.image is None) or np.array_equal(one.image, other.image)
    trained = {english.sentence_of(np.random.default_rng(seed), test=False) for seed in range(500)}
    assert not trained & {good for name in english.PHENOMENA for good, _ in evaluate.pairs(name, 50)}


def test_an_untrained_model_is_at_chance(untrained):
    table = evaluate.evaluate(untrained, untrained, 20, progress=False).set_index("ability")
    assert list(table.index) == [*evaluate.ABILITIES, *english.PHENOMENA]
    assert (table["accuracy"][list(evaluate.ABILITIES)] <= 0.05).all()
    assert table["no picture"].notna().sum() == 10
