import contextlib
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from typer.testing import CliRunner

from gureum.cli import ceph, processes, san_osd, storage
from gureum.cli.cloud import Cloud
from gureum.cli.main import app
from gureum.cli.output import CliError
from gureum.cli.processes import Identity
from gureum.errors import PoolUnavailable
from gureum.san.ceph.cluster import ADDED, LEAVING, REPLACED, Cluster, Disk, Record
from gureum.san.ceph.health import OK, WARN, Finding, Health, Recovery
from gureum.san.ceph.osds import Refused
from gureum.san.ceph.status import Osd, Room, Status

GIB = 1 << 30
LOG = """2026-01-01 7f -1 bdev(0x1 /osd.2/block) _aio_thread got r=-28 ((28) No space left on device)
2026-01-01 7f -1 bdev(0x1 /osd.2/block) _aio_thread got r=-5 ((5) Input/output error)
2026-01-01 7f -1 osd.2 5 set_numa_affinity unable to identify: (2) No such file or directory
"""
ROOM = Room(raw=1, raw_used=1, usable=1, used=1, copies=3, copies_min=2)


@pytest.fixture
def cluster(cloud: Cloud) -> Cluster:
    cloud.configure()
    made = Cluster(cloud.state_dir)
    made.settings().save(cloud.state_dir)
    made.create(Record(fsid="1", mon_port=20000, osd_bytes=2 * GIB))
    return made


@pytest.mark.parametrize(
    ("device", "size", "before", "wanted"),
    [
        (None, None, None, (2 * GIB, "")),
        (None, "4G", None, (4 * GIB, "")),
        (None, None, Disk(number=0, bytes=3 * GIB), (3 * GIB, "")),
        ("/dev/sdx", None, Disk(number=0, bytes=3 * GIB), (0, "/dev/sdx")),
        (None, "4G", Disk(number=0, device="/dev/sdx"), (4 * GIB, "")),
        (None, None, Disk(number=0, device="/dev/sdx"), (0, "/dev/sdx")),
    ],
)
def test_the_disk_that_is_meant(
    cluster: Cluster,
    monkeypatch: pytest.MonkeyPatch,
    device: str | None,
    size: str | None,
    before: Disk | None,
    wanted: tuple[int, str],
) -> None:
    monkeypatch.setattr(storage, "check_device", lambda _path, _labels: None)
    assert san_osd.chosen(cluster, Path(device) if device else None, size, before) == wanted


def test_disks_that_cannot_be_meant(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storage, "check_device", lambda _path, _labels: None)
    cluster.keep(Disk(number=0, device="/dev/sda"))
    with pytest.raises(CliError, match=r"/dev/sda is that of osd\.0"):
        san_osd.chosen(cluster, Path("/dev/sda"), None, None)
    with pytest.raises(CliError, match="no --size with it"):
        san_osd.chosen(cluster, Path("/dev/sda"), "4G", None)
    for number in (1, 2):
        cluster.keep(Disk(number=number, device=f"/dev/sd{number}"))
    with pytest.raises(CliError) as caught:
        san_osd.chosen(cluster, None, None, None)
    assert "--device" in caught.value.next_step


