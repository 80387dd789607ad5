"""Published protocols are whole records, and ``localize`` runs each that localizes units as it is published."""

from __future__ import annotations

import inspect
from dataclasses import replace
from typing import get_args

import pytest

import modalnet as mn
from modalnet.models.sites import KINDS
from modalnet.protocols import Claim, Protocol, ProtocolContrast, Source
from modalnet.tasks.parsing import Rule
from reference import load

IDS = [
    "alkhamissi2025",
    "anhedonia2026",
    "brainscore2025",
    "dyslexia2026",
    "knockout2025",
    "micro2025",
    "syntax2026",
    "tom2026",
    "topoomni2026",
]
LOCALIZERS = [name for name in IDS if mn.protocols[name].localizer is not None]


def sources(protocol):
    return [each.source for each in (*protocol.contrasts, *protocol.tasks)]


def function(name):
    room, _, called = name.partition(".")
    return getattr({"stimuli": mn.stimuli, "tasks": mn.tasks}[room], called, None)


def test_every_file_of_the_folder_is_a_protocol():
    assert sorted(mn.protocols) == IDS
    assert list(mn.protocols.table()["id"]) == IDS


@pytest.mark.parametrize("name", IDS)
def test_a_protocol_is_a_whole_record(name):
    protocol = mn.protocols[name]
    texts = [protocol.title, protocol.citation, protocol.code, protocol.models, protocol.random_units.in_words]
    texts += [text for quirk in protocol.quirks for text in (quirk.text, quirk.consequence)]
    texts += [text for source in sources(protocol) for text in (source.published, source.generator, source.differs)]
    texts += [text for task in protocol.tasks for text in (task.name, task.scoring)]
    assert all(texts)
    assert protocol.quirks
    assert protocol.lesion.operation == "none" or protocol.claims
    assert protocol.localizer is None or protocol.localizer.units in KINDS
    assert bool(protocol.contrasts) == (protocol.localizer is not None)
    assert protocol.networks
    assert isinstance(protocol.as_released(), Protocol)


@pytest.mark.parametrize("name", IDS)
def test_what_reads_and_makes_stimuli_exists_and_takes_these_arguments(name):
    for source in sources(mn.protocols[name]):
        assert source.folder or not source.reader
        for called, given, first in (
            (source.generator, source.made_with, ()),
            (source.reader, source.read_with, (source.folder,)),
        ):
            if called:
                made = function(called)
                assert made is not None, called
                inspect.signature(made).bind(*first, **given)
                if isinstance(given.get("source"), str):
                    assert function(given["source"]) is not None
    for task in mn.protocols[name].tasks:
        assert task.parse in get_args(Rule)


def test_a_contrast_has_the_tokens_the_truncation_and_the_rule_of_its_own():
    published = mn.protocols["alkhamissi2025"]
    language, stories = published.for_contrast("language"), published.for_contrast("theory of mind")
    assert language == published
    assert (stories.localizer.tokens, stories.localizer.max_tokens) == ("mean", None)
    tom = mn.protocols["tom2026"]
    assert [tom.for_contrast(name).selection.rule for name in tom.networks] == ["top", "top", "bottom"]
    with pytest.raises(mn.InputError, match="`contrast` must be one of"):
        published.for_contrast("langauge")


def test_a_claim_about_something_else_is_refused():
    published = mn.protocols["tom2026"]
    for claim in (
        Claim("?", "loss", "faces", "mathematics"),
        Claim("?", "loss", "theory of mind", "reading"),
        Claim("?", "greater loss", "theory of mind", "mathematics", "mathematics"),
        Claim("?", "dissociation", "theory of mind", "mathematics", "multiple demand"),
    ):
        with pytest.raises(ValueError, match="names a network or task that it lacks"):
            replace(published, claims=(claim,))
    with pytest.raises(ValueError, match="which is no field"):
        replace(published, released={"lesions": ()})


# ------------------------------------------------------------------------------------------------- localize


