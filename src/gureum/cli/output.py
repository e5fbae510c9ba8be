"""What the CLI says, and how: plain text, JSON where asked, errors that name the next step."""

import json
import os
import re
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from gureum.cli.commands import COMMANDS, TYPED_VARIABLE

FAILED = 1
USAGE = 2
MISSING = 3
NOT_RUNNING = 4

LOOK_SECONDS = 1.0
"""Between looks at what takes a while."""

_COMMAND = re.compile(rf"(?<![\w./-])gureum(?= (?:--yes )?(?:{'|'.join(COMMANDS)})\b)")


class CliError(Exception):
    """Ends the command: `message` says what is wrong, `next_step` what to do about it."""

    def __init__(
        self, message: str, next_step: str = "", *, exit_code: int = FAILED, detail: str = ""
    ) -> None:
        super().__init__(message)
        self.message = message
        self.next_step = next_step
        self.exit_code = exit_code
        self.detail = detail


def as_typed(text: str) -> str:
    """With commands as this user can type them: from a checkout, `./gureum up` for `gureum up`."""
    typed = os.environ.get(TYPED_VARIABLE, "")
    return _COMMAND.sub(lambda _found: typed, text) if typed else text


def show_error(error: CliError) -> None:
    print(f"gureum: {as_typed(error.message)}", file=sys.stderr)
    if error.detail:
        print(error.detail.rstrip(), file=sys.stderr)
    if error.next_step:
        print(f"  next: {as_typed(error.next_step)}", file=sys.stderr)


def show_json(value: Any) -> None:
    print(json.dumps(value, indent=2, sort_keys=False))


def note(text: str) -> None:
    """Progress: to stderr, so that stdout holds the result only."""
    print(as_typed(text), file=sys.stderr, flush=True)


def followed(
    found: dict[str, Any],
    going: Callable[[dict[str, Any]], bool],
    words: Callable[[dict[str, Any]], str],
    look: Callable[[], dict[str, Any]],
) -> dict[str, Any]:
    """What is ``found``, as it is when it is not ``going`` on any more: it is looked at again and again.
    ``words`` say how far it is meanwhile, if a person looks on.
    """
    said = ""
    while going(found):
        if sys.stderr.isatty() and (progress := words(found)) != said:
            note(progress)
            said = progress
        time.sleep(LOOK_SECONDS)
        found = look()
    return found


def table(header: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Columns aligned by spaces: reads well and cuts well (awk)."""
    cells = [[str(cell) for cell in row] for row in (header, *rows)]
    widths = [max(len(row[column]) for row in cells) for column in range(len(header))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in cells
    )


def counted(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def human_bytes(count: float) -> str:
    for unit in ("B", "KiB", "MiB", "GiB"):
        if abs(count) < 1024:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} TiB"
