"""The cloud's own certificate authority: who may be a host of it, and who is its manager.

    ca.pem, ca.key              the authority, the same on all machines that have managers
    manager.pem, manager.key    the certificate of this machine's managers

Whoever has ca.key can become any host, and manager. It is used by the manager alone, when a host joins or
renews its certificate. This module needs the cryptography package, and is imported only then.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import NamedTuple

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from gureum.errors import TransportError
from gureum.files import make_directories, write_atomically
from gureum.transport.tls import (
    AUTHORITY,
    AUTHORITY_KEY,
    MANAGER_CERTIFICATE,
    MANAGER_KEY,
    MANAGER_NAME,
    fingerprint_of_key,
)

AUTHORITY_DAYS = 20 * 365
MANAGER_DAYS = 10 * 365
MANAGER_RENEW_DAYS = 365
HOST_DAYS = 30
MANAGER_PURPOSES = (ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH)
"""A manager also asks another one: for images."""
SKEW = timedelta(hours=1)
"""Clocks of other machines may be behind."""


class Issued(NamedTuple):
    """``expires``: Unix time. ``key``: the fingerprint of the key that it is for."""

    certificate: bytes
    serial: str
    expires: float
    key: str


def ensure(directory: Path, cloud: str, now: float) -> None:
    """Have an authority, and a certificate of the manager that is good for another year. Raises OSError."""
    make_directories(directory, 0o700)
    os.chmod(directory, 0o700)
    today = datetime.fromtimestamp(now, UTC)
    # The certificate last: without it all is made anew.
    if not (directory / AUTHORITY).exists():
        key = ec.generate_private_key(ec.SECP256R1())
        name = _name(f"gureum {cloud}")
        certificate = (
            _builder(name, name, key.public_key(), today, AUTHORITY_DAYS)
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(_usage(signs_certificates=True), critical=True)
            .sign(key, hashes.SHA256())
        )
        write_atomically(directory / AUTHORITY_KEY, private_pem(key))
        write_atomically(directory / AUTHORITY, _pem(certificate), mode=0o600)
    if not _is_good(directory / MANAGER_CERTIFICATE, today):
        key = _managers_key(directory)
        certificate = _signed(
            directory,
            MANAGER_NAME,
            key.public_key(),
            today,
            MANAGER_DAYS,
            MANAGER_PURPOSES,
            x509.SubjectAlternativeName([x509.DNSName(MANAGER_NAME)]),
        )
        write_atomically(directory / MANAGER_CERTIFICATE, _pem(certificate))


def key_of_managers(directory: Path) -> str:
    """The fingerprint of the key of this machine's managers, which is made here and never leaves it. Raises
    OSError.
    """
    make_directories(directory, 0o700)
    return _fingerprint(_managers_key(directory).public_key())


def _managers_key(directory: Path) -> ec.EllipticCurvePrivateKey:
    """It stays the same: agents and other managers know it."""
    try:
        key = serialization.load_pem_private_key((directory / MANAGER_KEY).read_bytes(), None)
    except (FileNotFoundError, ValueError):
        key = None
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        key = ec.generate_private_key(ec.SECP256R1())
        write_atomically(directory / MANAGER_KEY, private_pem(key))
    return key


def _fingerprint(key: ec.EllipticCurvePublicKey) -> str:
    form = serialization.PublicFormat.SubjectPublicKeyInfo
    return fingerprint_of_key(key.public_bytes(serialization.Encoding.DER, form))


def _is_good(path: Path, today: datetime) -> bool:
    """For another year, and for all that a manager needs one for."""
    try:
        certificate = x509.load_pem_x509_certificate(path.read_bytes())
    except (FileNotFoundError, ValueError):
        return False
    purposes = set(certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value)
    left = certificate.not_valid_after_utc - today
    return left.days >= MANAGER_RENEW_DAYS and purposes.issuperset(MANAGER_PURPOSES)


def issue(directory: Path, host: str, request: bytes, now: float, days: float = HOST_DAYS) -> Issued:
    """A certificate for a host, for the key that its request was signed with. Raises TransportError.

    Nothing else of the request is taken over: the name in a certificate is for the manager to say.
    """
    try:
        asked = x509.load_pem_x509_csr(request)
        key = asked.public_key()
        if not asked.is_signature_valid:
            raise InvalidSignature
    except (ValueError, TypeError, InvalidSignature) as error:
        raise TransportError("the request for a certificate is not valid") from error
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP256R1):
        raise TransportError("the request for a certificate is for another kind of key than P-256")
    today = datetime.fromtimestamp(now, UTC)
    certificate = _signed(directory, host, key, today, days, (ExtendedKeyUsageOID.CLIENT_AUTH,))
    return Issued(
        _pem(certificate),
        f"{certificate.serial_number:x}",
        certificate.not_valid_after_utc.timestamp(),
        _fingerprint(key),
    )


def new_request() -> tuple[bytes, bytes]:
    """(key, request): both in PEM. The key stays where it was made."""
    key = ec.generate_private_key(ec.SECP256R1())
    request = x509.CertificateSigningRequestBuilder().subject_name(_name("host")).sign(key, hashes.SHA256())
    return private_pem(key), request.public_bytes(serialization.Encoding.PEM)


def life(certificate: bytes) -> tuple[float, float]:
    """From when until when it is good, as Unix times."""
    loaded = x509.load_pem_x509_certificate(certificate)
    return loaded.not_valid_before_utc.timestamp(), loaded.not_valid_after_utc.timestamp()


def _signed(
    directory: Path,
    name: str,
    key: ec.EllipticCurvePublicKey,
    today: datetime,
    days: float,
    purposes: Sequence[x509.ObjectIdentifier],
    *more: x509.SubjectAlternativeName,
) -> x509.Certificate:
    authority = x509.load_pem_x509_certificate((directory / AUTHORITY).read_bytes())
    signer = serialization.load_pem_private_key((directory / AUTHORITY_KEY).read_bytes(), None)
    assert isinstance(signer, ec.EllipticCurvePrivateKey)
    identifier = authority.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    builder = (
        _builder(_name(name), authority.subject, key, today, days)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(signs_certificates=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage(purposes), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(identifier), critical=False
        )
    )
    for extension in more:
        builder = builder.add_extension(extension, critical=False)
    return builder.sign(signer, hashes.SHA256())


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, today: datetime, days: float
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(today - SKEW)
        .not_valid_after(today + timedelta(days=days))
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
    )


def _usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        encipher_only=False,
        decipher_only=False,
    )


def _name(common: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common)])


def _pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)


def private_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
