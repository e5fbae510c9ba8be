from __future__ import annotations

import msgspec

from gureum.hostspec import HostReport, HostSpec, MachineReport, MachineState, SnapshotSpec, VolumeSpec


def test_documents_survive_the_wire_and_defaults_cost_nothing() -> None:
    spec = HostSpec(
        cloud="c",
        host="h",
        revision=7,
        volumes=(VolumeSpec(id="vol-1", size_bytes=1, present=False),),
        snapshots=(SnapshotSpec(id="snap-1", volume="vol-1", made=True),),
    )
    data = msgspec.msgpack.encode(spec)
    assert msgspec.msgpack.decode(data, type=HostSpec) == spec
    assert msgspec.msgpack.decode(data)["volumes"] == [{"id": "vol-1", "size_bytes": 1, "present": False}]


def test_data_is_present_unless_a_word_says_otherwise() -> None:
    spec = msgspec.convert(
        {"cloud": "c", "host": "h", "revision": 1, "volumes": [{"id": "vol-1", "size_bytes": 1}]}, HostSpec
    )
    assert spec.volumes[0].present


def test_a_report_of_nothing_agrees_with_no_spec() -> None:
    machine = MachineReport(id="i-1", generation=1, state=MachineState.off)
    report = HostReport(cloud="c", host="h", boot_id="b", revision=0, machines=(machine,))
    assert report.machines[0].revision == 0


def test_what_a_newer_version_adds_is_passed_over() -> None:
    known = {"cloud": "c", "host": "h", "revision": 1, "of_tomorrow": True}
    assert msgspec.convert(known, HostSpec) == HostSpec(cloud="c", host="h", revision=1)
