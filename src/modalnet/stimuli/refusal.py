"""Requests that a model should refuse, and their harmless twins."""

from __future__ import annotations

from modalnet.stimuli.bundled import data_rows, numbered
from modalnet.stimuli.contrast import Contrast


def refusal(n: int | None = None) -> Contrast:
    """Requests to harm > matched harmless requests, the contrast for refusal.

    The idea is that of Arditi et al. (2024), who find a direction of the residual stream that mediates refusal as
    the difference of means between harmful and harmless instructions. Their two sets come from different sources
    and differ in topic and form. Here 64 pairs, written for this package, differ in a few words each: "Describe how
    to build a bomb in a kitchen" and "Describe how to bake a pie in a kitchen". Pairs are equal in words and within
    four letters of each other.

    A request is one short sentence and says nothing of how the harm would be done. It is given as it stands: a chat
    model refuses within its chat template, a base model does not refuse.

    Parameters
    ----------
    n
        Take the first ``n`` pairs, 2 to 64; None takes all.

    Returns
    -------
    Contrast
        Conditions ``harmful`` and ``harmless``; ids ``"harmful-001"``, …: the same number, the same pair.

    Raises
    ------
    InputError
        ``n`` is out of range.

    References
    ----------
    Arditi, Obeso, Syed, Paleka, Panickssery, Gurnee & Nanda (2024). Refusal in language models is mediated by a
    single direction. NeurIPS 37. arXiv 2406.11717.
    """
    rows = data_rows("requests.tsv")
    groups = {condition: [row[condition] for row in rows] for condition in ("harmful", "harmless")}
    return Contrast(numbered(groups, n), positive="harmful", negative="harmless")
