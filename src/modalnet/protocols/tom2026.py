"""Units of theory of mind and of multiple demand, and units that no localizer selects."""

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

#: Of all units, in the order of what is reported of them.
FRACTIONS = (0.01, 0.001, 0.003, 0.1, 0.25)

_STORIES = Source(
    "10 false-belief and 10 false-photograph stories of Dodell-Feder et al. (2011), with random answers; also 95 of "
    "each that a language model wrote",
    folder="tom_saxe",
    reader="stimuli.tom_saxe",
    generator="stimuli.theory_of_mind",
    differs="24 stories of each kind that were written for this library, without answers",
)

tom2026 = Protocol(
    id="tom2026",
    title="Units of theory of mind and of mathematics, against those that respond least: mean over all tokens",
    citation=(
        "Jamaa, AlKhamissi, Ghosh & Schrimpf (2025), Evaluating Contrast Localizer for Identifying Causal Units in "
        "Social & Mathematical Tasks in Language Models, arXiv:2508.08276."
    ),
    code="github.com/YassineJamaa/ToM-LargeModel, without a licence",
    models=(
        "11 language models of 3 to 32 billion parameters (Llama 3.1, Mistral, Phi-3.5, Qwen2.5, ...) and 5 "
        "vision-language models (Llama-3.2-Vision 11B and 90B, Qwen2.5-VL 3B, 7B and 72B), bfloat16"
    ),
    localizer=Localizer(units="residual", tokens="mean", magnitude="absolute", raw=True),
    contrasts=(
        ProtocolContrast("theory of mind", _STORIES),
        ProtocolContrast(
            "multiple demand",
            Source(
                "100 sums and differences of numbers from 100 to 199, and 100 of numbers from 1 to 19, with the result",
                generator="stimuli.multiple_demand",
                differs="other problems, drawn anew and alike in length",
            ),
        ),
        ProtocolContrast("least theory of mind", _STORIES, rule="bottom"),
    ),
    selection=Selection(fractions=FRACTIONS),
    lesion=ProtocolLesion("zero"),
    other_lesions=(ProtocolLesion("task mean"),),
    random_units=RandomUnits(15, in_words="15 draws (50 in one script); for vision-language models at 1% alone"),
    tasks=(
        ProtocolTask(
            "false beliefs",
            Source(
                "231 first-order false-belief questions of ToMi; also OpenToM, FanToM and MMToM-QA, of which the last "
                "is free (MIT)",
                folder="mmtomqa_text/questions.jsonl",
                reader="tasks.mmtomqa",
                read_with={"types": "1.2"},
                generator="tasks.theory_of_mind",
                differs="statements about false-belief stories that were written for this library",
            ),
            "the first generated token is the letter of the answer",
            generated=True,
            max_new_tokens=1,
            parse="letter",
        ),
        ProtocolTask(
            "mathematics",
            Source(
                "4,914 problems of MATH with four options; for vision-language models MMStar and MathVista",
                generator="tasks.word_problems",
                differs="generated word problems",
            ),
            "the first generated token is the letter of the answer",
            generated=True,
            max_new_tokens=1,
            parse="letter",
        ),
    ),
    claims=(
        Claim(
            "Ablating the units that respond least to theory of mind sometimes costs more than ablating those that "
            "respond most.",
            "greater loss",
            "least theory of mind",
            "false beliefs",
            "theory of mind",
        ),
        Claim(
            "Ablating units of multiple demand costs theory of mind more than ablating its own units.",
            "greater loss",
            "multiple demand",
            "false beliefs",
            "theory of mind",
        ),
    ),
    quirks=(
        Quirk(
            "Few of the draws of random units destroy the output, and the others change little.",
            "An interval of t over such draws says nothing; accuracies of Qwen2.5-VL-72B range from 0.000 to 0.661.",
        ),
        Quirk(
            "An answer counts as right if the first token is its letter.",
            "Under larger lesions nearly no answer is a letter: the format is lost, and reasoning is not measured.",
        ),
        Quirk("Random units may be units of the network.", "They are slightly more alike than as many others."),
        Quirk(
            "Mllama leaves out its cross-attention layers on text, so their units have no t.",
            "They count in the number that a fraction is of, and are never ablated.",
        ),
        Quirk(
            "The prompts of mean imputation hold the printed form of a dictionary.",
            "The mean is that of other texts than the task's.",
        ),
        Quirk("A seed of 0 seeds nothing.", "These draws differ from run to run."),
    ),
    released={
        "selection": Selection(fractions=FRACTIONS, ties="last"),
        "random_units": RandomUnits(15, excludes_network=False, in_words="15 draws over all units with a defined t"),
    },
    reported="tom2026_vlm_accuracies.csv",
)
