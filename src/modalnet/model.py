"""The face of a model: its towers, its units, and what it does with stimuli.

A :class:`Model` puts together what the rooms below it know: how to load (``architecture``), where the towers are, how
stimuli become inputs, and how a plan runs in one trace (``interventions``). The analyses are clients of this class.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from modalnet.errors import InputError
from modalnet.execution.backends.ndif import Remote, check_mode
from modalnet.execution.batching import Runner, Step
from modalnet.execution.edits import Edits, flatten
from modalnet.execution.layout import Layouts
from modalnet.execution.likelihood import Likelihood, Request, Scores, answers, check_requests, pairs, rows_of
from modalnet.execution.plan import choose_sites
from modalnet.execution.sweep import Cell, Outcome, State, Sweep
from modalnet.execution.token_locations import image_places
from modalnet.execution.trace import Engine
from modalnet.inputs.canvas import Canvas, canvas
from modalnet.inputs.encoding import Encoded, Encoder, Prepared
from modalnet.interventions.operations import Intervention
from modalnet.interventions.positions import TokenChoice, TokenRow, check_choice, choose
from modalnet.models.fingerprint import encoding_fingerprint, model_fingerprint, served_fingerprint
from modalnet.models.loading import Loaded, load_source
from modalnet.models.towers import TEXT_TOWERS, VISION_TOWERS, Tower, find_towers, input_of
from modalnet.models.untrained import untrained_copy
from modalnet.stimuli.conversion import as_stimuli
from modalnet.units import Units

if TYPE_CHECKING:
    import torch
    from jaxtyping import Float

    from modalnet.stimuli import Stimulus


@dataclass
class Run:
    """What :meth:`Model.run` read.

    Attributes
    ----------
    residual
        Per tower, the residual stream at the output of each block, in float32 on the CPU: ``[stimulus, layer, dim]``
        where tokens are pooled; with ``tokens="all"`` a list with one ``[layer, token, dim]`` per stimulus, without
        padding.
    logits
        ``[stimulus, vocab]`` for ``logits="last"``; for ``"all"`` a list with one ``[token, vocab]`` per stimulus,
        without padding; None where not asked for.
    layers
        Per tower, which blocks the layer dimension holds.
    tokens
        Per tower, the token choice.
    """

    residual: dict[str, Any] = field(default_factory=dict)
    logits: Any = None
    layers: dict[str, tuple[int, ...]] = field(default_factory=dict)
    tokens: dict[str, TokenChoice] = field(default_factory=dict)

    def to_cache(self, bridge: Any = None) -> Any:
        """What was read as TransformerLens' ``ActivationCache``; see :func:`modalnet.interop.transformer_lens.cache`.

        Parameters
        ----------
        bridge
            A ``TransformerBridge`` of the model, to take the names from; may be left out where nothing but the decoder
            of a decoder-only model was read.

        Raises
        ------
        InputError
            Where tokens were pooled, where stimuli have different numbers of tokens, or nothing was read; for a
            bridge of another model, or one that does not expose a tower.
        """
        from modalnet.interop.transformer_lens import cache

        return cache(self, bridge)


class Model:
    """A model with its towers; made by :func:`modalnet.load`.

    Attributes
    ----------
    name
        A readable name.
    module
        The transformers model.
    towers
        Tower by name, in forward order.
    tokenizer, processor, image_processor
        What encodes its inputs; None where absent.
    remote
        The server that it runs on, with the jobs that were sent and their bytes; None where it runs here.
    """

    def __init__(self, loaded: Loaded, *, chat_template: bool | Literal["auto"] = "auto") -> None:
        self._loaded = loaded
        self._chat_template = chat_template
        self.name = loaded.name
        self.module = loaded.module
        self.towers: dict[str, Tower] = find_towers(loaded.module)
        self._encoder = Encoder(loaded, self.towers, chat_template=chat_template)
        self._engine_made: Engine | None = None
        self._runner_made: Runner | None = None
        self._sweep_made: Sweep | None = None
        self._under: tuple[Intervention, ...] = ()
        self.remote: Remote | None = None

    # -- what it is made of ------------------------------------------------------------------------------------------

    @property
    def vision(self) -> Tower | None:
        """The image encoder's tower; None where there is none."""
        return self.towers.get("vision")

    @property
    def decoder(self) -> Tower | None:
        """The language model's tower; None where there is none."""
        return self.towers.get("decoder")

    @property
    def tokenizer(self) -> Any:
        """The tokenizer; None where there is none."""
        return self._loaded.tokenizer

    @property
    def processor(self) -> Any:
        """The multimodal processor; None where there is none."""
        return self._loaded.processor

    @property
    def image_processor(self) -> Any:
        """The image processor; None where there is none."""
        return self._loaded.image_processor

    @property
    def has_image_tokens(self) -> bool:
        """Whether a picture stands in the decoder as tokens of its own."""
        placed = self._encoder.image_token_id is not None and not self._encoder.writes_apart
        return self.decoder is not None and placed

    @property
    def padding_side(self) -> Literal["right", "left"]:
        """On which side texts of a batch are padded; results do not depend on it."""
        return self._encoder.padding_side

    @padding_side.setter
    def padding_side(self, side: Literal["right", "left"]) -> None:
        if side not in ("right", "left"):
            raise InputError(f'padding_side={side!r} is not known. Give "right" or "left".')
        self._encoder.padding_side = side
        self._runner_made = None  # what was measured of the layout holds for one side

    def units(self, towers: str | Sequence[str] | None = None) -> Units:
        """Every unit of the model, or of some of its towers.

        Parameters
        ----------
        towers
            A tower's name or a list of them; None for all.

        Raises
        ------
        InputError
            For a tower that the model does not have.
        """
        chosen = list(self.towers) if towers is None else [towers] if isinstance(towers, str) else list(towers)
        for name in chosen:
            if name not in self.towers:
                raise InputError(f"there is no tower {name!r} in {self.name}; its towers are {', '.join(self.towers)}.")
        return Units({name: np.full(tower.shape, name in chosen) for name, tower in self.towers.items()})

    @property
    def edited(self) -> bool:
        """Whether the user's nnsight model carries edits, or a TransformerLens bridge hooks.

        They change what it does, and no fingerprint sees them.
        """
        hooked = any(getattr(module, "fwd_hooks", None) for module in self.module.modules())
        return bool(getattr(self._loaded.envoy, "_edits", None)) or hooked

    def fingerprint(self) -> str:
        """A hash of the weights, config and class, read anew at each call.

        Of a model on a server, whose weights are not here, the server's name for it stands for them.
        """
        if self.module_is_empty and self.remote is not None:
            return served_fingerprint(self.module, self.remote.key)
        return model_fingerprint(self.module)

    @property
    def module_is_empty(self) -> bool:
        """Whether the model is here without weights."""
        empty = any(parameter.device.type == "meta" for parameter in self.module.parameters())
        return empty and not hasattr(self.module, "hf_device_map")

    def untrained(self, seed: int = 0) -> Model:
        """The same architecture with random weights; see ``untrained=`` of :func:`modalnet.load`."""
        return Model(untrained_copy(self._loaded, seed), chat_template=self._chat_template)

    def __repr__(self) -> str:
        towers = ", ".join(f"{tower.name} {tower.n_layers}x{tower.width}" for tower in self.towers.values())
        return f"Model({self.name}: {towers})"

    def __str__(self) -> str:
        parameters = list(self.module.parameters())
        devices = ", ".join(sorted({str(parameter.device) for parameter in parameters}))
        if self.remote is not None and not self.remote.simulated:
            devices = self.remote.host
        dtypes = ", ".join(sorted({str(parameter.dtype).removeprefix("torch.") for parameter in parameters}))
        count = sum(parameter.numel() for parameter in parameters)
        lines = [f"{self.name} ({type(self.module).__name__}, {_short(count)} parameters, {dtypes} on {devices})"]
        rows = [
            (
                tower.name,
                f"{tower.n_layers} blocks",
                f"x {tower.width}",
                f"= {tower.n_units:,} units",
                _path_range(tower),
            )
            for tower in self.towers.values()
        ]
        widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
        for row in rows:
            name, *numbers, path = row
            padded = [number.rjust(width) for number, width in zip(numbers, widths[1:], strict=False)]
            lines.append("  " + "  ".join([name.ljust(widths[0]), *padded, path]))
        lines.append(f"  {sum(tower.n_units for tower in self.towers.values()):,} units in all")
        reads = [what for what, able in (("text", self._encoder.reads_text), ("images", self._encoder.sees)) if able]
        lines.append(f"  reads {' and '.join(reads)}{self._preprocessing()}")
        return "\n".join(lines)

    def _preprocessing(self) -> str:
        parts = [part for part in (self.processor or self.image_processor, self.tokenizer) if part is not None]
        if not parts:
            return "; no tokenizer or processor was given, so stimuli cannot be encoded"
        if self.processor is not None:
            parts = parts[:1]
        template = ", in its chat template" if self._encoder.prompts.template_of is not None else ""
        return f", encoded by {' and '.join(type(part).__name__ for part in parts)}{template}"

    # -- what it does ------------------------------------------------------------------------------------------------

    def run(
        self,
        stimuli: Stimulus | str | Sequence[Stimulus | str],
        *interventions: Intervention | Sequence[Intervention],
        read: str | Sequence[str] | Mapping[str, Any] | None = None,
        tokens: Any = "last",
        logits: Literal["last", "all"] | None = None,
        batch_size: int | Literal["auto"] = "auto",
    ) -> Run:
        """Run stimuli, with or without interventions, and read the residual stream, the logits, or both.

        Parameters
        ----------
        stimuli
            One stimulus or several; a plain string is a text stimulus.
        *interventions
            What to do on the way, such as ``modalnet.zero(units)``; they apply from left to right. A block that is
            written to is read after it.
        read
            What to read: None for every tower that all of the stimuli reach, a tower's name, a list of names (``[]``
            for none), or layers per tower, such as ``{"decoder": [0, -1]}``.
        tokens
            Which tokens, for all towers or per tower: ``"last"``, ``"mean"``, ``"image"``, ``"text"``, ``"cls"``,
            ``"all"`` or indices (see :mod:`modalnet.interventions.positions`).
        logits
            ``"last"`` for the next-token logits after each stimulus, ``"all"`` for those at every token.
        batch_size
            Number of stimuli per forward pass; ``"auto"`` chooses it, and halves it when memory runs out.

        Returns
        -------
        Run
            In the order of the stimuli.

        Raises
        ------
        InputError
            Where a stimulus does not fit the model, or has no token of the kind asked for; where an intervention is
            on units of another model, or on a tower that the stimuli do not reach; where the model runs the blocks of
            a tower that is read or written more than once.
        """
        given = as_stimuli(stimuli)
        if logits not in (None, "last", "all"):
            raise InputError(f'logits={logits!r} is not known. Give "last", "all" or None.')
        if logits is not None:
            self._runner.engine.head()
        sites = choose_sites(self.towers, read, self.reached(given))
        choices = choose(tokens, [site.tower.name for site in sites])
        edits = self._edits(interventions, given)
        prepared = self._encoder.prepare(given)
        residual: dict[str, list[Any]] = {site.tower.name: [None] * len(given) for site in sites}
        rows: list[Any] = [None] * len(given)
        for step in self._runner.stream(
            prepared, sites, choices, logits=logits, batch_size=batch_size, variants=[edits]
        ):
            for tower, values in step.residual.items():
                for index, value in zip(step.indices, values, strict=True):
                    residual[tower][index] = value
            for index, value in zip(step.indices, step.logits or (), strict=False):
                rows[index] = value
        return Run(
            residual={name: values if choices[name] == "all" else _stack(values) for name, values in residual.items()},
            logits=None if logits is None else rows if logits == "all" else _stack([row[0] for row in rows]),
            layers={site.tower.name: site.layers for site in sites},
            tokens=choices,
        )

    def score(
        self,
        stimuli: Stimulus | str | Sequence[Stimulus | str],
        continuations: Sequence[str | Sequence[str]],
        *interventions: Intervention | Sequence[Intervention],
        batch_size: int | Literal["auto"] = "auto",
    ) -> Scores:
        """Log-probabilities of continuations, with or without interventions.

        The LM head runs at the continuations' tokens alone, and no logits are kept. Continuations of a stimulus that
        differ in their last token alone, such as answers of one token each, run once for all.

        Parameters
        ----------
        stimuli
            One stimulus or several; a plain string is a text stimulus. For texts with nothing before them, see
            :meth:`likelihoods`.
        continuations
            One entry per stimulus: a text, or a list of texts. Each is written straight after the stimulus, so it
            brings its own space.
        *interventions
            As for :meth:`run`. ``"all"`` and ``"text"`` take in the continuation; ``"last"`` and indices count in the
            stimulus, and so does a patch.
        batch_size
            Rows per forward pass; ``"auto"`` also bounds the memory that their logits take.

        Returns
        -------
        Scores
            In the order of the stimuli and of their continuations.

        Raises
        ------
        InputError
            As for :meth:`run`; entries that do not fit the stimuli; a model without an LM head.
        """
        given = as_stimuli(stimuli)
        asked = pairs(given, continuations)
        self._runner.engine.head()
        requests = [Request(given[owner], text) for owner, text in asked]
        (found,) = self._likelihoods(requests, [interventions], batch_size, [owner for owner, _ in asked])
        rows: list[list[Likelihood]] = [[] for _ in given]
        for (owner, _), one in zip(asked, found, strict=True):
            rows[owner].append(one)
        return Scores(
            [np.array([one.logprob for one in row]) for row in rows],
            [np.array([one.n_tokens for one in row]) for row in rows],
            [np.array([one.greedy for one in row]) for row in rows],
        )

    def likelihoods(
        self,
        requests: Sequence[Request],
        *interventions: Intervention | Sequence[Intervention],
        batch_size: int | Literal["auto"] = "auto",
    ) -> list[Likelihood]:
        """Answer requests for the log-probability of a continuation, whole or by segments; see :meth:`score`.

        Parameters
        ----------
        requests
            Stimuli with their continuations.
        *interventions, batch_size
            As for :meth:`score`.

        Returns
        -------
        list of Likelihood
            In the order of the requests.

        Raises
        ------
        InputError
            As for :meth:`score`; cuts that do not ascend inside the continuation.
        """
        return self._likelihoods(requests, [interventions], batch_size)[0]

    def likelihoods_under(
        self,
        requests: Sequence[Request],
        variants: Sequence[Sequence[Intervention]],
        *,
        batch_size: int | Literal["auto"] = "auto",
    ) -> list[list[Likelihood]]:
        """The same requests under each of several interventions, encoded once; in the order of the variants."""
        return self._likelihoods(requests, variants, batch_size)

    def _likelihoods(
        self,
        requests: Sequence[Request],
        variants: Sequence[Any],
        batch_size: int | Literal["auto"],
        owners: Sequence[int] | None = None,
    ) -> list[list[Likelihood]]:
        check_requests(requests)
        self._runner.engine.head()
        import torch

        from modalnet.stimuli import Stimulus

        stimuli = [one.stimulus or Stimulus.blank() for one in requests]
        edits = [self._edits(interventions, stimuli, owners) for interventions in variants]
        prepared = self._encoder.prepare(
            stimuli, continuations=[one.continuation for one in requests], cuts=[one.cuts for one in requests]
        )
        apart = any(one is not None and one.by_owner for one in edits)
        rows = rows_of(requests, prepared, (owners or range(len(requests))) if apart else None)
        by_place = {row.item.index: row for row in rows}
        running = [row.item for row in rows if row.item.places]
        nothing, found = torch.zeros(0), [dict[int, Likelihood]() for _ in variants]
        for row in rows:
            if not row.item.places:
                for one in found:
                    one.update(answers(row, requests, prepared, nothing, nothing))
        for step in self._runner.stream(running, (), {}, logits="score", batch_size=batch_size, variants=edits):
            for index, scores in zip(step.indices, step.scores or (), strict=True):
                found[step.variant].update(answers(by_place[index], requests, prepared, *scores))
        return [[one[index] for index in range(len(requests))] for one in found]

    def generate(
        self,
        stimulus: Stimulus | str | Sequence[Stimulus | str],
        *interventions: Intervention | Sequence[Intervention],
        max_new_tokens: int = 32,
        **settings: Any,
    ) -> Any:
        """Let the model write on, with or without interventions, which hold at every step.

        Parameters
        ----------
        stimulus
            What it continues; a plain string is a text stimulus. With a list, they are continued one after another.
        *interventions
            As for :meth:`run`. Those on ``"all"`` and ``"text"`` tokens hold for every token that is written; other
            choices are places in the prompt, and so is a patch.
        max_new_tokens
            The most tokens to write; the model's end token ends the text earlier.
        **settings
            For transformers' ``generate``. Unless you give ``do_sample=True``, the likeliest token is taken each time.

        Returns
        -------
        str, or list of str for a list
            The new text, without special tokens.

        Raises
        ------
        InputError
            As for :meth:`run`; a model without an LM head, or that does not generate; ``stop_strings``; settings that
            generate several texts at once.

        Notes
        -----
        A token is known when the next step reads it. A stopping criterion of your own therefore costs the last token;
        let it stop one token later.
        """
        many = not isinstance(stimulus, str) and isinstance(stimulus, Iterable)
        given = as_stimuli(stimulus)
        if isinstance(max_new_tokens, bool) or not isinstance(max_new_tokens, int) or max_new_tokens < 1:
            raise InputError(f"max_new_tokens={max_new_tokens!r}: give a number of at least 1.")
        for name in ("num_beams", "num_return_sequences"):
            if settings.get(name, 1) != 1:
                raise InputError(f"{name}={settings[name]!r}: one text is written at a time.")
        if settings.get("stop_strings"):
            raise InputError("stop_strings= is not supported: cut the text that comes back where it should end.")
        self._runner.engine.head()
        if not hasattr(self.module, "generate"):
            raise InputError(f"{type(self.module).__name__} has no generate().")
        edits = self._edits(interventions, given)
        settings = {"do_sample": False, "num_beams": 1, **settings}
        if settings["do_sample"] is False:
            # What a checkpoint sets for sampling means nothing here, and transformers warns of it.
            settings = {"temperature": None, "top_p": None, "top_k": None, **settings}
        texts = [
            self.tokenizer.decode(tokens, skip_special_tokens=True)
            for tokens in self._runner.generate(self._encoder.prepare(given), edits, max_new_tokens, settings)
        ]
        return texts if many else texts[0]

    def with_(self, *interventions: Intervention | Sequence[Intervention]) -> Model:
        """The model under interventions, as a model that every other function takes.

        Parameters
        ----------
        *interventions
            What to do in every run, before the interventions that a call adds.

        Returns
        -------
        Model
            A view that shares the weights. :attr:`interventions` lists what it does; stimuli that means, donors and
            patches are computed from run on the model without any of it.

        Raises
        ------
        InputError
            For something that is no intervention, or none at all.
        """
        import copy

        added = flatten(interventions)
        if not added:
            raise InputError("with_() takes at least one intervention, such as modalnet.zero(units).")
        view = copy.copy(self)
        view._under = (*self._under, *added)
        return view

    def at(self, remote: bool | str | None) -> Model:
        """The model where ``remote`` says: ``True``, ``"local"`` or a server's address; None leaves it where it is.

        Raises
        ------
        InputError
            Where a server cannot be told which model this is; for False, where no weights are here.
        """
        import copy

        from modalnet.models.loading import served_as

        if remote is None or (self.remote is not None and remote == self.remote.mode):
            return self
        mode = check_mode(remote)
        view = copy.copy(self)
        view._engine_made = view._runner_made = None
        view.remote = None
        if mode:
            key, env = self._loaded.served or served_as(self._loaded)
            view.remote = Remote(key, mode, env)
            view.remote.check()
        return view

    @property
    def interventions(self) -> tuple[Intervention, ...]:
        """What :meth:`with_` put on this view; empty for a plain model."""
        return self._under

    def means(
        self,
        stimuli: Stimulus | str | Sequence[Stimulus | str],
        *,
        towers: str | Sequence[str] | None = None,
        tokens: Any = "all",
        spare_first: int = 0,
    ) -> dict[str, Float[np.ndarray, "layer dim"]]:
        """Mean activation of every unit over stimuli, streaming; what :func:`modalnet.mean` takes as ``over``.

        Parameters
        ----------
        stimuli
            What the units usually do. The mean is taken over a stimulus' tokens, and then over stimuli.
        towers
            None for every tower that all stimuli reach.
        tokens, spare_first
            As for an intervention's ``at``.

        Returns
        -------
        dict
            Tower → float64 ``[layer, dim]``.
        """
        given = as_stimuli(stimuli)
        sites = choose_sites(self.towers, towers, self.reached(given))
        choice = check_choice("mean" if tokens == "all" else tokens)
        sums = {site.tower.name: np.zeros(site.tower.shape) for site in sites}
        steps = self._runner.stream(
            self._encoder.prepare(given), sites, dict.fromkeys(sums, choice), spare_first=spare_first
        )
        for step in steps:
            for tower, values in step.residual.items():
                sums[tower] += values.double().sum(0).numpy()
        return {tower: total / len(given) for tower, total in sums.items()}

    # -- many edits of the same runs ---------------------------------------------------------------------------------

    def states(
        self,
        stimuli: Sequence[Stimulus],
        *,
        towers: Sequence[str] | None = None,
        continuations: Sequence[str] | None = None,
        outcome: Outcome | None = None,
        batch_size: int | Literal["auto"] = "auto",
    ) -> list[State]:
        """Run stimuli and keep what every block puts out at each of their tokens, for :meth:`run_cells`.

        Parameters
        ----------
        stimuli
            What runs.
        towers
            None for every tower that all of them reach.
        continuations
            One per stimulus, written straight after it: then log-probabilities of its tokens can be asked for.
        outcome
            What is wanted of the logits of the same passes.
        batch_size
            As for :meth:`run`.
        """
        prepared = self._encoder.prepare(stimuli, continuations=continuations)
        reached = self.reached(stimuli)
        chosen = [name for name in reached if towers is None or name in towers]
        return self._sweep.states(prepared, chosen, self._edits((), stimuli), batch_size, outcome)

    def run_cells(
        self,
        states: Sequence[State],
        cells: Sequence[Cell],
        outcome: Outcome,
        *,
        batch_size: int | Literal["auto"] = "auto",
    ) -> Iterator[tuple[int, torch.Tensor]]:
        """Yield (number, outcome) of every cell, not in order; see :mod:`modalnet.execution.sweep`."""
        edits = self._edits((), [state.encoded.prepared.stimulus for state in states])
        yield from self._sweep.run(states, cells, outcome, edits, batch_size)

    def gradients(
        self,
        stimuli: Sequence[Stimulus],
        measure: Callable[[torch.Tensor, Sequence[int]], torch.Tensor],
        *,
        towers: Sequence[str] | None = None,
        continuations: Sequence[str] | None = None,
        batch_size: int | Literal["auto"] = "auto",
    ) -> Iterator[tuple[int, State, dict[str, Float[torch.Tensor, "layer token dim"]], torch.Tensor]]:
        """Run stimuli forward and backward; see :meth:`modalnet.execution.sweep.Sweep.gradients`."""
        prepared = self._encoder.prepare(stimuli, continuations=continuations)
        chosen = [name for name in self.reached(stimuli) if towers is None or name in towers]
        yield from self._sweep.gradients(prepared, chosen, measure, self._edits((), stimuli), batch_size)

    def token_rows(
        self, stimuli: Sequence[Stimulus], towers: Sequence[str], continuations: Sequence[str] | None = None
    ) -> list[dict[str, TokenRow]]:
        """Per stimulus and tower its own tokens, without those of a continuation."""
        prepared = self._encoder.prepare(stimuli, continuations=continuations)
        encoded = map(self._encoder.encode, prepared)
        return [{name: self._sweep.tokens(item, name) for name in towers} for item in encoded]

    def image_places(self, stimulus: Stimulus, tower: str) -> Float[np.ndarray, "token 4"] | None:
        """Where in its picture each token of a stimulus looks; see :func:`.places.image_places`."""
        return image_places(self._sweep, stimulus, tower)

    def canvas(self, text: str | None = None, size: int | tuple[int, int] | None = None) -> Canvas:
        """A picture whose pixels can be changed by a gradient; see :func:`modalnet.inputs.canvas.canvas`."""
        return canvas(self._encoder, text, size)

    def inward(
        self,
        encoded: Encoded,
        layers: Mapping[str, Sequence[int]],
        tokens: Mapping[str, TokenChoice],
        source: str,
        measure: Callable[[Sequence[torch.Tensor]], torch.Tensor],
    ) -> tuple[Float[torch.Tensor, " stimulus"], Float[torch.Tensor, "..."]]:
        """Run one stimulus and go back to one of its inputs; gives the measure and its gradient there.

        See :meth:`modalnet.execution.trace.Engine.inward`.
        """
        if self.remote is not None:
            raise InputError(
                f"{self.name} runs on a server, and a gradient at its inputs is taken here alone: it needs hundreds of "
                "passes, one after the other. Load the model here."
            )
        sites = choose_sites(self.towers, layers, list(layers))
        edits = self._edits((), [encoded.prepared.stimulus])
        reading = self._runner.inward(encoded, sites, tokens, source, measure, edits)
        assert reading.measured is not None
        assert reading.inward is not None
        return reading.measured, reading.inward

    def next_tokens(self, stimulus: Stimulus, text: str) -> tuple[int, ...]:
        """The token ids that a text becomes straight after a stimulus; an InputError where it changes the stimulus'."""
        return self._encoder.next_tokens(stimulus, text)

    @property
    def _sweep(self) -> Sweep:
        # What it learned of the model holds as long as the runner's layout does.
        if self._sweep_made is None or self._sweep_made.runner is not self._runner:
            self._sweep_made = Sweep(self._runner)
        return self._sweep_made

    def _edits(
        self, interventions: Sequence[Any], stimuli: Sequence[Stimulus], owners: Sequence[int] | None = None
    ) -> Edits | None:
        """Interventions with their values; None for none."""
        ordered = [*self._under, *flatten(interventions)]
        if not ordered:
            return None
        reached = self.reached(stimuli)
        for one in ordered:
            if isinstance(one.target, Units) and one.target.model not in (None, self.fingerprint_once):
                raise InputError(f"{one}: these units belong to another model, by its fingerprint, than {self.name}.")
            for name in one.towers:
                if name in self.towers and name not in reached:
                    raise InputError(
                        f"{one} is on the {name} tower, which these stimuli do not reach, so it would change nothing: "
                        f"give stimuli with {input_of(name)}, or leave it out."
                    )
        return Edits(ordered, self.towers, self._read_apart, range(len(stimuli)) if owners is None else owners)

    def _read_apart(
        self, stimuli: Sequence[Stimulus], layers: Mapping[str, list[int]], tokens: TokenChoice, spare_first: int
    ) -> Iterator[tuple[int, dict[str, Any]]]:
        """(index, {tower: [layer, token, dim]}) of each stimulus at chosen tokens, not in order."""
        sites = choose_sites(self.towers, layers, self.reached(stimuli))
        prepared = self._encoder.prepare(list(stimuli))
        choices = dict.fromkeys(layers, tokens)
        for step in self._runner.stream(prepared, sites, choices, pooled=False, spare_first=spare_first):
            for place, index in enumerate(step.indices):
                yield index, {name: values[place] for name, values in step.residual.items()}

    @cached_property
    def fingerprint_once(self) -> str:
        """The fingerprint as it was when first asked for: reading all weights may cost more than a run."""
        return self.fingerprint()

    def reached(self, stimuli: Sequence[Stimulus]) -> list[str]:
        """Names of the towers that every one of the stimuli reaches, in forward order."""
        seen = all(stimulus.n_images for stimulus in stimuli)
        # Around an image a language model reads a prompt, so an image alone reaches both towers; in a dual encoder
        # the towers do not meet.
        read = not self._encoder.dual or all(stimulus.text is not None for stimulus in stimuli)
        return [name for name in self.towers if (name in VISION_TOWERS and seen) or (name in TEXT_TOWERS and read)]

    def stream(
        self,
        prepared: Sequence[Prepared],
        towers: Sequence[str] | Mapping[str, Sequence[int]],
        tokens: Mapping[str, TokenChoice],
        *,
        batch_size: int | Literal["auto"] = "auto",
    ) -> Iterator[Step]:
        """Yield pooled activations batch by batch, for analyses that reduce as they go; of all layers or of some."""
        sites = choose_sites(self.towers, towers, list(towers))
        edits = self._edits((), [item.stimulus for item in prepared])
        yield from self._runner.stream(prepared, sites, tokens, batch_size=batch_size, variants=[edits])

    def moments(
        self,
        prepared: Sequence[Prepared],
        towers: Sequence[str],
        tokens: Mapping[str, TokenChoice],
        groups: Sequence[int],
        *,
        absolute: bool,
        batch_size: int | Literal["auto"] = "auto",
        later: list[bytes] | None = None,
    ) -> Iterator[tuple[list[int], dict[str, dict[str, torch.Tensor]]]]:
        """Yield moments of groups of stimuli that the server reduced; see :meth:`Runner.moments`."""
        sites = choose_sites(self.towers, list(towers), list(towers))
        edits = self._edits((), [item.stimulus for item in prepared])
        yield from self._runner.moments(
            prepared, sites, tokens, groups, absolute=absolute, batch_size=batch_size, edits=edits, later=later
        )

    def prepare(
        self, stimuli: Sequence[Stimulus], *, max_tokens: int | None = None, raw: bool = False
    ) -> list[Prepared]:
        """Check stimuli against the model and write their prompts; see :class:`Encoder`."""
        return self._encoder.prepare(stimuli, max_tokens=max_tokens, raw=raw)

    def encoding_identity(self, prepared: Sequence[Prepared]) -> dict[str, Any]:
        """What the model makes of the stimuli before its first layer, as far as it is known without decoding images."""
        texts: list[Any] = []
        for item in prepared:
            if item.text_inputs is not None:
                texts.append(item.text_inputs)
            elif item.prompt is not None:
                ids = self.tokenizer(item.prompt, add_special_tokens=item.special_tokens)["input_ids"]
                texts.append([item.prompt, ids])
            else:
                texts.append(None)
        under = {"interventions": [one.digest for one in self._under]} if self._under else {}
        return {"texts": texts, **encoding_fingerprint(self._loaded), **under}

    @property
    def _runner(self) -> Runner:
        # The trace wraps every module, so it is made when the first stimulus runs and not when a model is looked at.
        if self._runner_made is None:
            away = self.remote is not None and not self.remote.simulated
            if not away and self.module_is_empty:
                raise InputError(
                    f"{self.name} has weights on the meta device, so it cannot run. Load it with its weights."
                )
            if self._engine_made is None:
                self._engine_made = Engine(self.module, self._loaded.envoy, self.remote)
            layouts = Layouts(self._engine_made, self._encoder, self.towers)
            self._runner_made = Runner(self._engine_made, self._encoder, layouts)
        return self._runner_made


