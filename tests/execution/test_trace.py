"""What a run reads is what the model computes: every site against the model's own states, and nothing more is run."""

from __future__ import annotations

import contextlib
from collections import Counter

import pytest
import torch
import transformers as tr

import modalnet as mn
from families import FAMILIES, build, picture
from modalnet.errors import ModalnetError
from modalnet.execution.cells import Cell, Outcome
from modalnet.execution.engine import Engine
from reference import REFUSED, SIZES, TEXT_ONLY, TEXTS, VISION_ONLY, close, forward, load, paths, stimuli_for

MULTIMODAL = [name for name in FAMILIES if name not in (*TEXT_ONLY, *VISION_ONLY, *REFUSED, "clip")]
WITH_HEAD = [*MULTIMODAL, *TEXT_ONLY]


@contextlib.contextmanager
def counted(module, where):
    """How often some submodules start to run."""
    calls = Counter()

    def hook(path):
        def count(module, args):
            calls[path] += 1

        return count

    hooks = [module.get_submodule(path).register_forward_pre_hook(hook(path)) for path in where]
    try:
        yield calls
    finally:
        for handle in hooks:
            handle.remove()


@contextlib.contextmanager
def given_to(head):
    """What an LM head is called with. No hook: where one looks on, the head runs at every position."""
    seen, linear = [], torch.nn.functional.linear

    def watched(given, weight, bias=None):
        if weight is head.weight:
            seen.append(given)
        return linear(given, weight, bias)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.nn.functional, "linear", watched)
        yield seen


def decoder_states(output):
    return getattr(output, "language_model_outputs", output).hidden_states


# ------------------------------------------------------------------------------------------------- parity


@pytest.mark.parametrize("name", [name for name in FAMILIES if name not in ("clip", *REFUSED)])
def test_every_site_equals_the_models_own_hidden_states(name):
    """tokens="all" against output_hidden_states of the same forward, and the last block against a hook."""
    model = load(name)
    for stimulus in stimuli_for(name, n=2):
        run = model.run([stimulus], tokens="all")
        output, _, hooked = forward(name, stimulus.text, stimulus.images())
        assert set(run.residual) == set(model.towers)
        for tower, values in run.residual.items():
            assert len(values) == 1
            assert values[0].dtype == torch.float32
            close(values[0], hooked[tower])
            assert run.layers[tower] == tuple(range(model.towers[tower].n_layers))
        if "decoder" in run.residual:
            states = decoder_states(output)
            assert len(states) == model.decoder.n_layers + 1
            for layer in range(model.decoder.n_layers - 1):  # the last entry is after the final norm
                close(run.residual["decoder"][0][layer], states[layer + 1][0])
        elif name in VISION_ONLY:
            for layer in range(model.vision.n_layers - 1):
                close(run.residual["vision"][0][layer], output.hidden_states[layer + 1][0])


@pytest.mark.parametrize(
    "name",
    ["llava_clip", "llava_siglip", "paligemma", "gemma3", "llava_next", "internvl", "idefics3", "smolvlm", "pixtral"],
)
def test_vision_sites_equal_the_vision_tower_run_alone(name):
    """The image encoder called by itself, on what the processor gives, with its own output_hidden_states."""
    model, family = load(name), build(name)
    stimulus = mn.Stimulus("What is this?", image=picture(3, 90, 40))
    _, inputs, _ = forward(name, stimulus.text, stimulus.images())
    pixels = inputs["pixel_values"]
    if pixels.ndim == 5:
        pixels = pixels.flatten(0, 1)
    extra = {"image_sizes": inputs["image_sizes"]} if name == "pixtral" else {}
    with torch.no_grad():
        encoder = family.model.get_encoder(modality="image")
        states = encoder(pixels, output_hidden_states=True, **extra).hidden_states
    read = model.run([stimulus], read=["vision"], tokens="all").residual["vision"][0]
    assert len(states) == len(read) + 1
    for layer in range(len(read) - 1):
        close(read[layer], states[layer + 1].reshape(-1, states[0].shape[-1]))


def test_clip_reads_both_of_its_towers():
    model, family = load("clip"), build("clip")
    stimuli = [mn.Stimulus(text, image=picture(i, *SIZES[i])) for i, text in enumerate(TEXTS)]
    run = model.run(stimuli, tokens="all", batch_size=3)
    for i, stimulus in enumerate(stimuli):
        inputs = family.processor(text=[stimulus.text], images=stimulus.images(), return_tensors="pt")
        with torch.no_grad():
            output = family.model(**inputs, output_hidden_states=True)
        for tower, states in (
            ("vision", output.vision_model_output.hidden_states),
            ("encoder", output.text_model_output.hidden_states),
        ):
            for layer, read in enumerate(run.residual[tower][i][:-1]):
                close(read, states[layer + 1][0])


