"""A VPC on several hosts: real packets between namespaces that are hosts."""

from __future__ import annotations

import shutil
import socket

import msgspec
import pytest

from gureum.errors import NetworkError
from gureum.hostspec import (
    AddressSpec,
)
from gureum.network import wireguard
from gureum.network.namespaces import visit

from .conftest import INDEX, SERVER, _connect, _listen, port
from .hosts import Site

pytestmark = pytest.mark.root


async def test_neighbours_on_two_hosts(site: Site) -> None:
    one, two = site.place(port(5), 1), site.place(port(6), 2)
    await site.apply()
    a, b = await site.guest(one), await site.guest(two)
    with b.listen(80):
        assert a.reaches(b.ip, 80)
    assert b.pings(a.ip)


async def test_vxlan_comes_from_known_hosts_only(site: Site) -> None:
    one, two = site.place(port(5), 1), site.place(port(6), 2)
    await site.apply()
    a, b = await site.guest(one), await site.guest(two)
    with a.listen(80):
        assert b.reaches(a.ip, 80)
        only = msgspec.structs.replace(site.spec(1), hosts=site.spec(1).hosts[2:])
        # The host is not told of the sender any more, but still has its port.
        await site.hosts[0].network.apply(only)
        assert not b.reaches(a.ip, 80)
        await site.apply()
        assert b.reaches(a.ip, 80)


async def test_secondary_addresses_have_their_own_public_ones(site: Site) -> None:
    second = AddressSpec(private_ip="172.31.0.77", public_ip=f"198.18.{4 * INDEX}.77")
    one = msgspec.structs.replace(port(5, public=True), secondary=(second,))
    site.place(one, 1)
    site.place(port(6), 2)
    await site.apply()
    a, b = await site.guest(one), await site.guest(port(6))
    a.run("ip", "address", "add", "172.31.0.77/20", "dev", "eth0")
    with a.listen(80) as listener:
        assert b.reaches("172.31.0.77", 80)
        listener.accept()[0].close()
        found = site.lan(lambda: _connect(second.public_ip, 80, 2))
        assert found is not None
        with found, listener.accept()[0] as accepted:
            assert accepted.getsockname()[0] == second.private_ip
    with site.lan(lambda: _listen(81, socket.SOCK_STREAM)) as world:

        def from_second() -> socket.socket:
            return socket.create_connection((SERVER, 81), 2, source_address=(second.private_ip, 0))

        with visit(a.namespace, from_second), world.accept()[0] as accepted:
            assert accepted.getpeername()[0] == second.public_ip


@pytest.mark.parametrize("lacks", ["a program", "keys"])
async def test_where_encryption_cannot_be_nothing_is_sent_in_the_clear(
    site: Site, monkeypatch: pytest.MonkeyPatch, lacks: str
) -> None:
    why = "has no WireGuard key"
    if lacks == "a program":
        if wireguard.in_kernel():
            pytest.skip("this kernel has WireGuard")
        monkeypatch.setattr(shutil, "which", lambda name: None)
        why = "kernel has no WireGuard"
    elif not wireguard.carrier():
        pytest.skip("nothing encrypts here")
    one, two = site.place(port(5), 1), site.place(port(6), 2)
    await site.apply()
    a, b = await site.guest(one), await site.guest(two)
    with b.listen(80):
        assert a.reaches(b.ip, 80)
        encrypted = msgspec.structs.replace(site.spec(1), encrypted=True)
        for _ in range(2):
            with pytest.raises(NetworkError, match=why):
                await site.hosts[0].network.apply(encrypted)
            assert not a.reaches(b.ip, 80)
        await site.apply()
        assert a.reaches(b.ip, 80)
