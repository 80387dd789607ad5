"""Old names work, warn once per use at the caller's line, and name the new spelling."""

from __future__ import annotations

import copy
import pickle
import sys
import types
import warnings

import pytest

from modalnet import _deprecation as deprecation
from modalnet.errors import InputError


@deprecation.renamed_arguments(controls="n_controls", matches="match")
def study(model, *, n_controls=20, match="layer"):
    """A study."""
    return model, n_controls, match


class Inner:
    def prepare(self):
        return "prepared"


class Thing:
    norms = deprecation.renamed("norms", "mean_abs")
    __getattr__ = deprecation.renamed_attributes({"prepare": "_inner.prepare", "size": "count"})

    def __init__(self):
        self.mean_abs = 3
        self.count = 5
        self._inner = Inner()

    @classmethod
    def from_id(cls, job, *, wait=False):
        return job, wait


def warned(message, call):
    with pytest.warns(DeprecationWarning, match=f"^{message}$") as caught:
        value = call()
    assert len(caught) == 1
    assert caught[0].filename == __file__
    return value


def test_arguments():
    message = "`controls=` is deprecated and will be removed in 0.3; use `n_controls=`."
    assert warned(message, lambda: study(1, controls=3)) == (1, 3, "layer")
    with pytest.raises(InputError, match="`controls` is the old spelling of `n_controls`; give `n_controls` alone"):
        study(1, controls=3, n_controls=3)
    with pytest.raises(TypeError, match="unexpected keyword argument 'other'"):
        study(1, other=3)
    assert study.__doc__ == "A study."
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert study(1, n_controls=2, match="tower") == (1, 2, "tower")


def test_options():
    message = r"`match='norm'` is deprecated and will be removed in 0.3; use `match='activation'`."
    for value, expected in (("norm", "activation"), (["layer", "norm"], ["layer", "activation"])):
        assert warned(
            message, lambda value=value: deprecation.renamed_option("match", value, {"norm": "activation"})
        ) == (expected)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert deprecation.renamed_option("match", ("layer",), {"norm": "activation"}) == ("layer",)
        assert deprecation.renamed_option("match", None, {"norm": "activation"}) is None


def test_functions():
    pick_up = deprecation.renamed("pick_up", Thing.from_id)
    message = "`pick_up` is deprecated and will be removed in 0.3; use `Thing.from_id`."
    assert warned(message, lambda: pick_up("job", wait=True)) == ("job", True)
    assert pick_up.__name__ == "pick_up"


def test_attributes():
    thing = Thing()
    message = "`Thing.norms` is deprecated and will be removed in 0.3; use `Thing.mean_abs`."
    assert warned(message, lambda: thing.norms) == 3
    message = "`Thing.size` is deprecated and will be removed in 0.3; use `Thing.count`."
    assert warned(message, lambda: thing.size) == 5
    message = "`Thing.prepare` is no longer public and will be removed in 0.3."
    assert warned(message, lambda: thing.prepare)() == "prepared"
    with pytest.raises(AttributeError, match="'Thing' object has no attribute 'other'"):
        thing.other  # noqa: B018


def test_objects_with_renamed_attributes_are_copied_and_pickled_in_silence():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert copy.deepcopy(Thing()).mean_abs == 3
        assert pickle.loads(pickle.dumps(Thing())).count == 5


def test_names_of_a_module(monkeypatch):
    module = types.ModuleType("old_module")
    module.__getattr__ = deprecation.renamed_names("old_module", {"Condition": "collections:OrderedDict"})
    monkeypatch.setitem(sys.modules, "old_module", module)
    import collections

    message = "`old_module.Condition` is deprecated and will be removed in 0.3; use `collections.OrderedDict`."
    assert warned(message, lambda: module.Condition) is collections.OrderedDict
    with pytest.raises(AttributeError, match="module 'old_module' has no attribute 'Other'"):
        module.Other  # noqa: B018


def test_former_public_names_are_still_found():
    import modalnet as mn
    from modalnet import lesion, localization

    message = "`modalnet.{}pick_up` is deprecated .* use `modalnet.LocalizationJob.from_id`"
    for package, prefix in ((mn, ""), (localization, "localization.")):
        with pytest.warns(DeprecationWarning, match=message.format(prefix)):
            assert package.pick_up == mn.LocalizationJob.from_id
    with pytest.warns(DeprecationWarning, match=r"`modalnet.lesion.Condition` is deprecated"):
        assert lesion.Condition is lesion.Lesion
