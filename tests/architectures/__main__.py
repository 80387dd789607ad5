"""Writes `docs/architectures.md` again, or examines the model types that are named."""

from __future__ import annotations

import os
import sys
import time

os.environ |= {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}

import transformers

from architectures.suite import PAGE, cases, examine, page


def main(kinds: list[str]) -> None:
    """Examine every class, or those of some model types."""
    transformers.logging.set_verbosity_error()
    outcomes = []
    for case in cases():
        if kinds and case.kind not in kinds:
            continue
        start = time.perf_counter()
        outcomes.append(outcome := examine(case))
        state = "failed" if outcome.problems else "passed"
        print(f"{state} {time.perf_counter() - start:5.1f} s  {outcome.row}", flush=True)
    if not kinds:
        PAGE.write_text(page(outcomes), encoding="utf-8")
    good = sum(not outcome.problems for outcome in outcomes)
    print(f"{good} of {len(outcomes)} pass every check", file=sys.stderr)


main(sys.argv[1:])
