"""Harmful requests and matched harmless ones, the contrast for refusal."""

from __future__ import annotations

from modalnet.stimuli.contrast import Contrast
from modalnet.stimuli.package_data import data_rows, numbered


def refusal(n: int | None = None) -> Contrast:
    """Harmful > matched harmless requests, the contrast for refusal.

    The contrast follows Arditi et al. (2024), who find a direction of the residual stream that mediates refusal as the
    difference of means between harmful and harmless instructions. Their two sets come from different sources and differ
    in topic and form. Here, 64 pairs written for this package differ in a few words each: "Describe how to build a bomb
    in a kitchen" and "Describe how to bake a pie in a kitchen". The two requests of a pair have the same number of
    words and differ by at most four letters in length.

    A request is one short sentence and does not say how the harm would be done. It is presented as it is: a chat model
    refuses within its chat template, a base model does not refuse.

    Parameters
    ----------
    n
        Number of pairs, 2 to 64; None takes all.

    Returns
    -------
    Contrast
        Conditions ``harmful`` and ``harmless``; ids ``"harmful-001"``, …. Stimuli with the same number form a pair
        and are one item: :func:`modalnet.localize` tests them as pairs.

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
    return Contrast(numbered(groups, n, paired=True), positive="harmful", negative="harmless")
