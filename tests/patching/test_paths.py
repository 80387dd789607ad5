"""Path patching against plain transformers: the sublayers between sender and receiver frozen by hooks."""

from __future__ import annotations

import contextlib
import copy

import numpy as np
import pytest
import torch

import modalnet as mn
from families import build, picture
from modalnet.errors import InputError
from modalnet.execution.backends.simulated import SimulatedBackend
from modalnet.patching import kl_divergence
from reference import encode, load, paths

OPTIONS = {"cache": False, "progress": False}
TEXTS = ("Is there a face, a house or a car?", "Is there a car, a house or a face?")
LLAMA = {"attention": "self_attn", "mlp": "mlp", "heads": "self_attn.o_proj", "neurons": "mlp.down_proj"}
#: Modules whose output is added to the stream, and those whose input are heads and neurons.
MODULES = {
    "llama": LLAMA,
    "llava_clip": LLAMA,
    "gpt2": {"attention": "attn", "mlp": "mlp", "heads": "attn.c_proj", "neurons": "mlp.c_proj"},
    "gemma3": LLAMA | {"attention": "post_attention_layernorm", "mlp": "post_feedforward_layernorm"},
}
INWARD = ("heads", "neurons", "pre")
STEP = {"pre": 0, "heads": 1, "attention": 1, "neurons": 3, "mlp": 3, "out": 4}


def difference(logits, pairs=None):
    return logits[:, 5] - logits[:, 9]


class Hooked:
    """One family, run with hooks on the places (kind, layer) of its decoder's blocks, ``[token, dim]`` each."""

    def __init__(self, name, images=(None, None)):
        self.family = build(name)
        self.frozen = ("attention", "mlp")
        self.inputs = [
            encode(self.family, text, [] if image is None else [image])
            for text, image in zip(TEXTS, images, strict=True)
        ]
        blocks = [self.family.model.get_submodule(path) for path in paths(name, "decoder")]
        self.n = len(blocks)
        self.modules = {
            (kind, layer): block.get_submodule(path)
            for layer, block in enumerate(blocks)
            for kind, path in (MODULES[name] | {"pre": "", "out": ""}).items()
        }

    def run(self, side, edits=(), *, graph=False):
        """The measure, and what is at every place; ``edits`` maps places to functions of what is there."""
        edits, seen = dict(edits), {}

        def changed(place, value):
            if place in edits:
                value = edits[place](value[0].clone())[None]
            seen[place] = value[0].clone()
            return value

        def before(place):
            def hook(module, args, kwargs):
                if args:
                    return (changed(place, args[0]), *args[1:]), kwargs
                return args, kwargs | {"hidden_states": changed(place, kwargs["hidden_states"])}

            return hook

        def after(place):
            def hook(module, args, output):
                if isinstance(output, tuple):
                    return (changed(place, output[0]), *output[1:])
                return changed(place, output)

            return hook

        with contextlib.ExitStack() as stack, torch.set_grad_enabled(graph):
            for place, module in self.modules.items():
                if place[0] in INWARD:
                    handle = module.register_forward_pre_hook(before(place), with_kwargs=True)
                else:
                    handle = module.register_forward_hook(after(place))
                stack.callback(handle.remove)
            logits = self.family.model(**self.inputs[side]).logits
            value = difference(logits[:, -1])[0]
        return value if graph else float(value), seen

    def path(self, sender, receiver, *, units=slice(None), got=slice(None), tokens=slice(None), base=1):
        """The measure with what ``sender`` sends to ``receiver``; None for the logits."""
        _, source = self.run(1 - base)

        def patch(value):
            value[tokens, units] = source[sender][tokens, units]
            return value

        return self.sent(sender, receiver, patch, got, base)

    def sent(self, sender, receiver, patch, got, base, *, graph=False):
        """The measure where a receiver gets what is sent when a sender is patched."""
        _, frozen = self.run(base)
        end = (self.n, 0) if receiver is None else (receiver[1], STEP[receiver[0]])

        def held(place):
            return lambda value: frozen[place].clone()

        edits = {}
        for kind in self.frozen:
            for layer in range(self.n):
                if (sender[1], STEP[sender[0]]) < (layer, STEP[kind]) < end:
                    edits[kind, layer] = held((kind, layer))
        value, seen = self.run(base, edits | {sender: patch}, graph=graph)
        if receiver is None:
            return value

        def deliver(value):
            value[:, got] = seen[receiver][:, got]
            return value

        return self.run(base, {receiver: deliver}, graph=graph)[0]

    def slope(self, sender, receiver, got=slice(None)):
        """Difference of activations times the derivative of the measure by what is at the sender, per number."""
        (_, base), (_, source) = self.run(1), self.run(0)
        leaf = base[sender].clone().requires_grad_()
        value = self.sent(sender, receiver, lambda _: leaf.clone(), got, 1, graph=True)
        (gradient,) = torch.autograd.grad(value, leaf)
        return ((source[sender] - base[sender]) * gradient).sum(0)


