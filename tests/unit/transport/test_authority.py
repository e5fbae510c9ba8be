import hashlib
import stat
import time
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from gureum.errors import TransportError
from gureum.transport import authority
from gureum.transport.tls import AUTHORITY, MANAGER_CERTIFICATE, MANAGER_KEY, fingerprint, key_in

DAY = 86400.0


def load(path: Path) -> x509.Certificate:
    return x509.load_pem_x509_certificate(path.read_bytes())


def name(certificate: x509.Certificate) -> str:
    return str(certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)[0].value)


def purposes(certificate: x509.Certificate) -> list[x509.ObjectIdentifier]:
    return list(certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value)


def test_an_authority_is_made_once(tmp_path: Path) -> None:
    authority.ensure(tmp_path / "a", "test", time.time())
    files = {path.name: path.read_bytes() for path in (tmp_path / "a").iterdir()}
    assert files.keys() == {AUTHORITY, authority.AUTHORITY_KEY, MANAGER_CERTIFICATE, MANAGER_KEY}
    authority.ensure(tmp_path / "a", "test", time.time() + 100 * DAY)
    assert {path.name: path.read_bytes() for path in (tmp_path / "a").iterdir()} == files


def test_nobody_else_reads_the_keys(authority_dir: Path) -> None:
    assert stat.S_IMODE(authority_dir.stat().st_mode) == 0o700
    for file in authority_dir.iterdir():
        assert stat.S_IMODE(file.stat().st_mode) == 0o600


def test_the_managers_certificate_is_renewed_in_its_last_year(tmp_path: Path) -> None:
    now = time.time()
    authority.ensure(tmp_path, "test", now)
    first = (tmp_path / MANAGER_CERTIFICATE).read_bytes()
    trusted = (tmp_path / AUTHORITY).read_bytes()
    authority.ensure(tmp_path, "test", now + (authority.MANAGER_DAYS - 400) * DAY)
    assert (tmp_path / MANAGER_CERTIFICATE).read_bytes() == first
    authority.ensure(tmp_path, "test", now + (authority.MANAGER_DAYS - 300) * DAY)
    assert (tmp_path / MANAGER_CERTIFICATE).read_bytes() != first
    # Agents and other managers know its key.
    assert (
        load(tmp_path / MANAGER_CERTIFICATE).public_key()
        == x509.load_pem_x509_certificate(first).public_key()
    )
    assert (tmp_path / AUTHORITY).read_bytes() == trusted


def test_a_key_is_known_by_the_same_fingerprint_everywhere(authority_dir: Path, tmp_path: Path) -> None:
    certificate = load(authority_dir / MANAGER_CERTIFICATE)
    form = serialization.PublicFormat.SubjectPublicKeyInfo
    public = certificate.public_key().public_bytes(serialization.Encoding.DER, form)
    known = hashlib.sha256(public).hexdigest()
    assert authority.key_of_managers(authority_dir) == known
    assert key_in(authority_dir / MANAGER_CERTIFICATE) == known
    _, request = authority.new_request()
    issued = authority.issue(authority_dir, "x" * 60, request, time.time())
    (tmp_path / "host.pem").write_bytes(issued.certificate)
    assert key_in(tmp_path / "host.pem") == issued.key != known


def test_a_machine_has_its_key_before_it_has_the_authority(tmp_path: Path) -> None:
    """It is told with the request to join."""
    made = authority.key_of_managers(tmp_path / "a")
    authority.ensure(tmp_path / "a", "test", time.time())
    assert key_in(tmp_path / "a" / MANAGER_CERTIFICATE) == made
    assert stat.S_IMODE((tmp_path / "a" / MANAGER_KEY).stat().st_mode) == 0o600


def test_a_certificate_is_for_the_name_that_the_manager_says_and_for_a_host_only(authority_dir: Path) -> None:
    now = time.time()
    _, request = authority.new_request()
    issued = authority.issue(authority_dir, "second", request, now)
    certificate = x509.load_pem_x509_certificate(issued.certificate)
    certificate.verify_directly_issued_by(load(authority_dir / AUTHORITY))
    assert name(certificate) == "second"
    assert purposes(certificate) == [ExtendedKeyUsageOID.CLIENT_AUTH]
    assert not certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    assert issued.serial == f"{certificate.serial_number:x}"
    assert issued.expires == pytest.approx(now + 30 * DAY, abs=2)
    managers = purposes(load(authority_dir / MANAGER_CERTIFICATE))
    assert managers == [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]


def test_each_has_a_number_of_its_own(authority_dir: Path) -> None:
    _, request = authority.new_request()
    assert len({authority.issue(authority_dir, "h", request, time.time()).serial for _ in range(5)}) == 5


def requested(key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey) -> bytes:
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "manager.gureum.internal")])
    builder = x509.CertificateSigningRequestBuilder().subject_name(subject)
    return builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)


def test_what_a_request_says_of_itself_does_not_count(authority_dir: Path) -> None:
    issued = authority.issue(
        authority_dir, "h", requested(ec.generate_private_key(ec.SECP256R1())), time.time()
    )
    certificate = x509.load_pem_x509_certificate(issued.certificate)
    assert name(certificate) == "h"
    with pytest.raises(x509.ExtensionNotFound):
        certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName)


def test_requests_that_are_none(authority_dir: Path) -> None:
    _, good = authority.new_request()
    lines = good.decode().splitlines()
    lines[2] = lines[2][::-1]
    for bad in (b"", b"nonsense", "\n".join(lines).encode(), (authority_dir / AUTHORITY).read_bytes()):
        with pytest.raises(TransportError, match="not valid"):
            authority.issue(authority_dir, "h", bad, time.time())
    for key in (ec.generate_private_key(ec.SECP384R1()), rsa.generate_private_key(65537, 1024)):
        with pytest.raises(TransportError, match="P-256"):
            authority.issue(authority_dir, "h", requested(key), time.time())


def test_fingerprints_differ(authority_dir: Path, tmp_path: Path) -> None:
    authority.ensure(tmp_path, "test", time.time())
    ours, other = (fingerprint((path / AUTHORITY).read_bytes()) for path in (authority_dir, tmp_path))
    assert len(ours) == 64
    assert ours != other
