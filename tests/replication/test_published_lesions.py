"""Published lesions against hooks on the modules themselves, in a forward pass and in a generation with a cache."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
import transformers

import modalnet as mn
from families import build, picture
from modalnet.protocols import ProtocolLesion
from modalnet.replication import expert_units, published_lesion
from reference import editing, encode, load, watch

PROMPT = "The dog ran across the green field and barked"
TASK = ["She poured the tea slowly", "Two children are playing on the beach. Is there a car?"]
STEPS = 5
OPTIONS = {"do_sample": False, "return_dict_in_generate": True, "output_logits": True, "max_new_tokens": STEPS}
QUIET = {"cache": False, "progress": False}


def sites(space, name="llama"):
    """Module paths of the layers of a space, known beforehand."""
    if name == "llava_clip":
        return [f"model.vision_tower.encoder.layers.{layer}" for layer in range(5)]
    inside = {"decoder": "", "decoder.gate": ".mlp.gate_proj", "decoder.activation": ".mlp.act_fn"}[space]
    return [f"model.layers.{layer}{inside}" for layer in range(4)]


def some(space, share=0.2, name="llama"):
    shape = load(name).spaces[space].shape
    return mn.Units({space: np.random.default_rng(3).random(shape) < share})


def compared(lesion, edits, name="llama", images=()):
    """The lesion in a forward pass and in a generation, against hooks: path → function of ``[token, unit]``."""
    model, family = load(name), build(name)
    stimulus = mn.Stimulus(PROMPT, image=list(images) or None)
    inputs = encode(family, PROMPT, images)
    with torch.no_grad():
        intact = family.model(**inputs).logits[0, -1]
        with editing(family.model, edits):
            expected = family.model(**inputs).logits[0, -1]
            steps = torch.cat(family.model.generate(**inputs, **OPTIONS).logits)
    assert not torch.allclose(expected, intact, atol=1e-3)
    found = model.run(stimulus, *lesion, read=[], logits="last").logits[0]
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(
        model.generate(stimulus, *lesion, max_new_tokens=STEPS, details=True).logits, steps, atol=1e-4, rtol=1e-4
    )


def setting(units, values):
    """Edits that set the units of each layer to values ``[layer, unit]``."""
    ((space, mask),) = units.mask.items()

    def edit(layer):
        on, new = torch.tensor(mask[layer]), torch.as_tensor(values[layer])
        return lambda flat: torch.where(on, new.to(flat.dtype), flat)

    return {path: edit(layer) for layer, path in enumerate(sites(space))}


def recorded(texts, space, family=None):
    """Activations of texts, each by itself: ``[layer, token, unit]`` per text."""
    family = family or build("llama")
    found = []
    for text in texts:
        with torch.no_grad(), watch(family.model, sites(space)) as seen:
            family.model(**encode(family, text))
        found.append(torch.stack([seen[path][0][0] for path in sites(space)]).double())
    return found


def test_nothing_and_zero():
    units = some("decoder")
    assert published_lesion(load("llama"), units, ProtocolLesion("none")) == []
    compared(published_lesion(load("llama"), units, ProtocolLesion("zero")), setting(units, np.zeros((4, 48))))


def test_zero_positions_follow_the_numbers_of_units():
    """A mask over units that meets the axis of tokens, as in the released code of `dyslexia2026`."""
    units = some("decoder.gate")
    mask = torch.tensor(units.mask["decoder.gate"])
    assert mask[:, 0].any()
    assert not mask[:, 0].all()  # so that new tokens differ from layer to layer

    def edit(layer):
        return lambda flat: flat * ~mask[layer, : len(flat), None]

    edits = {path: edit(layer) for layer, path in enumerate(sites("decoder.gate"))}
    compared(published_lesion(load("llama"), units, ProtocolLesion("zero positions")), edits)


def test_zero_positions_of_a_scored_text_count_from_its_first_token():
    units, model, family = some("decoder.gate"), load("llama"), build("llama")
    mask = torch.tensor(units.mask["decoder.gate"])
    edits = {
        path: lambda flat, layer=layer: flat * ~mask[layer, : len(flat), None]
        for layer, path in enumerate(sites("decoder.gate"))
    }
    inputs = encode(family, f"{PROMPT} at the car")
    start = encode(family, PROMPT)["input_ids"].shape[1]
    with torch.no_grad(), editing(family.model, edits):
        logprob = family.model(**inputs).logits[0].log_softmax(-1)
    ids = inputs["input_ids"][0]
    expected = sum(float(logprob[place - 1, ids[place]]) for place in range(start, len(ids)))
    lesion = published_lesion(model, units, ProtocolLesion("zero positions"))
    assert model.score(PROMPT, [" at the car"], *lesion).logprob[0][0] == pytest.approx(expected, abs=1e-4)


def test_the_mean_over_the_tokens_of_a_task():
    units = some("decoder")
    values = torch.stack([each.mean(1) for each in recorded(TASK, "decoder")]).mean(0)
    lesion = published_lesion(load("llama"), units, ProtocolLesion("task mean"), task_stimuli=TASK)
    compared(lesion, setting(units, values))


def test_one_number_for_all_units():
    units, protocol = some("decoder"), mn.protocols["syntax2026"]
    good = [f"{text} here." for text in TASK]
    stimuli = [mn.Stimulus(text, condition="good") for text in good]
    stimuli += [mn.Stimulus(f"{text} there.", condition="bad") for text in TASK]
    number = torch.stack([each[:, -1] for each in recorded(good, "decoder")]).mean()
    lesion = published_lesion(
        load("llama"),
        units,
        ProtocolLesion("scalar mean"),
        protocol=protocol,
        contrasts={"agreement": mn.Contrast(stimuli, "good", "bad")},
        **QUIET,
    )
    assert lesion[0].values == pytest.approx(float(number), rel=1e-5)
    compared(lesion, setting(units, np.full((4, 48), float(number))))


def test_the_mean_of_a_condition_at_its_last_token():
    units, protocol = some("decoder.activation"), mn.protocols["anhedonia2026"]
    contrasts, neutral = {}, []
    for number, name in enumerate(("reward, arithmetic", "reward, geography")):
        texts = [f"{text} {number}." for text in TASK]
        neutral += texts
        stimuli = [mn.Stimulus(text, condition="neutral") for text in texts]
        stimuli += [mn.Stimulus(f"Win! {text}", condition="reward") for text in texts]
        contrasts[name] = mn.Contrast(stimuli, "reward", "neutral")
    values = torch.stack([each[:, -1] for each in recorded(neutral, "decoder.activation")]).mean(0)
    lesion = published_lesion(load("llama"), units, protocol.lesion, protocol=protocol, contrasts=contrasts, **QUIET)
    compared(lesion, setting(units, values))
    with pytest.raises(mn.InputError, match="stimuli of the condition 'idle', got reward, neutral"):
        published_lesion(
            load("llama"),
            units,
            replace(protocol.lesion, condition="idle"),
            protocol=protocol,
            contrasts=contrasts,
            **QUIET,
        )


def test_the_difference_of_categories_is_added_in_the_vision_tower():
    units, protocol = some("vision", name="llava_clip"), mn.protocols["topoomni2026"]
    family, where = build("llava_clip"), sites("vision", "llava_clip")
    means, stimuli = {}, []
    for number, condition in enumerate(("faces", "houses", "words")):
        rows = []
        for index in range(2 + number):
            image = picture(10 * number + index, 50, 40)
            stimuli.append(mn.Stimulus(image=image, condition=condition))
            with torch.no_grad(), watch(family.model, where) as seen:
                family.model(**encode(family, None, [image]))
            rows.append(torch.stack([seen[path][0][0].double().mean(0) for path in where]))
        means[condition] = torch.stack(rows).mean(0)
    difference = (means["houses"] + means["words"]) / 2 - means["faces"]
    mask = torch.tensor(units.mask["vision"])
    edits = {
        path: lambda flat, layer=layer: flat + (difference[layer] * mask[layer]).float()
        for layer, path in enumerate(where)
    }
    contrast = mn.Contrast(stimuli, "faces")
    given = {"protocol": protocol, "contrasts": {"faces": contrast}, **QUIET}
    lesion = published_lesion(load("llava_clip"), units, protocol.lesion, **given)
    compared(lesion, edits, "llava_clip", [picture(99, 60, 60)])
    given["contrasts"] = {"faces": contrast, "houses": contrast}
    with pytest.raises(mn.InputError, match="must be the one that selected the network"):
        published_lesion(load("llava_clip"), units, protocol.lesion, **given)


def test_an_expert_is_left_out_and_the_router_chooses_again():
    tokenizer = build("llama").tokenizer
    torch.manual_seed(0)
    config = transformers.MixtralConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        num_local_experts=4,
        num_experts_per_tok=1,
    )
    module = transformers.MixtralForCausalLM(config).eval()
    model = mn.load(module, tokenizer=tokenizer)
    lesion = published_lesion(model, expert_units(model, 1), mn.protocols["micro2025"].lesion)

    def without(router, args, output):
        logits = args[0].reshape(-1, 32) @ router.weight.T
        logits[:, 1] = float("-inf")
        weights, indices = logits.softmax(-1).topk(1)
        return logits, weights / weights.sum(-1, keepdim=True), indices

    inputs = tokenizer(PROMPT, return_tensors="pt")
    with torch.no_grad():
        intact = module(**inputs).logits[0, -1]
        handles = [
            module.get_submodule(path).register_forward_hook(without) for path in model.spaces["decoder.experts"].paths
        ]
        expected = module(**inputs).logits[0, -1]
        steps = torch.cat(module.generate(**inputs, **OPTIONS).logits)
    for handle in handles:
        handle.remove()
    assert not torch.allclose(intact, expected, atol=1e-4)
    found = model.run(PROMPT, *lesion, read=[], logits="last").logits[0]
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)
    made = model.generate(PROMPT, *lesion, max_new_tokens=STEPS, details=True).logits
    torch.testing.assert_close(made, steps, atol=1e-5, rtol=1e-4)
    with pytest.raises(mn.InputError, match="one of 4 experts, from 0, got 4"):
        expert_units(model, 4)


@pytest.mark.parametrize(
    ("operation", "message"),
    [
        ("edges", "no units. Use modalnet.information_flow"),
        ("experts", "`units` must be experts for this lesion, got units of decoder"),
        ("task mean", "`task_stimuli` must be the prompts of the task"),
        ("scalar mean", "needs `protocol`, with a localizer, and `contrasts`"),
        ("condition mean", "needs `protocol`, with a localizer, and `contrasts`"),
        ("category difference", "needs `protocol`, with a localizer, and `contrasts`"),
    ],
)
def test_what_a_lesion_lacks_is_said(operation, message):
    with pytest.raises(mn.InputError, match=message):
        published_lesion(load("llama"), some("decoder"), ProtocolLesion(operation))


def test_other_bad_input():
    model, units = load("llama"), some("decoder")
    with pytest.raises(mn.InputError, match="`lesion` must be a modalnet"):
        published_lesion(model, units, "zero")
    with pytest.raises(mn.InputError, match="The set of units to lesion is empty"):
        published_lesion(model, some("decoder", share=0.0), ProtocolLesion("zero"))
    with pytest.raises(mn.InputError, match="is no mixture of experts"):
        expert_units(model, 0)
