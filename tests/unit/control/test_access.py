"""Hosts of other machines, over real TLS sockets."""

from __future__ import annotations

import asyncio
import random
import socket
import ssl
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from gureum.control import access as control
from gureum.control import manager as manager_module
from gureum.control.access import Access
from gureum.control.keys import KeyStore
from gureum.control.manager import Manager
from gureum.env import Env
from gureum.errors import TransportError
from gureum.hostspec import HostReport
from gureum.resources import Host, HostCertificate, HostState, HostToken, Image, ManagerMachine
from gureum.services.operation import Cloud
from gureum.store.sqlite import SqliteStore
from gureum.transport import authority, tls, token
from gureum.transport import link as unix
from gureum.transport.files import receive_file
from gureum.transport.link import StreamLink
from gureum.transport.messages import (
    AskAuthority,
    Authority,
    Fetch,
    Hello,
    Join,
    Joined,
    JoinManager,
    ManagerJoined,
    Message,
    Refused,
    Renew,
    Renewed,
    Report,
    Spec,
)
from support.records import Records

CLOUD = Cloud(name="c", account="1", region="r", zones=("ra", "rb"), public_cidr="198.18.0.0/24")
SECRET = bytes(range(32))
SHARED = ManagerJoined(config={"name": "c"}, authority=b"a", authority_key=b"k", master_key=b"m")
DAY = 86400.0


class Gate(Records):
    """A manager that lets hosts in, at a port of its own."""

    def __init__(self, directory: Path, store: SqliteStore) -> None:
        self.directory = directory
        self.store = store
        self.authority = directory / "authority"
        self.env = Env()
        self.keys = KeyStore(b"k" * 32)
        authority.ensure(self.authority, CLOUD.name, time.time())
        self.manager = Manager(self.env, CLOUD, store)
        self.access = Access(
            self.env,
            CLOUD,
            store,
            self.authority,
            "https://here",
            self.manager.speak,
            machine="first",
            share=self.share,
            keys=self.keys,
        )
        self.manager.access = self.access
        self.address = tls.Address("127.0.0.1", 0)
        self.shared = 0

    def share(self) -> ManagerJoined:
        self.shared += 1
        return SHARED

    async def open(self) -> None:
        context = tls.manager_context(self.authority)
        self.server = await tls.listen(self.address, context, self.access.serve)
        self.address = tls.Address("127.0.0.1", self.server.sockets[0].getsockname()[1])
        self.working = asyncio.create_task(self.manager.run())

    async def close(self) -> None:
        self.server.close()
        self.working.cancel()
        await asyncio.gather(self.working, return_exceptions=True)

    async def invite(
        self, secret: bytes = SECRET, expires: float = 60, zone: str = "ra", *, manager: bool = False
    ) -> None:
        id = token.identify(secret)
        until = time.time() + expires
        seal = token.manager_seal(self.keys.sign, id, until) if manager else ""
        await self.put(HostToken(id=id, zone=zone, expires=until, manager=manager, seal=seal))

    async def connect(self, identity: Path | None = None, trusted: Path | None = None) -> StreamLink:
        context = tls.host_context((trusted or self.authority) / tls.AUTHORITY, identity)
        return await tls.connect(self.address, context)

    async def ask(self, message: Message, identity: Path | None = None) -> Message:
        link = await self.connect(identity)
        try:
            async with asyncio.timeout(10):
                await link.send(message)
                return await link.receive()
        finally:
            await link.close()

    async def refused(self, message: Message, identity: Path | None = None) -> str:
        answer = await self.ask(message, identity)
        assert isinstance(answer, Refused), answer
        return answer.reason

    async def join(self, name: str = "second") -> Path:
        """A host joins; returns the file with its key and certificate."""
        await self.invite()
        key, request = authority.new_request()
        answer = await self.ask(Join(secret=SECRET, name=name, zone="", request=request))
        assert isinstance(answer, Joined)
        return self.keep(key + answer.certificate)

    def keep(self, pem: bytes) -> Path:
        file = self.directory / f"{len(list(self.directory.iterdir()))}.pem"
        file.write_bytes(pem)
        return file

    def forge(self, host: str, directory: Path | None = None, **more: Any) -> tuple[Path, authority.Issued]:
        """A certificate that the store does not know."""
        key, request = authority.new_request()
        issued = authority.issue(directory or self.authority, host, request, time.time(), **more)
        return self.keep(key + issued.certificate), issued


