"""Runs a plan in one nnsight trace. This is the only file of modalnet in which a trace is opened.

The trace asks for the plan's sites in the order in which the forward pass reaches them, pools each one where it is (on
the model's device, in float32) and stops after the last, so that neither later blocks nor the LM head run unless
something needs them. Inside the trace there are only envoys, tensors and plain Python: what nnsight can send to a
server unchanged. Where the model is on a server (see :mod:`modalnet.interventions.remote`), the same traces run there,
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

from modalnet.architecture.towers import FORWARD_ORDER
from modalnet.errors import InputError, ModalnetError, RemoteError
from modalnet.interventions.plan import Plan

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    import torch
    from jaxtyping import Bool, Float

    from modalnet.architecture.towers import Tower
    from modalnet.interventions.plan import Pool, Write
    from modalnet.interventions.remote import Remote


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


class LayoutError(ModalnetError):
    """A tower holds another number of positions than the plan's indices were made for."""


@dataclass
class Reading:
    """What one forward pass gave.

    Attributes
    ----------
    residual
        Per tower, float32 on the CPU: ``[stimulus, layer, dim]`` where the plan pools, otherwise
        ``[layer, position, dim]`` with every flat position.
    shapes
        Per tower, the shape of a block's output in this batch.
    logits
        ``[position, vocab]`` at the plan's logit rows, float32 on the CPU; None where not asked for.
    logprob, likeliest
        ``[position]`` at the plan's logit rows: of its targets, the natural-log probability, and whether no token is
        likelier; None where the plan has no targets.
    picked
        ``[position, token]``: the logits at the plan's columns; None where it has none.
    gradient
        Per tower, ``[layer, position, dim]``: of the measure with respect to each position that is read.
    measured
        ``[value]``: what the measure gave.
    inward
        In the shape of an input: of the measure with respect to it; None where that was not asked for.
    """

    residual: dict[str, Float[torch.Tensor, "_ _ dim"]] = field(default_factory=dict)
    shapes: dict[str, tuple[int, ...]] = field(default_factory=dict)
    logits: Float[torch.Tensor, "position vocab"] | None = None
    logprob: Float[torch.Tensor, " position"] | None = None
    likeliest: Bool[torch.Tensor, " position"] | None = None
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

        head = self.module.get_output_embeddings()
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
            See :func:`modalnet.interventions.remote.gathered`, also for what comes back.
        """
        programs = self._programs(asked)
        for program, (_, plan), members in zip(programs, asked, groups, strict=True):
            towers = [(sites.tower.name, len(sites.layers)) for sites, _ in plan.reads]
            program["reduction"] = (towers, list(members), n_groups, absolute)
        saved, sums = self._session(self._forward, programs)
        for one in saved:
            for name, found, expected in one["wrong"]:
                raise LayoutError(f"the {name} tower holds {found} positions, {expected} were expected")
        return sums

    def _programs(self, asked: Sequence[tuple[dict[str, Any], Plan]]) -> list[dict[str, Any]]:
        """Programs as they are sent; inputs that several share are sent once."""
        from modalnet.interventions.remote import packed

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

        from modalnet.interventions.remote import gathered, unpacked

        assert self.remote is not None
        # The precision that inputs are put in is that of a weight of the server's model.
        floating = (name for name, p in self.module.named_parameters() if p.is_floating_point())
        path, _, weight = next(floating, "").rpartition(".")
        holder = self.envoy.get(path) if path else self.envoy
        root: Any = self.envoy
        forward, call = run is self._forward, run in (self._forward, self._entrance)
        has_head = getattr(self.module, "get_output_embeddings", lambda: None)() is not None
        idle = self.head() if has_head else None
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
        indices = {sites.tower.name: self._index(pool) for sites, pool in plan.reads}
        # One entry per block, in forward order: (envoy, what stands in for its output, tower, expected positions,
        # edits, whether to read, index, lengths).
        steps: list[tuple[Any, ...]] = []
        for tower, layer, writes, pool in plan.steps():
            edits = [self._edit(write) for write in writes]
            kept = pool is not None and pool.index is not None
            expected = writes[0].n_positions if writes else pool.n_positions if pool and kept else None
            lengths = None if pool is None or pool.lengths is None else pool.lengths.tolist()
            index = None if pool is None else indices[tower.name]
            block = self.envoy.get(tower.paths[layer])
            steps.append((block, None, tower.name, expected, edits, pool is not None, index, lengths))
        steps += self._skips(plan)
        # Of each tower the skipped blocks come first; sorting is stable, so blocks keep their order.
        steps.sort(key=lambda step: (FORWARD_ORDER.index(step[2]), step[1] is None))
        rows: Any = plan.logit_rows
        size = self._rows_at_once()
        n_text = plan.n_text_positions
        targets: Any = plan.targets
        columns: Any = plan.columns
        head: Any = self.head() if rows is not None else None
        root = self.envoy.get(plan.root) if plan.root else self.envoy
        moved = {name: self._place(value) for name, value in inputs.items()}
        if self._caches and not plan.root:
            moved["use_cache"] = False
        return {
            "root": root,
            "moved": moved,
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
        """One trace. It knows neither this class nor anything of modalnet but ``edited``, so that it can be sent."""
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
            for block, instead, name, expected, edits, read, index, lengths in steps:
                if instead is not None:
                    block.skip(instead)
                    continue
                output = block.output
                hidden = output[0] if isinstance(output, tuple | list) else output
                if backward and not sources and not hidden.requires_grad:
                    # With frozen weights nothing before the first site asks for a gradient.
                    hidden = hidden.detach().requires_grad_()
                    block.output = (hidden, *output[1:]) if isinstance(output, tuple | list) else hidden
                flat = hidden.reshape(-1, hidden.shape[-1])
                if expected is not None and flat.shape[0] != expected:
                    wrong.append((name, flat.shape[0], expected))
                    tracer.stop()  # the indices were made for another layout: they would pick the wrong tokens
                if edits:
                    flat = edited(flat, edits)
                    hidden = flat.reshape(hidden.shape)
                    block.output = (hidden, *output[1:]) if isinstance(output, tuple | list) else hidden
                if not read:
                    continue
                shapes.append(tuple(hidden.shape))
                if backward:
                    sources.append(hidden)
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
                    for source, gradient in zip(  # noqa: B905
                        sources, torch.autograd.grad(measured.sum(), sources, allow_unused=True)
                    ):
                        found = torch.zeros_like(source) if gradient is None else gradient
                        gradients.append(found.reshape(-1, found.shape[-1]).float())
                elif columns is not None:
                    values.append(logits[0].gather(1, columns.to(logits.device)).float())
                elif targets is None:
                    values.append(logits[0].float())
                else:
                    # A few rows at a time: in float32 a large vocabulary takes a megabyte a row.
                    for part, wanted in zip(logits[0].split(size), targets.to(logits.device).split(size)):  # noqa: B905
                        logp = part.float().log_softmax(1)
                        values.append(logp.gather(1, wanted[:, None])[:, 0])
                        likeliest.append(values[-1] == logp.amax(1))
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

        for name, found, expected in saved["wrong"]:
            raise LayoutError(f"the {name} tower holds {found} positions, {expected} were expected")
        values = saved["values"]
        reading = self._gather(plan, saved["vectors"], saved["shapes"])
        if plan.logit_rows is not None:
            if not values:
                raise LayoutError("the LM head does not see one vector per text token")
            if saved["gradients"]:
                reading.measured = values[0].cpu()
                reading.gradient = self._gather(plan, saved["gradients"], saved["shapes"]).residual
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
        head = self.module.get_output_embeddings() if hasattr(self.module, "get_output_embeddings") else None
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
                steps.append((self.envoy.get(path), instead, prefix.tower.name, None, (), False, None, None))
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
        program = {"root": root, "moved": moved, "steps": self._skips(plan), "block": block}
        run = self._entrance
        saved = run(**program) if self.remote is None else self._session(run, [program])[0][0]
        return saved["found"][0].cpu()

    @staticmethod
    def _entrance(
        root: Any, moved: dict[str, Any], steps: Sequence[tuple[Any, ...]], block: Any, call: str = "__call__"
    ) -> dict[str, Any]:
        """One trace up to a block; see :meth:`_forward`."""
        import nnsight
        import torch

        with torch.no_grad(), root.trace(fn=call, **moved) as tracer:
            found = nnsight.save([])
            for envoy, instead, *_ in steps:
                envoy.skip(instead)
            hidden = block.input
            found.append(hidden.reshape(-1, hidden.shape[-1]).float())
            tracer.stop()
        return {"found": list(found), "wrong": []}

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
            (b, w[0].tower.name, w[0].n_positions, [self._edit(one) for one in w]) for b, w in self._blocks(writes)
        ]
        after = [(block, [self._edit(one) for one in found]) for block, found in self._blocks(later)]
        moved = {name: self._place(value) for name, value in inputs.items()}
        # The whole model is no place to look at: some hand their decoder embeddings and let that one generate.
        embedding = self._at(self.module.get_input_embeddings())
        # A token is seen when it is fed to the next pass, so one pass more tells the last one; this is exact however
        # transformers chooses tokens.
        settings["max_new_tokens"] += 1
        program = {
            "root": self.envoy,
            "moved": moved,
            "settings": settings,
            "prompt": prompt,
            "after": after,
            "embedding": embedding,
        }
        run = self._generation
        saved = run(**program) if self.remote is None else self._session(run, [program])[0][0]
        for name, found, expected in saved["wrong"]:
            raise LayoutError(f"the {name} tower holds {found} positions, {expected} were expected")
        return [int(ids[0, -1]) for ids in saved["fed"]]

    @staticmethod
    def _generation(  # noqa: PLR0917  # as above
        root: Any,
        moved: dict[str, Any],
        settings: dict[str, Any],
        prompt: Sequence[tuple[Any, ...]],
        after: Sequence[tuple[Any, ...]],
        embedding: Any,
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
                        for block, name, expected, edits in prompt:
                            output = block.output
                            hidden = output[0] if isinstance(output, tuple | list) else output
                            flat = hidden.reshape(-1, hidden.shape[-1])
                            if flat.shape[0] != expected:
                                wrong.append((name, flat.shape[0], expected))
                                tracer.stop()
                            hidden = edited(flat, edits).reshape(hidden.shape)
                            block.output = (hidden, *output[1:]) if isinstance(output, tuple | list) else hidden
                    else:
                        fed.append(embedding.input)
                        for block, edits in after:
                            output = block.output
                            hidden = output[0] if isinstance(output, tuple | list) else output
                            flat = hidden.reshape(-1, hidden.shape[-1])
                            now = [(w, d, v, a, b[step - 1] if b.ndim == 2 else b) for w, d, v, a, b in edits]
                            hidden = edited(flat, now).reshape(hidden.shape)
                            block.output = (hidden, *output[1:]) if isinstance(output, tuple | list) else hidden
        return {"fed": list(fed), "wrong": list(wrong)}

    def _blocks(self, writes: Sequence[Write]) -> list[tuple[Any, list[Write]]]:
        """The envoys of the blocks that are written to, in forward order, with their writes."""
        steps = Plan((), writes=tuple(writes)).steps()
        return [(self.envoy.get(tower.paths[layer]), list(here)) for tower, layer, here, _ in steps]

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
        """Bring what a trace saved to the CPU, one transfer per tower."""
        import torch

        reading = Reading()
        done = 0
        for sites, pool in plan.reads:
            name, count = sites.tower.name, len(sites.layers)
            found = shapes[done : done + count]
            for shape in found:
                if shape[-1] != sites.tower.width:
                    raise ModalnetError(
                        f"a block of the {name} tower puts out width {shape[-1]}, but its units were counted with "
                        f"width {sites.tower.width}. Please report this model."
                    )
            read = vectors[done : done + count]
            device = read[0].device
            stacked = torch.stack([vector.to(device) for vector in read]).cpu()
            reading.residual[name] = stacked if pool.index is None else stacked.transpose(0, 1).contiguous()
            reading.shapes[name] = found[0]
            done += count
        return reading

    def head(self) -> Any:
        """The envoy of the LM head; an InputError where the model has none."""
        head = self.module.get_output_embeddings() if hasattr(self.module, "get_output_embeddings") else None
        if head is None:
            raise InputError(
                f"{type(self.module).__name__} has no LM head, so it gives no logits. Load the model with its head "
                "(a ...ForCausalLM or ...ForConditionalGeneration class)."
            )
        return self._at(head)

    def _at(self, module: Any) -> Any:
        """The envoy of a module."""
        return self.envoy.get(next(path for path, sub in self.module.named_modules() if sub is module))

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
