from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import pytest

from gureum.errors import ConfigError, TransportError
from gureum.transport import tls
from gureum.transport.link import StreamLink
from gureum.transport.messages import Call
from gureum.transport.tls import Address, Peer

GREETING = Call(id=1, method="hello")


async def serve(link: StreamLink, peer: Peer | None) -> None:
    await link.send(GREETING)
    await link.receive()


@pytest.fixture
async def address(authority_dir: Path) -> AsyncIterator[Address]:
    server = await tls.listen(Address("127.0.0.1", 0), tls.manager_context(authority_dir), serve)
    yield Address("127.0.0.1", server.sockets[0].getsockname()[1])
    server.close()


@asynccontextmanager
async def mute(address: Address, source: str = "127.0.0.1") -> AsyncIterator[asyncio.StreamReader]:
    """A connection that never says a word."""
    reader, writer = await asyncio.open_connection(*address, local_addr=(source, 0))
    try:
        yield reader
    finally:
        writer.close()
        await writer.wait_closed()


async def ended(reader: asyncio.StreamReader) -> bool:
    try:
        async with asyncio.timeout(0.3):
            return await reader.read(1) == b""
    except ConnectionError:
        return True
    except TimeoutError:
        return False


async def is_served(address: Address, authority_dir: Path) -> bool:
    context = tls.host_context(authority_dir / tls.AUTHORITY)
    try:
        link = await tls.connect(address, context)
    except TransportError:
        return False
    try:
        return await link.receive() == GREETING
    except TransportError:
        return False
    finally:
        await link.close()


async def until_served(address: Address, authority_dir: Path) -> None:
    """pytest's own timeout bounds it."""
    while not await is_served(address, authority_dir):  # noqa: ASYNC110  (there is nothing to wait for)
        await asyncio.sleep(0.01)


async def test_of_managers_with_the_authoritys_signature_those_that_were_named(
    address: Address, authority_dir: Path
) -> None:
    """Who was given the authority's key and is refused can sign a certificate; but for a key of its own."""
    context = tls.host_context(authority_dir / tls.AUTHORITY)
    key = tls.key_in(authority_dir / tls.MANAGER_CERTIFICATE)
    link = await tls.connect(address, context, ["other", key])
    assert await link.receive() == GREETING
    await link.close()
    with pytest.raises(TransportError, match="its machine was revoked"):
        await tls.connect(address, context, ["other"])


def test_a_file_that_is_no_certificate(tmp_path: Path) -> None:
    for content in ("", "-----BEGIN CERTIFICATE-----\nMAA=\n-----END CERTIFICATE-----\n"):
        (tmp_path / "x.pem").write_text(content)
        with pytest.raises(ConfigError, match="cannot be used"):
            tls.key_in(tmp_path / "x.pem")


async def test_who_does_not_shake_hands_is_counted_by_address(
    address: Address, authority_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tls, "UNPROVEN_PER_ADDRESS_MAX", 2)
    async with AsyncExitStack() as stack:
        readers = [await stack.enter_async_context(mute(address)) for _ in range(3)]
        assert [await ended(reader) for reader in readers] == [False, False, True]
        assert not await is_served(address, authority_dir)
        other = await stack.enter_async_context(mute(address, "127.0.0.2"))
        assert not await ended(other)
    await until_served(address, authority_dir)


async def test_and_in_all(address: Address, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tls, "UNPROVEN_MAX", 2)
    async with mute(address), mute(address, "127.0.0.2"), mute(address, "127.0.0.3") as last:
        assert await ended(last)


async def test_a_handshake_has_its_time(
    authority_dir: Path, address: Address, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tls, "HANDSHAKE_SECONDS_MAX", 0.3)
    monkeypatch.setattr(tls, "UNPROVEN_MAX", 1)
    async with mute(address) as reader:
        async with asyncio.timeout(10):
            while not await ended(reader):
                pass
        monkeypatch.setattr(tls, "HANDSHAKE_SECONDS_MAX", 5.0)
        await until_served(address, authority_dir)


async def test_nonsense_in_place_of_a_handshake(address: Address, authority_dir: Path) -> None:
    reader, writer = await asyncio.open_connection(*address)
    writer.write(b"GET / HTTP/1.1\r\n\r\n")
    async with asyncio.timeout(10):
        while await reader.read(1000):
            pass
    writer.close()
    assert await is_served(address, authority_dir)


async def test_a_name_that_cannot_be_one(authority_dir: Path) -> None:
    with pytest.raises(TransportError, match=r"no manager at a\.\.b:4567"):
        await tls.connect(Address("a..b", 4567), tls.unverified_context())


async def test_one_that_is_closed_at_once_leaves_no_socket(authority_dir: Path) -> None:
    server = await tls.listen(Address("127.0.0.1", 0), tls.manager_context(authority_dir), serve)
    server.close()
    await asyncio.sleep(0.01)
    assert [each.fileno() for each in server.sockets] == [-1]
