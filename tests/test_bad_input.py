"""Bad input is met at the door: an error that names what was given and what to do, before anything runs.

What concerns stimuli, images and contrasts alone is in test_stimuli and test_images, what concerns selection in
test_localization_result; here they meet a model.
"""

from __future__ import annotations

import inspect
import os
import re
import signal
import subprocess
import sys
import time
import warnings
from functools import lru_cache
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import modalnet as mn
from concurrent_runs import forty
from families import FAMILIES, build, picture
from modalnet.execution.backends.local import LocalBackend
from modalnet.execution.engine import Engine
from public_api import CALLABLES
from reference import REFUSED, TEXT_ONLY, TEXTS, VISION_ONLY, load
from versions import since

HERE = Path(__file__).parent
MULTIMODAL = [name for name in FAMILIES if name not in (*TEXT_ONLY, *VISION_ONLY, *REFUSED, "clip")]


def localize(model, contrast, **options):
    return mn.localize(model, contrast, **{"cache": False, "progress": False} | options)


def contrast(make, n=4):
    return mn.Contrast([make(i) for i in range(n)], "a", "b")


def texts(i):
    return mn.Stimulus(f"{TEXTS[i % 3]} {i}", condition="ab"[i % 2])


def images(i):
    return mn.Stimulus(image=picture(i, 40, 40), condition="ab"[i % 2])


def both(i):
    return mn.Stimulus(TEXTS[i % 3], image=picture(i, 40, 40), condition="ab"[i % 2])


@pytest.fixture(autouse=True)
def _count_forwards(monkeypatch):
    real = Engine.run

    def run(engine, inputs, plan):
        run.calls += 1
        return real(engine, inputs, plan)

    run.calls = 0
    monkeypatch.setattr(Engine, "run", run)


def refused(message, call):
    """An InputError that says so, raised before the model ran."""
    calls = Engine.run.calls
    with pytest.raises(mn.InputError, match=message):
        call()
    assert Engine.run.calls == calls


# ------------------------------------------------------------------------------------------------- wrong kind


def test_text_for_an_image_model():
    model = load("vit")
    refused(r"stimulus 'What is this\?' has text, but ViTModel reads images only.*image", lambda: model.run(TEXTS))
    refused(r"ViTModel.*(use image stimuli|reads images only)", lambda: localize(model, contrast(texts)))
    refused(r"has text, but ViTModel reads images only; leave out its text", lambda: localize(model, contrast(both)))


def test_images_for_a_language_model():
    message = r"has an image, but GPT2LMHeadModel reads text only; use text stimuli or a vision-language model"
    for make in (images, both):
        refused(message, lambda make=make: localize(load("gpt2"), contrast(make)))
        refused(message, lambda make=make: load("gpt2").run([make(0)]))


def test_one_image_among_texts_is_found():
    stimuli = [*(texts(i) for i in range(4)), mn.Stimulus(image=picture(0, 9, 9), condition="a", id="the odd one")]
    refused("stimulus the odd one has an image", lambda: localize(load("gpt2"), mn.Contrast(stimuli, "a")))


@pytest.mark.parametrize("name", ["mllama", "blip2"])
def test_text_for_a_model_that_cannot_go_without_an_image(name):
    """Mllama leaves blocks out on text alone, BLIP-2 does not run at all."""
    with pytest.raises(mn.InputError, match=r"text|image"):
        load(name).run(["a dog"])
    with pytest.raises(mn.InputError, match=r"text|image"):
        localize(load(name), contrast(texts))


def test_towers_that_the_stimuli_do_not_reach():
    model = load("llava_clip")
    refused(
        r"does not reach the vision tower: it has no image", lambda: localize(model, contrast(texts), towers="vision")
    )
    mixed = mn.Contrast([*(both(i) for i in range(4)), *(texts(i) for i in range(2))], "a")
    refused(r"Stimulus .* does not reach the vision tower", lambda: localize(model, mixed, towers=["vision"]))
    assert localize(model, mixed).towers == ("decoder",)
    refused(
        r"`towers` must be among the towers of .*'vision', 'decoder'.*got 'visoin'. Did you mean 'vision'",
        lambda: localize(model, contrast(both), towers="visoin"),
    )
    refused(
        r"`towers` must name one or several towers of .*got \[\]", lambda: localize(model, contrast(both), towers=[])
    )
    refused(r"`towers` must name one or several towers of .*got 3", lambda: localize(model, contrast(both), towers=3))


