"""Places inside blocks are found by structure, and hooks see there what the stream takes up."""

from __future__ import annotations

import pytest
import torch
import transformers as tr

import modalnet as mn
from modalnet.models.places import Absent
from modalnet.models.sublayers import SUBLAYER_KINDS, find_places
from modalnet.models.towers import find_towers

SMALL = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "vocab_size": 99,
    "max_position_embeddings": 64,
}
GROUPED = SMALL | {"num_key_value_heads": 2, "head_dim": 8}
VISION = {name: SMALL[name] for name in ("hidden_size", "num_hidden_layers", "num_attention_heads")}

PADS = GROUPED | {"pad_token_id": 0}
GPT2 = {"n_embd": 32, "n_layer": 2, "n_head": 4, "vocab_size": 99}
PATCHES = VISION | {"image_size": 16, "patch_size": 8, "intermediate_size": 48}
GATED = ("self_attn.o_proj", "mlp.down_proj", "mlp.gate_proj", "mlp.act_fn")
FUSED = ("self_attn.o_proj", "mlp.down_proj", "mlp.activation_fn", "mlp.activation_fn")

#: Per config class: its fields, and the paths of the first candidates for heads, neurons, gate and activation.
EXPECTED = {
    "LlamaConfig": (GROUPED, *GATED),
    "Qwen3Config": (GROUPED, *GATED),
    "Gemma3TextConfig": (GROUPED, *GATED),
    "CohereConfig": (GROUPED, *GATED),
    "Olmo2Config": (SMALL, *GATED),
    "GraniteConfig": (SMALL | {"residual_multiplier": 0.3}, *GATED),
    "Phi3Config": (PADS, *FUSED),
    "Glm4Config": (PADS, *FUSED),
    "GPT2Config": (GPT2, "attn.c_proj", "mlp.c_proj", "mlp.c_fc", None),
    "GPTNeoXConfig": (SMALL, "attention.dense", "mlp.dense_4h_to_h", "mlp.dense_h_to_4h", None),
    "FalconConfig": (SMALL, "self_attention.dense", "mlp.dense_4h_to_h", "mlp.dense_h_to_4h", None),
    "OPTConfig": (SMALL | {"ffn_dim": 48, "word_embed_proj_dim": 32}, "self_attn.out_proj", "fc2", "fc1", None),
    "BertConfig": (SMALL | {"is_decoder": True}, "attention.output.dense", "output.dense", "intermediate.dense", None),
    "SiglipVisionConfig": (PATCHES, "self_attn.out_proj", "mlp.fc2", "mlp.fc1", None),
    "Dinov2Config": (PATCHES | {"layerscale_value": 0.4}, "attention.o_proj", "mlp.fc2", "mlp.fc1", None),
    "BeitConfig": (PATCHES | {"layer_scale_init_value": 0.4}, "attention.o_proj", "mlp.fc2", "mlp.fc1", None),
}
#: Blocks that normalize what a sublayer puts out, or scale it in a module, before it is added.
BEHIND = {
    "Gemma3TextConfig": ("post_attention_layernorm", "post_feedforward_layernorm"),
    "Olmo2Config": ("post_attention_layernorm", "post_feedforward_layernorm"),
    "Glm4Config": ("post_self_attn_layernorm", "post_mlp_layernorm"),
    "Dinov2Config": ("layer_scale1", "layer_scale2"),
}


def build(name: str) -> torch.nn.Module:
    torch.manual_seed(0)
    config = getattr(tr, name)(**EXPECTED[name][0])
    auto = tr.AutoModel if "pixel" in tr.AutoModel.from_config(config).main_input_name else tr.AutoModelForCausalLM
    model = auto.from_config(config).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return model


