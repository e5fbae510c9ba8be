from pathlib import Path

import pytest

from gureum.san.ceph.cluster import Cluster, Record
from gureum.san.ceph.configuration import clients_conf, daemons_conf, messenger_address, osd_memory

GIB = 1 << 30
MIB = 1 << 20
RECORD = Record(fsid="e2ebcf05-eedc-4b14-bd5a-01081fc63214", mon_port=20503, osd_bytes=8 * GIB)
CLUSTER = Cluster(Path("/state"))


def settings(text: str) -> dict[str, dict[str, str]]:
    sections: dict[str, dict[str, str]] = {}
    for line in text.splitlines():
        if line.startswith("["):
            section = sections.setdefault(line.strip("[]"), {})
        elif line:
            name, _, value = line.partition(" = ")
            assert name not in section
            section[name] = value
    return sections


def test_what_clients_read() -> None:
    text = clients_conf(CLUSTER, RECORD, "127.0.0.1")
    assert text.endswith("\n")
    found = settings(text)
    assert found["global"]["fsid"] == RECORD.fsid
    assert found["global"]["mon_host"] == "[v2:127.0.0.1:20503]"
    assert found["client"]["keyring"] == "/state/san/ceph.$name.keyring"
    assert "key =" not in text.replace("keyring =", "")


@pytest.mark.parametrize(("address", "mode"), [("127.0.0.1", "crc"), ("198.19.69.1", "secure")])
def test_off_loopback_everything_is_encrypted(address: str, mode: str) -> None:
    texts = [
        clients_conf(CLUSTER, RECORD, address),
        daemons_conf(CLUSTER, RECORD, 5, address, 8 * GIB, as_root=False),
    ]
    for text in texts:
        found = settings(text)["global"]
        modes = {name: value for name, value in found.items() if name.startswith("ms_") and "_mode" in name}
        assert set(modes.values()) == {mode}
        assert {"ms_client_mode", "ms_mon_client_mode"} <= modes.keys()
        assert found["ms_bind_msgr1"] == "false"
    links = ("cluster", "service", "client", "mon_cluster", "mon_service", "mon_client")
    assert set(modes) == {f"ms_{link}_mode" for link in links}


def test_the_daemons_stay_within_the_ports_of_their_cloud() -> None:
    found = settings(daemons_conf(CLUSTER, RECORD, 5, "127.0.0.1", 8 * GIB, as_root=False))["global"]
    assert (found["ms_bind_port_min"], found["ms_bind_port_max"]) == ("20510", "20599")
    assert found["public_addr"] == found["cluster_addr"] == "127.0.0.1"


@pytest.mark.parametrize("as_root", [False, True])
def test_who_the_daemons_run_as(as_root: bool) -> None:
    found = settings(daemons_conf(CLUSTER, RECORD, 5, "127.0.0.1", 8 * GIB, as_root=as_root))
    # Not for tools, which write where root may.
    assert "setuser" not in found["global"]
    for kind in ("mon", "mgr", "osd"):
        assert found[kind].get("setuser") == (None if as_root else "ceph")


def test_ipv6() -> None:
    assert messenger_address(RECORD, "fd00::1") == "v2:[fd00::1]:20503"
    found = settings(clients_conf(CLUSTER, RECORD, "fd00::1"))["global"]
    assert found["ms_bind_ipv6"] == "true"


@pytest.mark.parametrize(
    ("machine", "wanted"),
    [
        (2 * GIB, {"bluestore_cache_autotune": "false", "bluestore_cache_size": 64 * MIB}),
        (24 * GIB, {"bluestore_cache_autotune": "false", "bluestore_cache_size": 192 * MIB}),
        (64 * GIB, {"osd_memory_target": 2 * GIB}),
        (1024 * GIB, {"osd_memory_target": 4 * GIB}),
    ],
)
def test_memory_by_the_machine(machine: int, wanted: dict[str, object]) -> None:
    assert osd_memory(machine) == wanted


def test_osds_and_the_monitor_agree_on_how_long_one_may_hang() -> None:
    found = settings(daemons_conf(CLUSTER, RECORD, 5, "127.0.0.1", 8 * GIB, as_root=False))
    assert "osd_heartbeat_grace" in found["global"]
    assert not any("osd_heartbeat_grace" in found[section] for section in ("mon", "osd"))
