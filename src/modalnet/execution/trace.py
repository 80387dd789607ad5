"""The bodies of nnsight traces. This is the only file of modalnet in which a trace is opened.

A body takes one program (:mod:`modalnet.execution.compile`), runs it in one trace and returns what it saved. It asks
for sites in the order in which the forward pass reaches them, pools each one where it is (on the model's device, in
float32) and stops after the last, so that neither later blocks nor the LM head run unless something needs them.

A body is sent to a server by value, with its source. So it uses nothing but the program's envoys, tensors and plain
Python, torch and nnsight, and the functions of this room that it calls. What comes back has to be saved by a local
variable of the trace's own block.

:func:`session` opens one nnsight session around many programs: one job. What they read can be reduced before it comes
back.
"""

from __future__ import annotations

import linecache
from typing import TYPE_CHECKING, Any

from modalnet.execution.attending import attended
from modalnet.execution.dictionaries import decoded, encoded
from modalnet.execution.edges import cut
from modalnet.execution.packing import unpacked
from modalnet.execution.reduction import gathered
from modalnet.execution.routing import routed

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import torch
    from jaxtyping import Float
    from nnsight import Envoy

    from modalnet.execution.compile import (
        Edit,
        EntranceProgram,
        Form,
        ForwardProgram,
        GenerationProgram,
        Part,
        Program,
        SiteStep,
    )
    from modalnet.execution.reduction import Reduction, Sums

#: What a body saved: lists of tensors and plain Python by name. ``"wrong"`` names what kept it from running to its end.
Saved = dict[str, Any]

# nnsight reads the body of a trace from its source; this says where that is when the package is imported from a zip.
linecache.lazycache(__file__, globals())


# Functions that bodies call


def edited(flat: Float[torch.Tensor, "position dim"], edits: Sequence[Edit]) -> Float[torch.Tensor, "position dim"]:
    """Apply edits in their order to the activations of a site; the values are computed in float32."""
    flat = flat.clone()
    for edit in edits:
        if edit.function is not None:
            applied(flat, edit)
            continue
        # On a server values arrive on the CPU; indices may stay there.
        b = edit.b.to(flat.device)
        if edit.vector is None:
            old = flat[edit.rows, edit.dims].float()
            flat[edit.rows, edit.dims] = (edit.a * old + b).to(flat.dtype)
        else:
            axes, rows = edit.vector.to(flat.device), edit.rows[:, 0]
            old = flat[rows].float()
            change = (edit.a - 1) * (old @ axes.T) + b
            flat[rows] = (old + change @ axes).to(flat.dtype)
    return flat


def applied(flat: Float[torch.Tensor, "position dim"], edit: Edit) -> None:
    """Put what a function makes of activations in their place, stimulus by stimulus."""
    import torch

    rows = edit.rows[:, 0].to(flat.device)
    axes = None if edit.vector is None else edit.vector.to(flat.device)
    dims = None if edit.dims is None else edit.dims[0].to(flat.device)
    before = flat[rows].float()
    values = before @ axes.T if axes is not None else before[:, dims]
    made = []
    for given in values.split(list(edit.lengths)):
        units = given.unflatten(-1, (-1, edit.size)) if edit.size > 1 else given
        found = called(edit, units) if len(units) else units
        made.append(found.to(given.device, given.dtype).reshape(given.shape))
    after = torch.cat(made)
    if axes is not None:
        flat[rows] = (before + (after - values) @ axes).to(flat.dtype)
    else:
        flat[rows[:, None], dims] = after.to(flat.dtype)


def called(edit: Edit, given: Float[torch.Tensor, "token unit ..."]) -> Float[torch.Tensor, "token unit ..."]:
    """What a user's function makes of activations, if it can take their place."""
    import torch

    refused: type[Exception]
    try:
        from modalnet.errors import InputError as refused
    except ImportError:  # on a server
        refused = ValueError
    assert edit.function is not None
    try:
        found = edit.function(given.clone())
    except Exception as error:
        if isinstance(error, MemoryError) or "out of memory" in str(error).lower():
            raise  # fewer stimuli may fit
        raise refused(f"{edit.label}: its function raised {type(error).__name__}: {error}") from error
    wrong = ""
    if not isinstance(found, torch.Tensor):
        wrong = f"a {type(found).__name__}, and a tensor is expected"
    elif found.shape != given.shape:
        wrong = f"the shape {list(found.shape)}, and {list(given.shape)} is expected, as it was given"
    elif found.is_complex():
        wrong = "complex numbers"
    elif not bool(found.isfinite().all()) and bool(given.isfinite().all()):
        wrong = "numbers that are not finite, from activations that are"
    if wrong:
        raise refused(f"{edit.label}: its function returned {wrong}.")
    return found


