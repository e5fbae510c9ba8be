"""Key pairs. Only the public half is kept."""

from __future__ import annotations

from datetime import datetime
from typing import ClassVar

from gureum.resources.record import Record


class KeyPair(Record, frozen=True, kw_only=True, omit_defaults=True):
    """``id`` is ``key-...``; ``public_key`` is in OpenSSH's one-line form without a comment.

    ``fingerprint`` as EC2 shows it: SHA-256 base64 for ed25519; for RSA, SHA-1 of the PKCS#8 private key in
    DER when EC2 made the pair, MD5 of the public key in DER when it was imported.
    """

    name: str
    type: str
    public_key: str
    fingerprint: str
    created: datetime

    kind: ClassVar[str] = "key-pair"
    indexes: ClassVar[tuple[str, ...]] = ("account", "name")
