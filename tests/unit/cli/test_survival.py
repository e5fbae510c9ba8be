from typing import Any

import pytest

from gureum.cli.losses import line, lines
from gureum.cli.survival import tell

LOSS = {
    "HostId": "host-1",
    "Count": 7,
    "Homeless": [{"InstanceId": f"i-{n}", "InstanceType": "t3.nano"} for n in range(7)],
}


def domain(survivable: int, **values: Any) -> dict[str, Any]:
    return {
        "Zone": "us-east-1a",
        "Hosts": 3,
        "Survivable": survivable,
        "Holds": True,
        "Message": "if host host-1 was lost, i-1 (t3.nano) would find no room.",
        "Losses": [],
        "LossCount": 0,
        **values,
    }


def test_lines() -> None:
    assert line(domain(1), 0) == "zone us-east-1a: the loss of a host would be survived"
    assert line(domain(2), 1) == "zone us-east-1a: the loss of a host would be survived (2 at once)"
    everywhere = domain(2)
    del everywhere["Zone"]
    assert line(everywhere, 2) == "all zones: the loss of 2 hosts would be survived"
    why = "if host host-1 was lost, i-1 (t3.nano) would find no room"
    assert line(domain(0), 0) == f"zone us-east-1a: the loss of a host would not be survived: {why}"
    wanted = f"zone us-east-1a: the loss of 2 hosts would not be survived, as it is to be: {why}"
    assert lines({"Survive": 2, "Recovers": True, "Domains": [domain(1)]}) == [wanted]


def test_what_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    tell({"Survive": 1, "Recovers": True, "Domains": [domain(0, Losses=[LOSS], LossCount=3)]})
    first, _, third, last = capsys.readouterr().out.splitlines()
    assert first == "room is kept for the loss of a host in each zone"
    named = ", ".join(f"i-{n} (t3.nano)" for n in range(5))
    assert third == f"  host-1 lost: no room for {named} and 2 more"
    assert last == "  and 2 other hosts"
    tell({"Survive": 0, "Recovers": False, "Domains": []})
    assert "own disks" in capsys.readouterr().err
