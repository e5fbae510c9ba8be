import json
from dataclasses import replace
from pathlib import Path

import pytest

from gureum.errors import PoolError
from gureum.san.ceph.commands import Answer
from gureum.san.ceph.status import read, read_version
from gureum.san.settings import SanSettings

RECORDED = json.loads((Path(__file__).parent / "recorded.json").read_text())
DENIED = Answer(-13, "", "access denied")
SAN = SanSettings("ceph", Path("ceph.conf"), Path("keyring"))


def answers(name: str) -> list[Answer]:
    return [Answer(0, json.dumps(document), "") for document in RECORDED[name]]


def test_room_counts_one_copy() -> None:
    room = read(answers("well"), SAN).room
    assert (room.raw, room.raw_used) == (19327352832, 1655447552)
    assert room.used == 268435552
    assert room.usable == 268435552 + 5547539456
    assert (room.copies, room.copies_min) == (3, 2)


def test_osds() -> None:
    found = {osd.name: osd for osd in read(answers("osd down"), SAN).osds}
    assert [osd.is_up for osd in found.values()] == [True, False, True]
    assert all(osd.is_in for osd in found.values())
    assert found["osd.0"].size == 6 << 30
    assert found["osd.0"].device == "/var/lib/gureum/default/san/osd.0/block"


def test_a_user_without_the_right_to_see_disks_sees_the_rest() -> None:
    found = read([*answers("well")[:5], DENIED, DENIED], SAN)
    assert found.room.copies == 3
    assert [(osd.is_up, osd.size, osd.device) for osd in found.osds] == [(True, 0, "")] * 3


def test_a_pool_that_nobody_has_counted_yet() -> None:
    given = answers("well")
    given[2] = Answer(0, json.dumps({**RECORDED["well"][2], "pools": []}), "")
    room = read(given, SAN).room
    assert (room.usable, room.used, room.copies) == (0, 0, 3)


def test_each_pool_and_the_types_that_lead_to_it() -> None:
    given = answers("well")
    dump = RECORDED["well"][3]
    bulk = {**dump["pools"][0], "pool_name": "bulk", "size": 2}
    given[3] = Answer(0, json.dumps({**dump, "pools": [*dump["pools"], bulk]}), "")
    found = read(given, replace(SAN, further=("bulk",), types=(("sc1", "local"), ("st1", "bulk")))).pools
    assert [(each.name, each.room.copies) for each in found] == [("gureum", 3), ("bulk", 2)]
    assert [each.types for each in found] == [("gp3", "gp2", "io1", "io2", "standard"), ("st1",)]


def test_no_such_pool() -> None:
    with pytest.raises(PoolError, match="no pool 'elsewhere'"):
        read(answers("well"), SAN.of_pool("elsewhere"))


@pytest.mark.parametrize(
    ("texts", "wanted"),
    [
        (["ceph version 16.2.15 (618f) pacific (stable)"], "16.2.15"),
        (["ceph version 18.2.4 (x) reef (stable)", "ceph version 9.2.1 (x) infernalis (stable)"], "9.2.1"),
        (["ceph version 19.3.0-5-gabc (x) squid (dev)"], "19.3.0-5-gabc"),
        ([], "unknown"),
    ],
)
def test_the_version_is_the_oldest_daemon_s(texts: list[str], wanted: str) -> None:
    assert read_version({"overall": dict.fromkeys(texts, 1)}) == wanted