@pytest.mark.parametrize("name", TEXT_ONLY)
def test_strings_and_lists_and_contrasts_are_stimuli(name):
    model = load(name)
    one = model.run("The dog").residual["decoder"]
    assert one.shape == (1, *model.decoder.shape)
    close(model.run(["The dog", mn.Stimulus("What is this?")]).residual["decoder"][:1], one)
    contrast = mn.Contrast([mn.Stimulus("The dog", condition=c) for c in "aabb"], positive="a")
    close(model.run(contrast).residual["decoder"][3:], one)


@pytest.mark.parametrize("name", ["llava_clip", "gpt2", "qwen2_5_vl"])
def test_layers_are_chosen_and_come_in_the_order_given(name):
    model = load(name)
    stimuli = stimuli_for(name)
    whole = model.run(stimuli).residual["decoder"]
    run = model.run(stimuli, read={"decoder": [-1, 0, 2, 2]})
    last = model.decoder.n_layers - 1
    assert run.layers == {"decoder": (last, 0, 2, 2)}
    close(run.residual["decoder"], whole[:, [last, 0, 2, 2]], atol=1e-6)
    assert model.run(stimuli, read={"decoder": 1}).layers == {"decoder": (1,)}
    assert model.run(stimuli, read="decoder").residual["decoder"].shape == whole.shape
    assert model.run(stimuli, read={"decoder": None}).residual["decoder"].shape == whole.shape


@pytest.mark.parametrize("read", [{"decoder": [4]}, {"decoder": [-5]}, {"decoder": ["0"]}, {"decoder": [1.0]}])
def test_layers_that_are_not_there(read):
    with pytest.raises(mn.InputError, match=r"Layer .* does not exist: decoder has layers 0\.\.3"):
        load("gpt2").run("a dog", read=read)


def test_towers_that_are_not_there():
    with pytest.raises(mn.InputError, match=r"no space 'vision'.*decoder"):
        load("gpt2").run("a dog", read=["vision"])
    with pytest.raises(mn.InputError, match=r"vision tower is not reached.*images"):
        load("llava_clip").run("a dog", read=["vision"])


# ------------------------------------------------------------------------------------------------- logits


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("name", WITH_HEAD)
def test_logits_are_the_models_own(name, side):
    model = load(name)
    model._executor.padding_side = side
    stimuli = stimuli_for(name, n=3)
    last = model.run(stimuli, read=[], logits="last", batch_size=3)
    every = model.run(stimuli, logits="all", tokens="mean", batch_size=3)
    assert last.residual == {}
    assert last.logits.shape == (3, build(name).model.get_output_embeddings().out_features)
    assert last.logits.dtype == torch.float32
    for i, stimulus in enumerate(stimuli):
        output, inputs, states = forward(name, stimulus.text, stimulus.images())
        close(last.logits[i], output.logits[0, -1])
        assert every.logits[i].shape == output.logits[0].shape == (inputs["input_ids"].shape[1], last.logits.shape[1])
        close(every.logits[i], output.logits[0])
        close(every.residual["decoder"][i], states["decoder"].mean(1))  # reading beside logits changes neither


def test_logits_for_texts_in_several_batches_come_in_order():
    model = load("llama")
    texts = [" ".join(["dog"] * n) for n in (9, 1, 5, 3, 7, 2)]
    run = model.run(texts, read=[], logits="all", batch_size=2)
    for text, rows in zip(texts, run.logits, strict=True):
        output, _, _ = forward("llama", text)
        close(rows, output.logits[0])


def test_logits_need_a_head():
    model = load("vit")
    with pytest.raises(mn.InputError, match=r"ViTModel has no LM head"):
        model.run([mn.Stimulus(image=picture(0, 32, 32))], logits="last")
    with pytest.raises(mn.InputError, match=r"`logits` must be one of 'last', 'all', got 'first'"):
        load("gpt2").run("a dog", logits="first")


# ------------------------------------------------------------------------------------------------- no more than needed


@pytest.mark.parametrize("name", ["gpt2", "llama", "opt"])
def test_one_forward_for_each_batch(name):
    model, family = load(name), build(name)
    texts = [f"{text} {i}" for i in range(3) for text in TEXTS]
    model.run(texts[:2])
    with counted(family.model, [""]) as calls:
        model.run(texts, logits="last", batch_size=9)
        assert calls[""] == 1
        model.run(texts, batch_size=2)
        assert calls[""] == 1 + 5


