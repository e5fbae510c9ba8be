"""How a host reaches the manager that leads, and renewal: over real sockets."""

from __future__ import annotations

import asyncio
import shutil
import socket
import stat
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import msgspec
import pytest
from msgspec.structs import replace

from gureum.agent import certificate
from gureum.cli.config import JoinedConfig
from gureum.env import Env
from gureum.errors import TransportError
from gureum.hostspec import HostSpec
from gureum.transport import authority, tls
from gureum.transport import link as unix
from gureum.transport.link import Link
from gureum.transport.messages import Refused, Renew, Renewed

DAY = 86400.0


class Manager:
    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.peers: list[tls.Peer | None] = []
        self.refuses = ""
        authority.ensure(directory, "c", time.time())

    async def serve(self, link: Link, peer: tls.Peer | None) -> None:
        self.peers.append(peer)
        message = await link.receive()
        assert isinstance(message, Renew)
        assert peer is not None
        if self.refuses:
            await link.send(Refused(self.refuses))
            return
        issued = authority.issue(self.directory, peer.host, message.request, time.time())
        await link.send(Renewed(certificate=issued.certificate, expires=issued.expires))


def joined(tmp_path: Path, test: Callable[[Manager, Path], Awaitable[None]]) -> None:
    """Run a test with a host that has joined a day ago, for two days."""

    async def main() -> None:
        manager = Manager(tmp_path / "authority")
        context = tls.manager_context(manager.directory)
        server = await tls.listen(tls.Address("127.0.0.1", 0), context, manager.serve)
        state = tmp_path / "state"
        (state / certificate.DIRECTORY).mkdir(parents=True)
        key, request = authority.new_request()
        issued = authority.issue(manager.directory, "second", request, time.time(), days=1)
        (state / certificate.DIRECTORY / certificate.CERTIFICATE).write_bytes(key + issued.certificate)
        trusted = (manager.directory / tls.AUTHORITY).read_bytes()
        (state / certificate.DIRECTORY / tls.AUTHORITY).write_bytes(trusted)
        JoinedConfig(
            cloud="c",
            host="second",
            zone="ra",
            public_cidr="198.18.0.0/22",
            index=0,
            manager=f"127.0.0.1:{server.sockets[0].getsockname()[1]}",
            uplink="eth0",
            expires=issued.expires,
            renew_at=time.time() - 1,
        ).save(state)
        await test(manager, state)
        server.close()
        await asyncio.sleep(0.2)  # what was broken off in a handshake closes its socket

    asyncio.run(main())


def connector(state: Path) -> certificate.Connector:
    return certificate.Connector(state, certificate.OfJoined(state))


def test_a_certificate_is_renewed_with_a_new_key(tmp_path: Path) -> None:
    async def test(manager: Manager, state: Path) -> None:
        file = state / certificate.DIRECTORY / certificate.CERTIFICATE
        before = file.read_bytes()
        await connector(state).renew(Env())
        after = file.read_bytes()
        assert after.split(b"-----END PRIVATE KEY-----")[0] != before.split(b"-----END PRIVATE KEY-----")[0]
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
        config = JoinedConfig.load(state)
        assert config.expires == pytest.approx(time.time() + authority.HOST_DAYS * DAY, abs=60)
        assert config.renew_at == pytest.approx(time.time() + authority.HOST_DAYS * DAY * 2 / 3, abs=60)
        await connector(state).renew(Env())
        first, second = manager.peers
        assert first is not None
        assert second is not None
        assert first.host == second.host == "second"
        assert first.serial != second.serial

    joined(tmp_path, test)


def test_it_is_renewed_when_its_time_has_come_and_not_before(tmp_path: Path) -> None:
    async def test(manager: Manager, state: Path) -> None:
        for again in range(2):
            connect = connector(state)
            link = None if again else await connect()
            work = asyncio.create_task(connect.renew_forever(Env()))
            while JoinedConfig.load(state).renew_at < time.time():  # noqa: ASYNC110
                await asyncio.sleep(0.01)
            await asyncio.sleep(0.01)
            if link is not None:
                with pytest.raises(TransportError):  # it stood on the old one
                    await link.receive()
            work.cancel()
            await asyncio.gather(work, return_exceptions=True)
        assert len(manager.peers) == 2

    joined(tmp_path, test)


