from __future__ import annotations

from gureum.bench.disk_guest import Load
from gureum.bench.disk_io import DISK_BYTES, LOADS, MIB, RANDOM_STEP_BYTES, _figure

LOAD = Load("read", True, 4096, 16)


def test_every_load_is_measured_once() -> None:
    assert len({load.name for load in LOADS}) == len(LOADS) == 8
    assert LOAD.name == "4 KiB random read, depth 16"
    assert Load("write", False, MIB, 1).name == "1 MiB sequential write, depth 1"


def test_steps_do_not_come_back_soon() -> None:
    """Else the peer would read the same blocks again and again."""
    places = {number * RANDOM_STEP_BYTES % DISK_BYTES for number in range(10_000)}
    assert len(places) == 10_000


def test_nothing_is_promised_where_the_processor_is_the_limit() -> None:
    free = _figure("ceph", LOAD, [95.0], [100.0], {"guest": 0.3, "idle": 1e6})
    assert free.promise is not None
    assert free.is_met
    assert _figure("ceph", LOAD, [80.0], [100.0], {"guest": 0.3, "idle": 1e6}).is_met is False
    for used in ({"guest": 0.95, "idle": 1e6}, {"guest": 0.3, "idle": 0.0}):
        busy = _figure("ceph", LOAD, [50.0], [100.0], used)
        assert busy.promise is None
        assert "the processor is the limit" in busy.remark
