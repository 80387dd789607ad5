"""Everything behind a :class:`modalnet.Model`: encoding, layouts, batching and passes over one loaded model.

The public class is small; analyses, which need more than it offers, call the :class:`Executor` that it holds. A view of
a model (under interventions, or on another backend) has an executor of its own that shares the loaded model, and what
was measured of it, with the one that it was made from.
"""

from __future__ import annotations

import copy
import json
import operator
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache as memoized
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from modalnet._validation import check_option
from modalnet._warnings import warn
from modalnet.errors import InputError
from modalnet.execution.backends.choice import RemoteLike, chosen, is_at
from modalnet.execution.backends.local import LocalBackend
from modalnet.execution.backends.protocol import Backend
from modalnet.execution.causality import known_causality
from modalnet.execution.cell_activations import read_cell_activations
from modalnet.execution.cell_gradients import read_cell_gradients
from modalnet.execution.cells import Cell, Outcome, State
from modalnet.execution.dictionaries import Dictionaries
from modalnet.execution.edits import Edits
from modalnet.execution.engine import Engine
from modalnet.execution.generated import Continued
from modalnet.execution.generation import generate, one_by_one
from modalnet.execution.knockouts import Knockout, resolved
from modalnet.execution.latents import ReconstructionError, dictionaries_over, latents_of, reconstruction_error
from modalnet.execution.layout import Layouts
from modalnet.execution.likelihood import Likelihood, Request, answers, check_requests, rows_of
from modalnet.execution.masks import Masks
from modalnet.execution.passes import BatchResult, Readout
from modalnet.execution.path_gradients import AtSites, read_path_gradients
from modalnet.execution.plan import Sites, Through, choose_sites, named_layers
from modalnet.execution.references import References, worth_keeping
from modalnet.execution.routing import routers
from modalnet.execution.run import Run, as_vectors
from modalnet.execution.shipping import check_ships
from modalnet.execution.sinks import Sinks, SinkTable
from modalnet.execution.states import EVERY_PATH, Paths, read_gradients, read_states, token_row
from modalnet.execution.stream import Runner
from modalnet.execution.sublayers import Sublayers
from modalnet.execution.sweep import Sweep
from modalnet.execution.token_locations import image_places
from modalnet.execution.turns import modules_of, step, turn
from modalnet.execution.unembedding import Unembedding
from modalnet.execution.weights import Look, Weights, eager_attention
from modalnet.inputs.batch import Encoded, Prepared
from modalnet.inputs.canvas import Canvas, canvas
from modalnet.inputs.encoding import Encoder
from modalnet.interventions.edges import Edges
from modalnet.interventions.functions import Function
from modalnet.interventions.operations import Intervention, flatten
from modalnet.interventions.positions import (
    PerStimulus,
    StimulusTokens,
    TokenChoice,
    TokenRow,
    check_choice,
    choose_for_each,
)
from modalnet.interventions.read_values import ReadValues
from modalnet.interventions.sources import Source
from modalnet.interventions.values import Affine, Part, Read, values_of
from modalnet.models.fingerprint import (
    checkpoint_fingerprint,
    computation_of,
    numbers_of,
    preprocessing_of,
    reads_weights_once,
    served_fingerprint,
    unread_weights,
    weights_are_read,
    weights_fingerprint,
    weights_read_once,
    why_not_stored,
)
from modalnet.models.loading import Loaded
from modalnet.models.masks import EdgeSpace
from modalnet.models.sites import Space, check_exist, choose_spaces, find_spaces, get_space, layers_of
from modalnet.models.towers import Tower, find_towers, renewed
from modalnet.models.untrained import untrained_copy
from modalnet.results.cache import Identity
from modalnet.stimuli import Stimulus
from modalnet.stimuli.modalities import MODALITIES
from modalnet.units import Units, check_units

if TYPE_CHECKING:
    import torch
    from jaxtyping import Float

    from modalnet.execution.reduction import Observations
    from modalnet.execution.user_trace import UserTrace


#: Attention is measured on this text where the stimuli have a single token each.
SEVERAL_TOKENS = "What is in the picture?"


@dataclass
class _Machinery:
    """What is made when the first stimulus runs, shared by every view of a model on one backend."""

    references: References = field(default_factory=References)
    engine: Engine | None = None
    runner: Runner | None = None
    sweep: Sweep | None = None
    sinks: Sinks | None = None
    causal: dict[str, bool] = field(default_factory=dict)
    sublayers: Sublayers | None = None
    unembedding: Unembedding | None = None
    masks: Masks | None = None
    weights: Weights | None = None


