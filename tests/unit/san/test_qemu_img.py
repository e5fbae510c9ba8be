from __future__ import annotations

import asyncio
import signal
import stat
from pathlib import Path

import pytest

from gureum.errors import PoolError, PoolFull
from gureum.san import qemu_img


@pytest.fixture
def script(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Let a shell script stand for qemu-img."""

    def install(text: str) -> None:
        path = tmp_path / "qemu-img"
        path.write_text(f"#!/bin/sh\n{text}\n")
        path.chmod(path.stat().st_mode | stat.S_IXUSR)
        monkeypatch.setitem(qemu_img.ENVIRONMENT, "PATH", f"{tmp_path}:/usr/bin:/bin")
        monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")

    return install


async def test_arguments_environment_and_limits(script, tmp_path, monkeypatch):
    monkeypatch.setenv("SECRET", "secret")
    out = tmp_path / "out"
    script(f'echo "$@" > {out}; env >> {out}; ulimit -v >> {out}; ulimit -c >> {out}')
    await qemu_img.run(("info", "a b"), 30)
    found = out.read_text()
    assert found.startswith("info a b\n")
    assert "SECRET" not in found
    assert found.endswith(f"{qemu_img.MEMORY_BYTES // 1024}\n0\n")


async def test_failure_says_what_was_said(script):
    script("echo 'qemu-img: it is broken' >&2; exit 3")
    with pytest.raises(PoolError, match="qemu-img resize: qemu-img: it is broken"):
        await qemu_img.run(("resize",), 30)


async def test_silent_failure(script):
    script("exit 3")
    with pytest.raises(PoolError, match="qemu-img resize: ended with 3"):
        await qemu_img.run(("resize",), 30)


async def test_full_disk(script):
    script("echo 'error while writing at byte 0: No space left on device' >&2; exit 1")
    with pytest.raises(PoolFull):
        await qemu_img.run(("rebase",), 30)


async def test_endless_output_is_cut(script):
    script("yes qemu-img: nonsense | head -c 1000000 >&2; exit 1")
    with pytest.raises(PoolError) as raised:
        await qemu_img.run(("rebase",), 30)
    assert len(str(raised.value)) < 2 * qemu_img.OUTPUT_BYTES


@pytest.mark.parametrize("how", ["timeout", "cancel"])
async def test_it_does_not_outlive_its_caller(script, monkeypatch, how):
    script("exec sleep 1000")
    spawn = asyncio.create_subprocess_exec
    processes: list[asyncio.subprocess.Process] = []
    started = asyncio.Event()

    async def recorded(*arguments: str, **options: object) -> asyncio.subprocess.Process:
        processes.append(await spawn(*arguments, **options))
        started.set()
        return processes[0]

    monkeypatch.setattr(asyncio, "create_subprocess_exec", recorded)
    task = asyncio.ensure_future(qemu_img.run(("rebase",), 0.2 if how == "timeout" else 60))
    await started.wait()
    if how == "cancel":
        task.cancel()
    with pytest.raises(PoolError if how == "timeout" else asyncio.CancelledError):
        await task
    assert processes[0].returncode == -signal.SIGKILL


async def test_missing_program(monkeypatch):
    monkeypatch.setattr(asyncio, "create_subprocess_exec", missing)
    with pytest.raises(PoolError, match="cannot be started"):
        await qemu_img.run(("info",), 30)


async def missing(*_: object, **__: object) -> None:
    raise FileNotFoundError("prlimit")
