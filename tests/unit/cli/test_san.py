import json
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace
from typer.testing import CliRunner

from gureum.cli import ceph
from gureum.cli.cloud import Cloud
from gureum.cli.main import app
from gureum.errors import PoolUnavailable
from gureum.san.ceph.health import ERROR, OK, WARN, Finding, Health, Recovery
from gureum.san.ceph.status import Osd, PoolRoom, Room, Status
from gureum.san.settings import SanSettings

GIB = 1 << 30
ROOM = Room(raw=18 * GIB, raw_used=3 * GIB, usable=5 * GIB, used=GIB, copies=3, copies_min=2)
OSDS = (
    Osd("osd.0", True, True, 6 * GIB, GIB, "machine", "/dev/vdb", 4711),
    Osd("osd.1", False, True, 6 * GIB, GIB),
)


def status(health: Health) -> Status:
    return Status("f-s-i-d", "16.2.15", "gureum", health, ROOM, OSDS)


def run(cloud: Cloud, *words: str) -> tuple[int, str]:
    result = CliRunner().invoke(app, ["san", "status", "--state-dir", str(cloud.state_dir), *words])
    return result.exit_code, result.stdout


def test_a_local_pool(cloud: Cloud) -> None:
    cloud.configure()
    layers = cloud.state_dir / "pool/layers"
    layers.mkdir(parents=True)
    (layers / "a").write_bytes(b"x" * 8192)
    (cloud.state_dir / "pool/records").mkdir()
    (cloud.state_dir / "pool/records/vol-1").touch()
    code, text = run(cloud, "--json")
    (pool,) = json.loads(text)["pools"]
    assert (code, pool["volumes"], pool["used"]) == (0, 1, 8192)
    code, text = run(cloud)
    assert str(cloud.state_dir / "pool") in text
    assert "8.0 KiB" in text


@pytest.fixture
def in_ceph(cloud: Cloud, tmp_path: Path) -> Cloud:
    cloud.configure()
    SanSettings("ceph", tmp_path / "ceph.conf", tmp_path / "keyring").save(cloud.state_dir)
    return cloud


@pytest.mark.parametrize(("severity", "code"), [(OK, 0), (WARN, 0), (ERROR, 1)])
def test_a_cluster(in_ceph: Cloud, monkeypatch: pytest.MonkeyPatch, severity: str, code: int) -> None:
    found = status(Health(severity))
    monkeypatch.setattr(ceph, "look", lambda _cloud, _settings: found)
    assert run(in_ceph)[0] == code
    seen, text = run(in_ceph, "--json")
    document = json.loads(text)
    assert (seen, document["health"]["status"], document["room"]["copies"]) == (code, severity, 3)
    assert document["osds"][0]["pid"] == 4711


def test_in_words() -> None:
    finding = Finding("OSD_DOWN", WARN, "osd.1 is down", "look at it")
    text = "\n".join(ceph.lines(status(Health(WARN, (finding,), Recovery(300, 0, 4 << 20, 185)))))
    assert "osd.1 is down  [OSD_DOWN]" in text
    assert "-> look at it" in text
    assert "300 copies of objects are missing; 4.0 MiB/s, about 3 min to go" in text
    assert "1.0 GiB of 5.0 GiB used (20 %)" in text
    assert "3 copies, writes need 2" in text
    assert "DOWN, in" in text
    idle = "\n".join(ceph.lines(status(Health(WARN, (), Recovery(300, 7, 0, None)))))
    assert "7 are to move; nothing is being copied now" in idle


def test_an_osd_of_which_the_cluster_does_not_say_how_large_it_is() -> None:
    table = ceph.osd_table(replace(status(Health(OK)), osds=(Osd("osd.2", True, True, 0, 0),)))
    assert table.splitlines()[-1].split() == ["osd.2", "up,", "in", "-", "-", "-", "-"]


