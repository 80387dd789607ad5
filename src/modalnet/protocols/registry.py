"""The protocols by id. A new one is a file of this folder and an entry here."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from modalnet._validation import check_option
from modalnet.protocols.alkhamissi2025 import alkhamissi2025
from modalnet.protocols.protocol import Protocol

#: Protocol by id; read-only.
PROTOCOLS: Mapping[str, Protocol] = MappingProxyType({each.id: each for each in (alkhamissi2025,)})


def find_protocol(protocol: str) -> Protocol:
    """Return the protocol of an id.

    Raises
    ------
    InputError
        If there is none; the message lists those that exist.
    """
    return PROTOCOLS[check_option("protocol", protocol, PROTOCOLS)]
