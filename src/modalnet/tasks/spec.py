"""Task specifications of the command line: a kind, and a path after a colon where the kind needs one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from modalnet.errors import InputError
from modalnet.tasks.agreement import agreement
from modalnet.tasks.base import Task
from modalnet.tasks.examples import bundled, default
from modalnet.tasks.lexical_decision import lexical_decision
from modalnet.tasks.minimal_pairs import minimal_pairs
from modalnet.tasks.mmtomqa import mmtomqa
from modalnet.tasks.perplexity import perplexity
from modalnet.tasks.reasoning import theory_of_mind
from modalnet.tasks.sentence_pictures import sentence_pictures
from modalnet.tasks.syntaxgym import syntaxgym
from modalnet.tasks.word_problems import incentive_choice, word_problems

WITH_PATH = ("pairs", "blimp", "syntaxgym", "perplexity", "mmtomqa")
WITHOUT_PATH: dict[str, Callable[..., Task]] = {
    "theory-of-mind": theory_of_mind,
    "agreement": agreement,
    "word-problems": word_problems,
    "incentive-choice": incentive_choice,
    "lexical-decision": lexical_decision,
    "sentence-pictures": sentence_pictures,
}


def parse(spec: str, n: int | None = None, seed: int = 0) -> list[Task]:
    """Make the tasks of a specification such as ``"grammar,arithmetic,blimp:data/blimp"``.

    Parameters
    ----------
    spec
        Names separated by commas: ``default``, ``theory-of-mind``, ``agreement``, ``word-problems``,
        ``incentive-choice``, ``lexical-decision``, ``sentence-pictures``, a name of :func:`modalnet.tasks.bundled`,
        ``blimp:FOLDER`` or ``pairs:FILE`` (minimal pairs), ``syntaxgym:FOLDER``, ``mmtomqa:FILE`` or
        ``perplexity:FILE``.
    n
        Number of items per bundled task, per suite, per question type of MMToM-QA and per file of minimal pairs; None
        for the default of each.
        Perplexity always uses the whole text.
    seed
        Seed of the draws.

    Raises
    ------
    InputError
        A name is unknown, a path is missing, ``n`` is given for perplexity alone, or as the reader of that kind raises.
    """
    tasks: list[Task] = []
    parts = [part.strip() for part in spec.split(",")]
    if n is not None and all(part.startswith("perplexity") for part in parts):
        raise InputError(f"Perplexity uses the whole text; omit the number of items, got {n}.")
    for part in parts:
        kind, _, path = part.partition(":")
        kind = kind.replace("_", "-")
        if kind in WITH_PATH:
            if not path:
                raise InputError(f"The task {kind} needs a path, such as {kind}:data/{kind}.")
            tasks.append(_read(kind, path, n, seed))
        elif kind == "default":
            tasks += default(seed=seed) if n is None else default(n=n, seed=seed)
        elif kind in WITHOUT_PATH:
            make = WITHOUT_PATH[kind]
            tasks.append(make(seed=seed) if n is None else make(n=n, seed=seed))
        else:
            available = bundled(seed=seed) if n is None else bundled(n=n, seed=seed)
            if kind not in available:
                known = ["default", *WITHOUT_PATH, *available, *(f"{kind}:PATH" for kind in WITH_PATH)]
                raise InputError(f"Unknown task {part!r}. Known tasks: {', '.join(known)}.")
            tasks.append(available[kind])
    return tasks


def _read(kind: str, path: str, n: int | None, seed: int) -> Task:
    if kind == "syntaxgym":
        return syntaxgym(path, n=n, seed=seed)
    if kind == "mmtomqa":
        return mmtomqa(path, n=n, seed=seed)
    if kind == "perplexity":
        return perplexity(Path(path))
    return minimal_pairs(path, name="blimp" if kind == "blimp" else None, n=n, seed=seed)