def part(space, unit):
    return slice(unit * space.size, (unit + 1) * space.size)


def unit(model, name, layer, index):
    return mn.Units.from_indices({name: model.spaces[name].shape}, [(name, layer, index)])


def patched(model, sender, receiver, texts=TEXTS, **options):
    return mn.activation_patching(model, *texts, difference, sender=sender, receiver=receiver, **(OPTIONS | options))


def joint(model, sender, receiver, **options):
    return patched(model, sender, receiver, **options).networks["sender"].joint[0]


@pytest.mark.parametrize("name", ["llama", "gpt2", "gemma3", "llava_clip"])
def test_direct_effects_are_those_of_frozen_sublayers(name):
    images = [picture(0, 64, 64)] * 2 if name == "llava_clip" else [None, None]
    model, truth = load(name), Hooked(name, images)
    texts = [mn.Stimulus(text, image=image) if image else text for text, image in zip(TEXTS, images, strict=True)]
    heads = model.spaces["decoder.heads"]

    def one(sender, receiver, **options):
        return joint(model, sender, receiver, texts=texts, align="role", **options)

    unpatched = [truth.run(side)[0] for side in (0, 1)]

    def near(value, expected, least=1e-4):
        assert value == pytest.approx(expected, rel=1e-5, abs=5e-6)
        assert all(abs(value - each) >= least for each in unpatched)

    head, later = unit(model, "decoder.heads", 0, 1), unit(model, "decoder.heads", 2, 0)
    near(
        one(head, later),
        truth.path(("heads", 0), ("heads", 2), units=part(heads, 1), got=part(heads, 0)),
    )
    near(
        one(head, later, direction="noise"),
        truth.path(("heads", 0), ("heads", 2), units=part(heads, 1), got=part(heads, 0), base=0),
    )
    near(one(head, mn.site("decoder.mlp", 0)), truth.path(("heads", 0), ("mlp", 0), units=part(heads, 1)))
    near(one(head, mn.site("decoder.neurons", 2)), truth.path(("heads", 0), ("neurons", 2), units=part(heads, 1)))
    neuron = unit(model, "decoder.neurons", 0, 7)
    near(one(neuron, mn.site("decoder.attention", 2)), truth.path(("neurons", 0), ("attention", 2), units=[7]))
    near(one(head, "logits"), truth.path(("heads", 0), None, units=part(heads, 1)))
    for layer in (0, 1):
        found = patched(model, mn.site("decoder.mlp", layer), "logits", texts=texts, align="role")
        near(found.values["decoder.mlp"][0, 0, 0], truth.path(("mlp", layer), None))
    found = patched(
        model,
        mn.site("decoder.attention", 1),
        mn.site("decoder.mlp", 1),
        texts=texts,
        align="role",
        tokens=["last", -3],
    )
    for column, token in enumerate([-1, -3]):
        expected = truth.path(("attention", 1), ("mlp", 1), tokens=[token])
        near(found.values["decoder.attention"][0, 0, column], expected, least=0)


