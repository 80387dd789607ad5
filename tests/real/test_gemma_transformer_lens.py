"""The language network of Gemma 3 270M lesioned in TransformerLens and here, and its states as a cache."""

from __future__ import annotations

import pytest
import torch
import transformers as tr

import assets
import modalnet as mn
from modalnet.interop import transformer_lens as tl

pytestmark = [pytest.mark.real, pytest.mark.usefixtures("no_installs")]

TEXTS = ("The children walked to school through the quiet park.", "My sister keeps the keys in a small wooden box.")


@pytest.fixture(scope="module")
def model():
    return mn.load(assets.gemma(), dtype="float32")


@pytest.fixture(scope="module")
def bridge():
    pytest.importorskip("transformer_lens")
    from transformer_lens.model_bridge import TransformerBridge

    hf = tr.AutoModelForCausalLM.from_pretrained(assets.gemma(), dtype=torch.float32)
    tokenizer = tr.AutoTokenizer.from_pretrained(assets.gemma())
    return TransformerBridge.boot_transformers(str(assets.gemma()), hf_model=hf, tokenizer=tokenizer)


@pytest.fixture(scope="module")
def network(model):
    contrast = mn.stimuli.fedorenko2010(assets.data("fedorenko2010"))
    few = mn.Contrast(contrast.stimuli[::8], positive=contrast.positive, negative=contrast.negative)
    return mn.localize(model, few, protocol="alkhamissi2025", cache=False, progress=False).top(fraction=0.00125)


def tokens(model, text):
    return torch.tensor([model.tokenizer(text)["input_ids"]])


@pytest.mark.parametrize("named", [True, False])
def test_the_network_is_zeroed_as_here(model, bridge, network, named):
    assert network.count == 14
    hooks = tl.hooks(network, bridge if named else None)
    expected = model.run(TEXTS, mn.zero(network), logits="all").logits
    whole = model.run(TEXTS, logits="all").logits
    for text, ours, intact in zip(TEXTS, expected, whole, strict=True):
        with torch.no_grad():
            found = bridge.run_with_hooks(tokens(model, text), fwd_hooks=hooks, prepend_bos=False)[0]
        assert (found - ours).abs().max() < 1e-4 * ours.abs().max()
        assert (ours - intact).abs().max() > 3.0


def test_mean_ablation_of_the_network(model, bridge, network):
    one = mn.mean(network, over=model.means(TEXTS, spare_first=1)).at("all", spare_first=1)
    (ours,) = model.run(TEXTS[0], one, logits="all").logits
    with torch.no_grad():
        hooks = tl.hooks(one, bridge)
        found = bridge.run_with_hooks(tokens(model, TEXTS[0]), fwd_hooks=hooks, prepend_bos=False)[0]
    assert (found - ours).abs().max() < 1e-4 * ours.abs().max()


def test_a_run_as_a_cache(model, bridge):
    with torch.no_grad():
        _, theirs = bridge.run_with_cache(tokens(model, TEXTS[0]), prepend_bos=False)
    for each in (model, mn.load(bridge, tokenizer=model.tokenizer)):
        ours = tl.cache(each.run(TEXTS[0], tokens="all"), bridge)
        assert len(ours) == 2 * model.decoder.n_layers
        for name, value in ours.items():
            assert (value - theirs[name]).abs().max() < 1e-4 * theirs[name].abs().max()
        assert torch.equal(ours["resid_post", -1], ours["blocks.17.hook_out"])


#: Of each kind of space, TransformerLens' name for it in a block.
THEIRS = {
    "pre": "hook_resid_pre",
    "mid": "hook_resid_mid",
    "attention": "hook_attn_out",
    "mlp": "hook_mlp_out",
    "neurons": "mlp.hook_post",
    "gate": "mlp.hook_pre",
    "heads": "attn.hook_z",
}


def test_spaces_have_their_names_and_their_numbers(model, bridge):
    """What sublayers add is behind Gemma's post-norms, and so is TransformerLens' point."""
    with torch.no_grad():
        _, theirs = bridge.run_with_cache(tokens(model, TEXTS[0]), prepend_bos=False)
    read = [f"decoder.{kind}" for kind in THEIRS]
    for each in (model, mn.load(bridge, tokenizer=model.tokenizer)):
        ours = tl.cache(each.run(TEXTS[0], read=read, tokens="all", vectors=True), bridge)
        for name in THEIRS.values():
            for layer in range(model.decoder.n_layers):
                key = f"blocks.{layer}.{name}"
                assert ours[key].shape == theirs[key].shape
                assert (ours[key] - theirs[key]).abs().max() < 1e-4 * theirs[key].abs().max()
    assert theirs["blocks.3.attn.hook_z"].shape[2:] == (4, 256)
    inside, added = theirs["blocks.3.attn.hook_out"], theirs["blocks.3.hook_attn_out"]
    assert (inside - added).abs().max() > 0.1 * added.abs().max()
    assert "blocks.3.attn.hook_out" not in ours


def test_a_head_is_ablated_as_transformer_lens_ablates_it(model, bridge):
    def zeroed(value, hook):
        value[:, :, 2] = 0
        return value

    head = mn.Units.from_indices({"decoder.heads": (18, 4)}, [("decoder.heads", 5, 2)])
    ours, whole = (model.run(TEXTS[0], *made, logits="all").logits[0] for made in ([mn.zero(head)], []))
    given = tokens(model, TEXTS[0])
    with torch.no_grad():
        theirs, hooked = (
            bridge.run_with_hooks(given, fwd_hooks=hooks, prepend_bos=False)[0]
            for hooks in ([("blocks.5.attn.hook_z", zeroed)], tl.hooks(head, bridge))
        )
    assert (ours - theirs).abs().max() < 1e-4 * theirs.abs().max()
    assert (hooked - theirs).abs().max() < 1e-4 * theirs.abs().max()
    assert (ours - whole).abs().max() > 0.1


@pytest.mark.parametrize("kind", THEIRS)
def test_lesions_of_each_space(model, bridge, kind):
    shape = model.spaces[f"decoder.{kind}"].shape
    places = [(f"decoder.{kind}", layer, unit) for layer in (2, 9) for unit in range(0, shape[1], 3)]
    units = mn.Units.from_indices({f"decoder.{kind}": shape}, places)
    for one in (mn.zero(units), mn.scale(units, 1.5).at("last")):
        ours = model.run(TEXTS[0], one, logits="all").logits[0]
        with torch.no_grad():
            found = bridge.run_with_hooks(tokens(model, TEXTS[0]), fwd_hooks=tl.hooks(one, bridge), prepend_bos=False)
        assert (found[0] - ours).abs().max() < 1e-4 * ours.abs().max()
