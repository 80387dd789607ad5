"""A user's own nnsight trace of stimuli that modalnet encoded, with interventions and token positions.

nnsight takes the body of a ``with`` from the source around the frame that enters it, so the tracer that the user enters
is nnsight's own, and what it binds beside itself are the towers. What modalnet does in the same pass, interventions
and a check of where stimuli lie, is a worker of its own beside the user's block; at a site that both touch it comes
first.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from nnsight.intervention.interleaver import Mediator, OutOfOrderError
from nnsight.intervention.iterator import Iterations
from nnsight.intervention.tracer import InterleavingTracer
from nnsight.tracing.tracer import skip_context, skippable

from modalnet._validation import check_int
from modalnet.errors import InputError, ModalnetError
from modalnet.execution import trace
from modalnet.execution.engine import check_outside
from modalnet.execution.mode import evaluating
from modalnet.execution.own_hooks import inside
from modalnet.execution.plan import Plan, Pool, Sites
from modalnet.execution.reading import LayoutError
from modalnet.execution.turns import step, turn
from modalnet.execution.user_edits import holding
from modalnet.interventions.positions import PerStimulus, Span, check_choices, of_stimulus, select
from modalnet.models.sites import RESIDUAL, canonical_name, layers_of
from modalnet.models.state import global_hooks, hooks_of

if TYPE_CHECKING:
    import torch
    from jaxtyping import Float, Int
    from nnsight import Envoy

    from modalnet.execution.compile import Program, SiteStep
    from modalnet.execution.edits import Edits
    from modalnet.execution.layout import Layouts
    from modalnet.execution.stream import Runner
    from modalnet.inputs.batch import Batch, Encoded, Prepared
    from modalnet.models.sites import Space
    from modalnet.models.towers import Tower


class TokenIndex(tuple[Any, ...]):
    """Tokens of the stimuli of a trace, as an index of what a block puts out: ``hidden[index]`` is ``[token, dim]``.

    The tuple holds an array of places along each dimension of tokens: rows and columns of ``[row, column, dim]``, or
    the places alone where images lie end to end, ``[position, dim]``.

    Attributes
    ----------
    each
        Per stimulus, the same for its own tokens.
    flat
        Int ``[token]``: the places in ``hidden.flatten(0, -2)``.
    stimulus
        Int ``[token]``: the number of the stimulus that each token is of.
    """

    each: tuple[tuple[Any, ...], ...]
    flat: Int[torch.Tensor, " token"]
    stimulus: Int[torch.Tensor, " token"]


@dataclass(frozen=True)
class Stage:
    """Where the stimuli of a batch lie in some blocks of a tower.

    Attributes
    ----------
    first
        The first of these blocks.
    spans
        The positions of each stimulus.
    shape
        What a block puts out, without its width and with its streams left out.
    channels_first
        Whether its width comes before the last two dimensions, as that of a convolution does.
    """

    first: int
    spans: tuple[Span, ...]
    shape: tuple[int, ...]
    channels_first: bool = False


class TracedSite(NamedTuple):
    """Where in a trace the activations of one layer of a space are.

    Attributes
    ----------
    envoy, side
        nnsight's envoy of the module, and whether its ``"output"`` or its ``"input"`` holds them.
    columns
        Which of the numbers along the last dimension.
    size
        How many of these are one unit's.
    scale
        What they are multiplied by to be the activations that a run reads: a number, or one each.
    """

    envoy: Envoy
    side: str
    columns: slice
    size: int
    scale: float | Float[np.ndarray, " column"]


class TracedTower:
    """One tower in a trace: ``towers.decoder``.

    Attributes
    ----------
    name
        Such as ``"decoder"``.
    blocks
        nnsight's envoy of each block.
    """

    def __init__(
        self,
        spaces: Mapping[str, Space],
        find: Callable[[str], Envoy],
        labels: Sequence[str],
        stages: Sequence[Stage] | Exception,
    ) -> None:
        tower = spaces[RESIDUAL].tower
        self.name = tower.name
        self.blocks = [find(path) for path in tower.paths]
        self._tower, self._labels, self._stages = tower, labels, stages
        self._spaces, self._find = dict(spaces), find

    def space(self, kind: str, layer: int) -> TracedSite:
        """Where the activations of one layer of a space are, such as ``towers.decoder.space("neurons", 5)``.

        Parameters
        ----------
        kind
            What follows the tower's name in that of the space, or ``"residual"``.
        layer
            Which block.

        Raises
        ------
        InputError
            For a space that the tower does not have; for a layer that has none of its units; for activations that are a
            sum over two modules, or latents of a dictionary.

        Examples
        --------
        >>> model = mn.load("tiny")
        >>> with model.trace("The dog") as (tracer, towers):
        ...     site = towers.decoder.space("neurons", 5)
        ...     neurons = site.envoy.input[..., site.columns].save()
        >>> neurons.shape
        torch.Size([1, 3, 512])
        """
        known = canonical_name(f"{self.name}.{kind}").partition(".")[2] or RESIDUAL
        if known not in self._spaces:
            raise InputError(f"The {self.name} tower has no {kind!r}; its spaces are {', '.join(self._spaces)}.")
        space = self._spaces[known]
        (at,) = layers_of(space, [layer])
        place = space.place(at)
        if place.base is not None or space.carrier is not space:
            what = "a sum over two modules" if place.base is not None else "made of those of another space"
            raise InputError(
                f"The activations of {space.name} are {what}, so no module has them. Read them with model.run(..., "
                f"read={space.name!r}), or intervene on them."
            )
        columns = slice(place.start, place.start + place.width * place.size)
        return TracedSite(self._find(space.paths[at]), place.side, columns, place.size, place.scale)

    def tokens(self, choice: Any = "all", *, layer: int = 0, spare_first: int = 0) -> TokenIndex:
        """The positions of chosen tokens of each stimulus; padding never counts.

        Parameters
        ----------
        choice
            As for :meth:`modalnet.interventions.operations.Intervention.at`.
        layer
            The block, where a tower merges patches, so that its blocks have different tokens.
        spare_first
            Leave the first so many tokens of each stimulus out.

        Raises
        ------
        InputError
            For a choice that does not exist, or that some stimulus has no token of.

        Examples
        --------
        >>> model = mn.load("tiny")
        >>> with model.trace(["The dog sleeps.", "A child"]) as (tracer, towers):
        ...     hidden = towers.decoder.blocks[5].output
        ...     last = hidden[towers.decoder.tokens("last")].save()
        >>> last.shape
        torch.Size([2, 192])
        """
        import torch

        chosen = check_choices(choice)
        check_int("spare_first", spare_first, minimum=0)
        if isinstance(self._stages, Exception):
            raise self._stages
        if isinstance(chosen, PerStimulus) and len(chosen.each) != len(self._labels):
            raise InputError(
                f"`choice` is a list of {len(chosen.each)} choices, but {len(self._labels)} stimuli are traced. Give "
                "one for each, in their order."
            )
        if not -len(self.blocks) <= layer < len(self.blocks):
            raise InputError(f"Layer {layer!r} does not exist: {self.name} has layers 0..{len(self.blocks) - 1}.")
        stage = [one for one in self._stages if one.first <= layer % len(self.blocks)][-1]
        own = [
            select(of_stimulus(chosen, place), span, tower=self.name, label=label, spare_first=spare_first)
            for place, (span, label) in enumerate(zip(stage.spans, self._labels, strict=True))
        ]
        found = TokenIndex(self._places(torch.cat(own), stage))
        found.each = tuple(self._places(one, stage) for one in own)
        found.flat = torch.cat(own)
        found.stimulus = torch.repeat_interleave(torch.tensor([len(one) for one in own]))
        return found

    def _places(self, flat: torch.Tensor, stage: Stage) -> tuple[Any, ...]:
        """Flat positions as an index of what a block puts out."""
        import torch

        places = [torch.from_numpy(one.copy()) for one in np.unravel_index(flat.numpy(), stage.shape)]
        if self._tower.streams_first:
            return slice(None), *places
        return (places[0], slice(None), *places[1:]) if stage.channels_first else tuple(places)

    def __repr__(self) -> str:
        return f"TracedTower({self.name}: {len(self.blocks)} blocks)"


class TracedTowers:
    """The towers that the stimuli of a trace reach: ``towers.decoder`` or ``towers["decoder"]``.

    Attributes
    ----------
    model
        nnsight's envoy of what runs: the model, or of a dual encoder the half that the stimuli reach.
    inputs
        What it is given: tensors by name, padded. Row i of a text is stimulus i.
    """

    def __init__(
        self, model: Envoy, inputs: Mapping[str, Any], towers: Mapping[str, TracedTower], head: Callable[[], Envoy]
    ) -> None:
        self.model, self.inputs = model, dict(inputs)
        self._towers, self._head = dict(towers), head

    @property
    def head(self) -> Envoy:
        """nnsight's envoy of the LM head; an InputError where the model has none."""
        return self._head()

    def __getitem__(self, name: str) -> TracedTower:
        if name not in self._towers:
            raise InputError(
                f"The {name} tower is not reached by these stimuli, or does not exist; they reach "
                f"{', '.join(self._towers)}."
            )
        return self._towers[name]

    def __getattr__(self, name: str) -> TracedTower:
        if name.startswith("_"):
            raise AttributeError(name)
        return self[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._towers)

    def __len__(self) -> int:
        return len(self._towers)

    def __repr__(self) -> str:
        return f"TracedTowers({', '.join(self._towers)})"


