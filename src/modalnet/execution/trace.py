"""Runs a plan in one nnsight trace. This is the only file of modalnet in which a trace is opened.

The trace asks for the plan's sites in the order in which the forward pass reaches them, pools each one where it is (on
the model's device, in float32) and stops after the last, so that neither later blocks nor the LM head run unless
something needs them. Inside the trace there are only envoys, tensors and plain Python: what nnsight can send to a
server unchanged. Where the model is on a server (:mod:`modalnet.execution.backends.ndif`), the same traces run there,
several of them in one session, and what a session reads can be reduced before it comes back.

Two things make one pass cheaper or richer. A plan's *prefixes* stand in for blocks that an earlier pass ran, which are
then skipped; and with a *measure* of the logits the pass goes backward too, to the gradient at every site that is read.
Or the measure is of what is read, and the pass goes back to an input, such as pixels (:meth:`Engine.inward`).
"""

from __future__ import annotations

import contextlib
import inspect
import linecache
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from modalnet.errors import InputError, ModalnetError, RemoteError
from modalnet.execution.plan import Plan
from modalnet.models.sites import Space

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    import torch
    from jaxtyping import Bool, Float

    from modalnet.execution.backends.ndif import Remote
    from modalnet.execution.plan import Pool, Write
    from modalnet.models.towers import Tower


# nnsight reads the body of a trace from its source; this says where that is when the package is imported from a zip.
linecache.lazycache(__file__, globals())
# Logits that are taken to float32 at once: on a CPU as many as its caches hold, which is several times faster.
CPU_LOGITS, GPU_LOGITS = 1 << 21, 1 << 24


def edited(flat: Float[torch.Tensor, "position dim"], edits: Sequence[tuple[Any, ...]]) -> Any:
    """A block's output with edits applied in their order; the values are computed in float32."""
    flat = flat.clone()
    for where, dims, vector, a, b in edits:
        # On a server values arrive on the CPU; indices may stay there.
        b = b.to(flat.device)  # noqa: PLW2901
        if vector is None:
            flat[where, dims] = (a * flat[where, dims].float() + b).to(flat.dtype)
        else:
            vector = vector.to(flat.device)  # noqa: PLW2901
            old = flat[where[:, 0]].float()
            change = (a - 1) * (old @ vector)[:, None] + b
            flat[where[:, 0]] = (old + change * vector).to(flat.dtype)
    return flat


#: How a site lays out its activations: width, number of streams, whether streams come first, whether it is an input.
Form = tuple[int, int, bool, bool]


def site_value(module: Any, form: Form) -> Any:
    """What a site holds: the output of its module, or its input."""
    return module.input if form[3] else module.output


def write_site(module: Any, form: Form, hidden: torch.Tensor, before: Any) -> None:
    """Replace what a site holds, with everything else that a block puts out beside it."""
    after = (hidden, *before[1:]) if isinstance(before, tuple | list) else hidden
    if form[3]:
        module.input = after
    else:
        module.output = after


def by_position(hidden: torch.Tensor, form: Form) -> Any:
    """A site's activations as ``[..., width]``, whatever its own order of dimensions; see ``_form``."""
    width, streams, first, _ = form
    if hidden.shape[-1] == width:
        return hidden
    if streams > 1 and hidden.shape[-1] * streams == width:
        return (hidden.movedim(0, -2) if first else hidden).flatten(-2)
    if hidden.dim() == 4 and hidden.shape[1] == width:  # a convolution's channels
        return hidden.movedim(1, -1)
    return hidden


def as_before(flat: torch.Tensor, hidden: torch.Tensor, form: Form) -> Any:
    """The reverse of ``by_position``: ``[position, width]`` in the shape of a block's output."""
    width, streams, first, _ = form
    if hidden.shape[-1] == width or (streams > 1 and not first):
        return flat.reshape(hidden.shape)
    at, to = (0, -2) if streams > 1 else (1, -1)
    return flat.reshape(hidden.movedim(at, to).shape).movedim(to, at)


class LayoutError(ModalnetError):
    """A tower holds another number of positions than the plan's indices were made for."""


class RowsError(LayoutError):
    """A text tower does not keep each stimulus of a batch in a row of its own."""


def misplaced(placed: torch.Tensor, expected: tuple[int | None, int]) -> Any:
    """How a block's positions lie and how they were expected to, in words; None where they lie so.

    What is expected is a number of positions (None: any) and of rows (at most 1: any).
    """
    positions, rows = expected
    found = placed.shape[:-1].numel()
    if positions is not None and found != positions:
        return f"{found} positions", f"{positions}"
    if rows > 1 and placed.dim() > 2 and placed.shape[0] != rows:
        return f"{placed.shape[0]} rows", f"{rows}"
    return None


