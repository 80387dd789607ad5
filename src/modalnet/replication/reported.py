"""Verdicts on lesions of which a publication reports accuracies alone.

A table of accuracies says less than a lesion study: not which items were lost, often not how the random draws differ.
What can be said of it is said in the words of :mod:`modalnet.lesion.verdicts`, by rules of which each has a known error
rate (``benchmarks/calibration.py``):

============================ ===========================================================================================
*no measurable effect*       The interval of the drop includes 0.
*does not survive*           The selected units cost no more than the mean of the random draws; or so many draws cost as
                             much that more than one in twenty of all draws would (one-sided binomial test, 0.05); or,
                             with 19 draws or more, they do not exceed one more draw
                             (:func:`modalnet.stats.new_draw.beside_draws`). Where every paradigm has units and draws of
                             its own, paradigms are the replicates: a sign-flip test over them does not reject.
*cannot be tested*           They cost more, but: there are no draws, fewer than 19, or their mean alone; the draws are
                             not matched in activation where a lesion puts in other values than ordinary ones; the loss
                             is one of the form of answers (no measurable loss among the answers of a valid form).
*survives*                   They cost more than one more matched draw, of 19 or more.
============================ ===========================================================================================

A t interval of draws says nothing where they are not normal, as when a few of them destroy the output. This is tested
(Shapiro-Wilk), and draws are counted that leave less than half of the answers in a valid form. A test of unimodality
does not serve here: where one set in seven destroys the output, eight standard deviations away, Hartigan's dip rejects
in 0.03 of simulations with 15 draws, and Shapiro-Wilk in 0.90.

References
----------
Newcombe (1998), Statistics in Medicine 17(8):873-890, method 10, for the interval of a difference of proportions.
Shapiro & Wilk (1965), Biometrika 52(3-4):591-611. Hartigan & Hartigan (1985), Annals of Statistics 13(1):70-84.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float

from modalnet._validation import check_int, check_type
from modalnet.errors import InputError
from modalnet.lesion.verdicts import LONGEST, Verdict
from modalnet.stats.new_draw import ALPHA, LEAST_DRAWS, beside_draws, smallest_detectable
from modalnet.stats.permutation import p_in_words, rank_p, sign_flip
from modalnet.stats.proportions import score_interval
from modalnet.stats.resampling import TIE
from modalnet.stats.skewed_means import skewed_interval, skewed_p

if TYPE_CHECKING:
    import pandas as pd

_FLIPS = 9_999
_LEAST_PARADIGMS = 20  # for the test that random units cost more
_DESTROYED = 0.5  # share of answers of an invalid form from which a draw counts as destroying the output


@dataclass(frozen=True, eq=False)
class ReportedLesion:
    """What a publication reports of one lesion, as accuracies from 0 to 1.

    Attributes
    ----------
    name
        What was lesioned, and the task, for sentences.
    intact, lesioned
        Accuracy without lesion and under the lesion of the selected units, by paradigm; a single entry where there is
        one accuracy alone.
    draws
        Accuracy under each draw of random units; no column where none is reported. Where the mean of several draws is
        all that is reported, this is its one column.
    mean_of
        Of how many draws a single column is the mean; 0 where each column is a draw.
    n_items
        Number of items in all; 0 where it is not reported.
    nested
        Whether items are nested in paradigms, of which they share what makes them hard. Where accuracies are not
        reported by paradigm, ``n_paradigms`` counts in the place of items.
    n_paradigms
        Number of paradigms; 0 where there are none, or it is not reported.
    apart
        Whether every paradigm has selected units and random draws of its own, so that paradigms replicate the
        comparison. Where draws are the same sets in every paradigm they do not, however different the selected units.
    matched
        Whether the random units match the selected ones in activation, or the lesion puts in ordinary values (mean
        ablation of each unit, resampling), so that massive activations cannot explain the effect.
    invalid, invalid_intact, invalid_draws
        Share of answers of an invalid form (such as no letter where a letter is asked for) under the lesion, without,
        and under each draw; NaN or empty where it is not reported.
    """

    name: str
    intact: Float[np.ndarray, " paradigm"]
    lesioned: Float[np.ndarray, " paradigm"]
    draws: Float[np.ndarray, "paradigm draw"]
    mean_of: int = 0
    n_items: int = 0
    nested: bool = False
    n_paradigms: int = 0
    apart: bool = False
    matched: bool = False
    invalid: float = math.nan
    invalid_intact: float = math.nan
    invalid_draws: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        for field, dimensions in (("intact", 1), ("lesioned", 1), ("draws", 2)):
            values = np.asarray(getattr(self, field), dtype=np.float64)
            if values.ndim != dimensions or len(values) != len(self.intact) or not len(values):
                raise InputError(
                    f"`{field}` of {self.name!r} must have {dimensions} dimensions with one entry per paradigm, got "
                    f"shape {values.shape}. A single accuracy is an array of one entry."
                )
            if not ((values >= 0) & (values <= 1)).all():
                raise InputError(f"`{field}` of {self.name!r} must be accuracies from 0 to 1.")
            object.__setattr__(self, field, values)
        shares = [one for one in (self.invalid, self.invalid_intact, *self.invalid_draws) if not math.isnan(one)]
        if not all(0 <= share <= 1 for share in shares):
            raise InputError(f"Shares of invalid answers of {self.name!r} must be from 0 to 1.")
        for field in ("mean_of", "n_items", "n_paradigms"):
            check_int(field, getattr(self, field), minimum=0)
        if self.invalid_draws and len(self.invalid_draws) != self.draws.shape[1]:
            raise InputError(
                f"`invalid_draws` of {self.name!r} must have one share per draw, got {len(self.invalid_draws)} for "
                f"{self.draws.shape[1]} draws."
            )
        if self.mean_of and self.draws.shape[1] != 1:
            raise InputError(
                f"`draws` of {self.name!r} must be one column, the mean of {self.mean_of} draws, got "
                f"{self.draws.shape[1]} columns."
            )

    @property
    def n_draws(self) -> int:
        """Number of random draws, whether reported one by one or as their mean."""
        return self.mean_of or self.draws.shape[1]

    @property
    def by_paradigm(self) -> bool:
        """Whether accuracies are reported by paradigm."""
        return len(self.intact) > 1


@dataclass(frozen=True)
class ReportedVerdict:
    """What can be said of a reported lesion; made by :func:`reported_verdict`.

    Attributes
    ----------
    name
        That of the lesion.
    verdict
        ``"survives"``, ``"does not survive"``, ``"no measurable effect"`` or ``"cannot be tested"``.
    intact, lesioned, random
        Mean accuracies; random: over draws.
    drop, drop_low, drop_high
        Intact minus lesioned, with its 95% interval: over paradigms (:mod:`modalnet.stats.skewed_means`), or over
        items as if the two accuracies came from other items (Newcombe), which is wider than one of paired items.
    excess
        How much more the selected units cost than the mean of the random draws.
    p, p_other
        That the selected units cost more (one-sided), and that random units cost more (doubled, as this side is looked
        at after the other). By rank among draws, or by sign flips over paradigms, for the other side the larger of this
        and of Hall's test of a skewed mean, with 20 paradigms or more; NaN where neither is possible.
    n_draws, reaching, destroyed
        Number of draws, how many of them cost at least as much, and how many leave less than half of the answers in a
        valid form; -1 where that is not reported.
    p_normal_draws
        Shapiro-Wilk test that the draws are normal; NaN for fewer than three.
    reason
        Why it cannot be tested, or what else the accuracies show.
    sentence
        The verdict in at most 40 words.
    """

    name: str
    verdict: Verdict
    intact: float
    lesioned: float
    random: float
    drop: float
    drop_low: float
    drop_high: float
    excess: float
    p: float
    p_other: float
    n_draws: int
    reaching: int
    destroyed: int
    p_normal_draws: float
    reason: str
    sentence: str


def reported_verdict(lesion: ReportedLesion) -> ReportedVerdict:
    """Judge a reported lesion by the rules of this module.

    Parameters
    ----------
    lesion
        What is reported.

    Raises
    ------
    InputError
        For something else than a :class:`ReportedLesion`.

    Examples
    --------
    >>> import numpy as np
    >>> from modalnet.replication.reported import ReportedLesion, reported_verdict
    >>> draws = np.array([[0.66, 0.63, 0.57, 0.50, 0.46, 0.23, 0.00]])
    >>> lesion = ReportedLesion("top 1%", np.array([0.665]), np.array([0.552]), draws, n_items=540)
    >>> print(reported_verdict(lesion).sentence)
    top 1%: does not survive: drop 0.113 [0.055, 0.170]; random units cost 0.116 more; 4 of 7 draws cost as much.
    """
    check_type("lesion", lesion, ReportedLesion, "a ReportedLesion")
    seen = _compare(lesion)
    verdict, reasons = _judge(lesion, seen)
    remarks = _remarks(lesion, seen)
    reasons += [one for one in remarks if one not in reasons]
    interval = f" [{seen.low:.3f}, {seen.high:.3f}]" if math.isfinite(seen.low) else ""
    return ReportedVerdict(
        name=lesion.name,
        verdict=verdict,
        intact=float(lesion.intact.mean()),
        lesioned=float(lesion.lesioned.mean()),
        random=seen.random,
        drop=seen.drop,
        drop_low=seen.low,
        drop_high=seen.high,
        excess=seen.excess,
        p=seen.p,
        p_other=seen.p_other,
        n_draws=lesion.n_draws,
        reaching=seen.reaching,
        destroyed=seen.destroyed,
        p_normal_draws=seen.p_normal,
        reason="; ".join(reasons),
        sentence=_sentence(f"{lesion.name}: {verdict}: drop {seen.drop:.3f}{interval}", reasons),
    )


def reported_verdicts(lesions: Sequence[ReportedLesion]) -> pd.DataFrame:
    """The verdicts on several reported lesions, one row each; columns are the attributes of :class:`ReportedVerdict`.

    Raises
    ------
    InputError
        For something else than reported lesions.
    """
    import pandas as pd

    check_type("lesions", lesions, (list, tuple), "a list of ReportedLesion")
    found = [reported_verdict(lesion) for lesion in lesions]
    names = [field.name for field in fields(ReportedVerdict)]
    return pd.DataFrame([[getattr(one, name) for name in names] for one in found], columns=names)


# -- the rules ---------------------------------------------------------------------------------------------------------


def _judge(lesion: ReportedLesion, seen: _Comparison) -> tuple[Verdict, list[str]]:
    """The verdict and its reasons, the most important first."""
    if not math.isfinite(seen.low):
        return "cannot be tested", [f"the number of {'paradigms' if lesion.nested else 'items'} is not reported"]
    if seen.low <= 0:
        found = smallest_detectable(seen.low, seen.high)
        return "no measurable effect", [f"a drop of {found:.3f} would have been found"]
    negative = _no_more_than_random(lesion, seen)
    if negative:
        return "does not survive", [negative]
    reasons = _why_untestable(lesion, seen)
    if reasons:
        return "cannot be tested", reasons
    return "survives", [f"{seen.excess:.3f} in excess of random units, p {p_in_words(seen.p)}"]


def _no_more_than_random(lesion: ReportedLesion, seen: _Comparison) -> str:
    """In which way the selected units do not cost more than random ones; empty where that is open, or they do."""
    n = lesion.n_draws
    if not n:
        return ""
    if seen.excess <= TIE or (lesion.apart and seen.p > ALPHA):
        amount = f"{-seen.excess:.3f} more" if seen.excess <= -0.0005 else "as much"
        tested = f" (p {p_in_words(seen.p_other)})" if lesion.mean_of and math.isfinite(seen.p_other) else ""
        beside = (
            f"the spread of {n} draws is not reported"
            if lesion.mean_of
            else f"{seen.reaching} of {n} draws cost as much"
        )
        return f"random units cost {amount}{tested}; {beside}"
    if lesion.apart or lesion.mean_of:
        return ""
    if n >= LEAST_DRAWS:
        beside_one = beside_draws(-float(lesion.lesioned.mean()), -lesion.draws.mean(axis=0))
        if beside_one.exceeds:
            return ""
        return f"{seen.reaching} of {n} random draws cost as much, p {p_in_words(beside_one.p)}"
    return f"{seen.reaching} of {n} random draws cost as much" if _often(seen.reaching, n) else ""


def _why_untestable(lesion: ReportedLesion, seen: _Comparison) -> list[str]:
    """Why a greater loss is no evidence; empty where it is."""
    form, explains = _about_form(lesion)
    n, reasons = lesion.n_draws, [form] if explains else []
    if not n:
        return [*reasons, "no random units of this size were lesioned"]
    if lesion.mean_of and not lesion.apart:
        reasons.append(f"{seen.excess:.3f} more than random units, of which the mean of {n} draws alone is reported")
    elif not lesion.apart and n < LEAST_DRAWS:
        reached = f"{seen.reaching or 'none'} of which cost{'s' * (seen.reaching == 1)} as much"
        reasons.append(f"{n} draws, {reached}, cannot give p <= {ALPHA}")
    if not lesion.matched:
        more = "random units" if reasons else f"{seen.excess:.3f} more than random units, which"
        reasons.append(f"{more} do not match them in activation")
    return reasons


def _often(reaching: int, n: int) -> bool:
    """Whether so many draws reach the selected units that more than one in twenty of all draws would."""
    from scipy import stats

    return bool(stats.binom.sf(reaching - 1, n, ALPHA) <= ALPHA)


def _about_form(lesion: ReportedLesion) -> tuple[str, bool]:
    """What is to be said of answers of an invalid form, and whether they leave no loss to be explained otherwise."""
    before = lesion.invalid_intact if math.isfinite(lesion.invalid_intact) else 0.0
    if lesion.by_paradigm or not lesion.n_items or not lesion.invalid > before:
        return "", False
    share = f"{lesion.invalid:.0%} of answers have no valid form"
    counts = [round((1 - one) * lesion.n_items) for one in (before, lesion.invalid)]
    if not min(counts):
        return f"{share}, so nothing else can be told", True
    shares = [
        min(1.0, float(accuracy[0]) / (1 - one))
        for accuracy, one in ((lesion.intact, before), (lesion.lesioned, lesion.invalid))
    ]
    low, high = _newcombe((shares[0], counts[0]), (shares[1], counts[1]))
    if low > 0:
        return share if lesion.invalid > _DESTROYED else "", False
    if high >= float(lesion.intact[0] - lesion.lesioned[0]) / 2:
        return f"{share}, and the others are too few to tell", True
    return f"{share}, and among the others no loss is measurable", True


# -- the numbers -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Comparison:
    """The numbers that the rules go by; their meaning is that of the attributes of :class:`ReportedVerdict`."""

    drop: float
    low: float
    high: float
    random: float
    excess: float
    p: float
    p_other: float
    reaching: int
    destroyed: int
    p_normal: float


def _compare(lesion: ReportedLesion) -> _Comparison:
    lesioned = float(lesion.lesioned.mean())
    random = float(lesion.draws.mean()) if lesion.n_draws else math.nan
    costs = lesion.draws.mean(axis=0)
    one_by_one = bool(lesion.n_draws) and not lesion.mean_of
    return _Comparison(
        float(np.mean(lesion.intact - lesion.lesioned)),
        *_drop_interval(lesion),
        random,
        random - lesioned,
        *_beside_random(lesion),
        reaching=int((costs <= lesioned + TIE).sum()) if one_by_one else -1,
        destroyed=sum(share > _DESTROYED for share in lesion.invalid_draws) if lesion.invalid_draws else -1,
        p_normal=_normality(costs) if one_by_one else math.nan,
    )


def _drop_interval(lesion: ReportedLesion) -> tuple[float, float]:
    if lesion.by_paradigm:
        return skewed_interval(lesion.intact - lesion.lesioned)
    n = lesion.n_paradigms if lesion.nested else lesion.n_items
    if n < 1:
        return math.nan, math.nan
    return _newcombe((float(lesion.intact[0]), n), (float(lesion.lesioned[0]), n))


def _newcombe(first: tuple[float, int], second: tuple[float, int]) -> tuple[float, float]:
    """The interval of a difference of two proportions, each (share, number of items), as of separate items."""
    ends = [score_interval((np.arange(n) < round(share * n)).astype(np.float64)) for share, n in (first, second)]
    (low, high), (other_low, other_high) = ends
    difference = first[0] - second[0]
    below = math.hypot(first[0] - low, other_high - second[0])
    return difference - below, difference + math.hypot(high - first[0], second[0] - other_low)


def _beside_random(lesion: ReportedLesion) -> tuple[float, float]:
    """The p values that the selected units, and that random units, cost more."""
    if not lesion.n_draws:
        return math.nan, math.nan
    if lesion.apart and lesion.by_paradigm:
        differences = lesion.draws.mean(axis=1) - lesion.lesioned
        rng = np.random.default_rng(0)
        more, less = (float(sign_flip(differences, _FLIPS, rng, alternative=side)) for side in ("greater", "less"))
        # One set beside the mean of several, of which some cost much: the differences are skewed to this side.
        enough = len(differences) >= _LEAST_PARADIGMS
        return more, min(1.0, 2 * max(less, skewed_p(-differences))) if enough else math.nan
    if lesion.mean_of:
        return math.nan, math.nan
    value, draws = float(lesion.lesioned.mean()), lesion.draws.mean(axis=0)
    other = rank_p(value, draws, alternative="greater")
    return rank_p(value, draws, alternative="less"), min(1.0, 2 * other)


def _normality(draws: Float[np.ndarray, " draw"]) -> float:
    """The p value of a test that the draws are normal; NaN for fewer than three, or if all are equal."""
    from scipy import stats

    return float(stats.shapiro(draws).pvalue) if len(draws) >= 3 and np.ptp(draws) > 0 else math.nan


# -- the sentence ------------------------------------------------------------------------------------------------------


def _remarks(lesion: ReportedLesion, seen: _Comparison) -> list[str]:
    """What else the accuracies show."""
    form = _about_form(lesion)[0] if seen.low > 0 else ""
    found = [form] if form else []
    if seen.destroyed > 0:
        found.append(f"{seen.destroyed} of {lesion.n_draws} draws destroy{'s' * (seen.destroyed == 1)} the output")
    return [*found, "draws are not normal: no t interval"] if seen.p_normal <= ALPHA else found


def _sentence(start: str, reasons: Sequence[str]) -> str:
    """As many reasons as fit, in their order."""
    text = start
    for reason in reasons:
        longer = f"{text}; {reason}"
        text = longer if len(longer.split()) <= LONGEST else text
    return f"{text}."
