from __future__ import annotations

from pathlib import Path

import pytest

from gureum.agent import here
from gureum.agent.agent import Identity
from gureum.cli.config import JoinedConfig, make_state_dir, new_config
from gureum.errors import ConfigError, NetworkError
from gureum.network import wireguard

IDENTITY = Identity(cloud="c", host="h", zone="", boot_id="b", cpus=1, memory_bytes=1)


@pytest.fixture
def state(tmp_path: Path) -> Path:
    made = tmp_path / "state"
    make_state_dir(made)
    new_config(made, tmp_path / "base").save(made)
    return made


def test_the_only_host_is_the_machine(state: Path) -> None:
    found = here.on_machine(state, None)
    assert (found.name, found.identity.host, found.identity.zone) == ("agent", "host-0", "")
    assert (found.directory, found.run, found.uplink) == (state, state / "run", "")
    assert found.identity.address == ""
    assert found.identity.memory_bytes == here.memory_bytes()


@pytest.mark.parametrize("number", [0, 1, -1])
def test_a_host_that_there_is_not(state: Path, number: int) -> None:
    with pytest.raises(ConfigError, match="has 1 hosts"):
        here.on_machine(state, number)


def test_directories_of_a_host_are_passable_only(tmp_path: Path) -> None:
    here.make_host_dir(tmp_path / "hosts" / "1")
    for path in ("hosts", "hosts/1", "hosts/1/run"):
        assert (tmp_path / path).stat().st_mode & 0o777 == 0o711


def test_an_uplink_needs_an_address(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    addresses = [
        {"family": "inet6", "scope": "global", "local": "fd00::1"},
        {"family": "inet", "scope": "link", "local": "169.254.1.1"},
    ]
    monkeypatch.setattr(here, "read_json", lambda *_: [{"addr_info": addresses, "mtu": 9000}])
    with pytest.raises(NetworkError, match="uplink eth0 has no IPv4 address"):
        here.with_uplink(IDENTITY, "eth0", tmp_path)
    addresses.append({"family": "inet", "scope": "global", "local": "192.0.2.1"})
    monkeypatch.setattr(wireguard, "public_key", lambda file: f"key in {file.name}")
    found = here.with_uplink(IDENTITY, "eth0", tmp_path)
    assert (found.address, found.uplink_mtu, found.wireguard_key) == (
        "192.0.2.1",
        9000,
        "key in wireguard.key",
    )


def test_a_joined_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(here, "with_uplink", lambda identity, uplink, run: identity)
    JoinedConfig(
        cloud="c", host="second", zone="zb", public_cidr="198.18.8.0/22", index=3, manager="192.0.2.1:4567",
        uplink="eth0", expires=2e9, renew_at=1e9,
    ).save(tmp_path)  # fmt: skip
    found = here.on_joined(tmp_path)
    assert (found.identity.host, found.identity.zone, found.joined) == ("second", "zb", True)
    assert (found.index, found.public_cidr, found.uplink) == (3, "198.18.8.0/22", "eth0")