@pytest.fixture
async def gate(tmp_path: Path) -> AsyncIterator[Gate]:
    store = SqliteStore.open(":memory:", threaded=False)
    made = Gate(tmp_path, store)
    await made.open()
    yield made
    await made.close()
    await store.close()


def image(gate: Gate, disk: Path) -> Image:
    return Image(
        id="ami-1", name="n", disk=str(disk), disk_format="raw", disk_bytes=1, created=gate.env.utcnow(),
        architecture="x86_64", root_device="/dev/xvda", snapshot="snap-1",
    )  # fmt: skip


def joining(**values: Any) -> Join:
    _, request = authority.new_request()
    return Join(**{"secret": SECRET, "name": "second", "zone": "", "request": request, **values})


def hello(host: str = "second", cloud: str = "c", instance: str = "x") -> Hello:
    return Hello(cloud=cloud, host=host, zone="ra", instance=instance)


async def eventually(look: Callable[[], Awaitable[bool]]) -> None:
    """pytest's own timeout bounds it."""
    while not await look():  # noqa: ASYNC110  (there is nothing to wait for)
        await asyncio.sleep(0.01)


async def broken(link: StreamLink) -> None:
    """Wait until the other side ends the link."""
    try:
        async with asyncio.timeout(10):
            while True:
                await link.receive()
    except TransportError:
        pass


# Joining


async def test_the_authority_shows_itself_to_anybody(gate: Gate) -> None:
    link = await tls.connect(gate.address, tls.unverified_context())
    await link.send(AskAuthority())
    answer = await link.receive()
    assert isinstance(answer, Authority)
    assert tls.fingerprint(answer.certificate) == gate.access.joining.fingerprint
    await link.close()


async def test_a_machine_joins_and_gets_its_spec(gate: Gate) -> None:
    await gate.invite(zone="rb")
    key, request = authority.new_request()
    answer = await gate.ask(Join(secret=SECRET, name="second", zone="rb", request=request))
    assert isinstance(answer, Joined)
    assert (answer.cloud, answer.host, answer.zone) == ("c", "second", "rb")
    assert answer.public_cidr == "198.18.0.0/24"
    link = await gate.connect(gate.keep(key + answer.certificate))
    await link.send(hello())
    assert isinstance(await link.receive(), Spec)
    (host,) = await gate.find(Host)
    assert (host.id, host.zone, host.state) == ("second", "rb", HostState.down)
    await link.send(Report(HostReport(cloud="c", host="second", boot_id="b", revision=0, sequence=1)))
    await eventually(lambda: up(gate))
    (host,) = await gate.find(Host)
    assert (host.zone, host.number) == ("rb", 1)
    await link.close()


async def up(gate: Gate) -> bool:
    return any(host.state is HostState.up for host in await gate.find(Host))


async def test_a_machine_that_is_a_host_already_is_told(gate: Gate) -> None:
    await gate.put(Host(id="host-0", zone="ra", address="10.0.0.1"))
    link = await gate.connect(await gate.join("second"))
    await link.send(hello())
    report = HostReport(cloud="c", host="second", boot_id="b", revision=0, sequence=1, address="10.0.0.1")
    await link.send(Report(report))
    while isinstance(answer := await link.receive(), Spec):
        pass
    assert isinstance(answer, Refused)
    assert "10.0.0.1 is that of host host-0" in answer.reason


async def test_a_token_is_for_one_machine(gate: Gate) -> None:
    await gate.invite()
    answers = await asyncio.gather(*(gate.ask(joining(name=f"n{number}")) for number in range(4)))
    assert sorted(type(answer).__name__ for answer in answers) == ["Joined", *["Refused"] * 3]
    assert await gate.find(HostToken) == []
    assert len(await gate.find(HostCertificate)) == 1
    assert "was used before" in await gate.refused(joining(name="other"))


async def test_a_token_that_has_expired_or_is_none(gate: Gate) -> None:
    await gate.invite(expires=-1)
    assert "expired" in await gate.refused(joining())
    assert "never was one" in await gate.refused(joining(secret=b"x" * 32))
    assert await gate.find(HostCertificate) == []


