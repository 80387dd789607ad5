"""Units of visual word forms, and the reading difficulties that their lesion is said to cause."""

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

dyslexia2026 = Protocol(
    id="dyslexia2026",
    title="Word form units of the decoder's MLPs: pictures of words against scrambled words, faces and line drawings",
    citation=(
        "Honarmand, Sharma, AlKhamissi, Mehrer & Schrimpf (2026), Inducing Dyslexia in Vision Language Models, ICLR, "
        "arXiv:2509.24597."
    ),
    code="github.com/epflneuroailab/VWFA-Localization, without a licence",
    models="Qwen2-VL-72B, bfloat16: 80 layers of 29,568 units",
    localizer=Localizer(
        units="gate",
        tokens="mean",
        magnitude="signed",
        modality="image",
        towers="decoder",
        prompt="Describe the image.",
    ),
    contrasts=(
        ProtocolContrast(
            "words",
            Source(
                "96 grey pictures each of words, scrambled words, faces and line drawings, of which 72 each are drawn "
                "for a run; not free",
                generator="stimuli.word_pictures",
                made_with={"n": 72},
                differs="pictures that were drawn for this library, all of one size, luminance and contrast",
            ),
        ),
    ),
    selection=Selection(fractions=(0.21,)),
    lesion=ProtocolLesion("zero"),
    random_units=RandomUnits(1, in_words="random units in the publication, without a number; none in the code"),
    tasks=(
        ProtocolTask(
            "lexical decision",
            Source(
                "100 pictures of real and pseudo words, a test split of the 500 of the Rapid Online Assessment of "
                "Reading; not free",
                generator="tasks.lexical_decision",
                made_with={"n": 100},
                differs="pictures of other words and pseudo words",
            ),
            "whether the generated answer holds the expected words",
            generated=True,
            max_new_tokens=128,
        ),
        ProtocolTask(
            "sentence pictures",
            Source(
                "80 choices of a picture for a sentence, of the Kempler Sentence Comprehension Test; not free",
                generator="tasks.sentence_pictures",
                made_with={"n": 80},
                differs="drawn scenes and sentences about them",
            ),
            "whether the generated answer is the letter of the picture",
            generated=True,
            max_new_tokens=128,
            parse="letter",
        ),
    ),
    claims=(
        Claim(
            "Ablating word form units impairs the recognition of words, and ablating as many random units does not.",
            "loss",
            "words",
            "lexical decision",
        ),
        Claim(
            "It impairs reading more than the comprehension of language and pictures.",
            "dissociation",
            "words",
            "lexical decision",
            "sentence pictures",
        ),
    ),
    quirks=(
        Quirk(
            "The lesion multiplies by a mask over units along the axis of tokens: it zeroes all units of a layer at "
            "the token positions whose number is that of a selected unit.",
            "No selected unit is ablated as such. With a cache of keys and values every new token has position 0, and "
            "loses the whole MLP in the layers whose unit 0 was selected.",
        ),
        Quirk(
            "The share of ablated units, 6.89%, is of the outputs of all linear layers, those of the vision tower and "
            "of the LM head included.",
            "It is 21.4% of the units that could be selected: 21%, and those that tie in float32.",
        ),
        Quirk(
            "Pictures of words and scrambled words are smaller than those of faces and drawings.",
            "They fill 20 to 44 image tokens against 121, and the mean over all tokens holds more of the prompt.",
        ),
        Quirk(
            "Units are those of the language model; the vision tower has no projection of that name.",
            "No unit of the vision tower can be selected.",
        ),
        Quirk(
            'Answers are parsed by words: "is not real" counts as real, an " a " before a " b " as choice A, and text '
            "that is no answer as wrong.",
            "A model that no longer writes answers looks like one that no longer reads.",
        ),
        Quirk(
            "Means over tokens are taken in bfloat16, and t in float32.",
            "Some of 2.4 million units tie, and all that tie are selected.",
        ),
    ),
    released={
        "selection": Selection(fractions=(0.21,), ties="dense", precision="float32", undefined_as=0.0),
        "lesion": ProtocolLesion("zero positions"),
        "random_units": RandomUnits(0, in_words="none in the code"),
    },
)
