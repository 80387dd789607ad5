"""Error rates of the verdicts, tests and intervals of modalnet under simulated data; see README.md beside this file.

    python benchmarks/calibration.py              every line, a table
    python benchmarks/calibration.py --short      few simulations, under a minute on one core
    python benchmarks/calibration.py --scale 0.3  that share of the simulations
    python benchmarks/calibration.py --json       a list of rows
    python benchmarks/calibration.py --worst      one line per test or interval, the worst of its settings
    python benchmarks/calibration.py --only rank  the functions whose name contains this
    python benchmarks/calibration.py --strict     fails where a test is miscalibrated beyond what chance explains

Progress goes to the error stream.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

os.environ.setdefault("OMP_NUM_THREADS", "1")  # as many processes as cores, and not threads as well

import numpy as np

# Each registers its quantities.
from simulated import brains, designs, flows, lesions, networks, patches, profiles, reported, stats  # noqa: F401
from simulated.quantity import COVERS, EFFECT, FEWEST, NULL, QUANTITIES, SHORT, Row

MOST, LEAST = 0.06, 0.93  # a false positive rate above, or a coverage below, is a miscalibration
CHANCE = 1e-4  # fails with --strict: a rate that a calibrated test would show once in ten thousand times
COLUMNS = ("name", "nominal", NULL, COVERS, EFFECT, "simulations")


def measured(index: int, label: str, simulations: int) -> list[Row]:
    """The lines of one setting of a quantity; the time it took goes to the error stream."""
    start = time.perf_counter()
    rows = QUANTITIES[index].rows(label, simulations)
    took = time.perf_counter() - start
    print(f"{took:6.1f} s  {QUANTITIES[index].measure.__name__}  {label}", file=sys.stderr, flush=True)
    return rows


def calibration(*, scale: float = 1.0, only: str = "", jobs: int = 1) -> list[Row]:
    """Measure the registered quantities.

    Parameters
    ----------
    scale
        The share of the simulations of a full run; each line has at least ten.
    only
        A part of the name of a function; empty for all.
    jobs
        Number of processes. The numbers do not depend on it.
    """
    work = []
    for index, one in enumerate(QUANTITIES):
        if only in one.measure.__name__:
            simulations = max(FEWEST, round(scale * one.simulations))
            work += [(index, label, simulations) for label in one.settings]
    if jobs == 1:
        found = [measured(*one) for one in work]
    else:
        with ProcessPoolExecutor(jobs, mp_context=get_context("spawn")) as pool:
            found = list(pool.map(measured, *zip(*work, strict=True)))
    return sorted((row for rows in found for row in rows), key=_name)


def miscalibrated(row: Row) -> bool:
    """Whether a false positive rate is above, or a coverage below, what is promised; as measured."""
    rate, coverage = row["false_positive_rate"], row["coverage"]
    return (rate is not None and rate > MOST) or (coverage is not None and coverage < LEAST)


def beyond_chance(rows: Sequence[Row]) -> list[str]:
    """The names whose rate or coverage over all of their settings is worse than chance explains."""
    from scipy.stats import binom

    found = []
    for name in dict.fromkeys(map(_name, rows)):
        some = [row for row in rows if _name(row) == name]
        for column, limit in ((NULL, MOST), (COVERS, LEAST)):
            counted = [(row[column], row["simulations"]) for row in some if row[column] is not None]
            n = sum(simulations for _, simulations in counted)
            if not n:
                continue
            count = round(sum(rate * simulations for rate, simulations in counted))
            p = binom.sf(count - 1, n, limit) if column == NULL else binom.cdf(count, n, limit)
            if p < CHANCE:
                found.append(f"{name}: {column} {count / n:.3f} over {n} simulations")
    return found


def table(rows: Sequence[Row]) -> str:
    """The rows as a Markdown table; a miscalibrated one is marked by ``!``."""
    lines = ["| | nominal | false positives | coverage | power | simulations |", "|---|---|---|---|---|---|"]
    for row in rows:
        numbers = [row["false_positive_rate"], row["coverage"], row["power"]]
        shown = ["" if one is None else f"{one:.3f}" for one in numbers]
        mark = " **!**" if miscalibrated(row) else ""
        lines.append(f"| {row['name']}{mark} | {row['nominal']} | {' | '.join(shown)} | {row['simulations']} |")
    return "\n".join(lines)


def worst(rows: Sequence[Row]) -> str:
    """One line per name as a Markdown table: the worst rate and coverage over settings, and where they occur."""
    lines = ["| | lines with ! | highest false positive rate | lowest coverage | power |", "|---|---|---|---|---|"]
    for name in dict.fromkeys(map(_name, rows)):
        some = [row for row in rows if _name(row) == name]
        rates = [(one["false_positive_rate"], one["name"]) for one in some if one["false_positive_rate"] is not None]
        covered = [(one["coverage"], one["name"]) for one in some if one["coverage"] is not None]
        powers = [one["power"] for one in some if one["power"] is not None]
        cells = [_at(max(rates)) if rates else "", _at(min(covered)) if covered else ""]
        cells += [f"{min(powers):.2f}..{max(powers):.2f}" if powers else ""]
        lines.append(f"| {name} | {sum(map(miscalibrated, some))} of {len(some)} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _name(row: Row) -> str:
    return row["name"].split(" (")[0]


def _at(found: tuple[float, str]) -> str:
    setting = found[1].partition(" (")[2].removesuffix(")")
    return f"{found[0]:.3f} ({setting})" if setting else f"{found[0]:.3f}"


def main(arguments: Sequence[str] | None = None) -> None:
    """Read the command line, and print the table or the rows."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--short", action="store_true", help="few simulations")
    parser.add_argument("--scale", type=float, default=1.0, help="the share of the simulations of a full run")
    parser.add_argument("--json", action="store_true", help="print the rows as JSON")
    parser.add_argument("--worst", action="store_true", help="one line per name: the worst of its settings")
    parser.add_argument("--strict", action="store_true", help="fail where a rate is beyond what chance explains")
    parser.add_argument("--only", default="", metavar="PART", help="functions whose name contains this")
    parser.add_argument("--jobs", type=int, help="processes (default: 2 cores at most, one with --short)")
    options = parser.parse_args(arguments)
    jobs = options.jobs or (1 if options.short else min(2, os.cpu_count() or 1))
    rows = calibration(scale=SHORT if options.short else options.scale, only=options.only, jobs=jobs)
    wrong = beyond_chance(rows) if options.strict else []
    if options.json:
        print(json.dumps(rows, indent=1))
    else:
        _report(rows, short=options.worst)
    if wrong:
        sys.exit("Beyond chance:\n" + "\n".join(wrong))


def _report(rows: Sequence[Row], *, short: bool) -> None:
    """Print the rows, and how certain they are."""
    print(worst(rows) if short else table(rows))
    if rows:
        error = np.sqrt(0.05 * 0.95 / min(row["simulations"] for row in rows))
        beyond = sum(map(miscalibrated, rows))
        print(f"\n{beyond} of {len(rows)} lines (!) have false positives above {MOST} or cover less than {LEAST}.")
        print(f"The standard error of a rate of 0.05 is at most {error:.3f} where one simulation gives one decision.")


if __name__ == "__main__":
    main()