def by_position(hidden: torch.Tensor, form: Form) -> Float[torch.Tensor, "... dim"]:
    """The activations of a site as ``[..., width]``, whatever their own order of dimensions."""
    width, streams, first, _ = form
    if hidden.shape[-1] == width:
        return hidden
    if streams > 1 and hidden.shape[-1] * streams == width:
        return (hidden.movedim(0, -2) if first else hidden).flatten(-2)
    if streams == 1 and hidden.dim() > 2 and hidden.shape[-2] * hidden.shape[-1] == width:  # head by head
        return hidden.flatten(-2)
    if hidden.dim() == 4 and hidden.shape[1] == width:  # a convolution's channels
        return hidden.movedim(1, -1)
    return hidden


def as_before(flat: Float[torch.Tensor, "position dim"], hidden: torch.Tensor, form: Form) -> torch.Tensor:
    """The reverse of ``by_position``: ``[position, width]`` in the shape of the site."""
    width, streams, first, _ = form
    by_head = streams == 1 and hidden.dim() > 2 and hidden.shape[-2] * hidden.shape[-1] == width
    if hidden.shape[-1] == width or by_head or (streams > 1 and not first):
        return flat.reshape(hidden.shape)
    at, to = (0, -2) if streams > 1 else (1, -1)
    return flat.reshape(hidden.movedim(at, to).shape).movedim(to, at)


def misplaced(placed: Float[torch.Tensor, "... dim"], positions: int | None, rows: int) -> tuple[str, str] | None:
    """How the positions of a site lie and how they were expected to, in words; None where they lie so.

    Parameters
    ----------
    placed
        The activations of a site.
    positions
        The expected number of positions; None: any.
    rows
        The expected number of rows; at most 1: any.
    """
    found = placed.shape[:-1].numel()
    if positions is not None and found != positions:
        return f"{found} positions", f"{positions}"
    if rows > 1 and placed.dim() > 2 and placed.shape[0] != rows:
        return f"{placed.shape[0]} rows", f"{rows}"
    return None


def part_of(
    flat: Float[torch.Tensor, "position column"],
    part: Part | None,
    beside: Float[torch.Tensor, "position number"] | None = None,
) -> Float[torch.Tensor, "position number"]:
    """The numbers of a site's units, from all that its module has: their columns, scaled, and what is added."""
    if part is None:
        return flat
    start, stop, scale, size, _, largest = part
    own = flat[:, start:stop]
    if scale is not None:
        own = own * scale.to(own.device, own.dtype)
    own = own if beside is None else own + beside.to(own.device)
    return widened(own, size, largest)


def widened(
    own: Float[torch.Tensor, "position number"], size: int, largest: int
) -> Float[torch.Tensor, "position number"]:
    """The numbers of units that have fewer here than in another layer, each unit filled up with zeros."""
    import torch

    if size == largest:
        return own
    return torch.nn.functional.pad(own.unflatten(-1, (-1, size)), (0, largest - size)).flatten(-2)


def whole_of(
    flat: Float[torch.Tensor, "position column"],
    part: Part | None,
    beside: Float[torch.Tensor, "position number"] | None,
    before: Float[torch.Tensor, "position number"],
    after: Float[torch.Tensor, "position number"],
) -> Float[torch.Tensor, "position column"]:
    """The reverse of ``part_of``: all that the module has, with other numbers of the site's units."""
    if part is None:
        return after
    start, stop, scale, size, _, largest = part
    if size < largest:
        before, after = (each.unflatten(-1, (-1, largest))[..., :size].flatten(-2) for each in (before, after))
    if scale is not None or beside is not None:
        change = after - before
        after = flat[:, start:stop] + (change if scale is None else change / scale.to(change.device, change.dtype))
    flat = flat.clone()
    flat[:, start:stop] = after
    return flat


