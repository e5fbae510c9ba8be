"""What a guest sees of this host's CPU where the model is "host": it can go to hosts with the same only."""

from __future__ import annotations

import hashlib
from pathlib import Path

CPUINFO = Path("/proc/cpuinfo")
FIRST_BYTES = 16384
FIELDS = ("vendor_id", "cpu family", "model", "stepping", "flags")


def fields(cpuinfo: str) -> dict[str, str]:
    """Of the first CPU in the text of /proc/cpuinfo."""
    first = cpuinfo.partition("\n\n")[0]
    return {
        key.strip(): value.strip() for key, _, value in (each.partition(":") for each in first.split("\n"))
    }


def signature(cpuinfo: str) -> str:
    """Of the first CPU: its name, and a digest of all that differs."""
    found = fields(cpuinfo)
    flags = " ".join(sorted(found.get("flags", "").split()))
    digest = hashlib.sha256("\n".join([*(found.get(each, "") for each in FIELDS[:-1]), flags]).encode())
    return f"{found.get('model name', 'unknown')} {digest.hexdigest()[:12]}"


def host_cpu() -> str:
    return signature(_first())


def vendor() -> str:
    return fields(_first()).get("vendor_id", "")


def _first() -> str:
    """What is said of the first CPU, and perhaps of some more: to tell of all takes the kernel long."""
    with CPUINFO.open(errors="replace") as file:
        return file.read(FIRST_BYTES)
