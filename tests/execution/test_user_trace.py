"""A user's own trace: what modules give there is what hooks record, at the positions of each stimulus' own tokens."""

from __future__ import annotations

import runpy
import subprocess
import sys
import textwrap

import numpy as np
import pytest
import torch
import transformers as tr

import modalnet as mn
from families import FAMILIES, build, picture
from modalnet.execution.engine import Engine
from random_units import some_units
from reference import REFUSED, TEXT_ONLY, TEXTS, VISION_ONLY, close, editing, encode, forward, load, paths, stimuli_for

NAMES = [name for name in FAMILIES if name not in (*REFUSED, "clip", "blip2")]


def one_batch(name):
    """Stimuli of one family that its model runs in one batch, of different lengths where they are texts."""
    if name in TEXT_ONLY:
        return [mn.Stimulus(text) for text in TEXTS]
    pictures = [picture(number, 64, 64) for number in range(2)]
    if name in VISION_ONLY:
        return [mn.Stimulus(image=each) for each in pictures]
    return [mn.Stimulus(text, image=each) for text, each in zip(TEXTS, pictures, strict=False)]


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("name", NAMES)
def test_tokens_of_a_trace_are_those_of_each_stimulus(name, side):
    model = load(name)
    model._executor.padding_side = side
    stimuli = one_batch(name)
    reached = model._executor.reached(stimuli)
    with model.trace(stimuli) as (_, towers):
        indices, hidden = {}.save(), {}.save()
        for tower in reached:
            indices[tower] = towers[tower].tokens("all")
            hidden[tower] = towers[tower].blocks[2].output
            if isinstance(hidden[tower], tuple):
                hidden[tower] = hidden[tower][0]
    for place, stimulus in enumerate(stimuli):
        states = forward(name, stimulus.text, stimulus.images())[2]
        for tower in reached:
            index = indices[tower]
            close(hidden[tower][index.each[place]].detach(), states[tower][2])
            close(hidden[tower][index][index.stimulus == place].detach(), states[tower][2])
            flat = hidden[tower].flatten(0, -2)
            close(flat[index.flat[index.stimulus == place]].detach(), states[tower][2])


@pytest.mark.parametrize("choice", ["last", "image", "text", [0, -1], slice(1, None), [[0], [1, 2]]])
def test_any_choice_of_tokens_is_that_of_a_run(choice):
    model = load("llava_clip")
    stimuli = one_batch("llava_clip")
    with model.trace(stimuli) as (_, towers):
        states = towers.decoder.blocks[1].output[towers.decoder.tokens(choice)].save()
        each = towers.decoder.tokens(choice).each.save()
    run = model.run(stimuli, tokens="all", read={"decoder": [1]})
    pooled = model.run(stimuli, tokens=choice, read={"decoder": [1]}).activations["decoder"]
    start = 0
    for place, own in enumerate(each):
        values = states[start : start + len(own[0])]
        start += len(own[0])
        close(values.mean(0).detach(), pooled[place, 0])
    assert start == len(states) <= sum(each.shape[1] for each in run.activations["decoder"])


def test_the_class_token_and_patches_of_a_vision_tower():
    model = load("llava_clip")
    with model.trace(one_batch("llava_clip")) as (_, towers):
        cls = towers.vision.tokens("cls").save()
        image = towers.vision.tokens("image").save()
    assert cls[1].tolist() == [0, 0]
    assert image[0].tolist() == [0] * 16 + [1] * 16
    assert image[1].tolist() == [*range(1, 17)] * 2


@pytest.mark.parametrize("name", ["llama", "gpt2", "llava_clip", "gemma3"])
def test_sites_of_spaces_are_where_a_run_reads_them(name):
    model = load(name)
    stimuli = one_batch(name)
    kinds = ["residual", "pre", "attention", "mlp", "neurons", "gate", "heads", "mlp.hook_post", "resid_post"]
    spaces = [mn.site(f"decoder.{kind}" if "hook" not in kind else "mlp.hook_post", 1).space for kind in kinds]
    spaces = ["decoder" if space in ("decoder.residual", "decoder.resid_post") else space for space in spaces]
    run = model.run(stimuli, read={space: [1] for space in spaces}, tokens="all")
    for kind, space in zip(kinds, spaces, strict=True):
        with model.trace(stimuli) as (_, towers):
            site = towers.decoder.space(kind, 1)
            value = getattr(site.envoy, site.side)
            value = value[0] if isinstance(value, tuple) else value
            values = value[towers.decoder.tokens()][:, site.columns] * site.scale
            values = values.unflatten(-1, (-1, site.size)) if site.size > 1 else values
            values = (values.norm(dim=-1) if site.size > 1 else values).save()
        expected = torch.cat([each[0] for each in run.activations[space]])
        close(values.detach(), expected)


