"""A protocol runs twice in one call, is kept, is reported on one page, and says what it cannot run."""

from __future__ import annotations

import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
import transformers

import modalnet as mn
from modalnet.protocols import (
    Claim,
    Localizer,
    Protocol,
    ProtocolContrast,
    ProtocolTask,
    RandomUnits,
    Selection,
    Source,
)
from modalnet.replication import Replication, replicate, select
from modalnet.replication.material import Materials
from modalnet.replication.replicate import as_asked
from modalnet.tasks.generated import GeneratedChoice
from reference import load

LANGUAGE = Source(
    "sentences of theirs", generator="stimuli.language", made_with={"items": True}, differs="our sentences"
)
PROTOCOL = Protocol(
    id="toy2026",
    title="a toy",
    citation="Nobody (2026), Nothing.",
    code="none",
    models="none",
    localizer=Localizer(raw=True, max_tokens=12),
    contrasts=(ProtocolContrast("language", LANGUAGE),),
    selection=Selection(fractions=(0.05, 0.1)),
    random_units=RandomUnits(3),
    tasks=(
        ProtocolTask("sums", Source("sums of theirs", generator="tasks.arithmetic", differs="our sums"), "likelihood"),
        ProtocolTask("naming", Source("pictures", generator="tasks.lexical_decision"), "likelihood"),
    ),
    claims=(
        Claim("Language units carry sums.", "loss", "language", "sums"),
        Claim("Language units name pictures.", "loss", "language", "naming"),
        Claim("Halves share units.", "shared units", "language"),
    ),
)
WORDS = {"sentences": "The dog of man {} sleeps", "nonwords": "Fla dob ik smeep {} plorks"}
CONTRAST = mn.Contrast(
    [
        mn.Stimulus(text.format(i), condition=name, item=f"text/{i}", id=f"{name}-{i}")
        for name, text in WORDS.items()
        for i in range(8)
    ],
    "sentences",
)
DATA = {"language": CONTRAST}
SMALL = {"n_stimuli": 8, "n_items": 4, "n_controls": 2, "operations": ["zero", "mean"], "progress": False}
# Random weights are at chance on everything.
SMALL["controls_at_chance"] = True


@pytest.fixture(scope="module")
def model():
    return load("llama")


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return tmp_path_factory.mktemp("store")


@pytest.fixture(scope="module")
def made(model, store):
    return replicate(model, PROTOCOL, data=DATA, cache=store, **SMALL)


def test_as_published_is_what_its_parts_give(model, made):
    """The same units, lesion and scores, put together here from the parts."""
    localization = mn.localize(model, CONTRAST, protocol=PROTOCOL, cache=False, progress=False)
    units = select({"language": localization}, PROTOCOL.selection, fraction=0.05)
    task = mn.tasks.arithmetic(4)
    (scores,) = made.published
    assert (scores.network, scores.fraction, scores.task, scores.units) == ("language", 0.05, "sums", units.count)
    assert scores.intact.tolist() == task.run(model).scores.tolist()
    assert scores.lesioned.tolist() == task.run(model, mn.zero(units)).scores.tolist()
    drawn = units.random(3, 0, match="tower")
    assert [each.tolist() for each in scores.draws] == [task.run(model, mn.zero(one)).scores.tolist() for one in drawn]
    assert made.networks["language"]["units"] == units.count


def test_refereed_has_the_same_units_beside_matched_ones(made):
    assert made.study is not None
    assert set(made.study.settings["match"]) == {"layer", "activation", "dimension"}
    (size,) = made.study.fractions("language")
    assert size == 0.05
    assert {one.control for one in made.study.lesions} >= {"", "layer", "activation", "dimension", "least"}
    counts = {made.study.counts[one] for one in made.study.lesions if one.is_random}
    assert counts == {made.networks["language"]["units"]}


def test_what_cannot_be_run_says_why(made):
    assert made.missing == {"naming": f"it shows pictures, which {made.model} does not read"}
    claims = {claim.task: claim for claim in made.claims}
    assert claims["naming"].published == "not run"
    assert claims["naming"].sentence.endswith(made.missing["naming"])
    assert claims["sums"].refereed in {"cannot be tested", "no measurable effect"}  # two draws decide nothing
    assert [claim.claim for claim in made.claims] == [claim.text for claim in PROTOCOL.claims]


