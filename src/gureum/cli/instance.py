"""`gureum instance ...`: what AWS has no commands for. Each part of it is in a module of its own."""

from __future__ import annotations

import typer

from gureum.cli.commands import COMMANDS
from gureum.cli.options import MARKUP

app = typer.Typer(help=COMMANDS["instance"].help, no_args_is_help=True, rich_markup_mode=MARKUP)