def rewritten(
    step: SiteStep,
    rows: int,
    edits: Sequence[Edit],
    kept: dict[str, torch.Tensor],
    *,
    leaf: bool = False,
    number: int = -1,
) -> tuple[torch.Tensor, torch.Tensor, tuple[int, ...], tuple[str, str] | None]:
    """Read the activations of a site, edit them and write them back.

    Parameters
    ----------
    step
        The module whose output or input the site is, how it is laid out, and which part of it is the site.
    rows
        As for ``misplaced``; nothing is written where the activations lie otherwise.
    edits
        In their order.
    kept
        What other sites kept for this one, by name.
    leaf
        Begin a graph for gradients here where there is none.
    number
        Which new token of a generation the pass reads; -1 for a pass over a stimulus.

    Returns
    -------
    tuple
        The hidden state in its own shape; the site's numbers ``[position, number]``; the shape ``[..., column]``; what
        ``misplaced`` gives.
    """
    import torch

    module, form = step.module, step.form
    if step.cuts or step.experts:
        return apart(step, edits, number)
    beside = kept.get(step.base)
    before = module.input if form[3] else module.output
    hidden = before[0] if isinstance(before, tuple | list) else before
    changed = bool(step.direct)
    if step.direct:
        hidden = past(hidden, kept[step.direct], form)
    if leaf and not hidden.requires_grad:
        changed = True
        # With frozen weights nothing before the first site asks for a gradient.
        hidden = hidden.detach().requires_grad_().clone()  # which a module may add to in place
    placed = by_position(hidden, form)
    flat = placed.reshape(-1, placed.shape[-1])
    if step.keeps:
        kept[step.keeps] = part_of(flat, step.part, beside).clone()
        return hidden, flat, tuple(placed.shape), None
    otherwise = misplaced(placed, step.positions, rows)
    own = part_of(flat, step.part, beside)
    shown = own
    if step.code is not None and otherwise is None:
        source = kept.get(step.source, own)
        new, shown = recoded(step, own, source, edits)
        if step.holds:
            kept[step.holds] = shown
        shown = kept.pop(step.shows, shown)
        if torch.is_grad_enabled():
            kept[f"encoded {id(step)}"] = source.detach()
    elif edits and otherwise is None:
        new = shown = edited(own, edits)
    if edits and otherwise is None:
        hidden = as_before(whole_of(flat, step.part, beside, own, new), hidden, form)
        changed = True
    if changed:
        # With everything else that a block returns beside its hidden state.
        after = (hidden, *before[1:]) if isinstance(before, tuple | list) else hidden
        if form[3]:
            module.input = after
        else:
            module.output = after
    return hidden, shown, tuple(placed.shape), otherwise


def apart(
    step: SiteStep, edits: Sequence[Edit], number: int
) -> tuple[torch.Tensor, torch.Tensor, tuple[int, ...], tuple[str, str] | None]:
    """The same of what is no activation of a module: attention edges, and weights of experts."""
    import torch

    if step.cuts:
        return torch.zeros(0), torch.zeros(0), (), cut(step, number)
    own, known = routed(step.module, edits, step.experts, edited)
    otherwise = misplaced(own, step.positions, 1) if known else ("no weights of experts", "some")
    return own, own, tuple(own.shape), otherwise


def recoded(
    step: SiteStep,
    own: Float[torch.Tensor, "position number"],
    source: Float[torch.Tensor, "position number"],
    edits: Sequence[Edit],
) -> tuple[Float[torch.Tensor, "position number"], Float[torch.Tensor, "row latent"]]:
    """Edit the latents of a dictionary and leave what it does not reconstruct where it is.

    Parameters
    ----------
    step
        The site.
    own, source
        What is at the site, and what is encoded.
    edits
        Of the latents, in their order.

    Returns
    -------
    tuple
        What is then at the site, ``x + decode(z') - decode(z)``; the latents at the positions that are pooled, or at
        all, with those that were edited.
    """
    import types

    import torch

    code, index = step.code, step.index
    assert code is not None
    picks = None if index is None or step.lengths is None or not (len(index) or not sum(step.lengths)) else index
    shown = own[:0]
    if (step.read and not step.shows) or step.holds:
        shown = encoded(code, source if picks is None else source[picks.to(source.device)])
    if not edits:
        return own, shown
    where = torch.cat([edit.rows[:, 0] for edit in edits]).unique()
    moved: list[Any] = [
        types.SimpleNamespace(**{**vars(edit), "rows": torch.searchsorted(where, edit.rows)}) for edit in edits
    ]
    where = where.to(own.device)
    given = source[where.to(source.device)].to(own.device)
    before = encoded(code, given)
    after = edited(before, moved)
    new, old = decoded(code, torch.stack([after, before]), given)
    changed = own.clone()
    changed[where] = (own[where].float() + new - old).to(own.dtype)
    if len(shown):
        rows = torch.arange(len(own), device=own.device) if picks is None else picks.to(own.device)
        at = torch.searchsorted(where, rows).clamp(max=len(where) - 1)
        hit = where[at] == rows
        shown = shown.clone()
        shown[hit] = after[at[hit]].to(shown.device)
    return changed, shown


