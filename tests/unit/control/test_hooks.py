"""The operator's commands."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path

from gureum.control.hooks import SHOWN, FileHook, NoHook


def hook(tmp_path: Path, text: str, seconds: float = 60.0) -> FileHook:
    path = tmp_path / "upgrade-host"
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o700)
    return FileHook(path, seconds)


async def test_it_is_called_with_the_host_and_its_address(tmp_path: Path) -> None:
    command = hook(tmp_path, f'echo "$1 $2" >{tmp_path}/told')
    assert command.missing() == ""
    assert await command.run("host-1", "192.0.2.1") == ""
    assert (tmp_path / "told").read_text() == "host-1 192.0.2.1\n"


async def test_what_it_said_last_is_why_it_failed(tmp_path: Path) -> None:
    failed = await hook(tmp_path, "yes | head -c 200000; echo no room; exit 3").run("host-1", "")
    assert failed.startswith("it ended with 3: ")
    assert failed.endswith("no room")
    assert len(failed) < SHOWN + 50


async def test_one_that_does_not_end_is_given_up(tmp_path: Path) -> None:
    assert await hook(tmp_path, "sleep 600", seconds=0.5).run("host-1", "") == "it did not end in 0.5 s"


async def test_what_it_left_behind_is_not_waited_for(tmp_path: Path) -> None:
    """It has the command's output still."""
    pid = tmp_path / "pid"
    for code, said in ((0, ""), (3, "it ended with 3: no room")):
        command = hook(tmp_path, f"sleep 600 & echo $! >{pid}; echo no room; exit {code}")
        try:
            assert await command.run("host-1", "") == said
            assert lives(Path(f"/proc/{pid.read_text().strip()}/stat")), "it is not the command's own"
        finally:
            os.kill(int(pid.read_text()), signal.SIGKILL)


async def test_when_the_manager_ends_so_does_all_that_it_began(tmp_path: Path) -> None:
    pid = tmp_path / "pid"
    text = f"sleep 600 & echo $! >{pid}.new; mv {pid}.new {pid}; wait"
    running = asyncio.create_task(hook(tmp_path, text).run("host-1", ""))
    async with asyncio.timeout(60):
        while not pid.exists():
            assert not running.done(), running.result()
            await asyncio.sleep(0.05)
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    async with asyncio.timeout(60):
        while lives(Path(f"/proc/{pid.read_text().strip()}/stat")):  # noqa: ASYNC110
            await asyncio.sleep(0.05)


def lives(stat: Path) -> bool:
    try:
        return stat.read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


async def test_without_a_command_it_is_said_where_it_is_looked_for(tmp_path: Path) -> None:
    absent = FileHook(tmp_path / "upgrade-host")
    assert f"there is no command {tmp_path}/upgrade-host" in absent.missing()
    assert "No such file" in await absent.run("host-1", "")
    assert NoHook().missing()
