"""The claims of a protocol, judged twice: by the publication's own rule, and under controls.

================  ==========================================  ==========================================================
claim             as published                                refereed
================  ==========================================  ==========================================================
``loss``          the network costs more than random units    the verdict of the lesion study over all operations
                  on average                                  (:mod:`modalnet.lesion.verdicts`)
``spared``        the network costs at most half of what it   the interval of the drop includes 0, and the intact model
                  costs the task that it is said to carry     is above chance; what would have been found is said, as
                                                              no test can show that nothing is lost
``dissociation``  beyond random units, it costs the one task  the interaction of lesion and task, beside that of
                  more than the other                         activation-matched draws
                                                              (:meth:`LesionStudy.selective_for`)
``greater loss``  it costs the task more than the other       the difference of both drops beside that of one more pair
                  network does                                of activation-matched draws
                                                              (:meth:`LesionStudy.costs_more`)
``shared units``  halves share more units than by chance      the overlap of the halves' networks beside that under
                                                              permuted labels (:func:`modalnet.specialization`)
``edges``         the answer loses without the edges          the verdict of :func:`modalnet.information_flow`
================  ==========================================  ==========================================================

Each refereed verdict has the false-positive rate of the test that it rests on, at most 0.05 nominally; see
``benchmarks/calibration.py``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from modalnet.protocols.protocol import Claim, Protocol
from modalnet.replication.published import PublishedScores
from modalnet.replication.reasons import of_scores, reasons_for

if TYPE_CHECKING:
    import pandas as pd

    from modalnet.lesion.result import LesionStudy

HOLDS, FAILS, NOT_RUN, AT_CHANCE = "holds", "does not hold", "not run", "intact model at chance"
UNTESTED = "cannot be tested"
#: Refereed verdicts that speak neither for nor against a claim: an interval that includes 0 may include an effect.
UNDECIDED = (UNTESTED, "no measurable effect")
#: Refereed verdicts that support a claim.
SUPPORTING = ("survives", "selective", "beyond chance", "no measurable loss", "costs more", "needed")


@dataclass(frozen=True)
class JudgedClaim:
    """A claim with both of its verdicts.

    Attributes
    ----------
    claim, kind, network, task, other
        As in :class:`modalnet.protocols.Claim`.
    published
        ``"holds"``, ``"does not hold"``, ``"intact model at chance"`` or ``"not run"``, by the publication's own rule
        and scoring on this model.
    published_numbers
        The numbers behind it, in words.
    refereed
        The verdict under controls.
    sentence
        That verdict with its numbers.
    reasons
        Why the two differ, or what the first does not take into account.
    """

    claim: str
    kind: str
    network: str
    task: str
    other: str
    published: str
    published_numbers: str
    refereed: str
    sentence: str
    reasons: tuple[str, ...] = ()

    @property
    def supported(self) -> bool | None:
        """Whether the refereed verdict supports the claim; None where it cannot be tested."""
        return None if self.refereed == UNTESTED else self.refereed in SUPPORTING

    @property
    def undecided(self) -> bool:
        """Whether the refereed verdict speaks neither for nor against the claim."""
        return self.refereed in UNDECIDED

    @property
    def differs(self) -> bool:
        """Whether the two verdicts say different things of the claim."""
        return (self.published == HOLDS) != (self.supported is True)

    def row(self) -> dict[str, Any]:
        """The claim as a row of a table."""
        return asdict(self) | {"reasons": " ".join(self.reasons)}


@dataclass(frozen=True)
class Evidence:
    """What a replication measured.

    Attributes
    ----------
    published
        Scores as published.
    study
        The lesion study under controls; None where nothing was lesioned.
    halves
        By network, the rows of the overlap of the networks of two halves: dice, dice_permuted, p_more, n.
    missing
        Name of a network or task -> why it was not run.
    at_chance
        Name of a task that was not lesioned under controls -> the score of the intact model, which may be guessing.
    """

    published: Sequence[PublishedScores]
    study: LesionStudy | None
    halves: dict[str, dict[str, float]]
    missing: dict[str, str]
    at_chance: dict[str, str] = field(default_factory=dict)


def judge(protocol: Protocol, evidence: Evidence) -> list[JudgedClaim]:
    """Judge every claim of a protocol that is about units."""
    judges = {
        "loss": _loss,
        "spared": _spared,
        "dissociation": _dissociation,
        "greater loss": _greater,
        "shared units": _shared,
    }
    return [judges[claim.kind](protocol, claim, evidence) for claim in protocol.claims if claim.kind in judges]


def _made(claim: Claim, published: str, numbers: str, verdict: str, sentence: str, *reasons: str) -> JudgedClaim:
    return JudgedClaim(
        claim.text,
        claim.kind,
        claim.network,
        claim.task,
        claim.other,
        published,
        numbers,
        verdict,
        sentence,
        tuple(reason for reason in reasons if reason),
    )


def _not_run(claim: Claim, evidence: Evidence) -> JudgedClaim | None:
    for name in (claim.network, claim.task, claim.other):
        if name in evidence.missing:
            return _made(
                claim, NOT_RUN, "", UNTESTED, f"cannot be tested: {name} was not run: {evidence.missing[name]}"
            )
    return None


def _unjudged(claim: Claim, evidence: Evidence) -> tuple[str, str] | None:
    """The refereed verdict where there is none to be had: the model lacks an ability, or nothing was lesioned."""
    asked = (claim.task, claim.other) if claim.kind == "dissociation" else (claim.task,)
    guessed = [f"{task} ({evidence.at_chance[task]})" for task in asked if task in evidence.at_chance]
    if guessed:
        return UNTESTED, f"cannot be tested: the intact model is at chance on {' and '.join(guessed)}"
    if evidence.study is None:
        return UNTESTED, "cannot be tested: no lesion was run"
    return None


def _scores(evidence: Evidence, network: str, task: str) -> PublishedScores | None:
    """Scores at the size that claims are about, the first that was run."""
    return next((each for each in evidence.published if (each.network, each.task) == (network, task)), None)


def numbers_of(scores: PublishedScores | None) -> str:
    """Scores as published, in words."""
    if scores is None:
        return ""
    text = f"{scores.measure} {scores.intact.mean():.3f} intact, {scores.lesioned.mean():.3f} with the network lesioned"
    if len(scores.draws) == 1:
        text += f", {scores.draws.mean():.3f} with random units (1 draw)"
    elif len(scores.draws):
        means = scores.draws.mean(axis=1)
        text += f", {means.mean():.3f} with random units ({len(means)} draws, {means.min():.3f} to {means.max():.3f})"
    return text


def _holds(protocol: Protocol, scores: PublishedScores | None) -> str:
    if scores is None:
        return NOT_RUN
    if scores.at_chance:
        return AT_CHANCE
    below = protocol.random_units.judged == "below the t interval"
    found = scores.below_interval if below else scores.costs_more
    if found is None:
        found = scores.drop > 0
    return HOLDS if found else FAILS


def _loss(protocol: Protocol, claim: Claim, evidence: Evidence) -> JudgedClaim:
    missing = _not_run(claim, evidence)
    if missing is not None:
        return missing
    scores = _scores(evidence, claim.network, claim.task)
    verdict, sentence = _unjudged(claim, evidence) or _verdict_of(evidence.study, claim.network, claim.task)
    published = _holds(protocol, scores)
    reasons = reasons_for(protocol, scores, evidence.study, claim.network, claim.task)
    return _made(claim, published, numbers_of(scores), verdict, sentence, *reasons)


def _verdict_of(study: LesionStudy | None, network: str, task: str) -> tuple[str, str]:
    """The verdict over all operations, and its sentence with that of the operation that decides."""
    if study is None:
        return UNTESTED, "cannot be tested: no lesion was run"
    rows = study.verdicts()
    rows = rows[(rows["network"] == network) & (rows["task"] == task)]
    if not len(rows):
        return UNTESTED, f"cannot be tested: {task} was not run under a lesion of {network}"
    whole = rows[rows["question"] == "all"].iloc[0]
    return str(whole["verdict"]), _sentence(study, network, task, whole, rows[rows["question"] != "all"])


def _sentence(study: LesionStudy, network: str, task: str, whole: Any, rows: pd.DataFrame) -> str:
    """The verdict, the intact score, and the sentence of every operation."""
    prefix = f"{network} on {task}"
    base = study.base.get(task)
    intact = [] if base is None else [f"Intact {base.mean:.3f}{_chance(base.chance)}."]
    parts = [str(each).removeprefix(f"{prefix}, ") for each in rows["sentence"]]
    return " ".join([str(whole["sentence"]).removeprefix(f"{prefix}: "), *intact, *map(_capital, parts)])


def _chance(chance: float) -> str:
    return f" (chance {chance:.3f})" if math.isfinite(chance) else ""


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def _spared(protocol: Protocol, claim: Claim, evidence: Evidence) -> JudgedClaim:
    missing = _not_run(claim, evidence)
    if missing is not None:
        return missing
    scores = _scores(evidence, claim.network, claim.task)
    carried = [one.task for one in protocol.claims if one.kind == "loss" and one.network == claim.network]
    lost = [other.drop for task in carried if (other := _scores(evidence, claim.network, task)) is not None]
    published = NOT_RUN
    if scores is not None:
        published = AT_CHANCE if scores.at_chance else HOLDS if scores.drop <= max([*lost, 0.0]) / 2 else FAILS
    verdict, sentence = _unjudged(claim, evidence) or ("", "")
    if evidence.study is not None and not verdict:
        rows = evidence.study.verdicts()
        rows = rows[(rows["network"] == claim.network) & (rows["task"] == claim.task) & (rows["question"] != "all")]
        # An interval that includes 0 is evidence only where the intact model has the ability. Controls are not asked:
        # a loss is one, whatever random units cost.
        able = claim.task in evidence.study.base and not evidence.study.at_chance(claim.task)
        measured = rows[rows["drop_low"].notna()] if able else rows[:0]
        losing = measured[measured["drop_low"] > 0]
        verdict = UNTESTED if not len(measured) else "loses" if len(losing) else "no measurable loss"
        shown = losing if len(losing) else measured if len(measured) else rows
        sentence = " ".join(map(str, shown["sentence"])) or f"cannot be tested: {claim.task} was not run"
    reasons = of_scores(scores)
    return _made(claim, published, numbers_of(scores), verdict, sentence, *reasons)


def _dissociation(protocol: Protocol, claim: Claim, evidence: Evidence) -> JudgedClaim:
    missing = _not_run(claim, evidence)
    if missing is not None:
        return missing
    both = [_scores(evidence, claim.network, task) for task in (claim.task, claim.other)]
    published, numbers = NOT_RUN, "; ".join(filter(None, map(numbers_of, both)))
    if all(each is not None for each in both):
        beyond = [
            each.drop - (float(each.random_drops.mean()) if len(each.draws) else 0.0)
            for each in both
            if each is not None
        ]
        published = HOLDS if beyond[0] > max(beyond[1], 0.0) else FAILS
        published = AT_CHANCE if any(each is not None and each.at_chance for each in both) else published
    return _tested(claim, published, numbers, evidence, "selective_for", "selective", "not selective")


def _greater(protocol: Protocol, claim: Claim, evidence: Evidence) -> JudgedClaim:
    missing = _not_run(claim, evidence)
    if missing is not None:
        return missing
    both = [_scores(evidence, network, claim.task) for network in (claim.network, claim.other)]
    published, numbers = NOT_RUN, "; ".join(f"{each.network}: {numbers_of(each)}" for each in both if each is not None)
    if both[0] is not None and both[1] is not None:
        at_chance = both[0].at_chance
        published = AT_CHANCE if at_chance else HOLDS if both[0].drop > max(both[1].drop, 0.0) else FAILS
    return _tested(claim, published, numbers, evidence, "costs_more", "costs more", "does not cost more")


def _tested(  # noqa: PLR0917  # two calls, above
    claim: Claim, published: str, numbers: str, evidence: Evidence, test: str, positive: str, negative: str
) -> JudgedClaim:
    """A claim that a table of the study tests by operation; it has to hold for every one that could be tested."""
    asked = (claim.task,) if test == "costs_more" else (claim.task, claim.other)
    reasons = dict.fromkeys(reason for task in asked for reason in of_scores(_scores(evidence, claim.network, task)))
    unjudged = _unjudged(claim, evidence)
    if unjudged is not None:
        return _made(claim, published, numbers, *unjudged, *reasons)
    last = (claim.task, claim.other) if test == "selective_for" else (claim.other, claim.task)
    tested = getattr(evidence.study, test)(claim.network, *last)
    decided = tested[tested["verdict"] != UNTESTED]
    holding = decided[decided["verdict"] == positive]
    # Zeroing alone tells nothing: it puts in values that ordinary tokens do not have.
    ordinary = {"mean", "resample"} & set(holding["operation"])
    verdict = UNTESTED if not len(decided) else positive if ordinary and len(holding) == len(decided) else negative
    sentences = " ".join(dict.fromkeys(_capital(str(each)) for each in tested["sentence"]))
    return _made(claim, published, numbers, verdict, sentences, *reasons)


def _shared(protocol: Protocol, claim: Claim, evidence: Evidence) -> JudgedClaim:
    missing = _not_run(claim, evidence)
    found = evidence.halves.get(claim.network)
    if missing is not None:
        return missing
    if found is None:
        return _made(claim, NOT_RUN, "", UNTESTED, "cannot be tested: the halves have too few stimuli")
    numbers = f"halves share {found['dice']:.1%} of their units, random units {found['dice_random']:.1%}"
    published = HOLDS if found["dice"] > found["dice_random"] else FAILS
    p = found["p_more"]
    if not math.isfinite(p):
        return _made(claim, published, numbers, UNTESTED, "cannot be tested: labels cannot be permuted")
    verdict = "beyond chance" if p <= 0.05 else "not beyond chance"
    by_chance = f"with permuted labels {found['dice_permuted']:.1%} (p {p:.3f})"
    sentence = f"{verdict}: halves share {found['dice_tested']:.1%}, {by_chance}"
    return _made(claim, published, numbers, verdict, sentence)


def claims_table(claims: Sequence[JudgedClaim]) -> pd.DataFrame:
    """One row per claim."""
    import pandas as pd

    columns = ["claim", "kind", "network", "task", "other", "published", "published_numbers", "refereed", "sentence"]
    return pd.DataFrame([each.row() for each in claims], columns=[*columns, "reasons"])
