"""Who leads elsewhere, and that it is it."""

from __future__ import annotations

import asyncio
import ssl
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, HTTPServer
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from msgspec.structs import replace

from gureum.cli import api, leader
from gureum.cli.cloud import Cloud
from gureum.cli.output import CliError
from gureum.cli.store import Database
from gureum.control import sharing
from gureum.control.keys import KeyStore
from gureum.env import Env
from gureum.errors import StoreError
from gureum.resources import ManagerMachine
from gureum.store.postgres import Address, PostgresStore
from gureum.store.postgres.leadership import Leadership
from gureum.transport import token
from gureum.transport.authority import private_pem

STORE = "postgresql://me@/db?host=/run"


def signed(address: str = "127.0.0.1") -> tuple[str, bytes]:
    """A certificate of an authority that nobody has a file of, and its key."""
    keys = [ec.generate_private_key(ec.SECP256R1()) for _ in range(2)]
    issuer, name = (
        x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, each)]) for each in ("authority", "api")
    )
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder(issuer, name, keys[1].public_key(), x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(IPv4Address(address))]), critical=False)
        .sign(keys[0], hashes.SHA256())
    )
    return certificate.public_bytes(serialization.Encoding.PEM).decode(), private_pem(keys[1])


class Handler(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        body = b'{"Managers": []}'
        self.send_response(200)
        self.send_header("Content-Type", "application/x-amz-json-1.1")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        return


@pytest.fixture
def served(tmp_path: Path) -> Iterator[tuple[str, str]]:
    """(URL, certificate) of an API that answers everything."""
    certificate, key = signed()
    (tmp_path / "api.pem").write_bytes(key + certificate.encode())
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "api.pem")
    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        server.socket = context.wrap_socket(server.socket, server_side=True)
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"https://127.0.0.1:{server.server_address[1]}", certificate
        server.shutdown()
        thread.join()


@pytest.fixture
def standby(cloud: Cloud, monkeypatch: pytest.MonkeyPatch) -> Cloud:
    """Its managers stand by."""
    config = replace(cloud.configure(), agents="0.0.0.0:4567", store=STORE)
    monkeypatch.setattr(Cloud, "config", lambda _: config)
    cloud.run_dir.mkdir(exist_ok=True)
    return cloud


def known(cloud: Cloud, monkeypatch: pytest.MonkeyPatch, url: str, pem: str, **more: Any) -> None:
    """What the store says of the one that leads."""
    keys = KeyStore.open(Env(), cloud.state_dir / "keys")
    seal = token.api_seal(keys.sign, "first", url, pem)
    machine = ManagerMachine(id="first", agents="", endpoint=url, certificate=pem, seal=seal)
    machines = [replace(machine, **more), ManagerMachine(id="other", agents="", endpoint="https://192.0.2.1")]

    async def glance(*_: Any) -> list[ManagerMachine]:
        return machines

    monkeypatch.setattr("gureum.cli.store.look", lambda _: Database("", endpoint=url))
    monkeypatch.setattr("gureum.store.postgres.glance.glance", glance)


