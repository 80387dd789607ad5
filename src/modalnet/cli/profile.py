"""``modalnet profile``: the response of a network to the conditions of the language localizer literature."""

from __future__ import annotations

from typing import TYPE_CHECKING

from modalnet.cli import options
from modalnet.cli.parsing import parse_top, parse_units
from modalnet.cli.running import Running, Source, running

if TYPE_CHECKING:
    from modalnet.cli.measures import Measured
    from modalnet.model import Model
    from modalnet.units import Units


def profile(
    model: options.ModelName,
    *,
    network: options.Network = "language",
    units: options.Units = None,
    top: options.Top = "1%",
    protocol: options.Protocol = None,
    controls: options.Controls = options.DEFAULT_CONTROLS,
    match: options.Match = "layer",
    seed: options.Seed = 0,
    device: options.Device = None,
    dtype: options.Dtype = None,
    batch_size: options.BatchSize = "auto",
    out: options.Out = options.DEFAULT_OUT,
    json: options.Json = False,
    no_cache: options.NoCache = False,
    no_progress: options.NoProgress = False,
) -> None:
    """Measure a network's held-out response to sentences, word lists, Jabberwocky and nonwords.

    Example: modalnet profile google/gemma-3-270m --network language --top 1%
    """
    from modalnet.cli.measures import Measured, NetworkChoice, measure_network

    def measure(loaded: Model, chosen: Units, settings: Running) -> Measured:
        import modalnet as mn

        name = network.partition(":")[0]
        result = mn.profile.language(loaded, chosen, n_controls=controls, match=match, seed=seed, name=name, **settings)
        human = result.compare_to_human()
        tables = {"table": result.table(), "contrasts": result.contrasts(), "human": human.table()}
        return Measured(result, f"{result.summary()}\n{human.summary()}", tables)

    choice = NetworkChoice(Source(model, device, dtype), network, parse_top(top), protocol, parse_units(units))
    measure_network("profile", choice, measure, running(batch_size, no_cache, no_progress), out, as_json=json)
