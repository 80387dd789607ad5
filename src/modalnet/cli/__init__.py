"""The command line. Each command is a few calls of the package and a report for a person or a program.

With ``--json`` a command prints one document to stdout and nothing else; progress and messages go to stderr. An error
in the input is one line and exit code 2. Heavy imports are deferred into the commands, so that ``modalnet --help``
answers at once.
"""

from __future__ import annotations

from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from modalnet.cli import atlas, brain, cache, demo, lesion, localize, profile, replicate, towers
from modalnet.cli.console import messages
from modalnet.errors import ModalnetError


class _Commands(TyperGroup):
    """A group of commands that prints modalnet's own errors as one line."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except ModalnetError as error:
            if ctx.params.get("debug"):
                raise
            messages().print(f"error: {error}", style="red")
            raise typer.Exit(2) from error
        except KeyboardInterrupt as error:
            raise typer.Exit(130) from error


app = typer.Typer(
    name="modalnet",
    cls=_Commands,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Functional localizers for language models, image encoders and vision-language models.",
)
app.command(no_args_is_help=True)(localize.localize)
app.command(no_args_is_help=True)(lesion.lesion)
app.command(no_args_is_help=True)(replicate.replicate)
app.command(no_args_is_help=True)(profile.profile)
app.command(no_args_is_help=True)(brain.brain)
app.command(no_args_is_help=True)(atlas.atlas)
app.command()(demo.demo)
app.command(no_args_is_help=True)(towers.towers)
app.add_typer(cache.app, name="cache")


def _version(requested: bool) -> bool:
    if requested:
        from modalnet._version import __version__

        typer.echo(f"modalnet {__version__}")
        raise typer.Exit
    return requested


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version and exit.")
    ] = False,
    debug: Annotated[
        bool, typer.Option("--debug", envvar="MODALNET_DEBUG", help="Show the traceback of an error.")
    ] = False,
) -> None: ...