def test_what_is_half_made_is_meant_again(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    looked: list[set[str]] = []
    monkeypatch.setattr(storage, "check_device", lambda _path, labels: looked.append({*labels}))
    cluster.keep(Disk(number=3, device="/dev/sdx", uuid="u", state=ADDED, is_made=False))
    assert san_osd.chosen(cluster, None, None, None) == (0, "/dev/sdx")
    assert looked == [{"u"}]


def test_numbers() -> None:
    assert (san_osd.read_number("7"), san_osd.read_number("osd.7")) == (7, 7)
    for wrong in ("", "osd", "-1", "osd.x", "99999"):
        with pytest.raises(CliError, match="is no OSD"):
            san_osd.read_number(wrong)


def test_errors_say_what_to_do() -> None:
    for error, step, code in (
        (Refused("no", "this helps"), "this helps", 1),
        (PoolUnavailable("away"), "the same command goes on", 4),
        (OSError(5, "Input/output error"), "the same command goes on", 1),
    ):
        with pytest.raises(CliError) as caught, san_osd.told():
            raise error
        assert step in caught.value.next_step
        assert caught.value.exit_code == code


def run(cloud: Cloud, *words: str) -> Any:
    return CliRunner().invoke(app, ["san", "osd", *words, "--state-dir", str(cloud.state_dir)])


def test_only_of_a_cluster_of_its_own(cloud: Cloud) -> None:
    cloud.configure()
    assert "no storage cluster of its own" in str(run(cloud, "list").exception)


def test_only_of_one_that_runs(cloud: Cloud, cluster: Cluster) -> None:
    refused = run(cloud, "add").exception
    assert (str(refused), getattr(refused, "exit_code", 0)) == ("the cloud is not running", 4)


def test_list(cloud: Cloud, cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    osds = (Osd("osd.0", True, True, 2 * GIB, GIB), Osd("osd.1", False, True, 2 * GIB, GIB))
    found = Status("f-s-i-d", "16.2.15", "gureum", Health(WARN), ROOM, osds)
    monkeypatch.setattr(ceph, "look", lambda _cloud, _settings: found)
    cluster.keep(Disk(number=1, bytes=2 * GIB, state=LEAVING))
    said = run(cloud, "list")
    assert "DOWN, in" in said.stdout
    assert "osd.1 is being removed" in said.stderr
    assert [each["change"] for each in json.loads(run(cloud, "list", "--json").stdout)["osds"]] == [
        "",
        LEAVING,
    ]


def test_the_status_says_what_to_type(cluster: Cluster) -> None:
    logs = cluster.state_dir
    down = ceph.own_words(logs, Finding("OSD_DOWN", WARN, "osd.2 is down"))
    assert "gureum logs osd.2" in down.todo
    assert "gureum san osd replace 2" in down.todo
    other = Finding("MON_CLOCK_SKEW", WARN, "text", "as it was")
    assert ceph.own_words(logs, other) == other
    (logs / "osd.2.log").write_text(LOG)
    down = ceph.own_words(logs, Finding("OSD_DOWN", WARN, "osd.2 is down"))
    assert down.text == "osd.2 is down (its disk: Input/output error)"
    cluster.keep(Disk(number=2, state=REPLACED, is_made=False))
    [finding] = ceph.half_done(cluster)
    assert (finding.text, finding.todo.endswith("gureum san osd replace 2 goes on")) == (
        "osd.2 is being replaced",
        True,
    )


def test_what_this_machine_knows_besides(
    cloud: Cloud, cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = Status("f-s-i-d", "16.2.15", "gureum", Health(OK), ROOM, (Osd("osd.0", True, True, GIB, 1),))
    running = {"osd.0": Identity(4711, 0, "")}
    monkeypatch.setattr(Cloud, "running_daemons", lambda _: running)
    said = ceph.with_machine(cloud, cluster, found)
    assert said.osds[0].pid == 4711
    assert [(each.code, each.severity) for each in said.health.findings] == [("MGR_DOWN", WARN)]
    assert "gureum logs mgr.x" in said.health.findings[0].todo
    assert said.health.status == WARN
    running["mgr.x"] = Identity(4712, 0, "")
    assert ceph.with_machine(cloud, cluster, found).health == found.health


def test_progress_is_not_said_too_often(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    now = 100.0
    monkeypatch.setattr("time.monotonic", lambda: now)
    tell = san_osd.teller()
    for missing, seconds in ((9, 0.0), (8, 1.0), (7, 5.0), (7, 20.0)):
        now = 100.0 + seconds
        tell(Recovery(missing, 0, 0, None))
    said = capsys.readouterr().err.splitlines()
    assert [line.split()[0] for line in said] == ["9", "7"]


def test_one_that_was_started_again_meanwhile_is_ended_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The supervisor starts it between the look and the moment when it is told not to."""
    running: dict[str, Identity] = {"osd.0": Identity(1, 0, "")}
    stopped: list[Identity] = []

    def told(*_: object) -> bool:
        running["osd.3"] = Identity(4711, 0, "")
        (tmp_path / "run/daemons").unlink()
        return True

    monkeypatch.setattr(processes, "send", told)
    monkeypatch.setattr(processes, "stop", lambda which, _: stopped.extend(which))
    (tmp_path / "run").mkdir()
    cloud: Any = SimpleNamespace(
        state_dir=tmp_path,
        daemons=("osd.0",),
        transition=contextlib.nullcontext,
        running_daemons=lambda: dict(running),
        supervisor=lambda: Identity(2, 0, ""),
    )
    san_osd.supervise(cloud)
    assert stopped == [Identity(4711, 0, "")]
