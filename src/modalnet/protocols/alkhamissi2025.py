"""The language localizer of "The LLM Language Network"."""

from modalnet.protocols.protocol import Protocol

alkhamissi2025 = Protocol(
    id="alkhamissi2025",
    title="Language units: sentences against nonword strings, absolute activation of the last of 12 tokens",
    citation=(
        "AlKhamissi, Tuckute, Bosselut & Schrimpf (2025), The LLM Language Network: A Neuroscientific Approach for "
        "Identifying Causally Task-Relevant Units, arXiv:2411.02280, sections 2 and 3."
    ),
    tokens="last",
    magnitude="absolute",
    max_tokens=12,
    raw=True,
    text_only=True,
)
