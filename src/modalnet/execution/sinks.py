"""Sink tokens: which tokens of a stimulus a model uses as attention sinks, found by measurement.

Language models and vision transformers put massive activations on a few tokens that attention heads look at when they
have nothing to look at: the first token of a text or a delimiter (Xiao et al. 2023; Sun et al. 2024), or a patch of
background (Darcet et al. 2024). Their vectors are many times as long as those of any other token and stay so from block
to block, and that is how they are found: a token is a sink where the length of its residual stream is more than
:data:`SINK` times the median length over the tokens of the same stimulus, at two successive blocks.

They are measured in the intact model, in one pass over all stimuli before any that is edited. Lengths are taken where
the model is, so one number per token and block comes back.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import zip_longest
from typing import TYPE_CHECKING, Any, Literal

from modalnet.errors import InputError
from modalnet.execution.passes import Readout
from modalnet.execution.plan import Sites
from modalnet.models.sites import Space

if TYPE_CHECKING:
    import torch
    from jaxtyping import Float, Int

    from modalnet.execution.stream import Runner
    from modalnet.inputs.batch import Encoded, Prepared
    from modalnet.interventions.positions import Span

#: How many times the median length a token must have at two successive blocks to be a sink.
#:
#: Measured in float32, as the largest ratio of a token over all pairs of successive blocks:
#:
#: ==================================  =======================  ==============  =========================
#: model, stimuli                      ordinary tokens, at most  sinks, at least  sinks
#: ==================================  =======================  ==============  =========================
#: Gemma 3 270M, 480 Fedorenko texts   1.93                     11.96           the first token of each
#: Gemma 3 270M, 480 bundled texts     1.99                     11.40           the first token of each
#: Gemma 3 270M, 20 texts of ~94       1.47                     12.96           the first token of each
#: DINOv2-S, 400 pictures of fLoc      2.87                     4.16            one patch in one picture
#: ==================================  =======================  ==============  =========================
#:
#: Two blocks, since one is not enough: at the first block of Gemma a comma is up to 17 times as long as the median, and
#: 1.4 times at the second. The bundled model is too small to be so clear: the first token of a text has 3.6 to 6.8, and
#: others have up to 4.7.
SINK = 4.0
# Stimuli whose sinks are remembered.
MOST_REMEMBERED = 1 << 16


@dataclass(frozen=True)
class Sink:
    """A sink token.

    Attributes
    ----------
    offset
        Its place among the stimulus' own tokens.
    ratio
        Its length over the median, at the shorter of the two successive blocks where that is largest.
    layer
        The first of these two blocks.
    """

    offset: int
    ratio: float
    layer: int


#: Per first block of a stage (towers that merge patches have several) the sinks of one stimulus.
Stages = dict[int, tuple[Sink, ...]]


class SinkTable:
    """The sink tokens of some stimuli, by their content and tower."""

    def __init__(self) -> None:
        self._found: dict[tuple[str, str], Stages] = {}

    def add(self, content: str, tower: str, stages: Mapping[int, tuple[Sink, ...]]) -> None:
        """Add the sinks of a stimulus in a tower."""
        self._found[content, tower] = dict(stages)

    def of(self, prepared: Prepared, tower: str, layer: int = 0) -> tuple[Sink, ...]:
        """The sinks of a stimulus among the tokens of a block."""
        stages = self._found[prepared.content, tower]
        return stages[max(first for first in stages if first <= max(layer, min(stages)))]

    def positions(self, item: Encoded, tower: str, layer: int, span: Span) -> Int[torch.Tensor, " sink"]:
        """Flat positions of the sinks of a stimulus in a block of a batch."""
        import torch

        offsets = [sink.offset for sink in self.of(item.prepared, tower, layer)]
        return span.index[torch.tensor([offset for offset in offsets if offset < len(span.index)], dtype=torch.long)]


class Sinks:
    """Measures sink tokens with one model, and remembers them as long as it stays the same.

    Parameters
    ----------
    runner
        Runs stimuli in batches.
    """

    def __init__(self, runner: Runner) -> None:
        self.runner = runner
        self._memory: dict[tuple[str, str], Stages] = {}
        self._measured_with: Any = None

    def table(
        self,
        prepared: Sequence[Prepared],
        towers: Sequence[str],
        model: Mapping[str, Any] | None,
        batch_size: int | Literal["auto"] = "auto",
    ) -> SinkTable:
        """The sinks of stimuli in some towers.

        Parameters
        ----------
        prepared
            The stimuli, with the continuations that will run.
        towers
            Names of towers that the stimuli reach.
        model
            Everything that decides the numbers of the model as it is now; None where that cannot be told, and nothing
            is remembered.
        batch_size
            As for every run.
        """
        if model is None or model != self._measured_with:
            self._memory.clear()
        self._measured_with = model
        memory = self._memory
        missing = {
            item.content: item for item in prepared if any((item.content, name) not in memory for name in towers)
        }
        found = {} if not missing else self._measured(missing, towers, batch_size)
        table = SinkTable()
        for item in prepared:
            for name in towers:
                key = (item.content, name)
                table.add(*key, found[key] if key in found else memory[key])
        memory.update(found)
        for key in list(memory)[: max(0, len(memory) - MOST_REMEMBERED)]:
            del memory[key]
        return table

    def alone(self, item: Encoded, towers: Sequence[str]) -> SinkTable:
        """The sinks of one stimulus whose inputs are given, such as an image that is being optimized."""
        table = SinkTable()
        found: dict[str, Stages] = {name: {} for name in towers}
        for sites in self._rounds(towers, self._all_layers(towers)):
            result = self.runner.alone(item, _lengths(sites))
            for site in sites:
                found[site.tower.name][site.layers[0]] = _sinks(result.activations[site.name][0][..., 0], site.layers)
        for name, stages in found.items():
            table.add(item.prepared.content, name, stages)
        return table

    def _measured(
        self, items: Mapping[str, Prepared], towers: Sequence[str], batch_size: int | Literal["auto"]
    ) -> dict[tuple[str, str], Stages]:
        contents = list(items)
        numbered = [replace(item, index=place) for place, item in enumerate(items.values())]
        layers = self._all_layers(towers)
        while True:
            rounds = self._rounds(towers, layers)
            found: dict[tuple[str, str], Stages] = {(content, name): {} for content in contents for name in towers}
            try:
                for sites in rounds:
                    for result in self.runner.stream(numbered, _lengths(sites), batch_size):
                        for site in sites:
                            for index, lengths in zip(result.indices, result.activations[site.name], strict=True):
                                stages = found[contents[index], site.tower.name]
                                stages[site.layers[0]] = _sinks(lengths[..., 0], site.layers)
                return found
            except InputError:
                # A tower that turns out to merge patches is read stage by stage; blocks that do not run are left out.
                if len(self._rounds(towers, layers)) != len(rounds):
                    continue
                running = self._running(numbered, towers)
                if running == layers:
                    raise
                layers = running

    def _rounds(self, towers: Sequence[str], layers: Mapping[str, tuple[int, ...]]) -> list[tuple[Sites, ...]]:
        """What each pass reads: in one pass, a tower has the same tokens in all blocks that are read."""
        held = self.runner.layouts.towers
        stages = [self.runner.layouts.stages(Sites(Space(held[name]), layers[name])) for name in towers]
        return [tuple(site for site in sites if site is not None) for sites in zip_longest(*stages)]

    def _all_layers(self, towers: Sequence[str]) -> dict[str, tuple[int, ...]]:
        return {name: tuple(range(self.runner.layouts.towers[name].n_layers)) for name in towers}

    def _running(self, prepared: Sequence[Prepared], towers: Sequence[str]) -> dict[str, tuple[int, ...]]:
        """The blocks that run for every kind of stimulus: some models skip blocks for text without an image."""
        layers = self._all_layers(towers)
        for item in {item.stimulus.kind: item for item in prepared}.values():
            batch = self.runner.encoder.collate([self.runner.encoder.encode(item)])
            for name in towers:
                paths = self.runner.layouts.towers[name].paths
                counts = self.runner.engine.visits(batch.inputs, batch.root, paths)
                layers[name] = tuple(layer for layer in layers[name] if counts[paths[layer]])
        return layers


def _lengths(sites: Sequence[Sites]) -> Readout:
    return Readout(sites, {site.name: "all" for site in sites}, taken="length")


def _sinks(lengths: Float[torch.Tensor, "layer token"], layers: Sequence[int]) -> tuple[Sink, ...]:
    """The sinks of one stimulus among the tokens of some blocks."""
    import torch

    if not lengths.shape[1]:
        return ()
    median = lengths.median(dim=1, keepdim=True).values  # the lower one, so that one sink in two tokens is found
    ratio = torch.where(median > 0, lengths / median, 0.0)
    if len(ratio) > 1:
        ratio = torch.minimum(ratio[:-1], ratio[1:])
    largest, where = ratio.max(dim=0)
    return tuple(
        Sink(offset, float(largest[offset]), layers[int(where[offset])])
        for offset in torch.nonzero(largest > SINK).flatten().tolist()
    )