@pytest.mark.parametrize(
    ("name", "receiver"), [("llama", "logits"), ("llama", "mlp"), ("llama", "head"), ("gemma3", "head")]
)
def test_estimates_are_the_derivative_of_the_direct_effect(name, receiver):
    model, truth = load(name), Hooked(name)
    heads = model.spaces["decoder.heads"]
    end, place, got = {
        "logits": ("logits", None, slice(None)),
        "mlp": (mn.site("decoder.mlp", 1), ("mlp", 1), slice(None)),
        "head": (unit(model, "decoder.heads", 3, 1), ("heads", 3), part(heads, 1)),
    }[receiver]
    found = patched(model, ["heads", "neurons"], end, exact=4, tokens="all")
    layers = found.layers["decoder.heads"]
    assert layers == {"logits": tuple(range(truth.n)), "mlp": (0, 1), "head": (0, 1, 2)}[receiver]
    for kind, size in (("heads", heads.size), ("neurons", 1)):
        estimates = found.unit_estimates[f"decoder.{kind}"][0] - found.corrupt[0]
        for at, layer in enumerate(found.layers[f"decoder.{kind}"][:2]):
            expected = truth.slope((kind, layer), place, got).unflatten(0, (-1, size)).sum(1)
            np.testing.assert_allclose(estimates[at], expected, atol=2e-5)
    ran = found.unit_exact["decoder.heads"]
    assert ran.sum() + found.unit_exact["decoder.neurons"].sum() == 4
    for at, head in np.argwhere(ran):
        expected = truth.path(("heads", layers[at]), place, units=part(heads, head), got=got)
        assert found.unit_values["decoder.heads"][0, at, head] == pytest.approx(expected, abs=2e-5)


@pytest.mark.parametrize("name", ["llama", "gemma3"])
def test_paths_through_mlps_with_attentions_frozen(name):
    """As in Wang et al. (2023)."""
    model, truth = load(name), Hooked(name)
    truth.frozen = ("attention",)
    heads, head = model.spaces["decoder.heads"], unit(model, "decoder.heads", 0, 1)
    options = {"freeze": "attention"}
    expected = truth.path(("heads", 0), None, units=part(heads, 1))
    assert joint(model, head, "logits", **options) == pytest.approx(expected, rel=1e-5, abs=5e-6)
    assert abs(expected - joint(model, head, "logits")) > 1e-3  # MLPs between carry some
    expected = truth.path(("mlp", 0), ("heads", 3), got=part(heads, 0))
    found = patched(model, mn.site("decoder.mlp", 0), unit(model, "decoder.heads", 3, 0), **options)
    assert found.values["decoder.mlp"][0, 0, 0] == pytest.approx(expected, rel=1e-5, abs=5e-6)
    expected = truth.path(("heads", 0), ("neurons", 2), units=part(heads, 1))
    assert joint(model, head, mn.site("decoder.neurons", 2), **options) == pytest.approx(expected, rel=1e-5, abs=5e-6)
    sweep = patched(model, ["heads", "neurons"], mn.site("decoder.attention", 2), exact=2, **options)
    for kind, layer, size in (("heads", 0, heads.size), ("neurons", 1, 1)):
        estimates = sweep.unit_estimates[f"decoder.{kind}"][0, layer] - sweep.corrupt[0]
        expected = truth.slope((kind, layer), ("attention", 2)).unflatten(0, (-1, size)).sum(1)
        np.testing.assert_allclose(estimates, expected, atol=2e-5)
    assert sweep.freeze == "attention"
    assert "through the MLPs between, too" in sweep.summary()


