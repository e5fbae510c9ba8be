"""IMDSv2 session tokens: signed, so that there is nothing to store and restarts do not matter."""

from __future__ import annotations

import base64
import hashlib
import hmac
import logging
from pathlib import Path

from gureum.env import Env
from gureum.files import write_atomically

log = logging.getLogger(__name__)

TTL_SECONDS_MAX = 21600
KEY_BYTES = 32
_NONCE_BYTES = 8
_MAC_BYTES = 26
# A multiple of 3: base64 then has one text for one token.
_SIZE = 8 + _NONCE_BYTES + _MAC_BYTES


class Tokens:
    """Makes and checks tokens. A token holds for one instance, until its time is over."""

    def __init__(self, env: Env, key: bytes) -> None:
        self._env = env
        self._key = key

    def issue(self, instance: str, ttl_seconds: int) -> str:
        expires = int(self._env.now()) + ttl_seconds
        body = expires.to_bytes(8, "big") + self._env.random.randbytes(_NONCE_BYTES)
        return base64.urlsafe_b64encode(body + self._sign(instance, body)).decode()

    def valid(self, instance: str, token: str) -> bool:
        try:
            data = base64.b64decode(token.encode("ascii"), altchars=b"-_", validate=True)
        except (ValueError, UnicodeEncodeError):
            return False
        if len(data) != _SIZE:
            return False
        body, signature = data[:-_MAC_BYTES], data[-_MAC_BYTES:]
        if not hmac.compare_digest(signature, self._sign(instance, body)):
            return False
        return int.from_bytes(body[:8], "big") > self._env.now()

    def _sign(self, instance: str, body: bytes) -> bytes:
        return hmac.digest(self._key, instance.encode() + b"\0" + body, hashlib.sha256)[:_MAC_BYTES]


def load_key(path: Path, env: Env) -> bytes:
    """The key in a file that only its owner can read; made where there is none.

    Where it cannot be kept (a full disk) it is this process's only: tokens then end with it.
    """
    try:
        key = path.read_bytes()
        if len(key) == KEY_BYTES:
            return key
    except OSError as error:
        if not isinstance(error, FileNotFoundError):
            log.warning("%s: %s: a new key is made", path, error.strerror)
    key = env.random.randbytes(KEY_BYTES)
    try:
        write_atomically(path, key)
    except OSError as error:
        log.warning("%s: %s: metadata tokens will not outlive this agent", path, error.strerror)
    return key