def test_what_the_intact_model_cannot_do_is_lesioned_as_published_alone(made, model, store, monkeypatch, tmp_path):
    monkeypatch.setattr(sys.modules["modalnet.replication.replicate"], "lesion_study", None)  # not called
    short = replicate(model, PROTOCOL, data=DATA, cache=store, **SMALL | {"controls_at_chance": False})
    assert short.study is None
    assert short.published_table().equals(made.published_table())
    score = f"{short.published[0].intact.mean():.3f} of 4 items"
    assert score in short.missing["sums under controls"]
    claims = {claim.task: claim for claim in short.claims}
    assert claims["sums"].refereed == "cannot be tested"
    assert claims["sums"].published == "intact model at chance"
    assert f"the intact model is at chance on sums ({score}" in claims["sums"].sentence
    short.report(tmp_path / "short.html")
    assert "sums under controls" in (tmp_path / "short.html").read_text()


def test_networks_that_no_claim_is_about_have_no_controls_of_their_own(model, store):
    both = (ProtocolContrast("language", LANGUAGE), ProtocolContrast("beside", LANGUAGE))
    known = replace(PROTOCOL, contrasts=both, tasks=PROTOCOL.tasks[:1], claims=PROTOCOL.claims[:1])
    data = DATA | {"beside": mn.Contrast(CONTRAST.stimuli, "nonwords")}
    study = replicate(model, known, data=data, cache=store, **SMALL).study
    drawn = {name: {one.control for one in study.lesions if one.network == name} for name in study.networks}
    assert drawn["language"] == {"", "layer", "activation", "dimension", "least"} | drawn["beside"]
    assert not drawn["beside"] & {"layer", "activation", "dimension"}
    # Merged from two studies, which share the items and the intact model.
    table = study.table()
    assert set(table["network"]) == {"language", "beside"}
    assert table["base"].nunique() == 1
    alone = mn.lesion_study(
        model,
        {name: mn.localize(model, data[name], protocol=PROTOCOL, cache=store, progress=False) for name in data},
        mn.tasks.arithmetic(4),
        [0.05],
        0,
        ["zero", "mean"],
        cache=store,
        progress=False,
    )
    for row in alone.table().to_dict("records"):
        (score,) = table[(table["network"] == row["network"]) & (table["operation"] == row["operation"])]["score"]
        assert score == row["score"]


def test_halves_are_tested_with_labels_permuted_within_items(made):
    shared = made.claims[2]
    assert shared.refereed in {"beyond chance", "not beyond chance"}
    assert "with permuted labels" in shared.sentence


def test_it_is_kept(made, model, tmp_path, monkeypatch):
    made.save(tmp_path / "toy.safetensors")
    again = Replication.load(tmp_path / "toy.safetensors")
    assert again.summary() == made.summary()
    assert again.table().equals(made.table())
    assert again.published_table().equals(made.published_table())
    assert repr(again) == repr(made)


def test_the_second_call_runs_nothing(made, model, store, monkeypatch):
    def run(*_, **__):
        raise AssertionError("a forward pass was run")

    monkeypatch.setattr("modalnet.execution.backends.local.LocalBackend.run", run)
    assert replicate(model, PROTOCOL, data=DATA, cache=store, **SMALL).summary() == made.summary()


def test_the_page_has_every_claim_and_nothing_from_elsewhere(made, tmp_path):
    made.report(tmp_path / "toy.html")
    page = (tmp_path / "toy.html").read_text()
    for text in (
        "Language units carry sums.",
        "as published",
        "refereed",
        "given by the user",
        "our sums",
        "it shows pictures",
    ):
        assert text in page
    assert 'src="http' not in page
    assert "<script" not in page
    assert "data:image/png;base64" in page
    with pytest.raises(mn.InputError, match=r"saved as .html"):
        made.report(tmp_path / "toy.pdf")


def test_text_in_a_protocol_is_no_markup(made, tmp_path):
    bad = replace(made, about=made.about | {"title": "<script>alert(1)</script>"})
    bad.report(tmp_path / "toy.html")
    assert "<script" not in (tmp_path / "toy.html").read_text()


def test_figure_has_a_row_for_every_run(made):
    (panel,) = made.plot()
    assert [label.get_text() for label in panel.get_yticklabels()] == [
        "as published",
        "refereed, zero",
        "refereed, mean",
    ]
    import matplotlib.pyplot as plt

    plt.close("all")


