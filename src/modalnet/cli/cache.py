"""``modalnet cache``: list, show and clear stored results."""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import datetime, timezone
from json import dumps
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich import filesize

from modalnet.cli import options
from modalnet.cli.console import print_json, report, table
from modalnet.errors import InputError

if TYPE_CHECKING:
    from modalnet.results.store import Entry

SHORT = 12  # characters of a key that are shown
_FLAT = re.compile(r"\[[^][{}]*\]")  # a list of plain values: printed on one line

app = typer.Typer(no_args_is_help=True, help="List, show and clear the stored results.")


@app.command("ls")
def list_(*, json: options.Json = False) -> None:
    """List stored results, oldest first."""
    from modalnet.results.store import Store

    store = Store()
    entries = store.entries()
    if json:
        print_json({"folder": str(store.folder), "entries": [_document(entry) for entry in entries]})
        return
    console = report()
    if entries:
        rows = [(e.key[:SHORT], _describe(e), filesize.decimal(e.size), _age(e.created)) for e in entries]
        console.print(table(("key", "result", "size", "age"), rows, numbers_from=2))
    total = sum(entry.size for entry in entries)
    console.print(f"{len(entries)} result{'s' * (len(entries) != 1)}, {filesize.decimal(total)}, in {store.folder}")


@app.command(no_args_is_help=True)
def show(
    key: Annotated[str, typer.Argument(help="Key, or its first characters.")], *, json: options.Json = False
) -> None:
    """Show how a result was computed."""
    (entry,) = _find([key])
    if json:
        print_json(_document(entry) | {"document": entry.meta})
        return
    console = report()
    console.print(f"{entry.key}: {_describe(entry)}", style="bold")
    console.print(f"{entry.path}, {filesize.decimal(entry.size)}, written {_age(entry.created)} ago")
    if entry.damaged:
        console.print(entry.damaged, style="red")
    else:
        text = dumps(entry.meta, indent=2, ensure_ascii=False)
        console.print(_FLAT.sub(lambda found: re.sub(r"\s*\n\s*", " ", found[0][1:-1]).strip().join("[]"), text))


@app.command()
def clear(
    keys: Annotated[list[str] | None, typer.Argument(help="Keys, or their first characters; by default all.")] = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask for confirmation.")] = False,
    json: options.Json = False,
) -> None:
    """Remove results from the store; they are computed again when they are needed."""
    from modalnet.results.store import Store

    store = Store()
    entries = _find(keys) if keys else store.entries()
    what = (
        f"{len(entries)} result{'s' * (len(entries) != 1)} ({filesize.decimal(sum(entry.size for entry in entries))})"
    )
    if entries and not yes:
        typer.confirm(f"Remove {what} from {store.folder}?", abort=True, err=True)
    # Also for an empty store: it removes the temporary files of processes that were killed.
    removed = store.clear([entry.key for entry in entries])
    if json:
        print_json({"folder": str(store.folder), "removed": removed, "keys": [entry.key for entry in entries]})
    else:
        report().print(f"removed {what}" if entries else f"{store.folder} holds no results")


def _find(keys: Sequence[str]) -> list[Entry]:
    """Find entries by their keys or first characters.

    Raises
    ------
    InputError
        If no entry matches, or several do.
    """
    from modalnet.results.store import Store

    store = Store()
    entries = store.entries()
    matched: dict[str, Entry] = {}
    for key in keys:
        matches = [entry for entry in entries if key and entry.key.startswith(key)]
        matches = [entry for entry in matches if entry.key == key] or matches
        if len(matches) != 1:
            where = f'in {store.folder} has a key that starts with "{key}"'
            if not matches:
                raise InputError(f"no result {where}. `modalnet cache ls` lists them.")
            these = ", ".join(entry.key for entry in matches)
            raise InputError(f"more than one result {where}: {these}. Give more characters.")
        matched[matches[0].key] = matches[0]
    return list(matched.values())


def _document(entry: Entry) -> dict[str, Any]:
    return {
        "key": entry.key,
        "result": _describe(entry),
        "path": str(entry.path),
        "bytes": entry.size,
        "created": entry.created.isoformat(),
        "damaged": entry.damaged,
    }


def _describe(entry: Entry) -> str:
    """Describe a result: its contrast and model, or else its file format."""
    if entry.damaged:
        return "damaged"
    about = entry.meta.get("meta")
    about = about if isinstance(about, dict) else {}
    contrast = about.get("contrast")
    name = contrast.get("name") if isinstance(contrast, dict) else None
    if name and about.get("source"):
        return f"{name} in {about['source']}" + (f" ({about['protocol']})" if about.get("protocol") else "")
    return str(entry.meta.get("format", "unknown"))


def _age(created: datetime) -> str:
    seconds = max((datetime.now(timezone.utc) - created).total_seconds(), 0)
    for length, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= length:
            return f"{seconds // length:.0f} {unit}"
    return f"{seconds:.0f} s"
