"""Which machines a host can have from another one."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from msgspec.structs import replace

from gureum.errors import HypervisorError
from gureum.hypervisors.base import Disk, MachineConfig, Nic
from gureum.hypervisors.qemu.installation import Installation
from gureum.hypervisors.qemu.layout import _size, require_fit
from gureum.migrationspec import MachineLayout
from gureum.san.base import FileDisk, Layer
from gureum.sizespec import MachineSize

DISK = Disk(volume="vol-1", index=0, source=FileDisk(layers=(Layer(path="/d", format="raw"),)))
NIC = Nic(interface="eni-1", mac="0a:00:00:00:00:01", index=0, fd=9)
CONFIG = MachineConfig(id="i-1", generation=2, vcpus=1, memory_bytes=1 << 28, disks=(DISK,), nics=(NIC,))
INSTALLED = Installation(
    binary="q", stamp="s", version="7.2", aliases={"q35": "pc-q35-7.2"}, types=("pc-q35-7.2", "microvm")
)
LAYOUT = MachineLayout(
    type="pc-q35-7.2",
    version="7.2",
    cpu="host",
    host_cpu="kvm a",
    disks={"vol-1": ("pcie.0", 8)},
    nics={"eni-1": ("pcie.0", 2)},
)


def test_the_same_machine_on_the_same_cpu_fits() -> None:
    require_fit(CONFIG, LAYOUT, INSTALLED, "kvm a")


def test_a_machine_with_a_model_fits_another_cpu_that_offers_it() -> None:
    layout = replace(LAYOUT, model="Nehalem", cpu="Nehalem,vendor=V,enforce")
    require_fit(CONFIG, layout, INSTALLED, "kvm b", {"Nehalem": "Nehalem,vendor=V,enforce"})
    for models in ({}, {"Nehalem": "Nehalem,vendor=W,enforce"}):
        with pytest.raises(HypervisorError, match=r"model Nehalem .* not offered here"):
            require_fit(CONFIG, layout, INSTALLED, "kvm b", models)
    with pytest.raises(HypervisorError, match="runs by kvm a, and guests here by tcg"):
        require_fit(CONFIG, layout, INSTALLED, "tcg", {"Nehalem": "Nehalem,vendor=V,enforce"})


@pytest.mark.parametrize(
    ("layout", "reason"),
    [
        (replace(LAYOUT, host_cpu="kvm b"), r"runs on a CPU \(kvm b\)"),
        (replace(LAYOUT, type="pc-q35-9.1", version="9.1"), "has no machine type pc-q35-9.1"),
        (replace(LAYOUT, type="microvm", version="9.1"), "a microvm of QEMU 9.1"),
        (replace(LAYOUT, disks={}), "only one of the two hosts knows of vol-1"),
        (replace(LAYOUT, nics={**LAYOUT.nics, "eni-2": ("nics", 1)}), "knows of eni-2"),
    ],
)
def test_others_do_not(layout: MachineLayout, reason: str) -> None:
    with pytest.raises(HypervisorError, match=reason):
        require_fit(CONFIG, layout, INSTALLED, "kvm a")


@pytest.mark.parametrize(("vcpus", "waits"), [(2, False), (3, True)])
async def test_a_machine_leaves_once_its_guest_has_given_up_its_vcpus(vcpus: int, waits: bool) -> None:
    """Also if it did so after it was asked for the last time."""

    async def look() -> None:
        return None

    size = MachineSize(vcpus=vcpus, memory_bytes=1, vcpus_max=4, memory_min_bytes=1, memory_max_bytes=1)
    live = SimpleNamespace(look=look, status=size, leaving=False)
    saved = SimpleNamespace(room=object(), leaving=2)
    machine: Any = SimpleNamespace(
        id="i-1", saved=saved, accelerator="tcg", resizing=SimpleNamespace(live=lambda: live)
    )
    if waits:
        with pytest.raises(HypervisorError, match="has not let go of a vCPU yet"):
            await _size(machine, INSTALLED)
    else:
        assert await _size(machine, INSTALLED) == size
