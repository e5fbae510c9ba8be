"""Which CPU models a host offers, by what QEMU says of them."""

from __future__ import annotations

import shutil
from itertools import pairwise
from pathlib import Path

import pytest

from gureum.cpus import LEVELS, MODELS, NAMED, common_level
from gureum.env import Env
from gureum.errors import HypervisorError
from gureum.hypervisors.qemu import cpu_models, hypervisor
from gureum.hypervisors.qemu.cpu_models import argument, offered
from gureum.hypervisors.qemu.installation import Installation, inspect

SOME: dict[str, object] = dict.fromkeys(LEVELS["x86-64-v2"], True)


def definition(name: str, *missing: str) -> dict[str, object]:
    return {"name": name, "unavailable-features": list(missing)}


def test_a_level_takes_all_of_its_features() -> None:
    definitions = [definition("qemu64-v1", "svm"), definition("Nehalem-v1"), definition("EPYC-v1", "avx")]
    assert offered(definitions, SOME) == ("x86-64-v1", "x86-64-v2", "Nehalem")
    assert offered(definitions, {**SOME, "popcnt": False}) == ("x86-64-v1", "Nehalem")
    assert offered([definition("qemu64-v1", "lm")], SOME) == ()
    assert offered([{"name": "qemu64-v1"}], SOME) == ()


def test_what_qemu_is_told() -> None:
    """The maker has to be the same wherever the guest goes, and nothing is left out in silence."""
    assert argument("EPYC", "AuthenticAMD") == "EPYC-v1,vendor=AuthenticAMD,enforce"
    assert argument("x86-64-v1", "") == "qemu64-v1,-svm,enforce"
    assert argument("x86-64-v2", "").startswith("qemu64-v1,-svm,+ssse3,")


def test_each_level_has_what_the_lower_ones_have() -> None:
    for low, high in pairwise(LEVELS.values()):
        assert set(low) < set(high)


def test_what_hosts_have_in_common() -> None:
    assert common_level([]) == common_level([()]) == ""
    assert common_level([("x86-64-v1", "x86-64-v2"), (), ("x86-64-v1", "EPYC")]) == "x86-64-v1"
    assert common_level([MODELS, MODELS]) == "x86-64-v4"
    assert common_level([MODELS, ("EPYC",)]) == ""


class Packages:
    """The QEMU that is installed, and what it says of itself."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.stamp = "first"
        self.cpu = "some"
        self.boot = "boot-1"
        self.offers: tuple[str, ...] | None = ("Nehalem",)
        """None: it does not say."""
        self.asked = 0
        monkeypatch.setattr(hypervisor, "inspect", self.inspect)
        monkeypatch.setattr(hypervisor, "host_cpu", lambda: self.cpu)
        monkeypatch.setattr(cpu_models, "_ask", self.ask)
        monkeypatch.setattr(cpu_models, "boot_id", lambda: self.boot)

    async def inspect(self, _cache: Path) -> Installation:
        return Installation(binary="q", stamp=self.stamp, version="7.2", aliases={}, types=())

    async def ask(self, _binary: str, _accelerator: str) -> tuple[object, dict[str, object]]:
        self.asked += 1
        if self.offers is None:
            raise HypervisorError("it did not say it")
        return [definition(NAMED[each]) for each in self.offers], {}


async def test_an_upgrade_is_seen_without_a_new_agent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    packages = Packages(monkeypatch)
    found = hypervisor.QemuHypervisor(Env(), tmp_path, "kvm")
    await found._look_at_qemu()
    assert found.cpu_models == ("Nehalem",)
    packages.offers = ("Nehalem", "SandyBridge")
    await found._look_at_qemu()
    assert packages.asked == 1
    packages.stamp = "second"
    await found._look_at_qemu()
    assert found.cpu_models == ("Nehalem", "SandyBridge")
    packages.cpu, packages.offers = "some, with less", None
    await found._look_at_qemu()
    assert found.cpu == "kvm some, with less"
    assert found.cpu_models == ("Nehalem", "SandyBridge"), "it is not known, and asked again"
    packages.offers = ()
    await found._look_at_qemu()
    assert found.cpu_models == ()


async def test_what_was_remembered_is_of_this_boot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel decides, too, which features guests get."""
    packages = Packages(monkeypatch)
    for boot, asked in (("boot-1", 1), ("boot-1", 1), ("boot-2", 2)):
        packages.boot = boot
        await hypervisor.QemuHypervisor(Env(), tmp_path, "tcg")._look_at_qemu()
        assert packages.asked == asked


async def test_a_qemu_that_says_nothing_offers_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Packages(monkeypatch).offers = None
    found = hypervisor.QemuHypervisor(Env(), tmp_path, "tcg")
    await found._look_at_qemu()
    assert found.cpu_models == ()
    assert not (tmp_path / "cpus.json").exists()


@pytest.mark.skipif(shutil.which("qemu-system-x86_64") is None, reason="needs qemu-system-x86_64")
async def test_this_qemu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    installed = await inspect(tmp_path / "qemu.json")
    found = await cpu_models.inspect(tmp_path / "cpus.json", installed, "tcg", "tcg")
    assert {"x86-64-v1", "x86-64-v2", "Nehalem"} <= set(found)
    assert "Icelake-Server-noTSX" not in found

    async def asked(_binary: str, _accelerator: str) -> object:
        raise AssertionError("it was remembered")

    monkeypatch.setattr(cpu_models, "_ask", asked)
    assert await cpu_models.inspect(tmp_path / "cpus.json", installed, "tcg", "tcg") == found