def inputs(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    if model.main_input_name == "pixel_values":
        return {"pixel_values": torch.randn(1, 3, 16, 16)}
    return {"input_ids": torch.arange(5, 14)[None]}


def first(value):
    return value[0] if isinstance(value, tuple | list) else value


def watched(model: torch.nn.Module, block: torch.nn.Module) -> dict[tuple[str, str], torch.Tensor]:
    """What goes into and comes out of each module of a block, by plain hooks."""
    seen: dict[tuple[str, str], torch.Tensor] = {}

    def keep(path):
        def hook(_, args, kwargs, output):
            given = args[0] if args else next((v for v in kwargs.values() if isinstance(v, torch.Tensor)), None)
            # Some blocks add in place to what a sublayer puts out.
            seen[path, "input"], seen[path, "output"] = given.clone(), first(output).clone()

        return hook

    handles = [sub.register_forward_hook(keep(path), with_kwargs=True) for path, sub in block.named_modules()]
    with torch.no_grad():
        model(**inputs(model))
    for handle in handles:
        handle.remove()
    return seen


def part(place, seen):
    """The numbers of a place's units."""
    return seen[place.path, place.side][..., place.start : place.start + place.width * place.size]


@pytest.mark.parametrize("name", EXPECTED)
def test_first_candidates(name):
    model = build(name)
    _, attention, mlp, gate, activation = EXPECTED[name]
    (tower,) = find_towers(model).values()
    for block in tower.blocks:
        found = find_places(tower, block)
        assert tuple(found) == SUBLAYER_KINDS
        heads, neurons = found["heads"][0], found["neurons"][0]
        assert (heads.path, heads.side, heads.width, heads.size) == (attention, "input", 4, 8)
        assert (neurons.path, neurons.side, neurons.size) == (mlp, "input", 1)
        assert found["gate"][0].path == gate
        assert (
            isinstance(found["activation"], Absent) if activation is None else found["activation"][0].path == activation
        )
        added = BEHIND.get(name, (attention, mlp))
        assert (found["attention"][0].path, found["mlp"][0].path) == added


@pytest.mark.parametrize("name", EXPECTED)
def test_what_sublayers_add_is_what_the_stream_changes_by(name):
    model = build(name)
    (tower,) = find_towers(model).values()
    for block in tower.blocks:
        found, seen = find_places(tower, block), watched(model, block)
        attention, mlp = (
            part(found[kind][0], seen) * torch.as_tensor(found[kind][0].scale) for kind in ("attention", "mlp")
        )
        if name == "BertConfig":  # each sum is normalized
            norm = "attention.output.LayerNorm"
            assert torch.allclose(seen["", "input"] + attention, seen[norm, "input"], atol=1e-5)
            assert torch.allclose(seen[norm, "output"] + mlp, seen["output.LayerNorm", "input"], atol=1e-5)
            assert isinstance(found["mid"], Absent)
            continue
        assert torch.allclose(seen["", "input"] + attention + mlp, seen["", "output"], atol=1e-4)
        if name in ("FalconConfig", "CohereConfig", "GPTNeoXConfig"):
            assert isinstance(found["mid"], Absent)
        else:
            assert found["mid"][0].base == ("", "input")
            assert found["mid"][0].path == found["attention"][0].path


@pytest.mark.parametrize("name", EXPECTED)
def test_gate_and_activation_make_the_neurons(name):
    model = build(name)
    (tower,) = find_towers(model).values()
    found = find_places(tower, tower.blocks[0])
    seen = watched(model, tower.blocks[0])
    gate, neurons = part(found["gate"][0], seen), part(found["neurons"][0], seen)
    function = next(
        sub
        for path, sub in tower.blocks[0].named_modules()
        if not list(sub.children()) and "act" in path.rpartition(".")[2]
    )
    activation = function(gate)
    if isinstance(found["activation"], Absent):
        assert torch.allclose(activation, neurons, atol=1e-5)
    else:
        assert torch.allclose(activation, part(found["activation"][0], seen), atol=1e-5)


def test_weights_may_be_elsewhere():
    with torch.device("meta"):
        model = tr.AutoModelForCausalLM.from_config(tr.LlamaConfig(**GROUPED))
    (tower,) = find_towers(model).values()
    found = find_places(tower, tower.blocks[0])
    assert not any(isinstance(each, Absent) for each in found.values())


@pytest.mark.parametrize("name", ["vision", "decoder"])
def test_bundled_model(name):
    tower = mn.load("tiny").towers[name]
    found = find_places(tower, tower.blocks[0])
    assert not any(isinstance(found[kind], Absent) for kind in SUBLAYER_KINDS if kind != "activation")


def test_a_state_space_mixer_has_no_heads():
    model = tr.MambaForCausalLM(tr.MambaConfig(hidden_size=32, num_hidden_layers=1, vocab_size=99, state_size=4))
    (tower,) = find_towers(model).values()
    found = find_places(tower, tower.blocks[0])
    assert isinstance(found["heads"], Absent)
    assert "MambaMixer" in found["heads"].reason
