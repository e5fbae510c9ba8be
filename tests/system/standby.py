"""A second machine that is a host, and has a manager that stands by."""

from __future__ import annotations

import contextlib
import ssl
import urllib.request
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from gureum.cli import api, manager_token
from gureum.cli.output import CliError
from gureum.transport.authority import private_pem

from .machine import Machine
from .realcloud import RealCloud


@contextlib.contextmanager
def both_joined(cloud: RealCloud, namespace: str, address: str) -> Iterator[Machine]:
    """Until the end, which it sees in order."""
    made = Machine(cloud.directory, namespace)
    certificate, key = certified(cloud.directory, address)
    try:
        token = cloud.fleet("create_host_token", Zone="us-east-1b")["Token"]
        done = made.join(cloud.config.agents_url, token)
        assert done.returncode == 0, done.stderr
        token = manager_token.make(cloud.cloud, 3600)["Token"]
        own = ("--name", "second", "--host", address, "--tls-cert", str(certificate), "--tls-key", str(key))
        done = made.gureum("manager", "join", cloud.config.agents_url, "--token", token, *own, "-d", "--json")
        assert done.returncode == 0, done.stderr
        yield made
    finally:
        made.plug()
        if made.cloud.joined() is not None:
            done = made.gureum("down")
            assert done.returncode == 0, done.stderr


def certified(directory: Path, address: str) -> tuple[Path, Path]:
    """A certificate for the second machine's API, which is its own authority, and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "second")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(IPv4Address(address))]), critical=False)
        .sign(key, hashes.SHA256())
    )
    files = directory / "second.pem", directory / "second.key"
    files[0].write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    files[1].write_bytes(private_pem(key))
    return files


def health(url: str) -> int:
    """What a load balancer is told."""
    unverified = ssl.create_default_context()
    unverified.check_hostname, unverified.verify_mode = False, ssl.CERT_NONE
    try:
        with urllib.request.urlopen(f"{url}/.gureum/health", timeout=2, context=unverified) as answer:
            return int(answer.status)
    except OSError:
        return 0


def ask(cloud: Any, operation: str, **parameters: Any) -> Any:
    """Of the manager that leads, as the machine of ``cloud`` knows it; None if none answers."""
    try:
        return api.call(cloud, "fleet", operation, **parameters)
    except CliError:
        return None


def leader(cloud: Any) -> str:
    answer = ask(cloud, "describe_managers") or {"Managers": ()}
    return next((each["ManagerId"] for each in answer["Managers"] if each["Leads"]), "")


def states(cloud: Any) -> dict[str, str]:
    answer = ask(cloud, "describe_hosts") or {"Hosts": ()}
    return {host["HostId"]: host["State"] for host in answer["Hosts"]}


def machine_states(cloud: Any) -> dict[str, str]:
    answer = ask(cloud, "describe_managers") or {"Managers": ()}
    return {each["ManagerId"]: each["State"] for each in answer["Managers"]}


def stands_by(cloud: RealCloud) -> bool:
    """Whether the managers of the first machine do, all of them."""
    managers = [each for each in cloud.cloud.processes() if each.name == "manager"]
    return all(each.is_ready for each in managers) and not cloud.cloud.leads("manager")
