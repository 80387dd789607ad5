"""What interventions put in, kept for the next call: reference stimuli run once for one model as it is.

Means, donors and sources of patches come from runs of their own. A task that generates asks for them at every item, and
a study at every call. They are kept in memory by what they depend on: the intervention with the content of its stimuli,
the tokens that these become, and everything that decides the numbers of the model. Where that cannot be told (hooks,
edits, replaced methods), or where reading the weights to tell it would take longer than the runs, nothing is kept.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from modalnet.interventions.values import Affine, Part, Read

if TYPE_CHECKING:
    import torch

_keeping = threading.Lock()  # never held while reference stimuli run
# What is kept at most: interventions, and bytes of their values.
MOST_KEPT, MOST_BYTES = 64, 1 << 28
# From so many reference stimuli on, their runs take longer than reading the weights of the model.
MANY = 8
# Weights that are read in less time than one run takes.
FEW_BYTES = 1 << 26


class References:
    """Keeps values of interventions, those that were asked for last."""

    def __init__(self) -> None:
        self._kept: OrderedDict[Hashable, tuple[Affine, int]] = OrderedDict()

    def of(self, key: Hashable | None, parts: Sequence[Part], read: Read, compute: Callable[[Read], Affine]) -> Affine:
        """The values of an intervention: those that are kept, or else computed.

        Parameters
        ----------
        key
            All that decides them; None to keep nothing.
        parts
            The sites that are written to.
        read
            Runs the reference stimuli.
        compute
            From ``read`` to the values.
        """
        if key is None:
            return compute(read)
        with _keeping:
            if key in self._kept:
                self._kept.move_to_end(key)
                return self._kept[key][0]
        tokens = _Counted(read)
        values = compute(tokens)
        with _keeping:
            self._kept[key] = values, 4 * tokens.count * sum(part.width for part in parts)
            while len(self._kept) > MOST_KEPT or sum(size for _, size in self._kept.values()) > MOST_BYTES:
                self._kept.popitem(last=False)
        return values


class _Counted:
    """Counts the tokens that are read: of no more of them are values kept."""

    def __init__(self, read: Read) -> None:
        self.read = read
        self.count = 0

    def __call__(self, *given: Any) -> Iterator[tuple[int, dict[str, torch.Tensor]]]:
        for index, values in self.read(*given):
            self.count += max((each.shape[1] for each in values.values()), default=0)
            yield index, values


def worth_keeping(n_stimuli: int, module: torch.nn.Module, *, read_anyway: bool) -> bool:
    """Whether telling if the model is the same takes less time than running the stimuli again."""
    if n_stimuli >= MANY or read_anyway:
        return True
    return sum(each.numel() * each.element_size() for each in module.parameters()) <= FEW_BYTES
