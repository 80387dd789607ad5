"""How fast `modalnet.localize` is, and how much memory it takes, as ratios measured side by side in one run.

Seconds depend on the machine and on what else it does; a ratio of two things that ran in turns, A B A B, much less.
See README.md beside this file for what each ratio means.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import numpy as np
import psutil
import torch

import modalnet as mn
from modalnet.execution.batching import CPU_LIMITS
from modalnet.execution.engine import Engine
from published import published_activations, published_t
from real_material import of_tests

HERE = Path(__file__).resolve()
PROTOCOLS = {"none": None, "alkhamissi2025": "alkhamissi2025"}


# ------------------------------------------------------------------------------------------------------- measuring


#: What time is read from: the clock, or with --cpu-time what processors spent on this process.
CLOCK = [time.perf_counter]


def in_turns(a: Callable[[], Any], b: Callable[[], Any], repeats: int) -> tuple[list[float], list[float]]:
    """Seconds of `a` and of `b`, run A B A B; the caller has run both once before."""
    times: tuple[list[float], list[float]] = ([], [])
    for turn in range(repeats):
        for call, seconds in zip((a, b), times, strict=True):
            _synchronize()
            start = CLOCK[0]()
            call()
            _synchronize()
            seconds.append(CLOCK[0]() - start)
        note(f"  turn {turn + 1} of {repeats}: {times[0][-1]:.3f} s, {times[1][-1]:.3f} s")
    return times


def ratio_row(what: str, over: list[float], under: list[float], goal: str | None, **more: Any) -> dict[str, Any]:
    """One line of the table: over / under for each turn, and the ratio of the lowest of both.

    Other programs on the machine only ever add time, so the fastest of several turns is the least disturbed.
    """
    ratios = [x / y for x, y in zip(over, under, strict=True)]
    median = statistics.median(ratios)
    met = None
    if goal is not None:
        sign, bound = goal.split()
        met = median <= float(bound) if sign == "<=" else median >= float(bound)
    return {
        "what": what,
        "ratio": median,
        "lowest": min(ratios),
        "highest": max(ratios),
        "ratio_of_lowest": min(over) / min(under),
        "goal": goal,
        "met": met,
        "over": over,
        "under": under,
        **more,
    }


def _synchronize() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


@contextmanager
def peak_memory() -> Iterator[list[int]]:
    """Peak resident memory of this process in bytes above what it is now, appended when the block ends."""
    process, stop, result = psutil.Process(), threading.Event(), []
    before = highest = process.memory_info().rss

    def sample() -> None:
        nonlocal highest
        while not stop.wait(0.002):
            highest = max(highest, process.memory_info().rss)

    thread = threading.Thread(target=sample, daemon=True)
    thread.start()
    try:
        yield result
    finally:
        stop.set()
        thread.join()
        result.append(max(highest, process.memory_info().rss) - before)


def note(text: str) -> None:
    """Say on the error stream what is going on, so that --json stays clean."""
    print(text, file=sys.stderr, flush=True)


# -------------------------------------------------------------------------------------------------------- subjects


def recorded_batches(
    model: mn.Model, contrast: mn.Contrast, protocol: str | None, units: str = "residual"
) -> list[dict[str, Any]]:
    """The batches that localize itself gives to the model, on the model's device and in its precision."""
    parameter = next(model.module.parameters())
    batches: list[dict[str, Any]] = []
    run = Engine.run

    def recording(engine: Engine, inputs: dict[str, Any], plan: Any) -> Any:
        if all(pool.index is not None for _, pool in plan.reads):  # the others look at the layout only
            batches.append(
                {
                    name: value.to(parameter.device, parameter.dtype if value.is_floating_point() else None)
                    for name, value in inputs.items()
                }
            )
        return run(engine, inputs, plan)

    with mock.patch.object(Engine, "run", recording):
        whole_call(model, contrast, protocol, units)()
    rows = sum(len(next(iter(batch.values()))) for batch in batches)
    if rows < len(contrast):
        raise SystemExit(f"the recorded batches hold {rows} rows for {len(contrast)} stimuli: update this benchmark.")
    return batches


