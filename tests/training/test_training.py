"""Training of the bundled model: batches and their labels, the slotted forward pass, and runs that resume."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch

from modalnet.bundled import lexicon, visual_questions
from modalnet.stimuli.rendering import Picture
from training import data, learner, network, train


@pytest.fixture(scope="module")
def processor():
    return network.build_processor()


def test_the_vocabulary_is_one_token_per_known_word(processor):
    tokenizer = processor.tokenizer
    assert len(tokenizer) == len(network.vocabulary()) == len(set(network.vocabulary()))
    assert all(len(tokenizer.tokenize(word)) == 1 for word in lexicon.lexicon())
    assert tokenizer.tokenize("Flonk 42") == ["f", "##l", "##o", "##n", "##k", "4", "2"]
    assert tokenizer.decode(tokenizer("What colour is the circle?")["input_ids"]) == "<s> what colour is the circle?"


def test_a_batch_depends_on_its_step_alone(processor):
    one, same = (data.JointBatches(processor.tokenizer, seed=1)[7] for _ in range(2))
    other = data.JointBatches(processor.tokenizer, seed=1)[8]
    assert torch.equal(one.pixels, same.pixels)
    assert torch.equal(one.tokens, same.tokens)
    assert not torch.equal(one.tokens, other.tokens)


def test_only_answers_are_learned_and_no_word_is_unknown(processor):
    batch = data.JointBatches(processor.tokenizer)[0]
    slots = batch.tokens[:, data.PREFIX :].reshape(-1, data.SLOT)
    labels = batch.labels[:, data.PREFIX :].reshape(-1, data.SLOT)
    for tokens, wanted in zip(slots[:40], labels[:40], strict=True):
        learned = processor.tokenizer.decode(wanted[wanted != data.IGNORED])
        text = processor.tokenizer.decode(tokens[tokens != network.PAD])
        assert text.split("?")[1].strip().startswith(learned.split(".")[0])
    everything = [batch.tokens, *(tokens for tokens, _ in batch.texts.values())]
    assert not any((tokens == network.UNKNOWN).any() for tokens in everything)


def test_patches_are_labelled_by_what_is_drawn_there():
    from modalnet.stimuli.rendering import Shape

    shapes = [
        Shape("star", "red", 0.3, 0.8, 0.12),
        Shape("star", "blue", 0.7, 0.2, 0.1),
        Shape("ring", "red", 0.8, 0.8, 0.1),
    ]
    labels = data.patch_labels(shapes).reshape(data.LABELS, 8, 8)
    what, colour, order, word, number, of_kind, of_colour = labels
    assert (what[6, 2], colour[6, 2], order[6, 2]) == (data.CONTENTS.index("star"), data.PALETTE.index("red"), 8)
    assert (number[6, 2], of_kind[6, 2], of_colour[6, 2]) == (3, 2, 2)
    assert (of_kind[6, 6], of_colour[1, 5]) == (1, 1)
    assert what[0, 0] == colour[0, 0] == order[0, 0] == 0
    assert number[0, 0] == of_kind[0, 0] == word[6, 2] == data.IGNORED
    printed = data.patch_labels(Picture("word", "garden", "black", variant=5)).reshape(data.LABELS, -1)
    places = {visual_questions.printed_words()[index] for index in printed[3][printed[3] != data.IGNORED]}
    assert places == {"garden"}
    assert (printed[4:] == data.IGNORED).all()


def test_the_words_of_a_question_point_at_what_they_stand_for(processor):
    """Mentions against the words of the question and the labels of the patches that they point at."""
    batch = data.JointBatches(processor.tokenizer, seed=2)[0]
    slots = batch.tokens[:, data.PREFIX :].reshape(-1, data.SLOT)
    patches = batch.patches.repeat_interleave(data.SLOTS, 0)
    kinds = set(data.SHAPES)
    seen = set()
    for tokens, places, referents, labels in zip(slots, batch.mentions, batch.referents, patches, strict=True):
        for place, where in zip(places, referents, strict=True):
            if not where.any():
                continue
            word = processor.tokenizer.convert_ids_to_tokens(int(tokens[place]))
            shown = {data.CONTENTS[index] for index in labels[0][where[1:]]}
            colours = {data.PALETTE[index] for index in labels[1][where[1:]]}
            if where[0]:
                assert not where[1:].any()
                seen.add("absent")
            elif word.removesuffix("s").removesuffix("e") in kinds or word in kinds:
                assert shown == {word if word in kinds else next(k for k in kinds if word in (k + "s", k + "es"))}
                seen.add("kind")
            elif word in data.COLOURS:
                assert colours == {word}
                seen.add("colour")
    assert seen == {"absent", "kind", "colour"}


def test_questions_side_by_side_give_what_each_gives_alone(processor, monkeypatch):
    """The slotted forward pass of the training against the stock model, one question at a time."""
    from transformers import AttentionInterface, AttentionMaskInterface

    AttentionInterface.register("slotted", learner.slotted_attention)
    AttentionMaskInterface.register("slotted", lambda *_, **__: None)
    monkeypatch.setattr(data, "PICTURES", 2)
    batch = data.JointBatches(processor.tokenizer)[0]
    model = network.build_model(len(processor.tokenizer)).eval()
    training_model = learner.Learner(model, processor.tokenizer)
    with torch.no_grad():
        model.set_attn_implementation("slotted")
        _, _, together, pointed = training_model.forward_pictures(batch.pixels, batch.tokens)
        text = next(iter(batch.texts.values()))[0][:3]
        read = training_model.forward_text(text)
        model.set_attn_implementation("eager")
        for slot in (0, 3, 7):
            at = data.PREFIX + slot * data.SLOT
            asked = torch.cat([batch.tokens[:, : data.PREFIX], batch.tokens[:, at : at + data.SLOT]], dim=1)
            alone = model.model(input_ids=asked, pixel_values=batch.pixels).last_hidden_state
            found = together[:, at : at + data.SLOT]
            torch.testing.assert_close(found, alone[:, data.PREFIX :], atol=2e-5, rtol=1e-4)
            weights = model.model(input_ids=asked, pixel_values=batch.pixels, output_attentions=True).attentions
            own = weights[learner.POINTING][:, 0, data.PREFIX :, : data.PREFIX]
            torch.testing.assert_close(pointed.view(2, data.SLOTS, data.SLOT, -1)[:, slot].exp(), own)
        torch.testing.assert_close(read, model.model(input_ids=text).last_hidden_state, atol=2e-5, rtol=1e-4)


@pytest.fixture
def small_batches(monkeypatch):
    monkeypatch.setattr(data, "PICTURES", 2)
    monkeypatch.setattr(data, "ENCODER_PICTURES", 4)
    monkeypatch.setattr(data, "UNQUESTIONED_PICTURES", 3)
    for kind, shape in data.TEXTS.items():
        monkeypatch.setitem(data.TEXTS, kind, replace(shape, rows=2))


def test_training_that_was_stopped_goes_on_as_if_it_had_not_been(tmp_path, monkeypatch, small_batches):
    monkeypatch.setattr(train, "CHECKPOINT_EVERY", 1)
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
    steps = [
        (row["stage"], row["step"])
        for row in map(json.loads, (tmp_path / "parts" / "log.jsonl").read_text().splitlines())
    ]
    assert steps == [(0, 1), (0, 2), (1, 1), (1, 2)]


def test_another_run_is_not_continued(tmp_path, small_batches):
    train.train(tmp_path, (1, 1), 0, "cpu", False)
    with pytest.raises(ValueError, match=r"belongs to a run with .* \[1, 1, 0\], not \[1, 2, 0\]"):
        train.train(tmp_path, (1, 2), 0, "cpu", False)
