"""The language mask of Brain-Score: the units that predict responses of the brain to language."""

from modalnet.protocols.protocol import (
    Localizer,
    Protocol,
    ProtocolContrast,
    ProtocolLesion,
    Quirk,
    RandomUnits,
    Selection,
    Source,
)

brainscore2025 = Protocol(
    id="brainscore2025",
    title="Language units whose responses are compared with the brain's: sentences against nonword strings, signed",
    citation=(
        "Brain-Score Language, which localizes units after AlKhamissi, Tuckute, Bosselut & Schrimpf (2025), The LLM "
        "Language Network, arXiv:2411.02280."
    ),
    code="github.com/brain-score/language, MIT",
    models="Qwen3 0.6B to 32B, in the entries whose names end in -loc-10",
    localizer=Localizer(units="residual", tokens="last", magnitude="signed", max_tokens=12, raw=True),
    contrasts=(
        ProtocolContrast(
            "language",
            Source(
                "240 sentences and 240 strings of nonwords of Fedorenko et al. (2010), twelve words each (MIT)",
                folder="fedorenko2010",
                reader="stimuli.fedorenko2010",
                generator="stimuli.language",
                differs="other sentences and nonwords of the same length",
            ),
        ),
    ),
    selection=Selection(fractions=(0.1,)),
    lesion=ProtocolLesion("none"),
    random_units=RandomUnits(0, in_words="none"),
    quirks=(
        Quirk(
            "Activations are signed, where the protocol that it follows takes their absolute value.",
            "Units that sentences make more negative are never selected.",
        ),
        Quirk(
            "A mask is stored under the name of the model alone.",
            "Asking for another number of units silently gives the mask that was stored first.",
        ),
        Quirk(
            "No random units are compared.",
            "That localized units predict the brain better than as many others is not tested.",
        ),
    ),
)