def contrast(pictures):
    if pictures:
        return mn.stimuli.categories(n=2, size=32)
    return mn.stimuli.language(3)


@pytest.mark.parametrize("name", LOCALIZERS)
def test_localize_takes_every_protocol(name):
    localizer = mn.protocols[name].localizer
    model = load("llama" if localizer.modality == "text" else "llava_clip")
    found = mn.localize(model, contrast(localizer.modality == "image"), protocol=name, cache=False, progress=False)
    tower = localizer.towers or "decoder"
    suffix = KINDS[localizer.units].suffix
    assert found.spaces == (f"{tower}.{suffix}" if suffix else tower,)
    assert found.meta["tokens"] == dict.fromkeys(found.spaces, localizer.tokens)
    assert found.meta["magnitude"] == localizer.magnitude
    assert (found.meta["max_tokens"], found.meta["raw"]) == (localizer.max_tokens, localizer.raw)
    assert found.meta["protocol"] == name


def test_the_prompt_of_a_protocol_stands_with_pictures_that_have_no_text():
    model, pictures = load("llava_clip"), mn.stimuli.categories("words", "faces", n=2, size=32)
    prompted = [mn.Stimulus("Describe the image.", each.image, each.condition) for each in pictures.stimuli]
    options = {"units": "decoder.gate", "tokens": "mean", "magnitude": "signed"}
    expected = mn.localize(model, mn.Contrast(prompted, "words", "faces"), cache=False, progress=False, **options)
    found = mn.localize(model, pictures, protocol="dyslexia2026", cache=False, progress=False)
    assert found.t["decoder.gate"].tobytes() == expected.t["decoder.gate"].tobytes()
    asked = [mn.Stimulus("What is it?", each.image, each.condition) for each in pictures.stimuli]
    other = mn.localize(
        model, mn.Contrast(asked, "words", "faces"), protocol="dyslexia2026", cache=False, progress=False
    )
    assert other.t["decoder.gate"].tobytes() != expected.t["decoder.gate"].tobytes()


def test_other_units_and_towers_than_those_of_a_protocol():
    model, pictures = load("llava_clip"), contrast(True)
    options = {"protocol": "dyslexia2026", "cache": False, "progress": False}
    assert mn.localize(model, pictures, towers="vision", **options).spaces == ("vision.gate",)
    assert mn.localize(model, pictures, units="vision.neurons", **options).spaces == ("vision.neurons",)


@pytest.mark.parametrize(
    ("family", "pictured", "name", "message"),
    [
        ("llama", False, "knockout2025", "localizes no units"),
        ("llama", False, "micro2025", "localizes no units"),
        ("llama", True, "dyslexia2026", "for pictures, which .* does not read"),
        ("llama", True, "topoomni2026", "for pictures, which .* does not read"),
        ("vit", True, "dyslexia2026", "tests units of the decoder tower; .* has vision"),
        ("gpt2", False, "anhedonia2026", r"tests 'activation' units, what .* does not have; it has residual, .*gate"),
        ("llava_clip", True, "tom2026", "defined for text alone"),
        ("llava_clip", False, "dyslexia2026", "stimulus .* has none"),
        ("llama", False, "dyslexia", "Did you mean"),
    ],
)
def test_what_a_protocol_cannot_be_run_on_is_refused_before_any_pass(family, pictured, name, message):
    with pytest.raises(mn.InputError, match=message):
        mn.localize(load(family), contrast(pictured), protocol=name, cache=False, progress=False)


def test_a_protocol_of_ones_own():
    made = replace(
        mn.protocols["alkhamissi2025"],
        id="mine",
        contrasts=(ProtocolContrast("language", Source("sentences")),),
        claims=(),
        localizer=replace(mn.protocols["alkhamissi2025"].localizer, units="mlp", tokens="mean"),
    )
    found = mn.localize(load("llama"), contrast(False), protocol=made, cache=False, progress=False)
    assert (found.spaces, found.meta["protocol"]) == (("decoder.mlp",), "mine")
