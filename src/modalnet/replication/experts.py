"""Experts of a mixture as networks: every unit of the router that stands for one of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from modalnet.protocols.protocol import Protocol
from modalnet.replication.lesions import expert_space, expert_units
from modalnet.units import Units

if TYPE_CHECKING:
    from modalnet.model import Model


@dataclass(frozen=True)
class ExpertNetwork:
    """One expert in all layers.

    Attributes
    ----------
    units
        Its unit in every layer of the space ``experts``.
    """

    units: Units

    has_sizes = False

    def top(self, fraction: float | None = None) -> Units:
        """Its units; an expert has one size."""
        return self.units

    def for_study(self, fraction: float | None) -> Units:
        """What a lesion study takes."""
        return self.units


def expert_networks(model: Model, protocol: Protocol) -> tuple[dict[str, ExpertNetwork], dict[str, str]]:
    """The experts of a model by name, and why those that the protocol names are not there.

    Only a model that was trained as the publication says has experts of these names, in this order. A mixture with
    another number of experts has ``"expert 0"`` and so on, about which the protocol claims nothing.
    """
    n = expert_space(model).width
    named = protocol.lesion.experts if len(protocol.lesion.experts) == n else tuple(f"expert {i}" for i in range(n))
    networks = {}
    for number, name in enumerate(named):
        networks[name] = ExpertNetwork(expert_units(model, number))
    why = f"{model.name} has {n} experts, and those of the publication are {len(protocol.lesion.experts)}"
    missing = {name: why for name in protocol.lesion.experts if name not in networks}
    return networks, missing
