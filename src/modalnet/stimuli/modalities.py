"""The modalities: what a stimulus can hold, what encodes it, and the words that messages use for it.

One record per modality ties the field of a :class:`~modalnet.stimuli.Stimulus`, the part of a loaded model that encodes
it, and the towers that read it (:attr:`modalnet.models.towers.Tower.modality`) together. A new modality is one record
here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from modalnet.stimuli.stimulus import Stimulus


@dataclass(frozen=True)
class Modality:
    """One modality.

    Attributes
    ----------
    name
        ``"image"``, ``"audio"`` or ``"text"``: what a tower's ``modality`` is.
    field
        The field of a stimulus that holds it.
    encoded_by
        The attribute of a loaded model that turns it into inputs.
    noun
        What it is called in messages, in the plural.
    """

    name: str
    field: str
    encoded_by: str
    noun: str

    def is_in(self, stimulus: Stimulus) -> bool:
        """Whether a stimulus holds this modality."""
        return getattr(stimulus, self.field) is not None


#: Modality by name.
MODALITIES: dict[str, Modality] = {
    modality.name: modality
    for modality in (
        Modality("image", field="image", encoded_by="image_processor", noun="images"),
        Modality("audio", field="audio", encoded_by="feature_extractor", noun="sounds"),
        Modality("text", field="text", encoded_by="tokenizer", noun="text"),
    )
}