class Alongside(Mediator):
    """What modalnet does in the pass of a user's trace, as a worker beside the user's block.

    Parameters
    ----------
    first, later
        Sites that are edited, or checked for where stimuli lie, in the first pass, and in each pass over a new token.
    """

    def __init__(self, first: Sequence[SiteStep], later: Sequence[SiteStep]) -> None:
        super().__init__(None, {}, {})
        self.first, self.later = first, later
        self.stopped = False

    def _run(self) -> None:
        self.apply(self.first, None)
        if self.later:
            for number in Iterations(1):
                if not self.apply(self.later, number - 1):
                    return

    def apply(self, steps: Sequence[SiteStep], token: int | None) -> bool:
        """Edit the sites of one pass, the first or that of a new token; return whether the pass came by all of them.

        Raises
        ------
        InputError
            Where the first pass does not.
        LayoutError
            Where stimuli lie otherwise than expected.
        """
        kept: dict[str, torch.Tensor] = {}
        for each in steps:
            edits = each.edits if token is None else trace.at_step(each.edits, token)
            try:
                otherwise = trace.rewritten(each, each.rows, edits, kept, number=-1 if token is None else token)[3]
            except OutOfOrderError as error:
                if self.stopped or token is not None:  # the user stopped the pass, or the generation is over
                    return False
                raise InputError(
                    f"{each.module.path} does not run on these stimuli: some models skip blocks for text without an "
                    "image. Intervene on other layers, or use stimuli with an image."
                ) from error
            if otherwise is not None:
                raise LayoutError(f"the {each.tower} tower holds {otherwise[0]}, {otherwise[1]} were expected")
        return True


