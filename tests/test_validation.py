"""Validation of arguments: what is valid comes back in its plain form, everything else is refused in one shape."""

from __future__ import annotations

import math
import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, strategies as st

from modalnet import _validation as validation
from modalnet.errors import InputError

anything = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(),
    st.lists(st.integers()),
    st.binary(),
    st.complex_numbers(),
)


def refused(call, message):
    with pytest.raises(InputError, match=f"^{re.escape(message)}$"):
        call()


@given(st.integers(), st.integers() | st.none(), st.integers() | st.none())
def test_integers_within_bounds(value, minimum, maximum):
    inside = (minimum is None or value >= minimum) and (maximum is None or value <= maximum)
    if inside:
        assert validation.check_int("n", value, minimum=minimum, maximum=maximum) == value
    else:
        with pytest.raises(InputError, match=r"^`n` must be an? .*integer.*, got "):
            validation.check_int("n", value, minimum=minimum, maximum=maximum)


@given(anything)
def test_a_seed_is_a_non_negative_integer_and_nothing_else(value):
    if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
        assert validation.check_seed(value) == value
    else:
        with pytest.raises(InputError, match=r"^`seed` must be a non-negative integer, got "):
            validation.check_seed(value)


@pytest.mark.parametrize("kind", [np.int8, np.int64, np.uint32])
def test_integers_of_numpy_come_back_plain(kind):
    assert type(validation.check_int("n", kind(3))) is int
    assert validation.check_batch_size(kind(3)) == 3


def test_words_of_integers():
    refused(lambda: validation.check_seed(-1), "`seed` must be a non-negative integer, got -1.")
    refused(lambda: validation.check_int("n", 0, minimum=1), "`n` must be a positive integer, got 0.")
    refused(lambda: validation.check_int("n", 1.0, minimum=2), "`n` must be an integer of at least 2, got 1.0.")
    refused(
        lambda: validation.check_int("level", 256, minimum=0, maximum=255),
        "`level` must be an integer from 0 to 255, got 256.",
    )
    refused(lambda: validation.check_int("n", True), "`n` must be an integer, got True.")


@given(anything)
def test_fractions(value):
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if number and 0 < value <= 1:
        assert validation.check_fraction("fraction", value) == value
    else:
        with pytest.raises(InputError, match=r"^`fraction` must be a number above 0 and at most 1, got "):
            validation.check_fraction("fraction", value)
    if number and value == 0:
        assert validation.check_fraction("share", value, zero=True) == 0


@given(anything)
def test_numbers_are_finite_and_within_bounds(value):
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if number and abs(value) < 1e300 and value > 0 and value <= 7:
        assert validation.check_number("scale", value, above=0, maximum=7) == value
    elif not number or not math.isfinite(value) or value <= 0 or value > 7:
        with pytest.raises(InputError, match=r"^`scale` must be a finite number above 0 and at most 7, got "):
            validation.check_number("scale", value, above=0, maximum=7)


def test_words_of_options():
    options = ("absolute", "signed")
    assert validation.check_option("magnitude", "signed", options) == "signed"
    refused(
        lambda: validation.check_option("magnitude", "abs", options),
        "`magnitude` must be one of 'absolute', 'signed', got 'abs'.",
    )
    refused(
        lambda: validation.check_option("magnitude", "singed", options),
        "`magnitude` must be one of 'absolute', 'signed', got 'singed'. Did you mean 'signed'?",
    )
    refused(
        lambda: validation.check_option("magnitude", None, options),
        "`magnitude` must be one of 'absolute', 'signed', got None.",
    )


@given(st.lists(st.sampled_from("abc")))
def test_options_are_taken_once_in_their_order(values):
    if values:
        assert validation.check_options("match", values, "abc") == tuple(dict.fromkeys(values))
    else:
        with pytest.raises(InputError, match="at least one of 'a', 'b', 'c'"):
            validation.check_options("match", values, "abc")


def test_one_option_is_a_list_of_one():
    assert validation.check_options("match", "layer", ("layer", "tower")) == ("layer",)
    refused(
        lambda: validation.check_options("match", 3, ("layer", "tower")),
        "`match` must be one or several of 'layer', 'tower', got 3.",
    )
    refused(
        lambda: validation.check_options("match", ["layer", 3], ("layer", "tower")),
        "`match` must be one of 'layer', 'tower', got 3.",
    )


def test_types():
    assert validation.check_type("model", "x", str, "a string") == "x"
    refused(lambda: validation.check_type("model", 3, str, "a Model"), "`model` must be a Model, got an int.")
    refused(
        lambda: validation.check_type("model", None, (str, list), "a Model", "Make one: modalnet.load()."),
        "`model` must be a Model, got None. Make one: modalnet.load().",
    )


def test_batch_sizes_booleans_and_caches(tmp_path):
    assert validation.check_batch_size("auto") == "auto"
    for value in (0, -1, 2.0, True, "big", None):
        refused(
            lambda value=value: validation.check_batch_size(value),
            f"`batch_size` must be 'auto' or a positive integer, got {value!r}.",
        )
    assert validation.check_bool("progress", False) is False
    refused(lambda: validation.check_bool("progress", 1), "`progress` must be True or False, got 1.")
    for value in (True, False, "folder", tmp_path, Path("x")):
        assert validation.check_cache(value) is value
    refused(lambda: validation.check_cache(3), "`cache` must be True, False, a folder or a Store, got 3.")
    refused(lambda: validation.check_cache(None), "`cache` must be True, False, a folder or a Store, got None.")


def test_names():
    known = {"vision": 1, "decoder": 2}
    assert validation.check_names("towers", "vision", known, "towers of this model") == ("vision",)
    assert validation.check_names("towers", ["decoder", "decoder"], known, "towers of this model") == ("decoder",)
    refused(
        lambda: validation.check_names("towers", "visoin", known, "towers of this model"),
        "`towers` must be among the towers of this model ('vision', 'decoder'), got 'visoin'. Did you mean 'vision'?",
    )
    for value in ([], 3, None):
        refused(
            lambda value=value: validation.check_names("towers", value, known, "towers of this model"),
            f"`towers` must name one or several towers of this model ('vision', 'decoder'), got {value!r}.",
        )


def test_large_values_are_named_by_their_type():
    refused(lambda: validation.check_seed(list(range(1000))), "`seed` must be a non-negative integer, got a list.")
