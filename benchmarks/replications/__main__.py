"""Published localizers on real models, as published and refereed.

    python -m benchmarks.replications --out results [--only gemma:syntax2026 ...]

Every replication is one call of :func:`modalnet.replicate`; what is done is kept in the store, so that the same command
goes on where it was stopped. Free sets are read from the folder of the real data (``MODALNET_TEST_ASSETS``), the others
are generated; every report says which. The folder gets one page for each replication, and ``RESULTS.md``, protocol by
protocol.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

from benchmarks.study import joined
from benchmarks.study.material import asset

import modalnet as mn
from modalnet.replication import Replication

#: Stimuli of each condition, items of each task, and random units of each kind.
STIMULI, ITEMS, CONTROLS = 120, 40, 20
OPERATIONS = ("zero", "mean")
#: Of language models, where every lesion takes a core up to half a minute. As published the same units are zeroed.
FEWER = {"operations": ["mean"]}


@dataclass(frozen=True)
class Subject:
    """A model, and the protocols that apply to it with the sets that are read or given."""

    load: Callable[[], mn.Model]
    protocols: Mapping[str, dict[str, Any]]


def texts() -> dict[str, dict[str, Any]]:
    """Protocols of texts, with the free sets."""
    pairs = asset("multiblimp_sv") / "eng.csv"
    reported = {"reported_numbers": asset("reported_numbers")}
    return {
        "alkhamissi2025": {"data": {"language": asset("fedorenko2010"), "BLiMP": asset("blimp")}},
        "brainscore2025": {"data": {"language": asset("fedorenko2010")}},
        "syntax2026": {"data": {"agreement": pairs, "agreement pairs": pairs, **reported}},
        "tom2026": {"n_stimuli": 24, "data": {**reported}},
        "anhedonia2026": {"n_stimuli": 40},
    }


def pictures() -> dict[str, dict[str, Any]]:
    """Protocols of pictures; the questions are those that these models know how to answer."""
    questions = mn.tasks.bundled(n=ITEMS)["colour"]
    return {
        "topoomni2026": {"n_stimuli": 24},
        "dyslexia2026": {"n_stimuli": 24},
        "knockout2025": {"data": {"visual questions": questions}},
    }


def fewer(protocols: Mapping[str, dict[str, Any]], *, but: str = "", **options: Any) -> dict[str, dict[str, Any]]:
    """The protocols with one ablation under controls, and other options, but for one of them."""
    return {name: given if name == but else given | FEWER | options for name, given in protocols.items()}


SUBJECTS: dict[str, Callable[[], Subject]] = {
    "gemma": lambda: Subject(lambda: mn.load(str(asset("gemma"))), fewer(texts(), but="syntax2026")),
    "qwen": lambda: Subject(lambda: mn.load(str(asset("qwen"))), fewer(texts(), n_items=ITEMS // 2)),
    "tiny": lambda: Subject(lambda: mn.load("tiny"), texts() | pictures()),
    "joined": lambda: Subject(lambda: joined.load(asset("dinov2"), asset("gemma")), pictures()),
}


def replicated(name: str, model: mn.Model, protocol: str, options: Mapping[str, Any], out: Path) -> Replication:
    """One replication, with its page and tables."""
    settings: dict[str, Any] = {"n_stimuli": STIMULI, "n_items": ITEMS, "n_controls": CONTROLS}
    settings |= {"operations": list(OPERATIONS), "cache": out / "store"}
    made = mn.replicate(model, protocol, **settings | dict(options))
    made.save(out / f"{name}-{protocol}.safetensors")
    made.report(out / f"{name}-{protocol}.html")
    return made


def overview(folder: Path) -> str:
    """All replications of a folder, protocol by protocol: every claim on every model, and what was asked."""
    found: dict[str, dict[str, Replication]] = {}
    for name in SUBJECTS:
        for path in sorted(folder.glob(f"{name}-*.safetensors")):
            made = Replication.load(path)
            found.setdefault(made.id, {})[name] = made
    lines = [HEADING.format(stimuli=STIMULI, items=ITEMS, controls=CONTROLS, operations=" and ".join(OPERATIONS))]
    for protocol in mn.protocols:
        if protocol in found:
            lines += section(protocol, found[protocol])
    left = [
        f"{name}: {', '.join(missing)}"
        for name, subject in SUBJECTS.items()
        if (missing := [protocol for protocol in subject().protocols if name not in found.get(protocol, {})])
    ]
    lines += ["## Not run yet", "", "; ".join(left) + "."] if left else []
    return "\n".join(lines) + "\n"


HEADING = """# Published localizers, replicated

Written by `python -m benchmarks.replications`, which says what is read and what is generated, and goes on where it was
stopped. At most {stimuli} stimuli of each condition, {items} items of each task, {controls} random sets of units of
each kind, ablations {operations} (on Gemma and Qwen *mean* alone, but for syntax2026 on Gemma; half of the items on
Qwen). Few items make intervals wide: *no measurable effect* and *cannot be tested* are verdicts. None of these models
is one that the publications used: what fails here need not fail there. The pages beside this file have every number.
"""


def section(protocol: str, models: Mapping[str, Replication]) -> list[str]:
    """One protocol on all models."""
    about = next(iter(models.values())).about
    lines = [f"## {protocol}: {about['title']}", "", str(about["citation"]), ""]
    lines += ["| model | network | units |", "|---|---|---|"]
    for name, one in models.items():
        pages = f"[{name}]({name}-{protocol}.html)"
        lines += [
            f"| {pages} | {network} | {known['units']:,}{known.get('note', '')} of {known['of']} |"
            for network, known in one.networks.items()
        ] or [f"| {pages} | attention edges | |"]
    for claim in dict.fromkeys(claim.claim for one in models.values() for claim in one.claims):
        lines += ["", f"**{claim}**", "", "| model | as published | refereed | notes |", "|---|---|---|---|"]
        for name, one in models.items():
            for judged in (each for each in one.claims if each.claim == claim):
                numbers = f": {judged.published_numbers}" if judged.published_numbers else ""
                cells = [name, f"{judged.published}{numbers}", judged.sentence, " ".join(judged.reasons)]
                lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    if not any(one.claims for one in models.values()):
        lines += ["", "It claims nothing that is judged."]
    used = {
        f"{each.kind} {each.name}: {each.used}" + (f" ({each.differs})" if each.differs else "")
        for one in models.values()
        for each in one.materials
    }
    left_out = {f"{name}, {what}: {why}" for name, one in models.items() for what, why in one.missing.items()}
    lines += ["", "Used: " + "; ".join(sorted(used)) + "."]
    lines += ["", "Not run: " + "; ".join(sorted(left_out)) + "."] if left_out else []
    return [*lines, ""]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("results"), help="folder of pages, results and the store")
    parser.add_argument("--only", nargs="*", default=[], metavar="MODEL[:PROTOCOL]", help="by default all")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    wanted = [(one.partition(":")[0], one.partition(":")[2]) for one in arguments.only]
    for name, subject in SUBJECTS.items():
        if wanted and name not in {model for model, _ in wanted}:
            continue
        of = subject()
        model = of.load()
        for protocol, options in of.protocols.items():
            if wanted and not {(name, ""), (name, protocol)} & set(wanted):
                continue
            started = time.process_time()
            made = replicated(name, model, protocol, options, arguments.out)
            print(f"{made.summary()}\n  {time.process_time() - started:.0f} CPU s\n", flush=True)
            (arguments.out / "RESULTS.md").write_text(overview(arguments.out), encoding="utf-8")


if __name__ == "__main__":
    main()