# ------------------------------------------------------------------------------------------------- contrasts


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: mn.Contrast([], "a"), r"`stimuli` is empty; a contrast needs stimuli"),
        (lambda: mn.Contrast([texts(0), texts(2)], "a"), r"negative side of the contrast is empty.*a \(2\)"),
        (lambda: mn.Contrast([texts(0), texts(1), texts(3)], "a"), r"positive side .* at least 2 stimuli, got 1"),
        (lambda: mn.Contrast([texts(i) for i in range(4)], "c"), r"positive condition 'c'.*a \(2\), b \(2\)"),
        (lambda: mn.Contrast([texts(i) for i in range(4)], "a", "c"), r"negative condition 'c'"),
        (lambda: mn.Contrast([texts(i) for i in range(4)], "a", ["a", "b"]), r"both sides.*a"),
        (lambda: mn.Contrast([mn.Stimulus("x")] * 4, "a"), r"no condition"),
        (lambda: mn.Stimulus(""), r"empty"),
        (lambda: mn.Stimulus("  \n "), r"empty"),
        (mn.Stimulus, r"has none of them"),
    ],
)
def test_contrasts_that_are_none(make, message):
    refused(message, make)


@pytest.mark.parametrize("given", [None, 3, "a dog", [texts(0)], {"a": []}])
def test_what_is_no_contrast(given):
    refused(r"`contrast` must be a Contrast, got .*Make one", lambda: localize(load("gpt2"), given))


@pytest.mark.parametrize("given", [None, 3, [], [3], [None], [picture(0, 9, 9)], {}])
def test_what_is_no_stimulus(given):
    refused(r"(?i)stimul", lambda: load("gpt2").run(given))


def test_empty_strings():
    refused("empty", lambda: load("gpt2").run([""]))
    refused("empty", lambda: load("gpt2").run(["a dog", " "]))


def test_a_text_of_which_the_tokenizer_makes_nothing():
    from tokenizers import normalizers

    family = FAMILIES["gpt2"]()
    family.tokenizer.backend_tokenizer.normalizer = normalizers.Replace("…", "")
    model = mn.load(family.model, tokenizer=family.tokenizer)
    refused(r"no tokens for the text '…'", lambda: model.run(["a dog", "…"]))


# ------------------------------------------------------------------------------------------------- too long


def test_texts_longer_than_the_context():
    long = mn.Stimulus("dog " * 200, condition="a", id="too long")
    message = r"Stimulus too long has \d+ tokens, more than the maximum of 128 of GPT2LMHeadModel.*Shorten"
    refused(message, lambda: load("gpt2").run([long]))
    refused(message, lambda: localize(load("gpt2"), mn.Contrast([*(texts(i) for i in range(4)), long], "a")))
    fits = "dog" + " dog" * 120
    assert 100 < len(load("gpt2").tokenizer(fits)["input_ids"]) <= 128
    load("gpt2").run([fits])
    cut = mn.Contrast([*(texts(i) for i in range(4)), long], "a")
    assert localize(load("gpt2"), cut, protocol="alkhamissi2025").n == {"a": 3, "b": 2}


def test_a_text_with_an_image_longer_than_the_context():
    long = mn.Stimulus("dog " * 600, image=picture(0, 40, 40), id="too long")
    with pytest.raises(mn.InputError, match=r"Stimulus too long has \d+ tokens, more than the maximum of 512"):
        load("llava_clip").run([long])


# ------------------------------------------------------------------------------------------------- images


def with_file(path):
    stimuli = [both(i) for i in range(4)]
    return mn.Contrast([*stimuli, mn.Stimulus("x", image=path, condition="a")], "a", "b")


def test_files_that_are_no_image_are_found_before_the_first_forward_pass(tmp_path):
    notes = tmp_path / "notes.png"
    notes.write_text("hello")
    whole = tmp_path / "whole.png"
    picture(0, 200, 200).save(whole)
    cut = tmp_path / "cut.png"
    cut.write_bytes(whole.read_bytes()[:-2000])
    for path in (notes, cut):
        for name in ("llava_clip", "qwen2_5_vl"):
            refused(rf"{path.name}", lambda path=path, name=name: localize(load(name), with_file(path)))
    refused(r"missing\.png", lambda: with_file(tmp_path / "missing.png"))


