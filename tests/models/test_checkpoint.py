"""Which checkpoint a model is, whatever precision its weights are held in and whatever else it was loaded with."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import modalnet as mn
from modalnet.errors import InputError
from modalnet.models.fingerprint import checkpoint_fingerprint, weights_fingerprint


def some_units(model):
    mask = {name: np.zeros(space.shape, bool) for name, space in model.spaces.items() if name in model.towers}
    mask["decoder"][2, :5] = True
    return mn.Units(mask, model=model.fingerprint(), selected_on=["digest"])


@pytest.mark.parametrize("saved", ["bfloat16", "float16"])
@pytest.mark.parametrize("held", ["float32", "float64", "bfloat16", "float16"])
def test_a_checkpoint_is_itself_in_every_precision_that_holds_it(saved, held):
    module = torch.nn.Sequential(torch.nn.Linear(40, 50), torch.nn.LayerNorm(50))
    with torch.no_grad():
        module[0].weight.mul_(torch.logspace(-7, 2, 40))  # down to where float16 loses digits
    module.to(getattr(torch, saved))
    before = checkpoint_fingerprint(module)
    assert checkpoint_fingerprint(module.to(getattr(torch, held))) == before


@pytest.mark.parametrize("held", ["float64", "bfloat16"])
def test_a_checkpoint_saved_in_float32_is_itself_in_bfloat16(held):
    module = torch.nn.Linear(40, 50)
    before, bits = checkpoint_fingerprint(module), weights_fingerprint(module)
    module.to(getattr(torch, held))
    assert checkpoint_fingerprint(module) == before
    assert weights_fingerprint(module) != bits


@pytest.mark.parametrize("edit", ["a weight", "a layer", "a name", "a shape", "a buffer"])
def test_another_checkpoint_is_another(edit):
    def make():
        torch.manual_seed(0)
        return torch.nn.Sequential(torch.nn.Linear(8, 8), torch.nn.BatchNorm1d(8))

    module = make()
    if edit == "a weight":
        with torch.no_grad():
            module[0].weight[3, 4] *= 1.01
    elif edit == "a layer":
        module.append(torch.nn.Linear(8, 8))
    elif edit == "a name":
        module = torch.nn.Sequential(module[1], module[0])
    elif edit == "a shape":
        module[0].weight = torch.nn.Parameter(module[0].weight.detach().reshape(4, 16))
    else:
        module[1].running_mean += 1.0
    assert checkpoint_fingerprint(module) != checkpoint_fingerprint(make())


def test_a_buffer_that_no_checkpoint_holds_is_left_out():
    one, other = torch.nn.Linear(3, 3), torch.nn.Linear(3, 3)
    other.load_state_dict(one.state_dict())
    other.register_buffer("positions", torch.arange(5), persistent=False)
    assert checkpoint_fingerprint(one) == checkpoint_fingerprint(other)


def test_units_found_in_bfloat16_are_those_of_float32_and_the_numbers_are_not():
    """The store answers for one precision alone; a network belongs to the checkpoint."""
    full, half = mn.load("tiny"), mn.load("tiny", dtype="bfloat16")
    units = some_units(half)
    zeroed = full.run("The dog", mn.zero(units)).activations["decoder"]
    assert not zeroed[0, 2, :5].any()
    assert full._identity().numbers["checkpoint"] != half._identity().numbers["checkpoint"]


@pytest.mark.parametrize("setting", ["use_cache", "output_hidden_states", "_attn_implementation", "some_new_setting"])
def test_settings_of_a_config_make_no_other_checkpoint(setting):
    plain, other = mn.load("tiny"), mn.load("tiny")
    value = "eager" if setting == "_attn_implementation" else True
    for config in (other.module.config, other.module.config.text_config):
        setattr(config, setting, not getattr(config, setting, True) if setting == "use_cache" else value)
    plain._executor.check_units(some_units(other))


def test_units_of_a_file_of_an_earlier_version_are_known():
    """They carry a fingerprint of the config, too."""
    model = mn.load("tiny")
    old = mn.Units(some_units(model).mask, model=weights_fingerprint(model._executor.module))
    model._executor.check_units(old)
    with torch.no_grad():
        model._executor.module.model.language_model.layers[2].mlp.down_proj.weight.mul_(1.1)
    with pytest.raises(InputError, match="another model"):
        model._executor.check_units(old)


def test_units_of_an_edited_model_are_refused_until_they_are_made_its_own():
    model, tuned = mn.load("tiny"), mn.load("tiny")
    with torch.no_grad():
        tuned._executor.module.model.language_model.layers[2].mlp.down_proj.weight.mul_(1.1)
    mean_abs = {name: np.ones(space.shape) for name, space in model.spaces.items() if name in model.towers}
    units = mn.Units(some_units(model).mask, mean_abs=mean_abs, model=model.fingerprint(), selected_on=["digest"])
    with pytest.raises(InputError, match=r"another model.*for_model"):
        tuned.run("The dog", mn.zero(units))
    own = units.for_model(tuned)
    assert own.model == tuned.fingerprint() != units.model
    assert own.selected_on == units.selected_on
    np.testing.assert_array_equal(own.mean_abs["decoder"], units.mean_abs["decoder"])
    assert not tuned.run("The dog", mn.zero(own)).activations["decoder"][0, 2, :5].any()


def test_networks_of_two_checkpoints_are_compared_but_not_combined():
    shapes = {"decoder": (3, 4)}
    one = mn.Units.from_indices(shapes, [("decoder", 0, 1), ("decoder", 0, 2)], model="one")
    other = mn.Units.from_indices(shapes, [("decoder", 0, 1), ("decoder", 2, 2)], model="other")
    assert one.dice(other) == 0.5
    assert one.jaccard(other) == 1 / 3
    with pytest.raises(InputError, match="for_model"):
        _ = one & other
    with pytest.raises(InputError, match="different spaces"):
        one.dice(mn.Units.from_indices({"decoder": (3, 5)}, [("decoder", 0, 1)]))


def test_units_are_not_made_those_of_another_architecture():
    model = mn.load("tiny")
    foreign = mn.Units.from_indices({"decoder": (3, 4)}, [("decoder", 0, 1)])
    with pytest.raises(InputError, match="another model"):
        foreign.for_model(model)
    with pytest.raises(InputError, match="`model` must be a model"):
        foreign.for_model("tiny")
    elsewhere = mn.Units.from_indices({"audio": (3, 4)}, [("audio", 0, 1)])
    with pytest.raises(InputError, match="audio"):
        elsewhere.for_model(model)
