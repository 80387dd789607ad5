"""The public face of a model: its towers, its units, and runs of stimuli with and without interventions.

A :class:`Model` is small. The machinery behind it is a :class:`modalnet.execution.executor.Executor`, which the
analyses call; users need nothing of it.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from modalnet._deprecation import renamed_arguments, renamed_attributes, warn_renamed
from modalnet._validation import check_batch_size, check_bool, check_int, check_option, check_seed, check_type, refusal
from modalnet._warnings import warn
from modalnet.errors import InputError
from modalnet.execution.backends.choice import RemoteLike, capabilities_of, checked, named_by_server
from modalnet.execution.backends.local import LocalBackend
from modalnet.execution.backends.protocol import Backend
from modalnet.execution.executor import Executor
from modalnet.execution.generated import generated
from modalnet.execution.likelihood import Likelihood, Request, Scores, pairs
from modalnet.execution.run import Run
from modalnet.interventions.operations import Intervention, flatten
from modalnet.interventions.read_values import ReadValues
from modalnet.interventions.sources import Source
from modalnet.models.loading import load_source
from modalnet.models.sites import RESIDUAL, Space, choose_spaces
from modalnet.models.towers import Tower
from modalnet.models.untrained import untrained_copy
from modalnet.results.cache import Identity
from modalnet.stimuli.conversion import StimuliLike, as_stimuli
from modalnet.units import Units

if TYPE_CHECKING:
    import pandas as pd
    import torch

    from modalnet.execution.user_trace import UserTrace

#: Attributes that were public once, and where they are now.
_MOVED = {
    name: f"_executor.{name}"
    for name in (
        "canvas",
        "edited",
        "gradients",
        "has_image_tokens",
        "image_places",
        "inward",
        "likelihoods",
        "likelihoods_under",
        "module_is_empty",
        "moments",
        "next_tokens",
        "prepare",
        "reached",
        "run_cells",
        "states",
        "stream",
        "token_rows",
    )
} | {"at": "_at", "image_processor": "_executor.loaded.image_processor", "untrained": "_untrained"}

#: Greedy decoding. What a checkpoint sets for sampling means nothing there, and transformers warns of it.
_GREEDY = {"do_sample": False, "num_beams": 1, "temperature": None, "top_p": None, "top_k": None}


class Model:
    """A model with its towers; made by :func:`modalnet.load`.

    Parameters
    ----------
    executor
        Runs stimuli through the loaded model.
    """

    def __init__(self, executor: Executor) -> None:
        self._executor = executor

    __getattr__ = renamed_attributes(_MOVED)

    # -- what it is made of ------------------------------------------------------------------------------------------

    @property
    def name(self) -> str:
        """A readable name: the hub id, the folder's name or the class name."""
        return self._executor.loaded.name

    @property
    def module(self) -> Any:
        """The transformers model."""
        return self._executor.loaded.module

    @property
    def towers(self) -> dict[str, Tower]:
        """Tower by name, in forward order."""
        return self._executor.towers

    @property
    def spaces(self) -> dict[str, Space]:
        """Space by name: the kinds of activations that have units, tower by tower."""
        return self._executor.spaces

    @property
    def vision(self) -> Tower | None:
        """The tower of the image encoder, or None."""
        return self.towers.get("vision")

    @property
    def decoder(self) -> Tower | None:
        """The tower of the language model, or None."""
        return self.towers.get("decoder")

    @property
    def tokenizer(self) -> Any:
        """The tokenizer, or None."""
        return self._executor.loaded.tokenizer

    @property
    def processor(self) -> Any:
        """The multimodal processor, or else the image processor, or else None."""
        loaded = self._executor.loaded
        for part in (loaded.processor, loaded.image_processor, loaded.feature_extractor):
            if part is not None:
                return part
        return None

    @property
    def remote(self) -> Backend | None:
        """The remote backend, with a record of its jobs; None if the model runs in this process."""
        backend = self._executor.backend
        return None if isinstance(backend, LocalBackend) else backend

    @property
    def interventions(self) -> tuple[Intervention, ...]:
        """The interventions that :meth:`with_` added to this view; empty for a plain model."""
        return self._executor.interventions

    @property
    def padding_side(self) -> Literal["right", "left"]:
        """Deprecated: results do not depend on it."""
        warn_renamed("Model.padding_side", "model.tokenizer.padding_side")
        return self._executor.padding_side

    @padding_side.setter
    def padding_side(self, side: Literal["right", "left"]) -> None:
        warn_renamed("Model.padding_side", "model.tokenizer.padding_side")
        self._executor.padding_side = side

    def fingerprint(self) -> str:
        """A hash of the weights, in any precision, and of the class (32 hexadecimal characters), computed at each call.

        Where the weights are on a server, the server's name for the model stands for them.
        """
        return self._executor.fingerprint()

    @renamed_arguments(towers="spaces")
    def units(self, spaces: str | Sequence[str] | None = None) -> Units:
        """Select every unit of some spaces of the model.

        Parameters
        ----------
        spaces
            The name of a space (the residual stream of a tower has the tower's name), of a kind of space such as
            ``"residual"``, or a list of names; None for all residual streams.

        Returns
        -------
        Units
            With masks for the residual stream of every tower and for the spaces that are named.

        Raises
        ------
        InputError
            The model has no such space.
        """
        chosen = choose_spaces(self.spaces, spaces, self.name)
        held = {*choose_spaces(self.spaces, None), *chosen}
        within = [space for name, space in self.spaces.items() if name in held]
        return Units(
            {space.name: space.exists & (space.name in chosen) for space in within},
            widths={space.name: space.widths for space in within},
        )

    def __repr__(self) -> str:
        towers = ", ".join(f"{tower.name} {tower.n_layers}x{tower.width}" for tower in self.towers.values())
        return f"Model({self.name}: {towers})"

    def __str__(self) -> str:
        parameters = list(self.module.parameters())
        devices = ", ".join(sorted({str(parameter.device) for parameter in parameters}))
        devices = self._executor.backend.where() or devices
        dtypes = ", ".join(sorted({str(parameter.dtype).removeprefix("torch.") for parameter in parameters}))
        count = sum(parameter.numel() for parameter in parameters)
        lines = [f"{self.name} ({type(self.module).__name__}, {_short(count)} parameters, {dtypes} on {devices})"]
        rows = [
            (
                space.name,
                f"{space.n_layers} blocks",
                f"x {space.width}",
                f"= {space.n_units:,} units",
                _path_range(space),
            )
            for space in self.spaces.values()
            if space.kind == RESIDUAL
        ]
        widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
        for row in rows:
            name, *numbers, path = row
            padded = [number.rjust(width) for number, width in zip(numbers, widths[1:], strict=False)]
            lines.append("  " + "  ".join([name.ljust(widths[0]), *padded, path]))
            inside = [space for space in self.spaces.values() if space.tower.name == name and space.kind != RESIDUAL]
            lines += [f"    {line}" for line in _by_shape(inside)]
        total = sum(tower.n_units for tower in self.towers.values())
        lines.append(f"  {total:,} units in the residual stream")
        lines += [f"  {tower.name} is {tower.stage}" for tower in self.towers.values() if tower.stage]
        encoder = self._executor.encoder
        known = (("text", encoder.reads_text), ("images", encoder.sees), ("sounds", encoder.hears))
        reads = [what for what, able in known if able]
        lines.append(f"  reads {' and '.join(reads)}{self._preprocessing()}")
        return "\n".join(lines)

    def _preprocessing(self) -> str:
        parts = [part for part in (self.processor, self.tokenizer) if part is not None]
        heard = self._executor.loaded.feature_extractor
        if heard is not None and heard is not self.processor:
            parts.append(heard)
        if not parts:
            return "; no tokenizer or processor was given, so stimuli cannot be encoded"
        if self._executor.loaded.processor is not None:
            parts = parts[:1]
        template = ", in its chat template" if self._executor.encoder.prompts.template is not None else ""
        return f", encoded by {' and '.join(type(part).__name__ for part in parts)}{template}"

    # -- what it does ------------------------------------------------------------------------------------------------

    def run(
        self,
        stimuli: StimuliLike,
        *interventions: Intervention | Sequence[Intervention],
        read: str | Sequence[str] | Mapping[str, Any] | None = None,
        tokens: Any = None,
        logits: Literal["last", "all"] | None = None,
        vectors: bool = False,
        attention: bool | Literal["mean"] = False,
        batch_size: int | Literal["auto"] = "auto",
    ) -> Run:
        """Run stimuli, with or without interventions, and read activations, logits and attention weights.

        Parameters
        ----------
        stimuli
            One stimulus or several; a plain string is a text stimulus.
        *interventions
            Interventions on the forward pass, such as ``modalnet.zero(units)``; they apply from left to right. A block
            is read after the interventions on it.
        read
            What to read: None for the residual stream of every tower that all of the stimuli reach, the name of a space
            (see :attr:`spaces`), a list of names (``[]`` for none), or layers per space, such as
            ``{"decoder": [0, -1]}``, which come in the order given.
        tokens
            Which tokens, for all spaces or per space: ``"last"``, ``"mean"``, ``"image"``, ``"text"``, ``"cls"``,
            ``"all"`` or indices (see :mod:`modalnet.interventions.positions`). None as for :func:`modalnet.localize`:
            the last token in a decoder (the mean of the image tokens, where the stimuli are pictures alone), and the
            mean elsewhere.
        logits
            ``"last"`` for the next-token logits after each stimulus, ``"all"`` for those at every token.
        vectors
            Also keep all numbers of each unit that has several, in :attr:`.Run.vectors`. An attention head is one unit
            whose activation is a length; its vector is what TransformerLens calls ``z``. Where tokens are pooled, this
            runs the stimuli once more.
        attention
            True for the attention weights among all tokens of each stimulus, in :attr:`.Run.attention`; ``"mean"`` for
            their mean over heads. Of the towers and layers of the spaces that are read, or with ``read=[]`` of every
            tower that is reached. The stimuli run once more, one by one and with attention computed eagerly (fast
            kernels keep their weights to themselves); activations and logits are those of the model's own kernel.
        batch_size
            Number of stimuli per forward pass; ``"auto"`` chooses it, and halves it when memory runs out.

        Returns
        -------
        Run
            In the order of the stimuli.

        Raises
        ------
        InputError
            Where a stimulus does not fit the model, or has no token of the requested kind; where an intervention is
            on units of another model, or on a tower that the stimuli do not reach; where the model runs the blocks of
            a tower that is read or written more than once. With ``attention``, where no such tower has attention heads,
            where a block does not give its weights, and on a server.

        Examples
        --------
        >>> model = mn.load("tiny")
        >>> run = model.run(["The dog sleeps.", "A child drinks tea."], tokens="last", logits="last")
        >>> run.activations["decoder"].shape, run.logits.shape[0]
        (torch.Size([2, 8, 192]), 2)
        >>> heads = model.run("The dog sleeps.", read="decoder.heads", tokens="all", vectors=True)
        >>> heads.activations["decoder.heads"][0].shape, heads.vectors["decoder.heads"][0].shape
        (torch.Size([8, 5, 6]), torch.Size([8, 5, 6, 32]))
        >>> weights = model.run("The dog sleeps.", read=[], attention=True).attention["decoder"][0]
        >>> weights.shape, bool(weights.sum(-1).sub(1).abs().max() < 1e-5)
        (torch.Size([8, 6, 5, 5]), True)
        """
        given = as_stimuli(stimuli)
        check_batch_size(batch_size)
        if logits is not None:
            check_option("logits", logits, ("last", "all"))
        check_bool("vectors", vectors)
        if not (isinstance(attention, bool) or (isinstance(attention, str) and attention == "mean")):
            raise refusal("attention", "True, False or 'mean'", attention)
        return self._executor.run(
            given,
            interventions,
            read=read,
            tokens=tokens,
            logits=logits,
            vectors=vectors,
            attention=attention,
            batch_size=batch_size,
        )

    def score(
        self,
        stimuli: StimuliLike,
        continuations: Sequence[str | Sequence[str]],
        *interventions: Intervention | Sequence[Intervention],
        batch_size: int | Literal["auto"] = "auto",
    ) -> Scores:
        """Log-probabilities of continuations, with or without interventions.

        The LM head runs at the tokens of the continuations alone, and no logits are stored. Continuations of a stimulus
        that differ in their last token alone, such as answers of one token each, share one row of a batch.

        Parameters
        ----------
        stimuli
            One stimulus or several; a plain string is a text stimulus.
        continuations
            One entry per stimulus: a text, or a list of texts. Each is appended to the stimulus as it is, so it starts
            with its own space.
        *interventions
            As for :meth:`run`. ``"all"`` and ``"text"`` include the continuation; ``"last"`` and indices count in the
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

        Examples
        --------
        >>> model = mn.load("tiny")
        >>> scores = model.score(["The dog"], [[" sleeps.", " sleep."]])
        >>> bool(scores.logprob[0][0] > scores.logprob[0][1])
        True
        """
        given = as_stimuli(stimuli)
        check_batch_size(batch_size)
        owned = pairs(given, continuations)
        requests = [Request(given[owner], text) for owner, text in owned]
        answers = self._executor.likelihoods(
            requests, *interventions, batch_size=batch_size, owners=[owner for owner, _ in owned]
        )
        rows: list[list[Likelihood]] = [[] for _ in given]
        for (owner, _), answer in zip(owned, answers, strict=True):
            rows[owner].append(answer)
        return Scores(
            [np.array([answer.logprob for answer in row]) for row in rows],
            [np.array([answer.n_tokens for answer in row]) for row in rows],
            [np.array([answer.greedy for answer in row]) for row in rows],
        )

    def generate(
        self,
        stimulus: StimuliLike,
        *interventions: Intervention | Sequence[Intervention],
        max_new_tokens: int = 32,
        details: bool = False,
        **settings: Any,
    ) -> Any:
        """Generate text after a stimulus, with or without interventions, which hold at every step.

        Parameters
        ----------
        stimulus
            The prompt; a plain string is a text stimulus. Several stimuli are continued one after another.
        *interventions
            As for :meth:`run`. Those on ``"all"`` and ``"text"`` tokens hold for every generated token; other choices
            are positions in the prompt, and so is a patch.
        max_new_tokens
            The largest number of tokens to generate; the end token of the model ends the text earlier.
        details
            Give the tokens with their logits and scores as well as the text.
        **settings
            For ``generate`` of transformers. Decoding is greedy unless ``do_sample=True``. What only makes it faster or
            slower is set aside, as each pass decides on one token here: ``use_cache``, and prompt lookup and assistant
            models under greedy decoding.

        Returns
        -------
        str, or list of str for a list
            The new text, without special tokens. With ``details`` a :class:`~modalnet.execution.generated.Generated`
            each: the text, token ids ``[step]``, and logits and scores ``[step, vocab]`` of every step.

        Raises
        ------
        InputError
            As for :meth:`run`; a model without an LM head, or that does not generate; a tokenizer that closes every
            text; ``stop_strings``; settings that generate several texts at once; prompt lookup or an assistant model
            with ``do_sample=True``; ``details`` where the class has a ``generate`` of its own that has none.

        Examples
        --------
        >>> model = mn.load("tiny")
        >>> model.generate("The dog", max_new_tokens=3)
        'has the c'
        >>> model.generate("The dog", max_new_tokens=3, details=True).logits.shape[0]
        3
        """
        many = not isinstance(stimulus, str) and isinstance(stimulus, Iterable)
        given = as_stimuli(stimulus, "stimulus")
        check_int("max_new_tokens", max_new_tokens, minimum=1)
        for name in ("num_beams", "num_return_sequences"):
            if settings.get(name, 1) != 1:
                raise InputError(f"`{name}` must be 1, as a single text is generated, got {settings[name]!r}.")
        if settings.get("stop_strings"):
            raise InputError("`stop_strings` is not supported; truncate the generated text instead.")
        settings = {"do_sample": False, "num_beams": 1, **settings}
        if settings["do_sample"] is False:
            settings = {**_GREEDY, **settings}
        check_bool("details", details)
        made = self._executor.generate(given, interventions, max_new_tokens, settings, details=details)
        found = [generated(text, one, self.tokenizer) if details else text for text, one in made]
        return found if many else found[0]

    def trace(
        self,
        stimuli: StimuliLike,
        *interventions: Intervention | Sequence[Intervention],
        max_new_tokens: int | None = None,
    ) -> UserTrace:
        """Open an nnsight trace of your own, on stimuli that are encoded and put in one batch for it.

        ``with model.trace(stimuli) as (tracer, towers):`` is nnsight's trace of the model: its block reads and writes
        what modules take and give, in the order in which they run, and what is saved is there after it. ``towers`` has
        the blocks of each tower and the positions of tokens; the interventions are made in the same pass, at each site
        before the block's own code.

        Parameters
        ----------
        stimuli
            One stimulus or several, which run in one batch: row i of a text is stimulus i. A plain string is a text
            stimulus.
        *interventions
            As for :meth:`run`, before which those of a view (:meth:`with_`) are made.
        max_new_tokens
            None for one forward pass. A number generates after a single stimulus, greedily and with a key-value cache:
            ``for step in tracer.iter[:n]`` goes through the passes, and ``tracer.result`` has the token ids.
            Interventions hold at every step, as in :meth:`generate`; positions of tokens are those in the prompt.

        Returns
        -------
        UserTrace
            To be entered by ``with``; see :mod:`modalnet.execution.user_trace` for what it binds.

        Raises
        ------
        InputError
            As for :meth:`run`; where the stimuli do not run in one batch (texts beside images, or a model that computes
            something else where they share one); on a server.

        Examples
        --------
        >>> model = mn.load("tiny")
        >>> with model.trace(["The dog sleeps.", "A child"], mn.zero(mn.site("decoder", 2))) as (tracer, towers):
        ...     hidden = towers.decoder.blocks[5].output  # [row, column, dim], padded
        ...     last = hidden[towers.decoder.tokens("last")].save()
        ...     logits = towers.head.output[towers.decoder.tokens("last")].save()
        >>> last.shape, logits.shape[0]
        (torch.Size([2, 192]), 2)
        """
        given = as_stimuli(stimuli)
        settings = None
        if max_new_tokens is not None:
            check_int("max_new_tokens", max_new_tokens, minimum=1)
            if len(given) != 1:
                raise InputError(
                    f"A trace generates after one stimulus at a time, got {len(given)}. Trace each by itself."
                )
            settings = {**_GREEDY, "max_new_tokens": max_new_tokens, "use_cache": True}
        return self._executor.opened(given, interventions, settings)

    def with_(self, *interventions: Intervention | Sequence[Intervention]) -> Model:
        """Return the model under interventions, as a model that every other function takes.

        Parameters
        ----------
        *interventions
            Interventions in every run, before those that a call adds.

        Returns
        -------
        Model
            A view that shares the weights. :attr:`interventions` lists its interventions; stimuli from which means,
            donors and patches are computed run on the model without any of them.

        Raises
        ------
        InputError
            For something that is no intervention, or none at all.
        """
        added = flatten(interventions)
        if not added:
            raise InputError("with_() requires at least one intervention, such as modalnet.zero(units).")
        return self._with(self._executor.under(added))

    def with_dictionary(
        self,
        space: str,
        dictionaries: Mapping[int, Any],
        *,
        name: str = "latents",
        reads: str | None = None,
    ) -> Model:
        """Return the model with the latents of dictionaries (sparse autoencoders, transcoders) as one more space.

        The space, such as ``"decoder.latents"``, is one like any other: it is read, localized, lesioned, steered and
        patched. Where its latents ``z = encode(x)`` become ``z'``, the activations become ``x + decode(z') -
        decode(z)``: what the dictionary does not reconstruct stays in place, and so does a token of which no latent is
        changed. What is read after an intervention are the latents that it left.

        Parameters
        ----------
        space
            The space that the dictionaries reconstruct: ``"decoder"`` for residual streams, ``"decoder.mlp"``, ...
        dictionaries
            By layer, something with ``encode`` (``[token, dim]`` to ``[token, latent]``) and ``decode``: an SAE of
            SAELens, an ``AutoEncoder`` of dictionary_learning, a transcoder of circuit-tracer, a torch module; or
            matrices ``(encoder [dim, latent], decoder [latent, dim])``, or a dict of these with ``encoder_bias``,
            ``decoder_bias``, ``threshold`` (a latent below it is zero) and ``activation`` (``"relu"``, or
            ``"identity"``). All have the same number of latents. Objects stay where they are and as they are; put them
            on the model's device.
        name
            Of the space, behind the tower's.
        reads
            For transcoders, the space that is encoded, where it is another: ``"mlp_in"``, which enters the MLP's first
            projection, ``"mid"``, ``"pre"``, ...

        Returns
        -------
        Model
            A view that shares the weights; other layers have no latents.

        Raises
        ------
        InputError
            For layers or spaces that do not exist; for something that does not encode and decode so many activations,
            or whose latents depend on the other tokens of a batch; for different numbers of latents. When it runs on a
            server, for dictionaries that are no matrices.

        References
        ----------
        Marks, Rager, Michaud, Belinkov, Bau & Mueller (2025). Sparse feature circuits. ICLR. (The error in place.)

        Examples
        --------
        >>> model = mn.load("tiny")
        >>> axes = np.linalg.qr(np.random.default_rng(0).normal(size=(192, 192)))[0]
        >>> view = model.with_dictionary("decoder", {3: (np.hstack([axes, -axes]), np.vstack([axes.T, -axes.T]))})
        >>> view.spaces["decoder.latents"].shape
        (8, 384)
        >>> run = view.run("The dog", mn.zero(mn.site("decoder.latents", 3)), read=["decoder"], tokens="last")
        >>> bool(run.activations["decoder"][0, 3].abs().max() < 1e-3)
        True
        """
        check_type("dictionaries", dictionaries, Mapping, "a dict with a dictionary by layer, such as {5: sae}")
        return self._with(self._executor.with_dictionaries(space, dictionaries, name, reads))

    def dictionary_error(
        self,
        stimuli: StimuliLike,
        *,
        tokens: Any = "all",
        spare_sinks: bool = True,
        batch_size: int | Literal["auto"] = "auto",
    ) -> pd.DataFrame:
        """How well the dictionaries of this view reconstruct activations, per layer.

        Parameters
        ----------
        stimuli
            Whose tokens are encoded.
        tokens
            Which of them, as for an intervention's ``at``.
        spare_sinks
            Leave sink tokens (:func:`modalnet.sink_tokens`) out: they have most of the variance.
        batch_size
            As for :meth:`run`.

        Returns
        -------
        pandas.DataFrame
            A row per space and layer: ``explained_variance`` (one minus the squared error in units of the variance of
            the activations over tokens), ``relative_error`` (mean over tokens, of the length of the error in units of
            the activation's), ``n_active`` (mean number of latents that are not zero) and ``n_tokens``.

        Raises
        ------
        InputError
            As for :meth:`run`; for a model without dictionaries.
        """
        import pandas as pd

        given = as_stimuli(stimuli)
        check_batch_size(batch_size)
        check_bool("spare_sinks", spare_sinks)
        if not self._executor.dictionaries:
            raise InputError(f"{self.name} has no dictionaries; model.with_dictionary(...) gives a view that has.")
        found = self._executor.dictionary_error(given, tokens, spare_sinks=spare_sinks, batch_size=batch_size)
        return pd.DataFrame([vars(one) for one in found])

    def on(self, stimuli: StimuliLike) -> Source:
        """Stimuli on this model, as the source of a patch of another view or of another checkpoint.

        Parameters
        ----------
        stimuli
            One stimulus for all that are patched, or one for each of them.

        Returns
        -------
        Source
            For :func:`modalnet.patch`. The stimuli run whenever the patch does, under the interventions of this view.

        Examples
        --------
        >>> model = mn.load("tiny")
        >>> lesioned = model.with_(mn.zero(mn.site("decoder", 2)))
        >>> mn.patch(mn.site("decoder", 5), lesioned.on("The dog")).at("last")
        patch(decoder[5], 1 stimulus on tiny) at last tokens
        """
        return Source(self._executor, tuple(as_stimuli(stimuli)))

    @renamed_arguments(towers="spaces")
    def means(
        self,
        stimuli: StimuliLike,
        *,
        spaces: str | Sequence[str] | None = None,
        tokens: Any = "all",
        spare_first: int = 0,
        spare_sinks: bool = True,
    ) -> ReadValues:
        """Mean activation of every unit over stimuli, streaming; what :func:`modalnet.mean` takes as ``over``.

        Parameters
        ----------
        stimuli
            The reference stimuli. The mean is taken over the tokens of a stimulus, and then over stimuli.
        spaces
            The name of a space or a list of names; None for the residual stream of every tower that all stimuli reach.
        tokens, spare_first
            As for an intervention's ``at``.
        spare_sinks
            Leave sink tokens (:func:`modalnet.sink_tokens`) out: their activations are massive, and no other token has
            a mean that includes them.

        Returns
        -------
        dict
            Space → float64 ``[layer, unit]``, of the model under the interventions of a view. A stimulus without a
            token left is left out. It carries ``tokens`` and ``spare_first``: an intervention at other tokens refuses
            it, and takes ``dict(means)`` as it is.

        Raises
        ------
        InputError
            As for :meth:`run`; where no stimulus has a token left.
        """
        check_bool("spare_sinks", spare_sinks)
        return self._executor.means(as_stimuli(stimuli), spaces, tokens, spare_first, spare_sinks=spare_sinks)

    def _identity(self) -> Identity:
        return self._executor.identity()

    # -- views -------------------------------------------------------------------------------------------------------

    def __deepcopy__(self, memo: dict[int, Any]) -> Model:
        """An independent model with weights of its own; what was made for its runs is made anew."""
        executor = self._executor
        loaded = replace(executor.loaded, module=copy.deepcopy(self.module, memo), envoy=None)
        made = Executor(loaded, chat_template=executor.chat_template)
        made.interventions, made.backend = executor.interventions, executor.backend
        made.dictionaries = executor.dictionaries
        return self._with(made)

    def _with(self, executor: Executor) -> Model:
        view = copy.copy(self)
        view._executor = executor
        return view

    def _at(self, remote: RemoteLike | None) -> Model:
        """The model on the backend that ``remote`` selects; None keeps the current one."""
        executor = self._executor.at(remote)
        return self if executor is self._executor else self._with(executor)

    def _untrained(self, seed: int = 0) -> Model:
        """The same architecture with random weights; see ``untrained=`` of :func:`modalnet.load`."""
        return self._with(self._executor.untrained(seed))


