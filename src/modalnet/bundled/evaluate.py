"""What the bundled model can do, on items that it was never shown: ``python -m modalnet.bundled.evaluate``.

The model continues a question word by word until its full stop, choosing among its whole vocabulary, and the answer
is right when every word is. Beside it stand three controls on the same items: always giving the most frequent answer
(*chance*), the same network with random weights, and the model without the picture. The last two choose only among
the words that some answer to that kind of question has, which is in their favour. A minimal pair is right when the
grammatical sentence has the higher log-probability (Warstadt et al. 2020); its chance is one half.
"""

from __future__ import annotations

import dataclasses
import json
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import typer

from modalnet.bundled import arithmetic, english, scenes

if TYPE_CHECKING:
    import pandas as pd
    from PIL import Image

    from modalnet.model import Model

DRAWN_AT = 64
ITEMS = 200
SEED = 20_000
# What the model is held to. Anaphors are measured only: they go by number and gender at once, which it has not
# learned for all nouns and names.
REQUIRED = {
    "colour": 0.95,
    "shape": 0.95,
    "count": 0.95,
    "position": 0.95,
    "category": 0.95,
    "reading": 0.90,
    "sums": 0.90,
    "comparisons": 0.90,
    **{name: 0.90 for name in english.PHENOMENA if name != "anaphor agreement"},
}
_LONGEST_ANSWER = 3


@dataclasses.dataclass(frozen=True)
class Item:
    """A question with its answer, and the picture it is about, if any."""

    text: str
    answer: str
    image: Image.Image | None = None


def _scene_items(ability: str) -> Callable[[np.random.Generator], Item]:
    def make(rng: np.random.Generator) -> Item:
        shapes, question = scenes.scene_question(rng, ability, test=True)
        return Item(question.text, question.answer, scenes.render(shapes, DRAWN_AT, int(rng.integers(2**31))))

    return make


def _picture_items(ability: str, category: str | None) -> Callable[[np.random.Generator], Item]:
    def make(rng: np.random.Generator) -> Item:
        shown = scenes.picture(rng, test=True, category=category)
        question = next(q for q in scenes.picture_questions(rng, shown) if q.ability == ability)
        return Item(question.text, question.answer, scenes.render(shown, DRAWN_AT, int(rng.integers(2**31))))

    return make


def _described_item(rng: np.random.Generator) -> Item:
    description, question = scenes.described_question(rng, test=True)
    return Item(f"{description} {question.text}", question.answer)


ABILITIES: dict[str, Callable[[np.random.Generator], Item]] = {
    "colour": _scene_items("colour"),
    "shape": _scene_items("shape"),
    "count": _scene_items("count"),
    "position": _scene_items("position"),
    "place": _scene_items("place"),
    "presence": _scene_items("presence"),
    "category": _picture_items("category", None),
    "object": _picture_items("object", "object"),
    "mood": _picture_items("mood", "face"),
    "reading": _picture_items("reading", "word"),
    "described": _described_item,
    "sums": lambda rng: Item(*arithmetic.sum_item(rng, test=True)),
    "comparisons": lambda rng: Item(*arithmetic.comparison_item(rng, test=True)),
}


def items(ability: str, n: int = ITEMS, seed: int = SEED) -> list[Item]:
    """Held-out items of an ability; the same seed gives the same ones.

    Parameters
    ----------
    ability
        A name of ``ABILITIES``.
    n
        How many.
    seed
        Of the draw.
    """
    rng = np.random.default_rng([seed, list(ABILITIES).index(ability)])
    return [ABILITIES[ability](rng) for _ in range(n)]


def pairs(phenomenon: str, n: int = ITEMS, seed: int = SEED) -> list[tuple[str, str]]:
    """Held-out minimal pairs of a phenomenon, all different: (grammatical, ungrammatical)."""
    rng = np.random.default_rng([seed, 1000 + list(english.PHENOMENA).index(phenomenon)])
    made: dict[tuple[str, str], None] = {}
    while len(made) < n:
        made[english.minimal_pair(rng, phenomenon)] = None
    return list(made)


def answers(
    model: Model, asked: Sequence[Item], *, image: bool = True, among: Sequence[str] | None = None
) -> list[str]:
    """What the model answers, greedily, up to the full stop.

    Parameters
    ----------
    model
        The bundled model, or one with its tokenizer.
    asked
        The questions.
    image
        Show the pictures, where there are any.
    among
        Choose only among the words of these answers; None for the whole vocabulary.
    """
    from modalnet.stimuli import Stimulus

    stop = model.tokenizer.convert_tokens_to_ids(".")
    allowed = None
    if among is not None:
        words = {word for answer in among for word in answer.split()}
        allowed = [stop, *model.tokenizer.convert_tokens_to_ids(sorted(words))]
    said: list[list[str]] = [[] for _ in asked]
    going = list(range(len(asked)))
    for place in range(_LONGEST_ANSWER):
        stimuli = [
            Stimulus(" ".join([asked[i].text, *said[i]]), image=asked[i].image if image else None) for i in going
        ]
        logits = model.run(stimuli, read=[], logits="last").logits
        if allowed is not None:
            # An answer has at least one word.
            choices = allowed[1:] if place == 0 else allowed
            chosen = [choices[index] for index in logits[:, choices].argmax(-1).tolist()]
        else:
            chosen = logits.argmax(-1).tolist()
        for i, token in zip(going, chosen, strict=True):
            if token != stop:
                said[i].append(model.tokenizer.convert_ids_to_tokens(token))
        going = [i for i, token in zip(going, chosen, strict=True) if token != stop]
        if not going:
            break
    return [" ".join(words) for words in said]