def test_a_decompression_bomb(tmp_path, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10_000)
    picture(0, 200, 200).save(tmp_path / "bomb.png")
    refused(r"bomb\.png", lambda: localize(load("llava_clip"), with_file(tmp_path / "bomb.png")))


def odd_pictures():
    rng = np.random.default_rng(0)
    yield "CMYK", picture(0, 50, 40).convert("CMYK")
    yield "alpha", picture(0, 50, 40).convert("RGBA")
    yield "palette", picture(0, 50, 40).convert("P")
    yield "gray", picture(0, 50, 40).convert("L")
    yield "bilevel", picture(0, 50, 40).convert("1")
    yield "16 bit", rng.integers(0, 2**16, (40, 50), dtype=np.uint16)
    yield "array", np.array(picture(0, 50, 40))
    yield "float", rng.random((40, 50, 3))


@pytest.mark.parametrize("name", ["llava_clip", "idefics3", "qwen2_5_vl", "vit"])
def test_odd_pictures_work(name):
    model = load(name)
    for kind, source in odd_pictures():
        stimulus = mn.Stimulus(None if name == "vit" else "A dog.", image=source)
        read = model.run([stimulus], tokens="mean").residual["vision"]
        assert read.isfinite().all(), kind


@pytest.mark.parametrize("size", [(1, 1), (2, 1), (1, 40), (40, 1), (3, 3)])
@pytest.mark.parametrize("name", [*MULTIMODAL, *VISION_ONLY])
def test_tiny_and_thin_pictures_work_or_the_stimulus_is_named(name, size):
    model = load(name)
    stimulus = mn.Stimulus(None if name in VISION_ONLY else "A dog.", image=picture(0, *size), id="a speck")
    try:
        read = model.run([stimulus], read=["vision"], tokens="mean").residual["vision"]
    except mn.InputError as error:
        assert f"cannot process stimulus a speck (images of {size[0]}x{size[1]} pixels)" in str(error)  # noqa: PT017
    else:
        assert read.isfinite().all()


def test_an_animation_is_refused(tmp_path):
    frames = [picture(i, 40, 40) for i in range(3)]
    frames[0].save(tmp_path / "moving.gif", save_all=True, append_images=frames[1:])
    refused(r"moving\.gif.*frame", lambda: localize(load("llava_clip"), with_file(tmp_path / "moving.gif")))


@since("5.16")
def test_placeholders_that_do_not_match_the_images():
    two = mn.Stimulus("<image><image> compare", image=picture(0, 40, 40), id="odd")
    refused(r"stimulus odd .*(images|tokens)", lambda: load("llava_clip").run([two]))


# ------------------------------------------------------------------------------------------------- arguments


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"magnitude": "abs"}, r"`magnitude` must be one of 'absolute', 'signed', got 'abs'"),
        ({"protocol": "alkhamissi2024"}, r"`protocol` must be one of 'alkhamissi2025', .*got 'alkhamissi2024'"),
        ({"protocol": "alkhamissi2025", "tokens": "mean"}, r"fixes `tokens` to 'last' and `magnitude` to 'absolute'"),
        (
            {"protocol": "alkhamissi2025", "magnitude": "signed"},
            r"fixes `tokens` to 'last' and `magnitude` to 'absolute'",
        ),
        ({"tokens": "all"}, r"`tokens` must pool over tokens, got 'all'.*'mean'"),
        ({"tokens": "first"}, r"`tokens` must be .* got 'first'"),
        ({"tokens": {"vision": "mean"}}, r"keys among what is read .*, got 'vision'"),
        ({"tokens": [500]}, r"selects token 500, but stimulus .* has \d+ tokens"),
        ({"tokens": "image"}, r"has no image tokens in the decoder tower"),
        ({"tokens": "cls"}, r"no class token"),
        ({"batch_size": 0}, r"`batch_size` must be .* got 0"),
        ({"batch_size": "big"}, r"`batch_size` must be .* got 'big'"),
        ({"remote": "yes"}, r"`remote` must be .*NDIF_HOST.* got 'yes'"),
        ({"towers": "vision"}, r"`towers` must be among the towers of .*got 'vision'"),
        ({"cache": 3}, r"`cache` must be .*got 3"),
    ],
)
def test_arguments_that_are_none(options, message):
    refused(message, lambda: localize(load("gpt2"), contrast(texts), **options))