def past(hidden: torch.Tensor, entered: Float[torch.Tensor, "position dim"], form: Form) -> torch.Tensor:
    """What a block puts out, with the gradient of what entered it alone: its contribution passes none on."""
    return hidden.detach() + as_before(entered - entered.detach(), hidden, form)


def activations(
    values: Float[torch.Tensor, "position number"], part: Part | None, *, numbers: bool
) -> Float[torch.Tensor, "position value"]:
    """What is read of a site's units: their numbers, or one for each, the length of a unit that has several.

    A layer with fewer units than others is filled up: with zeros where numbers are read, which change nothing where
    they are put in, and otherwise with NaN, which no unit is selected by.
    """
    import torch

    if part is None:
        return values.float()
    *_, n_numbers, size = part
    missing = n_numbers - values.shape[-1]
    values = values.float()
    if size > 1 and not numbers:
        values, missing = torch.linalg.vector_norm(values.unflatten(-1, (-1, size)), dim=-1), missing // size
    if missing:
        values = torch.nn.functional.pad(values, (0, missing), value=0.0 if numbers else float("nan"))
    return values


def pooled(flat: Float[torch.Tensor, "position number"], step: SiteStep) -> Float[torch.Tensor, "row numbers"]:
    """What a pool takes of a site: see :class:`modalnet.execution.plan.Pool`. Means are NaN over no positions."""
    import torch

    index, lengths, taken = step.index, step.lengths, step.taken
    whole = None if step.code is not None else step.part  # latents are numbers, all of a layer
    if taken == "length":
        return torch.linalg.vector_norm(flat.detach().float(), dim=-1, keepdim=True)
    if index is None or lengths is None:
        return untouched(activations(flat.detach(), whole, numbers=step.numbers), flat)
    if step.code is None and (len(index) or not sum(lengths)):
        flat = flat[index.to(flat.device)]
    if taken == "moments":
        flat = flat.detach()
        size = activations(flat, whole, numbers=False).abs().double()
        flat = activations(flat, whole, numbers=True).double()
        if size.shape != flat.shape:  # each of a unit's numbers has its length beside it
            size = size.repeat_interleave(flat.shape[-1] // size.shape[-1], dim=-1)
        flat = torch.cat([flat, flat.square(), size], dim=1)
        return torch.stack([part.mean(0) for part in flat.split(lengths)])
    if not lengths:
        return untouched(activations(flat.detach(), whole, numbers=step.numbers), flat)
    if whole is not None:
        flat = activations(flat, whole, numbers=step.numbers)
    if min(lengths) == max(lengths):
        return flat.reshape(len(lengths), lengths[0], flat.shape[-1]).mean(1, dtype=torch.float32)
    return torch.stack([part.mean(0, dtype=torch.float32) for part in flat.split(lengths)])


def untouched(values: torch.Tensor, hidden: torch.Tensor) -> torch.Tensor:
    """Values that a module cannot change any more: some add to what another put out in place (Falcon)."""
    return values.clone() if values.data_ptr() == hidden.data_ptr() else values


def scored(
    logits: Float[torch.Tensor, "position vocab"],
    targets: Sequence[tuple[torch.Tensor, torch.Tensor]],
    size: int,
) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Log-probabilities of targets and whether each is the likeliest token, a few rows of logits at a time.

    In float32 the logits of one row take a megabyte where the vocabulary is large.
    """
    scores = []
    for part, (at, wanted) in zip(logits.split(size), targets):  # noqa: B905  # there may be rows without a target
        logp = part.float().log_softmax(1)
        rows = at.to(logp.device)
        probability = logp[rows, wanted.to(logp.device)]
        scores.append((probability, probability == logp.amax(1)[rows]))
    return scores


def likeliest_tokens(
    logits: Float[torch.Tensor, "position vocab"], wanted: tuple[int, torch.Tensor, torch.Tensor], size: int
) -> list[torch.Tensor]:
    """The next token's distribution at each row, reduced a few rows of logits at a time.

    Returns
    -------
    list
        Of the k likeliest tokens the ids and log-probabilities, ``[position, k]``; of some tokens the log-probabilities
        and ranks from 1, ``[position, token]``; the divergence KL(other || row) from another row's, ``[position]``.
    """
    import torch

    k, tokens, against = wanted
    tokens, against = tokens.to(logits.device), against.to(logits.device)
    parts = []
    for start in range(0, len(logits), size):
        logp = logits[start : start + size].float().log_softmax(1)
        others, which = against[start : start + size].unique(return_inverse=True)
        other = logits[others].float().log_softmax(1)[which]
        best, ids = logp.topk(k, dim=1)
        own = logp[:, tokens]
        ranks = [(logp > own[:, place, None]).sum(1) + 1 for place in range(len(tokens))]
        # A token that both rule out adds nothing, and infinities have no difference.
        gain = torch.where(other == logp, 0.0, other.exp() * (other - logp))
        rank = torch.stack(ranks, dim=1) if ranks else own.long()
        parts.append((ids, best, own, rank, gain.sum(1).clamp(min=0)))
    return [torch.cat(each) for each in zip(*parts)]  # noqa: B905  # every part has the same five


def slopes(
    measured: Float[torch.Tensor, " value"],
    sources: Sequence[torch.Tensor],
    steps: Sequence[SiteStep],
    shown: Sequence[torch.Tensor],
    given: Sequence[torch.Tensor | None],
    *,
    through: Sequence[tuple[int, int, torch.Tensor | None]] = (),
) -> list[Float[torch.Tensor, "position number"]]:
    """The gradient of a measure at each site, ``[position, number]``; zero where the measure does not depend on it.

    Then, for pairs of sites, the gradient at the first of the paths through the second. That of latents is what their
    decoder makes of the gradient at the activations, with the reconstruction error held.
    """
    import torch

    found = torch.autograd.grad(measured.sum(), list(sources), allow_unused=True, retain_graph=bool(through))
    pairs = [(place, gradient) for place, gradient in enumerate(found)]
    for place, behind, columns in through:
        gradient = found[behind]
        if gradient is not None and columns is not None:
            whole = by_position(gradient, steps[behind].form)
            flat = torch.zeros_like(whole).reshape(-1, whole.shape[-1])
            flat[:, columns] = whole.reshape(flat.shape)[:, columns]
            gradient = as_before(flat, gradient, steps[behind].form)
        if gradient is not None:
            gradient = torch.autograd.grad(
                sources[behind], sources[place], gradient, allow_unused=True, retain_graph=True
            )[0]
        pairs.append((place, gradient))
    return [slope_of(sources[place], steps[place], gradient, shown[place], given[place]) for place, gradient in pairs]


def slope_of(
    source: torch.Tensor,
    step: SiteStep,
    gradient: torch.Tensor | None,
    shown: Float[torch.Tensor, "position value"],
    given: Float[torch.Tensor, "position number"] | None,
) -> Float[torch.Tensor, "position number"]:
    """The gradient at the numbers of a site, or at the latents shown there, from that at all that its module has."""
    import torch

    placed = by_position(torch.zeros_like(source) if gradient is None else gradient, step.form)
    flat = placed.reshape(-1, placed.shape[-1])
    if step.part is not None:
        start, stop, scale, size, _, largest = step.part
        flat = flat[:, start:stop] if scale is None else flat[:, start:stop] / scale.to(flat.device, flat.dtype)
        flat = widened(flat, size, largest)
    if step.code is None or given is None:
        return activations(flat, step.part, numbers=True)
    with torch.enable_grad():
        encoded(step.code, given)  # what is decoded next may be scaled as this was
        inner = shown.detach().to(flat.device).requires_grad_()
        back = decoded(step.code, inner, given)
        (found,) = torch.autograd.grad(back, inner, flat.to(back.dtype))
    return found.float()


# Bodies


def forward(program: ForwardProgram) -> Saved:  # noqa: PLR0912, PLR0915  # a trace is one body
    """One forward pass, with a backward pass where there is a measure or a slope."""
    import nnsight
    import torch

    # Plain locals: the block is taken from its source, and finds them in this frame.
    root, steps, head, idle, rows = program.root, program.steps, program.head, program.idle, program.rows
    measure: Any = program.measure
    slope: Any = program.slope
    leaf, narrow = program.leaf, program.narrow
    columns, targets, size, n_text, stop = program.columns, program.targets, program.size, program.n_text, program.stop
    whole, whole_head, through = program.whole, program.whole_head, program.through
    likely = program.likeliest
    backward = leaf is None and (measure is not None or slope is not None)
    graph = backward or leaf is not None
    with torch.set_grad_enabled(graph), root.trace(fn=program.call, **program.moved) as tracer:
        vectors = nnsight.save([])
        shapes = nnsight.save([])
        values = nnsight.save([])
        wrong = nnsight.save([])
        likeliest = nnsight.save([])
        gradients = nnsight.save([])
        sources: list[Any] = []
        read_at: list[Any] = []
        encodes: list[Any] = []
        kept: dict[str, Any] = {}
        for step in steps:
            if step.instead is not None:
                step.module.skip(step.instead)
                continue
            hidden, flat, shape, otherwise = rewritten(step, step.rows, step.edits, kept, leaf=backward)
            if otherwise is not None:
                wrong.append((step.tower, *otherwise))
                if whole:
                    break
                tracer.stop()  # the indices were made for another layout: they would pick the wrong tokens
            if step.read:
                shapes.append(shape)
                vectors.append(pooled(flat, step))
                if backward:
                    sources.append(hidden)
                    read_at.append(step)
                    encodes.append(kept.pop(f"encoded {id(step)}", None))
        if leaf is not None and not wrong:
            measured = measure(vectors)
            values.append(measured.detach())
            if measured.requires_grad:
                inward = torch.autograd.grad(measured.sum(), leaf, allow_unused=True)[0]
                if inward is not None:
                    gradients.append(inward)
            vectors[:] = [vector.detach() for vector in vectors]
        if wrong:
            head = None
        if head is None or rows is None:
            if whole:
                root.output  # noqa: B018  # edits of the user's own are waiting up to there
            elif stop:
                tracer.stop()
            elif idle is not None:
                idle.input = idle.input[:, :1]
        else:
            # The head runs on the wanted positions alone: with a large vocabulary it is most of the work.
            before = head.input
            fits = before.shape[:-1].numel() == n_text
            if not fits and not whole:
                tracer.stop()
            before = before.reshape(1, -1, before.shape[-1])[:, rows.to(before.device)] if fits else before
            if narrow is not None:
                head.skip(torch.nn.functional.linear(before, narrow[0], narrow[1]))
            elif not whole_head:
                head.input = before
            result = root.output
            logits = result.logits if hasattr(result, "logits") else result[0]
            if whole_head and fits:
                logits = logits.reshape(1, -1, logits.shape[-1])[:, rows.to(logits.device)]
            if not fits:
                pass
            elif backward:
                given = logits[0].float()
                measured = measure(given) if measure is not None else (given * slope.to(given.device)).sum(1)
                values.append(measured.detach())
                gradients.extend(slopes(measured, sources, read_at, vectors, encodes, through=through))
            elif likely is not None:
                values.extend(likeliest_tokens(logits[0], likely, size))
            elif columns is not None:
                values.append(logits[0].gather(1, columns.to(logits.device)).float())
            elif targets is None:
                values.append(logits[0].float())
            else:
                for probability, first in scored(logits[0], targets, size):
                    values.append(probability)
                    likeliest.append(first)
    # Plain lists: what the trace saved is marked to be brought home, whoever asked for it.
    return {
        "vectors": list(vectors),
        "shapes": list(shapes),
        "values": list(values),
        "wrong": list(wrong),
        "likeliest": list(likeliest),
        "gradients": list(gradients),
    }


def attention(program: Program) -> Saved:
    """One pass up to the last attention whose weights are read."""
    import nnsight
    import torch

    steps, whole = program.steps, program.whole
    with torch.no_grad(), program.root.trace(fn=program.call, **program.moved) as tracer:
        weights = nnsight.save([])
        wrong = nnsight.save([])
        kept: dict[str, Any] = {}
        for step in steps:
            if step.attends is None:
                otherwise = rewritten(step, step.rows, step.edits, kept)[3]
            else:
                found = attended(step)
                otherwise = (found, "attention weights") if isinstance(found, str) else None
                weights.append(found)
            if otherwise is not None:
                wrong.append((step.tower, *otherwise))
                break
        if whole:
            program.root.output  # noqa: B018
        else:
            tracer.stop()
    return {"weights": list(weights), "wrong": list(wrong)}


def outlines(program: ForwardProgram) -> Saved:
    """One pass up to the last site, for the shape of each as its module has it."""
    import nnsight
    import torch

    steps, whole = program.steps, program.whole
    with torch.no_grad(), program.root.trace(fn=program.call, **program.moved) as tracer:
        shapes = nnsight.save([])
        for step in steps:
            found = step.module.input if step.form[3] else step.module.output
            shapes.append(tuple((found[0] if isinstance(found, tuple | list) else found).shape))
        if not whole:
            tracer.stop()
    return {"shapes": list(shapes), "wrong": []}


def entrance(program: EntranceProgram) -> Saved:
    """One pass up to a block, for its input."""
    import nnsight
    import torch

    block: Any = program.block
    form, steps, whole = program.form, program.steps, program.whole
    with torch.no_grad(), program.root.trace(fn=program.call, **program.moved) as tracer:
        entering = nnsight.save([])
        for step in steps:
            step.module.skip(step.instead)
        placed = by_position(block.input, form)
        entering.append(placed.reshape(-1, placed.shape[-1]).float())
        if not whole:
            tracer.stop()
    return {"entering": list(entering), "wrong": []}


def dependence(program: EntranceProgram) -> Saved:
    """One pass up to a block, for which of some parameters each group of positions of its input depends on."""
    import nnsight
    import torch

    block: Any = program.block
    form, steps, sources, groups = program.form, program.steps, program.sources, program.groups
    whole = program.whole
    with torch.enable_grad(), program.root.trace(fn=program.call, **program.moved) as tracer:
        depends = nnsight.save([])
        for step in steps:
            step.module.skip(step.instead)
        placed = by_position(block.input, form)
        flat = placed.reshape(-1, placed.shape[-1]).float()
        # The sum over a normalized vector does not depend on anything; one with uneven factors does.
        uneven = torch.linspace(-1, 1, flat.shape[-1], device=flat.device).cos().cumsum(0).sin()
        for group in groups:
            gradients: Any = [None] * len(sources)
            if flat.requires_grad:
                value = (flat[group.to(flat.device)] * uneven).sum()
                gradients = torch.autograd.grad(value, sources, retain_graph=True, allow_unused=True)
            depends.append([gradient is not None and bool((gradient != 0).any()) for gradient in gradients])
        if not whole:
            tracer.stop()
    return {"depends": list(depends), "wrong": []}


def generation(program: GenerationProgram) -> Saved:
    """One generation, with edits of the prompt and of every new token."""
    import contextlib
    import warnings

    import nnsight
    import torch
    from nnsight.intervention.interleaver import OutOfOrderError

    fed_to: Any = program.fed_to
    prompt, after, ids, whole = program.prompt, program.after, program.ids, program.whole
    with torch.no_grad(), warnings.catch_warnings():
        # An open loop ends with the generation, and nnsight says so.
        warnings.filterwarnings("ignore", message=".*was never reached: the loop asked for a step")
        with program.root.trace(fn="generate") as tracer:
            with tracer.invoke(**program.moved, **program.settings):
                fed = nnsight.save([])
                wrong = nnsight.save([])
                for number in tracer.iter[:]:
                    if number > 0:
                        fed.append(tuple((fed_to.inputs[1][ids] if ids else fed_to.input).shape))
                    kept: dict[str, Any] = {}
                    for step in [] if wrong else prompt if number == 0 else after:
                        now = step.edits if number == 0 else at_step(step.edits, number - 1)
                        otherwise = rewritten(step, 1, now, kept, number=number - 1)[3]
                        if otherwise is not None:
                            wrong.append((step.tower, *otherwise))
                            if whole:
                                break
                            tracer.stop()  # a pass over one token that reads all of the text again, or another layout
            # A block of its own: the loop waits for one more step until the generation is over.
            with tracer.invoke():
                made, steps = nnsight.save([]), nnsight.save([])
                with contextlib.suppress(OutOfOrderError):  # stopped above
                    result = tracer.result
                    made.append(getattr(result, "sequences", result))
                    if program.details:
                        steps.append([[row.float() for row in getattr(result, name, ())] for name in program.details])
    # Each pass gives one token, the last of which no pass reads.
    tokens = [each[0, -len(fed) - 1 :].tolist() for each in made]
    return {"tokens": tokens, "steps": list(steps), "wrong": list(wrong)}


def at_step(edits: Sequence[Edit], number: int) -> list[Any]:
    """The edits of one new token, of which some have a row of ``b`` for each."""
    import types

    return [
        types.SimpleNamespace(**{**vars(edit), "b": edit.b[number] if edit.b.ndim == 2 else edit.b}) for edit in edits
    ]


def calls(program: Program) -> Saved:
    """One pass that notes which of some modules run, in which order, how often, and on what shapes."""
    import torch

    steps, whole = program.steps, program.whole or not program.stop
    with torch.no_grad(), program.root.trace(fn=program.call, **program.moved) as tracer:
        # On the meta device a copy has a shape and holds nothing.
        cache = tracer.cache(modules=[step.module for step in steps], device="meta", include_inputs=True)
        if whole:
            program.root.output  # noqa: B018  # runs to the end
        else:
            steps[-1].module.output  # noqa: B018
            tracer.stop()
    numbers = {step.module.path: number for number, step in enumerate(steps)}
    made = []
    for path in cache.keys():  # noqa: SIM118  # not a mapping
        visits = len(cache[path])
        if visits == 1:
            ends = [cache[path].input, cache[path].output]
            ends = [end[0] if isinstance(end, tuple | list) and len(end) else end for end in ends]
            shapes = [tuple(end.shape) if isinstance(end, torch.Tensor) else None for end in ends]
            made.append((numbers[path], 1, *shapes))
        else:
            made.append((numbers[path], visits, None, None))
    return {"calls": made, "wrong": []}


def glimpses(program: Program) -> Saved:
    """A few positions of some sites, in float32 on the CPU: the first, the last, and some between."""
    import nnsight
    import torch

    steps, whole = program.steps, program.whole or not program.stop
    with torch.no_grad(), program.root.trace(fn=program.call, **program.moved) as tracer:
        seen = nnsight.save([])
        for step in steps:
            value = step.module.input if step.form[3] else step.module.output
            hidden = value[0] if isinstance(value, tuple | list) else value
            placed = by_position(hidden, step.form)
            flat = placed.reshape(-1, placed.shape[-1])
            index: Any = step.index
            # A copy, since some blocks add in place.
            seen.append(flat[index.to(flat.device)].float().cpu())
        if whole:
            program.root.output  # noqa: B018
        else:
            tracer.stop()
    return {"seen": list(seen), "wrong": []}


def walk(root: Envoy, moved: Mapping[str, Any], block: Envoy, head: Envoy | None) -> None:
    """One trace to the end of the forward pass, with next to nothing for the head to do."""
    import torch

    with torch.no_grad(), root.trace(**moved):
        if head is None:
            block.output  # noqa: B018  # nnsight counts visits while something is asked for
        else:
            head.input = head.input[:, :1]


def plain_logits(program: GenerationProgram) -> torch.Tensor:
    """The logits of the prompt of a generation, without any edit of it."""
    import torch

    with torch.no_grad():
        output = program.root._module(**program.moved)
    logits: torch.Tensor = output.logits if hasattr(output, "logits") else output[0]
    return logits


def opened(root: Envoy, tracer: Any, call: str, given: Mapping[str, Any]) -> Any:
    """A trace that the user enters, whose body is the user's own; see :mod:`modalnet.execution.user_trace`."""
    return root.trace(fn=call, tracer_cls=tracer, **given)


# Jobs


def session(
    envoy: Envoy, backend: Any, programs: Sequence[Program], reductions: Sequence[Reduction | None]
) -> tuple[list[Saved], Sums]:
    """Run programs in one nnsight session: one job.

    Parameters
    ----------
    envoy
        The whole model.
    backend
        The nnsight backend that the session is handed to.
    programs
        With packed inputs (:func:`modalnet.execution.packing.packed`), on the CPU.
    reductions
        For each program, how its vectors are reduced before they come back; None to bring them back.

    Returns
    -------
    saved, sums
        What each body saved, and the moments of the reduced ones.
    """
    import nnsight

    # The precision that inputs are put in is that of a weight of the server's model.
    floating = (name for name, p in envoy._module.named_parameters() if p.is_floating_point())
    path, _, weight = next(floating, "").rpartition(".")
    holder = envoy.get(path) if path else envoy
    pairs = list(zip(programs, reductions, strict=True))
    found: list[Any] = []
    sums: dict[str, Any] = {}
    with envoy.session(backend=backend):
        found = nnsight.save([])
        sums = nnsight.save({})
        # A server that runs jobs apart from the model has no weights at hand. It casts by itself, and knows the
        # forward pass by the name that nnsight's wrapper of transformers models has for it.
        known: Any = getattr(holder._module, weight or "weight", None)
        apart = known is None or known.device.type == "meta"
        dtype = None if apart else known.dtype
        for program, reduction in pairs:
            if apart and program.call:
                # There a trace that was stopped leaves no way to run another in the same session (ndif 0.1.2), so the
                # passes run to their end, with next to nothing for the head to do.
                program.call, program.stop = "_call", False
            for step in () if apart else program.steps:
                if step.instead is not None:
                    step.instead = step.instead.to(known.device, known.dtype)
            program.moved = {name: unpacked(value, dtype) for name, value in program.moved.items()}
            saved = program.body(program)
            if reduction is not None and not saved["wrong"]:
                gathered(sums, saved.pop("vectors"), reduction)
            found.append(saved)
    return found, sums
