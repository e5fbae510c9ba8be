"""`gureum image build`: builds an image and says how far it is."""

import asyncio
import sys
from pathlib import Path

from gureum.cli.output import USAGE, CliError, note

NAMES = ("tiny",)


def build(directory: Path, name: str, *, refresh: bool) -> dict[str, str]:
    """Builds the image below `directory` unless it is there. Returns its id, name, place; raises CliError."""
    from gureum.control.images import image_id
    from gureum.images.builder import build_tiny
    from gureum.images.errors import ImageError

    if name not in NAMES:
        raise CliError(f"there is no image {name!r}", f"choose from: {', '.join(NAMES)}", exit_code=USAGE)
    try:
        manifest = asyncio.run(build_tiny(directory, Progress(), refresh=refresh))
    except ImageError as error:
        raise CliError(f"the image was not built: {error}", "gureum doctor") from error
    return {"ImageId": image_id(manifest), "Name": manifest.name, "Directory": str(directory)}


class Progress:
    """On a terminal one line that changes, elsewhere a line for each step."""

    def __init__(self) -> None:
        self.is_terminal = sys.stderr.isatty()
        self.last = ""

    def __call__(self, step: str, share: float) -> None:
        if self.is_terminal:
            end = "\n" if share >= 1 else ""
            print(f"\r\x1b[K{share:4.0%}  {step}", end=end, file=sys.stderr, flush=True)
        elif step != self.last:
            note(f"{share:4.0%}  {step}")
        self.last = step