def prefers_grammatical(model: Model, made: Sequence[tuple[str, str]]) -> list[bool]:
    """Whether the grammatical sentence of each pair has the higher log-probability, summed over its tokens."""
    scores = log_probabilities(model, [sentence for pair in made for sentence in pair])
    return [bool(good > bad) for good, bad in zip(scores[::2], scores[1::2], strict=True)]


def log_probabilities(model: Model, sentences: Sequence[str]) -> list[float]:
    """Natural-log probability of each sentence after the start token."""
    import torch

    totals = []
    for sentence, logits in zip(sentences, model.run(list(sentences), read=[], logits="all").logits, strict=True):
        tokens = torch.tensor(model.tokenizer(sentence)["input_ids"])
        logp = torch.log_softmax(logits[:-1].double(), dim=-1)
        totals.append(float(logp.gather(1, tokens[1:, None]).sum()))
    return totals


def evaluate(model: Model, random: Model | None = None, n: int = ITEMS, progress: bool = True) -> pd.DataFrame:
    """Measure every ability.

    Parameters
    ----------
    model
        The model, with the tokenizer of the bundled one.
    random
        The same network with random weights, or None to leave that control out.
    n
        Items per ability.
    progress
        Show a bar.

    Returns
    -------
    pandas.DataFrame
        One row per ability: ``ability``, ``n``, ``accuracy``, ``required`` (NaN where nothing is), ``chance``,
        ``random weights`` and ``no picture`` (NaN where there is none).
    """
    import pandas as pd
    from tqdm import tqdm

    names = [*ABILITIES, *english.PHENOMENA]
    rows = []
    for name in tqdm(names, disable=not progress, unit="ability"):
        row: dict[str, Any] = {"ability": name, "n": n, "required": REQUIRED.get(name, np.nan)}
        if name in english.PHENOMENA:
            made = pairs(name, n)
            row |= {"accuracy": np.mean(prefers_grammatical(model, made)), "chance": 0.5, "no picture": np.nan}
            row["random weights"] = np.mean(prefers_grammatical(random, made)) if random else np.nan
        else:
            asked = items(name, n)
            wanted = [item.answer for item in asked]
            possible = sorted(set(wanted))

            def share(given: list[str], wanted: list[str] = wanted) -> float:
                return float(np.mean([a == b for a, b in zip(given, wanted, strict=True)]))

            row["accuracy"] = share(answers(model, asked))
            row["chance"] = Counter(wanted).most_common(1)[0][1] / n
            row["random weights"] = share(answers(random, asked, among=possible)) if random else np.nan
            pictured = asked[0].image is not None
            row["no picture"] = share(answers(model, asked, image=False, among=possible)) if pictured else np.nan
        rows.append(row)
    columns = ["ability", "n", "accuracy", "required", "chance", "random weights", "no picture"]
    return pd.DataFrame(rows)[columns]


def card_table(table: pd.DataFrame) -> str:
    """The table as Markdown, for a model card."""
    shown = table.drop(columns="required").map(lambda value: f"{value:.3f}" if isinstance(value, float) else str(value))
    lines = [list(shown.columns), ["---"] * len(shown.columns), *shown.replace("nan", "").to_numpy().tolist()]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def main(
    model: Annotated[str, typer.Argument(help="The model: a folder that training wrote, or the bundled one.")] = "tiny",
    *,
    n: Annotated[int, typer.Option(help="Items per ability.")] = ITEMS,
    out: Annotated[Path | None, typer.Option(help="Folder for evaluation.json and evaluation.md.")] = None,
) -> None:
    """Measure what the bundled model can do, beside its controls; exits with 1 where it falls short."""
    import modalnet as mn
    from modalnet.bundled import network

    trained = mn.load(model)
    processor = trained.processor
    random = mn.load(network.build_model(len(processor.tokenizer), seed=1), processor=processor)
    table = evaluate(trained, random, n)
    print(table.to_string(index=False, float_format="%.3f", na_rep=""))
    if out is not None:
        figures = {str(row["ability"]): round(float(row["accuracy"]), 3) for _, row in table.iterrows()}
        out.mkdir(parents=True, exist_ok=True)
        (out / "evaluation.json").write_text(json.dumps(figures, indent=2) + "\n")
        (out / "evaluation.md").write_text(card_table(table) + "\n")
    short = table[table["accuracy"] < table["required"]]
    if len(short):
        print(f"below what is required: {', '.join(short['ability'])}", file=sys.stderr)
        raise SystemExit(1)


if __name__ == "__main__":
    typer.run(main)