def whole_call(
    model: mn.Model, contrast: mn.Contrast, protocol: str | None, units: str = "residual"
) -> Callable[[], mn.Localization]:
    """What a user calls, without the store: it would answer the second call."""
    return lambda: mn.localize(model, contrast, units=units, protocol=protocol, cache=False, progress=False)


def bare_forward(model: mn.Model, batches: list[dict[str, Any]]) -> Callable[[], None]:
    """The towers alone, without LM head, reads or cache."""
    base = getattr(model.module, model.module.base_model_prefix)

    def forward() -> None:
        with torch.no_grad():
            for batch in batches:
                base(**batch, use_cache=False)

    return forward


class PublishedWay:
    """The published way (see published.py), one part of the stimuli per call and the t-test with the last.

    It takes minutes. In parts it runs in turns with localize, which takes seconds, so that both meet the same machine.
    """

    def __init__(self, model: mn.Model, contrast: mn.Contrast, protocol: str | None, parts: int) -> None:
        self.model, self.parts, self.calls = model, parts, 0
        self.max_tokens = 12 if protocol else None
        self.blocks = [model.module.get_submodule(path) for path in model.towers["decoder"].paths]
        self.sides = [
            [s.text for s in contrast.stimuli if s.condition in names]
            for names in (contrast.positive, contrast.negative)
        ]
        self.kept: list[list[list[np.ndarray]]] = [[], []]
        self.t: np.ndarray | None = None

    def __call__(self) -> None:
        for texts, kept in zip(self.sides, self.kept, strict=True):
            kept.append(self.activations(texts[self.calls :: self.parts]))
        self.calls += 1
        if self.calls == self.parts:
            self.t = published_t(*([np.concatenate(parts) for parts in zip(*kept, strict=True)] for kept in self.kept))

    def activations(self, texts: list[str]) -> list[np.ndarray]:
        """Per block, ``[stimulus, dim]``."""
        module, tokenizer = self.model.module, self.model.tokenizer
        return published_activations(module, tokenizer, self.blocks, texts, self.max_tokens)


def some(contrast: mn.Contrast, count: int | None) -> mn.Contrast:
    """The first so many stimuli of each side; None for all."""
    sides = [[s for s in contrast.stimuli if s.condition in side] for side in (contrast.positive, contrast.negative)]
    stimuli = [one for side in sides for one in side[:count]]
    return mn.Contrast(stimuli, positive=contrast.positive, negative=contrast.negative)


def repeated(contrast: mn.Contrast, copies: int) -> mn.Contrast:
    """The same stimuli several times over, under new ids."""
    stimuli = [
        mn.Stimulus(s.text, condition=s.condition, id=f"{copy}-{s.id}")
        for copy in range(copies)
        for s in contrast.stimuli
    ]
    return mn.Contrast(stimuli, positive=contrast.positive, negative=contrast.negative)


# --------------------------------------------------------------------------------------------------- language model


