"""Every class, built small and examined: what `docs/architectures.md` says, and what the tests hold it to.

    PYTHONPATH=tests python -m architectures            # write the page again
    PYTHONPATH=tests python -m architectures llava git  # examine these model types and print what is found

Classes are those that transformers registers, so one that a newer transformers adds is examined without a change here.
"""

from __future__ import annotations

import contextlib
import re
import textwrap
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import transformers as tr
from transformers.models.auto import modeling_auto as auto

from modalnet.errors import InputError

from .checks import CHECKS as GENERAL, Bench, repeats
from .edge_checks import EDGE_CHECKS
from .pass_checks import PASS_CHECKS
from .real import NoProcessorError
from .small import NotBuiltError, Small, build, with_processor
from .space_checks import SPACE_CHECKS
from .token_checks import TOKEN_CHECKS

PAGE = Path(__file__).parents[2] / "docs" / "architectures.md"
IMAGE_TEXT = "Images and text to text"
TEXT = "Text"
CHECKS = GENERAL | TOKEN_CHECKS | PASS_CHECKS | SPACE_CHECKS | EDGE_CHECKS
COMMAND = "PYTHONPATH=tests python -m architectures"

INTRO = """# Architectures

Which models of transformers {version} modalnet reads, lesions and lets write. {good} of the {all} types that read
images and texts pass every check.

This page is generated. A small model with random weights is built from each config class, and modalnet is compared
with plain transformers and torch hooks on the same inputs:

{checks}

A check that a row does not name does not apply to the class; where that is not plain, the last column says why.
Failures and their reasons are in bold. *Pictures* of odd sizes go through the processor of the class, or, where it
cannot be made without a checkpoint or torchvision, as tensors of the shape that the class takes. Classes for images
alone are the transformers among those that cut a picture into patches.

To write it again, after a change or with a newer transformers: `{command}`."""


@dataclass(frozen=True)
class Case:
    """A class of transformers.

    Attributes
    ----------
    group
        Heading on the page.
    kind
        Model type, as configs name it.
    name
        Of the class.
    """

    group: str
    kind: str
    name: str

    def __str__(self) -> str:
        return f"{self.kind} {self.name}"

    @property
    def start(self) -> str:
        """What its row on the page begins with."""
        return f"| `{self.kind}` | {self.name} |"


@dataclass(frozen=True)
class Outcome:
    """What was found.

    Attributes
    ----------
    case
        The class.
    towers
        Its towers and their blocks; empty where it was not built.
    real
        Whether pictures went through the processor of transformers; None for a class that takes none.
    passed
        Names of checks that passed.
    notes
        What is worth saying of a class that passes.
    problems
        Why it was not built, or which checks failed.
    """

    case: Case
    towers: tuple[str, ...] = ()
    real: bool | None = None
    passed: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    problems: tuple[str, ...] = ()

    @property
    def row(self) -> str:
        """Its row on the page."""
        pictures = {True: "its processor", False: "tensors", None: ""}[self.real] if self.towers else ""
        said = "<br>".join([*(f"**{problem}**" for problem in self.problems), *self.notes])
        cells = ("<br>".join(self.towers), pictures, ", ".join(self.passed), said)
        return f"{self.case.start} {' | '.join(cells)} |"


@cache
def cases() -> tuple[Case, ...]:
    """Every type that reads images and text, then the other classes, each once."""
    alone = {kind: name for kind, name in auto.MODEL_MAPPING_NAMES.items() if kind.endswith("vision_model")}
    patched = {
        kind: name
        for kind, name in (auto.MODEL_FOR_IMAGE_MAPPING_NAMES | alone).items()
        if _cuts_into_patches(tr.CONFIG_MAPPING[kind])
    }
    dual = {
        kind: auto.MODEL_MAPPING_NAMES[kind] for kind in auto.MODEL_FOR_ZERO_SHOT_IMAGE_CLASSIFICATION_MAPPING_NAMES
    }
    groups = {
        IMAGE_TEXT: auto.MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES,
        TEXT: auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
        "Text to text, encoder and decoder": auto.MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES,
        "Images": patched,
        "Images beside texts": dual,
    }
    found = [Case(IMAGE_TEXT, kind, name) for kind, name in groups.pop(IMAGE_TEXT).items()]
    for group, names in groups.items():
        seen = {case.name: case for case in found}
        # Several types may share a class; the one that is called like it counts.
        for kind, name in sorted(names.items(), key=lambda pair: not _alike(*pair)):
            one = name if isinstance(name, str) else name[0]
            seen.setdefault(one, Case(group, kind, one))
        found += sorted((case for case in seen.values() if case.group == group), key=lambda case: case.kind)
    return tuple(found)


