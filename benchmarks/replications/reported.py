"""What the published accuracies of two lesion protocols support, by the rules of modalnet.replication.reported.

    python benchmarks/replications/reported.py FOLDER            tables in Markdown
    python benchmarks/replications/reported.py FOLDER --sentences  every verdict in words

FOLDER holds tom2026_vlm_accuracies.csv, syntax2026_blimp_ablation.csv and syntax2026_cross_validation.csv.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path

import pandas as pd

from modalnet.replication.reported import ReportedLesion, reported_verdicts
from modalnet.replication.reported_tables import SharedUnits, read_reported, read_shared_units
from modalnet.stats.resampling import t_interval

VERDICTS = ("survives", "does not survive", "no measurable effect", "cannot be tested")


def below_t_interval(lesion: ReportedLesion) -> str:
    """The criterion of arXiv:2508.08276: the lesion lies below the t interval of the mean of the random draws."""
    if lesion.mean_of or not lesion.n_draws:
        return ""
    low, _ = t_interval(lesion.draws.mean(axis=0))
    return "yes" if lesion.lesioned.mean() < low else "no"


def lines_of(table: pd.DataFrame) -> Iterator[str]:
    """One row per lesion that has random units to be compared with."""
    yield "| lesion | intact | lesioned | random | drop | p | p, random cost more | draws as bad | below t | verdict |"
    yield "|---|---|---|---|---|---|---|---|---|---|"
    for row in table[table["n_draws"] > 0].to_dict("records"):
        reaching = f"{row['reaching']} of {row['n_draws']}" if row["reaching"] >= 0 else f"mean of {row['n_draws']}"
        numbers = " | ".join(f"{row[name]:.3f}" for name in ("intact", "lesioned", "random"))
        drop = f"{row['drop']:.3f} [{row['drop_low']:.3f}, {row['drop_high']:.3f}]"
        tests = f"{row['p']:.3f} | {row['p_other']:.3f}"
        yield f"| {row['name']} | {numbers} | {drop} | {tests} | {reaching} | {row['below_t']} | {row['verdict']} |"


def shared_lines(found: Sequence[SharedUnits]) -> Iterator[str]:
    """One row per model, size and number of folds."""
    yield "| model, size, folds | shared | shuffled labels | excess | p | verdict |"
    yield "|---|---|---|---|---|---|"
    for one in found:
        excess = f"{one.excess:.3f} [{one.low:.3f}, {one.high:.3f}]"
        yield f"| {one.name} | {one.share:.3f} | {one.control:.3f} | {excess} | {one.p:.4f} | {one.verdict} |"


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--sentences", action="store_true", help="every verdict in words")
    options = parser.parse_args(arguments)
    lesions = read_reported(options.folder)
    table = reported_verdicts(lesions)
    table["below_t"] = [below_t_interval(lesion) for lesion in lesions]
    shared = read_shared_units(options.folder)
    if options.sentences:
        print("\n".join([*table["sentence"], *(one.sentence for one in shared)]))
        return
    is_blimp = table["name"].str.contains(" on BLiMP, ")
    for title, part in (("Vision-language models", table[~is_blimp]), ("BLiMP", table[is_blimp])):
        counts = ", ".join(f"{verdict} {(part['verdict'] == verdict).sum()}" for verdict in VERDICTS)
        print(f"## {title}\n\n{len(part)} lesions: {counts}.\n")
        print("\n".join(lines_of(part)), "\n")
        several = part[part["p_normal_draws"].notna()].drop_duplicates(["random", "n_draws"])
        if len(several):
            wrong = (several["p_normal_draws"] <= 0.05).sum()
            print(f"Sets of draws that are not normal (Shapiro-Wilk, p <= 0.05): {wrong} of {len(several)}.\n")
    print("## Units shared over folds\n")
    print("\n".join(shared_lines(shared)))


if __name__ == "__main__":
    main()
