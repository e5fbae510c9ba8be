import sys
from typing import Any

import pytest

from gureum.cli import main as main_module
from gureum.cli import survival
from gureum.cli.losses import line, lines
from gureum.cli.output import FAILED
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


class Api:
    """Answers, and what was asked."""

    def __init__(self) -> None:
        self.answers: dict[str, Any] = {}
        self.asked: list[tuple[str, dict[str, Any]]] = []

    def call(self, _: object, operation: str, **input: Any) -> Any:
        self.asked.append((operation, input))
        return self.answers.get(operation, {})


@pytest.fixture
def api(monkeypatch: pytest.MonkeyPatch) -> Api:
    fake = Api()
    monkeypatch.setattr(survival, "call", fake.call)
    return fake


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["gureum", "host", *arguments])
    return main_module.main()


def test_survive(api: Api, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    api.answers["describe_survival"] = {"Survive": 1, "Recovers": True, "Domains": [domain(1)]}
    assert run(monkeypatch, "survive", "1") == 0
    assert api.asked == [("modify_fleet_settings", {"Survive": 1}), ("describe_survival", {})]
    assert "would be survived" in capsys.readouterr().out
    api.answers["describe_survival"]["Domains"] = [domain(0, Holds=False)]
    assert run(monkeypatch, "survive", "--json") == FAILED
    assert '"Holds": false' in capsys.readouterr().out


def test_loss(api: Api, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    there = {"InstanceId": "i-1", "InstanceType": "t3.nano", "Outcome": "restarts", "HostId": "host-2"}
    waits = {"InstanceId": "i-2", "InstanceType": "t3.nano", "Outcome": "waits", "Message": "its disk"}
    api.answers["explain_host_loss"] = {"Instances": [there, waits]}
    assert run(monkeypatch, "loss", "host-1") == 0
    assert api.asked == [("explain_host_loss", {"HostId": "host-1"})]
    assert [line.split() for line in capsys.readouterr().out.splitlines()[1:]] == [
        ["i-1", "t3.nano", "starts", "there", "host-2"],
        ["i-2", "t3.nano", "waits", "-", "its", "disk"],
    ]
    api.answers["explain_host_loss"] = {"Instances": [{**waits, "Outcome": "no-room"}]}
    assert run(monkeypatch, "loss", "host-1", "--json") == FAILED
    api.answers["explain_host_loss"] = {"Instances": []}
    assert run(monkeypatch, "loss", "host-1") == 0
    assert "nothing runs on host-1" in capsys.readouterr().err


def test_capacity(api: Api, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    one = {"Zone": "us-east-1a", "InstanceType": "t3.nano", "Count": 3, "Message": "the hosts are full"}
    api.answers["describe_launch_capacity"] = {"Capacities": [one]}
    assert run(monkeypatch, "capacity", "--type", "t3.nano", "--zone", "us-east-1a", "--why") == 0
    assert api.asked[0][1] == {"InstanceTypes": ["t3.nano"], "Zone": "us-east-1a"}
    said = capsys.readouterr()
    assert said.out.splitlines()[1].split() == ["us-east-1a", "t3.nano", "3"]
    assert "us-east-1a, t3.nano: the hosts are full" in said.err
