"""Tasks as the command line names them: a kind, and where that kind needs one, a path after a colon."""

from __future__ import annotations

from pathlib import Path

from modalnet.errors import InputError
from modalnet.tasks.base import Task
from modalnet.tasks.examples import bundled, default
from modalnet.tasks.pairs import minimal_pairs
from modalnet.tasks.reasoning import theory_of_mind
from modalnet.tasks.suites import syntaxgym
from modalnet.tasks.texts import perplexity

WITH_PATH = ("pairs", "blimp", "syntaxgym", "perplexity")


def parse(text: str, n: int | None = None, seed: int = 0) -> list[Task]:
    """Make the tasks that a string such as ``"grammar,arithmetic,blimp:data/blimp"`` names.

    Parameters
    ----------
    text
        Names separated by commas: ``default``, ``theory-of-mind``, a name of :func:`modalnet.tasks.bundled`,
        ``blimp:FOLDER`` or ``pairs:FILE`` (minimal pairs), ``syntaxgym:FOLDER`` or ``perplexity:FILE``.
    n
        Items of each bundled task and suite, and pairs of each file of minimal pairs; None for the default of each. A
        text for perplexity is always read whole.
    seed
        Of what is drawn.

    Raises
    ------
    InputError
        For an unknown name, a path that is missing, or whatever the reader of that kind raises.
    """
    found: list[Task] = []
    if n is not None and all(part.strip().startswith("perplexity") for part in text.split(",")):
        raise InputError(f"A text for perplexity is always read whole; leave the number of items out, got {n}.")
    for part in (part.strip() for part in text.split(",")):
        kind, _, path = part.partition(":")
        kind = kind.replace("_", "-")
        if kind in WITH_PATH:
            if not path:
                raise InputError(f"The task {kind} needs a path, such as {kind}:data/{kind}.")
            found.append(_read(kind, path, n, seed))
        elif kind == "default":
            found += default(seed=seed) if n is None else default(n=n, seed=seed)
        elif kind == "theory-of-mind":
            found.append(theory_of_mind(n=n, seed=seed))
        else:
            made = bundled(seed=seed) if n is None else bundled(n=n, seed=seed)
            if kind not in made:
                known = ["default", "theory-of-mind", *made, *(f"{one}:PATH" for one in WITH_PATH)]
                raise InputError(f"There is no task {part!r}. Known are {', '.join(known)}.")
            found.append(made[kind])
    return found


def _read(kind: str, path: str, n: int | None, seed: int) -> Task:
    if kind == "syntaxgym":
        return syntaxgym(path, n=n, seed=seed)
    if kind == "perplexity":
        return perplexity(Path(path))
    return minimal_pairs(path, name="blimp" if kind == "blimp" else None, n=n, seed=seed)