def test_the_units_with_the_largest_estimates_are_run():
    model = load("llama")
    every, more, some = (patched(model, "heads", "logits", exact=exact) for exact in (100, 11, 5))
    name = "decoder.heads"
    assert every.unit_exact[name].all()
    assert not every.unit_estimates  # which a function as metric may not have
    assert some.unit_exact[name].sum() == 5
    size = np.abs(some.unit_estimates[name][0] - some.corrupt[0])
    assert size[some.unit_exact[name]].min() >= size[~some.unit_exact[name]].max()
    np.testing.assert_allclose(some.unit_estimates[name], more.unit_estimates[name], atol=1e-6)
    mixed = np.where(some.unit_exact[name], every.unit_values[name], some.unit_estimates[name])
    np.testing.assert_allclose(some.unit_values[name], mixed, atol=1e-5)
    (row,) = some.unit_agreement().to_dict("records")
    scale = abs(float(some.clean[0] - some.corrupt[0]))
    difference = np.abs(some.unit_values[name] - some.unit_estimates[name])[0][some.unit_exact[name]]
    assert row["cells"] == 5
    assert row["largest_error"] == pytest.approx(difference.max() / scale)
    assert row["left"] == pytest.approx(size[~some.unit_exact[name]].max() / scale)
    table = some.unit_table()
    assert {"receiver", "exact", "estimate"} <= set(table)
    assert set(table["receiver"]) == {"logits"} == set(some.table()["receiver"])
    assert table["exact"].sum() == 5
    assert "path patching to logits" in some.summary()
    assert "5 of 12 units run exactly" in some.summary()
    assert "2211.00593" in some.cite()


def test_what_everything_sends_to_the_last_block_adds_up_to_its_change():
    """The embeddings and all sublayers, each alone, move the stream before the final norm by all that it moves."""
    model, truth = load("llama"), Hooked("llama")
    (_, base), (_, source) = truth.run(1), truth.run(0)
    seen = []
    last = ("out", truth.n - 1)
    for sender in [("pre", 0), *((kind, layer) for kind in ("attention", "mlp") for layer in range(truth.n))]:
        own = patched(model, mn.site(f"decoder.{sender[0]}", sender[1]), "logits")
        change = source[sender] - base[sender]

        def moved(value, change=change):
            return value + change

        expected, _ = truth.run(1, {last: moved})
        assert own.values[f"decoder.{sender[0]}"][0, 0, 0] == pytest.approx(expected, abs=2e-5)
        seen.append(change)
    torch.testing.assert_close(sum(seen), source[last] - base[last], atol=1e-5, rtol=1e-5)


def test_several_units_send_jointly_and_several_receivers_get_it():
    model, truth = load("llama"), Hooked("llama")
    heads = model.spaces["decoder.heads"]
    (_, base), (_, source) = truth.run(1), truth.run(0)
    ids = [("decoder.heads", 0, 1), ("decoder.heads", 1, 2), ("decoder.neurons", 1, 3)]
    shapes = {name: model.spaces[name].shape for name in ("decoder.heads", "decoder.neurons")}
    units = mn.Units.from_indices(shapes, ids)
    got = mn.Units.from_indices(shapes, [("decoder.heads", 2, 0), ("decoder.heads", 3, 2)])

    def set_to(place, dims):
        def edit(value):
            value = base[place].clone()
            value[:, dims] = source[place][:, dims]
            return value

        return edit

    sending = {
        ("heads", 0): set_to(("heads", 0), part(heads, 1)),
        ("heads", 1): set_to(("heads", 1), part(heads, 2)),
        ("neurons", 1): set_to(("neurons", 1), [3]),
        ("mlp", 0): lambda value: base["mlp", 0].clone(),
    }
    still = {
        (kind, layer): (lambda value, at=(kind, layer): base[at].clone())
        for kind in ("attention", "mlp")
        for layer in (2, 3)
    }
    assert joint(model, units, "logits") == pytest.approx(truth.run(1, sending | still)[0], abs=2e-5)
    _, first = truth.run(1, sending)
    _, second = truth.run(1, sending | {at: still[at] for at in (("attention", 2), ("mlp", 2))})

    def deliver(seen, place, head):
        def edit(value):
            value[:, part(heads, head)] = seen[place][:, part(heads, head)]
            return value

        return edit

    ends = {("heads", 2): deliver(first, ("heads", 2), 0), ("heads", 3): deliver(second, ("heads", 3), 2)}
    assert joint(model, units, got) == pytest.approx(truth.run(1, ends)[0], abs=2e-5)


