from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from gureum.errors import HypervisorError
from gureum.hypervisors.qemu import installation as module
from gureum.hypervisors.qemu.installation import Installation, inspect, parse_machines

HELP = """Supported machines are:
microvm              microvm (i386)
pc                   Standard PC (i440FX + PIIX, 1996) (alias of pc-i440fx-7.2)
q35                  Standard PC (Q35 + ICH9, 2009) (alias of pc-q35-7.2)
pc-q35-7.2           Standard PC (Q35 + ICH9, 2009)
pc-q35-7.1           Standard PC (Q35 + ICH9, 2009)
"""


@pytest.fixture
def installation() -> Installation:
    aliases, types = parse_machines(HELP)
    return Installation(binary="q", stamp="s", version="7.2", aliases=aliases, types=types)


def test_alias_becomes_a_version(installation: Installation) -> None:
    assert installation.resolve("q35") == "pc-q35-7.2"
    assert installation.resolve("microvm") == "microvm"


def test_a_machine_keeps_its_version(installation: Installation) -> None:
    assert installation.resolve("q35", "pc-q35-7.1") == "pc-q35-7.1"
    assert installation.resolve("q35", "pc-q35-2.0") == "pc-q35-7.2"
    assert installation.resolve("microvm", "pc-q35-7.1") == "microvm"


async def test_it_is_used_also_where_it_cannot_be_remembered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a full disk, on which machines must be found again all the same."""

    async def ask(_binary: str, *arguments: str) -> str:
        return HELP if "help" in arguments else "QEMU emulator version 7.2.0"

    def full(_path: Path, _data: bytes, **_options: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(module, "_ask", ask)
    monkeypatch.setattr(module, "find_binary", lambda: __file__)
    assert (await inspect(tmp_path / "qemu.json")).version == "7.2.0"
    assert os.listdir(tmp_path) == ["qemu.json"]
    (tmp_path / "qemu.json").unlink()
    monkeypatch.setattr(module, "write_atomically", full)
    assert (await inspect(tmp_path / "qemu.json")).version == "7.2.0"


def test_unknown_type(installation: Installation) -> None:
    with pytest.raises(HypervisorError, match="virt"):
        installation.resolve("virt")
