from __future__ import annotations

from ipaddress import IPv4Network
from pathlib import Path

import pytest

from gureum.env import Env
from gureum.errors import NetworkError
from gureum.hostspec import FlowLogSpec, NetworkSpec, PortSpec, SubnetSpec, VpcSpec
from gureum.network import flowlogs, flowsets
from gureum.network.flowlogs import Count, Flow, FlowLogs, Reading, lines
from gureum.network.plan import VpcPlan, make_plan
from gureum.services.ec2.flow_logs import DEFAULT_FORMAT, FIELDS


def log(**fields: object) -> FlowLogSpec:
    values = {"id": "fl-1", "account": "123", "ports": ("eni-1",), "traffic": "ALL", **fields}
    return FlowLogSpec(**{"interval_seconds": 60, **values})  # type: ignore[arg-type]


def plan(*logs: FlowLogSpec) -> VpcPlan:
    subnet = SubnetSpec(id="subnet-1", cidr="10.0.0.0/24")
    port = PortSpec(
        id="eni-1", instance="i-1", vpc="vpc-1", subnet="subnet-1", mac="06:00:00:00:00:01",
        private_ip="10.0.0.4",
    )  # fmt: skip
    vpc = VpcSpec(id="vpc-1", network_id=1, cidr="10.0.0.0/16", subnets=(subnet,))
    return make_plan(NetworkSpec(vpcs=(vpc,), ports=(port,), flow_logs=logs), IPv4Network("198.18.0.0/24"))[1]


def flow(accepted: bool = True, **fields: object) -> Flow:
    values = {
        "tap": plan().ports["eni-1"].tap, "egress": True, "accepted": accepted, "source": "10.0.0.4",
        "target": "10.0.0.9", "protocol": 6, "source_port": 4000, "target_port": 80,
    }  # fmt: skip
    return Flow(**{**values, **fields})  # type: ignore[arg-type]


def written(spec: FlowLogSpec, reading: Reading) -> list[str]:
    port = plan().ports["eni-1"]
    return list(lines(spec, "vpc-1", port, reading.flows.items(), port.tap in reading.skipped, (100, 160)))


def test_formats_are_those_of_the_api() -> None:
    assert flowlogs.DEFAULT_FORMAT == DEFAULT_FORMAT


def test_lines_in_the_default_format() -> None:
    reading = Reading({flow(): Count(3, 180, 2), flow(False, target_port=81): Count(1, 60)})
    assert written(log(), reading) == [
        "2 123 eni-1 10.0.0.4 10.0.0.9 4000 80 6 3 180 100 160 ACCEPT OK",
        "2 123 eni-1 10.0.0.4 10.0.0.9 4000 81 6 1 60 100 160 REJECT OK",
    ]
    assert [line.split()[12] for line in written(log(traffic="REJECT"), reading)] == ["REJECT"]


def test_idle_and_overfull_intervals() -> None:
    assert written(log(), Reading()) == ["2 123 eni-1 - - - - - - - 100 160 - NODATA"]
    reading = Reading({flow(): Count(1, 60)}, {flow().tap})
    assert [line.split()[-1] for line in written(log(), reading)] == ["OK", "SKIPDATA"]
    assert [line.split()[-1] for line in written(log(traffic="REJECT"), reading)] == ["SKIPDATA"]


def test_every_field_of_the_api_has_a_value_or_a_dash() -> None:
    names = sorted(FIELDS)
    text = " ".join(f"${{{name}}}" for name in names)
    spec = log(format=text, region="us-east-1", zone_ids={"eni-1": "use1-az2"})
    (line,) = written(spec, Reading({flow(source="fd00::4", target="fd00::9"): Count(1, 80, 18)}))
    found = dict(zip(names, line.split(" "), strict=True))
    assert "-" not in found.values()
    assert (found["region"], found["az-id"]) == ("us-east-1", "use1-az2")
    assert found["version"] == "5"
    assert (found["type"], found["tcp-flags"], found["flow-direction"]) == ("IPv6", "18", "egress")


def test_versions() -> None:
    assert written(log(format="${version} ${vpc-id}"), Reading()) == ["3 vpc-1"]


def test_sets_only_for_vpcs_with_logs() -> None:
    assert flowsets.sets(plan()) == {}
    assert flowsets.chains(plan(), 0) == {}
    assert flowsets.note_refused(plan(), "in") == ()
    with_log = plan(log())
    assert len(flowsets.sets(with_log)) == 1 + 2 * (24 + 1)
    assert all(value.size for key, value in flowsets.sets(with_log).items() if key != "logged")
    assert len(flowsets.sets(plan(log(format="${tcp-flags}")))) == 1 + 2 * (24 + 32 + 1)


def test_what_nft_shows_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    shown = {
        "log0_accept_in_ip_tcp": '"t1" . 10.0.0.9 . 10.0.0.4 . 80 . 4000 counter packets 2 bytes 120,\n'
        '"t1" . 10.0.0.8 . 10.0.0.4 . 80 . 4001 counter packets 1 bytes 60 }',
        "log0_accept_in_ip_synack": '"t1" . 10.0.0.9 . 10.0.0.4 . 80 . 4000 }',
        "log0_reject_out_ip6_plain": '"t1" . fd00::1 . fd00::2 . 58 counter packets 3 bytes 300 }',
        "log0_skipped": '"t1" counter packets 9 bytes 900 }',
    }

    def command(argv: list[str]) -> str:
        return "table inet gureum { type ifname; elements = { " + shown.get(argv[-1], "}")

    monkeypatch.setattr(flowlogs, "command", command)
    found = flowlogs.read(0, True)
    assert found.skipped == {"t1"}
    assert found.flows == {
        Flow("t1", False, True, "10.0.0.9", "10.0.0.4", 6, 80, 4000): Count(2, 120, 18),
        Flow("t1", False, True, "10.0.0.8", "10.0.0.4", 6, 80, 4001): Count(1, 60),
        Flow("t1", True, False, "fd00::1", "fd00::2", 58): Count(3, 300),
    }


async def test_files_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flowlogs, "FILE_BYTES_MAX", 200)

    async def take(_: int) -> Reading:
        return Reading()

    logs = FlowLogs(Env(), tmp_path / "logs", take)
    logs.cover([plan(log())])
    for _ in range(40):
        await logs.write(1)
    await logs.close()
    names = sorted(path.name for path in (tmp_path / "logs").iterdir())
    assert names == ["fl-1.log", "fl-1.log.1", "fl-1.log.2", "fl-1.log.3"]
    assert all(path.stat().st_size < 400 for path in (tmp_path / "logs").iterdir())


async def test_a_port_that_is_gone_is_written_about_once_more(tmp_path: Path) -> None:
    found = [Reading({flow(): Count(1, 60)}), Reading()]

    async def take(_: int) -> Reading:
        return found.pop(0)

    logs = FlowLogs(Env(), tmp_path, take)
    logs.cover([plan(log(), log(id="fl-2"))])
    logs.cover([plan(log())])
    await logs.write(1)
    assert " ACCEPT OK" in (tmp_path / "fl-2.log").read_text()
    await logs.write(1)
    await logs.close()
    assert len((tmp_path / "fl-2.log").read_text().splitlines()) == 1


async def test_a_vpc_that_cannot_be_read_is_no_end(tmp_path: Path) -> None:
    async def take(_: int) -> Reading:
        raise NetworkError("not now")

    logs = FlowLogs(Env(), tmp_path, take)
    logs.cover([plan(log())])
    await logs.write(1)
    await logs.close()
    assert list(tmp_path.iterdir()) == []
