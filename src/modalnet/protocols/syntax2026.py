"""Units of syntactic phenomena: acceptable against unacceptable sentences of minimal pairs."""

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

syntax2026 = Protocol(
    id="syntax2026",
    title="Syntax units: the good against the bad sentence of minimal pairs, absolute activation of the last token",
    citation=(
        "Kryvosheieva, de Varda, Fedorenko & Tuckute (2026), Different types of syntactic agreement recruit the same "
        "units within large language models, ACL, arXiv:2512.03676."
    ),
    code="github.com/dariakryvosheieva/syntax-units, without a licence",
    models="gpt2-xl, Llama-3.2-3B, Falcon3-3B, Phi-4-mini, gemma-3-4b-pt, deepseek-7b and Mistral-7B-v0.3, float32",
    localizer=Localizer(units="residual", tokens="last", magnitude="absolute", raw=True),
    contrasts=(
        ProtocolContrast(
            "agreement",
            Source(
                "pairs 1 to 500 of each of 67 paradigms of BLiMP; also SyntaxGym, RuBLiMP, SLING and MultiBLiMP",
                folder="multiblimp_sv/eng.csv",
                reader="stimuli.minimal_pairs",
                generator="stimuli.agreement",
                part="first half",
                differs="generated pairs of subject-verb agreement, alike in length",
            ),
        ),
    ),
    selection=Selection(fractions=(0.01, 0.005, 0.05)),
    other_lesions=(ProtocolLesion("scalar mean"),),
    random_units=RandomUnits(4, in_words="4 draws over all units outside the network, of which the mean is reported"),
    tasks=(
        ProtocolTask(
            "agreement pairs",
            Source(
                "pairs 501 to 1,000 of the same paradigm",
                folder="multiblimp_sv/eng.csv",
                reader="tasks.minimal_pairs",
                generator="tasks.agreement",
                read_with={"per_token": True},
                part="second half",
                made_with={"per_token": True},
                differs="generated pairs of other words",
            ),
            "the good sentence has the larger log-probability per token",
        ),
    ),
    claims=(
        Claim(
            "Zeroing the syntax units of a phenomenon costs accuracy on it, and zeroing random units does not.",
            "loss",
            "agreement",
            "agreement pairs",
        ),
        Claim("Halves of the pairs select the same units, far beyond chance.", "shared units", "agreement"),
    ),
    quirks=(
        Quirk(
            "Mean ablation writes one number into every unit: the mean of all units of all layers.",
            "The number is far from the mean of most units; random units cost more than syntax units in gpt2-xl.",
        ),
        Quirk(
            "Units are ranked densely, and every unit that ties with one of the first k is taken.",
            "None in float64, where no two units tie.",
        ),
        Quirk("The two sentences of a pair are tested as independent samples.", "The test has less power."),
        Quirk(
            "The upper end of bootstrap intervals is the 95th percentile, the lower one the 2.5th.",
            "Intervals are too short on one side.",
        ),
        Quirk(
            "The chance level of shared units comes from good sentences alone, with alternating labels.",
            "It has no pairs, so it is the chance level of another design.",
        ),
        Quirk(
            "Of the four draws of random units only the mean is kept.",
            "How far apart they are is not known; zeroing 5% at random costs more than syntax units in 3 of 7 models.",
        ),
    ),
    released={"selection": Selection(fractions=(0.01, 0.005, 0.05), ties="dense")},
    reported="syntax2026_blimp_ablation.csv",
)
