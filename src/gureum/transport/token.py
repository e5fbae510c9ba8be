"""What another machine joins the cloud with: one line, for people to copy.

It has the fingerprint of the cloud's authority, so that the machine knows whom it joins before it says the
other half: a secret, which proves to the manager that the machine was invited.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
from collections.abc import Callable

from gureum.errors import ConfigError

PREFIX = "gureum1"
FINGERPRINT_BYTES = 32
SECRET_BYTES = 32


def write(fingerprint: str, secret: bytes) -> str:
    """``fingerprint``: in hexadecimal digits."""
    return ".".join([PREFIX, _text(bytes.fromhex(fingerprint)), _text(secret)])


def read(text: str) -> tuple[str, bytes]:
    """(fingerprint, secret). Raises ConfigError."""
    try:
        prefix, *parts = text.strip().split(".")
        fingerprint, secret = (base64.b64decode(f"{part}=", b"-_", validate=True) for part in parts)
    except (ValueError, binascii.Error):
        prefix, fingerprint, secret = "", b"", b""
    if prefix != PREFIX or len(fingerprint) != FINGERPRINT_BYTES or len(secret) != SECRET_BYTES:
        raise ConfigError("that is no token: copy the whole line that `gureum host token` printed")
    return fingerprint.hex(), secret


def manager_seal(sign: Callable[[bytes], bytes], id: str, expires: float) -> str:
    """What only who has the cloud's master key can say (``sign``, of its KeyStore): that a token is one for a
    machine with managers, until ``expires`` (Unix time, whole seconds).
    """
    return sign(f"manager token {id} {int(expires)}".encode()).hex()


def api_seal(sign: Callable[[bytes], bytes], machine: str, endpoint: str, certificate: str) -> str:
    """The same of the certificate with which the API answers at ``endpoint``, while that machine leads; ""
    for an endpoint without TLS.
    """
    told = hashlib.sha256(certificate.encode()).hexdigest()
    return sign(f"api of {machine} at {endpoint} is {told}".encode()).hex()


def identify(secret: bytes) -> str:
    """Under which the store knows it: the secret itself is in nobody's hands but the bearer's."""
    return hashlib.sha256(secret).hexdigest()


def _text(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()
