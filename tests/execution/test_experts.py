"""Router weights of mixtures of experts: read, left out with the router choosing again, and changed."""

from __future__ import annotations

import contextlib

import numpy as np
import pytest
import torch

import modalnet as mn

TEXTS = ["the cat sat on a mat", "a dog"]
SMALL = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 3, "num_attention_heads": 4}
CLASSES = {
    "Mixtral": {"num_local_experts": 4, "num_key_value_heads": 2},
    "Qwen3Moe": {
        "num_experts": 4,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 32,
        "head_dim": 16,
        "num_key_value_heads": 2,
        "norm_topk_prob": True,
    },
    "DeepseekV3": {
        "n_routed_experts": 4,
        "n_group": 2,
        "topk_group": 1,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 32,
        "first_k_dense_replace": 1,
        "q_lora_rank": 16,
        "kv_lora_rank": 16,
        "qk_rope_head_dim": 8,
        "qk_nope_head_dim": 8,
        "v_head_dim": 16,
        "num_key_value_heads": 4,
    },
}


def made(name):
    import transformers

    tokenizer = mn.load("tiny").tokenizer
    torch.manual_seed(0)
    config = getattr(transformers, f"{name}Config")(vocab_size=len(tokenizer), **SMALL, **CLASSES[name])
    return mn.load(getattr(transformers, f"{name}ForCausalLM")(config).eval(), tokenizer=tokenizer)


@pytest.fixture(scope="module", params=list(CLASSES))
def model(request):
    return made(request.param)


def experts(model, layer, which):
    space = model.spaces["decoder.experts"]
    return mn.Units.from_indices({space.name: space.shape}, [(space.name, layer, one) for one in which])


@contextlib.contextmanager
def chosen_again(model, layer, which):
    """The router of Mixtral and Qwen 3 by their equations, with some logits at minus infinity."""
    router = model.module.get_submodule(model.spaces["decoder.experts"].paths[layer])

    def hook(_, args, output):
        logits = args[0].reshape(-1, args[0].shape[-1]) @ router.weight.T
        logits[:, which] = float("-inf")
        weights, indices = logits.softmax(-1).topk(2)
        return logits, weights / weights.sum(-1, keepdim=True), indices

    handle = router.register_forward_hook(hook)
    try:
        yield
    finally:
        handle.remove()


def logits_of(model, text):
    prompt = model._executor.prepare([mn.Stimulus(text)])[0].prompt
    with torch.no_grad():
        return model.module(input_ids=model.tokenizer(prompt, return_tensors="pt").input_ids).logits[0, -1]


def test_weights_are_those_of_the_router(model):
    space = model.spaces["decoder.experts"]
    assert space.width == 4
    assert space.layers == ((1, 2) if "Deepseek" in model.name else (0, 1, 2))
    read = model.run(TEXTS, read=space.name, tokens="all").activations[space.name]
    for text, mine in zip(TEXTS, read, strict=True):
        seen, kept = [], []
        for layer in space.layers:
            router = model.module.get_submodule(space.paths[layer])
            seen.append(router.register_forward_hook(lambda _, args, output, kept=kept: kept.append(output)))
        logits_of(model, text)
        for handle in seen:
            handle.remove()
        for layer, (_, weights, indices) in zip(space.layers, kept, strict=True):
            for token, (row, which) in enumerate(zip(weights, indices, strict=True)):
                expected = torch.zeros(4)
                expected[which] = row
                torch.testing.assert_close(mine[layer][token], expected)
    if "Deepseek" in model.name:
        assert read[0][0].isnan().all()  # its first block is no mixture


@pytest.mark.parametrize("name", ["Mixtral", "Qwen3Moe"])
def test_a_lesion_has_the_router_choose_again(name):
    model = made(name)
    lesion = mn.zero(experts(model, 1, [0, 2]))
    found = model.run(TEXTS, lesion, read={"decoder.experts": [1]}, tokens="all", logits="last")
    intact = model.run(TEXTS, read=[], logits="last").logits
    for place, text in enumerate(TEXTS):
        with chosen_again(model, 1, [0, 2]):
            torch.testing.assert_close(found.logits[place], logits_of(model, text), rtol=1e-5, atol=1e-6)
        weights = found.activations["decoder.experts"][place][0]
        assert not weights[:, [0, 2]].any()
        assert bool((weights[:, [1, 3]] > 0).all())
    assert not torch.allclose(found.logits, intact, atol=1e-5)
    # At some tokens alone.
    last = model.run(TEXTS[:1], lesion.at("last"), read={"decoder.experts": [1]}, tokens="all")
    whole = model.run(TEXTS[:1], read={"decoder.experts": [1]}, tokens="all")
    torch.testing.assert_close(
        last.activations["decoder.experts"][0][0, :-1], whole.activations["decoder.experts"][0][0, :-1]
    )
    assert not last.activations["decoder.experts"][0][0, -1, [0, 2]].any()


