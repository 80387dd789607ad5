"""How long an encoding analysis takes, and how much memory; see README.md beside this file.

One analysis of 11,520 features, 627 stimuli and 1,000 targets: nested cross-validation with 13 penalties, ten random
controls of as many features, 1,000 permutations and 1,000 resamples. Features and responses are random numbers with a
signal in them; neither their time nor their memory depends on what they mean.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
from typing import Any

import numpy as np
import psutil
import torch

import modalnet as mn
from localize import note, peak_memory

GOAL_SECONDS, GOAL_MEMORY = 60.0, 4e9


def material(n_stimuli: int, n_features: int, n_targets: int, n_controls: int) -> tuple[Any, Any, Any]:
    """Features, controls, and a data set that the features predict in part."""
    rng = np.random.default_rng(0)
    latent = rng.standard_normal((n_stimuli, 50)).astype(np.float32)
    features = latent @ rng.standard_normal((50, n_features), dtype=np.float32)
    features += rng.standard_normal((n_stimuli, n_features), dtype=np.float32)
    controls = [rng.standard_normal((n_stimuli, n_features), dtype=np.float32) for _ in range(n_controls)]
    responses = latent @ rng.standard_normal((50, n_targets)) / 7 + 2 * rng.standard_normal((n_stimuli, n_targets))
    groups = np.arange(n_stimuli) // 4
    texts = [f"stimulus {i}" for i in range(n_stimuli)]
    return features, controls, mn.brain.from_arrays(texts, responses, groups=groups, name="benchmark")


def one_fit(features: np.ndarray, responses: np.ndarray) -> float:
    """Seconds of a single kernel ridge of himalaya with 13 penalties over all stimuli, kernel included."""
    from himalaya.backend import get_backend, set_backend
    from himalaya.kernel_ridge import KernelRidgeCV

    before = get_backend()
    set_backend("torch")
    start = time.perf_counter()
    given = torch.from_numpy(features)
    kernel = given @ given.T / features.shape[1]
    KernelRidgeCV(alphas=np.logspace(-3, 5, 13), kernel="precomputed", cv=5).fit(
        kernel, torch.tensor(responses, dtype=torch.float32)
    )
    seconds = time.perf_counter() - start
    set_backend(before)
    return seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--stimuli", type=int, default=627)
    parser.add_argument("--features", type=int, default=11_520)
    parser.add_argument("--targets", type=int, default=1000)
    parser.add_argument("--controls", type=int, default=10)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    features, controls, data = material(arguments.stimuli, arguments.features, arguments.targets, arguments.controls)
    own = psutil.Process()
    before = own.memory_info().rss
    rows = []
    for turn in range(arguments.repeats):
        cpu = time.process_time()
        start = time.perf_counter()
        with peak_memory() as peak:
            result = mn.brain.encode(
                features, data, control_features=controls, device=arguments.device, cache=False, progress=False
            )
        row = {
            "seconds": time.perf_counter() - start,
            "cpu_seconds": time.process_time() - cpu,
            "peak_memory_above_data": peak[0],
            "load": os.getloadavg()[0],
            "single_fit_seconds": one_fit(features, np.asarray(data.responses)),
        }
        rows.append(row)
        note(f"  turn {turn + 1} of {arguments.repeats}: {row['seconds']:.1f} s")
    seconds = [row["seconds"] for row in rows]
    report = {
        "machine": {"threads": torch.get_num_threads(), "cores": os.cpu_count(), "device": arguments.device},
        "size": {name: getattr(arguments, name) for name in ("stimuli", "features", "targets", "controls")},
        "score": result.score("features"),
        "median_seconds": statistics.median(seconds),
        "lowest_seconds": min(seconds),
        "memory_with_data": before + max(row["peak_memory_above_data"] for row in rows),
        "goal": {"seconds": GOAL_SECONDS, "bytes": GOAL_MEMORY},
        "turns": rows,
    }
    report["met"] = report["median_seconds"] < GOAL_SECONDS and report["memory_with_data"] < GOAL_MEMORY
    if arguments.json:
        print(json.dumps(report, indent=2))
        return
    print(f"{report['machine']} {report['size']}")
    for row in rows:
        print(
            f"{row['seconds']:6.1f} s  ({row['cpu_seconds']:.1f} s of all cores, load {row['load']:.1f}; one fit "
            f"{row['single_fit_seconds']:.2f} s; {row['peak_memory_above_data'] / 1e6:.0f} MB above the data)"
        )
    print(
        f"median {report['median_seconds']:.1f} s (goal {GOAL_SECONDS:.0f}), process at most "
        f"{report['memory_with_data'] / 1e9:.2f} GB (goal {GOAL_MEMORY / 1e9:.0f}): "
        f"{'met' if report['met'] else 'NOT met'}"
    )


if __name__ == "__main__":
    main()