@pytest.mark.parametrize("name", MULTIMODAL)
def test_one_forward_for_each_batch_of_images_once_the_layout_is_known(name):
    model, family = load(name), build(name)
    stimuli = [mn.Stimulus("A dog.", image=picture(i, 37, 53)) for i in range(4)]
    model.run(stimuli, batch_size=4)  # measures
    with counted(family.model, ["", model.vision.paths[0], model.vision.paths[-1]]) as calls:
        model.run(stimuli, tokens="mean", batch_size=4)
    assert set(calls.values()) == {1}


@pytest.mark.parametrize("name", MULTIMODAL)
def test_what_comes_after_the_last_site_does_not_run(name):
    model, family = load(name), build(name)
    stimuli = [mn.Stimulus("A dog.", image=picture(i, 37, 53)) for i in range(2)]
    head = next(p for p, m in family.model.named_modules() if m is family.model.get_output_embeddings())
    vision, decoder = paths(name, "vision"), paths(name, "decoder")

    def calls_of(**options):
        model.run(stimuli, tokens="mean", **options)  # measures how images lie in a batch, once for such a read
        with counted(family.model, [*vision, *decoder]) as calls, given_to(family.model.get_submodule(head)) as seen:
            model.run(stimuli, tokens="mean", **options)
        calls[head] = len(seen)
        return calls, seen

    calls, _ = calls_of(read={"decoder": [1]})
    assert calls[decoder[0]] == calls[decoder[1]] == 1
    assert all(calls[path] == 0 for path in [*decoder[2:], head])

    calls, _ = calls_of(read=["vision"])
    assert all(calls[path] == 1 for path in vision)
    assert all(calls[path] == 0 for path in [*decoder, head])

    calls, _ = calls_of(read={"vision": [0, 1]})
    assert [calls[path] for path in vision] == [1, 1] + [0] * (len(vision) - 2)
    assert all(calls[path] == 0 for path in [*decoder, head])

    calls, given = calls_of(read=[], logits="last")
    assert calls[head] == 1
    assert given[0].shape[:-1].numel() == 2  # the head sees one position for each stimulus


def test_text_alone_leaves_the_vision_tower_out():
    model, family = load("llava_clip"), build("llava_clip")
    with counted(family.model, paths("llava_clip", "vision")) as calls:
        model.run(["a dog"])
    assert not calls


def test_no_gradients_no_cache_and_nothing_left_behind():
    model, family = load("llama"), build("llama")
    model.run(TEXTS)  # the first run of a model also looks whether its blocks run once
    seen = []
    hook = family.model.model.layers[0].register_forward_pre_hook(
        lambda module, args, kwargs: seen.append((torch.is_grad_enabled(), kwargs.get("past_key_values"))),
        with_kwargs=True,
    )
    try:
        run = model.run(TEXTS)
    finally:
        hook.remove()
    assert seen == [(False, None)]
    assert not run.residual["decoder"].requires_grad
    with torch.no_grad():  # the module still computes what it did, outside of modalnet
        inputs = family.tokenizer([TEXTS[0]], return_tensors="pt")
        close(family.model(**inputs, output_hidden_states=True).hidden_states[2][0, -1], run.residual["decoder"][0, 1])


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision_pools_in_float32(dtype):
    """The mean over tokens is taken of float32 values, so its only error is that of the activations."""
    family = FAMILIES["llama"]()
    model = mn.load(family.model, tokenizer=family.tokenizer, dtype=dtype)
    text = " ".join(TEXTS) * 3
    run = model.run([text], tokens={"decoder": "mean"})
    every = model.run([text], tokens="all").residual["decoder"][0]
    assert run.residual["decoder"].dtype == every.dtype == torch.float32
    close(run.residual["decoder"][0], every.mean(1), atol=1e-6)
    close(every[:, -1], every[:, -1].to(getattr(torch, dtype)).float(), atol=0)  # read in the model's own precision
    with torch.no_grad():
        inputs = family.tokenizer([text], return_tensors="pt")
        states = family.model(**inputs, output_hidden_states=True).hidden_states
    close(every[1], states[2][0].float(), atol=0)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision_with_images(dtype):
    family = FAMILIES["llava_clip"]()
    model = mn.load(family.model, processor=family.processor, dtype=dtype)
    stimuli = [mn.Stimulus("A dog.", image=picture(i, *SIZES[i])) for i in range(3)]
    run = model.run(stimuli, tokens="mean")
    whole = load("llava_clip").run(stimuli, tokens="mean")
    for tower in run.residual:
        assert run.residual[tower].dtype == torch.float32
        assert torch.isfinite(run.residual[tower]).all()
        error = (run.residual[tower] - whole.residual[tower]).norm() / whole.residual[tower].norm()
        assert 0 < error < 0.1