@pytest.mark.parametrize(
    ("protocol", "told"),
    [
        ("dyslexia2026", "dyslexia2026 needs a model that reads pictures .*has the towers decoder alone"),
        ("knockout2025", "knockout2025 needs a model that reads pictures"),
        ("micro2025", "micro2025 needs units of the kind 'experts'"),
        ("nobody2026", "`protocol` must be one of 'alkhamissi2025'"),
    ],
)
def test_a_model_that_lacks_what_a_protocol_needs(model, protocol, told):
    with pytest.raises(mn.InputError, match=told):
        replicate(model, protocol)


def test_a_model_without_a_gate_has_no_activations_of_one():
    with pytest.raises(mn.InputError, match="anhedonia2026 needs units of the kind 'activation'"):
        replicate(load("gpt2"), "anhedonia2026")


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"n_items": 1}, "`n_items` must be an integer of at least 2|`n_items` must be"),
        ({"fractions": [2.0]}, "`fractions` must be"),
        ({"operations": ["hide"]}, "`operations` must be"),
        ({"as_released": "yes"}, "`as_released` must be"),
        ({"sheet": {"decoder": np.zeros((4, 48, 2))}}, "`sheet` is for protocols that smooth"),
        ({"data": "/nowhere"}, "which is no folder"),
        ({"data": {"faces": "generate"}}, "must name contrasts or tasks of toy2026"),
    ],
)
def test_bad_input_is_refused_before_anything_runs(model, monkeypatch, given, told):
    monkeypatch.setattr(sys.modules["modalnet.replication.replicate"], "localize", None)
    with pytest.raises(mn.InputError, match=told):
        replicate(model, PROTOCOL, **given)


def test_as_released_changes_what_it_says(model):
    released = replace(
        PROTOCOL, released={"selection": Selection(fractions=(0.1,))}, tasks=PROTOCOL.tasks[:1], claims=()
    )
    made = replicate(
        model, released, data=DATA, as_released=True, cache=False, **SMALL | {"n_controls": 0, "operations": ["mean"]}
    )
    assert made.as_released
    assert made.published[0].fraction == 0.1
    assert "as its code was released" in made.summary()


def test_experts_of_a_mixture_are_networks():
    """A mixture with another number of experts than the publication's has no named ones."""
    config = transformers.MixtralConfig(
        vocab_size=len(load("llama").tokenizer),
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        num_local_experts=3,
        num_experts_per_tok=1,
    )
    torch.manual_seed(0)
    model = mn.load(transformers.MixtralForCausalLM(config).eval(), tokenizer=load("llama").tokenizer)
    tasks = {"mathematics": mn.tasks.arithmetic(3), "theory of mind": mn.tasks.theory_of_mind(n=3)}
    small = SMALL | {"n_controls": 0, "operations": ["zero"]}
    made = replicate(model, "micro2025", data=tasks, cache=False, **small)
    n = next(space for space in model.spaces.values() if space.kind == "experts").width
    assert list(made.networks) == [f"expert {i}" for i in range(n)]
    assert all(claim.refereed == "cannot be tested" for claim in made.claims)
    assert np.isfinite(made.published_table()["drop"]).all()


@pytest.mark.parametrize("id", mn.protocols)
def test_every_set_that_is_made_can_be_asked_as_published(id):
    """The rule that reads generated answers fits the prompts, whatever set stands in for the published one."""
    protocol = mn.protocols[id]
    materials = Materials(protocol, n_items=4)
    for spec in protocol.tasks:
        if spec.source.generator:
            asked = as_asked(spec, materials.task(spec)[0])
            assert isinstance(asked, GeneratedChoice) == spec.generated


def test_options_that_a_rule_names_are_listed_once():
    (spec,) = (each for each in mn.protocols["tom2026"].tasks if each.name == "false beliefs")
    asked = as_asked(spec, mn.tasks.theory_of_mind(n=2))
    for stimulus in asked.stimuli():
        assert stimulus.text.endswith("\nA. True\nB. False\nAnswer:")
        assert stimulus.text.count("Answer:") == 1
    assert asked.grade([" " + "AB"[one.answer] + "." for one in asked.questions]).tolist() == [1.0, 1.0]
