"""The protocols by id. A new one is one file of this folder that holds a :class:`Protocol` under the file's name."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Iterator, Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Any

from modalnet._validation import check_option
from modalnet.errors import InputError
from modalnet.protocols.protocol import Localizer, Protocol

if TYPE_CHECKING:
    import pandas as pd

#: Files of this folder that hold no protocol.
_OTHER = ("protocol", "registry")


class Protocols(Mapping[str, Protocol]):
    """Published protocols by id; read-only.

    Examples
    --------
    >>> mn.protocols["alkhamissi2025"].localizer.tokens
    'last'
    """

    @cached_property
    def _by_id(self) -> dict[str, Protocol]:
        package = importlib.import_module("modalnet.protocols")
        names = sorted(each.name for each in pkgutil.iter_modules(package.__path__) if each.name not in _OTHER)
        found: dict[str, Protocol] = {}
        for name in names:
            protocol = getattr(importlib.import_module(f"modalnet.protocols.{name}"), name, None)
            if not isinstance(protocol, Protocol) or protocol.id != name:
                raise TypeError(f"modalnet/protocols/{name}.py must hold a Protocol named {name} with this id.")
            found[name] = protocol
        return found

    def __getitem__(self, key: str) -> Protocol:
        return self._by_id[check_option("protocol", key, self._by_id)]

    def __contains__(self, key: object) -> bool:
        return key in self._by_id

    def __iter__(self) -> Iterator[str]:
        return iter(self._by_id)

    def __len__(self) -> int:
        return len(self._by_id)

    def get(self, key: str, default: Any = None) -> Any:
        """Return the protocol of an id, or the default where there is none."""
        return self._by_id.get(key, default)

    def __repr__(self) -> str:
        return f"Protocols({', '.join(self)})"

    def table(self) -> pd.DataFrame:
        """Return one row per protocol: what it tests, selects, lesions and claims.

        Returns
        -------
        DataFrame
            Columns id, title, units, tokens, statistic, fraction, lesion, random_draws, n_claims, n_quirks.
        """
        import pandas as pd

        return pd.DataFrame([_row(protocol) for protocol in self.values()])


def _row(protocol: Protocol) -> dict[str, object]:
    localizer = protocol.localizer
    return {
        "id": protocol.id,
        "title": protocol.title,
        "units": "" if localizer is None else localizer.units,
        "tokens": "" if localizer is None else localizer.tokens,
        "statistic": "" if localizer is None else localizer.statistic,
        "fraction": "" if localizer is None or not protocol.selection.fractions else protocol.selection.fractions[0],
        "lesion": protocol.lesion.operation,
        "random_draws": protocol.random_units.n,
        "n_claims": len(protocol.claims),
        "n_quirks": len(protocol.quirks),
    }


#: The protocols by id.
protocols = Protocols()


def find_protocol(protocol: str | Protocol) -> Protocol:
    """Return the protocol of an id; a protocol is returned as it is.

    Raises
    ------
    InputError
        If there is none; the message lists those that exist.
    """
    return protocol if isinstance(protocol, Protocol) else protocols[protocol]


def find_localizer(protocol: str | Protocol) -> tuple[Protocol, Localizer]:
    """Return the protocol of an id, and how it tests units.

    Raises
    ------
    InputError
        If there is none, or it localizes no units.
    """
    known = find_protocol(protocol)
    if known.localizer is None:
        raise InputError(
            f"`protocol` {known.id!r} localizes no units ({known.title}). Run it with modalnet.replicate(model, "
            f"{known.id!r}), or choose one of "
            f"{', '.join(repr(name) for name, each in protocols.items() if each.localizer is not None)}."
        )
    return known, known.localizer