def test_the_published_protocol_is_for_text():
    refused(
        r"'alkhamissi2025' is defined for text alone; stimulus .* has an image",
        lambda: localize(load("llava_clip"), contrast(both), protocol="alkhamissi2025"),
    )


def test_a_chat_template_that_is_none():
    family = build("llava_clip")
    refused(
        r"`chat_template` must be 'auto', True or False, got 'yes'",
        lambda: mn.load(family.model, processor=family.processor, chat_template="yes"),
    )


def test_a_broken_chat_template_is_named():
    family = FAMILIES["llava_clip"]()
    family.processor.chat_template = "{{ messages[0]['nothing'] + 3 }}"
    model = mn.load(family.model, processor=family.processor)
    refused(r"chat template of LlavaProcessor failed.*chat_template=False", lambda: model.run(["a dog"]))


@pytest.mark.parametrize(
    ("select", "message"),
    [
        (lambda r: r.top(0), r"above 0 and at most 1.*got 0"),
        (lambda r: r.top(fraction=1.1), r"above 0 and at most 1.*got 1.1"),
        (lambda r: r.top(-0.1), r"got -0.1"),
        (lambda r: r.top(float("nan")), r"got nan"),
        (lambda r: r.top("1%"), r"got '1%'"),
        (lambda r: r.top(0.001), r"0.001 of 128 units selects none"),
        (lambda r: r.top(k=0), r"`k` must be a positive integer, got 0"),
        (lambda r: r.top(k=129), r"129 units were requested, but only 128 of 128"),
        (lambda r: r.top(k=1.5), r"`k` must be a positive integer, got 1.5"),
        (lambda r: r.top(), r"either `fraction` or `k`"),
        (lambda r: r.top(0.1, k=3), r"either `fraction` or `k`"),
        (lambda r: r.bottom(k=129), r"129 units"),
        (lambda r: r.top(0.1, towers="vision"), r"`towers` must be among .*decoder.*got 'vision'"),
        (lambda r: r.significant(0), r"`alpha` must be a number above 0 and at most 1, got 0"),
        (lambda r: r.percentile(90, 80), r"90"),
    ],
)
def test_selections_that_are_none(select, message):
    result = localize(load("gpt2"), contrast(texts))
    refused(message, lambda: select(result))


def test_warnings_of_transformers_about_length_stay_out(caplog):
    """A text over the tokenizer's length is an error of ours, which names it; a second voice would confuse."""
    refused("more than the maximum of 128", lambda: load("gpt2").run(["dog " * 200]))
    assert "longer than the specified maximum" not in caplog.text


# ------------------------------------------------------------------------- the same words everywhere

