from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from gureum.cli.host import labels_of, labels_set, row, seconds
from gureum.cli.output import USAGE, CliError


@pytest.mark.parametrize(
    ("text", "value"), [("90", 90), ("90s", 90), ("30m", 1800), ("1h", 3600), ("7d", 604800)]
)
def test_times(text: str, value: int) -> None:
    assert seconds(text) == value


@pytest.mark.parametrize("text", ["", "h", "1.5h", "-1h", "1w", "1h30m"])
def test_what_is_no_time(text: str) -> None:
    with pytest.raises(CliError) as caught:
        seconds(text)
    assert caught.value.exit_code == USAGE


def host(**values: Any) -> dict[str, Any]:
    return {
        "HostId": "host-0",
        "State": "up",
        "PowerState": "awake",
        "Draining": False,
        "Cpus": 2,
        "MemoryBytes": 1 << 30,
        "PoolFreeBytes": 1 << 30,
        "Capacity": {"FreeVcpus": 30, "FreeMemoryBytes": 1 << 29},
        "InstanceIds": ["i-1"],
        "VolumeIds": [],
        **values,
    }


def test_rows() -> None:
    assert row(host()) == (
        *("host-0", "up", "all", "-", 2, "1.0 GiB", 30, "512.0 MiB", "1.0 GiB", 1, 0, "-", ""),
    )
    assert row(host(Version="0.6.0"))[-2] == "0.6.0"
    assert row(host(Labels={"rack": "r1"}))[-1] == "rack=r1"
    expires = datetime.now(UTC) + timedelta(days=5, hours=1)
    certificate = {"Serial": "a", "Expires": expires, "Revoked": False}
    assert row(host(Draining=True, Certificate=certificate))[-1] == "draining, certificate for 5 days"
    assert row(host(Certificate={**certificate, "Revoked": True}))[1] == "revoked"
    assert row(host(NatGatewayIds=["nat-1", "nat-2"], Problems=["x"]))[-1] == "2 NAT gateways, 1 problem"


def test_labels() -> None:
    assert labels_of(["rack=r1", "note=a=b", "old-", "x="]) == (
        {"rack": "r1", "note": "a=b", "x": ""},
        ["old"],
    )
    for text in ("rack", "=r1", "-"):
        with pytest.raises(CliError) as caught:
            labels_of([text])
        assert caught.value.exit_code == USAGE


@pytest.mark.parametrize("texts", [["x=1", "x=2"], ["x=1", "x-"]])
def test_what_is_said_twice_of_a_label_is_refused(texts: list[str]) -> None:
    with pytest.raises(CliError) as caught:
        labels_of(texts)
    assert caught.value.exit_code == USAGE
    assert caught.value.message.startswith("x ")


def test_the_same_twice_is_no_contradiction() -> None:
    assert labels_of(["x=1", "x=1", "y-"]) == ({"x": "1"}, ["y"])


@pytest.mark.parametrize("text", ["foo", "foo-", "=1"])
def test_labels_that_are_asked_for_are_not_removed(text: str) -> None:
    with pytest.raises(CliError) as caught:
        labels_set([text])
    assert "removes" not in caught.value.next_step


def test_the_hint_for_a_time_is_of_no_option() -> None:
    with pytest.raises(CliError) as caught:
        seconds("1x")
    assert "--" not in caught.value.next_step
