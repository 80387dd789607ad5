"""Which blocks a model can do without, once what they put out is known: found out, not assumed.

A pass may start at a block, from what an earlier pass read before it. That is right where a block is handed nothing but
the residual stream. Some are handed more: keys and values that an earlier block computed (Gemma 3n, Gemma 4), a
position bias that the first block computes (T5), a choice of tokens that several blocks share. Whether a pass may
start at one block says nothing of the next one, deeper or shallower. So each start is compared once with a pass that
runs every block, before it is relied on.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeAlias

from modalnet.models.state import alterations

if TYPE_CHECKING:
    from modalnet.execution.engine import Engine

#: Where a pass starts: of each tower whose first blocks are skipped, its name and the first block that runs.
Start: TypeAlias = tuple[tuple[str, int], ...]


class Skipping:
    """Remembers from which blocks the passes of one model may start.

    Parameters
    ----------
    engine
        Of the model.

    Attributes
    ----------
    known
        By where a pass starts, whether it then gives the logits that a whole pass gives, as far as it was tried.
    known_at
        The same of what is read at a site, by where a pass starts and the space and layer of the site.
    """

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.known: dict[Start, bool] = {}
        self.known_at: dict[tuple[Start, str, int], bool] = {}
        self._found_with: tuple[Any, ...] | None = None

    @property
    def possible(self) -> bool:
        """Whether passes of this model may skip blocks at all."""
        # An edit of a block that is skipped would wait for it, or change what it was read with once more.
        return self.engine.capabilities.skips_blocks and not self.engine.edited

    def forget_if_altered(self) -> None:
        """Forget what was found before hooks, replaced methods or submodules of the model changed."""
        now = alterations(self.engine.module) if self.engine.capabilities.weights_here else ()
        if now != self._found_with:
            self.known.clear()
            self.known_at.clear()
        self._found_with = now