#: Argument → values that are refused wherever it stands, each with the words of the refusal.
BAD: dict[str, list[tuple[object, str]]] = {
    "seed": [(value, f"`seed` must be a non-negative integer, got {value}.") for value in (-1, 1.5, True)],
    "batch_size": [
        (value, f"`batch_size` must be 'auto' or a positive integer, got {value!r}.") for value in (0, "big")
    ],
    "n_controls": [(-1, "`n_controls` must be a non-negative integer, got -1.")],
    "cache": [(3, "`cache` must be True, False, a folder or a Store, got 3.")],
    "progress": [("yes", "`progress` must be True or False, got 'yes'.")],
    "match": [("norms", "`match` must be one of 'layer', 'activation', 'tower', 'dimension', got 'norms'.")],
    "magnitude": [("abs", "`magnitude` must be one of 'absolute', 'signed', got 'abs'.")],
    "direction": [("both", "`direction` must be one of 'denoise', 'noise', got 'both'.")],
    "logits": [("first", "`logits` must be one of 'last', 'all', got 'first'.")],
    "operation": [("scale", "`operation` must be one of 'mean', 'zero', got 'scale'.")],
    "operations": [("melt", "`operations` must be one of 'zero', 'mean', 'resample', 'scale', got 'melt'.")],
    "by": [("p", "`by` must be one of 't', 'effect_size', 'mean_effect', got 'p'.")],
    "normalize": [("rank", "`normalize` must be one of 'z', 'minmax', 'none', got 'rank'.")],
    "regression": [("lasso", "`regression` must be one of 'ridge', 'banded', got 'lasso'.")],
    "metric": [("auc", "`metric` must be one of 'pearson', 'r2', got 'auc'.")],
    "dissimilarity": [("angle", "`dissimilarity` must be one of 'correlation', 'euclidean', got 'angle'.")],
    "compare": [("kendall", "`compare` must be one of 'spearman', 'pearson', 'cosine', got 'kendall'.")],
    "model": [(3, "An object of type int cannot be loaded as a model.")],
    "contrast": [(3, "`contrast` must be a Contrast, got an int.")],
    "stimuli": [(3, "`stimuli` must be a Stimulus, a string, a sequence of these, or a Contrast, got int.")],
    "units": [
        (3, "`units` must be Units"),
        (mn.Units({"decoder": np.ones((3, 7), bool)}), "belong to another model than"),
    ],
}
#: Arguments of the same name that are something else.
OTHER = {
    ("localize", "units"): "names of spaces",
    ("Units.for_model", "model"): "loaded already",
    ("Units.from_indices", "model"): "a fingerprint",
    ("BrainDataset.select", "stimuli"): "rows",
    ("from_arrays", "stimuli"): "one per row of responses",
    ("units_profile", "units"): "of any model",
    ("LocalizationJob.from_id", "cache"): "may be None",
    ("activation_patching", "metric"): "a metric of the answer",
    ("information_flow", "metric"): "a metric of the answer",
    ("attribution_patching", "metric"): "a metric of the answer",
    ("localize", "metric"): "a metric of the answer",
    ("localize", "by"): "activation or attribution",
    ("LesionStudy.dissociation", "operation"): "one that the study has",
    ("dose_curves", "operations"): "those that the study has",
    ("save_dose_curves", "operations"): "those that the study has",
    ("Metric.bind", "model"): "a loaded one",
    ("lesion_study", "match"): "has kinds of its own",
    ("LesionStudy.selectivity", "operation"): "one that the study has",
    ("Task.run", "model"): "abstract",
    ("Task.run", "batch_size"): "abstract",
}