def test_other_operations_change_weights(model):
    layer = model.spaces["decoder.experts"].layers[0]
    units = experts(model, layer, [1, 3])
    before = model.run(TEXTS[0], read={"decoder.experts": [layer]}, tokens="all").activations["decoder.experts"][0][0]
    for edit, expected in {
        mn.scale(units, 0.5): before * torch.tensor([1, 0.5, 1, 0.5]),
        mn.set_to(units, 0.25): torch.stack(
            [before[:, 0], before[:, 0] * 0 + 0.25, before[:, 2], before[:, 2] * 0 + 0.25], 1
        ),
        mn.add(units, 0.0): before,
    }.items():
        run = model.run(TEXTS[0], edit, read={"decoder.experts": [layer]}, tokens="all")
        torch.testing.assert_close(run.activations["decoder.experts"][0][0], expected)
    # Weights of experts that had none are what the block adds up: as the outputs of the experts themselves say.
    assert model.generate(TEXTS[1], mn.zero(units), max_new_tokens=3)
    other = model.run(TEXTS[1], mn.patch(units, TEXTS[1]), read=[], logits="last").logits
    torch.testing.assert_close(other, model.run(TEXTS[1], read=[], logits="last").logits)


def test_what_the_block_adds_follows_the_weights():
    """A mixture's output is the sum over experts of weight times output, whichever were chosen."""
    model = made("Mixtral")
    block = model.module.model.layers[1].mlp
    read = {"decoder.mlp": [1], "decoder.experts": [1]}
    alone = {}
    for expert in range(4):
        value = np.eye(4, dtype=np.float32)[expert]
        run = model.run(TEXTS[0], mn.set_to(mn.site("decoder.experts", 1), value), read=read, tokens="all")
        alone[expert] = run.activations["decoder.mlp"][0][0]
    weights = np.array([0.1, 0.2, 0.3, 0.4], dtype=np.float32)
    run = model.run(TEXTS[0], mn.set_to(mn.site("decoder.experts", 1), weights), read=read, tokens="all")
    expected = sum(weight * alone[expert] for expert, weight in enumerate(weights.tolist()))
    torch.testing.assert_close(run.activations["decoder.mlp"][0][0], expected, rtol=1e-4, atol=1e-6)
    assert block.top_k == 2


@pytest.mark.parametrize("name", ["Mixtral", "Qwen3Moe"])
def test_every_analysis_takes_experts(name):
    model = made(name)
    found = mn.localize(model, mn.stimuli.language(6), units="experts", cache=False, progress=False)
    assert found.t["decoder.experts"].shape == (3, 4)
    network = found.top(k=2)
    study = mn.lesion_study(
        model, network, mn.tasks.perplexity(TEXTS), n_controls=2, operations=("zero",), cache=False, progress=False
    )
    assert len(study.cells) > 1


def test_a_router_is_left_some_expert(model):
    layer = model.spaces["decoder.experts"].layers[0]
    for target in (experts(model, layer, range(4)), mn.site("decoder.experts", layer)):
        with pytest.raises(mn.InputError, match="so the router has none to choose"):
            model.run(TEXTS, mn.zero(target))


def test_a_router_of_another_form_is_said_to_have_no_experts():
    model = made("Mixtral")
    for layer in model.module.model.layers:
        forward = layer.mlp.gate.forward
        layer.mlp.gate.forward = lambda *args, forward=forward: forward(*args)[1:]
        layer.mlp.forward = lambda hidden, gate=layer.mlp.gate: hidden * gate(hidden)[0].sum()
    with pytest.raises(mn.InputError, match="does not hand out the weights of the experts"):
        model.run(TEXTS, read="decoder.experts")