def test_the_link_is_made_anew_after_a_renewal(tmp_path: Path) -> None:
    async def test(_manager: Manager, state: Path) -> None:
        connect = connector(state)
        connect.drop()
        link = await connect()
        connect.drop()
        with pytest.raises(TransportError):
            await link.receive()

    joined(tmp_path, test)


def test_a_refusal_changes_nothing(tmp_path: Path) -> None:
    async def test(manager: Manager, state: Path) -> None:
        manager.refuses = "revoked"
        file = state / certificate.DIRECTORY / certificate.CERTIFICATE
        before, config = file.read_bytes(), JoinedConfig.load(state)
        with pytest.raises(TransportError, match="revoked"):
            await connector(state).renew(Env())
        assert (file.read_bytes(), JoinedConfig.load(state)) == (before, config)

    joined(tmp_path, test)


def test_without_its_files_a_host_does_not_connect(tmp_path: Path) -> None:
    async def test(_manager: Manager, state: Path) -> None:
        (state / certificate.DIRECTORY / certificate.CERTIFICATE).unlink()
        with pytest.raises(TransportError, match="cannot be used"):
            await connector(state).connect()

    joined(tmp_path, test)


def test_a_refusal_is_kept_until_the_manager_takes_the_host_again(tmp_path: Path) -> None:
    async def test(manager: Manager, state: Path) -> None:
        (state / "run").mkdir()
        connect = connector(state)
        for reason in ("it was removed", ""):
            manager.refuses = reason
            link = await connect()
            await link.send(Renew(authority.new_request()[1]))
            await link.receive()
            assert certificate.refusal(state) == reason
            await link.close()

    joined(tmp_path, test)


def test_of_several_managers_the_one_that_leads_is_found(tmp_path: Path) -> None:
    """Where the host joined nobody listens, and at another place somebody who says nothing."""

    async def test(manager: Manager, state: Path) -> None:
        config = JoinedConfig.load(state)
        with socket.create_server(("127.0.0.1", 0)) as still, socket.create_server(("127.0.0.1", 0)) as none:
            silent, nobody = (f"127.0.0.1:{each.getsockname()[1]}" for each in (still, none))
            none.close()
            replace(config, manager=nobody).save(state)
            known: list[str] = []
            credentials = certificate.OfJoined(state, lambda: known)
            connect = certificate.Connector(state, credentials)
            with pytest.raises(TransportError, match="no manager at"):
                await connect()
            known += [silent, config.manager]
            link = await connect()
            await link.send(Renew(authority.new_request()[1]))
            assert isinstance(await link.receive(), Renewed)
            await link.close()
            known.remove(silent)  # the first machine, too, is forgotten: the other is the only one
            await (await connect()).close()

    joined(tmp_path, test)


def test_a_host_of_the_first_machine_gets_a_certificate_when_others_have_managers(tmp_path: Path) -> None:
    async def main() -> None:
        manager = Manager(tmp_path / certificate.AUTHORITY_DIRECTORY)
        (tmp_path / "run").mkdir()

        async def serve(link: Link) -> None:
            await manager.serve(link, tls.Peer("host-0", ""))

        own = await unix.listen(tmp_path / "run/agents.sock", serve)
        far = await tls.listen(
            tls.Address("127.0.0.1", 0), tls.manager_context(manager.directory), manager.serve
        )
        known = ["127.0.0.1:1"]
        credentials = certificate.OfOwn(Env(), tmp_path, "host-0", lambda: known)
        connect = certificate.Connector(tmp_path, credentials)
        assert credentials.renew_at() is None
        await (await connect()).close()
        known.append(f"127.0.0.1:{far.sockets[0].getsockname()[1]}")
        assert credentials.renew_at() == 0
        await connect.renew(Env())  # by the socket
        again = certificate.OfOwn(Env(), tmp_path, "host-0", lambda: known)
        for each in (credentials, again):
            assert each.renew_at() == pytest.approx(time.time() + authority.HOST_DAYS * DAY * 2 / 3, abs=60)
            assert [*each.managers()] == known
        await connect.renew(Env())  # over TLS
        assert [peer.host for peer in manager.peers if peer is not None] == ["host-0", "host-0", "host-0"]
        assert manager.peers[-1] != manager.peers[0]
        # No manager takes the certificate any more: back to the socket, for another.
        manager.refuses = "not known"
        link = await connect()
        await link.send(Renew(authority.new_request()[1]))
        await link.receive()
        assert not credentials.managers()
        assert credentials.renew_at() == 0
        own.close()
        far.close()
        await asyncio.sleep(0.2)

    asyncio.run(main())