def test_several_pools_in_words() -> None:
    bulk = replace(ROOM, used=2 * GIB, copies=2)
    rooms = (
        PoolRoom("gureum", ROOM, ("gp3", "gp2")),
        PoolRoom("bulk", bulk, ("st1",)),
        PoolRoom("old", ROOM),
    )
    lines = list(ceph.lines(replace(status(Health(OK)), pools=rooms)))
    assert lines[0].endswith("pools gureum bulk old")
    table = [" ".join(line.split()) for line in "\n".join(lines).splitlines()]
    assert "gureum 1.0 GiB 5.0 GiB 3 gp3 gp2" in table
    assert "bulk 2.0 GiB 5.0 GiB 2 st1" in table
    assert "old 1.0 GiB 5.0 GiB 3 -" in table


def test_one_that_does_not_answer(in_ceph: Cloud, monkeypatch: pytest.MonkeyPatch) -> None:
    def look(*_: object) -> Status:
        raise PoolUnavailable("no monitor answers")

    monkeypatch.setattr(ceph, "look", look)
    result = CliRunner().invoke(app, ["san", "status", "--state-dir", str(in_ceph.state_dir)])
    assert "no monitor answers" in str(result.exception)
    assert getattr(result.exception, "exit_code", None) == 4


SHARED = {"PoolName": "gureum", "HostId": "host-0", "Shared": True}
ORPHAN = {
    "FindingId": "delete_volume/vol-1",
    "ResourceId": "vol-1",
    "Problem": True,
    "Message": "vol-1 is in the pool, but no volume of the cloud",
    "Repair": "delete the volume",
}
LOST = {"ResourceId": "vol-2", "Problem": True, "Message": "vol-2 is lost"}
KEPT = {"Problem": False, "Message": "precious is not an image of the cloud's; kept"}


class Fleet:
    """Answers of the Fleet API; a page for each finding."""

    def __init__(self, *findings: dict[str, object]) -> None:
        self.findings = list(findings)
        self.repaired: list[str] = []

    def send(self, _client: None, operation: str, asked: dict[str, Any], _: Cloud) -> dict[str, Any]:
        if operation == "describe_pools":
            return {"Pools": [SHARED]}
        if operation == "check_pool":
            at = int(asked.get("NextToken", 0))
            more = {"NextToken": str(at + 1)} if at + 1 < len(self.findings) else {}
            return {"Findings": self.findings[at : at + 1], **more}
        self.repaired += asked["FindingIds"]
        return {"Repaired": [each for each in self.findings if each.get("FindingId") in asked["FindingIds"]]}


@pytest.mark.parametrize(
    ("findings", "words", "code", "repaired"),
    [
        ((), (), 0, []),
        ((KEPT,), (), 0, []),
        ((KEPT, ORPHAN), (), 1, []),
        ((KEPT, ORPHAN), ("--repair",), 0, ["delete_volume/vol-1"]),
        ((ORPHAN, LOST), ("--repair",), 1, ["delete_volume/vol-1"]),
    ],
)
def test_check(
    cloud: Cloud,
    monkeypatch: pytest.MonkeyPatch,
    findings: tuple[dict[str, object], ...],
    words: tuple[str, ...],
    code: int,
    repaired: list[str],
) -> None:
    fleet = Fleet(*findings)
    monkeypatch.setattr("gureum.cli.api.client", lambda *_: None)
    monkeypatch.setattr("gureum.cli.api._send", fleet.send)
    command = ["san", "check", "--state-dir", str(cloud.state_dir), *words]
    result = CliRunner().invoke(app, command)
    assert (result.exit_code, fleet.repaired) == (code, repaired)
    assert all(str(each["Message"]) in result.stdout for each in findings)
    found = json.loads(CliRunner().invoke(app, [*command, "--json"]).stdout)
    assert found["Clean"] is (code == 0)
    assert len(found["Findings"]) == len(findings)