@pytest.mark.parametrize("name", ["llama", "llava_clip", "qwen2_5_vl"])
def test_interventions_and_those_of_a_view_are_made_in_the_pass(name):
    model = load(name)
    units = some_units(model, model.towers)
    if name == "llama":
        units = some_units(model, ["decoder"])
    stimuli = one_batch(name)
    expected = []
    for stimulus in stimuli:
        family = build(name)
        edits = {}
        for tower, mask in units.mask.items():
            for layer, path in enumerate(paths(name, tower)):
                dims = np.flatnonzero(mask[layer])

                def edit(flat, dims=dims, twice=(tower, layer) == ("decoder", 3)):
                    flat[:, dims] = 0
                    return flat * 2 if twice else flat

                edits[path] = edit
        with editing(family.model, edits), torch.no_grad():
            expected.append(family.model(**encode(family, stimulus.text, stimulus.images())).logits[0, -1])
    view = model.with_(mn.zero(units))
    with view.trace(stimuli, mn.scale(mn.site("decoder", 3), 2.0)) as (_, towers):
        logits = towers.head.output[towers.decoder.tokens("last")].save()
        given = towers.model.output.logits[towers.decoder.tokens("last")].save()
    close(logits.detach(), torch.stack(expected))
    close(given.detach(), torch.stack(expected))


def test_the_block_edits_after_the_interventions_at_a_site():
    model = load("llama")
    with model.trace("the dog", mn.zero(mn.site("decoder", 1))) as (_, towers):
        block = towers.decoder.blocks[1]
        before = block.output.abs().sum().save()
        block.output = block.output + 1.0
        after = towers.decoder.blocks[2].input.save()
    assert before == 0
    assert (after == 1).all()


def test_names_of_the_block_are_as_in_nnsight():
    model = load("llama")
    outer = 2.0

    def read(layer):
        scaled = None
        with model.trace(["the dog", "a cat"]) as (tracer, towers):
            double = lambda value: value * outer  # noqa: E731
            kept = double(towers.decoder.blocks[layer].output).save()
            scaled = kept
            lost = 1
            tracer.stop()
        return scaled, kept, "lost" in locals()

    scaled, kept, lost = read(1)
    assert scaled is kept
    assert not lost
    run = model.run(["the dog", "a cat"], tokens="all", read={"decoder": [1]})
    close(kept[0, : run.activations["decoder"][0].shape[1]].detach(), run.activations["decoder"][0][0] * 2)


def test_gradients_and_loops():
    model = load("llama")
    found = []
    for layer in range(2):
        with model.trace("the dog") as (_, towers):
            hidden = towers.decoder.blocks[layer].output
            hidden.requires_grad_(True)
            loss = towers.head.output[towers.decoder.tokens("last")].logsumexp(-1).sum()
            with loss.backward():
                gradient = hidden.grad.save()
        found.append(gradient)
    build("llama").model.zero_grad()  # what a user's own backward pass leaves is the user's
    assert found[0].shape == found[1].shape
    assert not torch.equal(found[0], found[1])
    assert all(bool(each.abs().sum() > 0) for each in found)


def test_stopping_ends_the_pass_before_later_interventions():
    model = load("llama")
    with model.trace("the dog", mn.zero(mn.site("decoder", 3))) as (tracer, towers):
        kept = towers.decoder.blocks[0].output.save()
        tracer.stop()
    close(kept[0].detach(), model.run("the dog", tokens="all", read={"decoder": [0]}).activations["decoder"][0][0])
    # And nothing of it is left for what comes next.
    assert model.run("the dog").activations["decoder"].abs().sum() > 0


@pytest.mark.parametrize("name", ["llama", "llava_clip"])
def test_generation_with_a_cache(name):
    model = load(name)
    stimulus = stimuli_for(name, n=1)[0]
    lesion = mn.zero(some_units(model, ["decoder"], share=0.4)), mn.add(mn.site("decoder", 1), 0.5).at("last")
    with model.trace(stimulus, *lesion, max_new_tokens=5) as (tracer, towers):
        lengths = [].save()
        for _ in tracer.iter[:5]:
            lengths.append(towers.decoder.blocks[1].output.shape[1])
        ids = tracer.result.save()
    details = model.generate(stimulus, *lesion, max_new_tokens=5, details=True)
    n_prompt = lengths[0]
    assert lengths[1:] == [1] * 4
    assert ids[0, n_prompt:].tolist() == list(details.ids)
    plain = model.generate(stimulus, max_new_tokens=5, details=True)
    with model.trace(stimulus, max_new_tokens=5) as (tracer, towers):
        ids = tracer.result.save()
    assert ids[0, n_prompt:].tolist() == list(plain.ids)


