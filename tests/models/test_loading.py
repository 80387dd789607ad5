"""Everything that names or holds a model becomes the same model; what does not is refused at the door."""

from __future__ import annotations

import contextlib
import copy
import gc
import json
import shutil
import warnings

import nnsight
import pytest
import torch
import transformers as tr

import modalnet as mn
from families import FAMILIES, build, picture
from reference import REFUSED, TEXT_ONLY, TEXTS, VISION_ONLY, close, load, stimuli_for

#: Without torchvision transformers loads no processor that also knows video, and none of Pixtral's.
NEEDS_TORCHVISION = {
    "llava_onevision",
    "internvl",
    "smolvlm",
    "pixtral",
    "mistral3",
    "qwen2_vl",
    "qwen2_5_vl",
    "qwen3_vl",
    "glm4v",
}
OFFLINE = [name for name in FAMILIES if name not in NEEDS_TORCHVISION]


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Checkpoint folders as the hub would hand them out, made when asked for."""
    root = tmp_path_factory.mktemp("checkpoints")

    def folder(name):
        if not (root / name).exists():
            family = build(name)
            family.model.save_pretrained(root / name)
            (family.processor or family.tokenizer or family.image_processor).save_pretrained(root / name)
        return root / name

    return folder


@pytest.fixture
def checkpoint(folders, tmp_path):
    """A checkpoint folder to damage."""
    return shutil.copytree(folders("gpt2"), tmp_path / "checkpoint")


# ------------------------------------------------------------------------------------------------- sources


@pytest.mark.parametrize("name", OFFLINE)
@pytest.mark.parametrize("kind", [str, lambda path: path], ids=["str", "Path"])
def test_a_folder_gives_the_model_that_was_saved(name, kind, folders):
    model, expected = mn.load(kind(folders(name))), load(name)
    assert model.name == name
    assert type(model.module) is type(expected.module)
    assert not model.module.training
    assert model.towers == expected.towers
    assert (model.tokenizer is None) == (name in VISION_ONLY)
    assert (model.processor is None) == (name in TEXT_ONLY)
    stimuli = stimuli_for(name)
    read = [tower for tower in expected.towers if not (tower == "vision" and name in REFUSED)]
    run, other = (each.run(stimuli, read=read, tokens="mean") for each in (model, expected))
    for tower in read:
        close(run.residual[tower], other.residual[tower], atol=1e-6)


@pytest.mark.parametrize("name", ["llava_clip", "gpt2", "vit"])
def test_a_module_with_its_parts(name):
    family = build(name)
    stimuli = stimuli_for(name)
    expected = load(name).run(stimuli, tokens="mean").residual
    part = family.processor or family.tokenizer or family.image_processor
    for options in (
        {"tokenizer": family.tokenizer, "processor": family.processor or family.image_processor},
        {"processor": part},
    ):
        model = mn.load(family.model, **options)
        for tower, values in model.run(stimuli, tokens="mean").residual.items():
            close(values, expected[tower], atol=1e-6)
    model = mn.load(family.model, **options)
    assert mn.load(model) is model


def test_parts_are_loaded_from_where_they_lie(folders):
    model = mn.load(build("gpt2").model, tokenizer=folders("gpt2"))
    close(model.run(TEXTS).residual["decoder"], load("gpt2").run(TEXTS).residual["decoder"], atol=1e-6)
    model = mn.load(build("llava_clip").model, processor=str(folders("llava_clip")))
    stimuli = stimuli_for("llava_clip")
    close(model.run(stimuli).residual["decoder"], load("llava_clip").run(stimuli).residual["decoder"], atol=1e-6)


def test_what_is_passed_wins_over_what_the_folder_holds(folders):
    other = FAMILIES["opt"]().tokenizer
    assert mn.load(folders("gpt2"), tokenizer=other).tokenizer is other
    processor = build("llava_clip").processor
    assert mn.load(folders("llava_clip"), processor=processor).processor is processor


def test_a_tokenizer_passed_beside_a_folder_leaves_its_processor(folders):
    """A vision-language checkpoint keeps its eyes when only its tokenizer is replaced."""
    model = mn.load(folders("llava_clip"), tokenizer=build("llava_clip").tokenizer)
    assert model.processor is not None
    model.run(stimuli_for("llava_clip"))


@pytest.mark.parametrize("dtype", ["bfloat16", "torch.float16", torch.bfloat16, "auto"])
def test_dtypes(dtype, folders):
    expected = {"bfloat16": torch.bfloat16, "torch.float16": torch.float16, "auto": torch.float32}.get(dtype, dtype)
    assert next(mn.load(folders("gpt2"), dtype=dtype).module.parameters()).dtype is expected
    if dtype != "auto":
        family = FAMILIES["gpt2"]()
        assert next(mn.load(family.model, dtype=dtype).module.parameters()).dtype is expected


def test_a_checkpoint_keeps_the_precision_that_it_was_saved_in(tmp_path):
    family = FAMILIES["llama"]()
    family.model.to(torch.bfloat16).save_pretrained(tmp_path)
    family.tokenizer.save_pretrained(tmp_path)
    model = mn.load(tmp_path)
    assert next(model.module.parameters()).dtype is torch.bfloat16
    assert model.run(TEXTS).residual["decoder"].dtype is torch.float32


def test_options_go_to_from_pretrained(folders):
    model = mn.load(folders("llama"), attn_implementation="eager", device_map="cpu")
    assert model.module.config._attn_implementation == "eager"
    close(model.run(TEXTS).residual["decoder"], load("llama").run(TEXTS).residual["decoder"])


@pytest.mark.parametrize("name", ["gpt2", "llava_clip", "vit"])
def test_an_nnsight_model(name):
    family = build(name)
    part = family.processor or family.tokenizer or family.image_processor
    stimuli = stimuli_for(name)
    expected = load(name).run(stimuli, tokens="mean").residual
    model = mn.load(nnsight.NNsight(family.model), processor=part)
    assert model.module is family.model
    for tower, values in model.run(stimuli, tokens="mean").residual.items():
        close(values, expected[tower], atol=1e-6)


def test_nnsights_own_tokenizer_comes_with_it():
    family = build("llama")
    for kind in (nnsight.LanguageModel, nnsight.modeling.transformers.TransformersModel):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            source = kind(family.model, tokenizer=family.tokenizer)
        model = mn.load(source)
        assert model.tokenizer is source.tokenizer
        close(model.run(TEXTS).residual["decoder"], load("llama").run(TEXTS).residual["decoder"])


def test_an_edited_nnsight_model_runs_with_its_edits():
    family = build("llama")
    source = nnsight.NNsight(family.model)
    with source.edit(inplace=True):
        source.model.layers[1].output[:] = 1
    model = mn.load(source, tokenizer=family.tokenizer)
    read = model.run(TEXTS).residual["decoder"]
    assert (read[:, 1] == 1).all()
    assert read[:, 2].std() > 0.1
    close(read[:, 0], load("llama").run(TEXTS).residual["decoder"][:, 0])


# ------------------------------------------------------------------------------------------------- TransformerLens


@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_a_transformer_lens_bridge_reads_what_its_own_hooks_read(name, tmp_path):
    """A bridge that the user made: its module, its tokenizer (TransformerLens has it write a bos), its own states."""
    pytest.importorskip("transformer_lens")
    from transformer_lens.model_bridge import TransformerBridge

    family = build(name)
    family.model.save_pretrained(tmp_path)
    family.tokenizer.save_pretrained(tmp_path)
    hf = tr.AutoModelForCausalLM.from_pretrained(tmp_path)  # a bridge changes the module that it is given
    tokenizer = tr.AutoTokenizer.from_pretrained(tmp_path)
    bridge = TransformerBridge.boot_transformers(str(tmp_path), hf_model=hf, tokenizer=tokenizer)
    model = mn.load(bridge)
    assert {tower: model.towers[tower].shape for tower in model.towers} == {"decoder": load(name).decoder.shape}
    assert model.tokenizer is bridge.tokenizer
    run = model.run(TEXTS, tokens="all", logits="all")
    for i, text in enumerate(TEXTS):
        logits, cache = bridge.run_with_cache(bridge.to_tokens(text))
        for layer in range(model.decoder.n_layers):
            close(run.residual["decoder"][i][layer], cache[f"blocks.{layer}.hook_out"][0].detach())
        close(run.logits[i], logits[0].detach())
    own = mn.load(bridge, tokenizer=family.tokenizer).run(TEXTS).residual["decoder"]
    close(own, load(name).run(TEXTS).residual["decoder"])


# ------------------------------------------------------------------------------------------------- refused


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (3, r"type int cannot be loaded as a model.*Expected a hub id"),
        (None, r"type NoneType cannot be loaded"),
        ([], r"type list cannot be loaded"),
        (b"gpt2", r"type bytes cannot be loaded"),
        (torch.nn.Linear(2, 2), r"no stack of residual blocks was found in Linear"),
        ("no/such-model-anywhere", r"no/such-model-anywhere is neither a local folder nor a model that the hub"),
        ("./no/such/folder", r"\./no/such/folder is not a folder"),
        ("~/no/such/folder", r"no/such/folder is not a folder"),
    ],
)
def test_what_is_no_model(source, message):
    with pytest.raises(mn.InputError, match=message):
        mn.load(source)


def test_a_class_is_no_model():
    with pytest.raises(mn.InputError, match="type type cannot be loaded as a model"):
        mn.load(tr.GPT2LMHeadModel)


@pytest.mark.parametrize("source", ["tiny", "./no/such/folder"])
@pytest.mark.parametrize("on", [True, False])
def test_the_garbage_collector_is_left_as_it_was(source, on):
    (gc.enable if on else gc.disable)()
    try:
        with contextlib.suppress(mn.InputError):
            mn.load(source)
        assert gc.isenabled() is on
    finally:
        gc.enable()


def test_folders_that_hold_no_checkpoint(tmp_path):
    (tmp_path / "notes.txt").write_text("hello")
    with pytest.raises(mn.InputError, match=r"holds no config\.json.*save_pretrained"):
        mn.load(tmp_path)
    with pytest.raises(mn.InputError, match=r"notes\.txt is not a folder"):
        mn.load(tmp_path / "notes.txt")
    (tmp_path / "config.json").write_text("{nope")
    with pytest.raises(mn.InputError, match=r"not a valid JSON"):
        mn.load(tmp_path)
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(mn.InputError, match=r"cannot be loaded.*model_type"):
        mn.load(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "of-tomorrow"}))
    with pytest.raises(mn.InputError, match=r"of-tomorrow"):
        mn.load(tmp_path)


def test_a_checkpoint_without_weights(checkpoint):
    (checkpoint / "model.safetensors").unlink()
    with pytest.raises(mn.InputError, match=r"the weights of .*checkpoint cannot be loaded.*no file named"):
        mn.load(checkpoint)


def test_a_checkpoint_with_truncated_weights(checkpoint):
    weights = checkpoint / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(mn.InputError, match=r"the weights of .*checkpoint cannot be loaded"):
        mn.load(checkpoint)


def change_config(checkpoint, **values):
    path = checkpoint / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def test_a_checkpoint_whose_weights_do_not_fit_its_config(checkpoint):
    change_config(checkpoint, n_embd=64)
    with pytest.raises(mn.InputError, match=r"the weights of .*checkpoint cannot be loaded"):
        mn.load(checkpoint)


def test_a_checkpoint_that_lacks_weights_does_not_pass_for_a_trained_model(checkpoint):
    """transformers draws missing weights at random and goes on; a result from them would be noise."""
    change_config(checkpoint, n_layer=6)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            mn.load(checkpoint)
        except mn.InputError as error:
            said = str(error)
        else:
            said = " ".join(str(warning.message) for warning in caught)
    assert "missing" in said or "random" in said


def test_code_of_a_checkpoint_is_not_run_unless_asked(checkpoint):
    change_config(checkpoint, model_type="their_own", auto_map={"AutoConfig": "c.C", "AutoModelForCausalLM": "m.M"})
    evidence = checkpoint / "ran"
    for name in ("c.py", "m.py"):
        (checkpoint / name).write_text(f"open({str(evidence)!r}, 'w').close()\nraise RuntimeError('ran')\n")
    with pytest.raises(mn.InputError, match=r"comes with its own Python code.*trust_remote_code=True"):
        mn.load(checkpoint)
    assert not evidence.exists()
    with pytest.raises(Exception, match="ran"):  # asked for, it runs, so the test could tell
        mn.load(checkpoint, trust_remote_code=True)
    assert evidence.exists()


def test_code_of_a_processor_is_not_run_unless_asked(checkpoint):
    evidence = checkpoint / "ran"
    (checkpoint / "t.py").write_text(f"open({str(evidence)!r}, 'w').close()\n")
    path = checkpoint / "tokenizer_config.json"
    changed = json.loads(path.read_text()) | {"tokenizer_class": "T", "auto_map": {"AutoTokenizer": ["t.T", None]}}
    path.write_text(json.dumps(changed))
    with contextlib.suppress(mn.InputError):
        mn.load(checkpoint)
    assert not evidence.exists()
    mn.load(checkpoint, trust_remote_code=True)
    assert evidence.exists()  # asked for, it runs, so the test could tell


@pytest.mark.parametrize("dtype", ["float99", "Tensor", 3, ""])
def test_dtypes_that_are_none(dtype, folders):
    for source in (folders("gpt2"), FAMILIES["gpt2"]().model):
        with pytest.raises(mn.InputError, match=r"`dtype` must be a torch dtype.*'float32'"):
            mn.load(source, dtype=dtype)


def test_devices_that_are_none(folders):
    for source in (folders("gpt2"), FAMILIES["gpt2"]().model):
        with pytest.raises(mn.InputError, match=r"device='nonsense'"):
            mn.load(source, device="nonsense")


def test_options_that_go_nowhere(folders):
    with pytest.raises(mn.InputError, match=r"load\(\) got revision with a GPT2LMHeadModel"):
        mn.load(build("gpt2").model, revision="main")
    with pytest.raises(mn.InputError, match="nonsense"):
        mn.load(folders("gpt2"), nonsense=3)
    with pytest.raises(mn.InputError, match=r"A server cannot identify this.*hub id"):
        mn.load(build("gpt2").model, remote=True)


def test_parts_that_are_none(tmp_path):
    with pytest.raises(mn.InputError, match="tokenizer"):
        mn.load(build("gpt2").model, tokenizer=3)
    with pytest.raises(mn.InputError, match="processor"):
        mn.load(build("vit").model, processor=object())
    with pytest.raises(mn.InputError, match="tokenizer"):
        mn.load(build("gpt2").model, tokenizer=tmp_path)


@pytest.mark.parametrize("name", ["gpt2", "llava_clip", "vit"])
def test_a_folder_without_tokenizer_or_processor_shows_its_towers_and_says_so(name, tmp_path):
    build(name).model.save_pretrained(tmp_path / "bare")
    model = mn.load(tmp_path / "bare")
    assert model.towers == load(name).towers
    assert "no tokenizer or processor was given" in str(model)
    if name != "vit":
        with pytest.raises(mn.InputError, match=r"bare came without a tokenizer.*Pass tokenizer="):
            model.run(["a dog"])
    if name != "gpt2":
        with pytest.raises(mn.InputError, match=r"bare came without an? (image )?processor.*Pass processor="):
            model.run([mn.Stimulus("a dog" if model.decoder else None, image=picture(0, 32, 32))])


def test_a_processor_that_needs_torchvision_is_named(folders):
    pytest.importorskip("PIL")
    try:
        import torchvision  # noqa: F401
    except ImportError:
        model = mn.load(folders("qwen2_5_vl"))
        assert list(model.towers) == ["vision", "decoder"]
        assert model.run(["a dog"]).residual["decoder"].shape[0] == 1  # the tokenizer alone is enough for text
        with pytest.raises(mn.InputError, match=r"came without a processor.*torchvision.*Pass processor="):
            model.run(stimuli_for("qwen2_5_vl"))
    else:
        assert mn.load(folders("qwen2_5_vl")).processor is not None


def _of_library(module):
    """A module whose class another library would have defined."""
    return type("Backbone", (torch.nn.Module,), {"__module__": module})()


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (lambda: _of_library("timm.models.vision_transformer"), "a model of timm"),
        (lambda: _of_library("torchvision.models.resnet"), "a model of torchvision"),
        (lambda: _of_library("open_clip.model"), "a model of open_clip"),
        (lambda: torch.nn.DataParallel(build("llama").model), r"Load model\.module"),
        (
            lambda: tr.TextGenerationPipeline(build("llama").model, tokenizer=build("llama").tokenizer, device="cpu"),
            r"Load pipe\.model with tokenizer=pipe\.tokenizer",
        ),
    ],
    ids=["timm", "torchvision", "open_clip", "DataParallel", "pipeline"],
)
def test_what_holds_a_model_or_is_another_librarys_says_what_to_load(source, message):
    with pytest.raises(mn.InputError, match=message):
        mn.load(source())


@pytest.mark.parametrize("ran", [False, True])
def test_a_deep_copy_is_a_model_of_its_own(ran):
    model = mn.load("tiny")
    if ran:
        model.run(["x y"])
    twin = copy.deepcopy(model)
    with torch.no_grad():
        for weight in twin.module.parameters():
            weight.zero_()
    assert twin.run(["x y"]).activations["decoder"].abs().max() == 0
    assert model.run(["x y"]).activations["decoder"].abs().max() > 0
