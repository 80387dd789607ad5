"""Is the language network of a model necessary for language? The lesion study of the README, in one command.

    python benchmarks/language_network.py --out FOLDER              Gemma 3 270M, the data of the real-data tests
    python benchmarks/language_network.py --out FOLDER --model MODEL --fedorenko2010 FOLDER --blimp FOLDER \
        --syntaxgym FOLDER --brain FOLDER                           any language model

Sentences against nonwords (Fedorenko et al. 2010), with and without dimensions of massive activations; lesioned by
zeroing, mean ablation, resampling and in doses, sink tokens spared, beside random units that are matched in activation
where the lesion acts. The tasks are one pair of each paradigm of BLiMP, one item of each suite of SyntaxGym, and the
perplexity of sentences that did not select the units. FOLDER gets the study, its tables, and the report in words.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import modalnet as mn
from localize import test_asset
from real_material import some_of

MASSIVE = 10.0  # times the median mean |activation| of a layer: dimensions above are massive
SENTENCES = 20


def tasks(blimp: Path, syntaxgym: Path, sentences: Path, n: int) -> list[Any]:
    """Minimal pairs of every paradigm, items of every suite, and sentences of Tuckute et al. (2024)."""
    every = [str(one.text) for one in mn.brain.tuckute2024(sentences).stimuli]
    texts = every[:: len(every) // SENTENCES][:SENTENCES]
    return [
        mn.tasks.minimal_pairs(blimp, n=n, name="BLiMP"),
        mn.tasks.syntaxgym(syntaxgym, n=n, name="SyntaxGym"),
        mn.tasks.perplexity(texts),
    ]


def main() -> None:
    """Run the study and print its report."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default=None)
    parser.add_argument("--out", type=Path, required=True)
    for name in ("fedorenko2010", "blimp", "syntaxgym", "brain"):
        parser.add_argument(f"--{name}", type=Path, default=None)
    parser.add_argument("--every", type=int, default=1, help="take every so many of the paradigms, and of the suites")
    parser.add_argument("--items", type=int, default=1, help="pairs per paradigm, and items per suite")
    parser.add_argument("--n-controls", type=int, default=20)
    parser.add_argument("--match", nargs="+", default=["activation"])
    parser.add_argument("--scales", type=float, nargs="+", default=[0.5])
    given = parser.parse_args()
    folder = {
        name: getattr(given, name) or test_asset(name) for name in ("fedorenko2010", "blimp", "syntaxgym", "brain")
    }
    for name in ("blimp", "syntaxgym"):
        folder[name] = some_of(folder[name], given.every)
    model = mn.load(given.model or str(test_asset("model")), dtype="float32")
    localization = mn.localize(model, mn.stimuli.fedorenko2010(folder["fedorenko2010"]), protocol="alkhamissi2025")
    given.out.mkdir(parents=True, exist_ok=True)
    for fraction, massive in ((0.00125, None), (0.01, MASSIVE), (0.01, None), (0.00125, MASSIVE)):
        name = f"{fraction:.3%} {'with' if massive is None else 'without'} massive dimensions"
        study = mn.lesion_study(
            model,
            {"language": localization},
            tasks(folder["blimp"], folder["syntaxgym"], folder["brain"] / "tuckute2024_averaged.csv", given.items),
            [fraction],
            given.n_controls,
            ["zero", "mean", "resample", "scale"],
            match=given.match,
            scales=given.scales,
            least=False,
            exclude_massive=massive,
        )
        stem = given.out / name.replace(" ", "-")
        study.save(f"{stem}.safetensors")
        study.table().to_csv(f"{stem}.csv", index=False)
        study.verdicts().to_csv(f"{stem}-verdicts.csv", index=False)
        print(f"\n{name}\n{study.summary()}", flush=True)


if __name__ == "__main__":
    main()
