"""Guests do not reach the storage cluster, also where the host would forward to it: real packets."""

from __future__ import annotations

import socket

import pytest

from .conftest import SERVER, Rig, _listen, port, run, spec

pytestmark = pytest.mark.root

MON = 3300
OSD = "203.0.113.77"


async def test_guests_find_nothing_where_the_storage_is(rig: Rig) -> None:
    public = port(5, public=True)
    await rig.network.apply(spec(public))
    guest = await rig.guest(public)
    with rig.internet(lambda: _listen(MON, socket.SOCK_STREAM)):
        assert await rig.call(guest.reaches, SERVER, MON)  # as to any machine of the host's network

        await rig.network.deny_storage(frozenset({SERVER, "fd00:3300::1"}))
        assert not await rig.call(guest.reaches, SERVER, MON)
        run("busybox", "nc", "-w", "3", SERVER, str(MON), "-e", "true")  # the host does

        await rig.network.apply(spec(public, port(6)))  # a new spec keeps it
        assert not await rig.call(guest.reaches, SERVER, MON)

        await rig.network.deny_storage(frozenset({OSD}))  # it has moved
        assert await rig.call(guest.reaches, SERVER, MON)


async def test_a_filter_that_is_made_anew_denies_it_too(rig: Rig) -> None:
    await rig.network.deny_storage(frozenset({SERVER}))  # before there was any spec
    public = port(5, public=True)
    await rig.network.apply(spec(public))
    guest = await rig.guest(public)
    with rig.internet(lambda: _listen(MON, socket.SOCK_STREAM)):
        assert not await rig.call(guest.reaches, SERVER, MON)


async def test_a_flow_that_is_there_ends_too(rig: Rig) -> None:
    public = port(5, public=True)
    await rig.network.apply(spec(public))
    guest = await rig.guest(public)
    with rig.internet(lambda: _listen(MON, socket.SOCK_STREAM)) as server:
        client = await rig.call(guest.connect, SERVER, MON)
        assert client is not None
        with client, server.accept()[0] as far:
            far.settimeout(1.5)
            for word in (b"one", b"two"):  # the second may go by what is known of the flow
                client.send(word)
                assert await rig.call(far.recv, 3) == word
            await rig.network.deny_storage(frozenset({SERVER}))
            client.send(b"end")
            with pytest.raises(TimeoutError):
                await rig.call(far.recv, 3)
