import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gureum.san.ceph import osds
from gureum.san.ceph.cluster import ADDED, GONE, LEAVING, REPLACED, USED, Cluster, Disk, Record
from gureum.san.ceph.commands import Answer
from gureum.san.ceph.osds import Change, Means, Refused, changing, enough_without, is_whole

GIB = 1 << 30
RECORD = Record(fsid="1", mon_port=20500, osd_bytes=GIB)


def shown(number: int, *, up: int = 1, is_in: int = 1) -> dict[str, Any]:
    return {"osd": number, "up": up, "in": is_in, "uuid": ""}


class Ceph:
    """Answers of a cluster; ``says``: what is other than usual, by the command's name."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.osds: dict[int, dict[str, Any]] = {
            number: {"osd": number, "up": 1, "in": 1, "uuid": ""} for number in range(3)
        }
        self.says: dict[str, Callable[[dict[str, Any]], Any]] = {}

    def ask(self, _access: object, commands: list[dict[str, Any]], *_: float) -> list[Answer]:
        return [self.answer(command) for command in commands]

    def answer(self, command: dict[str, Any]) -> Answer:
        prefix = command["prefix"]
        self.asked.append(prefix)
        nodes = [
            {"id": each, "kb": GIB >> 10, "kb_used": 1024, "kb_used_data": 1024, "crush_weight": 1.0}
            for each in self.osds
        ]
        usual: dict[str, Any] = {
            "osd dump": {"osds": [*self.osds.values()]},
            "osd df": {"nodes": nodes},
            "df": {"pools": [{"stats": {"stored": 1 << 20}}]},
            "status": STATUS,
            "osd safe-to-destroy": {"safe_to_destroy": [int(command.get("ids", ["0"])[0])]},
        }
        found = self.says[prefix](command) if prefix in self.says else usual.get(prefix, "")
        return found if isinstance(found, Answer) else Answer(0, json.dumps(found), "")


def pgs(**states: int) -> list[dict[str, Any]]:
    return [{"state_name": name.replace("_", "+"), "count": count} for name, count in states.items()]


STATUS: dict[str, Any] = {"pgmap": {"num_pgs": 32, "pgs_by_state": pgs(active_clean=32)}}
STALE = pgs(active_clean=20, stale_active_clean=12)
DEGRADED: dict[str, Any] = {
    "pgmap": {"num_pgs": 32, "pgs_by_state": pgs(active_undersized_degraded=32), "degraded_objects": 9}
}


@pytest.fixture
def ceph(monkeypatch: pytest.MonkeyPatch) -> Ceph:
    made = Ceph()
    monkeypatch.setattr(osds, "ask", made.ask)
    monkeypatch.setattr("gureum.san.ceph.pools.ask", made.ask)
    for name in ("POLL_S", "STEADY_S", "BUSY_TIMEOUT_S"):
        monkeypatch.setattr(osds, name, 0.0)
    return made


@pytest.fixture
def cluster(tmp_path: Path) -> Cluster:
    made = Cluster(tmp_path)
    made.directory.mkdir()
    made.create(RECORD)
    return made


@pytest.fixture
def change(cluster: Cluster, ceph: Ceph) -> Change:
    return Change(cluster, Means(lambda: None, lambda _: None, lambda _: None))


@pytest.fixture
def brought_in(monkeypatch: pytest.MonkeyPatch) -> list[Disk]:
    """What was to be brought in; nothing is."""
    disks: list[Disk] = []

    def bring_in(_: Change, disk: Disk) -> Disk:
        disks.append(disk)
        return disk

    monkeypatch.setattr(Change, "_bring_in", bring_in)
    return disks


def half_made(cluster: Cluster, state: str = ADDED, *, is_made: bool = False) -> Disk:
    disk = Disk(number=3, bytes=GIB, uuid="u", state=state, is_made=is_made)
    cluster.keep(disk)
    return disk


def test_the_first_number_that_nobody_has(change: Change, ceph: Ceph, brought_in: list[Disk]) -> None:
    ceph.osds[3] = shown(3, up=0)
    made = change.add(GIB, "")
    assert (made.number, made.state, made.is_made, made.runs) == (4, ADDED, False, False)
    assert change.disk(4) == made == brought_in[0]


def test_an_interrupted_one_goes_on(change: Change, cluster: Cluster, brought_in: list[Disk]) -> None:
    begun = half_made(cluster)
    assert change.add(GIB, "") == begun
    with pytest.raises(Refused, match=r"osd\.3 on a file of 1\.0 GiB is half made"):
        change.add(2 * GIB, "")
    with pytest.raises(Refused, match=r"osd\.3 is being added"):
        change.replace(3, GIB, "")
    # Once it runs only copies are missing: another may come.
    half_made(cluster, is_made=True)
    assert change.add(2 * GIB, "").number == 4
    assert change.disk(3).state == USED
    assert len(brought_in) == 2


def test_a_disk_that_does_not_fit(change: Change) -> None:
    with pytest.raises(Refused, match="does not fit"):
        change.add(1 << 60, "")
    assert len(change.cluster.disks()) == 3


@pytest.mark.parametrize(
    ("up", "force", "status", "refused"),
    [
        (1, False, STATUS, "osd.1 runs"),
        (1, True, DEGRADED, "only copies"),
        (1, True, STATUS, ""),
        (0, False, DEGRADED, ""),
        (0, False, {"pgmap": {"num_pgs": 32, "pgs_by_state": pgs(down=1, active_clean=31)}}, "only copies"),
        (0, True, {"pgmap": {**DEGRADED["pgmap"], "unfound_objects": 1}}, "only copies"),
        # All OSDs of some groups went at once, and nobody is left to say how these are.
        (0, False, {"pgmap": {"num_pgs": 32, "pgs_by_state": STALE}}, "only copies"),
    ],
)
def test_what_may_be_replaced(
    change: Change, ceph: Ceph, brought_in: list[Disk], up: int, force: bool, status: object, refused: str
) -> None:
    ceph.osds[1]["up"] = up
    ceph.says["status"] = lambda _: status
    if refused:
        with pytest.raises(Refused, match=refused):
            change.replace(1, GIB, "", force=force)
        assert change.disk(1).state == USED
    else:
        change.replace(1, GIB, "", force=force)
        assert [(disk.state, disk.runs) for disk in brought_in] == [(REPLACED, False)]


def test_another_disk_after_one_that_did_not_do(change: Change, ceph: Ceph, brought_in: list[Disk]) -> None:
    ceph.osds[1]["up"] = 0
    first = change.replace(1, GIB, "")
    assert change.replace(1, GIB, "") == first
    second = change.replace(1, 0, "/dev/sdx")
    assert (second.device, second.uuid != first.uuid) == ("/dev/sdx", True)
    assert change.disk(1) == second


def test_three_copies_need_three(change: Change, ceph: Ceph) -> None:
    with pytest.raises(Refused, match=r"without osd\.1 there are 2"):
        change.remove(1)
    ceph.osds[3] = shown(3, is_in=0)  # one that is out holds nothing
    with pytest.raises(Refused, match=r"without osd\.1 there are 2"):
        change.remove(1)


@pytest.fixture
def four(ceph: Ceph, cluster: Cluster) -> None:
    ceph.osds[3] = shown(3)
    half_made(cluster, USED, is_made=True)


@pytest.mark.usefixtures("four")
def test_no_room_without_it(change: Change, ceph: Ceph) -> None:
    ceph.says["df"] = lambda _: {"pools": [{"stats": {"stored": GIB}}]}
    with pytest.raises(Refused, match="the other OSDs lack"):
        change.remove(1)


@pytest.mark.usefixtures("four")
def test_emptied_before_it_goes(change: Change, cluster: Cluster, ceph: Ceph) -> None:
    """Ceph says that it is safe while copies are still being read from it: that is not enough."""
    seen: list[str] = []
    statuses = iter([DEGRADED, DEGRADED, STATUS, STATUS])
    safe = iter([[], [1]])
    away = iter([Answer(-11, "", "the manager starts")])
    ceph.says["status"] = lambda _: next(away, None) or next(statuses)
    ceph.says["osd safe-to-destroy"] = lambda _: {"safe_to_destroy": next(safe)}

    def purge(_: object) -> str:
        seen.append(change.disk(1).state)
        del ceph.osds[1]
        return ""

    ceph.says["osd out"] = lambda _: seen.append(change.disk(1).state)
    ceph.says["osd purge"] = purge
    cluster.daemon_dir("osd.1").mkdir()
    change.remove(1)
    assert seen == [LEAVING, GONE]
    assert cluster.osds == ("osd.0", "osd.2", "osd.3")
    assert not cluster.daemon_dir("osd.1").exists()
    assert next(statuses, None) is None


@pytest.mark.usefixtures("four")
def test_no_answer_is_no_sign_of_being_empty(
    change: Change, ceph: Ceph, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It looked empty once, then nobody answered for longer than it has to look so."""
    now = 0.0

    def sleep(seconds: float) -> None:
        nonlocal now
        now += seconds

    monkeypatch.setattr(osds.time, "sleep", sleep)
    monkeypatch.setattr(osds.time, "monotonic", lambda: now)
    monkeypatch.setattr(osds, "POLL_S", 1.0)
    monkeypatch.setattr(osds, "STEADY_S", 4.0)
    answers = [STATUS, *([Answer(-110, "", "timed out")] * 9), DEGRADED]
    asked_at: list[float] = []

    def status(_: object) -> Any:
        asked_at.append(now)
        return answers.pop(0) if answers else STATUS

    ceph.says["status"] = status
    change.remove(1)
    assert not answers
    assert asked_at == [float(second) for second in range(16)]