# ------------------------------------------------------------------------------------------------- memory


def shortage(monkeypatch, largest, error):
    """Engine.run that has no room for more than `largest` stimuli; returns what it was asked and what it did."""
    real, asked, done = Engine.run, [], []

    def run(self, inputs, plan):
        rows = inputs.get("input_ids", inputs.get("pixel_values"))
        whole = sum(len(sites.layers) for sites, _ in plan.reads) > len(plan.reads)  # a measurement reads one block
        if whole:
            asked.append(len(rows))
        if len(rows) > largest:
            raise type(error)(*error.args)
        result = real(self, inputs, plan)
        if whole:
            done.extend(tuple(row.flatten().tolist()) for row in rows)
        return result

    monkeypatch.setattr(Engine, "run", run)
    return asked, done


ERRORS = [
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
    RuntimeError("[enforce fail at alloc_cpu.cpp:117] DefaultCPUAllocator: can't allocate memory: you tried to"),
    MemoryError(),
]


@pytest.mark.parametrize(
    ("largest", "first", "error"),
    [
        (1, [8, 4, 2, 1], ERRORS[0]),
        (2, [8, 4, 2], ERRORS[1]),
        (3, [8, 4, 2], ERRORS[2]),
        (5, [8, 4], ERRORS[0]),
    ],
)
def test_a_batch_that_does_not_fit_is_halved(monkeypatch, error, largest, first):
    model = load("llama")
    # Of one length, so that a row of token ids names its stimulus.
    texts = [f"{a} {b}" for a in "0123456789" for b in "01"]
    assert len({len(ids) for ids in model.tokenizer(texts)["input_ids"]}) == 1
    expected = model.run(texts, batch_size=8).residual["decoder"]
    asked, done = shortage(monkeypatch, largest, error)
    close(model.run(texts, batch_size=8).residual["decoder"], expected, atol=1e-5)
    assert asked[: len(first)] == first
    assert max(asked[len(first) :]) <= first[-1]  # what did not fit once is not tried again
    assert len(done) == len(set(done)) == len(texts)  # and nothing that succeeded is run twice


@pytest.mark.parametrize("name", ["llava_clip", "qwen2_5_vl", "vit"])
@pytest.mark.parametrize("largest", [1, 2])
def test_a_batch_of_images_that_does_not_fit_is_halved(monkeypatch, name, largest):
    """Also where not even two fit, which is what the layout is measured on."""
    model = load(name)
    text = None if name == "vit" else "A dog."
    stimuli = [mn.Stimulus(text, image=picture(i, 64, 64)) for i in range(5)]
    expected = {
        tower: torch.stack([model.run([s], tokens="mean").residual[tower][0] for s in stimuli])
        for tower in model.towers
    }
    model = load(name)
    shortage(monkeypatch, largest, ERRORS[0])
    run = model.run(stimuli, tokens="mean", batch_size=4)
    for tower in model.towers:
        close(run.residual[tower], expected[tower])


def test_one_stimulus_that_does_not_fit_is_named(monkeypatch):
    model = load("llama")
    shortage(monkeypatch, 0, ERRORS[0])
    with pytest.raises(ModalnetError, match=r"stimulus 'the long one' alone does not fit into memory.*dtype"):
        model.run([mn.Stimulus("a dog", id="'the long one'")])


def test_another_error_is_not_taken_for_a_lack_of_memory(monkeypatch):
    model = load("llama")
    asked, _ = shortage(monkeypatch, 0, RuntimeError("mat1 and mat2 shapes cannot be multiplied"))
    with pytest.raises(RuntimeError, match="mat1"):
        model.run(["a dog", "a cat"])
    assert asked == [2]


@pytest.mark.parametrize("size", [0, -1, 2.5, "all", True, None])
def test_batch_sizes_that_are_none(size):
    with pytest.raises(mn.InputError, match=r"`batch_size` must be 'auto' or a positive integer, got"):
        load("gpt2").run(["a dog"], batch_size=size)