def test_pairs_columns_files_the_store_and_figures(tmp_path):
    model = mn.load("tiny")
    pairs = ["The dogs near the house", "The cats near the door"], ["The dog near the house", "The cat near the door"]
    metric = mn.patching.logit_difference(" are", " is")
    options = {"sender": ["heads", "mlp"], "receiver": "logits", "exact": 6, "tokens": ["last", "all"]}
    store = mn.Store(tmp_path / "store")
    found = mn.activation_patching(model, *pairs, metric, **options, cache=store, progress=False)
    assert found.values["decoder.mlp"].shape == (2, 8, 2)
    assert list(found.unit_values) == ["decoder.heads"]
    at, head = np.argwhere(found.unit_exact["decoder.heads"])[0].tolist()
    one = unit(model, "decoder.heads", at, head)
    for pair, texts in enumerate(zip(*pairs, strict=True)):
        alone = mn.activation_patching(
            model, *texts, metric, sender=mn.site("decoder.mlp", [2, 5]), receiver="logits", tokens="last", **OPTIONS
        )
        np.testing.assert_allclose(
            found.values["decoder.mlp"][pair, [2, 5], 0], alone.values["decoder.mlp"][0, :, 0], atol=1e-4
        )
        alone = mn.activation_patching(model, *texts, metric, sender=one, receiver="logits", **OPTIONS)
        expected = alone.networks["sender"].joint[0]
        assert found.unit_values["decoder.heads"][pair, at, head] == pytest.approx(expected, abs=1e-4)
    assert (found.table()["low"] <= found.table()["effect"] + 1e-12).all()
    found.save(tmp_path / "one.safetensors")
    again = mn.activation_patching(model, *pairs, metric, **options, cache=store, progress=False)
    for other in (mn.Patching.load(tmp_path / "one.safetensors"), again):
        assert (other.receiver, other.layers, other.freeze) == (found.receiver, found.layers, "all")
        for name in ("values", "unit_values", "unit_exact", "unit_estimates", "unit_effect"):
            for space, values in getattr(found, name).items():
                np.testing.assert_array_equal(getattr(other, name)[space], values)
    (ax,) = found.plot()
    assert ax.get_title(loc="left") == "decoder.heads to logits, exact outlined"
    assert len(ax.patches) == 6
    assert [one.get_title(loc="left") for one in found.plot(on="tokens")] == [
        "decoder.mlp to logits",
        "decoder.heads to logits",
    ]


def test_a_planted_path_is_found():
    """Neuron 7 of block 0 reads the token and writes where neuron 11 of block 2 reads, which writes the answer."""
    module = copy.deepcopy(build("llama").model)
    layers = module.model.layers
    with torch.no_grad():
        module.model.embed_tokens.weight[:, :2] = 0
        module.lm_head.weight[[5, 9]] = 0
        module.lm_head.weight[5, 1] = 1
        for layer in layers:
            layer.self_attn.o_proj.weight.mul_(0.01)
            layer.mlp.down_proj.weight.mul_(0.01)
        layers[0].mlp.down_proj.weight[0, 7] = 3
        for part_ in (layers[2].mlp.gate_proj, layers[2].mlp.up_proj):
            part_.weight[11] = 0
            part_.weight[11, 0] = 2
        layers[2].mlp.down_proj.weight[1, 11] = 5
    model, texts = mn.load(module, tokenizer=build("llama").tokenizer), ("Is there a face", "Is there a car")
    answer = unit(model, "decoder.neurons", 2, 11)
    for receiver, layer, neuron in (("logits", 2, 11), (answer, 0, 7)):
        found = patched(model, "neurons", receiver, texts=texts, align="last", exact=3)
        effect = found.unit_effect["decoder.neurons"]
        at, index = np.unravel_index(np.nanargmax(effect), effect.shape)
        assert (found.layers["decoder.neurons"][at], index) == (layer, neuron)
        assert found.unit_exact["decoder.neurons"][at, index]
        assert 0.7 < effect[at, index] < 1.3
        assert np.sort(np.abs(effect[np.isfinite(effect)]))[-2] < 0.2
    reader = unit(model, "decoder.neurons", 0, 7)
    direct = patched(model, reader, "logits", texts=texts, align="last").network_table()["share"][0]
    assert abs(direct) < 0.1