def test_a_dual_encoder_runs_the_half_that_is_reached():
    model = load("clip")
    with model.trace(["a dog", "a cat on the mat"]) as (_, towers):
        text = towers.encoder.blocks[1].output[towers.encoder.tokens("last")].save()
        reached = list(towers).save()
    assert reached == ["encoder"]
    close(text.detach(), model.run(["a dog", "a cat on the mat"], tokens="last").activations["encoder"][:, 1])
    with model.trace([mn.Stimulus(image=picture(0, 20, 20))]) as (_, towers):
        cls = towers.vision.blocks[1].output[towers.vision.tokens("cls")].save()
    assert cls.shape[0] == 1


def test_channels_before_places():
    torch.manual_seed(0)
    module = tr.ConvNextModel(tr.ConvNextConfig(hidden_sizes=[8, 16], depths=[1, 3], num_stages=2)).eval()
    processor = tr.ConvNextImageProcessorPil(size={"shortest_edge": 64}, crop_pct=1.0)
    with pytest.warns(UserWarning, match="hierarchical"):
        model = mn.load(module, processor=processor)
    pictures = [mn.Stimulus(image=picture(number, 64, 64)) for number in range(2)]
    with model.trace(pictures) as (_, towers):
        raw = towers.vision.blocks[1].output.save()
        values = raw[towers.vision.tokens("all")].save()
    assert raw.shape[1] == 16
    close(values.detach(), raw.detach().movedim(1, -1).flatten(0, -2))
    run = model.run(pictures, tokens="all", read={"vision": [1]})
    close(values.detach(), torch.cat([each[0] for each in run.activations["vision"]]))


def test_hooks_and_training_mode_of_the_user():
    model = load("llama")
    block = model.module.get_submodule(paths("llama", "decoder")[1])
    model.module.train()

    def half(module, args, output):
        assert not module.training
        return output * 0.5

    handle = block.register_forward_hook(half)
    try:
        with model.trace("the dog", mn.add(mn.site("decoder", 1), 1.0)) as (_, towers):
            kept = towers.decoder.blocks[1].output.save()
        read = model.run("the dog", mn.add(mn.site("decoder", 1), 1.0), tokens="all", read={"decoder": [1]})
        close(kept[0].detach(), read.activations["decoder"][0][0])
        assert model.module.training
    finally:
        handle.remove()
        model.module.eval()


# ------------------------------------------------------------------------------------------------- where it is written


PROGRAM = """
import modalnet as mn

model = mn.load("tiny")
with model.trace(["The dog sleeps.", "A child"], mn.zero(mn.site("decoder", 2))) as (tracer, towers):
    zeroed = towers.decoder.blocks[2].output[towers.decoder.tokens()].abs().max().save()
    last = towers.decoder.blocks[5].output[towers.decoder.tokens("last")].save()
print("read", float(zeroed), tuple(last.shape))
"""


@pytest.mark.filterwarnings("ignore:Converting a tensor with requires_grad")
def test_a_trace_may_be_written_in_a_script(tmp_path, capsys):
    path = tmp_path / "program.py"
    path.write_text(PROGRAM)
    runpy.run_path(str(path), run_name="__main__")
    assert capsys.readouterr().out.strip().splitlines()[-1] == "read 0.0 (2, 192)"


