from typing import Any

from gureum.cli.balance import host_row, move_row, remarks, row


def found(**values: Any) -> dict[str, Any]:
    return {
        "BalanceMode": "recommend",
        "Rebalancing": False,
        "ImbalancePercent": 12.3,
        "HostLoads": [],
        "Recommendations": [],
        "HostsToEmpty": [],
        **values,
    }


def test_rows() -> None:
    host = {
        "HostId": "host-0",
        "Measured": True,
        "CpuPercent": 92.6,
        "MemoryPercent": 40.0,
        "CpuPressurePercent": 11.1,
        "MemoryPressurePercent": 0.0,
    }
    assert row(host) == ("host-0", "93 %", "40 %", "11 %", "0 %", "")
    assert row({**host, "HotSeconds": 90})[-1] == "hot for 90 s"
    assert row({**host, "HotSeconds": 90, "Reason": "nothing helps"})[-1] == "hot for 90 s; nothing helps"
    assert row({"HostId": "host-1", "Measured": False})[0] == "host-1"


def test_moves() -> None:
    move = {
        "InstanceId": "i-1",
        "SourceHostId": "host-0",
        "TargetHostId": "host-1",
        "CopyBytes": 4 << 30,
        "CopySeconds": 16.4,
        "PaysBackSeconds": 30,
        "Reason": "balancing",
    }
    assert move_row(move) == ("i-1", "host-0", "host-1", "4.0 GiB in 16 s", "after 30 s", "balancing")


def test_hosts_to_be_emptied() -> None:
    host = {
        "HostId": "host-0",
        "Reason": "the only instance there finds room on host-1",
        "CopyBytes": 4 << 30,
        "CopySeconds": 8.4,
        "PaysBackSeconds": 21,
    }
    shown = ("host-0", "4.0 GiB in 8 s", "after 21 s", "the only instance there finds room on host-1")
    assert host_row(host) == shown
    assert "--empty on" in remarks(found(HostsToEmpty=[host]))[-1]
    assert "--empty on" not in remarks(found(HostsToEmpty=[host]), empties=True)[-1]


def test_what_is_said_below() -> None:
    recommends = "mode recommend: it is only said what should move"
    assert remarks(found()) == [recommends, "nothing should move now"]
    busiest = "the busiest host's processors are 12 points above the mean of its zone"
    assert remarks(found(HostLoads=[{"Measured": True}]))[:2] == [recommends, busiest]
    assert remarks(found(BalanceMode="off")) == ["mode off: nothing is looked for that should move"]
    assert "--now" in remarks(found(Recommendations=[1]))[-1]
    assert len(remarks(found(Recommendations=[1], BalanceMode="automatic"))) == 1
    assert "being moved" in remarks(found(Recommendations=[1], Rebalancing=True))[-1]
    assert "host-9" in remarks(found(HeldBecause="host-9 was lost"))[-1]
