"""The operator's commands."""

from __future__ import annotations

import asyncio
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


async def test_one_that_does_not_end_is_ended_with_all_that_it_began(tmp_path: Path) -> None:
    text = f"sleep 600 & echo $! >{tmp_path}/child; wait"
    assert await hook(tmp_path, text, seconds=2.0).run("host-1", "") == "it did not end in 2 s"
    child = Path(f"/proc/{(tmp_path / 'child').read_text().strip()}/stat")
    async with asyncio.timeout(60):
        while child.exists() and child.read_text().rpartition(")")[2].split()[0] != "Z":  # noqa: ASYNC110
            await asyncio.sleep(0.05)


async def test_without_a_command_it_is_said_where_it_is_looked_for(tmp_path: Path) -> None:
    absent = FileHook(tmp_path / "upgrade-host")
    assert f"there is no command {tmp_path}/upgrade-host" in absent.missing()
    assert "No such file" in await absent.run("host-1", "")
    assert NoHook().missing()