@dataclass
class Reading:
    """What one forward pass gave.

    Attributes
    ----------
    activations
        Per space, float32 on the CPU: ``[stimulus, layer, dim]`` where the plan pools, otherwise
        ``[layer, position, dim]`` with every flat position.
    shapes
        Per space, the shape of a site's activations in this batch.
    logits
        ``[position, vocab]`` at the plan's logit rows, float32 on the CPU; None where not asked for.
    logprob, likeliest
        ``[target]`` at the plan's logit rows: of its targets, the natural-log probability, and whether no token is
        likelier; None where the plan has no targets.
    picked
        ``[position, token]``: the logits at the plan's columns; None where it has none.
    gradient
        Per space, ``[layer, position, dim]``: of the measure with respect to each position that is read.
    measured
        ``[value]``: what the measure gave.
    inward
        In the shape of an input: of the measure with respect to it; None where that was not asked for.
    """

    activations: dict[str, Float[torch.Tensor, "_ _ dim"]] = field(default_factory=dict)
    shapes: dict[str, tuple[int, ...]] = field(default_factory=dict)
    logits: Float[torch.Tensor, "position vocab"] | None = None
    logprob: Float[torch.Tensor, " target"] | None = None
    likeliest: Bool[torch.Tensor, " target"] | None = None
    picked: Float[torch.Tensor, "position token"] | None = None
    gradient: dict[str, Float[torch.Tensor, "layer position dim"]] = field(default_factory=dict)
    measured: Float[torch.Tensor, " value"] | None = None
    inward: Float[torch.Tensor, "..."] | None = None


