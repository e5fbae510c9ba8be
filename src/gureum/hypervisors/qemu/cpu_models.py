"""Which CPU models a QEMU can give its guests on this host: asked once in a boot, and remembered."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Mapping
from pathlib import Path

import msgspec

from gureum.cpus import LEVEL, LEVELS, MODELS, NAMED
from gureum.errors import HypervisorError
from gureum.hypervisors.qemu.installation import Installation, remember
from gureum.hypervisors.qemu.live_nodes import item, items
from gureum.hypervisors.qemu.record import boot_id

log = logging.getLogger(__name__)

ASK_SECONDS = 20.0
LEFT_OUT = "svm"
"""What no level has, though qemu64 does: few hosts let their guests have guests."""
BEST = {"kvm": "host", "tcg": "max"}
"""The model with all that there can be, by accelerator."""


class Offered(msgspec.Struct, frozen=True, kw_only=True):
    """``key``: of what this is true, a QEMU on a CPU."""

    key: str
    models: tuple[str, ...]


def argument(model: str, vendor: str) -> str:
    """QEMU's -cpu for a model. ``vendor``: whose CPU the guest sees, "" for the model's own."""
    flags = [f"+{each}" for each in LEVELS.get(model, ())]
    base = [LEVEL, f"-{LEFT_OUT}"] if model in LEVELS else [NAMED[model]]
    maker = [f"vendor={vendor}"] if vendor else []
    return ",".join([*base, *flags, *maker, "enforce"])


async def inspect(cache: Path, installation: Installation, accelerator: str, cpu: str) -> tuple[str, ...]:
    """Those of ``MODELS`` that are offered here. ``cpu``: the host's. Raises HypervisorError if QEMU does
    not say.
    """
    key = f"{boot_id()} {installation.stamp} {accelerator} {cpu}"
    try:
        known = msgspec.json.decode(cache.read_bytes(), type=Offered)
        if known.key == key:
            return known.models
    except (OSError, msgspec.MsgspecError):
        log.debug("no usable %s", cache)
    models = offered(*await _ask(installation.binary, accelerator))
    remember(cache, Offered(key=key, models=models))
    return models


def offered(definitions: object, features: Mapping[str, object]) -> tuple[str, ...]:
    """From the answers to query-cpu-definitions, and to query-cpu-model-expansion of the best model."""
    missing = {str(each.get("name")): each.get("unavailable-features") for each in items(definitions)}
    found = {name for name, versioned in NAMED.items() if missing.get(versioned) == []}
    lacks = missing.get(LEVEL)
    if isinstance(lacks, list) and not set(lacks) - {LEFT_OUT}:
        found |= {
            level for level, flags in LEVELS.items() if all(features.get(flag) is True for flag in flags)
        }
    return tuple(model for model in MODELS if model in found)


async def _ask(binary: str, accelerator: str) -> tuple[object, Mapping[str, object]]:
    best = {"type": "full", "model": {"name": BEST[accelerator]}}
    commands: list[dict[str, object]] = [
        {"execute": "qmp_capabilities"},
        {"execute": "query-cpu-definitions", "id": "definitions"},
        {"execute": "query-cpu-model-expansion", "arguments": best, "id": "best"},
        {"execute": "quit"},
    ]
    process = await asyncio.create_subprocess_exec(
        *(binary, "-machine", "none", "-accel", accelerator, "-nodefaults", "-no-user-config"),
        *("-display", "none", "-S", "-qmp", "stdio"),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
    )
    try:
        async with asyncio.timeout(ASK_SECONDS):
            said, _ = await process.communicate("\n".join(map(json.dumps, commands)).encode() + b"\n")
    except TimeoutError:
        process.kill()
        await process.wait()
        raise HypervisorError(f"{binary} does not answer in {ASK_SECONDS:g} s") from None
    answers: dict[str, object] = {}
    for line in said.splitlines():
        try:
            answer = msgspec.json.decode(line, type=dict[str, object])
        except msgspec.MsgspecError:
            continue
        if "id" in answer and "return" in answer:
            answers[str(answer["id"])] = answer["return"]
    if len(answers) < 2:
        raise HypervisorError(f"{binary} did not say it")
    return answers["definitions"], item(item(item(answers["best"]).get("model")).get("props"))
