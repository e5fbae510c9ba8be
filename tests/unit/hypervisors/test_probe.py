from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from gureum.hypervisors.qemu import probe
from gureum.hypervisors.qemu.probe import ROM_BYTES, Verdict, probe_kvm, rom

pytestmark = pytest.mark.skipif(shutil.which("qemu-system-x86_64") is None, reason="needs QEMU")


def test_rom() -> None:
    assert len(rom()) == ROM_BYTES
    assert rom()[-16] == 0xEA


@pytest.mark.qemu
async def test_guest_runs_where_guests_run(tmp_path: Path) -> None:
    """TCG runs every guest; one that never ends is given up."""
    image = tmp_path / "rom"
    image.write_bytes(rom())
    assert (await probe.run(probe.find_binary(), "tcg", image, 20.0)).works
    image.write_bytes(b"\xeb\xfe" * (ROM_BYTES // 2))
    verdict = await probe.run(probe.find_binary(), "tcg", image, 0.5)
    assert verdict == Verdict(works=False, reason="a tiny guest did not end in 0.5 s")


async def test_verdict_is_remembered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runs: list[float] = []

    async def once(seconds: float) -> Verdict:
        runs.append(seconds)
        return Verdict(works=False, reason="told so")

    monkeypatch.setattr(probe, "_probe", once)
    first = await probe_kvm(tmp_path)
    assert await probe_kvm(tmp_path) == first == Verdict(works=False, reason="told so")
    assert len(runs) == 1
    monkeypatch.setattr(probe, "boot_id", lambda: "another boot")
    await probe_kvm(tmp_path)
    assert len(runs) == 2


async def test_no_device(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probe, "DEVICE", tmp_path / "kvm")
    verdict = await probe_kvm(tmp_path)
    assert not verdict.works
    assert "No such file" in verdict.reason