@lru_cache
def valid_arguments():
    """Public function → arguments of a cheap call that is valid."""
    model = load("llava_clip")
    shapes = {name: space.shape for name, space in model.spaces.items()}
    some, others = (mn.Units.from_indices(shapes, [("decoder", 1, index), ("vision", 2, index)]) for index in (3, 5))
    words = [f"a dog {number}" for number in range(6)]
    pairs = {"clean": "a dog", "corrupt": "a cat", "metric": mn.patching.logit_difference(" a", " b"), "align": "last"}
    responses = np.random.default_rng(0).normal(size=(12, 4))
    data = mn.brain.from_arrays([f"a dog {number}" for number in range(12)], responses, groups=list("abcdef") * 2)
    found = localize(model, contrast(both))
    network = {"model": model, "units": some}
    rows = [{"question": "Is it?", "answer": 0, "choices": ["yes", "no"]}] * 3
    task = {
        "Perplexity": mn.tasks.perplexity(words),
        "MinimalPairs": mn.tasks.minimal_pairs([("a dog", "a god")]),
        "MultipleChoice": mn.tasks.multiple_choice(rows),
        "ExactMatch": mn.tasks.exact_match([("a dog", "cat")]),
        "GeneratedChoice": mn.tasks.generated(mn.tasks.multiple_choice(rows)),
    }
    task |= {"Task": task["Perplexity"], "LikelihoodTask": task["MinimalPairs"], "GenerationTask": task["ExactMatch"]}
    task |= {"SyntaxGym": task["MinimalPairs"]}
    patched = mn.activation_patching(model, **pairs, sites=[mn.site("decoder", 1)], tokens="last", progress=False)
    flow = mn.information_flow(model, words, pairs["metric"], window=4, n_controls=0, cache=False, progress=False)
    modality = mn.ModalityProfile("x", "mean", "log-probability", ("a", "b"), np.zeros(2), {"image": np.ones((2, 3))})
    picture_of = picture(0, 20, 20)
    return {f"{name}.run": {"self": one, "model": model} for name, one in task.items()} | {
        "InformationFlow.table": {"self": flow},
        "InformationFlow.verdicts": {"self": flow},
        "Lens.faithfulness": {"self": mn.lens(model, words, tokens="last", cache=False, progress=False)},
        "Localization.permuted": {"self": found, "contrast": contrast(both)},
        "Localization.plot": {"self": found},
        "Localization.table": {"self": found},
        "Localization.top": {"self": found, "k": 3},
        "Metric.unit_effects": {
            "self": pairs["metric"],
            **{name: pairs[name] for name in ("clean", "corrupt", "align")},
        }
        | {"model": model},
        "Model.dictionary_error": {
            "self": model.with_dictionary("decoder", {1: (np.eye(model.decoder.width), np.eye(model.decoder.width))}),
            "stimuli": words,
        },
        "Model.means": {"self": model, "stimuli": words},
        "Model.on": {"self": model, "stimuli": words},
        "Model.run": {"self": model, "stimuli": words},
        "Model.score": {"self": model, "stimuli": words, "continuations": [" a"] * 6},
        "Model.trace": {"self": model, "stimuli": words},
        "ModalityProfile.table": {"self": modality},
        "Patching.interval": {"self": patched},
        "TaskScores.interval": {"self": task["MinimalPairs"].scores(np.ones(1))},
        "Units.random": {"self": some},
        "activation_patching": {"model": model, **pairs},
        "attribution_patching": {"model": model, **pairs},
        "information_flow": {"model": model, "stimuli": words, "metric": pairs["metric"], "window": 4},
        "lesion_study": network | {"tasks": task["Perplexity"], "fractions": [0.1], "n_controls": 1},
        "lens": {"model": model, "stimuli": words, "tokens": "last"},
        "localize": {"model": model, "contrast": contrast(both)},
        "replicate": {"model": model, "protocol": "alkhamissi2025", "n_stimuli": 4, "n_items": 2, "n_controls": 1},
        "profile": network | {"conditions": contrast(both)},
        "profile_modality": {"model": model, "stimuli": [both(0), both(1)], "answers": " a"},
        "resample": {"target": some, "over": words},
        "sink_tokens": {"model": model, "stimuli": words},
        "specialization": {"model": model, "units": {"one": some, "two": others}},
        "align": network | {"dataset": data},
        "cka": network | {"dataset": data},
        "rsa": network | {"dataset": data},
        "encode": {"features": responses, "dataset": data},
        "noise_ceiling": {"repeats": np.stack([responses, responses])},
        "optimize": network,
        "attention_maps": {"model": model, "stimuli": words, "source": [0]},
        "top_stimuli": network | {"stimuli": words},
        "top_tokens": network,
        "lm_eval": {"model": model, "tasks": "blimp"},
        "lmms_eval": {"model": model, "tasks": "mmstar"},
        "tokens_of": {"model": model, "stimuli": words, "words": "dog"},
        "colour_pairs": {"n": 2},
        "arrange": {"localizations": found},
        "glass": {"localizations": found},
        "layer_profile": {"localization": found, "n_controls": 2},
        "save_layer_profile": {"localization": found, "path": os.devnull},
        "sheet": {"localizations": found},
        "t_histogram": {"localization": found},
        "unit_t": {"localization": found},
        "units_profile": {"units": some, "n_controls": 2},
        "volcano": {"localization": found},
        "as_stimuli": {},
        "box_scramble": {"image": picture_of},
        "phase_scramble": {"image": picture_of},
        **{name: {"sound": (np.zeros(4000, np.float32), 8000)} for name in ("phase_scramble_sound", "quilt")},
        **{name: {"n": 2} for name in ("speech", "speech_conditions", "environment")},
        "tones": {"n_per_frequency": 1},
        "tone_frequencies": {"stimuli": mn.stimuli.tones([440], n_per_frequency=2)},
        "nonword": {"word": "dog"},
        "theory_of_mind": {"n": 2},
        "arithmetic": {"n": 4},
        "bundled": {"n": 4},
        "default": {"n": 4},
        "minimal_pairs": {"source": [("a dog", "a god")]},
        "multiple_choice": {"source": rows},
        **{name: {"n": 4} for name in ("agreement", "incentives", "word_problems", "incentive_choice")},
        **{name: {"n": 4, "size": 32} for name in ("word_pictures", "lexical_decision", "sentence_pictures")},
        "mmtomqa": {"path": os.devnull},
        "syntaxgym": {"source": os.devnull},
    }