def test_blocks_that_do_more_than_add_are_refused_by_name():
    import transformers as tr

    tokenizer = build("llama").tokenizer
    config = tr.OPTConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        word_embed_proj_dim=32,
        ffn_dim=48,
        num_hidden_layers=3,
        num_attention_heads=4,
        do_layer_norm_before=False,
    )
    torch.manual_seed(0)
    model = mn.load(tr.OPTForCausalLM(config).eval(), tokenizer=tokenizer)
    for sender, receiver in (("heads", "logits"), (mn.site("decoder.mlp", 0), mn.site("decoder.attention", 2))):
        with pytest.raises(InputError, match=r"Paths past block 0 .* are not defined: .*such as a norm of the stream"):
            patched(model, sender, receiver)
    with pytest.raises(InputError, match="of block 1, what its MLP reads is not the sum"):
        patched(model, mn.site("decoder.attention", 1), mn.site("decoder.mlp", 1))
    steered = load("llama").with_(mn.scale(mn.site("decoder", 1), 0.5))
    with pytest.raises(InputError, match=r"Paths past block 1 .*or an intervention"):
        patched(steered, mn.site("decoder.mlp", 0), "logits")


def test_interventions_hold_in_every_run():
    """What is edited at the receiver is not edited twice, and what is edited between stays frozen as it was."""
    model = load("llama")
    plain = joint(model, unit(model, "decoder.heads", 0, 1), mn.site("decoder.mlp", 3))
    still = model.with_(mn.scale(mn.site("decoder.mlp", 3), 1.0), mn.scale(mn.site("decoder.attention", 2), 1.0))
    assert joint(still, unit(model, "decoder.heads", 0, 1), mn.site("decoder.mlp", 3)) == pytest.approx(plain, abs=1e-5)
    halved = model.with_(mn.scale(mn.site("decoder.mlp", 3), 0.5))
    found = patched(halved, mn.site("decoder.mlp", 3), "logits")  # half of what either run adds
    ((base, source),) = zip(found.corrupt, found.clean, strict=True)
    assert base != source
    (row,) = model.run([TEXTS[1]], mn.scale(mn.site("decoder.mlp", 3), 0.5), read=[], logits="last").logits
    assert base == pytest.approx(float(difference(row[None])[0]), abs=1e-5)