async def test_a_token_is_for_one_zone(gate: Gate) -> None:
    await gate.invite(zone="ra")
    assert "for zone ra, not for rb" in await gate.refused(joining(zone="rb"))
    assert isinstance(await gate.ask(joining(zone="ra")), Joined)


@pytest.mark.parametrize("name", ["", "host-0", "host-12", "A", "a b", "../x", "x" * 64, "-a", "a-", "é"])
async def test_names_that_a_host_cannot_have(gate: Gate, name: str) -> None:
    await gate.invite()
    assert "is no name for a host" in await gate.refused(joining(name=name))
    assert len(await gate.find(HostToken)) == 1


async def test_a_name_is_one_machines(gate: Gate) -> None:
    await gate.join("second")
    await gate.invite()
    assert "there is a host second already" in await gate.refused(joining(name="second"))
    (certificate,) = await gate.find(HostCertificate)
    await gate.put(replace(certificate, revoked=True))
    assert isinstance(await gate.ask(joining(name="second")), Joined)


async def test_a_request_that_is_none_does_not_use_the_token_up(gate: Gate) -> None:
    await gate.invite()
    link = await gate.connect()
    await link.send(joining(request=b"nonsense"))
    await broken(link)
    assert isinstance(await gate.ask(joining()), Joined)


# Who may speak


async def test_without_a_certificate_nothing_but_joining(gate: Gate, tmp_path: Path) -> None:
    for message in (hello(), Renew(b""), Fetch("/etc/passwd")):
        assert "a certificate is needed" in await gate.refused(message)
    assert gate.manager.sessions == {}


async def test_another_authoritys_host_is_not_heard(gate: Gate, tmp_path: Path) -> None:
    authority.ensure(tmp_path / "other", "c", time.time())
    identity, issued = gate.forge("second", tmp_path / "other")
    await gate.put(HostCertificate(id=issued.serial, host="second", zone="ra", expires=issued.expires))
    with pytest.raises(TransportError):
        await gate.ask(hello(), identity)


async def test_another_authoritys_manager_is_not_believed(gate: Gate, tmp_path: Path) -> None:
    authority.ensure(tmp_path / "other", "c", time.time())
    with pytest.raises(TransportError, match="is not the manager of this cloud"):
        await gate.connect(trusted=tmp_path / "other")


async def test_a_host_is_not_believed_to_be_the_manager(gate: Gate) -> None:
    """Its certificate is of the right authority, and for the manager's name even; but not for this."""
    identity, _ = gate.forge(tls.MANAGER_NAME)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(identity)

    async def serve(_link: StreamLink, _peer: tls.Peer | None) -> None:
        raise AssertionError("a link to a host")

    server = await tls.listen(tls.Address("127.0.0.1", 0), context, serve)
    address = tls.Address("127.0.0.1", server.sockets[0].getsockname()[1])
    with pytest.raises(TransportError, match="is not the manager"):
        await tls.connect(address, tls.host_context(gate.authority / tls.AUTHORITY))
    server.close()


async def test_the_managers_own_certificate_is_none_of_a_host(gate: Gate) -> None:
    identity = gate.keep(
        (gate.authority / tls.MANAGER_KEY).read_bytes()
        + (gate.authority / tls.MANAGER_CERTIFICATE).read_bytes()
    )
    answer = await gate.ask(hello(tls.MANAGER_NAME), identity)
    assert isinstance(answer, Refused)
    assert "is not known" in answer.reason


async def test_a_certificate_that_has_ended(gate: Gate) -> None:
    identity, issued = gate.forge("second", days=-0.01)
    await gate.put(HostCertificate(id=issued.serial, host="second", zone="ra", expires=time.time() + DAY))
    with pytest.raises(TransportError):
        await gate.ask(hello(), identity)


async def test_a_certificate_that_the_store_holds_for_ended(gate: Gate) -> None:
    identity, issued = gate.forge("second")
    await gate.put(HostCertificate(id=issued.serial, host="second", zone="ra", expires=time.time() - 1))
    assert "has expired" in await gate.refused(hello(), identity)


