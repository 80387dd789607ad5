"""From a plan to a program: what one trace body runs.

A plan speaks of towers, layers and positions. A program holds the envoys of the blocks, tensors where the model is, and
plain Python: all that a trace needs, and all that a server can be sent. Programs are unpickled there as plain
namespaces of the same fields (:class:`modalnet.execution.shipping.Shipped`).
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby
from typing import TYPE_CHECKING, Any, TypeAlias

from modalnet.errors import InputError
from modalnet.execution import trace
from modalnet.execution.dictionaries import Code, placed
from modalnet.execution.plan import Plan, Pool, Removal, Taken, Through, Write
from modalnet.execution.reading import LayoutError
from modalnet.execution.shipping import Shipped
from modalnet.execution.user_edits import edits_of
from modalnet.models.sites import Space
from modalnet.models.state import global_hooks, hooks_of
from modalnet.models.towers import Tower

if TYPE_CHECKING:
    import numpy as np
    import torch
    from jaxtyping import Bool, Float, Int
    from nnsight import Envoy

#: How a site lays out its activations: width, number of streams, whether streams come first, whether it is an input.
Form: TypeAlias = tuple[int, int, bool, bool]
#: Which part of what a module has is a site: the first of its columns and the one behind the last, what they are
#: multiplied by (None for nothing), how many numbers a unit has, how many those of a layer are in the whole space, and
#: how many a unit has in the layer where it has most.
Part: TypeAlias = "tuple[int, int, torch.Tensor | None, int, int, int]"
#: Between steps of one site: those that write follow each other, and what is kept for other sites comes after them.
_IN_TURN, _KEPT = 1e-6, 5e-4
#: Model inputs by name: tensors, or packed ones on their way to a server.
Inputs: TypeAlias = dict[str, Any]

# Logits that are converted to float32 at once: on a CPU as many as its caches hold, which is several times faster.
CPU_LOGITS, GPU_LOGITS = 1 << 21, 1 << 24


@dataclass
class Edit(Shipped):
    """A write as tensors where the model is: ``a * x + b`` for some dims or along directions, at some positions.

    Where there is a ``function``, its result is put in: of the positions of each stimulus, of which there are
    ``lengths``, and of units that have ``size`` numbers each.
    """

    rows: Int[torch.Tensor, "position 1"]
    dims: Int[torch.Tensor, "1 dims"] | None
    vector: Float[torch.Tensor, "axis dim"] | None
    a: float
    b: Float[torch.Tensor, "... dims"]
    function: Callable[[torch.Tensor], torch.Tensor] | None = None
    lengths: Sequence[int] = ()
    size: int = 1
    label: str = ""


@dataclass
class Cut(Shipped):
    """Attention edges that are removed at a step, and where its module takes the mask.

    Marks are of flat positions; ``heads`` of the attention's heads, None for all. See
    :class:`~modalnet.execution.plan.Removal` and :class:`~modalnet.models.masks.MaskPlace`.
    """

    sources: Bool[torch.Tensor, " position"]
    targets: Bool[torch.Tensor, " position"]
    heads: Bool[torch.Tensor, " head"] | None
    new_sources: bool
    new_targets: bool
    causal: bool
    parameter: str
    index: int
    kernel: str
    query: int
    edges: Int[torch.Tensor, "edge 2"] | None = None


@dataclass
class Attention(Shipped):
    """Attention weights that are read at a step: see :class:`~modalnet.execution.plan.Attending`."""

    index: int
    kernel: str
    total: int
    targets: Sequence[Int[torch.Tensor, " target"]]
    sources: Sequence[Int[torch.Tensor, " source"]]
    mean: bool


@dataclass
class SiteStep(Shipped):
    """What a pass does at one site.

    Attributes
    ----------
    module
        The envoy of the module whose output or input the site is.
    tower, form
        Name of the tower, and how the site lays out its activations.
    order
        Sorts towers as the forward pass reaches them.
    positions, rows
        The expected number of positions (None: any) and of rows (1: any).
    edits
        In their order.
    read
        Whether the site is read, after the edits.
    index, lengths
        The positions that are pooled, and how many belong to each stimulus; None where every position is read. An empty
        index stands for all positions in order.
    taken
        As in a :class:`~modalnet.execution.plan.Pool`.
    instead
        Stands for the output of a block that is skipped.
    part
        Which part of what the module has is the site; None for all of it.
    keeps
        A name under which what is here is kept for a later site of the pass, and nothing else is done; empty for none.
    base
        The name under which what is added to this site was kept; empty for none.
    numbers
        Whether all numbers of a unit are read, where it has several, or its length.
    experts
        Number of experts, where the module is their router; 0 elsewhere.
    direct
        The name under which what entered a block was kept, where the block's contribution to it passes no gradient on.
    code
        The dictionary whose latents are read and edited here; None: the activations themselves.
    source
        The name under which what it encodes was kept; empty where it encodes what is here.
    holds, shows
        The name under which the edited latents are kept for a later step of the same site that reads them, and of that
        step.
    cuts
        Attention edges that are removed where the module takes its mask; nothing else is done then.
    attends
        Attention weights that are read of what the module puts out; nothing else is done then.
    """

    module: Envoy
    tower: str
    form: Form
    order: int
    positions: int | None = None
    rows: int = 1
    edits: Sequence[Edit] = ()
    read: bool = False
    index: Int[torch.Tensor, " position"] | None = None
    lengths: list[int] | None = None
    taken: Taken = "mean"
    instead: Float[torch.Tensor, "..."] | None = None
    part: Part | None = None
    keeps: str = ""
    base: str = ""
    numbers: bool = False
    experts: int = 0
    direct: str = ""
    code: Code | None = None
    source: str = ""
    holds: str = ""
    shows: str = ""
    cuts: Sequence[Cut] = ()
    attends: Attention | None = None


@dataclass
class Program(Shipped):
    """One trace: a body and what it needs.

    Attributes
    ----------
    body
        A function of :mod:`modalnet.execution.trace`, called with the program.
    root
        The part of the model that runs.
    moved
        Model inputs, where the model is.
    steps
        Sites in forward order.
    call
        Name of the method that runs the root; empty where the body chooses it.
    stop
        Whether the pass may stop before its end.
    samples
        Whether it is meant to draw random numbers.
    whole
        Whether the pass runs to its end whatever is found, since edits of the user's own are waiting there.
    generates
        Whether it is a generation, which makes one pass after another.
    """

    body: Callable[[Any], dict[str, Any]]
    root: Envoy
    moved: Inputs
    steps: Sequence[SiteStep] = ()
    call: str = "__call__"
    stop: bool = True
    samples: bool = False
    whole: bool = False
    generates: bool = False


@dataclass
class ForwardProgram(Program):
    """A forward pass.

    Attributes
    ----------
    head, rows, n_text
        The LM head, the positions whose logits are taken, and the number of positions that it sees; None for no logits.
    targets, columns
        As in a :class:`~modalnet.execution.plan.Plan`, targets by parts of ``size`` rows.
    size
        Number of rows of logits that are converted to float32 at once.
    idle
        The LM head, which a pass that cannot be stopped gives next to nothing to do.
    measure, slope
        Of the logits: a function whose sum is differentiated, or the gradient of one that is known already.
    leaf
        The input that the measure, then of what is read, is differentiated by.
    narrow
        Weight and bias of the LM head at some columns alone.
    through
        Pairs of sites that are read, by their numbers, with the columns of the second that paths go through: see
        :class:`~modalnet.execution.plan.Through`.
    whole_head
        Whether the LM head runs at every position, since someone else looks at what it gives.
    likeliest
        The number of likeliest tokens that are taken at each row, the tokens whose probability and rank are, and the
        rows whose distributions the rows are compared with; None where these are not wanted.
    """

    head: Envoy | None = None
    rows: Int[torch.Tensor, " position"] | None = None
    n_text: int = 0
    targets: Sequence[tuple[torch.Tensor, torch.Tensor]] | None = None
    columns: Int[torch.Tensor, "position token"] | None = None
    size: int = 1
    idle: Envoy | None = None
    measure: Callable[[Any], torch.Tensor] | None = None
    slope: Float[torch.Tensor, "position vocab"] | None = None
    leaf: Float[torch.Tensor, "..."] | None = None
    narrow: tuple[torch.Tensor, torch.Tensor | None] | None = None
    whole_head: bool = False
    through: Sequence[tuple[int, int, torch.Tensor | None]] = ()
    likeliest: tuple[int, torch.Tensor, torch.Tensor] | None = None


@dataclass
class EntranceProgram(Program):
    """A pass up to a block, for what enters it.

    Attributes
    ----------
    block, form
        The block, and how its input is laid out.
    sources, groups
        Parameters, and groups of positions: which of the ones each of the others depends on.
    """

    block: Envoy | None = None
    form: Form = (0, 1, False, True)
    sources: Sequence[torch.Tensor] = ()
    groups: Sequence[Int[torch.Tensor, " position"]] = ()


@dataclass
class GenerationProgram(Program):
    """A generation.

    Attributes
    ----------
    settings
        For ``generate`` of transformers.
    prompt, after
        Blocks that are edited in the pass over the prompt, and in each pass over one new token.
    fed_to, ids
        Where the tokens that are fed to a pass are seen: an envoy, and the name of its input; empty for the only one.
    details
        What else comes back of each step: names of fields of what transformers' ``generate`` returns.
    """

    settings: dict[str, Any] = field(default_factory=dict)
    prompt: Sequence[SiteStep] = ()
    after: Sequence[SiteStep] = ()
    fed_to: Envoy | None = None
    ids: str = ""
    details: tuple[str, ...] = ()


class Compiler:
    """Makes programs for one model.

    Parameters
    ----------
    envoy
        nnsight's wrapper of the model.
    in_place
        Whether programs run on this module as they are: tensors are then put where it is. Otherwise they stay on the
        CPU, and whoever runs the programs knows better where its model is.
    """

    def __init__(self, envoy: Envoy, *, in_place: bool) -> None:
        self.envoy = envoy
        self.module: torch.nn.Module = envoy._module
        self.in_place = in_place
        self._envoys: dict[torch.nn.Module, Envoy] = {}
        self._codes: dict[tuple[int, torch.device], tuple[Code, Code]] = {}  # dictionaries, as given and on a device

    def forward(self, inputs: Inputs, plan: Plan) -> ForwardProgram:
        """The program of a forward pass."""
        # Positions are moved once for all blocks that share a pool.
        indices = {id(pool): self._index(pool) for _, pool in plan.reads}
        stimuli = len(inputs["input_ids"]) if "input_ids" in inputs else 1
        made = []
        for space, layer, writes, pool in plan.steps():
            step = self._step(space, layer, writes)
            # Inside of a block, rows may be one after the other.
            step.rows = stimuli if space.modality == "text" and space.carrier.whole else 1
            if pool is not None:
                # A pool of no positions is one that asks how many there are.
                step.positions = step.positions or pool.n_positions or None
                step.read, step.index, step.taken = True, indices[id(pool)], pool.taken
                step.numbers = pool.numbers
                step.lengths = None if pool.lengths is None else pool.lengths.tolist()
            made.append((space, layer, step))
        for tower, layer in plan.direct:
            self._pass_by(tower, layer, made)
        steps = [*self._skips(plan), *self._ordered(made, plan.writes)]
        # Of each tower the skipped blocks come first; sorting is stable, so blocks keep their order.
        steps.sort(key=lambda step: (step.order, step.instead is None))
        size, sites, wanted = self._rows_at_once(), plan.sites(), plan.next_tokens
        return ForwardProgram(
            trace.forward,
            self._root(plan),
            self.moved(inputs, plan.root),
            steps,
            head=self.head() if plan.logit_rows is not None else None,
            rows=plan.logit_rows,
            n_text=plan.n_text_positions,
            targets=_by_part(plan, size),
            columns=plan.columns,
            size=size,
            idle=None if self.in_place or output_head(self.module) is None else self.head(),
            whole=self.edited,
            whole_head=self.head_is_watched(),
            through=[
                (sites.index(pair.first), sites.index(pair.second), _columns(pair))
                for pair in plan.through
                if pair.first in sites
            ],
            likeliest=None if wanted is None else (wanted.k, wanted.tokens, wanted.against),
        )

    def attention(self, inputs: Inputs, plan: Plan) -> Program:
        """The program of a pass for attention weights."""
        made = [(space, layer, self._step(space, layer, here)) for space, layer, here, _ in plan.steps()]
        for one in plan.attends:
            module = self.at_path(f"{one.space.tower.paths[one.layer]}.{one.place.path}".rstrip("."))
            look = Attention(one.place.index, one.place.kernel, one.total, one.targets, one.sources, one.mean)
            step = SiteStep(module, one.space.tower.name, (0, 1, False, False), one.space.tower.order, attends=look)
            cutting = next(
                (each for space, at, each in made if each.cuts and (space, at) == (one.space, one.layer)), None
            )
            if cutting is not None and look.kernel and cutting.cuts[0].kernel == look.kernel:
                cutting.attends = look  # one call of the kernel after the other
                continue
            made.append((one.space.attending, one.layer, step))
        return Program(
            trace.attention,
            self._root(plan),
            self.moved(inputs, plan.root),
            self._ordered(made, plan.writes),
            whole=self.edited,
        )

    def entrance(self, inputs: Inputs, tower: Tower, plan: Plan) -> EntranceProgram:
        """The program of a pass up to the first block of a tower."""
        return EntranceProgram(
            trace.entrance,
            self._root(plan),
            {name: self._placed(value) for name, value in inputs.items()},
            self._skips(plan),
            block=self.envoy.get(tower.paths[0]),
            form=_form(Space(tower), 0),
            whole=self.edited,
        )

    def generation(
        self,
        inputs: Inputs,
        writes: Sequence[Write | Removal],
        later: Sequence[Write | Removal],
        settings: Mapping[str, Any],
        details: tuple[str, ...] = (),
    ) -> GenerationProgram:
        """The program of a generation; see :meth:`modalnet.execution.engine.Engine.generate`."""
        # Some models hand their decoder embeddings and let that one generate: there the tokens that are fed to a step
        # are seen at the embedding, and otherwise at the model, since an embedding may have other calls.
        from transformers import GenerationMixin

        module: Any = self.module
        own = type(module).generate is not GenerationMixin.generate
        embedding = self.at(module.get_input_embeddings()) if own else self.envoy
        return GenerationProgram(
            trace.generation,
            self.envoy,
            {name: self._placed(value) for name, value in inputs.items()},
            call="",
            whole=self.edited,
            generates=True,
            samples=bool(settings.get("do_sample", True)),
            settings=dict(settings),
            prompt=self._written(writes),
            after=self._written(later),
            fed_to=embedding,
            ids="" if own else "decoder_input_ids" if "decoder_input_ids" in inputs else "input_ids",
            details=details,
        )

    def watched(
        self,
        inputs: Inputs,
        tower: Tower,
        root: str,
        sites: Sequence[tuple[torch.nn.Module, Form, Int[torch.Tensor, " position"] | None]],
    ) -> Program:
        """A program over some sites of a tower, in the order in which they are given."""
        steps = [SiteStep(self.at(module), tower.name, form, tower.order, index=index) for module, form, index in sites]
        return Program(
            trace.glimpses,
            self.envoy.get(root) if root else self.envoy,
            self.moved(inputs, root),
            steps,
            whole=self.edited,
        )

    @property
    def edited(self) -> bool:
        """Whether the user's own nnsight model carries edits."""
        return bool(edits_of(self.envoy))

    def head_is_watched(self) -> bool:
        """Whether edits or hooks may look at the logits, so that each has to stand where it always does."""
        head = output_head(self.module)
        hooked = any(hooks_of(each) for each in (self.module, head) if each is not None)
        return self.edited or hooked or bool(global_hooks())

    def head(self) -> Envoy:
        """The envoy of the LM head; an InputError where the model has none."""
        head = output_head(self.module)
        if head is None:
            raise InputError(
                f"{type(self.module).__name__} has no LM head and thus no logits. Load the model with its head "
                "(a ...ForCausalLM or ...ForConditionalGeneration class)."
            )
        return self.at(head)

    def at(self, module: torch.nn.Module) -> Envoy:
        """The envoy of a module."""
        # nnsight gives a submodule that is called "output" another name, so a path does not always lead to it.
        if module not in self._envoys:
            for envoy in self.envoy.modules():
                self._envoys.setdefault(envoy._module, envoy)
        return self._envoys[module]

    def at_path(self, path: str) -> Envoy:
        """The envoy of a module by its path in the model."""
        return self.at(self.module.get_submodule(path))

    def moved(self, inputs: Mapping[str, Any], root: str) -> Inputs:
        """The inputs of one forward pass where the model is."""
        moved = {name: self._placed(value) for name, value in inputs.items()}
        if self._caches and not root:
            moved["use_cache"] = False
        return moved | self._order(moved)

    def _order(self, moved: Inputs) -> Inputs:
        """For a class that shuffles patches by noise that it can be given, noise that leaves them in their order.

        Where it also hides some, which ones would be the choice of this noise: then it draws its own, and is refused.
        """
        import torch

        takes = inspect.signature(self.module.forward).parameters
        pixels = moved.get("pixel_values")
        hides = getattr(getattr(self.module, "config", None), "mask_ratio", None)
        # Without such a setting the noise is for something else.
        if "noise" not in takes or "noise" in moved or pixels is None or hides is None or hides > 0:
            return {}
        count = next((each.num_patches for each in self.module.modules() if hasattr(each, "num_patches")), None)
        if not isinstance(count, int):
            return {}
        return {"noise": torch.linspace(0, 1, count, device=pixels.device).repeat(len(pixels), 1)}

    @property
    def vocabulary(self) -> int:
        """Number of logits of the LM head; a guess where it does not say."""
        head: Any = output_head(self.module)
        # Quantized weights may be packed into another shape, or be a method.
        size = getattr(head, "out_features", None) or getattr(getattr(head, "weight", None), "shape", (None,))[0]
        return size if isinstance(size, int) else 1 << 18

    def _root(self, plan: Plan) -> Envoy:
        return self.envoy.get(plan.root) if plan.root else self.envoy

    def _step(self, space: Space, layer: int, writes: Sequence[Write | Removal] = ()) -> SiteStep:
        carrier = space.carrier
        removals = [write for write in writes if isinstance(write, Removal)]
        return SiteStep(
            self.at_path(carrier.paths[layer]),
            space.tower.name,
            _form(carrier, layer),
            space.tower.order,
            positions=writes[0].n_positions if writes else None,
            edits=[self._edit(write) for write in writes if isinstance(write, Write)],
            experts=space.widths[layer] if space.kind == "experts" else 0,
            part=_part(carrier, layer),
            base=f"{space.tower.name} {layer}" if carrier.base(layer) else "",
            code=self._code(space, layer),
            source="" if space.encoded is carrier else f"{space.encoded.name} {layer}",
            cuts=[_cut(removal) for removal in removals],
        )

    def _pass_by(self, tower: Tower, layer: int, made: list[tuple[Space, int, SiteStep]]) -> None:
        """Make the gradient at a block's output pass it by, at the site of the stream there."""
        here = [step for space, at, step in made if (space.name, at) == (tower.name, layer)]
        if not here:
            here = [self._step(Space(tower), layer)]
            made.append((Space(tower), layer, here[0]))
        here[0].direct = f"{tower.name} {layer} entered"

    def _code(self, space: Space, layer: int) -> Code | None:
        """The dictionary of a layer, where the model is."""
        code: Code | None = space.code(layer)
        if code is None or (code.thing is None and not self.in_place):
            return code
        if code.thing is None:
            key = id(code), self._device
            if key not in self._codes:  # moved once for all passes
                self._codes[key] = code, placed(code, self._device)
            return self._codes[key][1]
        if not self.in_place:
            raise InputError(
                f"{space.name} is of {type(code.thing).__name__} objects, which a server cannot be sent. Give "
                "the matrices of the dictionaries, or load the model locally."
            )
        return code

    def _ordered(
        self, made: Sequence[tuple[Space, int, SiteStep]], writes: Sequence[Write | Removal]
    ) -> list[SiteStep]:
        """Steps in forward order, with those that keep what a later one encodes or adds to its site."""
        ordered = [each for group in _by_site(made) for each in self._in_turn(group, writes)]
        for space, layer, step in made:
            if step.direct:
                form = (*step.form[:3], True)
                keeps = SiteStep(step.module, space.tower.name, form, space.tower.order, keeps=step.direct)
                ordered.append(((space.tower.order, layer, -0.5), keeps))
            if step.source and step.source not in {other.keeps for _, other in ordered}:
                keeps = self._step(space.encoded, layer)
                keeps.keeps = step.source
                tower, block, place = space.encoded.order(layer)
                ordered.append(((tower, block, place + _KEPT), keeps))
        sites = [(space, layer) for space, layer, _ in made]
        sites += [(space.encoded, layer) for space, layer, step in made if step.source]
        for space, layer in sites:
            base, name = space.carrier.base(layer), f"{space.tower.name} {layer}"
            if base is not None and name not in {other.keeps for _, other in ordered}:
                form = (space.tower.width, 1, False, base[1] == "input")
                keeps = SiteStep(self.at_path(base[0]), space.tower.name, form, space.tower.order, keeps=name)
                # After an edit of the block's input, which comes first of all.
                ordered.append(((space.tower.order, layer, -0.5), keeps))
        return [step for _, step in sorted(ordered, key=lambda each: each[0])]

    def _in_turn(
        self, group: Sequence[tuple[Space, int, SiteStep]], writes: Sequence[Write | Removal]
    ) -> Iterator[tuple[tuple[int, int, float], SiteStep]]:
        """The steps of one site, by their order; what is written there in several spaces comes before what is read."""
        space, layer, first = group[0]
        if len(group) == 1:
            yield space.order(layer), first
            return
        tower, block, place = space.carrier.order(layer)
        here = [
            write
            for write in writes
            if isinstance(write, Write) and (write.space.carrier, write.layer) == (space.carrier, layer)
        ]
        turns = [list(run) for _, run in groupby(here, key=lambda write: write.space.name)]
        steps = {one.name: step for one, _, step in group}
        writers = [
            replace(steps[run[0].space.name], edits=[self._edit(one) for one in run], read=False) for run in turns
        ]
        made = [((tower, block, place + _IN_TURN * number), writer) for number, writer in enumerate(writers)]
        for one, _, step in group:
            if step.read:
                shows = bool(turns) and step.code is not None and turns[-1][0].space.name == one.name
                if shows:
                    writers[-1].holds = f"latents {one.name} {layer}"
                order = (tower, block, one.order(layer)[2] + _KEPT)
                made.append((order, replace(step, edits=(), shows=writers[-1].holds if shows else "")))
        made.sort(key=lambda each: each[0])
        # A gradient passes the block by before anything else is done there.
        direct = next((step.direct for _, _, step in group if step.direct), "")
        for number, (_, step) in enumerate(made):
            step.direct = "" if number else direct
        yield from made

    def _written(self, writes: Sequence[Write | Removal]) -> list[SiteStep]:
        """The sites that are written to, in forward order."""
        steps = Plan((), writes=tuple(writes)).steps()
        made = [(space, layer, self._step(space, layer, here)) for space, layer, here, _ in steps]
        return self._ordered(made, writes)

    def _skips(self, plan: Plan) -> list[SiteStep]:
        """The blocks that a plan skips."""
        steps = []
        for prefix in plan.prefixes:
            for layer, path in enumerate(prefix.tower.paths[: prefix.layer]):
                step = self._step(Space(prefix.tower), layer)
                step.instead = _with_streams(prefix.outputs[layer if len(prefix.outputs) > 1 else 0], prefix.tower)
                if self.in_place:
                    step.instead = step.instead.to(*_place(self.module.get_submodule(path), self._device))
                steps.append(step)
        return steps

    def _index(self, pool: Pool) -> Int[torch.Tensor, " position"] | None:
        """A pool's positions where the model is; empty for every position in order."""
        import torch

        if pool.index is None:
            return None
        everything = torch.equal(pool.index, torch.arange(pool.n_positions))
        index: torch.Tensor = self._placed(pool.index[:0] if everything else pool.index)
        return index

    def _edit(self, write: Write) -> Edit:
        """A write as tensors where the model is; values in float32, whatever the model computes in."""
        device = self._device if self.in_place else "cpu"
        dims = None if write.dims is None else write.dims.to(device)[None, :]
        vector = None if write.vector is None else write.vector.to(device)
        edit = Edit(write.rows.to(device)[:, None], dims, vector, write.a, write.b.to(device))
        if write.call is not None:
            edit.function, edit.lengths, edit.label = write.call.function, write.call.lengths, write.call.label
            edit.size = write.space.size if dims is not None else 1
        return edit

    def _rows_at_once(self) -> int:
        """How many rows of logits are converted to float32 at once."""
        on_cpu = self.in_place and self._device.type == "cpu"
        return max(1, (CPU_LOGITS if on_cpu else GPU_LOGITS) // self.vocabulary)

    @property
    def _caches(self) -> bool:
        """Whether the model would fill a key-value cache, which one forward pass has no use for."""
        config: Any = getattr(self.module, "config", None)
        text = config.get_text_config() if hasattr(config, "get_text_config") else config
        takes = inspect.signature(self.module.forward).parameters
        return bool(getattr(text, "use_cache", False)) and "use_cache" in takes

    @property
    def _device(self) -> torch.device:
        return next(p.device for p in self.module.parameters() if p.device.type != "meta")

    def _placed(self, value: Any) -> Any:
        """An input where the model is, in the precision that the model computes in."""
        import torch

        if not isinstance(value, torch.Tensor) or not self.in_place:
            return value
        device, dtype = _place(self.module, value.device)
        return value.to(device=device, dtype=dtype if value.is_floating_point() else value.dtype)


def _cut(removal: Removal) -> Cut:
    mask = removal.space.mask(removal.layer)
    return Cut(
        removal.sources,
        removal.targets,
        removal.heads,
        removal.new_sources,
        removal.new_targets,
        removal.space.causal,
        mask.parameter,
        mask.index,
        mask.kernel,
        mask.query,
        removal.edges,
    )


def _place(module: torch.nn.Module, device: torch.device) -> tuple[torch.device, torch.dtype]:
    """Where a module is, or else the device given, and the precision that it computes in.

    Weights in fewer than 16 bits are codes that a module scales, and it computes in that of the others.
    """
    import torch

    devices = (each.device for each in module.parameters() if each.device.type != "meta")
    dtypes = (each.dtype for each in module.parameters() if each.is_floating_point() and each.dtype.itemsize > 1)
    return next(devices, device), next(dtypes, torch.float32)


def output_head(module: torch.nn.Module) -> torch.nn.Module | None:
    """The LM head of a model, or of the part of it that generates; None where there is none."""
    for sub in module.modules():
        try:
            head: torch.nn.Module | None = sub.get_output_embeddings()  # type: ignore[operator]
        except (AttributeError, NotImplementedError):
            continue
        if head is not None:
            return head
    return None


def _by_part(plan: Plan, size: int) -> list[tuple[torch.Tensor, torch.Tensor]] | None:
    """A plan's targets by parts of so many logit rows: where in its part each stands, and its token."""
    import torch

    if plan.targets is None or plan.logit_rows is None:
        return None
    # A negative number would count from the end of the vocabulary and give some other token's probability.
    if bool((plan.targets < 0).any()):
        raise LayoutError("a row does not end with its text tokens")
    rows = torch.arange(len(plan.targets)) if plan.target_rows is None else plan.target_rows
    parts = []
    for start in range(0, len(plan.logit_rows), size):
        here = (rows >= start) & (rows < start + size)
        parts.append((rows[here] - start, plan.targets[here]))
    return parts


def _with_streams(output: torch.Tensor, tower: Tower) -> torch.Tensor:
    """What a block puts out, with streams that it stacks in a dimension of their own."""
    return output.unflatten(-1, (tower.streams, -1)).movedim(-2, 0) if tower.streams_first else output


def _by_site(made: Sequence[tuple[Space, int, SiteStep]]) -> list[list[tuple[Space, int, SiteStep]]]:
    """Steps whose spaces are in the same place, such as a residual stream and latents of it."""
    groups: dict[tuple[Space, int], list[tuple[Space, int, SiteStep]]] = {}
    for space, layer, step in made:
        groups.setdefault((space.carrier, layer), []).append((space, layer, step))
    return list(groups.values())


def _form(space: Space, layer: int) -> Form:
    # What is inside a block is computed for one stream.
    place = space.place(layer)
    streams = 1 if place.path else space.tower.streams
    return place.columns, streams, space.tower.streams_first, place.side == "input"


def _columns(pair: Through) -> Int[torch.Tensor, " column"] | None:
    """The columns of the second site's module that paths go through; None for all.

    In a layer whose units have fewer numbers than those of others, each unit is counted as if filled up with zeros.
    """
    if pair.numbers is None:
        return None
    space, layer = pair.second
    place, largest = space.place(layer), space.size
    unit, number = pair.numbers // largest, pair.numbers % largest
    here = number < place.size
    return place.start + unit[here] * place.size + number[here]


def _part(space: Space, layer: int) -> Part | None:
    place = space.place(layer)
    stop = place.start + place.width * place.size
    plain = isinstance(place.scale, float) and place.scale == 1.0 and place.base is None
    if plain and (place.start, stop) == (0, place.columns) and place.size == 1 and place.width == space.width:
        return None
    scale = None if isinstance(place.scale, float) and place.scale == 1.0 else torch_of(place.scale)
    return place.start, stop, scale, place.size, space.n_numbers, space.size


def torch_of(scale: float | Float[np.ndarray, " column"]) -> torch.Tensor:
    """What the columns of a site are multiplied by, as a tensor."""
    import torch

    return torch.as_tensor(scale, dtype=torch.float32)
