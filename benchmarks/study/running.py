"""Runs steps one after the other: those that are done are passed over, one that fails does not stop the others."""

from __future__ import annotations

import json
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from modalnet._files import write_bytes


@dataclass(frozen=True)
class Step:
    """One step.

    Attributes
    ----------
    name
        Unique among all steps: its model and what is done.
    run
        Does it.
    folder
        Where its mark is left when it is done.
    inputs
        A JSON document of everything that it depends on: done with other inputs, it is done again.
    minutes
        About how long it takes on two cores; only the share of the whole matters.
    """

    name: str
    run: Callable[[], None]
    folder: Path
    inputs: dict[str, Any]
    minutes: float

    @property
    def mark(self) -> Path:
        """The file that says that it is done."""
        return self.folder / ".done" / f"{self.name.rpartition(': ')[2].replace(' ', '-')}.json"

    def seconds(self) -> float | None:
        """How long it took, where it is done."""
        if not self.mark.exists():
            return None
        found = json.loads(self.mark.read_text())
        return found["seconds"] if found["inputs"] == self.inputs else None


def run(steps: Sequence[Step], say: Callable[[str], None] | None = None) -> dict[str, str]:
    """Run what is not done yet; returns what failed, and why."""
    say = say or (lambda line: print(line, file=sys.stderr, flush=True))
    waiting = [step for step in steps if step.seconds() is None]
    for step in steps:
        if step not in waiting:
            say(f"{step.name}: done before, {step.seconds():.0f} s")
    failures = {}
    started, planned, over = time.perf_counter(), sum(step.minutes for step in waiting), 0.0
    for number, step in enumerate(waiting, start=1):
        elapsed = time.perf_counter() - started
        # As fast as the steps before it, measured against what they were thought to take.
        pace = elapsed / (60 * over) if over else 1.0
        say(f"[{number}/{len(waiting)}] {step.name}: about {max(1, round((planned - over) * pace))} min left in all")
        began = time.perf_counter()
        try:
            step.run()
        except Exception as error:  # whatever it is, the other steps must not be lost with it
            traceback.print_exc()
            failures[step.name] = f"{type(error).__name__}: {error}"
            say(f"{step.name} failed, the study goes on: {error}")
        else:
            step.mark.parent.mkdir(parents=True, exist_ok=True)
            document = {"seconds": time.perf_counter() - began, "inputs": step.inputs}
            write_bytes(step.mark, json.dumps(document, indent=1).encode())
        over += step.minutes
    return failures