class Engine:
    """Runs plans on one model.

    Parameters
    ----------
    module
        A torch module.
    envoy
        An nnsight model around it, if the user has one; its stored edits then apply.
    remote
        Where the model is on a server; ``module`` then only says how it is built.
    """

    def __init__(self, module: Any, envoy: Any = None, remote: Remote | None = None) -> None:
        import nnsight

        self.remote = remote

        # A TransformersModel would pad and collate the inputs again; the inputs here are final, so a plain wrapper
        # of the same module runs them as they are.
        if envoy is not None and getattr(envoy, "_edits", None):
            if type(envoy) is not nnsight.NNsight:
                raise InputError(
                    f"this {type(envoy).__name__} carries edits, which modalnet cannot run in the same trace. Wrap the "
                    "module in nnsight.NNsight and make the edits there, or clear them with clear_edits()."
                )
            self.envoy = envoy
        else:
            self.envoy = nnsight.NNsight(module)
        self.module = module
        self._found: dict[Any, Any] = {}
        self._narrows: bool | None = None  # whether a head can give a few columns alone; None until it was tried

    def run(
        self, inputs: dict[str, Any], plan: Plan, measure: Callable[[torch.Tensor], torch.Tensor] | None = None
    ) -> Reading:
        """One forward pass, and a backward pass where there is a measure.

        Parameters
        ----------
        inputs
            Model inputs, on any device.
        plan
            What to read.
        measure
            From the logits at the plan's rows, ``[position, vocab]``, to values whose sum is differentiated. The plan's
            reads must not pool then, and no parameter's gradient is touched.

        Raises
        ------
        InputError
            If these inputs make the model leave out a block that the plan reads.
        LayoutError
            If a tower holds another number of positions than the plan expects.
        """
        from nnsight.intervention.interleaver import OutOfOrderError

        if self.remote is not None:
            return self.run_many([(inputs, plan)])[0] if measure is None else self._slope(inputs, plan, measure)
        try:
            if plan.columns is not None and self._narrows is not False and measure is None:
                return self._narrowly(inputs, plan)
            return self._reading(plan, self._forward(**self._program(inputs, plan), measure=measure))
        except OutOfOrderError as error:
            raise self._left_out(error, inputs) from error

    def _narrowly(self, inputs: dict[str, Any], plan: Plan) -> Reading:
        """A pass whose head gives a few columns of the vocabulary and no others: with a large one, half of the work.

        What a model does to its logits afterwards (scaling, capping) is then done to those few, which is the same as
        long as it is done to each by itself; so the first pass of a model is run both ways.
        """
        import torch

        head = output_head(self.module)
        if type(head) is not torch.nn.Linear:
            self._narrows = False
            return self.run(inputs, plan)
        assert plan.columns is not None
        tokens, places = torch.unique(plan.columns, return_inverse=True)
        bias = None if head.bias is None else head.bias[tokens.to(head.weight.device)]
        narrow = head.weight[tokens.to(head.weight.device)], bias
        program = {**self._program(inputs, plan), "columns": places}
        if self._narrows:
            return self._reading(plan, self._forward(**program, narrow=narrow))
        self._narrows = False
        whole = self.run(inputs, plan)
        with contextlib.suppress(RuntimeError, IndexError, ValueError):
            found = self._reading(plan, self._forward(**program, narrow=narrow)).picked
            assert found is not None
            assert whole.picked is not None
            close = 2e-2 if head.weight.dtype.itemsize < 4 else 1e-3
            self._narrows = bool(torch.allclose(found, whole.picked, atol=close, rtol=close))
        return whole

    def _slope(self, inputs: dict[str, Any], plan: Plan, measure: Callable[[torch.Tensor], torch.Tensor]) -> Reading:
        """A measure's gradient on a server that cannot be sent the measure.

        The logits come home, and the measure is differentiated by them here; that gradient goes back up, and the server
        takes it on to the sites.
        """
        import torch

        logits = self.run_many([(inputs, replace(plan, reads=()))])[0].logits
        assert logits is not None
        with torch.enable_grad():
            logits.requires_grad_()
            measured = measure(logits)
            (slope,) = torch.autograd.grad(measured.sum(), logits)
        (program,) = self._programs([(inputs, plan)])
        (saved,), _ = self._session(self._forward, [{**program, "slope": slope}])
        reading = self._reading(plan, saved)
        reading.measured = measured.detach()
        return reading

    def inward(
        self,
        inputs: dict[str, Any],
        plan: Plan,
        source: str,
        measure: Callable[[Sequence[torch.Tensor]], torch.Tensor],
    ) -> Reading:
        """One forward pass up to the last site that is read, and back from there to an input.

        Parameters
        ----------
        inputs
            Model inputs, on any device.
        plan
            What to read; its reads pool.
        source
            Which input, such as ``"pixel_values"``: floats.
        measure
            From what is read, one ``[stimulus, dim]`` per site in forward order, to values whose sum is differentiated.
            No parameter's gradient is touched.

        Raises
        ------
        InputError
            If nothing that is read depends on the input, or these inputs make the model leave out a block.
        """
        from nnsight.intervention.interleaver import OutOfOrderError

        assert self.remote is None
        program = self._program(inputs, plan)
        leaf = program["moved"][source] = program["moved"][source].detach().requires_grad_()
        try:
            saved = self._forward(**program, measure=measure, leaf=leaf)
        except OutOfOrderError as error:
            raise self._left_out(error, inputs) from error
        reading = self._reading(plan, saved)
        if not saved["gradients"]:
            raise InputError(
                f"nothing that is read of {type(self.module).__name__} can be traced back to {source}: its forward "
                "pass keeps no gradient on the way, or does not use it."
            )
        reading.measured, reading.inward = saved["values"][0].cpu(), saved["gradients"][0].float().cpu()
        return reading

    def run_many(self, asked: Sequence[tuple[dict[str, Any], Plan]]) -> list[Reading]:
        """Several forward passes; on a server they are one job. Errors are those of :meth:`run`."""
        if self.remote is None:
            return [self.run(inputs, plan) for inputs, plan in asked]
        saved, _ = self._session(self._forward, self._programs(asked))
        return [self._reading(plan, one) for (_, plan), one in zip(asked, saved, strict=True)]

    def reduce(
        self,
        asked: Sequence[tuple[dict[str, Any], Plan]],
        groups: Sequence[Sequence[int]],
        n_groups: int,
        *,
        absolute: bool,
    ) -> dict[str, dict[str, torch.Tensor]]:
        """Several forward passes in one job, of which only moments come back.

        Parameters
        ----------
        asked
            Inputs and plans, which pool.
        groups
            Per pass, the group of each stimulus.
        n_groups, absolute
            See :func:`modalnet.execution.backends.ndif.gathered`, also for what comes back.
        """
        programs = self._programs(asked)
        for program, (_, plan), members in zip(programs, asked, groups, strict=True):
            program["reduction"] = (plan.names(), list(members), n_groups, absolute)
        saved, sums = self._session(self._forward, programs)
        for one in saved:
            _follow(one["wrong"])
        return sums

    def _programs(self, asked: Sequence[tuple[dict[str, Any], Plan]]) -> list[dict[str, Any]]:
        """Programs as they are sent; inputs that several share are sent once."""
        from modalnet.execution.backends.ndif import packed

        done: dict[int, Any] = {}
        programs = []
        for inputs, plan in asked:
            program = self._program(inputs, plan)
            moved = {}
            for name, value in program["moved"].items():
                if id(value) not in done:
                    done[id(value)] = packed(value)
                moved[name] = done[id(value)]
            programs.append({**program, "moved": moved})
        return programs

    def _session(self, run: Any, programs: Sequence[dict[str, Any]]) -> tuple[list[Any], dict[str, Any]]:
        """One job: every program through ``run`` on the server, and the moments of those that are to be reduced."""
        import nnsight

        from modalnet.execution.backends.ndif import gathered, unpacked

        assert self.remote is not None
        # The precision that inputs are put in is that of a weight of the server's model.
        floating = (name for name, p in self.module.named_parameters() if p.is_floating_point())
        path, _, weight = next(floating, "").rpartition(".")
        holder = self.envoy.get(path) if path else self.envoy
        root: Any = self.envoy
        forward, call = run is self._forward, run in (self._forward, self._entrance)
        idle = self.head() if output_head(self.module) is not None else None
        found: list[Any] = []
        sums: dict[str, Any] = {}
        try:
            with root.session(backend=self.remote.backend(self.module, root)):
                found = nnsight.save([])
                sums = nnsight.save({})
                # A server that runs jobs apart from the model has no weights at hand. It casts by itself, and knows the
                # forward pass by the name that nnsight's wrapper of transformers models has for it.
                known: Any = getattr(holder._module, weight or "weight", None)
                apart = known is None or known.device.type == "meta"
                dtype = None if apart else known.dtype
                # There a trace that was stopped leaves no way to run another in the same session (ndif 0.1.2), so the
                # passes run to their end, with next to nothing for the head to do.
                there: dict[str, Any] = {"call": "_call"} if apart and call else {}
                if apart and forward:
                    there.update(stop=False, idle=idle)
                for program in programs:
                    reduction = program.pop("reduction", None)
                    if not apart and "steps" in program:
                        program["steps"] = [
                            (envoy, None if instead is None else instead.to(known.device, known.dtype), *rest)
                            for envoy, instead, *rest in program["steps"]
                        ]
                    moved = {name: unpacked(value, dtype) for name, value in program.pop("moved").items()}
                    saved = run(moved=moved, **program, **there)
                    if reduction is not None and not saved["wrong"]:
                        gathered(sums, saved.pop("vectors"), *reduction)
                    found.append(saved)
        except RemoteError as error:
            if "OutOfOrderError" in str(error):
                raise self._left_out(error, programs[0].get("moved", {})) from error
            raise
        return found, sums

    def _left_out(self, error: BaseException, inputs: Mapping[str, Any]) -> InputError:
        """What to say where these inputs make the model leave out a block."""
        path = str(error).split("'")[1] if "'" in str(error) else str(error)
        return InputError(
            f"{type(self.module).__name__} does not run {path} on these inputs ({', '.join(inputs)}): some models "
            "leave blocks out on text without an image. Read other layers, or give stimuli with an image."
        )

    def _program(self, inputs: dict[str, Any], plan: Plan) -> dict[str, Any]:
        """A plan as what a trace takes: envoys, tensors and plain Python."""
        indices = {id(pool): self._index(pool) for _, pool in plan.reads}
        # One entry per site, in forward order: (envoy, what stands in for its output, tower, expected positions and
        # rows, edits, whether to read, index, lengths, form).
        stimuli = len(inputs["input_ids"]) if "input_ids" in inputs else 1
        steps: list[tuple[Any, ...]] = []
        for space, layer, writes, pool in plan.steps():
            tower = space.tower
            edits = [self._edit(write) for write in writes]
            # A pool of no positions is one that asks how many there are.
            positions = writes[0].n_positions if writes else (pool.n_positions or None) if pool else None
            expected = positions, stimuli if tower.modality == "text" else 1
            lengths = None if pool is None or pool.lengths is None else pool.lengths.tolist()
            index = None if pool is None else indices[id(pool)]
            module = self.envoy.get(space.paths[layer])
            steps.append((module, None, tower.name, expected, edits, pool is not None, index, lengths, _form(space)))
        steps += self._skips(plan)
        # Of each tower the skipped blocks come first; sorting is stable, so blocks keep their order.
        touched = [sites.tower for sites, _ in plan.reads] + [write.tower for write in plan.writes]
        order = {tower.name: tower.order for tower in [*touched, *(prefix.tower for prefix in plan.prefixes)]}
        steps.sort(key=lambda step: (order[step[2]], step[1] is None))
        rows: Any = plan.logit_rows
        size = self._rows_at_once()
        n_text = plan.n_text_positions
        targets: Any = _at_once(plan, size)
        columns: Any = plan.columns
        head: Any = self.head() if rows is not None else None
        root = self.envoy.get(plan.root) if plan.root else self.envoy
        return {
            "root": root,
            "moved": self._moved(inputs, plan.root),
            "steps": steps,
            "head": head,
            "rows": rows,
            "n_text": n_text,
            "targets": targets,
            "columns": columns,
            "size": size,
        }

    @staticmethod
    def _forward(  # noqa: PLR0912, PLR0915, PLR0917  # a trace is one body
        root: Any,
        moved: dict[str, Any],
        steps: Sequence[tuple[Any, ...]],
        head: Any,
        rows: Any,
        n_text: int,
        targets: Any,
        columns: Any,
        size: int,
        measure: Any = None,
        slope: Any = None,
        narrow: Any = None,
        leaf: Any = None,
        call: str = "__call__",
        stop: bool = True,
        idle: Any = None,
    ) -> dict[str, Any]:
        """One trace. Of modalnet it knows nothing but the functions above, not even this class, so it can be sent."""
        import nnsight
        import torch

        backward = leaf is None and (measure is not None or slope is not None)
        with torch.set_grad_enabled(backward or leaf is not None), root.trace(fn=call, **moved) as tracer:
            vectors = nnsight.save([])
            shapes = nnsight.save([])
            values = nnsight.save([])
            wrong = nnsight.save([])
            likeliest = nnsight.save([])
            gradients = nnsight.save([])
            sources: list[Any] = []
            forms: list[Any] = []
            for block, instead, name, expected, edits, read, index, lengths, form in steps:
                if instead is not None:
                    block.skip(instead)
                    continue
                output = site_value(block, form)
                hidden = output[0] if isinstance(output, tuple | list) else output
                if backward and not sources and not hidden.requires_grad:
                    # With frozen weights nothing before the first site asks for a gradient.
                    hidden = hidden.detach().requires_grad_()
                    write_site(block, form, hidden, output)
                placed = by_position(hidden, form)
                flat = placed.reshape(-1, placed.shape[-1])
                otherwise = misplaced(placed, expected)
                if otherwise is not None:
                    wrong.append((name, *otherwise))
                    tracer.stop()  # the indices were made for another layout: they would pick the wrong tokens
                if edits:
                    flat = edited(flat, edits)
                    hidden = as_before(flat, hidden, form)
                    write_site(block, form, hidden, output)
                if not read:
                    continue
                shapes.append(tuple(placed.shape))
                if backward:
                    sources.append(hidden)
                    forms.append(form)
                if index is None or lengths is None:
                    vectors.append(flat.detach().float())
                    continue
                if len(index):
                    flat = flat[index.to(flat.device)]
                if min(lengths) == max(lengths):
                    grouped = flat.reshape(len(lengths), lengths[0], flat.shape[-1])
                    vectors.append(grouped.mean(1, dtype=torch.float32))
                else:
                    parts = [part.mean(0, dtype=torch.float32) for part in flat.split(lengths)]
                    vectors.append(torch.stack(parts))
            if leaf is not None:
                measured = measure(vectors)
                values.append(measured.detach())
                if measured.requires_grad:
                    inward = torch.autograd.grad(measured.sum(), leaf, allow_unused=True)[0]
                    if inward is not None:
                        gradients.append(inward)
                vectors[:] = [vector.detach() for vector in vectors]
            if head is None or rows is None:
                if stop:
                    tracer.stop()
                elif idle is not None:
                    idle.input = idle.input[:, :1]
            else:
                # The head runs on the wanted positions alone: with a large vocabulary it is most of the work.
                before = head.input
                if before.shape[:-1].numel() != n_text:
                    tracer.stop()
                before = before.reshape(1, -1, before.shape[-1])[:, rows.to(before.device)]
                if narrow is None:
                    head.input = before
                else:
                    head.skip(torch.nn.functional.linear(before, narrow[0], narrow[1]))
                result = root.output
                logits = result.logits if hasattr(result, "logits") else result[0]
                if backward:
                    given = logits[0].float()
                    measured = measure(given) if measure is not None else (given * slope.to(given.device)).sum(1)
                    values.append(measured.detach())
                    # A site that the logits do not depend on has none.
                    for source, form, gradient in zip(  # noqa: B905
                        sources, forms, torch.autograd.grad(measured.sum(), sources, allow_unused=True)
                    ):
                        found = by_position(torch.zeros_like(source) if gradient is None else gradient, form)
                        gradients.append(found.reshape(-1, found.shape[-1]).float())
                elif columns is not None:
                    values.append(logits[0].gather(1, columns.to(logits.device)).float())
                elif targets is None:
                    values.append(logits[0].float())
                else:
                    # A few rows at a time: in float32 a large vocabulary takes a megabyte a row.
                    for part, (at, wanted) in zip(logits[0].split(size), targets):  # noqa: B905
                        logp = part.float().log_softmax(1)
                        at = at.to(logp.device)  # noqa: PLW2901
                        values.append(logp[at, wanted.to(logp.device)])
                        likeliest.append(values[-1] == logp.amax(1)[at])
        # Plain lists: what the trace saved is marked to be brought home, whoever asked for it.
        return {
            "vectors": list(vectors),
            "shapes": list(shapes),
            "values": list(values),
            "wrong": list(wrong),
            "likeliest": list(likeliest),
            "gradients": list(gradients),
        }

    def _reading(self, plan: Plan, saved: Mapping[str, Any]) -> Reading:
        """What a trace gave, as a reading; a LayoutError where it found another layout."""
        import torch

        _follow(saved["wrong"])
        values = saved["values"]
        reading = self._gather(plan, saved["vectors"], saved["shapes"])
        if plan.logit_rows is not None:
            if not values:
                raise LayoutError("the LM head does not see one vector per text token")
            if saved["gradients"]:
                reading.measured = values[0].cpu()
                reading.gradient = self._gather(plan, saved["gradients"], saved["shapes"]).activations
            elif plan.columns is not None:
                reading.picked = values[0].cpu()
            elif plan.targets is None:
                reading.logits = values[0].cpu()
            else:
                reading.logprob = torch.cat(values).cpu()
                reading.likeliest = torch.cat(saved["likeliest"]).cpu()
        return reading

    def _rows_at_once(self) -> int:
        """How many rows of logits are taken to float32 at once."""
        on_cpu = not self.remote and self._device.type == "cpu"
        return max(1, (CPU_LOGITS if on_cpu else GPU_LOGITS) // self.vocabulary)

    @property
    def vocabulary(self) -> int:
        """How many logits the LM head gives; a guess where it does not say."""
        head = output_head(self.module)
        return head.weight.shape[0] if head is not None and hasattr(head, "weight") else 1 << 18

    def _skips(self, plan: Plan) -> list[tuple[Any, ...]]:
        """The steps of the blocks that a plan skips."""
        steps = []
        for prefix in plan.prefixes:
            for layer, path in enumerate(prefix.tower.paths[: prefix.layer]):
                weight = next(self.module.get_submodule(path).parameters())
                output = prefix.outputs[layer if len(prefix.outputs) > 1 else 0]
                # A server puts it where its model is.
                instead = output if self.remote else output.to(weight.device, weight.dtype)
                steps.append((self.envoy.get(path), instead, prefix.tower.name, None, (), False, None, None, None))
        return steps

    def entering(self, inputs: dict[str, Any], tower: Tower, plan: Plan) -> Float[torch.Tensor, "position dim"]:
        """What goes into the first block of a tower, in float32 on the CPU; no block of it runs.

        Parameters
        ----------
        inputs
            Model inputs.
        tower
            Which tower.
        plan
            Its prefixes stand in for towers before this one.
        """
        block = self.envoy.get(tower.paths[0])
        root = self.envoy.get(plan.root) if plan.root else self.envoy
        moved = {name: self._place(value) for name, value in inputs.items()}
        form = _form(Space(tower))
        program = {"root": root, "moved": moved, "steps": self._skips(plan), "block": block, "form": form}
        run = self._entrance
        saved = run(**program) if self.remote is None else self._session(run, [program])[0][0]
        return saved["found"][0].cpu()

    @staticmethod
    def _entrance(  # noqa: PLR0917  # as above
        root: Any,
        moved: dict[str, Any],
        steps: Sequence[tuple[Any, ...]],
        block: Any,
        form: Any,
        call: str = "__call__",
    ) -> dict[str, Any]:
        """One trace up to a block; see :meth:`_forward`."""
        import nnsight
        import torch

        with torch.no_grad(), root.trace(fn=call, **moved) as tracer:
            found = nnsight.save([])
            for envoy, instead, *_ in steps:
                envoy.skip(instead)
            placed = by_position(block.input, form)
            found.append(placed.reshape(-1, placed.shape[-1]).float())
            tracer.stop()
        return {"found": list(found), "wrong": []}

    def visits(self, inputs: dict[str, Any], root: str, paths: Sequence[str]) -> dict[str, int]:
        """How many times one forward pass, run to its end, comes through each of some modules.

        A trace reads a module's first visit, so a block with more of them must not pass for one of the residual stream.

        Parameters
        ----------
        inputs
            Model inputs of one stimulus.
        root
            Path of the part of the model that runs; empty for all of it.
        paths
            Of the modules.
        """
        from nnsight.intervention.interleaver import OutOfOrderError

        places = {path: f"{self.envoy.get(path).path}.output" for path in paths}
        counts = self.envoy.interleaver.counts
        before = dict(counts)
        head = output_head(self.module) if not root else None
        moved = self._moved(inputs, root)
        if self.remote is not None and not self.remote.simulated:
            # Without its weights here, the model is walked through on the meta device, as far as that leads: masks are
            # looked into for padding, which one stimulus does not have, and positions for packing unless there is a
            # cache.
            for name in ("attention_mask", "use_cache"):
                moved.pop(name, None)
            moved = {name: value.to("meta") if hasattr(value, "to") else value for name, value in moved.items()}
        with contextlib.suppress(OutOfOrderError):  # what the trace waits for is not needed
            self._walk(
                self.envoy.get(root) if root else self.envoy,
                moved,
                self.envoy.get(paths[0]),
                None if head is None else self._at(head),
            )
        return {path: counts.get(place, 0) - before.get(place, 0) for path, place in places.items()}

    @staticmethod
    def _walk(root: Any, moved: dict[str, Any], block: Any, head: Any) -> None:
        """One trace to the end of the forward pass, with next to nothing for the head to do."""
        import torch

        with torch.no_grad(), root.trace(**moved):
            if head is None:
                block.output  # noqa: B018  # nnsight counts visits while something is asked for
            else:
                head.input = head.input[:, :1]

    def generate(
        self, inputs: dict[str, Any], writes: Sequence[Write], later: Sequence[Write], **settings: Any
    ) -> list[int]:
        """Let the model write on, with edits at every step; gives the tokens that it wrote.

        Parameters
        ----------
        inputs
            Model inputs of one stimulus.
        writes
            Edits of the pass over the prompt.
        later
            Edits of each pass over one new token: their ``b`` is ``[dims]``, or ``[step, dims]`` with a row per pass.
        **settings
            For transformers' ``generate``; ``max_new_tokens`` is needed.

        Raises
        ------
        LayoutError
            If a tower holds another number of positions than the edits expect.
        """
        prompt = [
            (b, w[0].tower.name, w[0].n_positions, [self._edit(one) for one in w], _form(w[0].space))
            for b, w in self._blocks(writes)
        ]
        after = [
            (b, w[0].tower.name, [self._edit(one) for one in w], _form(w[0].space)) for b, w in self._blocks(later)
        ]
        moved = {name: self._place(value) for name, value in inputs.items()}
        # Some models hand their decoder embeddings and let that one generate: there the tokens that are fed to a step
        # are seen at the embedding, and otherwise at the model, since an embedding may have other calls.
        from transformers import GenerationMixin

        own = type(self.module).generate is not GenerationMixin.generate
        fed_to = self._at(self.module.get_input_embeddings()) if own else self.envoy
        # A token is seen when it is fed to the next pass, so one pass more tells the last one; this is exact however
        # transformers chooses tokens.
        settings["max_new_tokens"] += 1
        # A config may turn it off; a step that reads one token is what the edits of a step are made for.
        settings.setdefault("use_cache", True)
        program = {
            "root": self.envoy,
            "moved": moved,
            "settings": settings,
            "prompt": prompt,
            "after": after,
            "fed_to": fed_to,
            "ids": "" if own else "decoder_input_ids" if "decoder_input_ids" in inputs else "input_ids",
        }
        run = self._generation
        saved = run(**program) if self.remote is None else self._session(run, [program])[0][0]
        _follow(saved["wrong"])
        tokens = [int(ids[0, -1]) for ids in saved["fed"]]
        # What a model is made to end with comes last where the limit is reached, which is one pass later here.
        forced = getattr(self.module.generation_config, "forced_eos_token_id", None)
        if isinstance(forced, int) and len(tokens) == settings["max_new_tokens"] - 1:
            tokens[-1] = forced
        return tokens

    @staticmethod
    def _generation(  # noqa: PLR0917  # as above
        root: Any,
        moved: dict[str, Any],
        settings: dict[str, Any],
        prompt: Sequence[tuple[Any, ...]],
        after: Sequence[tuple[Any, ...]],
        fed_to: Any,
        ids: str,
    ) -> dict[str, Any]:
        """One trace of a generation; see :meth:`_forward`."""
        import warnings

        import nnsight
        import torch

        with torch.no_grad(), warnings.catch_warnings():
            # An open loop ends with the generation, and nnsight says so.
            warnings.filterwarnings("ignore", message=".*was never reached: the loop asked for a step")
            with root.trace(fn="generate", **moved, **settings) as tracer:
                fed = nnsight.save([])
                wrong = nnsight.save([])
                for step in tracer.iter[:]:
                    if step == 0:
                        for block, name, expected, edits, form in prompt:
                            output = site_value(block, form)
                            hidden = output[0] if isinstance(output, tuple | list) else output
                            placed = by_position(hidden, form)
                            flat = placed.reshape(-1, placed.shape[-1])
                            if flat.shape[0] != expected:
                                wrong.append((name, f"{flat.shape[0]} positions", f"{expected}"))
                                tracer.stop()
                            hidden = as_before(edited(flat, edits), hidden, form)
                            write_site(block, form, hidden, output)
                    else:
                        fed.append(fed_to.inputs[1][ids] if ids else fed_to.input)
                        for block, name, edits, form in after:
                            output = site_value(block, form)
                            hidden = output[0] if isinstance(output, tuple | list) else output
                            placed = by_position(hidden, form)
                            flat = placed.reshape(-1, placed.shape[-1])
                            if flat.shape[0] != 1:
                                wrong.append((name, f"{flat.shape[0]} positions", "1"))
                                tracer.stop()  # it reads all of the text again at every step
                            now = [(w, d, v, a, b[step - 1] if b.ndim == 2 else b) for w, d, v, a, b in edits]
                            hidden = as_before(edited(flat, now), hidden, form)
                            write_site(block, form, hidden, output)
        return {"fed": list(fed), "wrong": list(wrong)}

    def _blocks(self, writes: Sequence[Write]) -> list[tuple[Any, list[Write]]]:
        """The envoys of the sites that are written to, in forward order, with their writes."""
        steps = Plan((), writes=tuple(writes)).steps()
        return [(self.envoy.get(space.paths[layer]), list(here)) for space, layer, here, _ in steps]

    def _index(self, pool: Pool) -> Any:
        """A pool's positions where the model is, moved once for all blocks; empty for every position in order."""
        import torch

        if pool.index is None:
            return None
        everything = torch.equal(pool.index, torch.arange(pool.n_positions))
        return self._place(pool.index[:0] if everything else pool.index)

    def _edit(self, write: Write) -> tuple[Any, ...]:
        """A write as tensors where the model is; values in float32, whatever the model computes in."""
        device = "cpu" if self.remote else self._device
        dims = None if write.dims is None else write.dims.to(device)[None, :]
        vector = None if write.vector is None else write.vector.to(device)
        return write.rows.to(device)[:, None], dims, vector, write.a, write.b.to(device)

    def _gather(self, plan: Plan, vectors: list[Any], shapes: list[Any]) -> Reading:
        """Bring what a trace saved to the CPU, one transfer per space."""
        import torch

        reading = Reading()
        places: dict[str, list[int]] = {}
        for place, name in enumerate(plan.names()):
            places.setdefault(name, []).append(place)
        pools = {sites.name: (sites.space, pool) for sites, pool in plan.reads}
        for name, own in places.items():
            space, pool = pools[name]
            found = [shapes[place] for place in own]
            for shape in found:
                if shape[-1] != space.width:
                    raise ModalnetError(
                        f"a layer of {name} holds {shape[-1]} activations per token, but its units were counted as "
                        f"{space.width}. Please report this model."
                    )
            if pool.index is None and len(set(found)) > 1:
                raise LayoutError(f"layers of {name} hold {[shape[:-1] for shape in found]}")
            device = vectors[own[0]].device
            stacked = torch.stack([vectors[place].to(device) for place in own]).cpu()
            reading.activations[name] = stacked if pool.index is None else stacked.transpose(0, 1).contiguous()
            reading.shapes[name] = found[0]
        return reading

    def head(self) -> Any:
        """The envoy of the LM head; an InputError where the model has none."""
        head = output_head(self.module)
        if head is None:
            raise InputError(
                f"{type(self.module).__name__} has no LM head, so it gives no logits. Load the model with its head "
                "(a ...ForCausalLM or ...ForConditionalGeneration class)."
            )
        return self._at(head)

    def _at(self, module: Any) -> Any:
        """The envoy of a module."""
        # nnsight gives a submodule that is called "output" another name, so a path does not always lead to it.
        if module not in self._found:
            self._found[module] = next(envoy for envoy in self.envoy.modules() if envoy._module is module)
        return self._found[module]

    @property
    def _caches(self) -> bool:
        """Whether the model would fill a key-value cache, which one forward pass has no use for."""
        config: Any = getattr(self.module, "config", None)
        text = config.get_text_config() if hasattr(config, "get_text_config") else config
        takes = inspect.signature(self.module.forward).parameters
        return bool(getattr(text, "use_cache", False)) and "use_cache" in takes

    @property
    def _device(self) -> Any:
        return next(p.device for p in self.module.parameters() if p.device.type != "meta")

    def _moved(self, inputs: Mapping[str, Any], root: str) -> dict[str, Any]:
        """The inputs of one forward pass where the model is."""
        moved = {name: self._place(value) for name, value in inputs.items()}
        if self._caches and not root:
            moved["use_cache"] = False
        return moved

    def _place(self, value: Any) -> Any:
        """Put an input where the model is, in the precision that the model computes in."""
        import torch

        if not isinstance(value, torch.Tensor) or self.remote:
            return value  # the server knows better where its model is
        parameter = next((p for p in self.module.parameters() if p.device.type != "meta"), None)
        device = parameter.device if parameter is not None else value.device
        floating = value.is_floating_point()
        dtype = next((p.dtype for p in self.module.parameters() if p.is_floating_point()), value.dtype)
        return value.to(device=device, dtype=dtype if floating else value.dtype)


def _follow(wrong: Sequence[tuple[str, str, str]]) -> None:
    """Stop where a trace found another layout than its plan was made for."""
    for name, found, expected in wrong:
        kind = RowsError if found.endswith("rows") else LayoutError
        raise kind(f"the {name} tower holds {found}, {expected} were expected")


def output_head(module: Any) -> Any:
    """The LM head of a model, or of the part of it that writes; None where there is none."""
    for sub in module.modules():
        try:
            head = sub.get_output_embeddings()
        except (AttributeError, NotImplementedError):
            continue
        if head is not None:
            return head
    return None


def _at_once(plan: Plan, size: int) -> list[tuple[torch.Tensor, torch.Tensor]] | None:
    """A plan's targets by parts of so many logit rows: where in its part each stands, and its token."""
    import torch

    if plan.targets is None or plan.logit_rows is None:
        return None
    # A negative number would count from the end of the vocabulary and give some other token's probability.
    if bool((plan.targets < 0).any()):
        raise LayoutError("a row does not end with the tokens of its text")
    rows = torch.arange(len(plan.targets)) if plan.target_rows is None else plan.target_rows
    parts = []
    for start in range(0, len(plan.logit_rows), size):
        here = (rows >= start) & (rows < start + size)
        parts.append((rows[here] - start, plan.targets[here]))
    return parts


def _form(space: Space) -> Form:
    """How the sites of a space lay out their activations."""
    tower = space.tower
    # What is inside a block is computed for one stream.
    streams = tower.streams if space.whole else 1
    return space.width, streams, tower.streams_first, space.side == "input"