class UserTrace(InterleavingTracer):
    """A trace that the user enters; it binds itself and the towers.

    Parameters
    ----------
    envoy, fn, backend, **inputs
        As for nnsight.
    towers
        What is bound beside the tracer.
    alongside
        What modalnet does in the pass.
    running
        A context in which the pass runs.
    """

    def __init__(
        self,
        envoy: Envoy,
        fn: Any,
        *,
        towers: TracedTowers,
        alongside: Alongside,
        running: Callable[[], contextlib.AbstractContextManager[None]],
        backend: Any = None,
        **inputs: Any,
    ) -> None:
        super().__init__(envoy, fn, backend=backend, **inputs)
        self._towers, self._alongside, self._running = towers, alongside, running

    def __enter__(self) -> tuple[UserTrace, TracedTowers]:
        # As nnsight enters a trace: both look for the user's frame at the depth of this one.
        self.capture()
        if skippable(self.node):
            skip_context(self)
        return self, self._towers

    def __exit__(self, *raised: Any) -> bool:
        with self._running():
            return super().__exit__(*raised)

    def stop(self) -> None:
        """End the pass here."""
        self._alongside.stopped = True
        super().stop()


def open_trace(
    runner: Runner,
    prepared: Sequence[Prepared],
    edits: Edits | None,
    known: Mapping[str, Space],
    settings: Mapping[str, Any] | None,
) -> UserTrace:
    """A trace of stimuli in one batch, to be entered by the user; see :meth:`modalnet.Model.trace`.

    Parameters
    ----------
    runner
        Of the model.
    prepared
        The stimuli, in their order.
    edits
        The interventions.
    known
        The spaces of the towers that all of the stimuli reach.
    settings
        For ``generate`` of transformers; None for one forward pass.

    Raises
    ------
    InputError
        Where the stimuli do not run in one batch, or the model not in this process.
    """
    engine, layouts = runner.engine, runner.layouts
    check_outside(runner.encoder.loaded.name)
    if not engine.capabilities.in_place:
        raise InputError(
            f"{runner.encoder.loaded.name} runs on a server, and a trace of your own is opened in this process only. "
            "Load it locally, use model.run(..., read=...), or trace it with nnsight's own remote=True."
        )
    with step(engine):
        items = [runner.encoder.encode(each) for each in prepared]
        spaces = [space for space in known.values() if space.kind == RESIDUAL]
        towers = {space.tower.name: space.tower for space in spaces}
        _check_one_batch(runner, items, list(towers))
        batch = runner.encoder.collate(items)
        stages = {name: _stages(layouts, batch, tower) for name, tower in towers.items()}
        reads = tuple(
            (Sites(space, (0,)), Pool(layouts.spans(batch, space.tower.name)[1]))
            for space in spaces
            if not isinstance(stages[space.tower.name], Exception)
        )
        writes = edits.writes(batch, layouts.spans, continued=settings is not None) if edits else ()
        program: Program = engine.compiler.forward(batch.inputs, Plan(reads, root=batch.root, writes=writes))
        alongside = Alongside(program.steps, ())
        if settings is not None:
            runner.encoder.check_open(items[0])
            inputs = {name: value for name, value in batch.inputs.items() if name != "decoder_attention_mask"}
            later = edits.later(batch, layouts.spans, settings["max_new_tokens"]) if edits else ()
            program = engine.compiler.generation(inputs, (), later, settings)
            alongside.later = program.after
    labels = [item.label for item in items]
    traced = {
        name: TracedTower(
            {one.kind: one for one in known.values() if one.tower.name == name}, engine.envoy.get, labels, stages[name]
        )
        for name in towers
    }
    held = TracedTowers(program.root, program.moved, traced, engine.head)
    running = partial(_running, runner, program, alongside)
    how = partial(UserTrace, towers=held, alongside=alongside, running=running)
    call = program.call if settings is None else "generate"
    return trace.opened(program.root, how, call, {**program.moved, **(settings or {})})


