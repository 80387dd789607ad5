"""Measure what the bundled model can do on held-out items: ``python -m modalnet.bundled.evaluate``.

The model completes a question greedily, token by token, over its whole vocabulary, up to the full stop; an answer is
correct when every word of it is. Three controls use the same items: always giving the most frequent answer
(*chance*), the same architecture with random weights, and the model without the picture. The last two choose only
among the words that occur in the answers to that kind of question, which favours them. A minimal pair is correct when
the grammatical sentence has the higher log-probability (Warstadt et al. 2020); its chance level is 0.5.
"""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import typer

from modalnet.bundled.items import ABILITIES, N_ITEMS, Item, items, pairs
from modalnet.bundled.minimal_pairs import PHENOMENA

if TYPE_CHECKING:
    import pandas as pd

    from modalnet.model import Model

# The accuracy that a released model must reach. Anaphor agreement is reported only: it depends on number and gender at
# once, which the model has not learned for all nouns and names.
REQUIRED = {
    "colour": 0.95,
    "shape": 0.95,
    "count": 0.95,
    "position": 0.95,
    "category": 0.95,
    "reading": 0.90,
    "sums": 0.90,
    "comparisons": 0.90,
    **{name: 0.90 for name in PHENOMENA if name != "anaphor agreement"},
}
MAX_ANSWER_TOKENS = 3


def answers(
    model: Model, items: Sequence[Item], *, image: bool = True, among: Sequence[str] | None = None
) -> list[str]:
    """Answer questions greedily, up to the full stop.

    Parameters
    ----------
    model
        The bundled model, or another one with its tokenizer.
    items
        The questions.
    image
        Show the pictures, for items that have one.
    among
        Restrict the choice to the words of these answers; None allows the whole vocabulary.

    Returns
    -------
    list of str
        One answer per item, at most three words long.
    """
    from modalnet.stimuli import Stimulus

    stop = model.tokenizer.convert_tokens_to_ids(".")
    allowed = None
    if among is not None:
        words = {word for answer in among for word in answer.split()}
        allowed = [stop, *model.tokenizer.convert_tokens_to_ids(sorted(words))]
    written: list[list[str]] = [[] for _ in items]
    unfinished = list(range(len(items)))
    for step in range(MAX_ANSWER_TOKENS):
        stimuli = [
            Stimulus(" ".join([items[i].text, *written[i]]), image=items[i].image if image else None)
            for i in unfinished
        ]
        logits = model.run(stimuli, read=[], logits="last").logits
        if allowed is not None:
            # An answer has at least one word.
            choices = allowed[1:] if step == 0 else allowed
            chosen = [choices[index] for index in logits[:, choices].argmax(-1).tolist()]
        else:
            chosen = logits.argmax(-1).tolist()
        for i, token in zip(unfinished, chosen, strict=True):
            if token != stop:
                written[i].append(model.tokenizer.convert_ids_to_tokens(token))
        unfinished = [i for i, token in zip(unfinished, chosen, strict=True) if token != stop]
        if not unfinished:
            break
    return [" ".join(words) for words in written]


def answered(
    model: Model, items: Sequence[Item], *, image: bool = True, among: Sequence[str] | None = None
) -> list[bool]:
    """Whether :func:`answers` gives each item's own answer.

    A greedy answer is the right one where each of its words, and the full stop, is the likeliest after those before it:
    one pass over question and answer tells.

    Parameters
    ----------
    model, items, image, among
        As for :func:`answers`.

    Returns
    -------
    list of bool
        One per item.
    """
    import torch

    from modalnet.stimuli import Stimulus

    stop = model.tokenizer.convert_tokens_to_ids(".")
    forbidden = torch.zeros(len(model.tokenizer), dtype=torch.bool)
    if among is not None:
        words = {word for answer in among for word in answer.split()}
        forbidden[:] = True
        forbidden[[stop, *model.tokenizer.convert_tokens_to_ids(sorted(words))]] = False
    stimuli = [Stimulus(f"{item.text} {item.answer}", image=item.image if image else None) for item in items]
    right = []
    for item, every in zip(items, model.run(stimuli, read=[], logits="all").logits, strict=True):
        expected = [*model.tokenizer.convert_tokens_to_ids(item.answer.split()), stop]
        logits = every[-len(expected) :].masked_fill(forbidden, -torch.inf)
        if among is not None:
            logits[0, stop] = -torch.inf  # an answer has at least one word
        right.append(logits.argmax(-1).tolist()[:MAX_ANSWER_TOKENS] == expected[:MAX_ANSWER_TOKENS])
    return right


