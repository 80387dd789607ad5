"""Attention knockout: which tokens no longer attend to which.

An attention *edge* leads from a source token to a target token that attends to it. A knockout removes the edges from
some tokens to others in some layers, so that what the sources hold cannot reach the targets there by attention, and
everything else runs as before. It is an intervention like any other: it composes, and runs wherever others do.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from modalnet._validation import check_int, check_type, refusal
from modalnet.errors import InputError
from modalnet.interventions.edges import Edges, EdgeTokensLike, Region, check_edge_tokens
from modalnet.interventions.operations import Intervention, LayersLike
from modalnet.models.sites import layer_choice


def region(left: float, top: float, right: float, bottom: float) -> Region:
    """The image tokens inside a rectangle of a picture, as a source or target of a :func:`knockout`.

    Parameters
    ----------
    left, top, right, bottom
        The rectangle in pixels of the picture as it is given, from its upper left corner. A token belongs to it if the
        middle of what it covers of the picture does.

    Raises
    ------
    InputError
        For an empty rectangle; when it runs, where no token lies in it, or where what tokens cover cannot be measured.

    Examples
    --------
    >>> mn.region(0, 0, 32, 64)
    Region(left=0, top=0, right=32, bottom=64)
    """
    return Region(left, top, right, bottom)


def knockout(
    tower: str,
    layers: LayersLike | None = None,
    *,
    source: EdgeTokensLike,
    target: EdgeTokensLike,
    heads: int | Iterable[int] | None = None,
) -> Intervention:
    """Attention knockout: in some layers, tokens no longer attend to others (Geva et al. 2023, arXiv 2304.14767).

    The scores of the removed edges are minus infinity before the softmax, as in a model whose mask forbids them; the
    remaining edges share the attention in proportion. A token's edge to itself always stays.

    Parameters
    ----------
    tower
        Name of the tower, such as ``"decoder"``.
    layers
        Numbers, a range, a slice or a mask; None for every layer.
    source, target
        The tokens that are attended to, and those that attend to them: ``"image"``, ``"text"``, ``"question"`` (the
        stimulus' own text, without the tokens of a chat template), ``"last"``, ``"cls"``, ``"all"``, indices, a slice,
        a mask, a :func:`region` of the picture, or a list with indices (or a region) for each stimulus, such as
        :func:`modalnet.patching.tokens_of` gives for words. With ``"all"`` and ``"text"``, tokens that are scored or
        generated belong to it; other choices are places in the prompt.
    heads
        Numbers of attention heads; None for all.

    Returns
    -------
    Intervention
        To be given to :meth:`modalnet.Model.run`, ``score``, ``generate``, ``with_``, or to an analysis.

    Raises
    ------
    InputError
        For tokens, layers or heads that are none. When it runs, and before the model does: for a layer or head that
        the model does not have; for tokens that a stimulus does not have; where the mask of causal attention forbids
        all of these edges anyway; for an attention whose mask cannot be set, such as one of a kernel without a mask.

    Examples
    --------
    >>> print(mn.knockout("decoder", range(2, 5), source="image", target="question"))
    knockout(decoder, layers 2, 3, 4: image tokens -> question tokens)
    """
    check_type("tower", tower, str, "the name of a tower")
    chosen = None if layers is None else layer_choice(layers)
    edges = Edges(
        tower, chosen, check_edge_tokens("source", source), check_edge_tokens("target", target), check_heads(heads)
    )
    return Intervention("knockout", edges)


def check_heads(given: Any) -> tuple[int, ...] | None:
    """Numbers of attention heads in ascending order; None for all, an InputError for what are none."""
    if given is None:
        return None
    plain = given.tolist() if hasattr(given, "tolist") else given
    listed = [plain] if isinstance(plain, int) and not isinstance(plain, bool) else plain
    if isinstance(listed, str) or not isinstance(listed, Iterable):
        raise refusal("heads", "the number of an attention head, or several", given)
    numbers = tuple(check_int("heads", one, minimum=0) for one in listed)
    if not numbers:
        raise InputError("`heads` is empty: name at least one attention head, or None for all.")
    return tuple(sorted(set(numbers)))