def test_what_the_attention_sends_to_an_mlp_beside_it():
    """In parallel blocks nothing; to a later block, and to the logits, what frozen sublayers let through."""
    import transformers as tr

    config = tr.GPTNeoXConfig(
        hidden_size=24, intermediate_size=48, num_attention_heads=3, num_hidden_layers=3, vocab_size=512, rotary_pct=1.0
    )
    torch.manual_seed(0)
    module = tr.GPTNeoXForCausalLM(config).eval()
    for weight in module.parameters():
        if weight.ndim > 1:
            torch.nn.init.normal_(weight, std=weight.shape[1] ** -0.5)
    family = build("llama")
    model = mn.load(module, tokenizer=family.tokenizer)
    site = mn.site("decoder.attention", 1)
    with pytest.raises(InputError, match=r"sends nothing to the receiver decoder\.mlp\[1\] .* run side by side"):
        patched(model, site, mn.site("decoder.mlp", 1))
    found = patched(model, "attention", mn.site("decoder.neurons", 2))
    assert found.layers == {"decoder.attention": (0, 1)}
    blocks = module.gpt_neox.layers
    inputs = [family.tokenizer([text], return_tensors="pt") for text in TEXTS]

    def run(side, edits):
        seen = {}

        def hook(name):
            def keep(module, args, output):
                value = output[0] if isinstance(output, tuple) else output
                value = edits.get(name, value)
                seen[name] = value
                return (value, *output[1:]) if isinstance(output, tuple) else value

            return keep

        with contextlib.ExitStack() as stack, torch.no_grad():
            for layer, block in enumerate(blocks):
                for name, module_ in (("attention", block.attention), ("mlp", block.mlp), ("act", block.mlp.act)):
                    stack.callback(module_.register_forward_hook(hook((name, layer))).remove)
            return float(difference(module(**inputs[side]).logits[:, -1])[0]), seen

    (_, base), (_, source) = run(1, {}), run(0, {})
    for layer in (0, 1):
        between = [key for key in base if key[0] != "act" and layer < key[1] < 2]
        held = {key: base[key] for key in [("mlp", layer), *between]}
        _, seen = run(1, held | {("attention", layer): source["attention", layer]})
        expected, _ = run(1, {("act", 2): seen["act", 2]})
        assert found.values["decoder.attention"][0, layer, 0] == pytest.approx(expected, abs=2e-5)


def test_bad_ends_are_refused_before_any_patched_run(monkeypatch):
    model = load("llama")
    model.run(["a dog"], read=["decoder.heads"])
    head = unit(model, "decoder.heads", 1, 0)
    monkeypatch.setattr("modalnet.patching.path_runs.PathRuns.read", lambda self: pytest.fail("a run"))
    mlp = mn.site("decoder.mlp", 2)
    other = mn.Units.from_indices({"decoder.heads": (9, 9)}, [("decoder.heads", 1, 0)])
    empty = mn.Units.from_indices({"decoder.heads": model.spaces["decoder.heads"].shape}, [])
    bad = [
        ({"sender": mlp}, "`sender` was given without `receiver`"),
        ({"receiver": mlp}, "`receiver` was given without `sender`"),
        ({"sender": mlp, "receiver": mn.site("decoder.mlp", 1)}, r"decoder\.mlp\[2\] must come before the receiver"),
        ({"sender": mlp, "receiver": mn.site("decoder.neurons", 2)}, "must come before"),
        ({"sender": head, "receiver": mn.site("decoder.attention", 1)}, "must come before"),
        ({"sender": "heads", "receiver": mn.site("decoder.heads", 0)}, "No sender of decoder.heads comes before"),
        ({"sender": other, "receiver": mlp}, "units of `sender` belong to another model"),
        ({"sender": head, "receiver": other}, "units of `receiver` belong to another model"),
        ({"sender": empty, "receiver": mlp}, "units of `sender` must not be an empty set"),
        ({"sender": head, "receiver": empty}, "units of `receiver` must not be an empty set"),
        ({"sender": mn.site("decoder.gate", 0), "receiver": mlp}, "decoder.gate cannot send on a path"),
        ({"sender": head, "receiver": "mlp"}, "`receiver` must be a site such as"),
        ({"sender": 3, "receiver": mlp}, "`sender` must be a site such as"),
        ({"sender": [], "receiver": mlp}, "`sender` must be a site such as"),
        ({"sender": [mlp, head], "receiver": "logits"}, "`sender` must be a site such as"),
        ({"sender": "nothing", "receiver": mlp}, "has no space 'nothing'"),
        ({"sender": mn.site("decoder.mlp", 9), "receiver": "logits"}, "layer"),
        ({"sender": head, "receiver": mlp, "sites": "heads"}, "`sites` cannot be given with `sender`"),
        ({"sender": head, "receiver": mlp, "units": head}, "`units` cannot be given with `sender`"),
        ({"sender": head, "receiver": mlp, "towers": "decoder"}, "`towers` cannot be given with `sender`"),
        ({"sender": "heads", "receiver": mlp, "exact": -1}, "`exact` must be"),
        ({"sender": "heads", "receiver": mlp, "freeze": "mlp"}, "`freeze` must be"),
        ({"freeze": "attention"}, "`freeze` is of path patching alone"),
        ({"exact": 3}, "`exact` is of path patching alone"),
        ({"sender": mn.site("decoder", 0), "receiver": mlp, "per_unit": True}, "`per_unit` takes senders that add"),
        (
            {"sender": mn.Units.from_indices({"decoder": (4, 48)}, [("decoder", 0, 0)]), "receiver": mlp},
            "of the stream",
        ),
    ]
    for options, message in bad:
        with pytest.raises(InputError, match=message):
            mn.activation_patching(model, *TEXTS, difference, **options, **OPTIONS)
    sweep = {"sender": "heads", "receiver": "logits", "exact": 2, "direction": "noise"}
    with pytest.raises(InputError, match="its gradient is zero"):
        mn.activation_patching(model, *TEXTS, kl_divergence(), **sweep, **OPTIONS)
    with torch.inference_mode(), pytest.raises(InputError, match=r"A sweep over units .* torch.inference_mode"):
        patched(model, "heads", "logits", exact=2)


