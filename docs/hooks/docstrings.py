"""Docstrings are written for readers of the source, with Sphinx' roles and tables; here they become Markdown."""

import re

import griffe

ROLE = re.compile(r":(?:func|class|meth|mod|data|attr):`~?\.?([^`]+)`")
RULE = re.compile(r"^ *=+(?: +=+)+ *$")


class Markdown(griffe.Extension):
    def on_object(self, *, obj: griffe.Object, **_) -> None:
        if obj.docstring is not None:
            obj.docstring.value = _tables(ROLE.sub(r"`\1`", obj.docstring.value))


def _tables(text: str) -> str:
    """Simple tables: a rule of = signs says where columns begin; a line that leaves the first empty goes on."""
    lines, out, rows, starts = text.split("\n"), [], [], None
    for number, line in enumerate(lines):
        rule = bool(RULE.match(line))
        if rule and starts is None:
            starts = [found.start() for found in re.finditer("=+", line)]
            rows = []
            continue
        if starts is None:
            out.append(line)
            continue
        later = any(RULE.match(one) for one in lines[number + 1 :])
        ends = rule and (not later or not (number + 1 < len(lines) and lines[number + 1].strip()))
        if rule and not ends:
            rows.append(None)  # the end of the head
            continue
        if ends:
            out += _rows(rows)
            starts = None
            continue
        cells = [line[a:b].strip() for a, b in zip(starts, [*starts[1:], None], strict=True)]
        if cells[0] or not rows or rows[-1] is None:
            rows.append(cells)
        else:
            rows[-1] = [f"{one} {more}".strip() for one, more in zip(rows[-1], cells, strict=True)]
    return "\n".join(out)


def _rows(rows: list) -> list[str]:
    head = rows.index(None) if None in rows else 0
    body = [row for row in rows if row is not None]
    named = body[:head] or [[""] * len(body[0])]
    line = "| " + " | ".join("---" for _ in body[0]) + " |"
    shown = ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in named + body[head:]]
    return ["", *shown[:1], line, *shown[1:], ""]
