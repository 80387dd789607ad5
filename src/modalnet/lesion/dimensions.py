"""What is left of a lesion effect without one dimension of the residual stream.

The residual stream carries a dimension from block to block, so that units of one dimension in several layers are hardly
more than one unit. A network of fourteen units may be four dimensions, one of which carries the whole effect.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from modalnet.lesion.lesion import WITHOUT, Lesion

if TYPE_CHECKING:
    import pandas as pd

    from modalnet.lesion.result import LesionStudy

COLUMNS = (
    *("network", "task", "fraction", "operation", "dimension", "drop"),
    *("drop_without", "drop_without_low", "drop_without_high", "share"),
)


def dimensions(study: LesionStudy) -> pd.DataFrame:
    """See :meth:`modalnet.LesionStudy.dimensions`."""
    import pandas as pd

    rows: list[dict[str, Any]] = []
    for (network, size), design in study.design.items():
        for task, resamples in study._resamples.tasks.items():
            for operation in study.operations:
                whole = Lesion(network, size, operation)
                for number, dimension in enumerate(design.left_out):
                    rest = Lesion(network, size, operation, WITHOUT, number)
                    if whole in resamples and rest in resamples:
                        drop, without = resamples.drop(whole), resamples.drop(rest)
                        low, high = resamples.drop_interval(rest)
                        measurable = resamples.drop_interval(whole)[0] > 0
                        share = 1 - without / drop if measurable else math.nan
                        rows.append(
                            dict(
                                zip(
                                    COLUMNS,
                                    (network, task, size, operation, dimension, drop, without, low, high, share),
                                    strict=True,
                                )
                            )
                        )
    return pd.DataFrame(rows, columns=list(COLUMNS))