def _check_one_batch(runner: Runner, items: Sequence[Encoded], towers: Sequence[str]) -> None:
    """Refuse stimuli that do not run in one batch."""
    first = items[0]
    other = next((item for item in items if item.kind != first.kind), None)
    if other is not None:
        raise InputError(
            f"A trace is one forward pass, in which stimuli {first.label} and {other.label} cannot run together: they "
            f"have {first.n_images} and {other.n_images} images, {first.n_sounds} and {other.n_sounds} sounds, and the "
            f"model takes {', '.join(first.inputs)} for one and {', '.join(other.inputs)} for the other. Trace stimuli "
            "of one kind at a time."
        )
    groups = runner.layouts.group(items, towers)
    if len(groups) > 1:
        raise InputError(
            f"A trace is one forward pass, in which stimuli {groups[0][0].label} and {groups[1][0].label} cannot run "
            f"together: {runner.encoder.loaded.name} computes something else where they share a batch, as their "
            "images, sounds or texts differ in size. Trace them one at a time."
        )


def _stages(layouts: Layouts, batch: Batch, tower: Tower) -> tuple[Stage, ...] | Exception:
    """Where the stimuli of a batch lie in a tower, known before its pass; or why that is not known."""
    try:
        texts = tower.modality == "text"
        outlines = () if texts else layouts.outlines(batch.items[0], tower.name)
        stages = []
        for first in layouts.firsts(tower.name):
            spans, _ = layouts.spans(batch, tower.name, first)
            channels = not texts and len(outlines[first]) == 4 and outlines[first][-1] != tower.width
            shape = layouts.shape(batch, tower.name, first)
            stages.append(Stage(first, tuple(map(_settled, spans)), shape, channels))
    except ModalnetError as error:
        return error
    return tuple(stages)


def _settled(span: Span) -> Span:
    """A span that finds its image, sound and class tokens by no pass of the model: the user's is about to run."""
    measured = span.measured
    if measured is None:
        return span
    known: dict[str, Span | ModalnetError] = {}
    for kind in ("image", "audio", "cls"):
        try:
            known[kind] = measured(kind)
        except ModalnetError as error:
            known[kind] = error

    def found(kind: str) -> Span:
        one = known[kind]
        if isinstance(one, ModalnetError):
            raise one
        return one

    return replace(span, measured=found)


@contextlib.contextmanager
def _running(runner: Runner, program: Program, alongside: Alongside) -> Iterator[None]:
    """The module in evaluation mode and held by this thread, with what modalnet does in the pass."""
    engine, root = runner.engine, program.root
    everywhere = bool(global_hooks())
    hooked = [each for each in engine.module.modules() if everywhere or hooks_of(each)]
    with turn(engine.module), inside(hooked), evaluating(engine.module), holding(engine.envoy, [program]):
        before = root._edits
        root._edits = [*before, alongside]
        try:
            yield
        except LayoutError as error:
            raise ModalnetError(
                f"{error}: {runner.encoder.loaded.name} does not lay these stimuli out as it does each alone. Trace "
                "them one at a time."
            ) from error
        finally:
            root._edits = before
