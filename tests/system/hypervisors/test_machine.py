from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path

import pytest
from msgspec.structs import replace

from gureum.cpus import LEVELS
from gureum.env import Env
from gureum.errors import HypervisorError
from gureum.hostspec import MachineState
from gureum.hypervisors import messages
from gureum.hypervisors.qemu import hypervisor as hypervisor_module
from gureum.hypervisors.qemu.cgroup import PARENT, ROOT
from gureum.hypervisors.qemu.hypervisor import FIRST_UID, QemuHypervisor
from gureum.hypervisors.qemu.process import marked_processes
from gureum.san.base import FileDisk, Layer

from .guest import ID, MIB, GuestFiles, bare, booted, disk, linux, raw_disk, shell, until, volume

pytestmark = [pytest.mark.qemu, pytest.mark.root]


def state(hypervisor: QemuHypervisor) -> MachineState:
    return hypervisor.machines()[ID].state


def pid_of(run_dir: Path) -> int:
    (identity,) = marked_processes(run_dir / "machines")
    return identity.pid


async def test_process_is_confined(hypervisor: QemuHypervisor, run_dir: Path, tmp_path: Path) -> None:
    """The process: own user, no capabilities, no new privileges, seccomp, own network, limits, no files but
    its own.
    """
    source = raw_disk(tmp_path / "root.raw", MIB)
    await hypervisor.start(bare(ID, disk(0, source)))
    pid = pid_of(run_dir)
    status = dict(
        line.split(":\t", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines() if ":\t" in line
    )
    uids = set(status["Uid"].split())
    assert len(uids) == 1
    assert int(uids.pop()) >= FIRST_UID
    assert status["Groups"].strip() == ""
    assert status["NoNewPrivs"] == "1"
    assert status["Seccomp"] == "2"
    assert {status[name] for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")} == {"0" * 16}
    for kind in ("net", "ipc", "uts"):
        assert os.readlink(f"/proc/{pid}/ns/{kind}") != os.readlink(f"/proc/self/ns/{kind}")
    assert Path(f"/proc/{pid}/oom_score_adj").read_text().strip() == "200"
    limits = Path(f"/proc/{pid}/limits").read_text()
    assert "Max core file size        0 " in limits
    assert f"{PARENT}/{ID}" in Path(f"/proc/{pid}/cgroup").read_text()
    assert os.getsid(pid) == pid
    (lock,) = [
        fd
        for fd in os.listdir(f"/proc/{pid}/fd")
        if os.readlink(f"/proc/{pid}/fd/{fd}") == str(run_dir / "machines" / ID / "lock")
    ]
    flags = Path(f"/proc/{pid}/fdinfo/{lock}").read_text().split("flags:")[1].split()[0]
    assert int(flags, 8) & os.O_ACCMODE == os.O_RDONLY
    open_files = {os.readlink(f"/proc/{pid}/fd/{fd}") for fd in os.listdir(f"/proc/{pid}/fd")}
    own = str(run_dir / "machines" / ID)
    allowed = ("socket:", "anon_inode:", "/dev/null", own, str(tmp_path / "root.raw"))
    assert [name for name in open_files if not name.startswith(allowed)] == []


async def test_removed_machine_leaves_nothing(hypervisor: QemuHypervisor, run_dir: Path) -> None:
    before = sorted(os.listdir("/proc/self/fd"))
    await hypervisor.start(bare(ID))
    await hypervisor.remove(ID)
    assert hypervisor.machines() == {}
    assert list((run_dir / "machines").iterdir()) == []
    assert marked_processes(run_dir / "machines") == {}
    assert list(ROOT.glob(f"**/{PARENT}/{ID}")) == []
    assert sorted(os.listdir("/proc/self/fd")) == before


async def test_linux_lives_through_power_and_agents(
    hypervisor: QemuHypervisor, run_dir: Path, guest_files: GuestFiles
) -> None:
    await hypervisor.start(linux(guest_files, ID))
    await booted(hypervisor, ID)
    async with shell(hypervisor, ID) as guest:
        uuid = await guest.run("cat /sys/class/dmi/id/product_uuid")
        assert uuid.startswith("ec2")
        assert await guest.run("cat /sys/class/dmi/id/product_serial") == uuid
        assert await guest.run("cat /sys/class/dmi/id/sys_vendor") == "Amazon EC2"
        assert await guest.run("cat /sys/class/dmi/id/board_asset_tag") == ID
        await guest.run("echo alive >/mark")

    # Another agent takes over: the guest does not notice.
    pid = pid_of(run_dir)
    await hypervisor.close()
    await hypervisor.recover()
    assert state(hypervisor) is MachineState.running
    assert pid_of(run_dir) == pid
    async with shell(hypervisor, ID) as guest:
        assert await guest.run("cat /mark") == "alive"

    # The guest's own shutdown is held, through an agent's end too, until a reboot goes on with it.
    await hypervisor.press_power_button(ID)
    await until(lambda: state(hypervisor) is MachineState.shutdown)
    assert hypervisor.machines()[ID].message == messages.GUEST_SHUT_DOWN
    await hypervisor.close()
    await hypervisor.recover()
    assert state(hypervisor) is MachineState.shutdown
    await hypervisor.reset(ID, 1)
    assert state(hypervisor) is MachineState.running
    assert hypervisor.machines()[ID].reboots == 1
    await booted(hypervisor, ID, times=2)

    # A panic ends it, with the reason.
    async with shell(hypervisor, ID) as guest:
        guest.send("echo c >/proc/sysrq-trigger")
        await until(lambda: state(hypervisor) is MachineState.crashed)
    assert hypervisor.machines()[ID].message == messages.GUEST_PANICKED
    assert b"guest is ready" in await hypervisor.console(ID, MIB)


async def test_microvm(hypervisor: QemuHypervisor, guest_files: GuestFiles, tmp_path: Path) -> None:
    root = raw_disk(tmp_path / "root.raw", 8 * MIB)
    await hypervisor.start(linux(guest_files, ID, disk(0, root), machine="microvm"))
    await booted(hypervisor, ID)
    async with shell(hypervisor, ID) as guest:
        assert await guest.run("cat /sys/block/vda/serial") == volume(0).replace("-", "")
    await hypervisor.press_power_button(ID)
    await until(lambda: state(hypervisor) is MachineState.shutdown)


async def test_a_level_of_cpu_boots(hypervisor: QemuHypervisor, guest_files: GuestFiles) -> None:
    """What the emulation claims to offer it has to have: a baseline is made from it."""
    level = [each for each in hypervisor.cpu_models if each in LEVELS][-1]
    await hypervisor.start(replace(linux(guest_files, ID), cpu=level))
    await booted(hypervisor, ID)
    async with shell(hypervisor, ID) as guest:
        assert "sse4_2" in await guest.run("grep -m1 flags /proc/cpuinfo")
    assert (await hypervisor.layout(ID)).model == level


async def test_killed_process_is_a_crash(hypervisor: QemuHypervisor, run_dir: Path) -> None:
    await hypervisor.start(bare(ID))
    os.kill(pid_of(run_dir), signal.SIGKILL)
    await until(lambda: state(hypervisor) is MachineState.crashed)
    assert hypervisor.machines()[ID].message == messages.killed_by("SIGKILL")
    await hypervisor.close()
    await hypervisor.recover()
    assert hypervisor.machines()[ID].message == messages.killed_by("SIGKILL")
    await hypervisor.start(bare(ID, generation=2))
    assert state(hypervisor) is MachineState.running


async def test_a_host_that_shuts_down_is_no_crash(hypervisor: QemuHypervisor, run_dir: Path) -> None:
    """Its init asks all processes to end, QEMU before the agent perhaps: what ran is to run again."""
    await hypervisor.start(bare(ID))
    os.kill(pid_of(run_dir), signal.SIGTERM)
    await until(lambda: state(hypervisor) is MachineState.off)
    assert hypervisor.machines()[ID].message == messages.HOST_STOPS
    await hypervisor.close()
    await hypervisor.recover()
    assert state(hypervisor) is MachineState.off
    await hypervisor.start(bare(ID))
    assert state(hypervisor) is MachineState.running


async def test_hanging_process_is_powered_off(hypervisor: QemuHypervisor, run_dir: Path) -> None:
    await hypervisor.start(bare(ID))
    pid = pid_of(run_dir)
    os.kill(pid, signal.SIGSTOP)
    await hypervisor.power_off(ID)
    assert state(hypervisor) is MachineState.off
    assert not Path(f"/proc/{pid}").exists()


async def test_hanging_process_is_recovered(
    hypervisor: QemuHypervisor, run_dir: Path, tmp_path: Path
) -> None:
    """It is taken over by its lock, with the disks that it had last, though it answers nothing."""
    await hypervisor.start(bare(ID, disk(0, raw_disk(tmp_path / "root.raw", MIB))))
    await hypervisor.attach_disk(ID, disk(1, raw_disk(tmp_path / "data.raw", MIB)))
    os.kill(pid_of(run_dir), signal.SIGSTOP)
    await hypervisor.close()
    await hypervisor.recover()
    assert state(hypervisor) is MachineState.running
    assert hypervisor.machines()[ID].disks == (volume(0), volume(1))
    os.kill(pid_of(run_dir), signal.SIGCONT)
    await until(lambda: _commands_work(hypervisor))
    assert hypervisor.machines()[ID].disks == (volume(0), volume(1))


async def test_a_process_that_is_held_while_it_starts_is_waited_for(
    hypervisor: QemuHypervisor, run_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hypervisor_module, "START_SECONDS", 6.0)
    start = asyncio.create_task(hypervisor.start(bare(ID)))
    while not marked_processes(run_dir / "machines"):  # noqa: ASYNC110  (there is nothing to wait for)
        await asyncio.sleep(0)
    pid = pid_of(run_dir)
    os.kill(pid, signal.SIGSTOP)
    await asyncio.sleep(8)
    assert not start.done()
    os.kill(pid, signal.SIGCONT)
    await start
    assert state(hypervisor) is MachineState.running
    assert pid_of(run_dir) == pid


def _commands_work(hypervisor: QemuHypervisor) -> bool:
    try:
        hypervisor._machines[ID].disks()
    except HypervisorError:
        return False
    return True


async def test_generations(hypervisor: QemuHypervisor, run_dir: Path) -> None:
    await hypervisor.start(bare(ID, generation=2))
    pid = pid_of(run_dir)
    await hypervisor.start(bare(ID, generation=2))
    assert pid_of(run_dir) == pid
    with pytest.raises(HypervisorError, match="older"):
        await hypervisor.start(bare(ID, generation=1))
    with pytest.raises(HypervisorError, match="still runs"):
        await hypervisor.start(bare(ID, generation=3))
    await hypervisor.power_off(ID)
    await hypervisor.start(bare(ID, generation=3))
    assert hypervisor.machines()[ID].generation == 3


async def test_second_agent_cannot_start_it_twice(hypervisor: QemuHypervisor, run_dir: Path) -> None:
    other = QemuHypervisor(Env(), run_dir)
    await other.recover()
    await hypervisor.start(bare(ID))
    with pytest.raises(HypervisorError, match="still runs"):
        await other.start(bare(ID, generation=2))
    await other.close()
    assert len(marked_processes(run_dir / "machines")) == 1


async def test_stray_process_is_ended(hypervisor: QemuHypervisor, run_dir: Path) -> None:
    await hypervisor.start(bare(ID))
    await hypervisor.close()
    for file in (run_dir / "machines" / ID).iterdir():
        file.unlink()
    (run_dir / "machines" / ID).rmdir()
    await hypervisor.recover()
    assert marked_processes(run_dir / "machines") == {}


async def test_failed_start_says_why(hypervisor: QemuHypervisor, tmp_path: Path) -> None:
    damaged = tmp_path / "damaged.qcow2"
    damaged.write_bytes(b"no qcow2 file")
    source = FileDisk(layers=(Layer(path=str(damaged), format="qcow2"),))
    with pytest.raises(HypervisorError, match="qcow2"):
        await hypervisor.start(bare(ID, disk(0, source)))
    assert state(hypervisor) is MachineState.crashed
    missing = FileDisk(layers=(Layer(path=str(tmp_path / "missing.raw"), format="raw"),))
    with pytest.raises(HypervisorError, match="missing"):
        await hypervisor.start(bare(ID, disk(0, missing), generation=2))
    assert state(hypervisor) is MachineState.crashed


async def test_ten_at_once(hypervisor: QemuHypervisor, run_dir: Path) -> None:
    ids = [f"i-{number:x}{ID[3:]}" for number in range(10)]
    await asyncio.gather(*(hypervisor.start(bare(id)) for id in ids))
    assert {status.state for status in hypervisor.machines().values()} == {MachineState.running}
    assert len(marked_processes(run_dir / "machines")) == 10


async def test_console_log_is_bounded(hypervisor: QemuHypervisor, run_dir: Path) -> None:
    await hypervisor.start(bare(ID))
    log = run_dir / "machines" / ID / "console.log"
    log.write_bytes(log.read_bytes() + b"x" * 3 * MIB + b"the end")
    hypervisor._machines[ID].files.trim_logs()
    assert log.stat().st_size < MIB
    assert (await hypervisor.console(ID, 7)) == b"the end"


async def test_host_restart_is_told(hypervisor: QemuHypervisor, run_dir: Path) -> None:
    await hypervisor.start(bare(ID))
    pid = pid_of(run_dir)
    await hypervisor.close()
    record = run_dir / "machines" / ID / "machine.json"
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    record.write_text(record.read_text().replace(boot, "another-boot"))
    os.kill(pid, signal.SIGKILL)
    await asyncio.to_thread(os.waitpid, pid, 0)
    await hypervisor.recover()
    assert state(hypervisor) is MachineState.off
    assert hypervisor.machines()[ID].message == messages.HOST_RESTARTED


async def test_deep_run_directory(tmp_path: Path) -> None:
    """Longer than a UNIX socket's address."""
    hypervisor = QemuHypervisor(Env(), tmp_path / ("deep" * 20) / ("deeper" * 10))
    await hypervisor.recover()
    await hypervisor.start(bare(ID))
    assert state(hypervisor) is MachineState.running
    await hypervisor.remove(ID)
    await hypervisor.close()