def arguments_to_refuse():
    for name, function in CALLABLES.items():
        for argument in inspect.signature(function).parameters:
            if argument in BAD and (name, argument) not in OTHER:
                yield pytest.param(name, argument, id=f"{name}-{argument}")


@pytest.mark.parametrize(("name", "argument"), list(arguments_to_refuse()))
def test_bad_arguments_are_refused_in_the_same_words_before_any_forward_pass(name, argument, monkeypatch):
    valid = valid_arguments()[name]

    def forbidden(*_args, **_options):
        raise AssertionError("a forward pass ran")

    monkeypatch.setattr(LocalBackend, "run", forbidden)
    for value, message in BAD[argument]:
        pair = name == "specialization" and isinstance(value, mn.Units)
        with pytest.raises(mn.InputError, match=re.escape(message)):
            CALLABLES[name](**valid | {argument: {"one": value, "two": value} if pair else value})


# ------------------------------------------------------------------------------------------------- two processes


PROGRAM = """
import sys, time
from modalnet.execution.engine import Engine
from modalnet.results.store import Store
from concurrent_runs import forty

store, mode = sys.argv[1:]
forward, put = Engine.run, Store.put

def slow_run(*args):
    print("forward", flush=True)
    time.sleep(0.3 if mode == "slow" else 0)
    return forward(*args)

def slow_put(*args):
    print("put", flush=True)
    return put(*args)

Engine.run, Store.put = slow_run, slow_put
print("ready", flush=True)
sys.stdin.readline()
forty(store)
print("done", flush=True)
"""


def start(store, mode):
    paths = os.pathsep.join([str(HERE / "helpers"), str(HERE.parent / "src"), os.environ.get("PYTHONPATH", "")])
    return subprocess.Popen(
        [sys.executable, "-c", PROGRAM, str(store), mode],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": paths, "OMP_NUM_THREADS": "1"},
    )


def go(*processes):
    """Let processes that are loaded start together."""
    for process in processes:
        assert process.stdout.readline().strip() == "ready", process.communicate()[1]
    for process in processes:
        process.stdin.write("\n")
        process.stdin.flush()


def entries(store):
    """Every entry can be read, without a complaint."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = mn.Store(store).entries()
        assert all(mn.Store(store).get(entry.key) is not None for entry in found)
    return found


def test_a_killed_run_leaves_no_damaged_entry(tmp_path):
    """kill -9 in the middle of the forward passes, and as the result is being written."""
    processes = {"forward": start(tmp_path, "slow"), "put": start(tmp_path, "quick")}
    for mark, process in processes.items():
        go(process)
        for line in process.stdout:
            if line.strip() == mark:
                break
        time.sleep(0.4 if mark == "forward" else 0)
        process.send_signal(signal.SIGKILL)
        out, _ = process.communicate(timeout=60)
        assert "done" not in out or mark == "put"
        assert process.returncode == -signal.SIGKILL or mark == "put"
        assert len(entries(tmp_path)) <= (mark == "put")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        result = forty(tmp_path)
    assert result == forty(False)
    assert len(entries(tmp_path)) == 1


def test_two_processes_that_localize_the_same_at_once(tmp_path):
    pair = [start(tmp_path, "quick") for _ in range(2)]
    go(*pair)
    for process in pair:
        out, err = process.communicate(timeout=120)
        assert process.returncode == 0, err
        assert "damaged" not in err
        assert "could not be kept" not in err
        assert out.splitlines()[-1] == "done"
    (entry,) = entries(tmp_path)
    calls = Engine.run.calls
    result = forty(tmp_path)
    assert Engine.run.calls == calls  # answered by what the two left
    # Not to the last bit: where another process' memory lies decides which vector instructions add it up.
    fresh = forty(False)
    np.testing.assert_allclose(result.t["decoder"], fresh.t["decoder"], rtol=1e-4, atol=1e-4)
    assert result.top(k=5) == fresh.top(k=5)
    assert entry.key
