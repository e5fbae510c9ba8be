from __future__ import annotations

import base64
import shutil
from pathlib import Path

import pytest

from gureum.errors import NetworkError
from gureum.hostspec import PeerHostSpec
from gureum.network import wireguard
from gureum.network.hostfilter import host_table
from gureum.network.names import Names
from gureum.network.portplan import plan_host

KEY = base64.b64encode(bytes(range(32))).decode()


def test_the_key_is_made_once_and_only_its_owner_reads_it(tmp_path: Path) -> None:
    path = tmp_path / "wireguard.key"
    one = wireguard.configure([], path)
    assert wireguard.configure([], path) == one
    assert path.stat().st_mode & 0o777 == 0o600
    secret = base64.b64decode(path.read_text())
    # RFC 7748, 5: the bits that every X25519 key has.
    assert (len(secret), secret[0] & 7, secret[31] & 192) == (32, 0, 64)


def test_each_host_may_send_from_its_own_address_only(tmp_path: Path) -> None:
    hosts = [
        plan_host(PeerHostSpec(id=f"host-{n}", number=n, address=f"192.0.2.{n}", key=KEY), encrypted=True)
        for n in (30, 2)
    ]
    text = wireguard.configure(hosts, tmp_path / "key")
    assert text.split("[Peer]")[1:] == [
        f"\nPublicKey = {KEY}\nEndpoint = 192.0.2.2:51820\nAllowedIPs = fd67:75::2/128\n\n",
        f"\nPublicKey = {KEY}\nEndpoint = 192.0.2.30:51820\nAllowedIPs = fd67:75::1e/128\n",
    ]
    assert [host.address for host in hosts] == ["fd67:75::1e", "fd67:75::2"]


@pytest.mark.parametrize("key", ["", "short", KEY + "\n[Peer]", KEY[:-4] + "===="])
def test_a_host_without_a_key_is_not_sent_to(tmp_path: Path, key: str) -> None:
    host = plan_host(PeerHostSpec(id="host-2", number=2, address="192.0.2.2", key=key), encrypted=True)
    with pytest.raises(NetworkError, match="host-2 has no WireGuard key"):
        wireguard.configure([host], tmp_path / "key")


def test_nothing_is_taken_that_did_not_come_through_it() -> None:
    names = Names(3)
    plain = host_table(names, "cloud", (), "eth0", ["192.0.2.2"]).chains
    closed = host_table(names, "cloud", (), "eth0", ["192.0.2.2"], carrier="wg3").chains
    # What is not tracked passes before: these packets only.
    assert plain["arriving"].rules[0] == 'iif "eth0" udp dport 4789 ip saddr @peers notrack accept'
    assert closed["arriving"].rules[0] == 'iifname "wg3" udp dport 4789 notrack accept'
    assert plain["host"].rules[0] == 'ct state untracked iif "eth0" accept'
    assert closed["host"].rules[0] == 'ct state untracked iifname "wg3" accept'
    assert plain["host"].rules[1].startswith("udp dport 4789 ip saddr != @peers")
    assert closed["host"].rules[1].startswith('udp dport 4789 iifname != "wg3"')
    assert "4789" not in "".join(host_table(names, "cloud", ()).chains["host"].rules)


@pytest.mark.parametrize(
    ("kernel", "programs", "what"),
    [
        (True, ("wg",), "kernel"),
        (False, ("wg",), ""),
        (False, ("wg", "wireguard-go"), "wireguard-go"),
        (True, ("wireguard-go",), ""),
    ],
)
def test_what_encrypts(
    monkeypatch: pytest.MonkeyPatch, kernel: bool, programs: tuple[str, ...], what: str
) -> None:
    monkeypatch.setattr(wireguard, "in_kernel", lambda: kernel)
    monkeypatch.setattr(shutil, "which", lambda name: name if name in programs else None)
    assert wireguard.carrier() == what


def test_hosts_of_one_machine_have_devices_of_their_own() -> None:
    """The program's socket has the device's name, and all hosts of a machine have one directory for these."""
    assert len({Names(3, host=host).wireguard for host in range(3)}) == 3
    assert max(len(Names(63, host=host).wireguard) for host in (0, 16383)) <= 15