async def test_a_link_does_not_outlive_its_certificate(gate: Gate) -> None:
    identity, issued = gate.forge("second")
    await gate.put(HostCertificate(id=issued.serial, host="second", zone="ra", expires=time.time() + 1))
    link = await gate.connect(identity)
    await link.send(hello())
    assert isinstance(await link.receive(), Spec)
    assert await link.receive() == Refused("the certificate of host second has expired")


async def test_a_certificate_that_the_store_does_not_know(gate: Gate) -> None:
    identity, _ = gate.forge("second")
    assert "is not known" in await gate.refused(hello(), identity)


async def test_a_certificate_of_another_host_in_the_store(gate: Gate) -> None:
    identity, issued = gate.forge("second")
    await gate.put(HostCertificate(id=issued.serial, host="third", zone="ra", expires=issued.expires))
    assert "is not known" in await gate.refused(hello(), identity)


async def test_a_host_speaks_for_itself_only(gate: Gate) -> None:
    identity = await gate.join("second")
    for other in ("host-0", "third"):
        assert f"is of host second, not of {other}" in await gate.refused(hello(other), identity)
    assert gate.manager.sessions == {}


async def test_reports_for_another_host_end_the_link(gate: Gate) -> None:
    link = await gate.connect(await gate.join("second"))
    await link.send(hello())
    await link.send(Report(HostReport(cloud="c", host="host-0", boot_id="b", revision=0, sequence=1)))
    await broken(link)
    (host,) = await gate.find(Host)
    assert (host.id, host.state) == ("second", HostState.down)


async def test_a_host_of_another_cloud(gate: Gate) -> None:
    link = await gate.connect(await gate.join("second"))
    await link.send(hello(cloud="d"))
    await broken(link)


# Revocation


async def test_revocation_ends_the_link_at_once_and_refuses_the_next(gate: Gate) -> None:
    identity = await gate.join("second")
    link = await gate.connect(identity)
    await link.send(hello())
    assert isinstance(await link.receive(), Spec)
    (certificate,) = await gate.find(HostCertificate)
    await gate.put(replace(certificate, revoked=True))
    await broken(link)
    assert "is revoked" in await gate.refused(hello(), identity)
    await eventually(lambda: no_session(gate))


async def no_session(gate: Gate) -> bool:
    return not gate.manager.sessions


async def test_removal_ends_the_link_too(gate: Gate) -> None:
    identity = await gate.join("second")
    link = await gate.connect(identity)
    await link.send(hello())
    assert isinstance(await link.receive(), Spec)
    (certificate,) = await gate.find(HostCertificate)
    await gate.store.transact(lambda tx: tx.delete(certificate))
    await broken(link)
    assert "is not known" in await gate.refused(hello(), identity)


# Renewal


async def test_renewal_and_the_end_of_the_old_certificate(gate: Gate, monkeypatch: Any) -> None:
    identity = await gate.join("second")
    (first,) = await gate.find(HostCertificate)
    await gate.put(replace(first, expires=first.expires - DAY))
    key, request = authority.new_request()
    answer = await gate.ask(Renew(request), identity)
    assert isinstance(answer, Renewed)
    renewed = gate.keep(key + answer.certificate)
    assert len(await gate.find(HostCertificate)) == 2
    link = await gate.connect(renewed)
    await link.send(hello())
    assert isinstance(await link.receive(), Spec)
    (left,) = await gate.find(HostCertificate)
    assert left.id != first.id
    assert left.host == "second"
    assert "is not known" in await gate.refused(hello(), identity)
    await link.close()


async def test_a_host_has_few_certificates(gate: Gate) -> None:
    identity = await gate.join("second")
    for _ in range(5):
        _, request = authority.new_request()
        assert isinstance(await gate.ask(Renew(request), identity), Renewed)
    assert len(await gate.find(HostCertificate)) == control.CERTIFICATES_MAX


async def test_a_revoked_host_gets_no_new_certificate(gate: Gate) -> None:
    identity = await gate.join("second")
    (certificate,) = await gate.find(HostCertificate)
    await gate.put(replace(certificate, revoked=True))
    _, request = authority.new_request()
    assert "is revoked" in await gate.refused(Renew(request), identity)
    assert len(await gate.find(HostCertificate)) == 1


# Images


