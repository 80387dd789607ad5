"""Hierarchical models: a tower is one stage and says which, or all stages where they have one width."""

from __future__ import annotations

import pytest
import torch
import transformers as tr

import modalnet as mn
from families import finish, picture
from modalnet.models.towers import find_towers

#: Classes whose stages have widths of their own, with a config of the size of a checkpoint, built without weights.
HIERARCHICAL = [
    "SwinModel",
    "Swinv2Model",
    "DonutSwinModel",
    "MaskFormerSwinModel",
    "ConvNextModel",
    "ConvNextV2Model",
    "DINOv3ConvNextModel",
    "PvtModel",
    "PvtV2Model",
    "SegformerModel",
    "HieraModel",
    "FocalNetModel",
    "PoolFormerModel",
    "CvtModel",
    "GLPNModel",
    "MobileViTModel",
    "MobileViTV2Model",
    "TextNetModel",
    "Florence2Model",
    "Mask2FormerModel",
]


def empty(name):
    kind = getattr(tr, name)
    with torch.device("meta"):
        return kind(kind.config_class())


@pytest.mark.parametrize("name", HIERARCHICAL)
def test_a_tower_that_is_one_stage_names_what_is_left_out(name):
    module = empty(name)
    tower = find_towers(module)["vision"]
    kind = type(tower.blocks[0])
    whole = [path for path, sub in module.named_modules() if type(sub) is kind]
    left = [path.rpartition(".")[0] for path in whole if path not in tower.paths]
    assert f"({tower.n_layers} of {len(whole)} blocks)" in tower.stage
    assert left
    assert all(path in tower.stage for path in left)


@pytest.mark.parametrize("name", ["Swin2SRModel", "GroupViTModel"])
def test_stages_of_one_width_are_one_tower(name):
    module = empty(name)
    tower = find_towers(module)["vision"]
    kind = type(tower.blocks[0])
    root = module.get_submodule(tower.root) if tower.root else module
    assert list(tower.blocks) == [sub for sub in root.modules() if type(sub) is kind]
    assert not tower.stage


@pytest.mark.parametrize("name", ["HGNetV2Backbone", "ResNetModel", "RegNetModel", "BitModel", "LevitModel"])
def test_models_without_a_stack_of_blocks_are_refused(name):
    with pytest.raises(mn.InputError, match="no stack of residual blocks"):
        find_towers(empty(name))


@pytest.mark.parametrize("name", ["ViTModel", "CLIPModel", "MllamaModel", "FunnelModel", "LlamaModel", "SamModel"])
def test_other_models_are_whole(name):
    assert not any(tower.stage for tower in find_towers(empty(name)).values())


def test_load_warns_and_print_says_so():
    config = tr.SwinConfig(image_size=32, patch_size=4, embed_dim=16, depths=[1, 2], num_heads=[2, 2], window_size=4)
    module = finish(tr.SwinModel(config))
    said = r"hierarchical.*vision tower is stage 2 of 2, encoder\.layers\.1\.blocks \(2 of 3 blocks\).*"
    with pytest.warns(UserWarning, match=said + r"encoder\.layers\.0\.blocks \(1 blocks x 16\)"):
        model = mn.load(module, processor=tr.ViTImageProcessor(size={"height": 32, "width": 32}))
    assert "left out are encoder.layers.0.blocks" in str(model)
    assert model.run([mn.Stimulus(image=picture(1, 32, 32))], tokens="mean").residual["vision"].shape == (1, 2, 32)


def test_all_stages_of_one_width_are_read_as_hooks_read_them():
    config = tr.Swin2SRConfig(image_size=16, patch_size=1, window_size=4, depths=[2, 2], num_heads=[2, 2], embed_dim=16)
    module = finish(tr.Swin2SRModel(config))
    model = mn.load(module, processor=tr.ViTImageProcessor(size={"height": 16, "width": 16}))
    assert model.vision.n_layers == 4
    seen = []
    for block in model.vision.blocks:
        block.register_forward_hook(lambda _, __, out: seen.append(out[0] if isinstance(out, tuple) else out))
    found = model.run([mn.Stimulus(image=picture(1, 16, 16))], tokens="all").residual["vision"][0]
    for layer, expected in enumerate(seen[-4:]):
        torch.testing.assert_close(found[layer], expected[0], atol=1e-5, rtol=0)
