import os
from pathlib import Path

import pytest

from gureum.bench import san_peer
from gureum.bench.disk_io import LOADS
from gureum.bench.servers import BenchError
from gureum.san.settings import SanSettings

RBD = """#!/bin/sh
echo "$@" >>{log}
case "$*" in
*" bench "*) {says} ;;
esac
"""


def fake_rbd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, says: str) -> Path:
    """Returns the log of what it was asked."""
    log = tmp_path / "asked"
    program = tmp_path / "rbd"
    program.write_text(RBD.format(log=log, says=says))
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    return log


SETTINGS = SanSettings("ceph", Path("/c"), Path("/k"))


def test_a_rate_for_each_load(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said = 'echo "elapsed: 1   ops:      300   ops/sec:  123.4  bytes/sec: 4.9 MiB/s"'
    log = fake_rbd(tmp_path, monkeypatch, said)
    found = san_peer.measure(SETTINGS, lambda _: None, quick=True)
    assert [figure.value for figure in found] == [123.4] * len(LOADS)
    asked = log.read_text().splitlines()
    assert " create " in asked[0]
    assert " rm " in asked[-1]
    assert all("--rbd-cache false" in line for line in asked[1:-1])


def test_what_is_said_is_no_rate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = fake_rbd(tmp_path, monkeypatch, "echo nothing")
    with pytest.raises(BenchError, match="said no rate"):
        san_peer.measure(SETTINGS, lambda _: None, quick=True)
    assert " rm " in log.read_text().splitlines()[-1]
