from __future__ import annotations

import pytest

from gureum.errors import HypervisorError
from gureum.hypervisors.qemu.installation import Installation, parse_machines

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


def test_unknown_type(installation: Installation) -> None:
    with pytest.raises(HypervisorError, match="virt"):
        installation.resolve("virt")