@pytest.mark.parametrize("name", ["gpt2", "llama", "opt", "llava_clip", "gemma3", "blip2"])
def test_a_few_columns_of_the_logits(name):
    """The head gives the wanted columns alone, and what comes after it treats them as it would all."""
    model = load(name)
    given = stimuli_for(name)
    states = model._executor.states(given)
    columns = tuple((3 + i, 7, 11 * i) for i in range(len(given)))
    engine = model._executor.runner.engine
    whole = dict(model._executor.run_cells(states, [Cell(i) for i in range(len(given))], Outcome("logits")))
    for expected in (None, True):  # the first pass tries it, the second relies on it
        assert engine._narrows is expected
        found = dict(
            model._executor.run_cells(states, [Cell(i) for i in range(len(given))], Outcome("columns", columns))
        )
        for i, own in enumerate(columns):
            close(found[i][0], whole[i][0][list(own)])


def test_a_model_that_looks_at_all_of_its_logits_gives_them_all():
    """Scores that a model spreads over the vocabulary cannot be had one by one; that is noticed."""
    family = build("llama")

    class Spread(type(family.model)):
        def forward(self, *args, **options):
            output = super().forward(*args, **options)
            output.logits = output.logits - output.logits.mean(-1, keepdim=True)
            return output

    model = mn.load(Spread(family.model.config).eval(), tokenizer=family.tokenizer)
    states = model._executor.states(stimuli_for("llama"))
    cells = [Cell(i) for i in range(len(states))]
    whole = dict(model._executor.run_cells(states, cells, Outcome("logits")))
    for _ in range(2):
        found = dict(model._executor.run_cells(states, cells, Outcome("columns", ((1, 2),) * len(states))))
        assert model._executor.runner.engine._narrows is False
        for i in found:
            close(found[i][0], whole[i][0][[1, 2]])


# ----------------------------------------------------------------------------------- models that come back to a block


@pytest.fixture(scope="module")
def recurrent(tmp_path_factory):
    """A folder with a small model that runs its blocks several times in a forward pass."""
    if not hasattr(tr, "HrmTextConfig"):
        pytest.skip(f"transformers {tr.__version__} has no such model")
    tokenizer = load("llama").tokenizer
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 2, "head_dim": 16}
    depth = {"num_hidden_layers": 16, "num_layers_per_stack": 2, "H_cycles": 2, "L_cycles": 3}
    config = tr.HrmTextConfig(vocab_size=len(tokenizer), **sizes, **depth)
    folder = tmp_path_factory.mktemp("recurrent")
    tr.HrmTextForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.mark.parametrize("remote", [False, "local", "http://127.0.0.1:9"])
def test_blocks_that_run_more_than_once_are_refused(recurrent, remote):
    """Also where the model is on a server, and before anything is sent there."""
    model = mn.load(recurrent, remote=remote)
    unit = mn.Units.from_indices({"decoder": model.decoder.shape}, [("decoder", 0, 0)])
    conditions = {"forward": TEXTS, "backward": [text[::-1] for text in TEXTS]}
    stimuli = [mn.Stimulus(text, condition=name) for name, texts in conditions.items() for text in texts]
    contrast = mn.Contrast(stimuli, "forward", "backward")
    for ask in (
        lambda: model.run(TEXTS),
        lambda: model.generate(TEXTS[0], mn.zero(unit), max_new_tokens=2),
        lambda: mn.localize(model, contrast, cache=False),
    ):
        with pytest.raises(mn.InputError, match=r"decoder tower more than once .*L_module\.layers\.0: 6 times"):
            ask()
    if remote != "http://127.0.0.1:9":  # which is asked first how this model reads a continuation
        with pytest.raises(mn.InputError, match="more than once"):
            model.score(TEXTS, [" a"] * len(TEXTS), mn.zero(unit))


def test_what_such_a_model_says_can_still_be_asked(recurrent):
    model = mn.load(recurrent)
    found = model.run(TEXTS[:1], read=[], logits="all").logits[0]
    with torch.no_grad():
        expected = model.module(**model.tokenizer(TEXTS[:1], return_tensors="pt")).logits[0]
    close(found, expected)


@pytest.mark.parametrize("name", ["llava_clip", "paligemma", "llama", "vit"])
def test_the_look_for_them_is_one_pass_of_one_stimulus(name, monkeypatch):
    shared = load(name)
    stimuli = stimuli_for(name, n=3)
    looks = []
    visits = Engine.visits

    def look(self, inputs, *where):
        looks.append(max(len(value) for key, value in inputs.items() if key in ("input_ids", "pixel_values")))
        return visits(self, inputs, *where)

    monkeypatch.setattr(Engine, "visits", look)
    model = mn.load(shared.module, processor=shared.processor or shared.tokenizer or shared.image_processor)
    model.run(stimuli)
    model.run(stimuli)
    assert looks == [1]