def prefers_grammatical(model: Model, pairs: Sequence[tuple[str, str]]) -> list[bool]:
    """Whether the grammatical sentence of each pair has the higher log-probability, summed over its tokens."""
    scores = log_probabilities(model, [sentence for pair in pairs for sentence in pair])
    return [bool(good > bad) for good, bad in zip(scores[::2], scores[1::2], strict=True)]


def log_probabilities(model: Model, sentences: Sequence[str]) -> list[float]:
    """Natural-log probability of each sentence given the start token."""
    import torch

    totals = []
    for sentence, logits in zip(sentences, model.run(list(sentences), read=[], logits="all").logits, strict=True):
        tokens = torch.tensor(model.tokenizer(sentence)["input_ids"])
        logp = torch.log_softmax(logits[:-1].double(), dim=-1)
        totals.append(float(logp.gather(1, tokens[1:, None]).sum()))
    return totals


def evaluate(model: Model, random: Model | None = None, n: int = N_ITEMS, progress: bool = True) -> pd.DataFrame:
    """Measure every ability.

    Parameters
    ----------
    model
        The bundled model, or another one with its tokenizer.
    random
        The same architecture with random weights; None omits this control.
    n
        Items per ability.
    progress
        Show a progress bar.

    Returns
    -------
    pandas.DataFrame
        One row per ability: ``ability``, ``n``, ``accuracy``, ``required`` (NaN where no accuracy is required),
        ``chance``, ``random weights`` and ``no picture`` (NaN where the control does not apply).
    """
    import pandas as pd
    from tqdm import tqdm

    rows = []
    for name in tqdm([*ABILITIES, *PHENOMENA], disable=not progress, unit="ability"):
        measured = _minimal_pairs(model, random, name, n) if name in PHENOMENA else _ability(model, random, name, n)
        rows.append({"ability": name, "n": n, "required": REQUIRED.get(name, np.nan), **measured})
    columns = ["ability", "n", "accuracy", "required", "chance", "random weights", "no picture"]
    return pd.DataFrame(rows)[columns]


def _minimal_pairs(model: Model, random: Model | None, phenomenon: str, n: int) -> dict[str, float]:
    drawn = pairs(phenomenon, n)
    return {
        "accuracy": float(np.mean(prefers_grammatical(model, drawn))),
        "chance": 0.5,
        "random weights": float(np.mean(prefers_grammatical(random, drawn))) if random else np.nan,
        "no picture": np.nan,
    }


def _ability(model: Model, random: Model | None, ability: str, n: int) -> dict[str, float]:
    drawn = items(ability, n)
    correct = [item.answer for item in drawn]
    possible = sorted(set(correct))

    def accuracy(model: Model, **options: Any) -> float:
        return float(np.mean(answered(model, drawn, **options)))

    has_picture = drawn[0].image is not None
    return {
        "accuracy": accuracy(model),
        "chance": Counter(correct).most_common(1)[0][1] / n,
        "random weights": accuracy(random, among=possible) if random else np.nan,
        "no picture": accuracy(model, image=False, among=possible) if has_picture else np.nan,
    }


def card_table(table: pd.DataFrame) -> str:
    """Format the table of :func:`evaluate` as Markdown, for a model card."""
    shown = table.drop(columns="required").map(lambda value: f"{value:.3f}" if isinstance(value, float) else str(value))
    lines = [list(shown.columns), ["---"] * len(shown.columns), *shown.replace("nan", "").to_numpy().tolist()]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def main(
    model: Annotated[
        str, typer.Argument(help="A folder written by training, or 'tiny' for the bundled model.")
    ] = "tiny",
    *,
    n: Annotated[int, typer.Option(help="Items per ability.")] = N_ITEMS,
    out: Annotated[Path | None, typer.Option(help="Folder for evaluation.json and evaluation.md.")] = None,
) -> None:
    """Measure the bundled model beside its controls; exit with status 1 if it misses a required accuracy."""
    from modalnet.model import load

    trained = load(model)
    table = evaluate(trained, load(model, untrained=1), n)
    print(table.to_string(index=False, float_format="%.3f", na_rep=""))
    if out is not None:
        figures = {str(row["ability"]): round(float(row["accuracy"]), 3) for _, row in table.iterrows()}
        out.mkdir(parents=True, exist_ok=True)
        (out / "evaluation.json").write_text(json.dumps(figures, indent=2) + "\n")
        (out / "evaluation.md").write_text(card_table(table) + "\n")
    missed = table[table["accuracy"] < table["required"]]
    if len(missed):
        print(f"below the required accuracy: {', '.join(missed['ability'])}", file=sys.stderr)
        raise SystemExit(1)


if __name__ == "__main__":
    typer.run(main)
