"""What `mn.interop.lmms_eval` refuses before lmms-eval is asked (tests/real/test_lmms_eval.py evaluates)."""

from __future__ import annotations

import sys

import pytest

import modalnet as mn


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "at least one task"),
        ({"tasks": [{"task": "mine"}]}, "at least one task"),
        ({"tasks": "mmstar", "use_cache": "folder"}, "does not distinguish interventions"),
        ({"tasks": "mmstar", "apply_chat_template": True}, "applies the model's chat template by itself"),
        ({"tasks": "mmstar", "model_args": "a=b"}, "loaded already"),
    ],
)
def test_arguments_are_checked_first(options, message):
    with pytest.raises(mn.InputError, match=message):
        mn.interop.lmms_eval(mn.load("tiny"), **options)


def test_without_lmms_eval_the_message_says_how_to_install_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "lmms_eval", None)
    with pytest.raises(mn.InputError, match=r"pip install 'modalnet\[lmms-eval\]'"):
        mn.interop.lmms_eval(mn.load("tiny"), tasks="mmstar")
