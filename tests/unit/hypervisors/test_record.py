from __future__ import annotations

import os
import resource
from pathlib import Path

import msgspec
import pytest

from gureum.errors import HypervisorError
from gureum.hostspec import MachineState
from gureum.hypervisors.qemu.record import (
    LOG_BYTES_KEPT,
    LOG_BYTES_MAX,
    Identity,
    MachineFiles,
    Saved,
    parse_stat,
    process_identity,
)

ID = "i-0123456789abcdef0"
SAVED = Saved(
    generation=3,
    machine_type="pc-q35-7.2",
    boot_id="boot",
    uid=0x7000_0000,
    vmgenid="guid",
    ended=MachineState.shutdown,
    message="why",
)


@pytest.fixture
def files(tmp_path: Path) -> MachineFiles:
    files = MachineFiles(tmp_path, ID)
    files.create()
    return files


@pytest.mark.parametrize("durable", [False, True])
def test_saved_and_loaded(files: MachineFiles, durable: bool) -> None:
    assert files.load() is None
    files.save(SAVED, durable)
    assert files.load() == SAVED
    assert files.directory.stat().st_mode & 0o777 == 0o700


def test_damaged_record_is_none(files: MachineFiles) -> None:
    files.record.write_bytes(b'{"generation": "x"')
    assert files.load() is None


def test_lock_is_the_processes(files: MachineFiles) -> None:
    lock = files.take_lock()
    assert lock is not None
    assert files.locked()
    assert files.take_lock() is None
    copy = os.dup(lock)
    os.close(lock)
    assert files.locked()
    os.close(copy)
    assert not files.locked()


@pytest.mark.parametrize("id", ["", "..", "i/../x", "I-1", "i-" + "0" * 80])
def test_only_ids_become_directories(tmp_path: Path, id: str) -> None:
    with pytest.raises(HypervisorError):
        MachineFiles(tmp_path, id)


def test_stat_line() -> None:
    line = "12 (a) b) S 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 4711 20"
    assert parse_stat(line) == Identity(12, 4711)
    assert parse_stat("") is None
    own = process_identity(os.getpid())
    assert own is not None
    assert own.pid == os.getpid()


def test_holder_is_who_wrote_itself(files: MachineFiles) -> None:
    assert files.holder() is None
    files.lock.write_text(Path("/proc/self/stat").read_text())
    assert files.holder() == process_identity(os.getpid())


def test_long_logs_keep_their_end(files: MachineFiles) -> None:
    files.console_log.write_bytes(b"x" * LOG_BYTES_MAX + b"end")
    files.trim_logs()
    kept = files.console_log.read_bytes()
    assert len(kept) == LOG_BYTES_KEPT
    assert kept.endswith(b"end")
    files.trim_logs()
    assert files.console_log.read_bytes() == kept


def test_the_console_goes_on_where_it_was(files: MachineFiles) -> None:
    assert files.console_tail(100) == b""
    files.console_log.write_bytes(b"here")
    for before in (b"nothing", b"there, "):
        files.prepend_console(before)
    assert files.console_tail(100) == b"there, here"
    assert files.console_tail(6) == b", here"
    assert files.console_tail(3) == b"ere"
    assert files.console_tail(0) == b""


def test_last_output(files: MachineFiles) -> None:
    assert files.last_output() == ""
    files.qemu_log.write_text("warning\nqemu-system-x86_64: cannot do that\n")
    assert files.last_output() == "cannot do that"


def test_removed(files: MachineFiles) -> None:
    files.save(SAVED)
    files.remove()
    assert not files.directory.exists()
    files.remove()


def test_whoever_holds_the_lock_cannot_write_who_it_is(files: MachineFiles) -> None:
    """QEMU has the descriptor to its end: what it wrote there would be believed, and that process ended."""
    lock = files.take_lock()
    assert lock is not None
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.write(lock, b"1 (init) S")
    os.close(lock)


def test_a_record_that_does_not_fit_on_the_disk_leaves_the_one_before(files: MachineFiles) -> None:
    """A damaged one would be taken for none, and its machine for a stray that is to be ended."""
    files.save(SAVED)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20, hard))
    try:
        with pytest.raises(OSError, match="File too large"):
            files.save(msgspec.structs.replace(SAVED, generation=4))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert files.load() == SAVED
    assert os.listdir(files.directory) == ["machine.json"]


@pytest.mark.parametrize("changed", [False, True])
def test_a_record_of_gureum_0_2_0(files: MachineFiles, changed: bool) -> None:
    """A guest that was started by it runs on."""
    old = {
        **msgspec.to_builtins(SAVED),
        "config": {
            "id": ID,
            "generation": 3,
            "vcpus": 1,
            "memory_bytes": 1 << 29,
            "disks": [{"volume": "vol-1", "index": 0, "source": {"layers": []}}],
            "nics": [{"interface": "eni-1", "mac": "02:00:00:00:00:01", "index": 0, "fd": -1}],
        },
        "volumes": ["vol-1", "vol-2"] if changed else None,
        "nics": None,
    }
    files.record.write_bytes(msgspec.json.encode(old))
    loaded = files.load()
    assert loaded is not None
    assert loaded.generation == 3
    assert loaded.volumes == (("vol-1", "vol-2") if changed else ("vol-1",))
    assert loaded.nics == ("eni-1",)