def test_towers_between_which_nothing_is_sent():
    model = load("llava_clip")
    pair = [mn.Stimulus(TEXTS[0], image=picture(seed, 64, 64)) for seed in (0, 1)]
    sender = mn.site("vision.mlp", 1)
    with pytest.raises(InputError, match="must lie in one tower"):
        mn.activation_patching(model, *pair, difference, sender=sender, receiver="logits", **OPTIONS)
    found = mn.activation_patching(
        model, *pair, difference, sender=sender, receiver=mn.site("vision.attention", 3), **OPTIONS
    )
    assert np.isfinite(found.values["vision.mlp"]).all()


def test_a_server_gives_the_same():
    here, there = mn.load("tiny"), mn.load("tiny", remote=SimulatedBackend())
    receiver = unit(here, "decoder.heads", 3, 1)
    texts = ("The dogs near the house", "The dog near the house")
    one, other = (
        mn.activation_patching(
            model,
            *texts,
            mn.patching.logit_difference(" are", " is"),
            sender=mn.site("decoder.heads", 2),
            receiver=receiver,
            per_unit=True,
            exact=2,
            **OPTIONS,
        )
        for model in (here, there)
    )
    for name in ("values", "unit_values", "unit_estimates"):
        first, second = (getattr(each, name)["decoder.heads"] for each in (one, other))
        np.testing.assert_allclose(first, second, atol=1e-4)
    np.testing.assert_array_equal(one.unit_exact["decoder.heads"], other.unit_exact["decoder.heads"])


def test_a_metric_without_a_gradient_is_refused_by_name_where_it_is_estimated():
    model = load("llama")

    def constant(logits):
        return logits.detach()[:, 5] - logits.detach()[:, 9]

    for run, options in (
        (mn.activation_patching, {"sender": "heads", "receiver": "logits", "exact": 2}),
        (mn.attribution_patching, {}),
    ):
        with pytest.raises(InputError, match="`metric` constant returned values without a gradient"):
            run(model, *TEXTS, constant, **options, **OPTIONS)
    found = mn.activation_patching(model, *TEXTS, constant, sender="heads", receiver="logits", **OPTIONS)
    assert found.unit_exact["decoder.heads"].all()
    with torch.inference_mode():
        again = mn.activation_patching(model, *TEXTS, constant, sender="heads", receiver="logits", **OPTIONS)
    np.testing.assert_allclose(again.unit_values["decoder.heads"], found.unit_values["decoder.heads"], atol=1e-5)
    estimated = patched(model, "heads", "logits", exact=0)
    assert not estimated.unit_exact["decoder.heads"].any()
    assert "0 of 12 units run exactly, the others estimated" in estimated.summary()
    assert "nan" not in estimated.summary()