def test_of_managers_only_those_that_were_named_are_believed(tmp_path: Path) -> None:
    async def test(manager: Manager, state: Path) -> None:
        key = tls.key_in(manager.directory / tls.MANAGER_CERTIFICATE)
        keys = ["other", key]
        connect = certificate.Connector(state, certificate.OfJoined(state), lambda: keys)
        await (await connect()).close()
        keys.remove(key)
        with pytest.raises(TransportError, match="its machine was revoked"):
            await connect()

    joined(tmp_path, test)


def test_a_manager_that_is_refused_is_in_the_log_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Also while another one answers, which is as a rule so."""

    async def test(manager: Manager, state: Path) -> None:
        leads = tls.Address.parse(JoinedConfig.load(state).manager)
        other = tmp_path / "other"
        shutil.copytree(manager.directory, other)
        (other / tls.MANAGER_KEY).unlink()
        (other / tls.MANAGER_CERTIFICATE).unlink()
        authority.ensure(other, "c", time.time())
        revoked = await tls.listen(
            tls.Address("127.0.0.1", 0), tls.manager_context(other), Manager(other).serve
        )
        at = f"127.0.0.1:{revoked.sockets[0].getsockname()[1]}"
        keys = [tls.key_in(manager.directory / tls.MANAGER_CERTIFICATE)]
        credentials = certificate.OfJoined(state, lambda: (at, str(leads)))
        connect = certificate.Connector(state, credentials, lambda: keys)
        context = tls.host_context(credentials.authority, credentials.certificate)
        for _ in range(2):
            with pytest.raises(TransportError, match="its machine was revoked"):
                await connect._connect(tls.Address.parse(at), context)
            await (await connect()).close()
        said = [record for record in caplog.records if f"the manager at {at} is refused" in record.message]
        assert [record.levelname for record in said] == ["WARNING"]
        revoked.close()

    joined(tmp_path, test)


def test_a_host_of_a_first_machine_that_was_revoked_follows_the_other(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Of two: so there is one left, and it is not here."""

    async def main() -> None:
        manager = Manager(tmp_path / certificate.AUTHORITY_DIRECTORY)
        far = await tls.listen(
            tls.Address("127.0.0.1", 0), tls.manager_context(manager.directory), manager.serve
        )
        known = (f"127.0.0.1:{far.sockets[0].getsockname()[1]}",)
        key, request = authority.new_request()
        issued = authority.issue(manager.directory, "host-0", request, time.time())
        keys: list[str] = []
        credentials = certificate.OfOwn(Env(), tmp_path, "host-0", lambda: known, lambda: keys)
        credentials.keep(key, Renewed(certificate=issued.certificate, expires=issued.expires), time.time())
        assert (credentials.managers(), credentials.renew_at()) == ((), None)
        keys.append(tls.key_in(manager.directory / tls.MANAGER_CERTIFICATE))
        assert credentials.managers() == known
        assert credentials.renew_at() is not None
        connect = certificate.Connector(tmp_path, credentials, lambda: keys)
        await (await connect()).close()  # there is no socket
        await connect.renew(Env())
        far.close()
        await asyncio.sleep(0.2)
        for _ in range(2):
            with pytest.raises(TransportError, match=r"agents\.sock"):
                await connect()
        said = [each for each in caplog.messages if "on this machine only" in each]
        assert len(said) == 1
        assert f"no manager at {known[0]}" in said[0]

    asyncio.run(main())


def test_a_host_that_joins_once_more_believes_who_let_it_in(tmp_path: Path) -> None:
    file = tmp_path / certificate.SPEC
    certificate.forget_managers(file)
    assert not file.exists()
    spec = HostSpec(cloud="c", host="second", revision=7, managers=("a:1", "b:1"), manager_keys=("k",))
    file.write_bytes(msgspec.msgpack.encode(spec))
    certificate.forget_managers(file)
    kept = msgspec.msgpack.decode(file.read_bytes(), type=HostSpec)
    assert kept == HostSpec(cloud="c", host="second", revision=7)
    file.write_bytes(b"?")
    certificate.forget_managers(file)
    assert file.read_bytes() == b"?"