@pytest.mark.parametrize("where", ["option", "notebook"])
def test_a_trace_may_be_written_in(where, tmp_path):
    path = tmp_path / "program.py"
    if where == "notebook":
        pytest.importorskip("IPython")
        path.write_text(
            "from IPython.core.interactiveshell import InteractiveShell\n"
            f"InteractiveShell.instance().run_cell({PROGRAM!r}, store_history=True).raise_error()\n"
        )
    command = [sys.executable, "-c", PROGRAM] if where == "option" else [sys.executable, str(path)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    assert done.stdout.strip().splitlines()[-1] == "read 0.0 (2, 192)"


def test_without_a_source_nnsight_says_so():
    with pytest.raises(Exception, match="source"):
        exec(textwrap.dedent(PROGRAM), {})


# ------------------------------------------------------------------------------------------------- what is refused


def test_what_cannot_be_traced_is_refused_before_the_pass():
    model = load("llava_clip")
    image = mn.Stimulus("What is this?", image=picture(0, 20, 20))
    with pytest.raises(mn.InputError, match="one kind at a time"):
        model.trace([image, mn.Stimulus("the dog")])
    with pytest.raises(mn.InputError, match="one stimulus at a time, got 2"):
        model.trace(["a dog", "a cat"], max_new_tokens=3)
    with pytest.raises(mn.InputError, match="max_new_tokens"):
        model.trace("a dog", max_new_tokens=0)
    with pytest.raises(mn.InputError, match="Interventions"):
        model.trace("a dog", 3)
    with pytest.raises(mn.InputError, match="not reach"):
        model.trace("a dog", mn.zero(mn.site("vision", 1)))
    with pytest.raises(mn.InputError, match="stimul"):
        model.trace([])
    with pytest.raises(mn.InputError, match="no LM head"):
        load("vit").trace(mn.Stimulus(image=picture(0, 20, 20)), max_new_tokens=2)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (lambda towers: towers.vision, "vision tower is not reached by these stimuli"),
        (lambda towers: towers.nothing, "they reach decoder"),
        (lambda towers: towers.decoder.space("nothing", 1), "has no 'nothing'; its spaces are residual, pre"),
        (lambda towers: towers.decoder.space("mlp", 99), "Layer 99 does not exist"),
        (lambda towers: towers.decoder.tokens("first"), "first"),
        (lambda towers: towers.decoder.tokens("image"), "no image tokens"),
        (lambda towers: towers.decoder.tokens([99]), "selects token 99"),
        (lambda towers: towers.decoder.tokens([[0], [0], [0]]), "3 choices, but 1 stimuli"),
        (lambda towers: towers.decoder.tokens("all", layer=99), "Layer 99 does not exist"),
        (lambda towers: towers.decoder.tokens("all", spare_first=-1), "spare_first"),
    ],
)
def test_what_is_not_there_is_refused_in_the_block(wrong, message):
    model = load("llava_clip")
    with pytest.raises(mn.InputError, match=message), model.trace("the dog") as (_, towers):
        wrong(towers)
    assert model.run("the dog").activations["decoder"].isfinite().all()


def test_modalnet_is_not_called_inside_the_block():
    model = load("llama")
    with pytest.raises(mn.InputError, match="is running"), model.trace("the dog"):
        model.run("a cat")
    assert model.run("the dog").activations["decoder"].isfinite().all()


def test_a_model_on_a_server_is_not_traced():
    model = mn.load("tiny", remote="local")
    with pytest.raises(mn.InputError, match="in this process only"):
        model.trace("the dog")


def test_a_trace_runs_the_model_once(monkeypatch):
    model = load("llava_clip")
    stimuli = one_batch("llava_clip")
    with model.trace(stimuli) as (_, towers):
        towers.vision.tokens("image")
        towers.decoder.blocks[0].output.save()

    def forbidden(*_args, **_options):
        raise AssertionError("a pass was run for the layout again")

    monkeypatch.setattr(Engine, "_running", forbidden)
    with model.trace(stimuli) as (_, towers):
        towers.vision.tokens("image")
        kept = towers.decoder.blocks[0].output.save()
    assert len(kept) == 2


def test_latents_of_dictionaries_are_lesioned_in_a_trace():
    model = load("llama")
    encoder = torch.randn(48, 24, generator=torch.Generator().manual_seed(0))
    view = model.with_dictionary("decoder", {1: (encoder, encoder.T)})
    lesion = mn.zero(mn.site("decoder.latents", 1))
    with view.trace(["the dog", "a cat on"], lesion) as (_, towers):
        logits = towers.head.output[towers.decoder.tokens("last")].save()
    close(logits.detach(), view.run(["the dog", "a cat on"], lesion, logits="last").logits)
    with view.trace("the dog", lesion, max_new_tokens=4) as (tracer, _):
        ids = tracer.result.save()
    made = view.generate("the dog", lesion, max_new_tokens=4, details=True)
    assert ids[0, -4:].tolist() == list(made.ids)
    with pytest.raises(mn.InputError, match="made of those of another space"), view.trace("the dog") as (_, towers):
        towers.decoder.space("latents", 1)
