"""Each argument has one spelling over the whole public API, and the old spellings still work."""

from __future__ import annotations

import inspect

import pytest

from public_api import CALLABLES

#: Spellings that are no longer used, and what replaced them.
OLD = {
    "controls": "n_controls",
    "n_random": "n_controls",
    "n_draws": "n_controls",
    "matches": "match",
    "norms": "mean_abs",
    "batchsize": "batch_size",
    "bs": "batch_size",
    "random_state": "seed",
    "rng_seed": "seed",
    "store": "cache",
    "use_cache": "cache",
    "verbose": "progress",
    "show_progress": "progress",
    "localization_units": "units",
}
#: Arguments that have one default wherever they stand: name → default, and callables that differ, each with its reason.
DEFAULTS = {
    "n_controls": (
        20,
        {
            "optimize": "a picture per control",
            "layer_profile": "a band",
            "units_profile": "a band",
            "information_flow": "draws for each stimulus, window and set",
        },
    ),
    "batch_size": ("auto", {}),
    "cache": (True, {"from_id": "a folder, or that of the environment"}),
    "progress": (True, {}),
    "seed": (0, {}),
}


def test_the_public_callables_are_found():
    for name in ("localize", "lesion_study", "activation_patching", "profile", "align", "top_stimuli", "Units.random"):
        assert name in CALLABLES


@pytest.mark.parametrize("name", CALLABLES)
def test_no_argument_has_an_old_spelling(name):
    parameters = inspect.signature(CALLABLES[name]).parameters
    old = {parameter: OLD[parameter] for parameter in parameters if parameter in OLD}
    assert not old


@pytest.mark.parametrize("argument", DEFAULTS)
def test_shared_arguments_have_one_default(argument):
    default, exceptions = DEFAULTS[argument]
    others = {}
    for name, value in CALLABLES.items():
        parameter = inspect.signature(value).parameters.get(argument)
        if parameter is not None and parameter.default is not inspect.Parameter.empty and parameter.default != default:
            others[name.rpartition(".")[2]] = parameter.default
    assert set(others) <= set(exceptions), others


@pytest.mark.parametrize(
    ("name", "old", "new"),
    [
        ("lesion_study", "networks", "units"),
        ("lesion_study", "controls", "n_controls"),
        ("lesion_study", "matches", "match"),
        ("activation_patching", "networks", "units"),
        ("activation_patching", "controls", "n_controls"),
        ("activation_patching", "matches", "match"),
        ("specialization", "networks", "units"),
        ("specialization", "controls", "n_controls"),
        ("specialization", "n_crossed", "n_interaction"),
        ("align", "controls", "n_controls"),
        ("cka", "controls", "n_controls"),
        ("rsa", "controls", "n_controls"),
        ("encode", "controls", "control_features"),
        ("optimize", "controls", "n_controls"),
    ],
)
def test_old_spellings_warn_and_mean_the_same(name, old, new):
    function = CALLABLES[name]
    assert function.__renamed_arguments__[old] == new
    assert new in inspect.signature(function).parameters
