"""The agent and its host's warden: the manager's word is passed on, and no start without permission."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from gureum.agent import watched
from gureum.agent.warden import notes
from gureum.agent.warden.notes import STATE, WORD, Note
from gureum.fencespec import WardenReport
from gureum.hostspec import MachineState
from gureum.network.silence import Place
from gureum.san.settings import SanSettings
from gureum.transport.messages import Report, Word


async def next_report(link: Any) -> Any:
    async with asyncio.timeout(30):
        while not isinstance(message := await link.receive(), Report):
            pass
    return message.report


def test_a_word_counts_from_when_its_report_was_sent(parts: Any) -> None:
    async def test(lab: Any) -> None:
        lab.refuse = False
        await asyncio.sleep(3)
        link = lab.links[-1]
        report = await next_report(link)
        assert report.warden == WardenReport()
        at = lab.warden.now()
        await asyncio.sleep(5)
        await link.send(Word(report.sequence))
        await link.send(Word(report.sequence))  # a second time says nothing
        await link.send(Word(10**9))
        await asyncio.sleep(1)
        assert len(lab.warden.words) == 1
        assert lab.warden.words[0] <= at

    parts.on_lab(test, warden=True)


def test_a_word_counts_also_when_many_reports_went_by(parts: Any) -> None:
    async def test(lab: Any) -> None:
        lab.refuse = False
        await asyncio.sleep(3)
        link = lab.links[-1]
        report = await next_report(link)
        for _ in range(100):
            lab.agent._report_due.set()
            await next_report(link)
        await link.send(Word(report.sequence))
        await asyncio.sleep(1)
        assert len(lab.warden.words) == 1

    parts.on_lab(test, warden=True)


def test_a_host_with_a_warden_reports_every_second(parts: Any) -> None:
    async def test(lab: Any) -> None:
        lab.refuse = False
        await asyncio.sleep(3)
        link = lab.links[-1]
        first = await next_report(link)
        began = lab.warden.now()
        while (await next_report(link)).sequence < first.sequence + 55:
            pass
        assert 50 < lab.warden.now() - began < 60

    parts.on_lab(test, warden=True)


def test_no_machine_is_started_without_permission(parts: Any) -> None:
    async def test(lab: Any) -> None:
        lab.warden.permitted = False
        await lab.take(parts.machine(), parts.volume(machine="i-1"), seconds=30)
        assert lab.seen().state is MachineState.starting
        lab.warden.permitted = True
        await asyncio.sleep(5)
        assert lab.seen().state is MachineState.running

    parts.on_lab(test, warden=True)


@pytest.fixture
def shared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(notes, "DIRECTORY", str(tmp_path / "run"))
    return Path(notes.directory(str(tmp_path)))


def test_what_the_warden_says(shared: Path, tmp_path: Path) -> None:
    host = watched.HostWarden(tmp_path)
    assert host.report() == WardenReport(permitted=False, message=watched.ABSENT)
    state = Note(str(shared), STATE)
    state.write(until=host.now() + 100, fence=3, lease=host.now() + 2, why="", error="")
    assert host.report() == WardenReport(permitted=True, fence=3)
    state.write(until=host.now() + 100, fence=3, lease=host.now() + 1, why="", error="")
    assert host.report() == WardenReport(permitted=True, fence=3, away=True), "3 s after it was renewed"
    state.write(until=0.0, fence=3, lease=0.0, why="this host was given up", error="e")
    given_up = WardenReport(permitted=False, fence=3, away=True, message="this host was given up")
    assert host.report() == given_up
    # It died, or is held: what it said last ends.
    state.write(until=host.now() - 1, fence=3, lease=host.now() - 1, why="", error="")
    assert host.report() == WardenReport(permitted=False, fence=3, away=True, message=watched.ABSENT)
    host.heard(12.0)
    assert Note(str(shared), WORD).read()["sent"] == 12.0


def test_the_warden_is_told_where_it_is(tmp_path: Path) -> None:
    san = SanSettings(kind="ceph", conf=tmp_path / "ceph.conf", keyring=tmp_path / "keyring")
    path = tmp_path / notes.CONFIG
    place = Place("gureum_3_silence", "gu3-", "eth0", "198.18.12.0/22")
    for namespace in ("", "gh1-0"):
        watched.configure(tmp_path, tmp_path / "machines", san, "c", "host-1", namespace, place)
        before = path.stat().st_mtime_ns
        watched.configure(tmp_path, tmp_path / "machines", san, "c", "host-1", namespace, place)
        assert path.stat().st_mtime_ns == before
        found = json.loads(path.read_text())
        assert found["netns"] == namespace
        assert Place(**found["network"]) == place
