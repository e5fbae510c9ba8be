"""Guests that can be told to bring their file systems in order."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from gureum.env import Env
from gureum.hypervisors.qemu import guest_agent
from gureum.hypervisors.qemu.hypervisor import QemuHypervisor

from .guest import ID, GuestFiles, Shell, bare, booted, linux, shell

pytestmark = [pytest.mark.qemu, pytest.mark.root]


# Speaks just enough: one line a request, after a byte 0xff where the caller wants to be found again. A read
# ends at once while nobody is connected on the host's side.
AGENT = r"""
port=/dev/$(basename $(dirname $(grep -l guest_agent /sys/class/virtio-ports/*/name)))
exec 3<>$port
echo 0 >/frozen
while true; do
  IFS= read -r line <&3 || { sleep 0.1; continue; }
  case $line in
    *guest-sync-delimited*) printf '\377{"return": %s}\n' "$(echo "$line" | tr -cd 0-9)" >&3 ;;
    *guest-fsfreeze-freeze*) [ -e /slow ] && sleep 8; echo 1 >/frozen; echo freeze >>/log
                             printf '{"return": 1}\n' >&3 ;;
    *guest-fsfreeze-thaw*) echo 0 >/frozen; echo thaw >>/log; printf '{"return": 1}\n' >&3 ;;
  esac
done
"""


@pytest.fixture
async def agent(
    hypervisor: QemuHypervisor, guest_files: GuestFiles, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Shell]:
    """The shell of a guest with an agent, which has time: on a busy machine it is slow."""
    monkeypatch.setattr(guest_agent, "SYNC_SECONDS", 30.0)
    monkeypatch.setattr(guest_agent, "FREEZE_SECONDS", 30.0)
    await hypervisor.start(linux(guest_files, ID))
    await booted(hypervisor, ID)
    async with shell(hypervisor, ID) as guest:
        await guest.run(f"cat >/agent <<'END'\n{AGENT}\nEND")
        await guest.run("sh /agent >/dev/null 2>&1 &")
        await guest.run("while [ ! -e /frozen ]; do sleep 0.2; done")
        yield guest


async def log(guest: Shell) -> list[str]:
    return (await guest.run("touch /log; cat /log")).split()


async def test_no_agent(hypervisor: QemuHypervisor, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody waits for it."""
    monkeypatch.setattr(guest_agent, "SYNC_SECONDS", 3600.0)
    await hypervisor.start(bare(ID))
    async with asyncio.timeout(60):
        assert not await hypervisor.freeze(ID)
        await hypervisor.thaw(ID)
    assert not hypervisor._machines[ID].saved.frozen


async def test_freeze_and_thaw(hypervisor: QemuHypervisor, agent: Shell) -> None:
    assert await hypervisor.freeze(ID)
    assert await hypervisor.freeze(ID)
    assert await agent.run("cat /frozen") == "1"
    assert hypervisor._machines[ID].saved.frozen
    await hypervisor.thaw(ID)
    assert await agent.run("cat /frozen") == "1"  # another snapshot is being taken
    await hypervisor.thaw(ID)
    assert await log(agent) == ["freeze", "thaw"]
    assert not hypervisor._machines[ID].saved.frozen
    assert await hypervisor.freeze(ID)
    await hypervisor.thaw(ID)
    assert await log(agent) == ["freeze", "thaw"] * 2


async def test_thawed_in_time(
    hypervisor: QemuHypervisor, agent: Shell, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(guest_agent, "THAW_SECONDS", 0.5)
    assert await hypervisor.freeze(ID)
    async with asyncio.timeout(60):
        while hypervisor._machines[ID].saved.frozen:  # noqa: ASYNC110
            await asyncio.sleep(0.1)
    assert await log(agent) == ["freeze", "thaw"]
    await hypervisor.thaw(ID)
    assert await log(agent) == ["freeze", "thaw"]
    assert not hypervisor._machines[ID].saved.frozen


async def test_guest_that_takes_too_long_is_thawed(
    hypervisor: QemuHypervisor, agent: Shell, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(guest_agent, "FREEZE_SECONDS", 0.5)
    await agent.run("touch /slow")
    assert not await hypervisor.freeze(ID)
    async with asyncio.timeout(60):
        while hypervisor._machines[ID].saved.frozen:  # noqa: ASYNC110
            await asyncio.sleep(0.1)
    assert (await log(agent))[-1] == "thaw"
    assert await agent.run("cat /frozen") == "0"


class Crashed(Exception):
    pass


@pytest.mark.parametrize("point", ["qemu.freeze.noted", "qemu.freeze.done"])
async def test_thawed_after_its_agent_died(
    run_dir: Path, hypervisor: QemuHypervisor, agent: Shell, point: str
) -> None:
    """Of two processes of ours, one after the other."""

    def crash(name: str) -> None:
        if name == point:
            raise Crashed

    hypervisor._machines[ID].freezer._env = Env(crashpoint=crash)
    with pytest.raises(Crashed):
        await hypervisor.freeze(ID)
    await hypervisor.close()
    frozen = point == "qemu.freeze.done"
    assert await agent.run("cat /frozen") == str(int(frozen))
    again = QemuHypervisor(Env(), run_dir)
    await again.recover()
    try:
        async with asyncio.timeout(60):
            while again._machines[ID].saved.frozen:  # noqa: ASYNC110
                await asyncio.sleep(0.1)
        assert await agent.run("cat /frozen") == "0"
    finally:
        await again.close()
        await hypervisor.recover()
