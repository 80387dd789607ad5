"""Protocols that remove attention edges: as published, and beside random edges.

As published, the probability of the right answer without a set of edges is given relative to that of the intact model,
100 (p' - p) / p, for items that the model answers right, and a claim is about the part of the layers where a set costs
most. Refereed, a set has to cost more than random edges of equal number and of equal attention, in windows of that part
(:func:`modalnet.information_flow`; Holm's correction over windows). A model that has fewer layers than those of the
publication has windows of the same share of its depth.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from modalnet.errors import InputError
from modalnet.patching.information_flow import information_flow
from modalnet.patching.metrics import log_probability
from modalnet.protocols.protocol import Claim, Protocol, ProtocolEdges
from modalnet.replication.claims import FAILS, HOLDS, NOT_RUN, UNTESTED, JudgedClaim
from modalnet.tasks.multiple_choice import MultipleChoice
from modalnet.tasks.requests import continuation_request

if TYPE_CHECKING:
    from modalnet.model import Model
    from modalnet.patching.flow_result import InformationFlow

#: Layers of the models of the publication that windows are a share of.
PUBLISHED_DEPTH = 32
#: Groups of tokens that a stimulus has without anything being said of it.
GROUPS = ("image", "text", "question", "last", "all")
#: Fewer items that are answered right decide nothing.
LEAST_ITEMS = 5


def flow_of(
    model: Model, protocol: Protocol, task: MultipleChoice, *, n_controls: int, seed: int, options: Mapping[str, Any]
) -> InformationFlow:
    """Remove the protocol's edges from the items of a task that the model answers right.

    Raises
    ------
    InputError
        If fewer than 5 items are answered right, or no set of edges is between groups of tokens that stimuli have.
    """
    scores = task.run(model, batch_size=options["batch_size"]).scores
    right = np.flatnonzero(scores == 1)
    if len(right) < LEAST_ITEMS:
        raise InputError(
            f"{protocol.id} is about items that the model answers right, which are {len(right)} of {len(task)} here; "
            f"at least {LEAST_ITEMS} are needed. Choose another task or model."
        )
    sets = {each.name: (each.source, each.target) for each in protocol.edges if known_groups(each)}
    if not sets:
        raise InputError(f"{protocol.id} has no set of edges between groups of tokens that the stimuli have.")
    questions = [task.questions[place] for place in right]
    answers = [continuation_request(one.stimulus, one.choices[one.answer]).continuation for one in questions]
    n_layers = model.towers["decoder"].n_layers
    window = protocol.lesion.window or n_layers
    if n_layers < PUBLISHED_DEPTH:
        window = max(1, round(window * n_layers / PUBLISHED_DEPTH))
    return information_flow(
        model,
        [question.stimulus for question in questions],
        log_probability(answers),
        window=window,
        stride=max(1, window // 2),
        edges=sets,
        n_controls=n_controls,
        seed=seed,
        **options,
    )


def known_groups(edges: ProtocolEdges) -> bool:
    """Whether both ends are groups of tokens that any stimulus has; objects need boxes."""
    return edges.source in GROUPS and edges.target in GROUPS


#: Percent of p(answer). A claim about where the largest loss is needs a loss, which noise of rounding is not.
LEAST_CHANGE = 1


def judge_edges(
    protocol: Protocol, flows: Mapping[str, InformationFlow], missing: Mapping[str, str]
) -> list[JudgedClaim]:
    """Judge the claims of a protocol that are about edges."""
    return [_judged(protocol, claim, flows, missing) for claim in protocol.claims if claim.kind == "edges"]


def _judged(
    protocol: Protocol, claim: Claim, flows: Mapping[str, InformationFlow], missing: Mapping[str, str]
) -> JudgedClaim:
    about = (claim.text, claim.kind, claim.network, claim.task, claim.other)
    flow = flows.get(claim.task)
    edges = next(each for each in protocol.edges if each.name == claim.network)
    if flow is None or claim.network not in flow.names:
        why = missing.get(claim.task) or f"the stimuli name no tokens for {edges.source} to {edges.target}"
        return JudgedClaim(*about, NOT_RUN, "", UNTESTED, f"cannot be tested: {why}")
    depth = max(stop for _, stop in flow.windows)
    middles = np.array([(first + stop) / 2 / depth for first, stop in flow.windows])
    inside = (middles >= edges.layers[0]) & (middles <= edges.layers[1])
    change = 100 * (np.exp(-flow.drop[claim.network]) - 1).mean(axis=1)
    least = int(np.argmin(change))
    first, stop = flow.windows[least]
    lost = change[least] <= -LEAST_CHANGE
    published = HOLDS if inside[least] and lost else FAILS
    where = f"layers {first} to {stop - 1} of {depth}"
    numbers = (
        f"p(answer) changes most, by {change[least]:.0f}%, without {claim.network} in {where}"
        if lost
        else f"p(answer) loses less than {LEAST_CHANGE}% without {claim.network}, in whichever layers"
    )
    rows = flow.verdicts(seed=0)
    row = rows[rows["edges"] == claim.network].iloc[0]
    verdict, sentence = str(row["verdict"]), str(row["sentence"])
    reasons = [] if protocol.random_units.n else ["The publication has no random edges beside the set."]
    if verdict == "needed" and not any(inside[at] for at in row["windows"]):
        verdict = "needed elsewhere"
        reasons.append("It costs more than random edges, but only in layers outside those of the claim.")
    elif verdict == "needed" and published == FAILS:
        reasons.append("The publication asks where the loss is largest; it exceeds random edges in other layers, too.")
    n_edges = flow.n_edges[flow.names.index(claim.network)].mean()
    reasons.append(f"The set has {n_edges:,.0f} edges per stimulus; sets of different size cost different amounts.")
    return JudgedClaim(*about, published, numbers, verdict, sentence, tuple(reasons))