def test_the_leaders_certificate_is_in_the_store(
    standby: Cloud, served: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """This machine has no file of it, nor of its authority."""
    url, certificate = served
    known(standby, monkeypatch, url, certificate)
    assert api.call(standby, "fleet", "describe_managers")["Managers"] == []
    trusted = standby.run_dir / leader.CERTIFICATE
    assert leader.api(standby, standby.config()) == (url, str(trusted))
    # Its next one.
    known(standby, monkeypatch, url, signed()[0])
    with pytest.raises(CliError, match="certificate verify failed"):
        api.call(standby, "fleet", "describe_managers")


def test_a_certificate_for_another_address_is_refused(
    standby: Cloud, served: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    url, certificate = served
    known(standby, monkeypatch, url.replace("127.0.0.1", "localhost"), certificate)
    with pytest.raises(CliError, match=r"doesn't match|not valid for"):
        api.call(standby, "fleet", "describe_managers")


@pytest.mark.parametrize(
    "wrong",
    [
        {"seal": "ab"},
        {"seal": ""},
        {"revoked": True},
        {"certificate": ""},
        {"certificate": "", "seal": ""},
        {"id": "third"},
        {"endpoint": "https://192.0.2.9:4566"},  # only who leads was changed
    ],
)
def test_what_only_who_writes_to_the_database_says_is_not_believed(
    standby: Cloud, served: tuple[str, str], wrong: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody is asked then: who answers there could be anybody, also with a certificate that is believed."""
    monkeypatch.setattr(leader, "SECONDS_MAX", 0.0)
    url, certificate = served
    known(standby, monkeypatch, url, certificate, **wrong)
    monkeypatch.setattr(api, "_session", lambda: pytest.fail("it is asked"))
    with pytest.raises(CliError, match="nothing proves it") as caught:
        api.call(standby, "fleet", "describe_managers")
    assert "on the machine that leads" in caught.value.next_step


@pytest.mark.parametrize("url", ["http://192.0.2.9:80", "http://127.0.0.1:80"])
def test_an_address_without_tls_is_not_believed(
    standby: Cloud, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(leader, "SECONDS_MAX", 0.0)
    known(standby, monkeypatch, url, "", seal="")
    with pytest.raises(CliError, match="nothing proves it"):
        leader.api(standby, standby.config())
    # Entered by who has the master key: what goes to this machine itself goes over no network.
    known(standby, monkeypatch, url, "")
    if "127" in url:
        assert leader.api(standby, standby.config()) == (url, None)
    else:
        with pytest.raises(CliError, match="has no TLS") as caught:
            leader.api(standby, standby.config())
        assert "the machine that leads, first" in caught.value.next_step


@pytest.mark.postgres
@pytest.mark.parametrize("pem", ["", "certificate"])
async def test_what_a_leader_enters_is_what_others_believe(
    cloud: Cloud, tmp_path: Path, postgres_url: Callable[[Path], str], pem: str
) -> None:
    """In a real database; before it has entered itself nobody does."""
    address = Address.parse(postgres_url(tmp_path))
    own = replace(cloud.configure(store=address.url), agents="x", agents_url="192.0.2.1:4567")
    cloud.run_dir.mkdir(exist_ok=True)
    tls = {"tls_cert": "x", "host": "192.0.2.9"} if pem else {}
    first = replace(own, machine="second", port=4999, **tls)
    leads = Leadership(address, first.identity, "m", first.far_endpoint)
    await leads.acquire()
    entered = await PostgresStore.open(address, fence=leads.epoch)
    keys = KeyStore.open(Env(), cloud.state_dir / "keys")

    async def asked() -> leader.Api:
        return await asyncio.to_thread(leader.api, cloud, own)

    with pytest.raises(CliError, match="nothing proves it"):
        await asked()
    await entered.transact(lambda tx: sharing.enter(tx, first, keys, "ab", pem))
    file = cloud.run_dir / leader.CERTIFICATE
    assert await asked() == (first.far_endpoint, str(file) if pem else None)
    await entered.close()
    await leads.resign()


def test_an_own_address_is_its_own(standby: Cloud, monkeypatch: pytest.MonkeyPatch) -> None:
    known(standby, monkeypatch, standby.config().endpoint, "", seal="")
    assert leader.api(standby, standby.config()) == (standby.config().endpoint, None)


@pytest.mark.parametrize(
    ("tls", "schema", "url"),
    [("own", 2, "https://x"), (None, 2, "https://x"), ("own", 2, "http://x"), ("own", 3, "https://x")],
)
def test_before_there_were_seals_a_file_of_this_machine_says_whom_to_believe(
    standby: Cloud, tls: str | None, schema: int, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(leader, "SECONDS_MAX", 0.0)
    config = replace(standby.config(), tls_cert=tls)
    known(standby, monkeypatch, url, "", seal="")
    monkeypatch.setattr("gureum.cli.store.look", lambda _: Database("", "m", url, schema=schema))
    if (tls, schema, url) == ("own", 2, "https://x"):
        assert leader.api(standby, config) == (url, "own")
        return
    with pytest.raises(CliError, match="nothing proves it"):
        leader.api(standby, config)


def test_one_that_has_only_just_begun_to_lead(
    standby: Cloud, served: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its epoch begins before it enters itself."""
    url, certificate = served
    known(standby, monkeypatch, url, certificate, seal="")
    monkeypatch.setattr(leader.time, "sleep", lambda _: known(standby, monkeypatch, url, certificate))
    assert api.call(standby, "fleet", "describe_managers")["Managers"] == []


def test_a_store_that_does_not_answer(standby: Cloud, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leader, "SECONDS_MAX", 0.0)
    known(standby, monkeypatch, "https://192.0.2.1:4566", "x")

    async def away(*_: Any) -> Any:
        raise StoreError("away")

    monkeypatch.setattr("gureum.store.postgres.glance.glance", away)
    with pytest.raises(CliError, match="away"):
        leader.api(standby, standby.config())


def test_without_the_master_key_no_seal_says_anything(
    standby: Cloud, monkeypatch: pytest.MonkeyPatch
) -> None:
    known(standby, monkeypatch, "https://192.0.2.1:4566", "x")
    (standby.state_dir / "keys/master").write_bytes(b"short")
    with pytest.raises(CliError, match="is damaged") as caught:
        leader.api(standby, standby.config())
    assert caught.value.next_step == "as root"


def test_an_own_certificate_need_not_come_with_its_authority(
    cloud: Cloud, served: tuple[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url, certificate = served
    (tmp_path / "own.pem").write_text(certificate)
    port = int(url.rpartition(":")[2])
    config = replace(cloud.configure(), tls_cert=str(tmp_path / "own.pem"), tls_key="x", port=port)
    monkeypatch.setattr(Cloud, "config", lambda _: config)
    assert api.call(cloud, "fleet", "describe_managers")["Managers"] == []
    (tmp_path / "own.pem").write_text(signed()[0])
    with pytest.raises(CliError, match="certificate verify failed"):
        api.call(cloud, "fleet", "describe_managers")
