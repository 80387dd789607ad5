"""Where units are in blocks is measured, and names and registration orders that mislead do not."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import transformers as tr
from torch import nn

import modalnet as mn
from modalnet.execution.additions import Seen
from modalnet.execution.sublayers import Sublayers, in_order
from modalnet.models.places import Absent, Place

SMALL = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48}
TEXT = SMALL | {"vocab_size": 423, "max_position_embeddings": 64}
SEES = SMALL | {"image_size": 16, "patch_size": 4}
KINDS = ("attention", "mlp", "neurons", "heads", "gate")


def measured(module, tokenizer=None, processor=None, stimulus=None, change=None):
    """Places in each tower of a model that a change was made to, as plain ``{tower: {kind: places}}``."""
    torch.manual_seed(0)
    for parameter in module.parameters():
        nn.init.normal_(parameter, std=0.3)
    if change is not None:
        change(module)
    model = mn.load(module.eval(), tokenizer=tokenizer, processor=processor)
    executor = model._executor
    sublayers = Sublayers(executor.engine, executor.encoder, executor.towers, executor.runner.layouts.spans)
    (prepared,) = executor.encoder.prepare([stimulus])
    item = executor.encoder.encode(prepared)
    found = {name: sublayers.places(tower, item) for name, tower in model.towers.items()}
    assert not sublayers.unmeasured
    return found


@pytest.fixture(scope="module")
def tokenizer():
    from families import make_tokenizer

    return make_tokenizer()


def decoder(config, tokenizer, change=None):
    module = tr.AutoModelForCausalLM.from_config(config)
    return measured(module, tokenizer, stimulus=mn.Stimulus("a dog ran across"), change=change)["decoder"]


def test_bundled_model():
    model = mn.load("tiny")
    executor = model._executor
    stimulus = mn.Stimulus("what is this", image=np.full((20, 20, 3), 90, np.uint8))
    (prepared,) = executor.encoder.prepare([stimulus])
    item = executor.encoder.encode(prepared)
    sublayers = Sublayers(executor.engine, executor.encoder, executor.towers, executor.runner.layouts.spans)
    for tower in model.towers.values():
        found = sublayers.places(tower, item)
        for kind in (*KINDS, "pre", "mid"):
            assert all(isinstance(place, Place) for place in found[kind]), (tower.name, kind, found[kind])
            assert all(place.scale == 1.0 for place in found[kind])
        for layer in range(tower.n_layers):
            order = [found[kind][layer].order for kind in ("pre", "heads", "attention", "gate", "neurons", "mlp")]
            assert order == sorted(order)


def test_scales_of_a_block_are_measured(tokenizer):
    found = decoder(tr.GraniteConfig(**TEXT, residual_multiplier=0.3), tokenizer)
    assert [place.scale for place in found["attention"]] == [0.3, 0.3]
    assert [place.scale for place in found["mlp"]] == [0.3, 0.3]


def test_scales_per_column_are_those_of_the_parameter():
    module = tr.BeitModel(tr.BeitConfig(**SEES, layer_scale_init_value=0.4))
    processor = tr.BeitImageProcessor(size={"height": 16, "width": 16}, crop_size={"height": 16, "width": 16})
    found = measured(module, processor=processor, stimulus=mn.Stimulus(image=np.full((16, 16, 3), 90, np.uint8)))
    blocks = module.layers
    for kind, name in (("attention", "lambda_1"), ("mlp", "lambda_2")):
        for place, block in zip(found["vision"][kind], blocks, strict=True):
            assert place.scale == pytest.approx(getattr(block, name).detach().numpy(), rel=1e-5)


def test_blocks_that_normalize_sums_have_no_stream_between(tokenizer):
    found = decoder(tr.BertConfig(**TEXT, is_decoder=True), tokenizer)
    assert all(isinstance(place, Absent) and "is not the sum" in place.reason for place in found["mid"])
    assert {place.path for place in found["attention"]} == {"attention.output.dense"}


def test_parallel_sublayers(tokenizer):
    found = decoder(tr.GPTJConfig(n_embd=32, n_layer=2, n_head=4, vocab_size=423, rotary_dim=8), tokenizer)
    assert {place.path for place in found["attention"]} == {"attn.out_proj"}
    assert {place.path for place in found["mlp"]} == {"mlp.fc_out"}
    assert all("side by side" in place.reason for place in found["mid"])


def test_which_half_of_a_fused_projection_is_the_gate_without_an_activation_module(tokenizer):
    class Functional(nn.Module):
        """The MLP of Phi-3 with its halves exchanged and its activation called as a function."""

        def __init__(self, mlp):
            super().__init__()
            self.gate_up_proj, self.down_proj = mlp.gate_up_proj, mlp.down_proj

        def forward(self, hidden):
            up, gate = self.gate_up_proj(hidden).chunk(2, dim=-1)
            return self.down_proj(up * nn.functional.silu(gate))

    def change(module):
        for block in module.model.layers:
            block.mlp = Functional(block.mlp)

    found = decoder(tr.Phi3Config(**TEXT, pad_token_id=0), tokenizer, change)
    assert [(place.path, place.start, place.columns) for place in found["gate"]] == [("mlp.gate_up_proj", 48, 96)] * 2
    assert all("not a module" in place.reason for place in found["activation"])


def test_an_output_that_is_changed_before_it_is_added_is_not_what_is_added(tokenizer):
    def change(module):
        for block in module.model.layers:
            forward = block.mlp.forward
            block.mlp.forward = lambda hidden, forward=forward: forward(hidden).flip(-1)
            block.mlp.down_proj.out_features = 32

    found = decoder(tr.LlamaConfig(**TEXT), tokenizer, change)
    assert {place.path for place in found["mlp"]} == {"mlp"}


def test_attention_in_windows_has_no_heads():
    config = tr.SamVisionConfig(**SEES, window_size=3, global_attn_indexes=[1], output_channels=32)
    processor = tr.SamImageProcessor(size={"longest_edge": 16}, pad_size={"height": 16, "width": 16})
    stimulus = mn.Stimulus(image=np.random.default_rng(0).integers(0, 256, (16, 16, 3), np.uint8))
    found = measured(tr.SamVisionModel(config), processor=processor, stimulus=stimulus)["vision"]
    assert isinstance(found["heads"][0], Absent)
    assert "windows" in found["heads"][0].reason
    assert isinstance(found["heads"][1], Place)
    assert all(isinstance(place, Place) for place in found["neurons"])


def test_order_of_inputs_and_outputs():
    called = [0, 1, 2, 3, 4]
    paths = ["0", "0.attn", "0.attn.o", "0.mlp", "1"]
    assert list(in_order(called, paths)) == [
        (0, "input"), (1, "input"), (2, "input"), (2, "output"), (1, "output"), (3, "input"), (3, "output"),
        (0, "output"), (4, "input"), (4, "output"),
    ]  # fmt: skip


def test_heads_of_another_size_in_some_layers(tokenizer):
    """A layer whose heads have fewer numbers is read and lesioned as torch hooks do."""
    torch.manual_seed(0)
    config = tr.Gemma4TextConfig(
        **TEXT, num_key_value_heads=2, head_dim=8, global_head_dim=16, hidden_size_per_layer_input=0,
        layer_types=["sliding_attention", "full_attention"], num_kv_shared_layers=0,
    )  # fmt: skip
    module = tr.Gemma4ForCausalLM(config).eval()
    model = mn.load(module, tokenizer=tokenizer)
    run = model.run("a dog ran", read="decoder.heads", tokens="all", vectors=True)
    space = model.spaces["decoder.heads"]
    assert (space.width, space.size, [place.size for place in space.places]) == (4, 16, [8, 16])
    given = {}
    outs = [layer.self_attn.o_proj for layer in module.model.layers]
    hooks = [out.register_forward_pre_hook(lambda out, args: given.update({out: args[0][0].clone()})) for out in outs]
    lesion = mn.zero(mn.Units.from_indices({space.name: space.shape}, [(space.name, layer, 1) for layer in (0, 1)]))
    ids = tokenizer(["a dog ran"], return_tensors="pt")
    with torch.no_grad():
        module(**ids)
    for hook in hooks:
        hook.remove()
    for layer, (out, size) in enumerate(zip(outs, (8, 16), strict=True)):
        parts = given[out].unflatten(-1, (4, size))
        torch.testing.assert_close(run.activations[space.name][0][layer], parts.norm(dim=-1), rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(run.vectors[space.name][0][layer, ..., :size], parts, rtol=1e-5, atol=1e-6)

    def zero(size):
        def hook(_, args):
            args[0][..., size : 2 * size] = 0

        return hook

    hooks = [out.register_forward_pre_hook(zero(size)) for out, size in zip(outs, (8, 16), strict=True)]
    with torch.no_grad():
        expected = module(**ids).logits[0, -1]
    for hook in hooks:
        hook.remove()
    torch.testing.assert_close(model.run("a dog ran", lesion, read=[], logits="last").logits[0], expected)


def test_a_massive_activation_does_not_make_states_equal():
    before = torch.randn(6, 32, generator=torch.Generator().manual_seed(0))
    before[:, 3] = 9000.0
    after = before + torch.randn(6, 32, generator=torch.Generator().manual_seed(1))
    ends = {("", "input"): before, ("norm", "input"): after, ("out", "output"): after - before}
    seen = Seen(rows=ends, rank={end: rank for rank, end in enumerate(ends)}, epsilon=2.0**-8)
    assert not seen.equal(("", "input"), ("norm", "input"))
    assert seen.equal(("", "input"), ("", "input"))
