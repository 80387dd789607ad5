"""Category-selective units of a topographic model, suppressed and driven as in experiments on visual cortex."""

from modalnet.protocols.protocol import (
    Claim,
    Localizer,
    Protocol,
    ProtocolContrast,
    ProtocolLesion,
    ProtocolTask,
    Quirk,
    RandomUnits,
    Selection,
    Source,
)

#: The conditions of :func:`modalnet.stimuli.categories`.
CATEGORIES = ("faces", "houses", "objects", "words")


def _contrast(category: str) -> ProtocolContrast:
    return ProtocolContrast(
        category,
        Source(
            f"pictures of {category} and of three other categories, from the localizers of a laboratory; not free",
            generator="stimuli.categories",
            made_with={"positive": category},
            differs="drawings, matched in luminance and contrast",
        ),
    )


def _task(name: str, categories: tuple[str, ...]) -> ProtocolTask:
    return ProtocolTask(
        name,
        Source(
            'pictures with the question "What do you see in the image?"',
            generator="tasks.naming",
            made_with={
                "source": "stimuli.categories",
                "question": "What do you see in the image?",
                "names": CATEGORIES,
            },
            conditions=categories,
            differs="drawings, and the names of four categories to choose from",
        ),
        "whether Qwen2.5-Omni-3B judges that the generated answer names the category",
        generated=True,
        max_new_tokens=32,
    )


topoomni2026 = Protocol(
    id="topoomni2026",
    title="Category-selective units on a sheet: signed mean over all tokens, t smoothed over neighbours",
    citation=(
        "AlKhamissi, Mehrer, Marinov, Abdelaal, Gokce & Schrimpf (2026), Discovering Functionally Selective Brain "
        "Regions with a Deep Topographic Multimodal Model, arXiv:2606.09770."
    ),
    code="github.com/epflneuroailab/topo-omni, Apache-2.0",
    models=(
        "Qwen2.5-Omni-3B, fine-tuned with a projection of each block's output onto a sheet of 304 x 512 units: 36 x "
        "2,048 of the language model, 32 x 1,280 each of the vision and audio towers"
    ),
    localizer=Localizer(units="residual", tokens="mean", magnitude="signed", modality="image", towers="vision"),
    contrasts=tuple(map(_contrast, ("faces", "houses", "words"))),
    selection=Selection(rule="smoothed", fractions=(0.1, 0.05, 0.15, 0.3), fwhm=4.0),
    lesion=ProtocolLesion("category difference"),
    random_units=RandomUnits(1, in_words="random units are switched off in the code; one seed"),
    tasks=(
        _task("faces named", ("faces",)),
        _task("others named", ("houses", "objects", "words")),
    ),
    claims=(
        Claim(
            "Suppressing 10% of the vision units, those of faces, takes the identification of faces to near zero and "
            "keeps that of other categories.",
            "dissociation",
            "faces",
            "faces named",
            "others named",
        ),
    ),
    quirks=(
        Quirk(
            "A unit is a direction of a learned projection of a block's output.",
            "Without the fine-tuned model the nearest units are those of the residual stream, and positions on a sheet "
            "have to be given.",
        ),
        Quirk(
            "In the video localizer of multiple demand the two sides have different prompts.",
            "The contrast is one of the questions as much as of the videos.",
        ),
        Quirk(
            "In batches of more than one sample, the whole batch is averaged into one.",
            "The number of samples, and with it t, depends on the batch size.",
        ),
        Quirk("The strength of a stimulation is read from the command line and not used.", "It is always 1."),
        Quirk(
            "Answers are judged by a model of the same family.",
            "The judge may share the errors of the model that is judged.",
        ),
        Quirk(
            "Smoothed statistics are compared with the null of unsmoothed ones.",
            "q does not have its nominal rate.",
        ),
    ),
)