async def test_files_of_images_and_no_others(gate: Gate, tmp_path: Path) -> None:
    identity = await gate.join("second")
    disk, secret = tmp_path / "disk.raw", tmp_path / "secret"
    disk.write_bytes(random.Random(1).randbytes(3_000_000))
    secret.write_bytes(b"secret")
    await gate.put(image(gate, disk))
    link = await gate.connect(identity)
    await receive_file(link, str(disk), tmp_path / "copy", 1 << 30)
    await link.close()
    assert (tmp_path / "copy").read_bytes() == disk.read_bytes()
    for path in (str(secret), "", f"{disk}/../secret", "/etc/shadow"):
        link = await gate.connect(identity)
        with pytest.raises(TransportError, match="no image has such a file"):
            await receive_file(link, path, tmp_path / "other", 1 << 30)
        await link.close()


# Bad manners


async def test_no_tls_no_answer(gate: Gate) -> None:
    reader, writer = await asyncio.open_connection(*gate.address)
    writer.write(b"\0\0\0\x10" + b"GET / HTTP/1.1\r\n\r\n" * 10)
    async with asyncio.timeout(10):
        received = await reader.read()
    assert b"HTTP" not in received
    writer.close()


async def test_old_versions_of_tls_are_refused(gate: Gate) -> None:
    context = tls.unverified_context()
    context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1_2
    with pytest.raises(TransportError):
        await tls.connect(gate.address, context)