@pytest.mark.parametrize("state", [ADDED, GONE])
def test_what_holds_nothing_just_goes(change: Change, cluster: Cluster, ceph: Ceph, state: str) -> None:
    half_made(cluster, state)
    change.remove(3)
    assert "osd out" not in ceph.asked
    assert [disk.number for disk in cluster.disks()] == [0, 1, 2]


@pytest.mark.usefixtures("four")
def test_kept_after_all(change: Change, cluster: Cluster, ceph: Ceph) -> None:
    half_made(cluster, LEAVING, is_made=True)
    change.keep(3)
    assert (change.disk(3).state, ceph.asked[-1]) == (USED, "osd in")
    half_made(cluster, GONE, is_made=True)
    with pytest.raises(Refused, match="too late"):
        change.keep(3)
    with pytest.raises(Refused, match=r"no osd\.7"):
        change.keep(7)


def test_one_change_at_a_time(cluster: Cluster) -> None:
    with changing(cluster), pytest.raises(Refused, match="another"), changing(cluster):
        pass
    with changing(cluster):
        pass


def test_whole() -> None:
    assert is_whole({"pgmap": {"pgs_by_state": pgs(active_clean=1, active_clean_scrubbing=1)}})
    assert not is_whole({"pgmap": {"pgs_by_state": []}})
    assert not is_whole({"pgmap": {"pgs_by_state": STALE}})
    assert not is_whole(DEGRADED)
    assert enough_without(DEGRADED, is_up=False)
