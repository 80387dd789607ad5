"""Latents of dictionaries as units: what hooks give that encode, change latents and put the difference back."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch

import modalnet as mn
from dictionaries import AutoEncoder, LensSAE, SingleLayerTranscoder, matrices, trained
from families import build
from reference import close, editing, encode, load, paths, stimuli_for

N = 24
LAYERS = (1, 2)


def width_of(name):
    return load(name).decoder.width


KINDS = {
    "standard": lambda d, seed: LensSAE(d, N, seed=seed),
    "no bias off": lambda d, seed: LensSAE(d, N, seed=seed, apply_b_dec_to_input=False),
    "topk": lambda d, seed: LensSAE(d, N, seed=seed, architecture="topk"),
    "jumprelu": lambda d, seed: LensSAE(d, N, seed=seed, architecture="jumprelu"),
    "norm rescaled": lambda d, seed: LensSAE(d, N, seed=seed, normalize="constant_norm_rescale"),
    "layer norm": lambda d, seed: LensSAE(d, N, seed=seed, normalize="layer_norm"),
    "bfloat16": lambda d, seed: LensSAE(d, N, seed=seed).bfloat16(),
    "AutoEncoder": lambda d, seed: AutoEncoder(d, N, seed=seed),
    "matrices": lambda d, seed: matrices(d, N, seed),
    "pair": lambda d, seed: tuple(matrices(d, N, seed)[name].numpy() for name in ("encoder", "decoder")),
}


def by_hand(given):
    """Encode and decode as functions, written out for matrices."""
    if isinstance(given, tuple):
        given = dict(zip(("encoder", "decoder"), map(torch.from_numpy, given), strict=True))
    if not isinstance(given, dict):

        def back(latents, x):
            given.encode(x)  # what some keep for one decode
            return given.decode(latents.to(next(given.parameters()).dtype)).float()

        dtype = next(given.parameters()).dtype
        return lambda x: given.encode(x.to(dtype)).float(), back
    zero = torch.zeros(())

    def enc(x):
        pre = x @ given["encoder"] + given.get("encoder_bias", zero)
        return pre.relu() * (pre > given.get("threshold", zero))

    return enc, lambda latents, x: latents @ given["decoder"] + given.get("decoder_bias", zero)


def zeroing(given, dims):
    """A hook that zeroes latents and leaves the error."""
    enc, back = by_hand(given)

    def edit(flat):
        latents = enc(flat)
        changed = latents.clone()
        changed[:, dims] = 0
        return flat + back(changed, flat) - back(latents, flat)

    return edit


def logits(name, stimulus, edits):
    family = build(name)
    with editing(family.model, edits), torch.no_grad():
        return family.model(**encode(family, stimulus.text, stimulus.images())).logits[0, -1]


def some_latents(layers=LAYERS, share=0.5):
    rng = np.random.default_rng(1)
    mask = np.zeros((4, N), dtype=bool)
    mask[list(layers)] = rng.random((len(layers), N)) < share
    return mask


@pytest.mark.parametrize("kind", KINDS)
def test_latents_are_read_and_lesioned_with_the_error_in_place(kind):
    name = "llama"
    model, stimuli = load(name), stimuli_for(name)
    given = {layer: KINDS[kind](width_of(name), layer) for layer in LAYERS}
    view = model.with_dictionary("decoder", given)
    assert view.spaces["decoder.latents"].shape == (4, N)
    assert "decoder.latents" not in model.spaces
    run = view.run(stimuli, read=["decoder", "decoder.latents"], tokens="all")
    plain = model.run(stimuli, tokens="all").activations["decoder"]
    assert all(map(torch.equal, plain, run.activations["decoder"]))
    for states, latents in zip(*run.activations.values(), strict=True):
        assert latents[[0, 3]].isnan().all()
        for layer in LAYERS:
            close(
                latents[layer],
                by_hand(given[layer])[0](states[layer]).detach(),
                atol=2e-2 if kind == "bfloat16" else 1e-4,
            )
    mask = some_latents()
    units = mn.Units({"decoder.latents": mask})
    where = paths(name, "decoder")
    edits = {where[layer]: zeroing(given[layer], np.flatnonzero(mask[layer])) for layer in LAYERS}
    lesioned = view.run(stimuli, mn.zero(units), read=["decoder.latents"], tokens="mean", logits="last")
    atol = 3e-2 if kind == "bfloat16" else 1e-4
    close(lesioned.logits, torch.stack([logits(name, stimulus, edits) for stimulus in stimuli]), atol=atol)
    assert (lesioned.activations["decoder.latents"][:, mask] == 0).all()


@pytest.mark.parametrize("choice", ["last", [0], slice(1, None)])
def test_other_tokens_are_left_bit_by_bit(choice):
    model = load("llama")
    view = model.with_dictionary("decoder", {1: AutoEncoder(48, N)})
    plain = model.run("the dog ran across", tokens="all").activations["decoder"][0][1]
    lesion = mn.zero(mn.site("decoder.latents", 1)).at(choice)
    after = view.run("the dog ran across", lesion, read=["decoder"], tokens="all").activations["decoder"][0][1]
    changed = (plain != after).any(1).nonzero().flatten().tolist()
    assert changed == np.arange(len(plain))[[-1] if choice == "last" else choice].tolist()


@pytest.mark.parametrize("operation", ["scale", "add", "set_to", "mean", "resample", "patch", "apply", "direction"])
def test_every_operation_is_one_on_latents(operation):
    name = "llama"
    model = load(name)
    given = AutoEncoder(48, N)
    view = model.with_dictionary("decoder", {1: given})
    site, texts = mn.site("decoder.latents", 1), ["a cat", "the dog ran"]
    with torch.no_grad():
        states = model.run(texts[1], tokens="all").activations["decoder"][0][1]
        source = given.encode(model.run(texts[0], tokens="all").activations["decoder"][0][1])
        latents = given.encode(states)
    vector = torch.linspace(-1, 1, N)
    unit = vector / vector.norm()
    constant = torch.full((N,), 2.0)
    one, expected = {
        "scale": (mn.scale(site, 0.5), latents * 0.5),
        "add": (mn.add(site, vector), latents + vector),
        "set_to": (mn.set_to(site, 2.0), constant.expand_as(latents)),
        "mean": (mn.mean(site, over=[texts[0]], spare_sinks=False), source.mean(0).expand_as(latents)),
        "resample": (mn.resample(site, {"decoder.latents": np.full((1, 4, N), 2.0)}), constant.expand_as(latents)),
        "patch": (mn.patch(site, source[-1].numpy()), source[-1].expand_as(latents)),
        "apply": (mn.apply(site, torch.tanh), latents.tanh()),
        "direction": (mn.zero(mn.direction("decoder.latents", 1, vector)), latents - (latents @ unit)[:, None] * unit),
    }[operation]
    run = view.run(texts[1], one, read={"decoder.latents": [1], "decoder": [1]}, tokens="all")
    close(run.activations["decoder.latents"][0][0], expected.detach())
    with torch.no_grad():
        close(run.activations["decoder"][0][0], states + given.decode(expected) - given.decode(latents), atol=1e-3)


def test_edits_of_the_stream_and_of_its_latents_compose_from_left_to_right():
    model = load("llama")
    given = AutoEncoder(48, N)
    view = model.with_dictionary("decoder", {1: given})
    stream, latents = mn.site("decoder", 1), mn.site("decoder.latents", 1)
    x = model.run("the dog", tokens="all").activations["decoder"][0][1]

    def through(values, change):
        with torch.no_grad():
            z = given.encode(values)
            return values + given.decode(change(z)) - given.decode(z), change(z)

    def read(*edits):
        run = view.run("the dog", *edits, read=["decoder", "decoder.latents"], tokens="all")
        return [run.activations[name][0][1] for name in ("decoder", "decoder.latents")]

    first = read(mn.add(stream, 1.0), mn.scale(latents, 0.0))
    expected, zeroed = through(x + 1, torch.zeros_like)
    close(first[0], expected)
    close(first[1], zeroed)
    second = read(mn.scale(latents, 0.0), mn.add(stream, 1.0))
    expected = through(x, torch.zeros_like)[0] + 1
    close(second[0], expected)
    with torch.no_grad():
        close(second[1], given.encode(expected))
    third = read(mn.add(latents, 1.0), mn.scale(stream, 0.5), mn.set_to(latents, 0.3))
    expected, left = through(through(x, lambda z: z + 1)[0] / 2, lambda z: z * 0 + 0.3)
    close(third[0], expected)
    close(third[1], left)


@pytest.mark.parametrize("skip", [False, True])
@pytest.mark.parametrize("reads", ["mlp_in", "decoder.mid"])
def test_transcoders_encode_what_enters_the_mlp_and_decode_to_what_it_adds(skip, reads):
    name = "llama"
    model, stimuli = load(name), stimuli_for(name)
    given = {1: SingleLayerTranscoder(48, N, skip=skip), 3: SingleLayerTranscoder(48, N, skip=skip, seed=1)}
    view = model.with_dictionary("decoder.mlp", given, name="features", reads=reads)
    family = build(name)
    dims = [0, 5, 7, 11]
    units = mn.Units.from_indices(
        {"decoder.features": (4, N)}, [("decoder.features", layer, d) for layer in given for d in dims]
    )
    run = view.run(stimuli, mn.zero(units), tokens="all", read=["decoder.features"], logits="last")
    for place, stimulus in enumerate(stimuli):
        handles, seen = [], {}
        for layer, coder in given.items():
            block = family.model.get_submodule(paths(name, "decoder")[layer])

            def keep(module, args, layer=layer, seen=seen):
                seen[layer] = args[0]

            def edit(module, args, output, *, layer=layer, coder=coder, seen=seen):
                latents = coder.encode(seen[layer])
                seen["z", layer] = latents[0].clone()
                changed = latents.clone()
                changed[..., dims] = 0
                return output + coder.decode(changed, seen[layer]) - coder.decode(latents, seen[layer])

            entrance = block.mlp if reads == "mlp_in" else block.post_attention_layernorm
            handles += [entrance.register_forward_pre_hook(keep), block.mlp.register_forward_hook(edit)]
        with torch.no_grad():
            expected = family.model(**encode(family, stimulus.text)).logits[0, -1]
        for handle in handles:
            handle.remove()
        close(run.logits[place], expected)
        for layer in given:
            kept = seen["z", layer].clone()
            kept[:, dims] = 0
            close(run.activations["decoder.features"][place][layer], kept.detach())


@pytest.mark.parametrize("space", ["decoder.mlp", "decoder.neurons", "decoder.attention", "decoder.heads", "vision"])
def test_dictionaries_are_over_any_space(space):
    name = "llava_clip"
    model, stimuli = load(name), stimuli_for(name)
    over = model.spaces[space]
    numbers = over.widths[1] * over.size
    sae = LensSAE(numbers, N, hook_z=space == "decoder.heads", normalize="layer_norm")
    view = model.with_dictionary(space, {1: sae})
    latents = f"{over.tower.name}.latents"
    run = view.run(stimuli, read=[latents], tokens="all")
    path, side = over.site(1)
    family = build(name)
    for place, stimulus in enumerate(stimuli):
        seen = []

        def keep(module, args, output=None, seen=seen):
            value = args[0] if output is None else output
            seen.append(value[0] if isinstance(value, tuple) else value)

        module = family.model.get_submodule(path)
        handle = module.register_forward_pre_hook(keep) if side == "input" else module.register_forward_hook(keep)
        with torch.no_grad():
            family.model(**encode(family, stimulus.text, stimulus.images()))
        handle.remove()
        flat = seen[0].flatten(0, -2)
        given = flat.unflatten(-1, (-1, over.size)) if space == "decoder.heads" else flat
        close(run.activations[latents][place][1], sae.encode(given).detach())
    zeroed = view.run(stimuli, mn.zero(mn.site(latents, 1)), read=[latents], tokens="all", logits="last")
    assert all((each[1] == 0).all() for each in zeroed.activations[latents])
    assert zeroed.logits.isfinite().all()


def test_a_generation_a_score_and_the_analyses_run_on_latents():
    name = "llama"
    model, family = load(name), build(name)
    given = AutoEncoder(48, N)
    view = model.with_dictionary("decoder", {1: given})
    dims = list(range(12))
    units = mn.Units.from_indices({"decoder.latents": (4, N)}, [("decoder.latents", 1, dim) for dim in dims])
    inputs = encode(family, "the dog")
    with editing(family.model, {paths(name, "decoder")[1]: zeroing(given, dims)}), torch.no_grad():
        ids = family.model.generate(**inputs, max_new_tokens=5, do_sample=False)[0, inputs["input_ids"].shape[1] :]
    made = view.generate("the dog", mn.zero(units), max_new_tokens=5, details=True)
    assert list(made.ids) == ids.tolist()
    scores = [view.score(["the dog"], [[" a", " the"]], *edits).logprob[0] for edits in ([], [mn.zero(units)])]
    assert not np.allclose(*scores)
    np.testing.assert_allclose(scores[0], model.score(["the dog"], [[" a", " the"]]).logprob[0], atol=1e-6)

    quiet = {"progress": False, "cache": False}
    contrast = mn.Contrast(
        [mn.Stimulus(f"{text} {n}", condition=c) for n in range(6) for text, c in (("a dog", "a"), ("the cat", "b"))],
        "a",
        "b",
    )
    found = mn.localize(view, contrast, units="latents", **quiet)
    network = found.top(k=5)
    assert network.count == 5
    assert network.mask["decoder.latents"][1].sum() == 5
    words = mn.tasks.perplexity(["a dog", "the cat ran"])
    study = mn.lesion_study(view, network, tasks=words, fractions=[0.1], n_controls=2, **quiet)
    assert len(study.table())
    pair = {"clean": "a dog", "corrupt": "a cat", "metric": mn.patching.logit_difference(" a", " b"), "align": "last"}
    patched = mn.activation_patching(view, **pair, sites=[mn.site("decoder.latents", 1)], tokens="last", **quiet)
    every = mn.activation_patching(view, **pair, sites="latents", tokens="last", **quiet)
    assert np.isfinite(every.table().select_dtypes("number").to_numpy()).any()
    np.testing.assert_allclose(every.effect["decoder.latents"], patched.effect["decoder.latents"], rtol=1e-4)
    ids = [model._executor.next_tokens(mn.Stimulus("a dog"), text)[0] for text in (" a", " b")]

    def metric(text, *edits):
        logits = view.run(text, *edits, logits="last").logits[0]
        return float(logits[ids[0]] - logits[ids[1]])

    corrupt, clean = metric("a cat"), metric("a dog")
    swapped = metric("a cat", mn.patch(mn.site("decoder.latents", 1), "a dog").at("last"))
    share = (swapped - corrupt) / (clean - corrupt)
    np.testing.assert_allclose(patched.effect["decoder.latents"], share, rtol=1e-3)


@pytest.mark.parametrize("kind", ["standard", "topk", "norm rescaled", "AutoEncoder", "matrices"])
def test_attribution_of_latents_is_the_gradient_through_their_decoder(kind):
    name = "llama"
    model, family = load(name), build(name)
    given = KINDS[kind](48, 0)
    view = model.with_dictionary("decoder", {1: given, 2: KINDS[kind](48, 1)})
    prepared = mn.Stimulus("the dog ran")
    (found,) = list(view._executor.gradients([prepared], lambda values, _: values[:, 5], spaces=["decoder.latents"]))
    gradient = found[2]["decoder.latents"][1]
    enc, back = by_hand(given)
    block = family.model.get_submodule(paths(name, "decoder")[1])
    held = {}

    def leaf(module, args, output):
        hidden = output[0] if isinstance(output, tuple) else output
        held["z"] = enc(hidden[0]).detach().requires_grad_()
        error = (hidden[0] - back(held["z"], hidden[0])).detach()
        return (back(held["z"], hidden[0].detach()) + error)[None]

    handle = block.register_forward_hook(leaf)
    logit = family.model(**encode(family, "the dog ran")).logits[0, -1, 5]
    handle.remove()
    (expected,) = torch.autograd.grad(logit, held["z"])
    close(gradient, expected)


# ------------------------------------------------------------------------------------------------- the real thing


def test_a_trained_autoencoder_explains_what_it_was_trained_on():
    model = mn.load("tiny")
    texts = [stimulus.text for stimulus in mn.stimuli.language(n=30).stimuli]
    run = model.run(texts, tokens="all", read={"decoder": [4]})
    states = torch.cat([each[0][1:] for each in run.activations["decoder"]])
    sae = trained(states, 512, steps=250)
    view = model.with_dictionary("decoder", {4: sae})
    error = view.dictionary_error(texts, spare_sinks=False, tokens=slice(1, None))
    with torch.no_grad():
        latents = sae.encode(states)
        rest = states - sae.decode(latents)
    explained = 1 - rest.square().sum() / (states - states.mean(0)).square().sum()
    relative = (rest.norm(dim=1) / states.norm(dim=1)).mean()
    row = error.iloc[0]
    assert (row.space, row.layer, row.n_tokens) == ("decoder.latents", 4, len(states))
    np.testing.assert_allclose(row.explained_variance, explained, rtol=1e-3)
    np.testing.assert_allclose(row.relative_error, relative, rtol=1e-3)
    np.testing.assert_allclose(row.n_active, (latents != 0).sum(1).float().mean(), rtol=1e-3)
    assert row.explained_variance > 0.8


# ------------------------------------------------------------------------------------------------- identity


def test_weights_and_settings_of_a_dictionary_are_in_the_identity():
    model = load("llama")

    def numbers(given, **options):
        return repr(model.with_dictionary("decoder", {1: given}, **options)._identity().numbers)

    assert "dictionaries" not in model._identity().numbers
    sae = LensSAE(48, N)
    kinds = [
        numbers(sae),
        numbers(LensSAE(48, N, seed=1)),
        numbers(LensSAE(48, N, apply_b_dec_to_input=False)),
        numbers(LensSAE(48, N, architecture="topk")),
        numbers(LensSAE(48, N, architecture="topk", k=5)),
        numbers(AutoEncoder(48, N)),
        numbers(matrices(48, N)),
        numbers(matrices(48, N) | {"activation": "identity"}),
        numbers(sae, name="other"),
    ]
    assert len(set(kinds)) == len(kinds)
    assert numbers(sae) == kinds[0] == numbers(copy.deepcopy(sae))
    with torch.no_grad():
        sae.W_dec[0, 0] += 1
    assert numbers(sae) != kinds[0]


def test_values_from_stimuli_are_those_of_the_dictionaries_of_the_view():
    """What reference stimuli gave is kept for a model, of which several views have latents of one name."""
    model = load("llama")
    texts, lesion = ["a cat", "the dog ran"], mn.mean(mn.site("decoder.latents", 1), over=["a dog"])
    sae = AutoEncoder(48, N)
    given = [sae, AutoEncoder(48, N, seed=5)]
    read = {"read": {"decoder.latents": [1]}, "tokens": "all"}
    for one in (*given, given[0]):
        view = model.with_dictionary("decoder", {1: one})
        expected = view.means(["a dog"], spaces="decoder.latents")["decoder.latents"][1]
        found = view.run(texts, lesion, **read).activations["decoder.latents"][0][0]
        close(found, np.broadcast_to(expected, found.shape).astype(np.float32))
    with torch.no_grad():
        sae.encoder.weight.mul_(2)
    view = model.with_dictionary("decoder", {1: sae})
    expected = view.means(["a dog"], spaces="decoder.latents")["decoder.latents"][1]
    found = view.run(texts, lesion, **read).activations["decoder.latents"][0][0]
    close(found, np.broadcast_to(expected, found.shape).astype(np.float32))


# ------------------------------------------------------------------------------------------------- what is refused


class Wrong(torch.nn.Module):
    def __init__(self, encode, decode=lambda z: z):
        super().__init__()
        self.encode, self.decode = encode, decode


@pytest.mark.parametrize(
    ("space", "given", "options", "message"),
    [
        ("decoder", {1: LensSAE(32, N)}, {}, "cannot encode and decode 48 activations per token"),
        ("decoder", {9: AutoEncoder(48, N)}, {}, "Layer 9 does not exist"),
        ("decoder", {1: AutoEncoder(48, N), -3: AutoEncoder(48, N)}, {}, "two dictionaries"),
        ("decoder", {1: torch.nn.Linear(48, N)}, {}, "must be an object with encode and decode"),
        ("decoder", {1: 3}, {}, "must be an object with encode and decode"),
        ("decoder", {1: AutoEncoder(48, N), 2: AutoEncoder(48, 32)}, {}, "layer 1 has 24 and layer 2 has 32"),
        ("decoder", {}, {}, "a dict with a dictionary by layer"),
        ("decoder", [AutoEncoder(48, N)], {}, "a dict with a dictionary by layer"),
        ("nothing", {1: AutoEncoder(48, N)}, {}, "has no space 'nothing'"),
        ("decoder", {1: AutoEncoder(48, N)}, {"name": "mlp"}, "name"),
        ("decoder", {1: AutoEncoder(48, N)}, {"name": "a b"}, "name"),
        ("decoder.pre", {1: AutoEncoder(48, N)}, {"reads": "mlp_in"}, "is computed after"),
        ("decoder.mlp", {1: AutoEncoder(48, N)}, {"reads": "nothing"}, "has no space"),
        ("decoder", {1: Wrong(lambda x: x[:, :3], lambda z: z)}, {}, r"must make latents"),
        ("decoder", {1: Wrong(lambda x: (x, x))}, {}, "cannot encode and decode"),
        ("decoder", {1: Wrong(lambda x: x - x.mean(0))}, {}, "beside others than alone"),
        ("decoder", {1: Wrong(torch.nn.functional.dropout)}, {}, "evaluation mode"),
        ("decoder", {1: (np.ones((48, N)), np.ones((N + 1, 48)))}, {}, "`encoder` must have shape"),
        ("decoder", {1: (np.ones((48, N)), np.ones((N, 40)))}, {}, "of these"),
        ("decoder", {1: matrices(48, N) | {"threshold": np.ones(3)}}, {}, "`threshold` must have shape"),
        ("decoder", {1: matrices(48, N) | {"activation": "gelu"}}, {}, "`activation` must be one of"),
        ("decoder", {1: matrices(48, N) | {"bias": np.ones(3)}}, {}, "must be an object"),
        ("decoder", {1: (np.full((48, N), np.nan), np.ones((N, 48)))}, {}, "finite"),
    ],
)
def test_what_is_no_dictionary_of_the_space_is_refused(space, given, options, message):
    with pytest.raises(mn.InputError, match=message):
        load("llama").with_dictionary(space, given, **options)


def test_layers_without_a_dictionary_have_no_latents():
    view = load("llama").with_dictionary("decoder", {1: AutoEncoder(48, N)})
    with pytest.raises(mn.InputError, match="no dictionary was given for it"):
        view.run("the dog", mn.zero(mn.site("decoder.latents", 2)))
    with pytest.raises(mn.InputError, match=r"no space 'decoder\.latents'"):
        load("llama").run("the dog", mn.zero(mn.site("decoder.latents", 1)))
    with pytest.raises(mn.InputError, match="has no dictionaries"):
        load("llama").dictionary_error("the dog")
    with pytest.raises(mn.InputError, match="already"):
        view.with_dictionary("decoder", {1: AutoEncoder(48, N)})
    twice = view.with_dictionary("decoder", {1: AutoEncoder(48, 32, seed=3)}, name="others")
    run = twice.run("the dog", read=["decoder.latents", "decoder.others"])
    assert [each.shape for each in run.activations.values()] == [(1, 4, N), (1, 4, 32)]


# ------------------------------------------------------------------------------------------------- on a server


def test_matrices_are_sent_to_a_server_and_objects_are_not():
    here, there = mn.load("tiny"), mn.load("tiny", remote="local")
    given = {3: matrices(192, N)}
    one = mn.zero(mn.site("decoder.latents", 3))
    runs = [
        model.with_dictionary("decoder", given).run(
            ["The dog sleeps.", "A child"], one, read=["decoder.latents", "decoder"], logits="last"
        )
        for model in (here, there)
    ]
    close(runs[1].logits, runs[0].logits)
    close(runs[1].activations["decoder"], runs[0].activations["decoder"])
    view = there.with_dictionary("decoder", {3: AutoEncoder(192, N)})
    with pytest.raises(mn.InputError, match="Give the matrices"):
        view.run("The dog", read=["decoder.latents"])
