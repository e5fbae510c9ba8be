"""`gureum image build`: builds an image, once for all clouds of this machine, and says how far it is."""

import asyncio
import contextlib
import os
import shutil
import sys
import tempfile
import time
from pathlib import Path

from gureum.cli.cloud import Cloud
from gureum.cli.config import default_base
from gureum.cli.output import USAGE, CliError, note
from gureum.files import make_directories, sync

NAMES = ("tiny",)
CACHE = "image-cache"
SHOWN_TIMEOUT_S = 15.0
SHOWN_POLL_S = 0.2


def build(directory: Path, name: str, *, refresh: bool) -> dict[str, str]:
    """Puts the image below `directory`. Returns its id, name and place; raises CliError.

    It is built in the machine's cache unless it is there, and costs each further cloud nothing but links.
    """
    from gureum.control.images import image_id
    from gureum.images.builder import build_tiny
    from gureum.images.errors import ImageError

    if name not in NAMES:
        raise CliError(f"there is no image {name!r}", f"choose from: {', '.join(NAMES)}", exit_code=USAGE)
    try:
        manifest = asyncio.run(build_tiny(default_base() / CACHE, Progress(), refresh=refresh))
        place = link(Path(manifest.disk).parent, directory)
    except ImageError as error:
        raise CliError(f"the image was not built: {error}", "gureum doctor") from error
    except OSError as error:
        raise CliError(f"the image could not be put below {directory}: {error.strerror}") from error
    return {"ImageId": image_id(manifest), "Name": manifest.name, "Directory": str(place)}


def link(image: Path, directory: Path) -> Path:
    """The image below `directory`, whole or not at all: by hard links, or copied to another disk."""
    place = directory / image.name
    make_directories(directory)
    if place.exists():
        sync(directory)  # it may be from a process that was killed before it did
        return place
    with tempfile.TemporaryDirectory(prefix=".linking-", dir=directory) as scratch:
        made = Path(scratch) / image.name
        shutil.copytree(image, made, copy_function=_link_or_copy)
        for path in (*made.rglob("*"), made):
            sync(path)
        with contextlib.suppress(FileExistsError):
            made.rename(place)
        sync(directory)
    return place


def _link_or_copy(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)


def wait_until_shown(cloud: Cloud, image: str) -> None:
    """Until the running cloud describes the image, so that the next command may use it. Raises CliError."""
    from gureum.cli import api

    wanted = {"Filters": [{"Name": "image-id", "Values": [image]}]}
    deadline = time.monotonic() + SHOWN_TIMEOUT_S
    while not api.call(cloud, "ec2", "describe_images", **wanted).get("Images"):
        if time.monotonic() > deadline:
            raise CliError(f"the cloud does not show {image} yet", "gureum logs manager")
        time.sleep(SHOWN_POLL_S)


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
