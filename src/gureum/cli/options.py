"""What the commands of several modules have in common."""

import os
import sys
from getpass import getpass
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from gureum.cli.output import USAGE, CliError

# Rich's boxes are for people at a terminal; elsewhere help is plain and starts faster.
MARKUP: Literal["rich"] | None = "rich" if sys.stdout.isatty() else None

StateDir = Annotated[
    Path | None,
    typer.Option(
        "--state-dir",
        "-s",
        help="The cloud's directory: several clouds, several directories. Default: $GUREUM_STATE, else "
        "/var/lib/gureum/default for root and ~/.local/share/gureum/default for others.",
        show_default=False,
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Machine-readable output.")]


def unseen(secret: str) -> str:
    """An option's value; for ``-`` a line of the standard input, which no list of processes shows."""
    if secret != "-":
        return secret
    return getpass("token: ") if sys.stdin.isatty() else sys.stdin.readline().strip()


def cloud_at(state_dir: Path | None) -> Any:
    from gureum.cli.cloud import Cloud
    from gureum.cli.config import resolve_state_dir
    from gureum.errors import ConfigError

    try:
        return Cloud(resolve_state_dir(state_dir))
    except ConfigError as error:
        raise CliError(str(error), "choose a shorter one with --state-dir", exit_code=USAGE) from error


def attend(state_dir: Path) -> None:
    """Becomes a small process that waits for the cloud's end, and stops it on Ctrl-C."""
    from gureum.cli.children import little_process

    sys.stdout.flush()
    os.execv(sys.executable, little_process("gureum.cli.attend", state_dir))
