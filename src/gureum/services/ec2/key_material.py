"""Making and reading SSH keys. Importing this imports the cryptography package: do it when a key is needed.

Private keys and fingerprints have the forms that EC2 gives them ("Amazon EC2 key pairs" in its user guide).
"""

from __future__ import annotations

import base64
import hashlib
from typing import NamedTuple

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey, generate_private_key
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_der_public_key,
    load_pem_public_key,
    load_ssh_public_key,
)

from gureum.env import Env
from gureum.errors import ApiError

RSA_BITS = 2048
RSA_BITS_ACCEPTED = (1024, 2048, 4096)
"""What ImportKeyPair takes, as EC2."""
PUBLIC_KEY_BYTES_MAX = 2048
"""EC2's limit on the material of ImportKeyPair."""
_RFC4716_BEGIN = b"---- BEGIN SSH2 PUBLIC KEY ----"
_RFC4716_END = b"---- END SSH2 PUBLIC KEY ----"


class NewKey(NamedTuple):
    """``private_key`` is PEM text; ``public_key`` OpenSSH's one-line form without a comment."""

    private_key: str
    public_key: str
    fingerprint: str


class PublicKey(NamedTuple):
    type: str
    public_key: str
    fingerprint: str


def new_rsa() -> NewKey:
    """A PKCS#1 private key. The fingerprint is the SHA-1 of the private key in PKCS#8 DER."""
    key = generate_private_key(65537, RSA_BITS)
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.TraditionalOpenSSL, NoEncryption())
    der = key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())
    digest = hashlib.sha1(der, usedforsecurity=False).hexdigest()
    return NewKey(pem.decode(), _openssh(key.public_key()), _colons(digest))


def new_ed25519(env: Env) -> NewKey:
    """A private key in OpenSSH's form. The fingerprint is the SHA-256 of the public key, in base64."""
    key = Ed25519PrivateKey.from_private_bytes(bytes.fromhex(env.token(64)))
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption())
    public = _openssh(key.public_key())
    return NewKey(pem.decode(), public, _sha256(public))


def read_public(material: bytes) -> PublicKey:
    """A public key in OpenSSH's form, RFC 4716's, PEM or DER; or base64 of one of these.

    Raises InvalidKey.Format.
    """
    if len(material) <= 2 * PUBLIC_KEY_BYTES_MAX:
        key = _load(material.strip()) or _load(_unwrapped(material))
        if isinstance(key, Ed25519PublicKey):
            public = _openssh(key)
            return PublicKey("ed25519", public, _sha256(public))
        if isinstance(key, RSAPublicKey) and key.key_size in RSA_BITS_ACCEPTED:
            der = key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
            digest = hashlib.md5(der, usedforsecurity=False).hexdigest()
            return PublicKey("rsa", _openssh(key), _colons(digest))
    raise ApiError("InvalidKey.Format", "Key is not in valid OpenSSH public key format")


def _load(material: bytes) -> object:
    load = load_der_public_key
    if material.startswith(_RFC4716_BEGIN):
        material = _openssh_line(material)
    if material.startswith(b"-----BEGIN"):
        load = load_pem_public_key
    elif material.startswith((b"ssh-", b"ecdsa-", b"sk-")):
        load = load_ssh_public_key
    try:
        return load(material)
    except (ValueError, UnsupportedAlgorithm):
        return None


def _openssh_line(material: bytes) -> bytes:
    """An RSA key in RFC 4716's form as OpenSSH's one line; empty for one that is cut short.

    EC2 takes no other type in this form. Between the first and the last line stand headers, which a
    backslash continues on the next line, and base64.
    """
    lines = [line.strip() for line in material.strip().splitlines()]
    if lines[-1] != _RFC4716_END:
        return b""
    body: list[bytes] = []
    header = False
    for line in lines[1:-1]:
        in_header = header or b":" in line
        header = in_header and line.endswith(b"\\")
        if not in_header:
            body.append(line)
    return b"ssh-rsa " + b"".join(body)


def _unwrapped(material: bytes) -> bytes:
    """The content of base64: clients encode the material once, some users before that once more."""
    try:
        return base64.b64decode(b"".join(material.split()), validate=True)
    except ValueError:
        return b""


def _openssh(key: RSAPublicKey | Ed25519PublicKey) -> str:
    return key.public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode()


def _sha256(public: str) -> str:
    blob = base64.b64decode(public.split()[1])
    return base64.b64encode(hashlib.sha256(blob).digest()).decode()


def _colons(digest: str) -> str:
    return ":".join(digest[i : i + 2] for i in range(0, len(digest), 2))