async def test_a_stranger_sends_little(gate: Gate, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    link = await gate.connect()
    await link.send(joining(request=b"x" * (tls.STRANGER_BYTES_MAX + 1)))
    await broken(link)
    await link.close()
    assert "a link to a machine ended: a message of" in caplog.text


async def test_so_does_a_host_before_it_is_let_in(gate: Gate, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    identity = await gate.join("second")
    (certificate,) = await gate.find(HostCertificate)
    await gate.put(replace(certificate, revoked=True))
    link = await gate.connect(identity)
    await link.send(Renew(b"x" * (tls.STRANGER_BYTES_MAX + 1)))
    await broken(link)
    await link.close()
    assert "a link to second ended: a message of" in caplog.text


async def test_a_host_that_was_let_in_may_say_much(gate: Gate) -> None:
    link = await gate.connect(await gate.join("second"))
    await link.send(hello())
    problems = ("x" * (tls.STRANGER_BYTES_MAX + 1),)
    said = HostReport(cloud="c", host="second", boot_id="b", revision=0, sequence=1, problems=problems)
    await link.send(Report(said))
    await eventually(lambda: up(gate))
    await link.close()


async def test_few_links_of_a_host_that_say_nothing(gate: Gate, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(control, "LINKS_MAX", 1)
    identity, _ = gate.forge("second")
    quiet = await gate.connect(identity)
    await eventually(lambda: one_link(gate))
    assert "1 links already" in await gate.refused(hello(), identity)
    await quiet.close()


async def one_link(gate: Gate) -> bool:
    return len(gate.access._links) == 1


async def test_strangers_that_say_nothing(gate: Gate, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(control, "FIRST_SECONDS_MAX", 0.05)
    link = await gate.connect()
    await broken(link)
    await link.close()


async def test_few_strangers_at_once(gate: Gate) -> None:
    quiet = [await gate.connect() for _ in range(tls.STRANGERS_MAX)]
    last = await gate.connect()
    await broken(last)
    identity, _ = gate.forge("second")
    assert "is not known" in await gate.refused(hello(), identity)
    for link in (*quiet, last):
        await link.close()


async def test_a_copy_of_a_host_does_not_take_its_place(gate: Gate, monkeypatch: pytest.MonkeyPatch) -> None:
    identity = await gate.join("second")
    link = await gate.connect(identity)
    await link.send(hello())
    assert isinstance(await link.receive(), Spec)
    refused = await gate.refused(hello(instance="copy"), identity)
    assert "another agent speaks for host second" in refused
    session = gate.manager.sessions["second"]
    # The same one comes again.
    again = await gate.connect(identity)
    await again.send(hello())
    assert isinstance(await again.receive(), Spec)
    assert gate.manager.sessions["second"] is not session
    # It is silent.
    monkeypatch.setattr(manager_module, "LEASE_SECONDS", 0.0)
    assert isinstance(await gate.ask(hello(instance="next"), identity), Spec)
    monkeypatch.undo()
    # It has ended.
    await eventually(lambda: gone(gate))
    assert isinstance(await gate.ask(hello(instance="after"), identity), Spec)
    for each in (link, again):
        await each.close()


async def gone(gate: Gate) -> bool:
    return "second" not in gate.manager.sessions


async def test_few_links_of_a_host(gate: Gate, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(control, "LINKS_MAX", 1)
    identity = await gate.join("second")
    link = await gate.connect(identity)
    await link.send(hello())
    assert isinstance(await link.receive(), Spec)
    assert "1 links already" in await gate.refused(hello(), identity)
    await link.close()


async def test_nobody_listens() -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        address = tls.Address("127.0.0.1", closed.getsockname()[1])
        with pytest.raises(TransportError, match="no manager at"):
            await tls.connect(address, tls.unverified_context())


# Managers on other machines


def joining_manager(**values: str) -> JoinManager:
    wanted = {"name": "second", "agents": "192.0.2.2:4567", "endpoint": "https://192.0.2.2:4566"}
    return JoinManager(secret=SECRET, **{**wanted, "key": "ab" * 32, **values})


async def test_a_manager_gets_all_secrets_for_a_token_of_its_own(gate: Gate) -> None:
    assert "the token was used before" in await gate.refused(joining_manager())
    await gate.invite()
    assert "gureum host join" in await gate.refused(joining_manager())  # a host's token
    await gate.invite(SECRET[::-1], manager=True)
    assert "gureum manager join" in await gate.refused(joining(secret=SECRET[::-1]))
    assert await gate.find(ManagerMachine) == []
    # Somebody who can write to the store, and is not the cloud for that.
    (made,) = [each for each in await gate.find(HostToken) if each.manager]
    await gate.put(replace(made, expires=made.expires + 60))
    assert "without the cloud's master key" in await gate.refused(
        replace(joining_manager(), secret=SECRET[::-1])
    )
    (changed,) = [each for each in await gate.find(HostToken) if each.manager]
    await gate.put(replace(changed, expires=made.expires))
    assert gate.shared == 0
    answer = await gate.ask(replace(joining_manager(), secret=SECRET[::-1]))
    assert answer == SHARED
    (machine,) = await gate.find(ManagerMachine)
    assert (machine.id, machine.agents) == ("second", "192.0.2.2:4567")
    assert machine.endpoint == "https://192.0.2.2:4566"
    assert "the token was used before" in await gate.refused(replace(joining_manager(), secret=SECRET[::-1]))


async def test_which_managers_do_not_join(gate: Gate) -> None:
    await gate.invite(manager=True)
    await gate.put(ManagerMachine(id="first", agents="192.0.2.1:4567", endpoint="https://192.0.2.1:4566"))
    assert "no name for a machine" in await gate.refused(joining_manager(name="-"))
    assert "is no address" in await gate.refused(joining_manager(agents="http://192.0.2.2"))
    for key in ("", "ab", "x" * 64):  # with one unknown all that the authority has signed would be believed
        assert "does not say which key" in await gate.refused(joining_manager(key=key))
    taken = await gate.refused(joining_manager(agents="192.0.2.1:4567"))
    assert "the manager of first has the address" in taken
    assert "gureum manager remove first" in await gate.refused(joining_manager(name="first"))
    # What did not end well on its machine is tried again.
    again = joining_manager(name="first", agents="192.0.2.1:4567", endpoint="https://new")
    assert isinstance(await gate.ask(again), ManagerJoined)
    assert [each.endpoint for each in await gate.find(ManagerMachine)] == ["https://new"]


async def test_a_manager_that_stands_by_gets_images_and_nothing_else(gate: Gate, tmp_path: Path) -> None:
    disk = tmp_path / "disk.raw"
    disk.write_bytes(b"image")
    await gate.put(image(gate, disk))
    identity = gate.keep(
        (gate.authority / tls.MANAGER_KEY).read_bytes()
        + (gate.authority / tls.MANAGER_CERTIFICATE).read_bytes()
    )
    link = await gate.connect(identity)
    await receive_file(link, str(disk), tmp_path / "copy", 1 << 20)
    await link.close()
    assert (tmp_path / "copy").read_bytes() == b"image"
    assert "no image has such a file" in await gate.refused(Fetch("/etc/passwd"), identity)
    assert "is not known" in await gate.refused(Renew(authority.new_request()[1]), identity)


def machine(gate: Gate, id: str, directory: Path, **more: Any) -> ManagerMachine:
    """One whose manager has the key in ``directory``."""
    key = tls.key_in(directory / tls.MANAGER_CERTIFICATE)
    return ManagerMachine(id=id, agents=f"{id}:4567", endpoint=f"https://{id}", key=key, **more)


def manager_of(gate: Gate, name: str) -> tuple[Path, Path]:
    """The directory of another machine with a manager, and the file of its manager's certificate."""
    directory = gate.directory / name
    directory.mkdir()
    for file in (tls.AUTHORITY, tls.AUTHORITY_KEY):
        (directory / file).write_bytes((gate.authority / file).read_bytes())
    authority.ensure(directory, CLOUD.name, time.time())
    pem = (directory / tls.MANAGER_KEY).read_bytes() + (directory / tls.MANAGER_CERTIFICATE).read_bytes()
    return directory, gate.keep(pem)


async def test_a_manager_that_was_revoked_gets_nothing(gate: Gate, tmp_path: Path) -> None:
    """Nor does one that its machine has made itself since, with the authority's key that it has."""
    disk = tmp_path / "disk.raw"
    disk.write_bytes(b"image")
    await gate.put(image(gate, disk))
    directory, identity = manager_of(gate, "second")
    await gate.put(machine(gate, "second", directory))
    await gate.put(machine(gate, "first", gate.authority))
    # It says nothing yet, and is not looked up: what happens to its link when it is revoked meanwhile?
    waiting = await gate.connect(identity)
    link = await gate.connect(identity)
    await receive_file(link, str(disk), tmp_path / "copy", 1 << 20)
    await link.close()
    (second,) = [each for each in await gate.find(ManagerMachine) if each.id == "second"]
    await gate.put(replace(second, revoked=True))
    await broken(waiting)
    refused = "the machine of this manager was revoked"
    assert refused in await gate.refused(Fetch(str(disk)), identity)
    (directory / tls.MANAGER_KEY).unlink()
    (directory / tls.MANAGER_CERTIFICATE).unlink()
    authority.ensure(directory, CLOUD.name, time.time())
    pem = (directory / tls.MANAGER_KEY).read_bytes() + (directory / tls.MANAGER_CERTIFICATE).read_bytes()
    assert refused in await gate.refused(Fetch(str(disk)), gate.keep(pem))


async def test_links_of_a_manager_that_is_removed_end(gate: Gate, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(control, "FIRST_SECONDS_MAX", 1000.0)  # not since it says nothing
    directory, identity = manager_of(gate, "second")
    await gate.put(machine(gate, "second", directory))
    await gate.put(machine(gate, "first", gate.authority))
    waiting = await gate.connect(identity)
    await eventually(lambda: one_link(gate))
    (second,) = [each for each in await gate.find(ManagerMachine) if each.id == "second"]
    await gate.store.transact(lambda tx: tx.delete(second))
    await broken(waiting)
    await waiting.close()


async def forged(gate: Gate) -> tuple[HostCertificate, Path]:
    """Of a host that has joined, with its name and number, which are no secrets, and another key."""
    (known,) = await gate.find(HostCertificate)
    number = int(known.id, 16)
    key, request = authority.new_request()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("cryptography.x509.random_serial_number", lambda: number)
        issued = authority.issue(gate.authority, known.host, request, time.time())
    assert issued.serial == known.id
    return known, gate.keep(key + issued.certificate)


async def test_with_the_authoritys_key_nobody_passes_for_a_host(gate: Gate) -> None:
    await gate.join()
    _, forgery = await forged(gate)
    assert "is not known" in await gate.refused(hello(), forgery)
    assert "is not known" in await gate.refused(Renew(authority.new_request()[1]), forgery)


async def test_a_certificate_from_before_keys_were_looked_at_is_its_first_users(
    gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(control, "FIRST_SECONDS_MAX", 1000.0)
    identity = await gate.join()
    known, forgery = await forged(gate)
    await gate.put(replace(known, key=""))
    quiet = await gate.connect(forgery)
    await eventually(lambda: one_link(gate))
    link = await gate.connect(identity)
    await link.send(hello())
    assert isinstance(await link.receive(), Spec)
    assert [each.key for each in await gate.find(HostCertificate)] == [known.key]
    await broken(quiet)
    assert "is not known" in await gate.refused(hello(), forgery)
    assert "is not known" in await gate.refused(Renew(authority.new_request()[1]), forgery)
    assert isinstance(await gate.ask(Renew(authority.new_request()[1]), identity), Renewed)
    await link.close()
    await quiet.close()


async def test_of_two_with_such_a_certificate_at_once_one_is_the_host(gate: Gate) -> None:
    identity = await gate.join()
    known, forgery = await forged(gate)
    await gate.put(replace(known, key=""))
    answers = await asyncio.gather(*(gate.ask(hello(), each) for each in (identity, forgery)))
    assert sorted(type(answer).__name__ for answer in answers) == ["Refused", "Spec"]


async def test_after_a_revocation_such_a_certificate_proves_nothing(gate: Gate) -> None:
    identity = await gate.join()
    known, forgery = await forged(gate)
    await gate.put(replace(known, key=""))
    await gate.put(ManagerMachine(id="third", agents="", endpoint="", revoked=True))
    for each in (forgery, identity):
        for message in (Renew(authority.new_request()[1]), hello()):
            assert "gureum host revoke second" in await gate.refused(message, each)
    (left,) = await gate.find(HostCertificate)
    assert (left.id, left.key) == (known.id, "")
    await gate.put(replace(left, key=known.key))  # it was heard before
    assert isinstance(await gate.ask(Renew(authority.new_request()[1]), identity), Renewed)


async def test_forged_certificates_take_no_links_from_a_host(
    gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(control, "LINKS_MAX", 1)
    monkeypatch.setattr(control, "FIRST_SECONDS_MAX", 1000.0)
    identity = await gate.join()
    known, forgery = await forged(gate)
    quiet = await gate.connect(forgery)
    await eventually(lambda: one_link(gate))
    link = await gate.connect(identity)
    await link.send(hello())
    assert isinstance(await link.receive(), Spec)
    again = await gate.connect(forgery)
    assert isinstance(answer := await again.receive(), Refused)
    assert "1 links already" in answer.reason
    # A revocation ends all of that number.
    await gate.put(replace(known, revoked=True))
    await broken(link)
    await broken(quiet)
    for each in (link, quiet, again):
        await each.close()


async def test_a_machine_joins_with_its_key_and_not_again_once_it_is_revoked(gate: Gate) -> None:
    await gate.invite(manager=True)
    await gate.ask(joining_manager())
    (joined,) = await gate.find(ManagerMachine)
    assert joined.key == "ab" * 32
    await gate.put(replace(joined, revoked=True))
    await gate.invite(manager=True)
    assert "choose another name with --name" in await gate.refused(joining_manager(key="cd" * 32))
    # It may come back as another one, at the same address.
    assert isinstance(await gate.ask(joining_manager(name="third", key="cd" * 32)), ManagerJoined)


async def test_a_host_of_the_first_machine_proves_its_name_to_others(gate: Gate, tmp_path: Path) -> None:
    server = await unix.listen(tmp_path / "s", gate.access.serve_own)

    async def own(message: Message) -> Message:
        link = await unix.connect(tmp_path / "s")
        await link.send(message)
        try:
            return await link.receive()
        finally:
            await link.close()

    key, request = authority.new_request()
    with pytest.raises(TransportError):
        await own(Renew(request, "host-0"))  # of which nobody knows
    with pytest.raises(TransportError):
        await own(Renew(request, "second"))
    await gate.put(Host(id="host-0", zone=""))
    for _ in range(3):
        answer = await own(Renew(request, "host-0"))
        assert isinstance(answer, Renewed)
    kept = await gate.find(HostCertificate)
    assert [(each.host, each.zone, each.own) for each in kept] == [("host-0", "", True)] * 2
    assert isinstance(await own(hello("host-0")), Spec)
    assert isinstance(await gate.ask(hello("host-0"), gate.keep(key + answer.certificate)), Spec)
    server.close()
