"""Who may hand a machine's state over."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator

import pytest

from gureum.errors import HypervisorError
from gureum.hypervisors.qemu import channel
from gureum.hypervisors.qemu.channel import Listener, connect, format_address, parse_address

SECRET = bytes(range(32))


class Came:
    def __init__(self) -> None:
        self.sockets: list[socket.socket] = []
        self.error = ""

    async def __call__(self, connection: socket.socket) -> None:
        if self.error:
            raise HypervisorError(self.error)
        self.sockets.append(connection.dup())


@pytest.fixture
async def came() -> AsyncIterator[Came]:
    came = Came()
    yield came
    for each in came.sockets:
        each.close()


@pytest.fixture
async def listener(came: Came) -> AsyncIterator[Listener]:
    listener = Listener("127.0.0.1", SECRET, "mig-1", came)
    yield listener
    listener.abandon()
    await asyncio.sleep(0.01)


async def test_both_know_the_secret_and_the_rest_is_theirs(came: Came, listener: Listener) -> None:
    with await connect(listener.address, SECRET, "mig-1") as connection:
        (there,) = came.sockets
        there.setblocking(True)
        connection.setblocking(True)
        connection.sendall(b"all that follows")
        assert there.recv(100) == b"all that follows"
        assert connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 20_000
    with pytest.raises(HypervisorError, match="no connection"):
        await connect(listener.address, SECRET, "mig-1")
    assert len(came.sockets) == 1


@pytest.mark.parametrize(("secret", "migration"), [(bytes(32), "mig-1"), (SECRET, "mig-2")])
async def test_others_are_sent_away(came: Came, listener: Listener, secret: bytes, migration: str) -> None:
    with pytest.raises(HypervisorError, match="no connection"):
        await connect(listener.address, secret, migration)
    assert came.sockets == []
    (await connect(listener.address, SECRET, "mig-1")).close()
    assert len(came.sockets) == 1


async def test_who_says_nothing_holds_up_nobody(came: Came, listener: Listener) -> None:
    address = parse_address(listener.address)
    silent = [socket.create_connection(address) for _ in range(3)]
    (await connect(listener.address, SECRET, "mig-1")).close()
    for each in silent:
        each.close()


async def test_who_connects_ever_again_keeps_out_nobody(came: Came, listener: Listener) -> None:
    """Silent ones make room for who comes after them."""
    address = parse_address(listener.address)
    silent = [socket.create_connection(address) for _ in range(3 * channel.CALLERS_EACH_MAX)]
    await asyncio.sleep(0.01)
    (await connect(listener.address, SECRET, "mig-1")).close()
    assert len(came.sockets) == 1
    for each in silent:
        each.close()


async def test_few_are_heard_at_once_and_none_for_long(
    came: Came, listener: Listener, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(channel, "HEAR_SECONDS", 0.2)
    monkeypatch.setattr(channel, "CALLERS_MAX", 2)
    address = parse_address(listener.address)
    silent = [socket.create_connection(address) for _ in range(5)]
    for each in silent:
        each.settimeout(60)
        await asyncio.sleep(0.01)
    assert len(listener._callers) == 2
    for each in silent:
        assert len(await asyncio.to_thread(each.recv, 100)) in (0, channel.CHALLENGE_BYTES)
        assert await asyncio.to_thread(each.recv, 100) == b""
        each.close()
    assert not listener._callers


async def test_those_without_the_secret_are_not_all_told_of(
    came: Came, listener: Listener, caplog: pytest.LogCaptureFixture
) -> None:
    for _ in range(channel.WARNINGS_MAX + 5):
        with pytest.raises(HypervisorError, match="no connection"):
            await connect(listener.address, bytes(32), "mig-1")
    assert len(caplog.records) == channel.WARNINGS_MAX


async def test_a_listener_without_the_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:

        def answer() -> None:
            connection, _ = server.accept()
            with connection:
                connection.sendall(bytes(channel.CHALLENGE_BYTES))
                connection.recv(100)
                connection.sendall(bytes(channel.PROOF_BYTES))
                connection.recv(100)

        task = asyncio.create_task(asyncio.to_thread(answer))
        with pytest.raises(HypervisorError, match="does not know the secret"):
            await connect(format_address(*server.getsockname()), SECRET, "mig-1")
        await task


async def test_the_machine_that_waited_is_gone(came: Came, listener: Listener) -> None:
    came.error = "its QEMU does not answer"
    with pytest.raises(HypervisorError, match="closed the connection"):
        await connect(listener.address, SECRET, "mig-1")


async def test_nobody_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(channel, "PROVE_SECONDS", 0.05)
    with (
        socket.create_server(("127.0.0.1", 0)) as server,
        pytest.raises(HypervisorError, match="no answer in time"),
    ):
        await connect(format_address(*server.getsockname()), SECRET, "mig-1")


async def test_the_same_port_again(came: Came, listener: Listener) -> None:
    address = listener.address
    listener.abandon()
    again = Listener(address, SECRET, "mig-1", came)
    assert again.address == address
    other = Listener(address, SECRET, "mig-1", came)
    assert other.address != address
    for each in (again, other):
        each.abandon()


def test_addresses() -> None:
    for text in ("127.0.0.1:80", "[fd00::1]:80"):
        assert format_address(*parse_address(text)) == text
    for text in ("host:80", "127.0.0.1", "127.0.0.1:x", ""):
        with pytest.raises(HypervisorError, match="no address"):
            parse_address(text)


async def failing() -> None:
    raise HypervisorError("no")


async def lasting(seconds: float) -> None:
    await asyncio.sleep(seconds)


@pytest.mark.parametrize("seconds", [0.0, 0.1])
async def test_a_connection_is_closed_if_the_work_beside_it_fails(seconds: float) -> None:
    ours, theirs = socket.socketpair()

    async def connecting() -> socket.socket:
        await lasting(seconds)
        return ours

    async def work() -> None:
        await lasting(0.05)
        await failing()

    with theirs:
        with pytest.raises(HypervisorError, match="no"):
            await channel.beside(connecting(), work())
        await asyncio.sleep(0)
        assert ours.fileno() == -1 or seconds
        ours.close()


async def test_what_connects_fails_or_waits_for_the_work_beside_it() -> None:
    ours, theirs = socket.socketpair()
    done: list[str] = []

    async def connecting() -> socket.socket:
        return ours

    async def work() -> None:
        await lasting(0.05)
        done.append("work")

    with theirs, await channel.beside(connecting(), work()) as connection:
        assert (connection, done) == (ours, ["work"])

    async def refused() -> socket.socket:
        raise HypervisorError("nobody")

    with pytest.raises(HypervisorError, match="nobody"):
        await channel.beside(refused(), work())