def load(
    source: Any,
    *,
    tokenizer: Any = None,
    processor: Any = None,
    device: str | torch.device | None = None,
    dtype: str | torch.dtype | None = None,
    remote: bool | str = False,
    chat_template: bool | Literal["auto"] = "auto",
    untrained: bool | int = False,
    **kwargs: Any,
) -> Model:
    """Load a model and find its towers.

    Parameters
    ----------
    source
        ``"tiny"`` (a small vision-language model that comes with the package), a hub id, a local folder, a
        transformers module, an nnsight model, or a TransformerLens ``TransformerBridge`` that you made. A module
        without tokenizer or processor loads and shows its towers.
    tokenizer, processor
        What encodes the inputs: objects, or where to load them from. ``processor`` may be an image processor. A hub id
        or a folder brings its own.
    device, dtype
        Where to put the weights, and their precision. By default a checkpoint goes to the GPU if there is one, in the
        precision that it was saved in, and a loaded module stays as it is. Activations are pooled in float32.
    remote
        True: the model runs on the NDIF server that ``NDIF_HOST`` names (else nnsight's configured one); here it is
        built without weights, and only its tokenizer or processor is loaded. An address names another server.
        ``"local"``: a dry run; the weights are here, and every job is written and read as a server would. ``task=``
        then names the pipeline task that the server loads the model for, where the hub's own is not it.
    chat_template
        ``"auto"``: prompts are written in the chat template of the model's processor where it has one and the text is
        not in it already; texts of a text-only model stay as they are. False: never. True: also with a tokenizer's.
    untrained
        True: the same architecture with random weights, as its class initializes them: the control for what training
        gave. A number is the seed, True the seed 0. The source may be a :class:`Model`, which stays as it is.
    **kwargs
        For ``from_pretrained`` (``revision``, ``device_map``, ``attn_implementation``, ``trust_remote_code``, ...).

    Returns
    -------
    Model

    Raises
    ------
    InputError
        If the source is no model, cannot be loaded, has no towers, or wants to run its own code without
        ``trust_remote_code=True``.

    Examples
    --------
    >>> model = load("Qwen/Qwen2.5-VL-3B-Instruct", dtype="bfloat16")  # doctest: +SKIP
    >>> print(model)  # doctest: +SKIP
    """
    mode = check_mode(remote)
    if mode and untrained is not False:
        raise InputError(f"no server has an untrained copy: load it here, without remote={remote!r}.")
    if isinstance(source, Model):
        model = source.at(mode) if mode else source
        return model.untrained(_seed(untrained)) if untrained is not False else model
    loaded = load_source(
        source,
        tokenizer=tokenizer,
        processor=processor,
        device=device,
        dtype=dtype,
        served=bool(mode),
        weights=not mode or mode == "local",
        **kwargs,
    )
    if untrained is not False:
        loaded = untrained_copy(loaded, _seed(untrained))
    model = Model(loaded, chat_template=chat_template)
    if loaded.served is not None:
        model.remote = Remote(loaded.served[0], mode, loaded.served[1])
        model.remote.check()
    return model


def _seed(untrained: bool | int) -> int:
    return 0 if untrained is True else untrained


def _stack(values: list[Any]) -> Float[torch.Tensor, "stimulus ..."]:
    import torch

    return torch.stack(values)


def _path_range(tower: Tower) -> str:
    # As the model has them; a TransformerLens bridge puts a wrapper around each module.
    first, last = (path.replace("._original_component", "") for path in (tower.paths[0], tower.paths[-1]))
    return first if tower.n_layers == 1 else f"{first} .. {last.rsplit('.', 1)[-1]}"


def _short(count: int) -> str:
    for size, letter in ((10**9, "B"), (10**6, "M"), (10**3, "K")):
        if count >= size:
            return f"{count / size:.1f}{letter}"
    return str(count)
