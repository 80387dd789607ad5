"""Runs plans on one model: compiled to programs, run by a backend, decoded to readings.

Two things make one pass cheaper or richer. A plan's *prefixes* stand in for blocks that an earlier pass ran, which are
then skipped; and with a *measure* of the logits the pass goes backward too, to the gradient at every site that is read.
Or the measure is of what is read, and the pass goes back to an input, such as pixels (:meth:`Engine.inward`).
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from modalnet.errors import InputError, RemoteError
from modalnet.execution import trace
from modalnet.execution.backends.local import LocalBackend
from modalnet.execution.backends.protocol import DeferredBackend
from modalnet.execution.compile import Compiler, Form, ForwardProgram, Inputs, Program, output_head
from modalnet.execution.generated import Continued
from modalnet.execution.mode import evaluating
from modalnet.execution.plan import Plan, Removal, Write
from modalnet.execution.reading import Reading, check_layout, decode
from modalnet.execution.reduction import Observations, Reduction
from modalnet.execution.turns import claim, turn
from modalnet.execution.user_edits import edits_of, holding

if TYPE_CHECKING:
    import torch
    from jaxtyping import Float, Int
    from nnsight import Envoy

    from modalnet.execution.backends.protocol import Backend
    from modalnet.execution.reduction import Sums
    from modalnet.models.towers import Tower

#: A function of the logits ``[position, vocab]`` whose sum is differentiated.
Measure = Callable[["torch.Tensor"], "torch.Tensor"]


class Engine:
    """Runs plans on one model.

    Parameters
    ----------
    module
        A torch module.
    envoy
        An nnsight model around it, if the user has one; its stored edits then apply.
    backend
        Where its passes run; by default in this process.
    """

    def __init__(self, module: torch.nn.Module, envoy: Envoy | None = None, backend: Backend | None = None) -> None:
        self.module = module
        self.backend: Backend = backend or LocalBackend()
        self.capabilities = self.backend.capabilities
        self.envoy = _wrapped(module, envoy, in_place=self.capabilities.in_place)
        #: What the module was made of; an engine is for these modules alone.
        self.modules = claim(module)
        self.compiler = Compiler(self.envoy, in_place=self.capabilities.in_place)
        self._narrows: bool | None = None  # whether a head can give a few columns alone; None until it was tried
        self._user = envoy

    @property
    def vocabulary(self) -> int:
        """Number of logits of the LM head."""
        return self.compiler.vocabulary

    @property
    def edited(self) -> bool:
        """Whether the user's own nnsight model carries edits, which hold in every pass."""
        return self.compiler.edited

    @property
    def outdated(self) -> bool:
        """Whether the user's own nnsight model got its first edits after this engine was made."""
        return bool(edits_of(self._user)) and self.envoy is not self._user

    def head(self) -> Envoy:
        """The envoy of the LM head; an InputError where the model has none."""
        return self.compiler.head()

    def run(self, inputs: Inputs, plan: Plan, measure: Measure | None = None) -> Reading:
        """One forward pass, and a backward pass where there is a measure.

        Parameters
        ----------
        inputs
            Model inputs, on any device.
        plan
            What to read and write.
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
        if measure is not None and not self.capabilities.measures:
            return self._slope(inputs, plan, measure)
        narrows = self.capabilities.in_place and self._narrows is not False and not self.compiler.head_is_watched()
        if plan.columns is not None and narrows and measure is None:
            return self._narrowly(inputs, plan)
        program = self.compiler.forward(inputs, plan)
        program.measure = measure
        return self._read([program], [plan])[0]

    def run_many(self, passes: Sequence[tuple[Inputs, Plan]]) -> list[Reading]:
        """Several forward passes, as one job where there are jobs. Errors are those of :meth:`run`."""
        if not self.capabilities.jobs:
            return [self.run(inputs, plan) for inputs, plan in passes]
        return self._read(
            [self.compiler.forward(inputs, plan) for inputs, plan in passes], [plan for _, plan in passes]
        )

    def reduce(
        self,
        passes: Sequence[tuple[Inputs, Plan]],
        groups: Sequence[Sequence[int]],
        n_groups: int,
        *,
        absolute: bool,
        observations: Sequence[Observations] | None = None,
    ) -> Sums:
        """Several forward passes in one job, of which only moments come back.

        Parameters
        ----------
        passes
            Inputs and plans, which pool.
        groups
            Per pass, the group of each stimulus.
        n_groups, absolute
            As in a :class:`~modalnet.execution.reduction.Reduction`.
        observations
            Per pass, those of its stimuli.
        """
        programs, reductions = self._reducing(passes, groups, n_groups, absolute, observations)
        with self._running(programs[0].moved, programs):
            return self.backend.reduce(self.envoy, programs, reductions)

    def write(
        self,
        passes: Sequence[tuple[Inputs, Plan]],
        groups: Sequence[Sequence[int]],
        n_groups: int,
        *,
        absolute: bool,
        observations: Sequence[Observations] | None = None,
    ) -> bytes:
        """The job of :meth:`reduce`, written and not sent."""
        assert isinstance(self.backend, DeferredBackend)
        return self.backend.write(self.envoy, *self._reducing(passes, groups, n_groups, absolute, observations))

    def _reducing(
        self,
        passes: Sequence[tuple[Inputs, Plan]],
        groups: Sequence[Sequence[int]],
        n_groups: int,
        absolute: bool,
        observations: Sequence[Observations] | None,
    ) -> tuple[list[ForwardProgram], list[Reduction]]:
        """The programs of :meth:`reduce`, and how what they read is reduced."""
        programs = [self.compiler.forward(inputs, plan) for inputs, plan in passes]
        observed: Sequence[Observations | None] = observations or [None] * len(passes)
        reductions = [
            Reduction(plan.places(), list(members), n_groups, absolute, observes)
            for (_, plan), members, observes in zip(passes, groups, observed, strict=True)
        ]
        return programs, reductions

    def inward(
        self,
        inputs: Inputs,
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
        program = self.compiler.forward(inputs, plan)
        leaf = program.moved[source] = program.moved[source].detach().requires_grad_()
        program.measure, program.leaf = measure, leaf
        with self._running(inputs, [program]):
            (saved,) = self.backend.run(self.envoy, [program])
        reading = decode(plan, saved)
        if not saved["gradients"]:
            raise InputError(
                f"No gradient of the activations of {type(self.module).__name__} with respect to {source}: the forward "
                "pass detaches it or does not use it."
            )
        reading.measured, reading.inward = saved["values"][0].cpu(), saved["gradients"][0].float().cpu()
        return reading

    def entering(self, inputs: Inputs, tower: Tower, plan: Plan) -> Float[torch.Tensor, "position dim"]:
        """The input of the first block of a tower, in float32 on the CPU; no block of it runs.

        Parameters
        ----------
        inputs
            Model inputs.
        tower
            Which tower.
        plan
            Its prefixes stand in for towers before this one.
        """
        program = self.compiler.entrance(inputs, tower, plan)
        with self._running(inputs, [program]):
            (saved,) = self.backend.run(self.envoy, [program])
        entering: torch.Tensor = saved["entering"][0].cpu()
        return entering

    def depends(
        self,
        inputs: Inputs,
        tower: Tower,
        plan: Plan,
        sources: Sequence[torch.nn.Parameter],
        groups: Sequence[Int[torch.Tensor, " position"]],
    ) -> list[list[bool]]:
        """For each group of positions at the input of a tower's first block, which of some parameters it depends on.

        No parameter's gradient is touched. The weights must be here.

        Parameters
        ----------
        inputs, tower, plan
            As for :meth:`entering`.
        sources
            The parameters, of floats.
        groups
            Flat positions.
        """
        program = self.compiler.entrance(inputs, tower, plan)
        program.body, program.sources, program.groups = trace.dependence, sources, groups
        frozen = [source for source in sources if not source.requires_grad]
        try:
            for source in frozen:
                source.requires_grad_(True)
            with self._running(inputs, [program]):
                (saved,) = self.backend.run(self.envoy, [program])
        finally:
            for source in frozen:
                source.requires_grad_(False)
        depends: list[list[bool]] = saved["depends"]
        return depends

    def visits(self, inputs: Inputs, root: str, paths: Sequence[str]) -> dict[str, int]:
        """How many times one forward pass, run to its end, comes through each of some modules.

        A trace reads a module's first visit, so a block with more of them must not pass for one of the residual stream.

        Parameters
        ----------
        inputs
            Model inputs of one stimulus.
        root
            Path of the part of the model that runs; empty for all of it.
        paths
            Paths of the modules.
        """
        from nnsight.intervention.interleaver import OutOfOrderError

        places = {path: f"{self.envoy.get(path).path}.output" for path in paths}
        counts = self.envoy.interleaver.counts
        head = output_head(self.module) if not root else None
        moved = self.compiler.moved(inputs, root)
        if not self.capabilities.weights_here:
            # Without its weights here, the model is walked through on the meta device, as far as that leads: masks are
            # looked into for padding, which one stimulus does not have, and positions for packing unless there is a
            # cache.
            for name in ("attention_mask", "use_cache"):
                moved.pop(name, None)
            moved = {name: value.to("meta") if hasattr(value, "to") else value for name, value in moved.items()}
        with turn(self.module), evaluating(self.module), holding(self.envoy, []):
            before = dict(counts)
            with contextlib.suppress(OutOfOrderError):  # what the trace waits for is not needed
                trace.walk(
                    self.envoy.get(root) if root else self.envoy,
                    moved,
                    self.envoy.get(paths[0]),
                    None if head is None or self.edited else self.compiler.at(head),
                )
            after = dict(counts)
        return {path: after.get(place, 0) - before.get(place, 0) for path, place in places.items()}

    def outlines(self, inputs: Inputs, plan: Plan) -> list[tuple[int, ...]]:
        """The shape of what each module has that a plan reads, in forward order and as the module has it."""
        program = self.compiler.forward(inputs, plan)
        program.body = trace.outlines
        with self._running(inputs, [program]):
            (saved,) = self.backend.run(self.envoy, [program])
        return [tuple(shape) for shape in saved["shapes"]]

    def attention(self, inputs: Inputs, plan: Plan) -> list[list[Float[torch.Tensor, "head target source"]]] | str:
        """The attention weights that a plan reads, layer by layer and stimulus by stimulus; what was there instead."""
        program = self.compiler.attention(inputs, plan)
        with self._running(inputs, [program]):
            (saved,) = self.backend.run(self.envoy, [program])
        if saved["wrong"]:
            return str(saved["wrong"][0][1])
        found: list[list[torch.Tensor]] = saved["weights"]
        return found

    def generate(
        self,
        inputs: Inputs,
        writes: Sequence[Write | Removal],
        later: Sequence[Write | Removal],
        *,
        details: bool = False,
        **settings: Any,
    ) -> Continued:
        """Generate after one stimulus, with edits at every step.

        Parameters
        ----------
        inputs
            Model inputs of one stimulus.
        writes
            Edits of the pass over the prompt.
        later
            Edits of each pass over one new token: their ``b`` is ``[dims]``, or ``[step, dims]`` with a row per pass.
        details
            Whether logits and scores of each step are wanted.
        **settings
            For transformers' ``generate``; ``max_new_tokens`` is needed.

        Raises
        ------
        InputError
            Where details are wanted and the class has a ``generate`` of its own that does not give them.
        LayoutError
            If a tower holds another number of positions than the edits expect.
        """
        # A step that reads one token is what the edits of a step are made for; without a cache the tokens are the same.
        settings["use_cache"] = True
        wanted = ("logits", "scores") if details else ()
        if wanted:
            settings |= {"return_dict_in_generate": True, "output_logits": True, "output_scores": True}
        program = self.compiler.generation(inputs, writes, later, settings, wanted)
        with self._running(inputs, [program]):
            (saved,) = self.backend.run(self.envoy, [program])
        check_layout(saved)
        (tokens,) = saved["tokens"]
        steps = [_of_steps(rows) for rows in saved["steps"][0]] if wanted else [None, None]
        if wanted and any(rows is None or len(rows) != len(tokens) for rows in steps):
            raise InputError(
                f"The generate() of {type(self.module).__name__} gives no logits of its steps. Generate without "
                "details=True; model.run(..., logits=...) and model.score(...) give those of a text that is known."
            )
        return Continued(list(tokens), *steps)

    def _read(self, programs: Sequence[ForwardProgram], plans: Sequence[Plan]) -> list[Reading]:
        with self._running(programs[0].moved, programs):
            saved = self.backend.run(self.envoy, programs)
        return [decode(plan, each) for plan, each in zip(plans, saved, strict=True)]

    def _narrowly(self, inputs: Inputs, plan: Plan) -> Reading:
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

        def narrow() -> Reading:
            program = self.compiler.forward(inputs, plan)
            program.columns, program.narrow = places, (head.weight[tokens.to(head.weight.device)], bias)
            return self._read([program], [plan])[0]

        if self._narrows:
            return narrow()
        self._narrows = False
        whole = self.run(inputs, plan)
        with contextlib.suppress(RuntimeError, IndexError, ValueError):
            picked = narrow().picked
            assert picked is not None
            assert whole.picked is not None
            close = 2e-2 if head.weight.dtype.itemsize < 4 else 1e-3
            self._narrows = bool(torch.allclose(picked, whole.picked, atol=close, rtol=close))
        return whole

    def _slope(self, inputs: Inputs, plan: Plan, measure: Measure) -> Reading:
        """A measure's gradient on a backend that cannot be sent the measure.

        The logits are brought here, and the measure is differentiated by them here; that gradient goes back up, and the
        backend takes it on to the sites.
        """
        import torch

        logits = self.run(inputs, replace(plan, reads=())).logits
        assert logits is not None
        with torch.enable_grad():
            logits.requires_grad_()
            measured = measure(logits)
            (slope,) = torch.autograd.grad(measured.sum(), logits)
        program = self.compiler.forward(inputs, plan)
        program.slope = slope
        (reading,) = self._read([program], [plan])
        reading.measured = measured.detach()
        return reading

    def calls(
        self, inputs: Inputs, tower: Tower, root: str, modules: Sequence[torch.nn.Module]
    ) -> list[tuple[int, int, tuple[int, ...] | None, tuple[int, ...] | None]]:
        """Which of some modules run in a pass, in the order in which they are called.

        Returns
        -------
        list
            The number of a module in ``modules``, how often it is called, and the shapes of what it is first called
            with and of what it gives; None for shapes where it is called more than once, or with no tensor.
        """
        program = self.compiler.watched(
            inputs, tower, root, [(module, (0, 1, False, False), None) for module in modules]
        )
        program.body = trace.calls
        found: list[Any] = self._to_the_end(inputs, program)["calls"]
        return found

    def glimpses(
        self,
        inputs: Inputs,
        tower: Tower,
        root: str,
        sites: Sequence[tuple[torch.nn.Module, Form, Int[torch.Tensor, " position"]]],
    ) -> list[Float[torch.Tensor, "position number"]]:
        """A few positions of some sites, which are given in the order of the forward pass; float32 on the CPU."""
        seen: list[torch.Tensor] = self._to_the_end(inputs, self.compiler.watched(inputs, tower, root, sites))["seen"]
        return [each.cpu() for each in seen]

    def _to_the_end(self, inputs: Inputs, program: Program) -> Mapping[str, Any]:
        """Run a program that stops behind its last site; whole where the pass does not reach that."""
        try:
            with self._running(inputs, [program]):
                return self.backend.run(self.envoy, [program])[0]
        except InputError:
            if not program.stop or program.body is not trace.calls:
                raise
        program.stop = False
        with self._running(inputs, [program]):
            return self.backend.run(self.envoy, [program])[0]

    @contextlib.contextmanager
    def _running(self, inputs: Mapping[str, Any], programs: Sequence[Program]) -> Iterator[None]:
        """In evaluation mode, under edits of the user; say it where these inputs make the model leave out a block."""
        from nnsight.intervention.interleaver import OutOfOrderError

        check_outside(type(self.module).__name__)
        try:
            alone = turn(self.module) if self.edited else contextlib.nullcontext()
            with alone, evaluating(self.module), holding(self.envoy, programs):
                yield
        except (OutOfOrderError, RemoteError) as error:
            if isinstance(error, RemoteError) and "OutOfOrderError" not in str(error):
                raise
            path = str(error).split("'")[1] if "'" in str(error) else str(error)
            asked = {step.module.path for program in programs for step in program.steps}
            if self.edited and not any(path.startswith(f"{each}.") for each in asked):
                raise InputError(
                    f"The nnsight model carries an edit of {path}, which does not run on these inputs "
                    f"({', '.join(inputs)}), or not in the order of the edit. Use other stimuli, or clear_edits()."
                ) from error
            raise InputError(
                f"{type(self.module).__name__} does not run {path} on these inputs ({', '.join(inputs)}): some models "
                "skip blocks for text without an image. Read other layers, or use stimuli with an image."
            ) from error


def check_outside(name: str) -> None:
    """Refuse to run a model inside the block of a trace: it is running, and what is asked for would wait for itself."""
    from nnsight.intervention.interleaver import getcurrent

    if getattr(getcurrent(), "mediator", None) is not None:
        raise InputError(
            f"{name} is running: this is the block of a trace. Call modalnet before the block or after it, and read in "
            "the block what the pass gives."
        )


def _of_steps(rows: Sequence[torch.Tensor]) -> Float[torch.Tensor, "step vocab"] | None:
    """The logits of each step of one text, on the CPU."""
    import torch

    return torch.cat([row.reshape(1, -1) for row in rows]).cpu() if len(rows) else None


def _wrapped(module: torch.nn.Module, envoy: Envoy | None, *, in_place: bool) -> Envoy:
    """nnsight's plain wrapper of a module, or the user's where it carries edits."""
    import nnsight

    # A TransformersModel would pad and collate the inputs again; the inputs here are final, so a plain wrapper of the
    # same module runs them as they are.
    if envoy is None or not edits_of(envoy):
        return nnsight.NNsight(module)
    if not in_place:
        raise InputError(
            f"This {type(envoy).__name__} carries edits, which hold in this process alone. Run it with remote=False, "
            "or clear them with clear_edits()."
        )
    if type(envoy) is not nnsight.NNsight:
        raise InputError(
            f"this {type(envoy).__name__} carries edits, which modalnet cannot run in the same trace. Wrap the "
            "module in nnsight.NNsight and make the edits there, or clear them with clear_edits()."
        )
    return envoy