def _cuts_into_patches(config_class: Any) -> bool:
    """Whether a class is a transformer over the patches of a picture: no convolutional net, no detector, no video."""
    names = set(config_class.__dataclass_fields__)
    return {"patch_size", "hidden_size", "num_hidden_layers"} <= names and not {"num_frames", "tubelet_size"} & names


def _alike(kind: str, name: Any) -> bool:
    return str(name).lower().startswith(re.sub(r"\W|_", "", kind))


def examine(case: Case) -> Outcome:
    """Build a class and run every check on it."""
    try:
        small = _built(case)
    except NotBuiltError as error:
        return Outcome(case, problems=(f"not built: {_plain(error)}",))
    bench = Bench(small)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            found = bench.model.towers.values()
        except InputError as error:
            return Outcome(case, problems=(f"refused: {_plain(error)}",))
        towers = tuple(f"{tower.name}: `{tower.paths[0].rpartition('.')[0]}` ({_kind(tower)})" for tower in found)
        real = small.real if bench.sees else None
        try:
            same = repeats(bench)
        except Exception as error:  # no modalnet in it: transformers itself
            return Outcome(case, towers, real, problems=(f"does not run small: {_plain(error)}",))
        if not same:
            return Outcome(case, towers, real, problems=("its forward draws random numbers: two passes differ",))
        passed, notes, problems = [], [], []
        for name, check in CHECKS.items():
            if name in EDGE_CHECKS and case.group != IMAGE_TEXT:
                continue  # it takes as long as all others together
            try:
                reason = check(bench)
            except Exception as error:  # whatever goes wrong in a class is what is to be found out
                problems.append(f"{name}: {_plain(error)}")
                continue
            if reason is None:
                passed.append(name)
            elif not reason.startswith("no "):
                notes.append(f"{name}: {reason}")
    if small.without:
        notes.append(f"without {', '.join(small.without)}")
    said = tuple(dict.fromkeys([*notes, *bench.notes]))
    return Outcome(case, towers, real, tuple(passed), said, tuple(problems))


def _built(case: Case) -> Small:
    try:
        model_class = getattr(tr, case.name)
        config_class = getattr(model_class, "config_class", None) or tr.CONFIG_MAPPING[case.kind]
    except (KeyError, AttributeError) as error:
        raise NotBuiltError(str(error)) from error
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        # As checkpoints of classes that read in both directions otherwise say when they are to write.
        writes = case.group == TEXT and "is_decoder" in config_class.__dataclass_fields__
        small = build(config_class, model_class, **({"is_decoder": True} if writes else {}))
        if small.processor is not None:
            with contextlib.suppress(NoProcessorError):  # pictures go in as tensors then
                small = with_processor(case.kind, config_class, model_class, small)
    return small


def _kind(tower: Any) -> str:
    """Class of the blocks, several where they differ."""
    return ", ".join(dict.fromkeys(type(block).__name__ for block in tower.blocks))


def _plain(error: BaseException) -> str:
    """The first sentence of an error, as a table can hold it; no numbers that differ between machines."""
    text = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
    text = re.split(r"(?<=[a-z])\. |; ", text)[0].replace("|", "/").rstrip(". ")
    return textwrap.shorten(re.sub(r"\d\S*e[-+]\d+|\d+\.\d+", "…", text), 140, placeholder=" …")


def page(outcomes: list[Outcome]) -> str:
    """The page: a table for each group."""
    own = [outcome for outcome in outcomes if outcome.case.group == IMAGE_TEXT]
    good = sum(not outcome.problems for outcome in own)
    checks = "\n".join(f"- **{name}**: {_sentence(check)}" for name, check in CHECKS.items())
    lines = [INTRO.format(version=tr.__version__, good=good, all=len(own), checks=checks, command=COMMAND)]
    for group in dict.fromkeys(outcome.case.group for outcome in outcomes):
        lines += [
            "",
            f"## {group}",
            "",
            "| type | class | towers: blocks | pictures | passed | |",
            "|---|---|---|---|---|---|",
        ]
        lines += [outcome.row for outcome in outcomes if outcome.case.group == group]
    return "\n".join(lines) + "\n"


def rows() -> Iterator[str]:
    """Rows of the page as it stands."""
    return (line for line in PAGE.read_text(encoding="utf-8").splitlines() if line.startswith("| `"))


def _sentence(check: Any) -> str:
    return (check.__doc__ or "").strip().splitlines()[0]