def language_rows(args: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Speed and memory on a real language model and the published stimuli."""
    protocols = PROTOCOLS if args.protocol == "both" else {args.protocol: PROTOCOLS[args.protocol]}
    if {"bare", "published"} & set(args.only):
        model = mn.load(args.model, device=args.device)
        contrast = some(mn.stimuli.fedorenko2010(args.stimuli), args.count_text)
        for name, protocol in protocols.items():
            ours = whole_call(model, contrast, protocol, args.units)
            batches = recorded_batches(model, contrast, protocol, args.units)  # this is also the first, slower call
            if "bare" in args.only:
                note(f"protocol {name}: localize against the bare forward of its {len(batches)} batches")
                bare = bare_forward(model, batches)
                bare()
                times = in_turns(ours, bare, args.repeats)
                goal = "<= 1.10" if args.units == "residual" else "<= 1.15"
                yield ratio_row(f"localize {args.units} / bare forward, protocol {name}", *times, goal)
            if "published" in args.only:
                note(f"protocol {name}: the published way against localize")
                theirs = PublishedWay(model, contrast, protocol, args.published_parts)
                theirs.activations(theirs.sides[0][:2])
                parts, whole = in_turns(theirs, ours, args.published_parts)
                yield ratio_row(
                    f"published way / localize, protocol {name}",
                    [seconds * args.published_parts for seconds in parts],
                    whole,
                    ">= 8",
                    largest_difference_of_t=float(abs(theirs.t - ours().t["decoder"]).max()),
                )
    if "memory" in args.only:
        few = copies_of_few(args)
        peaks: tuple[list[float], list[float]] = ([], [])
        for _ in range(args.memory_repeats):
            for copies, found in zip((args.copies * few, few), peaks, strict=True):
                note(f"peak memory with {copies} x the stimuli")
                found.append(_memory_in_new_process(args, copies) / 2**20)
                note(f"  {found[-1]:.0f} MB")
        what = f"peak memory of localize {args.units}, {args.copies} x the stimuli / the stimuli"
        yield ratio_row(what, *peaks, "<= 1.10", unit="MB", copies_of_few=few)


#: Batches of the smaller side of the memory ratio. During the first one no moments exist yet, so one alone peaks lower.
_FEWEST_BATCHES = 4


def copies_of_few(args: argparse.Namespace) -> int:
    """How often the stimuli are repeated on the smaller side of the memory ratio, so that they fill a few batches."""
    count = len(some(mn.stimuli.fedorenko2010(args.stimuli), args.count_text))
    return -(-_FEWEST_BATCHES * CPU_LIMITS[0] // count)


# Have the C library give large blocks back at once: what it would keep differs between equal runs by tens of MB.
_PLAIN_MALLOC = {"MALLOC_MMAP_THRESHOLD_": "1048576", "MALLOC_TRIM_THRESHOLD_": "1048576", "MALLOC_ARENA_MAX": "1"}


def _memory_in_new_process(args: argparse.Namespace, copies: int) -> int:
    command = [sys.executable, str(HERE), "--model", str(args.model), "--stimuli", str(args.stimuli)]
    command += ["--memory-worker", str(copies), "--units", args.units]
    command += [] if args.count_text is None else ["--count-text", str(args.count_text)]
    environment = {**os.environ, **_PLAIN_MALLOC}
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, env=environment)
    return int(done.stdout.split()[-1])


def memory_worker(args: argparse.Namespace) -> None:
    """Print the peak above the model's own memory; the model and the stimuli are there before the count begins."""
    model = mn.load(args.model)
    contrast = repeated(some(mn.stimuli.fedorenko2010(args.stimuli), args.count_text), args.memory_worker)
    model.fingerprint()  # touches every weight, so that mapped files count as the model's own
    with peak_memory() as peak:
        whole_call(model, contrast, None, args.units)()
    print(peak[0])


# --------------------------------------------------------------------------------------------- vision-language model


def vlm_rows(args: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Throughput over both towers of a vision-language model with random weights."""
    from random_vlm import random_contrast, random_llava

    device = args.device or ("cuda" if torch.cuda.is_available() else "cpu")
    cuda = device.startswith("cuda")
    note(f"making a LLaVA of size {args.size} on {device}")
    model = random_llava(args.size, device=device, dtype=torch.bfloat16 if cuda else torch.float32)
    contrast = random_contrast(args.count)
    own = torch.cuda.memory_allocated() if cuda else 0
    if cuda:
        torch.cuda.reset_peak_memory_stats()
    with peak_memory() as resident:
        whole_call(model, contrast, None)()
    peak = torch.cuda.max_memory_allocated() - own if cuda else resident[0]
    batches = recorded_batches(model, contrast, None)
    ours, bare = whole_call(model, contrast, None), bare_forward(model, batches)
    bare()
    note(f"localize in {', '.join(ours().t)} against the bare forward of its {len(batches)} batches")
    localizing, forward = in_turns(ours, bare, args.repeats)
    yield ratio_row(
        f"throughput, localize / bare forward, LLaVA {args.size}",
        forward,  # the ratio of throughputs is that of times upside down
        localizing,
        ">= 0.90" if args.size == "7b" and cuda else None,
        stimuli_per_second={
            "localize": len(contrast) / statistics.median(localizing),
            "bare": len(contrast) / statistics.median(forward),
        },
        seconds_of_fingerprint=min(in_turns(model.fingerprint, lambda: None, 2)[0]),
        peak_memory_mb=peak / 2**20,
        model_memory_mb=own / 2**20 if cuda else None,
    )


# ------------------------------------------------------------------------------------------------------------ report


def machine(args: argparse.Namespace) -> dict[str, Any]:
    """What the numbers were measured on."""
    cuda = torch.cuda.is_available() and args.device != "cpu"
    return {
        "device": torch.cuda.get_device_name() if cuda else f"{os.cpu_count()} CPU cores",
        "torch_threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "modalnet": mn.__version__,
    }


def show(report: dict[str, Any]) -> None:
    """Print the report as a table."""
    print("  ".join(f"{key}: {value}" for key, value in report["machine"].items()))
    header = ("", "over", "under", "ratio", "lowest..highest", "of lowest", "goal", "")
    lines = [header]
    for row in report["rows"]:
        unit = row.get("unit", "s")
        digits = 3 if unit == "s" else 0
        lines.append(
            (
                row["what"],
                f"{statistics.median(row['over']):.{digits}f} {unit}",
                f"{statistics.median(row['under']):.{digits}f} {unit}",
                f"{row['ratio']:.3f}",
                f"{row['lowest']:.3f}..{row['highest']:.3f}",
                f"{row['ratio_of_lowest']:.3f}",
                row["goal"] or "",
                {True: "met", False: "NOT MET", None: ""}[row["met"]],
            )
        )
    widths = [max(len(line[column]) for line in lines) for column in range(len(header))]
    for line in lines:
        print("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())
    for row in report["rows"]:
        known = ("what", "ratio", "lowest", "highest", "ratio_of_lowest", "goal", "met", "over", "under", "unit")
        for name, value in row.items():
            if name not in known and value is not None:
                print(f"{row['what']}: {name} = {value}")


def arguments() -> argparse.Namespace:
    """Read the command line; fill in the real model and the stimuli that the tests use."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--model", help="a language model: folder or hub id; by default the Gemma 3 270M of the tests")
    parser.add_argument("--stimuli", help="folder of fedorenko2010; by default that of the tests")
    parser.add_argument("--units", default="residual", help="which units are localized, such as neurons or heads")
    parser.add_argument("--count-text", type=int, help="so many stimuli of each side; by default all")
    parser.add_argument("--size", choices=("7b", "tiny"), help="a random LLaVA of this size instead")
    parser.add_argument("--device", help="cpu or cuda; by default where modalnet puts a model")
    parser.add_argument("--protocol", choices=(*PROTOCOLS, "both"), default="both")
    parser.add_argument(
        "--only", nargs="+", choices=("bare", "published", "memory"), default=["bare", "published", "memory"]
    )
    parser.add_argument("--repeats", type=int, default=5, help="turns of localize against the bare forward")
    parser.add_argument(
        "--published-parts", type=int, default=8, help="turns of the published way, on a part of the stimuli each"
    )
    parser.add_argument("--memory-repeats", type=int, default=2, help="turns of many stimuli against few")
    parser.add_argument("--copies", type=int, default=10, help="how many times the stimuli, for memory")
    parser.add_argument("--count", type=int, default=512, help="number of stimuli, for --size")
    parser.add_argument(
        "--cpu-time", action="store_true", help="time of the processors instead of the clock, for a busy machine"
    )
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    parser.add_argument("--memory-worker", type=int, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.size is None:
        args.model = args.model or test_asset("model")
        args.stimuli = args.stimuli or test_asset("stimuli")
    return args


def test_asset(what: str) -> Path:
    """The model (built on first use), the stimuli or other data of the real-data tests."""
    return of_tests({"model": "gemma", "stimuli": "fedorenko2010"}.get(what, what), f"--{what}")


def main() -> None:
    """Measure, then print."""
    args = arguments()
    if args.memory_worker:
        memory_worker(args)
        return
    if args.cpu_time:
        CLOCK[0] = time.process_time
    rows = list(vlm_rows(args) if args.size else language_rows(args))
    report = {"machine": machine(args), "rows": rows}
    if args.json:
        print(json.dumps(report, indent=2))
    else:
        show(report)


if __name__ == "__main__":
    main()
