"""The result of a replication: a protocol as published, the same under controls, and its claims judged by both."""

from __future__ import annotations

import os
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from modalnet.errors import InputError
from modalnet.lesion.result import LesionStudy
from modalnet.patching.flow_result import InformationFlow
from modalnet.replication.claims import JudgedClaim, claims_table
from modalnet.replication.material import Material
from modalnet.replication.published import PublishedScores, from_arrays, published_table, to_arrays
from modalnet.results.result import Labelled, Result

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True, eq=False)
class Replication(Result):
    """A published protocol on one model, as published and refereed; made by :func:`modalnet.replicate`.

    Attributes
    ----------
    id
        Of the protocol.
    about
        What it says of itself: ``title``, ``citation``, ``code``, ``models``, ``random_units``, and ``quirks``, pairs
        of what the released code does and what follows.
    model
        A readable name.
    as_released
        Whether the released code was followed where it differs from the text.
    materials
        Which stimuli and items were used.
    networks
        Name -> what is known of its units: ``units``, ``dimensions``, ``layers`` (count by layer and space), ``note``.
    published
        Scores as published, one entry per network, size and task.
    claims
        The claims with both verdicts.
    study
        The lesion study under controls; None where the protocol lesions no units or none could be run.
    flow
        For protocols that remove attention edges: by task, what the answer loses.
    missing
        Name of a contrast or task -> why it was not run.
    settings
        The arguments of the run.
    reported
        Rows of the authors' own numbers, on their models, where the user's data have them.
    """

    NAME = "a replication"
    FORMAT = "modalnet.replication"

    id: str
    about: dict[str, Any]
    model: str
    as_released: bool
    materials: tuple[Material, ...]
    networks: dict[str, dict[str, Any]]
    published: tuple[PublishedScores, ...]
    claims: tuple[JudgedClaim, ...]
    study: LesionStudy | None = None
    flow: dict[str, InformationFlow] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)
    reported: tuple[dict[str, Any], ...] = ()

    # -- tables and text ---------------------------------------------------------------------------------------------

    def table(self) -> pd.DataFrame:
        """Return one row per claim.

        Returns
        -------
        DataFrame
            Columns claim, kind, network, task, other, published (``"holds"``, ``"does not hold"`` or ``"not run"``, by
            the publication's own rule on this model), published_numbers, refereed (the verdict under controls),
            sentence (that verdict with its numbers), reasons (why they differ).
        """
        return claims_table(self.claims)

    def published_table(self) -> pd.DataFrame:
        """Return the scores as published, one row per network, size and task."""
        return published_table(self.published)

    def material_table(self) -> pd.DataFrame:
        """Return which stimuli and items were used, one row per contrast and task."""
        import pandas as pd

        return pd.DataFrame([each.row() for each in self.materials])

    def summary(self) -> str:
        """Return the claims with both verdicts as text."""
        code = ", as its code was released" if self.as_released else ""
        lines = [f"{self.id} on {self.model}{code}", self.about["title"], self.about["citation"], ""]
        for each in self.materials:
            differs = f": {each.differs}" if each.differs else ""
            lines.append(f"{each.kind} {each.name}: {each.used}, {each.n}{differs}")
        for name, why in self.missing.items():
            lines.append(f"{name}: not run: {why}")
        for name, known in self.networks.items():
            about = f", {known['dimensions']} dimensions" if known.get("dimensions") else ""
            lines.append(f"network {name}: {known['units']:,} units{about}{known.get('note', '')}")
        for claim in self.claims:
            lines += ["", *textwrap.wrap(f"Claim: {claim.claim}", 110)]
            numbers = f": {claim.published_numbers}" if claim.published_numbers else ""
            lines += _indented(f"as published: {claim.published}{numbers}")
            lines += _indented(f"refereed: {claim.sentence}")
            lines += [line for reason in claim.reasons for line in _indented(f"- {reason}")]
        return "\n".join(lines)

    __str__ = summary

    def __repr__(self) -> str:
        held = sum(each.published == "holds" for each in self.claims)
        supported = sum(each.supported is True for each in self.claims)
        return (
            f"Replication({self.id} on {self.model}: of {len(self.claims)} claims {held} hold as published, "
            f"{supported} under controls)"
        )

    def plot(self, **options: Any) -> Any:
        """Draw the scores as published beside those under controls: see :func:`modalnet.plotting.replication`."""
        from modalnet.plotting.replication import claim_figure

        return claim_figure(self, **options)

    def report(self, path: str | os.PathLike[str]) -> None:
        """Write one HTML page: claim by claim as published, refereed, and why they differ; with figure and tables.

        Raises
        ------
        InputError
            If the path does not end in ``.html``.
        StoreError
            If the file cannot be written.
        """
        from modalnet.plotting.replication import write_page

        write_page(self, path)

    def cite(self) -> str:
        """Return the publication, and the papers that the controls are from."""
        return "\n\n".join([self.about["citation"], *([] if self.study is None else [self.study.cite()])])

    def _labelled(self) -> tuple[Labelled, Labelled]:
        if self.study is not None:
            return self.study._labelled()
        raise InputError("This replication has no lesion study; its tables are .table() and .published_table().")

    # -- files -------------------------------------------------------------------------------------------------------

    def _content(self) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        arrays, scores = to_arrays(self.published)
        document: dict[str, Any] = {
            "id": self.id,
            "about": self.about,
            "model": self.model,
            "as_released": self.as_released,
            "materials": [asdict(each) for each in self.materials],
            "networks": self.networks,
            "published": scores,
            "claims": [asdict(each) for each in self.claims],
            "missing": self.missing,
            "settings": self.settings,
            "reported": list(self.reported),
            "study": None,
            "flow": {},
        }
        if self.study is not None:
            inside, document["study"] = self.study.to_arrays()
            arrays |= {f"study/{name}": each for name, each in inside.items()}
        for task, flow in self.flow.items():
            inside, document["flow"][task] = flow.to_arrays()
            arrays |= {f"flow/{task}/{name}": each for name, each in inside.items()}
        return arrays, document

    @classmethod
    def _from_content(cls, arrays: Mapping[str, np.ndarray], document: Mapping[str, Any]) -> Replication:
        study = document["study"]
        return cls(
            id=document["id"],
            about=dict(document["about"]),
            model=document["model"],
            as_released=document["as_released"],
            materials=tuple(Material(**each) for each in document["materials"]),
            networks=dict(document["networks"]),
            published=tuple(from_arrays(arrays, document["published"])),
            claims=tuple(_claim(each) for each in document["claims"]),
            study=None if study is None else LesionStudy.from_arrays(_below(arrays, "study/"), study),
            flow={
                task: InformationFlow.from_arrays(_below(arrays, f"flow/{task}/"), each)
                for task, each in document["flow"].items()
            },
            missing=dict(document["missing"]),
            settings=dict(document["settings"]),
            reported=tuple(document["reported"]),
        )


def _indented(text: str) -> list[str]:
    return textwrap.wrap(text, 110, initial_indent="  ", subsequent_indent="    ")


def _claim(document: Mapping[str, Any]) -> JudgedClaim:
    reasons: Sequence[str] = document["reasons"]
    return JudgedClaim(**{**document, "reasons": tuple(reasons)})


def _below(arrays: Mapping[str, np.ndarray], prefix: str) -> dict[str, np.ndarray]:
    return {name.removeprefix(prefix): each for name, each in arrays.items() if name.startswith(prefix)}
