"""Run as a program: evaluations by lmms-eval in a process of their own.

``python lmms_eval_run.py FOLDER PLAN OUT``: `FOLDER` has task files; `PLAN` is a JSON list of [lesioned, task,
options]; `OUT` gets what each evaluation returns, or the message of its InputError.
"""

from __future__ import annotations

import json
import sys
from typing import Any

import modalnet as mn
from modalnet.interventions.operations import Intervention

LAYER, DIMENSIONS = 3, range(0, 192, 2)  # what is lesioned


def lesion() -> Intervention:
    units = [("decoder", LAYER, dimension) for dimension in DIMENSIONS]
    return mn.zero(mn.Units.from_indices({"decoder": (8, 192)}, units))


def evaluate(model: mn.Model, folder: str, lesioned: bool, task: str, options: dict[str, Any]) -> Any:
    given = [lesion()] if lesioned else []
    try:
        found = mn.interop.lmms_eval(model, given, task, include_path=folder, bootstrap_iters=0, **options)
    except mn.InputError as error:
        return str(error)
    rows = sorted(found["samples"].get(task, []), key=lambda row: row["doc_id"])
    samples = [{"resps": row["resps"], "arguments": row["arguments"]} for row in rows]
    return {"results": found["results"][task], "samples": samples, "config": found["config"]}


def main(folder: str, plan: str, out: str) -> None:
    model = mn.load("tiny", dtype="float32")
    with open(plan, encoding="utf-8") as file:
        asked = json.load(file)
    found = [evaluate(model, folder, *one) for one in asked]
    with open(out, "w", encoding="utf-8") as file:
        json.dump(found, file, default=str)


if __name__ == "__main__":
    main(*sys.argv[1:])
