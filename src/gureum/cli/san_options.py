"""What `--san`, `--san-size` and `--san-device` of `gureum up` say."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from gureum.cli.output import USAGE, CliError
from gureum.san.settings import DEFAULT_POOL, DEFAULT_USER

OSD_BYTES_MIN = 1 << 30
UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}


@dataclass(frozen=True)
class Choice:
    """``conf`` None with kind ceph: a cluster of the cloud's own. ``osd_bytes`` 0: nothing was said."""

    kind: str
    conf: Path | None = None
    pool: str = DEFAULT_POOL
    user: str = DEFAULT_USER
    osd_bytes: int = 0
    devices: tuple[str, ...] = ()


def parse(text: str | None, size: str | None, devices: Sequence[Path]) -> Choice | None:
    """None where nothing is chosen. Raises CliError."""
    if (size or devices) and text != "ceph":
        raise CliError("--san-size and --san-device belong to --san ceph", exit_code=USAGE)
    if size and devices:
        raise CliError("--san-device uses devices whole: no --san-size with it", exit_code=USAGE)
    if text is None:
        return None
    kind, colon, rest = text.partition(":")
    if kind not in ("local", "ceph") or (colon and (kind == "local" or not rest)):
        raise CliError(
            f"{text!r} is no storage",
            "choose from: local, ceph, ceph:CONF[,pool=NAME][,user=NAME]",
            exit_code=USAGE,
        )
    conf, *options = rest.split(",")
    named = dict(map(_option, options))
    return Choice(
        kind=kind,
        conf=Path(conf).expanduser().absolute() if conf else None,
        pool=named.get("pool", DEFAULT_POOL),
        user=named.get("user", DEFAULT_USER).removeprefix("client."),
        osd_bytes=parse_size(size) if size else 0,
        devices=tuple(str(path.absolute()) for path in devices),
    )


def _option(text: str) -> tuple[str, str]:
    name, _, value = text.partition("=")
    if name not in ("pool", "user") or not value:
        raise CliError(f"{text!r} is no option of --san", "pool=NAME or user=NAME", exit_code=USAGE)
    return name, value


def parse_size(text: str) -> int:
    """Bytes. Raises CliError for what is no size, or too small for an OSD."""
    found = re.fullmatch(r"(\d{1,15})\s*([KMGT]?)(iB|B)?", text.strip(), re.IGNORECASE)
    count = int(found[1]) * UNITS[found[2].upper()] if found else 0
    if count < OSD_BYTES_MIN:
        raise CliError(f"{text!r} is no size for an OSD", "at least 1G, as in --san-size 8G", exit_code=USAGE)
    return count