def load(
    source: Any,
    *,
    tokenizer: Any = None,
    processor: Any = None,
    device: str | torch.device | None = None,
    dtype: str | torch.dtype | None = None,
    remote: RemoteLike = False,
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
        then names the pipeline task that the server loads the model for, where the hub's own is not it. Or a backend of
        your own, see :mod:`modalnet.execution.backends.protocol`.
    chat_template
        ``"auto"``: prompts of a vision-language model are written in the chat template of its processor, or else of its
        tokenizer, unless the text is in it already: begins as its conversations do, or ends as its prompts do. A
        special token inside any other text is an error then. Texts of a text-only model stay as they are. False: never.
        True: texts of a text-only model too.
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

    Warns
    -----
    UserWarning
        For a hierarchical model (Swin, ConvNeXt, SegFormer, ...), whose stages have widths of their own: its tower is
        the stage with most blocks, and the others are left out.

    Examples
    --------
    >>> model = mn.load("tiny")
    >>> print(model)
    tiny (LlavaForConditionalGeneration, 5.1M parameters, float32 on cpu)
      vision   6 blocks  x 128    = 768 units  model.vision_tower.encoder.layers.0 .. 5
        vision.pre, vision.mid, vision.attention, vision.mlp: 128
        vision.neurons, vision.gate: 512
        vision.heads: 4 of 32 numbers
      decoder  8 blocks  x 192  = 1,536 units  model.language_model.layers.0 .. 7
        decoder.pre, decoder.mid, decoder.attention, decoder.mlp: 192
        decoder.neurons, decoder.gate, decoder.activation: 512
        decoder.heads: 6 of 32 numbers
      2,304 units in the residual stream
      reads text and images, encoded by LlavaProcessor

    >>> model = mn.load("Qwen/Qwen2.5-VL-3B-Instruct", dtype="bfloat16")  # doctest: +SKIP
    """
    remote = checked(remote)
    if named_by_server(remote) and untrained is not False:
        raise InputError(f"An untrained copy cannot run on a server: load it locally, without remote={remote!r}.")
    if isinstance(source, Model):
        model = source._at(remote) if remote else source
        return model._untrained(_seed(untrained)) if untrained is not False else model
    loaded = load_source(
        source,
        tokenizer=tokenizer,
        processor=processor,
        device=device,
        dtype=dtype,
        served=named_by_server(remote),
        weights=capabilities_of(remote).weights_here,
        **kwargs,
    )
    if untrained is not False:
        loaded = untrained_copy(loaded, _seed(untrained))
    model = Model(Executor(loaded, chat_template=chat_template).at(remote))
    for tower in model.towers.values():
        if tower.stage:
            warn(f"{model.name} is hierarchical, and a tower has one width: its {tower.name} tower is {tower.stage}.")
    return model


def as_model(source: Any, remote: RemoteLike | None = None) -> Model:
    """The model that an analysis runs: anything that :func:`load` takes, where ``remote`` says.

    None leaves a :class:`Model` where it is, and loads anything else here.
    """
    if isinstance(source, Model):
        return source._at(remote)
    return load(source) if remote is None else load(source, remote=remote)


def _seed(untrained: bool | int) -> int:
    return 0 if untrained is True else check_seed(untrained, "untrained")


def _by_shape(spaces: Sequence[Space]) -> list[str]:
    """The spaces inside the blocks of a tower, those of one shape in one line."""
    found: dict[tuple[int, int, tuple[int, ...]], list[str]] = {}
    for space in spaces:
        found.setdefault((space.width, space.size, space.layers), []).append(space.name)
    lines = []
    for (width, size, layers), names in found.items():
        each = f" of {size} numbers" if size > 1 else ""
        some = "" if len(layers) == next(iter(spaces)).n_layers else f" in {len(layers)} blocks"
        lines.append(f"{', '.join(names)}: {width}{each}{some}")
    return lines


def _path_range(space: Space) -> str:
    # As the model has them; a TransformerLens bridge puts a wrapper around each module.
    first, last = (path.replace("._original_component", "").split(".") for path in (space.paths[0], space.paths[-1]))
    if space.n_layers == 1:
        return ".".join(first)
    shared = next((i for i, (one, two) in enumerate(zip(first, last, strict=False)) if one != two), 0)
    return f"{'.'.join(first)} .. {'.'.join(last[shared:])}"


def _short(count: int) -> str:
    for size, letter in ((10**9, "B"), (10**6, "M"), (10**3, "K")):
        if count >= size:
            return f"{count / size:.1f}{letter}"
    return str(count)