class Executor:
    """Runs stimuli through one loaded model.

    Parameters
    ----------
    loaded
        The model with its tokenizer and processors.
    chat_template
        As for :func:`modalnet.load`.

    Attributes
    ----------
    loaded
        As given.
    towers
        Tower by name, in forward order.
    dictionaries
        Those of this view, whose latents are spaces, too.
    encoder
        Turns stimuli into model inputs.
    interventions
        Applied in every run, before those of a call.
    backend
        Where the model runs.
    """

    def __init__(self, loaded: Loaded, *, chat_template: bool | Literal["auto"] = "auto") -> None:
        self.loaded = loaded
        self.chat_template: bool | Literal["auto"] = chat_template
        self.towers: dict[str, Tower] = find_towers(loaded.module)
        self._spaces: dict[str, Space] = find_spaces(self.towers)
        self.dictionaries: tuple[Dictionaries, ...] = ()
        self._latents: tuple[tuple[Any, ...], dict[str, Space]] = (), {}
        self.encoder = Encoder(loaded, self.towers, chat_template=chat_template)
        self.interventions: tuple[Intervention, ...] = ()
        self.backend: Backend = LocalBackend()
        self._machinery = _Machinery()
        self._modules = modules_of(loaded.module)

    # -- views -------------------------------------------------------------------------------------------------------

    def under(self, interventions: Sequence[Intervention]) -> Executor:
        """The same model with more interventions in every run."""
        view = copy.copy(self)
        view.interventions = (*self.interventions, *interventions)
        return view

    def with_dictionaries(self, space: str, dictionaries: Mapping[Any, Any], name: str, reads: str | None) -> Executor:
        """The same model with latents as one more space; see :meth:`modalnet.Model.with_dictionary`."""
        made = dictionaries_over(self.spaces, space, dictionaries, name, reads, self.name)
        view = copy.copy(self)
        view.dictionaries = (*self.dictionaries, made)
        return view

    def at(self, remote: RemoteLike | None) -> Executor:
        """The same model where ``remote`` says; None leaves it where it is.

        Raises
        ------
        InputError
            Where a server cannot be told which model this is; for False, where the weights are not here.
        """
        if remote is None or is_at(self.backend, remote):
            return self
        view = copy.copy(self)
        view.backend = chosen(remote, self.loaded)
        view._machinery = _Machinery()
        return view

    def untrained(self, seed: int = 0) -> Executor:
        """The same architecture with random weights; see ``untrained=`` of :func:`modalnet.load`."""
        made = Executor(untrained_copy(self.loaded, seed), chat_template=self.chat_template)
        made.dictionaries = self.dictionaries
        return made

    # -- the model ---------------------------------------------------------------------------------------------------

    @property
    def name(self) -> str:
        """A readable name of the model."""
        return self.loaded.name

    @property
    def spaces(self) -> dict[str, Space]:
        """Space by name, tower by tower; then those of dictionaries."""
        if not self.dictionaries:
            return self._spaces
        # Made anew where those that they are over were measured, or found in other modules, since.
        now = (self.dictionaries, *self._spaces.values())
        if len(now) != len(self._latents[0]) or not all(map(operator.is_, now, self._latents[0])):
            made = [latents_of(one, self._spaces, number) for number, one in enumerate(self.dictionaries)]
            self._latents = now, self._spaces | {space.name: space for space in made}
        return self._latents[1]

    @property
    def module(self) -> torch.nn.Module:
        """The transformers model."""
        return self.loaded.module

    @property
    def has_image_tokens(self) -> bool:
        """Whether an image has tokens of its own in the decoder."""
        placed = self.encoder.image_token_id is not None and not self.encoder.writes_apart
        return "decoder" in self.towers and placed

    @property
    def module_is_empty(self) -> bool:
        """Whether the module has no weights here."""
        empty = any(parameter.device.type == "meta" for parameter in self.module.parameters())
        return empty and not hasattr(self.module, "hf_device_map")

    def fingerprint(self) -> str:
        """A hash of the checkpoint: its weights in any precision, and its class, computed at each call.

        Where the weights are on a server, the server's name for the model stands for them.
        """
        return self._fingerprint(checkpoint_fingerprint)

    def _fingerprint(self, of_weights: Callable[[torch.nn.Module], str]) -> str:
        if self.module_is_empty and not self.backend.capabilities.weights_here:
            return served_fingerprint(self.module, self.backend.key)
        return of_weights(self.module)

    @property
    def edited(self) -> bool:
        """Whether hooks, edits or replaced methods change what the model computes, which no fingerprint covers."""
        return bool(why_not_stored(self.module, self.loaded.envoy))

    def identity(self) -> Identity:
        """Everything that decides the numbers of this model as it is now, for the store."""
        numbers = {
            "checkpoint": self._fingerprint(weights_fingerprint),
            **numbers_of(self.module, self.loaded),
            "chat_template": str(self.chat_template),
            "padding_side": self.padding_side,
            "interventions": [one.digest for one in self.interventions],
        }
        if self.dictionaries:
            numbers["dictionaries"] = {one.name: one.digest for one in self.dictionaries}
        if reason := why_not_stored(self.module, self.loaded.envoy):
            return Identity(numbers, f"{self.name}: {reason}")
        for one in self.interventions:
            if isinstance(one.values, Source | Function) and (reason := one.values.not_stored):
                return Identity(numbers, f"{one}: {reason}")
        if not self.module_is_empty and (weight := unread_weights(self.module)):
            return Identity(numbers, f"the weight {weight} of {self.name} cannot be read", unexpected=True)
        return Identity(numbers)

    @property
    def padding_side(self) -> Literal["right", "left"]:
        """The side on which texts of a batch are padded; results do not depend on it."""
        return self.encoder.padding_side

    @padding_side.setter
    def padding_side(self, side: Literal["right", "left"]) -> None:
        check_option("padding_side", side, ("right", "left"))
        self.encoder.padding_side = side
        # What was measured of the layout holds for one side.
        made = self._machinery
        made.runner = made.sweep = made.sinks = made.unembedding = None

    @property
    def engine(self) -> Engine:
        """Runs plans; it wraps every module, so it is made when the first stimulus runs."""
        with turn(self.module):
            made = self._current()
            if made.engine is None:
                if self.backend.capabilities.weights_here and self.module_is_empty:
                    raise InputError(
                        f"{self.name} has weights on the meta device and cannot run. Load it with its weights."
                    )
                made.engine = Engine(self.module, self.loaded.envoy, self.backend)
            return made.engine

    @property
    def runner(self) -> Runner:
        """Runs stimuli in batches."""
        with turn(self.module):
            made = self._current()
            if made.runner is None:
                made.runner = Runner(self.engine, self.encoder, Layouts(self.engine, self.encoder, self.towers))
            return made.runner

    @property
    def sweep(self) -> Sweep:
        """Runs many small edits of the same stimuli."""
        with turn(self.module):
            made = self._current()
            if made.sweep is None:
                made.sweep = Sweep(self.runner)
            return made.sweep

    @property
    def unembedding(self) -> Unembedding:
        """Reads distributions of the next token off vectors of the residual stream."""
        with turn(self.module):
            made = self._current()
            if made.unembedding is None:
                made.unembedding = Unembedding(self.runner)
            return made.unembedding

    def _current(self) -> _Machinery:
        """What was made for the modules that the model has now; modules can be replaced after loading.

        Raises
        ------
        InputError
            Where the user's nnsight model, which carries edits, is one of modules that are no longer there.
        """
        now, made = modules_of(self.module), self._machinery
        if now != self._modules:
            towers = renewed(self.towers, self.module)
            envoy = self.loaded.envoy
            paths = [path for tower in towers.values() for path in tower.paths]
            held = getattr(envoy, "_edits", None) and [envoy.get(path)._module for path in paths]
            if held and held != [self.module.get_submodule(path) for path in paths]:
                raise InputError(
                    f"Modules of {self.name} were replaced after nnsight wrapped it, and its edits are on those that "
                    "were there. Wrap the module again, make the edits there, and load() the new wrapper."
                )
            # In place: views of the model share them, and so do its encoder and layouts.
            self.towers.clear()
            self.towers.update(towers)
            self._spaces.clear()
            self._spaces.update(find_spaces(towers))
            self._modules[:] = now
        if made.engine is not None and (made.engine.modules != now or made.engine.outdated):
            made.engine = made.runner = made.sweep = made.sinks = made.unembedding = None
            made.sublayers = made.masks = made.weights = None
        return made

    def measure(self, spaces: Iterable[str], prepared: Sequence[Prepared]) -> None:
        """Check where the units of spaces are, before they are used for the first time.

        Parameters
        ----------
        spaces
            Names of spaces.
        prepared
            Stimuli that will run, of which one that reaches the tower runs now.
        """
        for name in dict.fromkeys(source for each in spaces for source in self.spaces[each].sources):
            space = self._spaces.get(name)
            if space is None or space.measured or not space.places:
                continue
            item = next((one for one in prepared if space.tower.name in self.reached([one.stimulus])), None)
            if item is None:
                continue
            with step(self.engine):
                made = self._machinery
                if made.sublayers is None:
                    layouts = self.runner.layouts
                    made.sublayers = Sublayers(self.engine, self.encoder, self.towers, layouts.spans)
                encoded = self.encoder.encode(item)
                found = made.sublayers.places(space.tower, encoded)
                if space.tower.name in made.sublayers.unmeasured:
                    warn(
                        f"{self.name}: where the units in the blocks of its {space.tower.name} tower are could not be "
                        "checked by a pass, so they are taken from where its structure says they are."
                    )
                experts = self.spaces.get(f"{space.tower.name}.experts")
                if experts is not None:
                    weights = routers(self.engine, self.encoder, experts, encoded)
                    found |= {"experts": made.sublayers.in_order(space.tower, weights)}
            # In place, as views of the model share them.
            for other in [each for each in self._spaces.values() if each.tower == space.tower and each.places]:
                self._spaces[other.name] = other.found_at(found.get(other.kind, other.places))

    def sites(self, read: Any, prepared: Sequence[Prepared], reached: Sequence[str] | None = None) -> tuple[Sites, ...]:
        """The sites that ``read=`` names, measured; see :func:`modalnet.execution.plan.choose_sites`."""
        reached = self.reached([item.stimulus for item in prepared]) if reached is None else reached
        self.measure([site.name for site in choose_sites(self.spaces, read, reached)], prepared)
        return choose_sites(self.spaces, read, reached)

    def sinks(
        self,
        prepared: Sequence[Prepared],
        towers: Sequence[str],
        batch_size: int | Literal["auto"] = "auto",
    ) -> SinkTable:
        """The sink tokens of stimuli in the intact model; see :mod:`modalnet.execution.sinks`."""
        with turn(self.module):
            made = self._current()
            if made.sinks is None:
                made.sinks = Sinks(self.runner)
            measured = made.sinks
        model = self._as_it_is(prepared)
        with step(self.engine):
            return measured.table(prepared, towers, model, batch_size)

    def _as_it_is(self, prepared: Sequence[Prepared]) -> dict[str, Any] | None:
        """All that decides what the model without any intervention makes of stimuli, beside their own content.

        None where that cannot be told. What stimuli hold tells the tokens of their texts.
        """
        if self.edited or (not self.module_is_empty and unread_weights(self.module)):
            return None
        return {
            "checkpoint": self._fingerprint(weights_fingerprint),
            **computation_of(self.module),
            "media": preprocessing_of(self.loaded) if any(item.stimulus.n_media for item in prepared) else "",
            "tokenizer": id(self.loaded.tokenizer),
            "padding_side": self.padding_side,
        }

    # -- stimuli -----------------------------------------------------------------------------------------------------

    def reached(self, stimuli: Sequence[Stimulus]) -> list[str]:
        """Names of the towers that every one of the stimuli reaches, in forward order."""
        self._current()
        held = {name: all(map(modality.is_in, stimuli)) for name, modality in MODALITIES.items()}
        # Around an image a language model reads a prompt, so an image alone reaches both towers; in a dual encoder
        # the towers do not meet.
        held["text"] = held["text"] or not self.encoder.dual
        return [name for name, tower in self.towers.items() if held[tower.modality]]

    def alone(self, stimuli: Sequence[Stimulus]) -> str | None:
        """``"image"`` or ``"audio"`` where stimuli without text have tokens of their own in the decoder; else None."""
        if any(stimulus.text is not None for stimulus in stimuli):
            return None
        placed = {"image": self.has_image_tokens, "audio": self.encoder.sound_token_id is not None}
        return next((kind for kind, has in placed.items() if has and all(map(MODALITIES[kind].is_in, stimuli))), None)

    def is_causal(self, tower: Tower) -> bool:
        """Whether a tower's last token has attended to all others; see :mod:`modalnet.execution.causality`."""
        causal = self._machinery.causal
        if tower.name not in causal:
            known = known_causality(tower, self.encoder)
            if known is None:
                with step(self.engine):
                    known = self.runner.layouts.causality.is_causal(tower)
            causal[tower.name] = known
        return causal[tower.name]

    def reached_spaces(self, stimuli: Sequence[Stimulus], spaces: str | Sequence[str] | None = None) -> list[str]:
        """Names of those of some spaces whose tower every one of the stimuli reaches; None for the residual streams."""
        reached = self.reached(stimuli)
        chosen = choose_spaces(self.spaces, spaces, self.name)
        return [name for name in chosen if self.spaces[name].tower.name in reached]

    def prepare(
        self, stimuli: Sequence[Stimulus], *, max_tokens: int | None = None, raw: bool = False
    ) -> list[Prepared]:
        """Check stimuli against the model and write their prompts; see :class:`modalnet.inputs.encoding.Encoder`."""
        return self.encoder.prepare(stimuli, max_tokens=max_tokens, raw=raw)

    def next_tokens(self, stimulus: Stimulus, text: str) -> tuple[int, ...]:
        """The token ids of a text written straight after a stimulus.

        Raises
        ------
        InputError
            Where the text changes the tokens of the stimulus.
        """
        return self.encoder.next_tokens(stimulus, text)

    def token_rows(
        self, stimuli: Sequence[Stimulus], spaces: Sequence[str], continuations: Sequence[str] | None = None
    ) -> list[dict[str, TokenRow]]:
        """Per stimulus and space, the tokens of the stimulus, without those of its continuation."""
        prepared = self.encoder.prepare(stimuli, continuations=continuations)
        encoded = map(self.encoder.encode, prepared)
        towers = {name: get_space(self.spaces, name, self.name).tower.name for name in spaces}
        return [{name: token_row(self.runner, item, tower) for name, tower in towers.items()} for item in encoded]

    def token_row(self, prepared: Prepared, tower: str) -> TokenRow:
        """The tokens of a stimulus in a tower, by name."""
        return token_row(self.runner, self.encoder.encode(prepared), tower)

    def image_places(self, stimulus: Stimulus, space: str) -> Float[np.ndarray, "token 4"] | None:
        """Where in its image each token of a stimulus is; see :mod:`modalnet.execution.token_locations`."""
        return image_places(self.sweep, stimulus, self.spaces[space].tower.name)

    def canvas(self, text: str | None = None, size: int | tuple[int, int] | None = None) -> Canvas:
        """An image whose pixels a gradient can change; see :func:`modalnet.inputs.canvas.canvas`."""
        return canvas(self.encoder, text, size)

    def check_units(self, units: Units, what: str = "The units") -> None:
        """Refuse units of another model; see :func:`modalnet.units.check_units`."""
        fingerprint = None if units.model is None else self.fingerprint()
        if fingerprint != units.model and self._fingerprint(weights_fingerprint) == units.model:
            fingerprint = None  # units of a file of an earlier version, which carry this one
        shapes = {name: space.shape for name, space in self.spaces.items()}
        check_units(units, shapes, model=fingerprint, source=self.name, what=what)

    def edits(
        self,
        interventions: Sequence[Intervention | Sequence[Intervention]],
        prepared: Sequence[Prepared],
        batch_size: int | Literal["auto"] = "auto",
    ) -> Edits | None:
        """The interventions of this view and of a call, with their values; None for none. See :meth:`edits_under`."""
        return self.edits_under([interventions], prepared, None, batch_size)[0]

    def edits_under(
        self,
        variants: Sequence[Sequence[Intervention | Sequence[Intervention]]],
        prepared: Sequence[Prepared],
        owners: Sequence[int] | None,
        batch_size: int | Literal["auto"],
    ) -> list[Edits | None]:
        """The interventions of this view and of each variant, with their values; None for none.

        Sink tokens are measured here, once for all of them, where any intervention spares them.

        Parameters
        ----------
        variants
            Interventions, after those of the view.
        prepared
            Stimuli that will run.
        owners
            For each of them, the index of the stimulus that the user gave; None where they are the same.
        batch_size
            As for :meth:`modalnet.Model.run`.

        Raises
        ------
        InputError
            For units of another model, or a tower that the stimuli do not reach.
        """
        with weights_read_once():
            contents = memoized(lambda: tuple(item.seed for item in prepared))
            made = [self._edits(interventions, prepared, owners, contents) for interventions in variants]
            sparing = [edits for edits in made if edits is not None and edits.sparing]
            if sparing:
                towers = [name for name in self.towers if any(name in edits.sparing for edits in sparing)]
                table = self.sinks(prepared, towers, batch_size)
                for edits in sparing:
                    edits.sinks = table
        return made

    def _edits(
        self,
        interventions: Sequence[Intervention | Sequence[Intervention]],
        prepared: Sequence[Prepared],
        owners: Sequence[int] | None,
        contents: Callable[[], Sequence[int]],
    ) -> Edits | None:
        ordered = [*self.interventions, *flatten(interventions)]
        if not ordered:
            return None
        owned = list(range(len(prepared)) if owners is None else owners)
        reached = self.reached([item.stimulus for item in prepared])
        with weights_read_once():
            for one in ordered:
                if isinstance(one.target, Units):
                    self.check_units(one.target, f"{one}: the units")
        for one in ordered:
            for name in one.towers:
                if name in self.towers and name not in reached:
                    raise InputError(
                        f"{one} is on the {name} tower, which these stimuli do not reach, so it would have no effect. "
                        f"Use stimuli with {self.towers[name].noun}, or omit it."
                    )
        if not self.backend.capabilities.in_place:
            for one in ordered:
                if isinstance(one.values, Function):
                    check_ships(one.values.call, str(one))
        for one in ordered:
            self.measure([name for name in one.spaces if name in self.spaces], prepared)
            if isinstance(one.target, Units):
                check_exist(self.spaces, one.target, f"{one}: ")
        knockouts = [self._knockout(one, prepared, owned) for one in ordered if isinstance(one.target, Edges)]
        others = [one for one in ordered if not isinstance(one.target, Edges)]
        return Edits(others, self.spaces, self._values, owned, contents, knockouts=knockouts)

    def _knockout(self, one: Intervention, prepared: Sequence[Prepared], owners: Sequence[int]) -> Knockout:
        """A knockout over the user's stimuli, each of which may run several times."""
        assert isinstance(one.target, Edges)
        tower = one.target.tower
        if tower not in self.towers:
            raise InputError(f"{one}: {self.name} has no {tower} tower; its towers are {', '.join(self.towers)}.")
        firsts = [owners.index(owner) for owner in sorted(set(owners))]
        given = [prepared[first] for first in firsts]
        rows = [self.token_row(item, tower) for item in given]
        return resolved(
            one,
            lambda name: self.edges_of(name, prepared),
            [item.stimulus for item in given],
            rows,
            self.image_places,
        )

    def edges_of(self, tower: str, prepared: Sequence[Prepared]) -> EdgeSpace:
        """The attention edges of a tower; where its blocks take their masks is measured."""
        heads, pre = (self.spaces.get(f"{tower}.{kind}") for kind in ("heads", "pre"))
        if heads is None or pre is None:
            raise InputError(f"The {tower} tower of {self.name} has no attention whose edges could be removed.")
        self.measure([heads.name, pre.name], prepared)
        heads, pre = self.spaces[heads.name], self.spaces[pre.name]
        with step(self.engine):
            made = self._machinery
            if made.masks is None:
                made.masks = Masks(self.engine, self.encoder, self.runner.layouts.spans)
            causal = self.is_causal(self.towers[tower])
            return made.masks.edges(heads, pre, self._of_several_tokens(prepared[:8]), causal=causal)

    def _of_several_tokens(self, prepared: Sequence[Prepared]) -> Encoded:
        """One of some stimuli, the longest, or a text where all are single tokens.

        Among several tokens, edges can be told from what a token is by itself.
        """
        item = max(prepared, key=lambda each: len(each.stimulus.text or ""))
        encoded = self.encoder.encode(item)
        if item.stimulus.text and not item.stimulus.n_media and encoded.n_tokens == 1:
            return self.encoder.encode(self.encoder.prepare([Stimulus(SEVERAL_TOKENS)])[0])
        return encoded

    def _values(self, one: Intervention, parts: Sequence[Part], n_stimuli: int) -> Affine:
        """The values of an intervention; its reference stimuli run unless they are known already."""

        def compute(read: Read) -> Affine:
            return values_of(one, parts, read, n_stimuli)

        return self._machinery.references.of(self._key_of(one, n_stimuli), parts, self._read_apart, compute)

    def _key_of(self, one: Intervention, n_stimuli: int) -> tuple[Any, ...] | None:
        """All that decides the values of an intervention; None where none are kept."""
        if not isinstance(one.values, tuple | Source):
            return None
        if not worth_keeping(len(one.values), self.module, read_anyway=weights_are_read(self.module)):
            return None
        # One source is for any number of stimuli; several have to fit.
        sources = n_stimuli if one.kind == "patch" and len(one.values) > 1 else 1
        if isinstance(one.values, Source):
            # The digest of a source is that of its model as it is now.
            return None if one.values.not_stored else (one.digest, sources)
        prepared = self.encoder.prepare(list(one.values))
        model = self._as_it_is(prepared)
        if model is None:
            return None
        latents = {each.name: each.digest for each in self.dictionaries if self._is_on(one, each)}
        contents = tuple(item.content for item in prepared)
        return one.digest, sources, contents, json.dumps([model, latents], sort_keys=True)

    def _is_on(self, one: Intervention, dictionaries: Dictionaries) -> bool:
        """Whether an intervention is on latents of some dictionaries."""
        return any(self.spaces[name].kind == dictionaries.name for name in one.spaces if name in self.spaces)

    def read_apart(
        self,
        stimuli: Sequence[Stimulus],
        layers: Mapping[str, Sequence[int]],
        tokens: StimulusTokens,
        spare_first: int,
        *,
        batch_size: int | Literal["auto"] = "auto",
    ) -> Iterator[tuple[int, dict[str, Float[torch.Tensor, "layer token dim"]]]]:
        """(index, {space: activations}) of each stimulus at chosen tokens under the interventions of this view.

        Not in order.
        """
        for name in layers:
            get_space(self.spaces, name, self.name)
        prepared = self.encoder.prepare(list(stimuli))
        edits = self.edits((), prepared, batch_size)
        yield from self._apart(prepared, layers, tokens, spare_first, edits=edits, batch_size=batch_size)

    def _read_apart(
        self,
        stimuli: Sequence[Stimulus],
        layers: Mapping[str, list[int]],
        tokens: TokenChoice,
        spare_first: int,
        without_sinks: bool,
    ) -> Iterator[tuple[int, dict[str, Any]]]:
        """The same without any intervention, and without sink tokens where asked."""
        prepared = self.encoder.prepare(list(stimuli))
        yield from self._apart(prepared, layers, tokens, spare_first, without_sinks=without_sinks)

    def _apart(
        self,
        prepared: Sequence[Prepared],
        layers: Mapping[str, Sequence[int]],
        tokens: StimulusTokens,
        spare_first: int,
        *,
        without_sinks: bool = False,
        edits: Edits | None = None,
        batch_size: int | Literal["auto"] = "auto",
    ) -> Iterator[tuple[int, dict[str, Any]]]:
        sites = self.sites(layers, prepared)
        choices = dict.fromkeys(layers, tokens)
        sinks = self.sinks_of(prepared, sites) if without_sinks else None
        readout = Readout(
            sites, choices, variants=[edits], pooled=False, spare_first=spare_first, sinks=sinks, numbers=True
        )
        for result in self.runner.stream(prepared, readout, batch_size):
            for place, index in enumerate(result.indices):
                yield index, {name: values[place] for name, values in result.activations.items()}
            del result  # or it would be held while the next batch runs

    def sinks_of(
        self, prepared: Sequence[Prepared], sites: Sequence[Sites], batch_size: int | Literal["auto"] = "auto"
    ) -> SinkTable:
        """The sink tokens of stimuli in the towers that are read."""
        return self.sinks(prepared, list(dict.fromkeys(site.tower.name for site in sites)), batch_size)

    # -- passes ------------------------------------------------------------------------------------------------------

    def run(
        self,
        stimuli: Sequence[Stimulus],
        interventions: Sequence[Intervention | Sequence[Intervention]] = (),
        *,
        read: Any = None,
        tokens: Any = None,
        logits: Literal["last", "all"] | None = None,
        vectors: bool = False,
        attention: bool | Literal["mean"] = False,
        batch_size: int | Literal["auto"] = "auto",
    ) -> Run:
        """Run stimuli and read activations, logits and attention; see :meth:`modalnet.Model.run`."""
        if logits is not None:
            self.runner.engine.head()
        sites = choose_sites(self.spaces, read, self.reached(stimuli))
        attending = self._attending(stimuli, sites) if attention is not False else {}
        choices = choose_for_each(
            tokens, [site.space for site in sites], alone=self.alone(stimuli), causal=self.is_causal
        )
        _check_one_each(choices, len(stimuli))
        prepared = self.encoder.prepare(stimuli)
        sites = self.sites(read, prepared)
        edits = self.edits(interventions, prepared, batch_size)
        # At one token the length of a unit is that of its numbers; over several, it is the mean of their lengths.
        several = [site for site in sites if vectors and site.space.size > 1]
        apart = frozenset(site.name for site in several if choices[site.name] == "all")
        readout = Readout(sites, choices, logits, [edits], numbers=apart)
        found, rows = _collected(self.runner.stream(prepared, readout, batch_size), sites, len(stimuli))
        numbers = {name: found[name] for name in apart}
        if pooled := [site for site in several if site.name not in apart]:
            readout = Readout(pooled, choices, variants=[edits], numbers=True)
            numbers |= _collected(self.runner.stream(prepared, readout, batch_size), pooled, len(stimuli))[0]
        layers = {site.name: site.layers for site in sites}
        for name, each in numbers.items():
            numbers[name] = [as_vectors(self.spaces[name], layers[name], value) for value in each]
            if name in apart:
                found[name] = [value.norm(dim=-1) for value in numbers[name]]
        given = {} if read is None else named_layers(self.spaces, read)
        for name in (name for name, some in given.items() if some is not None):
            order = layers_of(self.spaces[name], given[name])
            at = [layers[name].index(layer) for layer in order]
            if at != list(range(len(layers[name]))):
                for values in [each[name] for each in (found, numbers) if name in each]:
                    values[:] = [value[at] for value in values]
                layers[name] = order
        attended = {
            tower: self._whole_attention(stimuli, interventions, tower, some, mean=attention == "mean")
            for tower, some in attending.items()
        }
        return Run(
            activations={name: values if choices[name] == "all" else _stack(values) for name, values in found.items()},
            logits=None if logits is None else rows if logits == "all" else _stack([row[0] for row in rows]),
            layers=layers,
            tokens=choices,
            named=lambda: self.token_rows(stimuli, list(found)),
            vectors={name: values if choices[name] == "all" else _stack(values) for name, values in numbers.items()},
            attention=attended,
            attention_layers=attending,
        )

    def _attending(self, stimuli: Sequence[Stimulus], sites: Sequence[Sites]) -> dict[str, tuple[int, ...]]:
        """The layers in which attention is read, by tower: those of what is read, or all where nothing else is."""
        self.check_reads_attention()
        chosen: dict[str, tuple[int, ...]] = {}
        for site in sites:
            tower = site.space.tower.name
            chosen[tower] = tuple(sorted({*chosen.get(tower, ()), *site.layers}))
        if not sites:
            chosen = {name: tuple(range(self.towers[name].n_layers)) for name in self.reached(stimuli)}
        found = {name: layers for name, layers in chosen.items() if layers and f"{name}.heads" in self.spaces}
        if not found:
            raise InputError(
                f"`attention` is read of attention heads, but {self.name} has none in {' and '.join(chosen)}."
            )
        return found

    def _whole_attention(
        self,
        stimuli: Sequence[Stimulus],
        interventions: Sequence[Intervention | Sequence[Intervention]],
        tower: str,
        layers: Sequence[int],
        *,
        mean: bool,
    ) -> list[Float[torch.Tensor, "layer ... target source"]]:
        """The attention weights among all tokens of each stimulus; NaN in layers that have no attention."""
        import torch

        known = self.attention_layers(stimuli, tower)
        there = [place for place, layer in enumerate(layers) if layer in known] or list(range(len(layers)))
        some = [layers[place] for place in there]
        found = []
        for weights in self.attention(
            stimuli, tower, some, interventions, ends=lambda _, row: (range(len(row)), range(len(row))), mean=mean
        ):
            whole = torch.full((len(layers), *weights.shape[1:]), float("nan"))
            whole[there] = weights
            found.append(whole[:, 0] if mean else whole)
        return found

    def stream(
        self,
        prepared: Sequence[Prepared],
        spaces: Sequence[str] | Mapping[str, Sequence[int]],
        tokens: Mapping[str, TokenChoice],
        *,
        batch_size: int | Literal["auto"] = "auto",
    ) -> Iterator[BatchResult]:
        """Yield pooled activations batch by batch, of all layers or of some, for analyses that reduce as they go."""
        sites = self.sites(spaces, prepared, list(self.towers))
        edits = self.edits((), prepared, batch_size)
        yield from self.runner.stream(prepared, Readout(sites, tokens, variants=[edits]), batch_size)

    def moments(
        self,
        prepared: Sequence[Prepared],
        spaces: Sequence[str],
        tokens: Mapping[str, TokenChoice],
        groups: Sequence[int],
        *,
        absolute: bool,
        observations: Observations | None = None,
        batch_size: int | Literal["auto"] = "auto",
        later: list[bytes] | None = None,
    ) -> Iterator[tuple[list[int], dict[str, dict[str, torch.Tensor]]]]:
        """Yield moments of groups of stimuli that the backend reduced; see :meth:`.stream.Runner.moments`."""
        sites = self.sites(list(spaces), prepared, list(self.towers))
        edits = self.edits((), prepared, batch_size)
        yield from self.runner.moments(
            prepared,
            Readout(sites, tokens, variants=[edits]),
            groups,
            absolute=absolute,
            observations=observations,
            batch_size=batch_size,
            later=later,
        )

    def means(
        self,
        stimuli: Sequence[Stimulus],
        spaces: str | Sequence[str] | None,
        tokens: Any,
        spare_first: int,
        *,
        spare_sinks: bool = True,
    ) -> ReadValues:
        """Mean activation of every unit over stimuli, in float64; see :meth:`modalnet.Model.means`."""
        choose_sites(self.spaces, spaces, self.reached(stimuli))
        choice = check_choice("mean" if tokens == "all" else tokens)
        prepared = self.encoder.prepare(stimuli)
        sites = self.sites(spaces, prepared)
        sums = {site.name: np.zeros((site.space.n_layers, site.space.n_numbers)) for site in sites}
        counts = {site.name: np.zeros((site.space.n_layers, 1)) for site in sites}
        sinks = self.sinks_of(prepared, sites) if spare_sinks else None
        variants = [self.edits((), prepared)]
        choices = dict.fromkeys(sums, choice)
        readout = Readout(sites, choices, variants=variants, spare_first=spare_first, sinks=sinks, numbers=True)
        for result in self.runner.stream(prepared, readout):
            for name in result.activations:
                there = result.counts[name] > 0  # the mean over no token is NaN: such a stimulus is left out
                read = result.activations[name].double()
                sums[name] += read.masked_fill(~there[..., None], 0.0).sum(0).numpy()
                del read
                counts[name] += there.sum(0).numpy()[:, None]
            del result  # or it would be held while the next batch runs
        for name, count in counts.items():
            if not count.all():
                raise InputError(
                    f"No stimulus has a token of {name} left to take the mean over: all of those chosen are spared"
                    + (" or are sinks; spare_sinks=False keeps these." if spare_sinks else ".")
                )
        return ReadValues({name: total / counts[name] for name, total in sums.items()}, choices, spare_first)

    def check_generates(self) -> None:
        """Raise an InputError where the model generates no text."""
        self.runner.engine.head()
        if not hasattr(self.module, "generate"):
            raise InputError(f"{type(self.module).__name__} cannot generate text: it has no generate().")

    def dictionary_error(
        self,
        stimuli: Sequence[Stimulus],
        tokens: Any,
        *,
        spare_sinks: bool = True,
        batch_size: int | Literal["auto"] = "auto",
    ) -> list[ReconstructionError]:
        """How well the dictionaries reconstruct; see :meth:`modalnet.Model.dictionary_error`."""
        choice = check_choice("all" if tokens == "mean" else tokens)
        prepared = self.encoder.prepare(stimuli)
        found = []
        for one in self.dictionaries:
            space = latents_of(one, self._spaces)
            self.measure([space.name], prepared)
            space = latents_of(one, self._spaces)
            sites = [Sites(each, tuple(one.codes)) for each in dict.fromkeys((space.carrier, space.encoded))]
            sinks = self.sinks_of(prepared, sites, batch_size) if spare_sinks else None
            choices: dict[str, TokenChoice] = {site.name: choice for site in sites}
            edits = self.edits((), prepared, batch_size)
            readout = Readout(sites, choices, variants=[edits], pooled=False, sinks=sinks, numbers=True)
            found += reconstruction_error(one, space, self.runner.stream(prepared, readout, batch_size))
        return found

    def generate(
        self,
        stimuli: Sequence[Stimulus],
        interventions: Sequence[Intervention | Sequence[Intervention]],
        max_new_tokens: int,
        settings: Mapping[str, Any],
        *,
        details: bool = False,
    ) -> list[tuple[str, Continued]]:
        """The text that is generated after each stimulus, and its tokens; see :meth:`modalnet.Model.generate`."""
        self.check_generates()
        prepared = self.encoder.prepare(stimuli)
        edits = self.edits(interventions, prepared)
        made = generate(self.runner, prepared, edits, max_new_tokens, settings, details=details)
        return [(self.loaded.tokenizer.decode(one.tokens, skip_special_tokens=True), one) for one in made]

    def opened(
        self,
        stimuli: Sequence[Stimulus],
        interventions: Sequence[Intervention | Sequence[Intervention]],
        settings: Mapping[str, Any] | None,
    ) -> UserTrace:
        """A trace of stimuli that the user enters; see :meth:`modalnet.Model.trace`."""
        from modalnet.execution.user_trace import open_trace

        if settings is not None:
            self.check_generates()
            settings = one_by_one(self.runner, settings)
        prepared = self.encoder.prepare(stimuli)
        edits = self.edits(interventions, prepared)
        reached = self.reached(stimuli)
        names = [name for name, space in self.spaces.items() if space.tower.name in reached]
        if self.backend.capabilities.in_place:
            self.measure(names, prepared)
        return open_trace(self.runner, prepared, edits, {name: self.spaces[name] for name in names}, settings)

    def attention(
        self,
        stimuli: Sequence[Stimulus],
        tower: str,
        layers: Sequence[int] | None,
        interventions: Sequence[Intervention | Sequence[Intervention]] = (),
        *,
        ends: Callable[[int, TokenRow], tuple[Sequence[int], Sequence[int]]],
        mean: bool,
        done: Callable[[], object] = lambda: None,
    ) -> Iterator[Float[torch.Tensor, "layer head target source"]]:
        """The attention weights of each stimulus in layers of a tower; see :mod:`modalnet.execution.weights`.

        Parameters
        ----------
        stimuli, interventions
            As for :meth:`modalnet.Model.run`.
        tower, layers
            None for every layer that has attention heads.
        ends
            From the number and the tokens of a stimulus to the places of those that attend and that are attended to.
        mean
            Whether the mean over heads is taken.
        done
            Called when a stimulus was read.
        """
        self.check_reads_attention()
        prepared = self.encoder.prepare(stimuli)
        if tower not in self.reached(stimuli):
            raise InputError(f"The {tower} tower of {self.name} is not reached by these stimuli.")
        encoded = [self.encoder.encode(item) for item in prepared]
        rows = [token_row(self.runner, item, tower) for item in encoded]
        chosen = [ends(index, row) for index, row in enumerate(rows)]
        with step(self.engine), eager_attention(self.module):
            edges = self.edges_of(tower, prepared)
            edits = self.edits(interventions, prepared)
            made = self._machinery
            if made.weights is None:
                made.weights = Weights(self.engine, self.encoder, self.runner.layouts.spans)
            trials = {
                kind: self._of_several_tokens([each.prepared for each in encoded if each.kind == kind][:8])
                for kind in {each.kind for each in encoded}
            }
            looks = [Look(each, *pair, trials[each.kind]) for each, pair in zip(encoded, chosen, strict=True)]
            wanted = edges.layers if layers is None else layers
            for layer in wanted or (0,):  # says why there is none
                edges.mask(layer)
            found = []
            for weights in made.weights.read(edges, wanted, looks, edits, mean=mean):
                found.append(weights)
                done()
        yield from found

    def attention_layers(self, stimuli: Sequence[Stimulus], tower: str) -> tuple[int, ...]:
        """The layers of a tower in which its tokens attend to each other, which those of cross-attention do not.

        Raises
        ------
        InputError
            There are none; the message says why, of the first.
        """
        with step(self.engine), eager_attention(self.module):
            edges = self.edges_of(tower, self.encoder.prepare(stimuli))
            if not edges.layers:
                edges.mask(0)
            return edges.layers

    def check_reads_attention(self) -> None:
        """Refuse a model whose attention cannot be computed eagerly from here."""
        if not self.backend.capabilities.in_place:
            raise InputError(
                f"{self.name} runs on a server, and attention weights are read locally: the attention has to be "
                "computed eagerly. Load it locally."
            )

    # -- likelihoods -------------------------------------------------------------------------------------------------

    def likelihoods(
        self,
        requests: Sequence[Request],
        *interventions: Intervention | Sequence[Intervention],
        batch_size: int | Literal["auto"] = "auto",
        owners: Sequence[int] | None = None,
    ) -> list[Likelihood]:
        """Log-probabilities of continuations, whole or by segments, in the order of the requests.

        Parameters
        ----------
        requests
            Stimuli with their continuations.
        *interventions, batch_size
            As for :meth:`modalnet.Model.score`.
        owners
            For each request, the index of the stimulus that the user gave; None where every request has its own.

        Raises
        ------
        InputError
            As for :meth:`modalnet.Model.score`; for cuts that do not ascend inside the continuation.
        """
        return self.likelihoods_under(requests, [interventions], batch_size=batch_size, owners=owners)[0]

    @reads_weights_once
    def likelihoods_under(
        self,
        requests: Sequence[Request],
        variants: Sequence[Sequence[Any]],
        *,
        batch_size: int | Literal["auto"] = "auto",
        owners: Sequence[int] | None = None,
    ) -> list[list[Likelihood]]:
        """The same requests under each of several lists of interventions, encoded once; in the order of the lists."""
        check_requests(requests)
        self.runner.engine.head()
        import torch

        stimuli = [request.stimulus or Stimulus.blank() for request in requests]
        prepared = self.encoder.prepare(
            stimuli,
            continuations=[request.continuation for request in requests],
            cuts=[request.cuts for request in requests],
        )
        edits = self.edits_under(variants, prepared, owners, batch_size)
        alone = any(each is not None and each.by_row for each in edits)
        apart = alone or any(each is not None and each.by_owner for each in edits)
        own = range(len(requests)) if alone or owners is None else owners
        rows = rows_of(requests, prepared, own if apart else None)
        by_place = {row.item.index: row for row in rows}
        running = [row.item for row in rows if row.item.places]
        nothing, likelihoods = torch.zeros(0), [dict[int, Likelihood]() for _ in variants]
        for row in rows:
            if not row.item.places:
                for under in likelihoods:
                    under.update(answers(row, requests, prepared, nothing, nothing.bool()))
        for result in self.runner.stream(running, Readout(logits="score", variants=edits), batch_size):
            for index, scores in zip(result.indices, result.scores or (), strict=True):
                likelihoods[result.variant].update(answers(by_place[index], requests, prepared, *scores))
        return [[under[index] for index in range(len(requests))] for under in likelihoods]

    # -- many edits of the same runs ---------------------------------------------------------------------------------

    def states(
        self,
        stimuli: Sequence[Stimulus],
        *,
        spaces: Sequence[str] | None = None,
        continuations: Sequence[str] | None = None,
        outcome: Outcome | None = None,
        batch_size: int | Literal["auto"] = "auto",
    ) -> list[State]:
        """Run stimuli and store their activations at every layer and token, for :meth:`run_cells`.

        Parameters
        ----------
        stimuli
            Stimuli to run.
        spaces
            None for the residual stream of every tower that all of them reach.
        continuations
            One per stimulus, written straight after it: then log-probabilities of its tokens can be requested.
        outcome
            What to take from the logits of the same passes.
        batch_size
            As for :meth:`modalnet.Model.run`.
        """
        prepared = self.encoder.prepare(stimuli, continuations=continuations)
        names = self.reached_spaces(stimuli, spaces)
        self.measure(names, prepared)
        chosen = [self.spaces[name] for name in names]
        return read_states(self.runner, prepared, chosen, self.edits((), prepared, batch_size), batch_size, outcome)

    def run_cells(
        self,
        states: Sequence[State],
        cells: Sequence[Cell],
        outcome: Outcome,
        *,
        batch_size: int | Literal["auto"] = "auto",
    ) -> Iterator[tuple[int, torch.Tensor]]:
        """Yield (number, outcome) of every cell, not in order; see :mod:`modalnet.execution.sweep`."""
        edits = self.edits((), [state.encoded.prepared for state in states], batch_size)
        yield from self.sweep.run(states, cells, outcome, edits, batch_size)

    def gradients(
        self,
        stimuli: Sequence[Stimulus],
        measure: Callable[[torch.Tensor, Sequence[int]], torch.Tensor],
        *,
        spaces: Sequence[str] | None = None,
        continuations: Sequence[str] | None = None,
        batch_size: int | Literal["auto"] = "auto",
        paths: Paths = EVERY_PATH,
    ) -> Iterator[tuple[int, State, dict[str, Float[torch.Tensor, "layer token dim"]], torch.Tensor]]:
        """Run stimuli forward and backward; see :func:`modalnet.execution.states.read_gradients`."""
        prepared = self.encoder.prepare(stimuli, continuations=continuations)
        names = self.reached_spaces(stimuli, spaces)
        self.measure(names, prepared)
        chosen = [self.spaces[name] for name in names]
        edits = self.edits((), prepared, batch_size)
        yield from read_gradients(self.runner, prepared, chosen, measure, edits, batch_size, paths)

    def cell_gradients(
        self,
        states: Sequence[State],
        cells: Sequence[Cell],
        measure: Callable[[torch.Tensor, Sequence[int]], torch.Tensor],
        *,
        batch_size: int | Literal["auto"] = "auto",
    ) -> Iterator[tuple[int, Float[torch.Tensor, "token dim"]]]:
        """Yield (number, gradient at its site) of every cell, not in order; see :mod:`.cell_gradients`."""
        edits = self.edits((), [state.encoded.prepared for state in states], batch_size)
        yield from read_cell_gradients(self.sweep, states, cells, measure, edits, batch_size)

    def path_gradients(  # noqa: PLR0917
        self,
        states: Sequence[State],
        cells: Sequence[Cell],
        reads: Sequence[Sites],
        through: Sequence[Through],
        measure: Callable[[torch.Tensor, Sequence[int]], torch.Tensor],
        batch_size: int | Literal["auto"] = "auto",
    ) -> Iterator[tuple[int, AtSites]]:
        """Yield (number, gradients at some sites) of every cell, not in order; see :mod:`.path_gradients`."""
        edits = self.edits((), [state.encoded.prepared for state in states], batch_size)
        yield from read_path_gradients(self.sweep, states, cells, reads, through, measure, edits, batch_size)

    def cell_activations(
        self,
        states: Sequence[State],
        cells: Sequence[Cell],
        sites: Sequence[tuple[Space, int]],
        *,
        batch_size: int | Literal["auto"] = "auto",
    ) -> Iterator[tuple[int, Float[torch.Tensor, "token number"]]]:
        """Yield (number, activations at its site) of every cell, not in order; see :mod:`.cell_activations`."""
        edits = self.edits((), [state.encoded.prepared for state in states], batch_size)
        yield from read_cell_activations(self.sweep, states, cells, sites, edits, batch_size)

    def check_input_gradients(self) -> None:
        """Raise an InputError where the backend takes no gradients at model inputs."""
        if not self.backend.capabilities.input_gradients:
            raise InputError(
                f"{self.name} runs on a server, but gradients with respect to inputs are computed locally only. Load "
                "it locally."
            )

    def inward(
        self,
        encoded: Encoded,
        layers: Mapping[str, Sequence[int]],
        tokens: Mapping[str, TokenChoice],
        source: str,
        measure: Callable[[Sequence[torch.Tensor]], torch.Tensor],
    ) -> tuple[Float[torch.Tensor, " stimulus"], Float[torch.Tensor, "..."]]:
        """The value of a measure of one stimulus, and its gradient at one of the stimulus' inputs.

        See :meth:`modalnet.execution.engine.Engine.inward`.
        """
        self.check_input_gradients()
        prepared = encoded.prepared
        sites = self.sites(layers, [prepared], list(self.towers))
        edits = self._edits((), [prepared], None, lambda: (prepared.seed,))
        if edits is not None and edits.sparing:
            # The inputs are given: an image that is being optimized is not that of the stimulus.
            edits.sinks = Sinks(self.runner).alone(encoded, edits.sparing)
        reading = self.runner.inward(encoded, sites, tokens, source, measure, edits)
        assert reading.measured is not None
        assert reading.inward is not None
        return reading.measured, reading.inward


def _check_one_each(choices: Mapping[str, StimulusTokens], n_stimuli: int) -> None:
    for name, choice in choices.items():
        if isinstance(choice, PerStimulus) and len(choice.each) != n_stimuli:
            raise InputError(
                f"`tokens` has a list of {len(choice.each)} choices for {name}, but {n_stimuli} stimuli. Give "
                "one for each, in their order."
            )


def _collected(
    results: Iterable[BatchResult], sites: Sequence[Sites], n_stimuli: int
) -> tuple[dict[str, list[Any]], list[Any]]:
    """Per space the values of each stimulus, and the logits of each, in their order."""
    found: dict[str, list[Any]] = {site.name: [None] * n_stimuli for site in sites}
    rows: list[Any] = [None] * n_stimuli
    for result in results:
        for name, values in result.activations.items():
            for index, value in zip(result.indices, values, strict=True):
                found[name][index] = value
        for index, value in zip(result.indices, result.logits or (), strict=False):
            rows[index] = value
    return found, rows


def _stack(values: list[torch.Tensor]) -> Float[torch.Tensor, "stimulus ..."]:
    import torch

    return torch.stack(values)
