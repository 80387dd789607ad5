"""Equations as MathML when the site is built, so that no page needs a script or a server to show them.

``$$ ... $$`` is an equation of its own, ``$ ... $`` one in the text; both only outside of code.
"""

import re

from latex2mathml.converter import convert

CODE = re.compile(r"(```.*?```|`[^`\n]*`)", re.DOTALL)
BLOCK = re.compile(r"\$\$(.+?)\$\$", re.DOTALL)
INLINE = re.compile(r"(?<![\w\\$])\$(?!\s)([^$\n]+?)(?<!\s)\$(?!\w)")


def on_page_markdown(markdown: str, page, **_) -> str:
    if not page.file.src_uri.endswith(".md"):
        return markdown
    parts = CODE.split(markdown)
    parts[::2] = [_with_equations(part) for part in parts[::2]]
    return "".join(parts)


def _with_equations(text: str) -> str:
    text = BLOCK.sub(lambda found: "\n" + convert(found[1].strip(), display="block") + "\n", text)
    # Without the span a line that begins with an equation would be taken for a block of HTML.
    return INLINE.sub(lambda found: f"<span>{convert(found[1])}</span>", text)
