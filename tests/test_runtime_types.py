"""What the run-time check of annotations (tests/helpers/runtime_types.py) finds, and what it leaves out."""

from __future__ import annotations

import jaxtyping
import pytest

import runtime_types


@runtime_types.checked
def halved(value: int) -> float:
    return value / 2


@runtime_types.checked
def every_half(values: list) -> list[float]:
    return [halved(value) for value in values]


@pytest.fixture(autouse=True)
def outermost(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runtime_types.state, "inside", False)
    runtime_types.next_test()


def test_what_a_test_calls_itself_is_checked_each_time() -> None:
    for _ in range(2 * runtime_types.FIRST):
        halved(1)
    with pytest.raises(jaxtyping.TypeCheckError):
        halved("1")


@pytest.mark.parametrize(("number", "found"), [(1, True), (8, True), (9, False), (15, False), (16, True), (64, True)])
def test_a_call_inside_is_checked_at_first_and_then_less_and_less(number: int, found: bool) -> None:
    values: list = [2.5 if each == number else 2 for each in range(1, 65)]
    if found:
        with pytest.raises(jaxtyping.TypeCheckError):
            every_half(values)
    else:
        assert len(every_half(values)) == 64


def test_the_next_test_begins_anew() -> None:
    every_half([2] * 100)
    runtime_types.next_test()
    with pytest.raises(jaxtyping.TypeCheckError):
        every_half([2.5])
