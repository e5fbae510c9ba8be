"""Signature Version 4: who sent a request, and that it is as they sent it.

One verifier for every service and operation, run before the operation is even looked for. What it does not
understand it refuses: an unknown algorithm, an unknown kind of payload, a header that is signed and doubled.
Rules: AWS's "Signature Version 4 signing process"; S3's path is encoded once, the others' twice.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from calendar import timegm
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from urllib.parse import quote, quote_from_bytes, unquote_to_bytes

import msgspec

from gureum.gateway.call import Credential
from gureum.gateway.errors import AuthError, AuthFault
from gureum.gateway.message import Request

ALGORITHM = "AWS4-HMAC-SHA256"
SKEW_SECONDS = 15 * 60
PRESIGNED_SECONDS_MAX = 7 * 24 * 3600
KEYS_CACHED = 1024

UNSIGNED = "UNSIGNED-PAYLOAD"
STREAMING_SIGNED = "STREAMING-AWS4-HMAC-SHA256-PAYLOAD"
STREAMING_SIGNED_TRAILER = "STREAMING-AWS4-HMAC-SHA256-PAYLOAD-TRAILER"
STREAMING_UNSIGNED_TRAILER = "STREAMING-UNSIGNED-PAYLOAD-TRAILER"
STREAMING = {STREAMING_SIGNED, STREAMING_SIGNED_TRAILER, STREAMING_UNSIGNED_TRAILER}

S3_SERVICES = {"s3", "s3express", "s3-object-lambda", "s3-outposts"}
"""Signing names whose paths are signed as sent and whose payloads may be streamed."""

_BLANKS = re.compile(r"[ \t]+")
_HEX64 = re.compile(r"[0-9a-f]{64}\Z")
_TIMESTAMP = re.compile(r"\d{8}T\d{6}Z\Z")
_QUERY_NAMES = {
    "X-Amz-Algorithm", "X-Amz-Credential", "X-Amz-Date", "X-Amz-Expires", "X-Amz-SignedHeaders",
    "X-Amz-Signature", "X-Amz-Security-Token", "X-Amz-Content-Sha256",
}  # fmt: skip
_NO_KEY = Credential(access_key="", secret="0" * 40)


class Claim(msgspec.Struct):
    """What a request says about its signature, before anything of it is believed."""

    access_key: str
    date: str
    region: str
    service: str
    timestamp: str
    signed_headers: list[str]
    signature: str
    token: str | None
    payload: str = ""
    """x-amz-content-sha256: a hash, one of the words for an unsigned or streamed payload, or nothing."""
    presigned: bool = False
    expires_seconds: int = 0

    @property
    def scope(self) -> str:
        return f"{self.date}/{self.region}/{self.service}/aws4_request"

    @property
    def for_s3(self) -> bool:
        return self.service in S3_SERVICES

    @property
    def seconds(self) -> int:
        """The time of signing, since the epoch."""
        t = self.timestamp
        day = datetime(int(t[:4]), int(t[4:6]), int(t[6:8]), int(t[9:11]), int(t[11:13]), int(t[13:15]))
        return timegm(day.timetuple())


def claimed_service(request: Request) -> str:
    """The service in the credential's scope, well-formed or not; "" if there is none."""
    authorization = request.headers.get("authorization", "")
    _, found, rest = authorization.partition("Credential=")
    if not found:
        rest = next((value for name, value in request.query if name == "X-Amz-Credential"), "")
    parts = rest.partition(",")[0].split("/")
    return parts[3] if len(parts) > 3 else ""


def read_claim(request: Request) -> Claim | None:
    """The claim of a request, from its headers or its query; None if it makes none.

    Takes the signature's parameters out of ``request.query``.
    """
    authorization = request.headers.get("authorization")
    signing = {name: value for name, value in request.query if name in _QUERY_NAMES}
    presigned = "X-Amz-Algorithm" in signing or "X-Amz-Signature" in signing
    if authorization is None:
        if not presigned:
            return None
        claim = _query_claim(request, signing)
        _check_payload(
            claim, request.headers.get("x-amz-content-sha256") or signing.get("X-Amz-Content-Sha256")
        )
        return claim
    if presigned:
        raise AuthError(AuthFault.INCOMPLETE, "Only one auth mechanism allowed, a header or the query.")
    if "authorization" in request.duplicates:
        raise AuthError(AuthFault.INCOMPLETE, "The Authorization header is given twice.")
    claim = _header_claim(request, authorization)
    _check_payload(claim, request.headers.get("x-amz-content-sha256"))
    return claim


def _check_payload(claim: Claim, payload: str | None) -> None:
    """What is not known to be verified later is refused here, so that no new word slips through."""
    if payload is None:
        if claim.for_s3:
            if not claim.presigned:
                raise AuthError(AuthFault.INCOMPLETE, "The request lacks the x-amz-content-sha256 header.")
            claim.payload = UNSIGNED
        return
    if not (_HEX64.match(payload) or payload == UNSIGNED or (payload in STREAMING and claim.for_s3)):
        raise AuthError(AuthFault.MISMATCH, "The value of x-amz-content-sha256 is not supported.")
    if payload in STREAMING and claim.presigned:
        raise AuthError(AuthFault.MISMATCH, "A presigned request cannot have a streamed payload.")
    claim.payload = payload


def _header_claim(request: Request, authorization: str) -> Claim:
    algorithm, _, rest = authorization.partition(" ")
    if algorithm != ALGORITHM:
        raise AuthError(AuthFault.INCOMPLETE, f"Unsupported authorization type; {ALGORITHM} is expected.")
    fields: dict[str, str] = {}
    for piece in rest.split(","):
        name, _, value = piece.strip(" \t").partition("=")
        if name in fields:
            raise AuthError(AuthFault.INCOMPLETE, f"The Authorization header has {name[:20]} twice.")
        fields[name] = value
    if fields.keys() != {"Credential", "SignedHeaders", "Signature"}:
        raise AuthError(
            AuthFault.INCOMPLETE,
            "Authorization header requires 'Credential', 'SignedHeaders' and 'Signature'.",
        )
    headers = request.headers
    token = headers.get("x-amz-security-token")
    return _claim(
        fields["Credential"], _header_time(headers), fields["SignedHeaders"], fields["Signature"], token
    )


def _header_time(headers: dict[str, str]) -> str:
    if (timestamp := headers.get("x-amz-date")) is not None:
        return timestamp
    try:
        return parsedate_to_datetime(headers["date"]).astimezone(UTC).strftime("%Y%m%dT%H%M%SZ")
    except (KeyError, ValueError, TypeError, IndexError, OverflowError):
        raise AuthError(
            AuthFault.INCOMPLETE,
            "Authorization header requires existence of an 'X-Amz-Date' or 'Date' header.",
        ) from None


def _query_claim(request: Request, signing: dict[str, str]) -> Claim:
    names = [name for name, _ in request.query if name in _QUERY_NAMES]
    if len(names) != len(set(names)):
        raise AuthError(AuthFault.INCOMPLETE, "A signing parameter is given twice.")
    try:
        algorithm = signing["X-Amz-Algorithm"]
        expires = signing["X-Amz-Expires"]
        claim = _claim(
            signing["X-Amz-Credential"], signing["X-Amz-Date"], signing["X-Amz-SignedHeaders"],
            signing["X-Amz-Signature"], signing.get("X-Amz-Security-Token"),
        )  # fmt: skip
    except KeyError as missing:
        raise AuthError(AuthFault.INCOMPLETE, f"The query lacks {missing.args[0]}.") from None
    if algorithm != ALGORITHM:
        raise AuthError(AuthFault.INCOMPLETE, f"X-Amz-Algorithm only supports {ALGORITHM}.")
    if not (expires.isascii() and expires.isdigit() and len(expires) < 9):
        raise AuthError(AuthFault.INCOMPLETE, "X-Amz-Expires should be a number of seconds.")
    claim.expires_seconds = int(expires)
    if claim.expires_seconds > PRESIGNED_SECONDS_MAX:
        raise AuthError(
            AuthFault.INCOMPLETE, f"X-Amz-Expires must be less than {PRESIGNED_SECONDS_MAX} seconds."
        )
    claim.presigned = True
    request.query = [pair for pair in request.query if pair[0] not in _QUERY_NAMES]
    return claim


def _claim(credential: str, timestamp: str, signed: str, signature: str, token: str | None) -> Claim:
    parts = credential.split("/")
    if len(parts) != 5 or parts[4] != "aws4_request" or not all(parts):
        raise AuthError(
            AuthFault.INCOMPLETE,
            "Credential must be of the form <access key>/<date>/<region>/<service>/aws4_request.",
        )
    if not (credential.isascii() and signed.isascii()):
        raise AuthError(AuthFault.INCOMPLETE, "The credential and the names of the signed headers are ASCII.")
    if not _TIMESTAMP.match(timestamp):
        raise AuthError(AuthFault.INCOMPLETE, "The date must be in ISO 8601's basic format.")
    if not _HEX64.match(signature):
        raise AuthError(AuthFault.MISMATCH)
    if parts[1] != timestamp[:8]:
        raise AuthError(AuthFault.INCOMPLETE, "The credential's date is not that of the request.")
    return Claim(parts[0], parts[1], parts[2], parts[3], timestamp, signed.split(";"), signature, token)


class Verifier:
    """Checks claims against secrets. Keeps the signing keys of verified requests, since they last a day."""

    def __init__(self) -> None:
        self._keys: dict[tuple[str, str, str, str, str], bytes] = {}

    def check_time(self, claim: Claim, now: float) -> None:
        """Raises AuthError if the claim was not made about ``now`` (or, presigned, is no longer valid)."""
        try:
            signed_at = claim.seconds
        except ValueError:
            raise AuthError(AuthFault.INCOMPLETE, "The date is not a date.") from None
        if claim.presigned and now > signed_at + claim.expires_seconds:
            raise AuthError(AuthFault.EXPIRED)
        if not claim.presigned and signed_at < now - SKEW_SECONDS:
            raise AuthError(AuthFault.SKEWED, f"Signature expired: {claim.timestamp} is before {_shown(now)}")
        if signed_at > now + SKEW_SECONDS:
            raise AuthError(
                AuthFault.SKEWED,
                f"Signature not yet current: {claim.timestamp} is still later than {_shown(now)}",
            )

    def check(
        self, request: Request, claim: Claim, credential: Credential | None, payload_hash: str, now: float
    ) -> bytes:
        """The signing key, which goes on to verify the chunks of a body; raises AuthError.

        An unknown access key costs the same work as a known one.
        """
        self._check_signed_headers(request, claim)
        known = credential or _NO_KEY
        cache_key = (known.access_key, known.secret, claim.date, claim.region, claim.service)
        key = self._keys.get(cache_key)
        cached = key is not None
        if key is None:
            key = signing_key(known.secret, claim.date, claim.region, claim.service)
        matches = False
        for canonical in canonical_requests(request, claim, payload_hash):
            digest = hashlib.sha256(canonical.encode("latin-1")).hexdigest()
            to_sign = f"{ALGORITHM}\n{claim.timestamp}\n{claim.scope}\n{digest}"
            expected = hmac.digest(key, to_sign.encode("latin-1"), "sha256").hex()
            matches |= hmac.compare_digest(expected, claim.signature)
            if matches:
                break
        if credential is None:
            raise AuthError(AuthFault.UNKNOWN_KEY)
        if not matches:
            raise AuthError(AuthFault.MISMATCH)
        _check_token(claim, credential, now)
        if not cached:
            self._keep(cache_key, key)
        return key

    def _keep(self, cache_key: tuple[str, str, str, str, str], key: bytes) -> None:
        """Keeps a key, and the one that unknown access keys meet in its scope: both then cost the same."""
        if len(self._keys) >= KEYS_CACHED:
            self._keys.clear()
        self._keys[cache_key] = key
        scope = cache_key[2:]
        self._keys[_NO_KEY.access_key, _NO_KEY.secret, *scope] = signing_key(_NO_KEY.secret, *scope)

    def _check_signed_headers(self, request: Request, claim: Claim) -> None:
        signed = claim.signed_headers
        if "host" not in signed:
            raise AuthError(AuthFault.INCOMPLETE, "'Host' must be a 'SignedHeader' in the AWS Authorization.")
        if len(set(signed)) != len(signed):
            raise AuthError(AuthFault.INCOMPLETE, "A header is signed twice.")
        if request.duplicates and not request.duplicates.isdisjoint(signed):
            raise AuthError(AuthFault.MISMATCH, "A signed header is given twice.")
        headers = request.headers
        for name in signed:
            if name not in headers:
                raise AuthError(AuthFault.MISMATCH, f"The signed header {name[:64]} is not in the request.")
        for name in headers:
            if name.startswith("x-amz-") and name not in signed:
                raise AuthError(
                    AuthFault.MISMATCH, f"The header {name[:64]} is in the request, but not signed."
                )


def _shown(now: float) -> str:
    return datetime.fromtimestamp(now, UTC).strftime("%Y%m%dT%H%M%SZ")


def _check_token(claim: Claim, credential: Credential, now: float) -> None:
    expected = credential.session_token
    if (expected is None) != (claim.token is None):
        raise AuthError(AuthFault.BAD_TOKEN)
    if expected is not None and claim.token is not None:
        sent = claim.token.encode("utf-8", "surrogateescape")
        if not hmac.compare_digest(sent, expected.encode()):
            raise AuthError(AuthFault.BAD_TOKEN)
    if credential.expires is not None and credential.expires <= now:
        raise AuthError(AuthFault.EXPIRED_TOKEN)


def signing_key(secret: str, date: str, region: str, service: str) -> bytes:
    key = ("AWS4" + secret).encode()
    for part in (date, region, service, "aws4_request"):
        key = hmac.digest(key, part.encode("utf-8", "surrogateescape"), "sha256")
    return key


def canonical_requests(request: Request, claim: Claim, payload_hash: str) -> list[str]:
    """The canonical request; two of them where a path may be taken as sent or regularly encoded."""
    headers = request.headers
    lines = "".join(f"{name}:{_trimmed(headers[name])}\n" for name in claim.signed_headers)
    query = canonical_query(request.raw_query, claim.presigned)
    tail = f"\n{query}\n{lines}\n{';'.join(claim.signed_headers)}\n{payload_hash}"
    return [f"{request.method}\n{path}{tail}" for path in canonical_paths(request.raw_path, claim.service)]


def _trimmed(value: str) -> str:
    """Runs of blanks made one. Of ASCII's only: str.split takes U+0085 and U+00A0 for blanks too."""
    return " ".join(value.split()) if value.isascii() else _BLANKS.sub(" ", value).strip(" ")


def canonical_paths(raw_path: str, service: str) -> list[str]:
    if raw_path == "/":
        return ["/"]
    as_sent = raw_path
    if service not in S3_SERVICES:
        as_sent = _normalised(as_sent)
    regular = "/".join(
        quote_from_bytes(unquote_to_bytes(p.encode("latin-1")), "-_.~") for p in as_sent.split("/")
    )
    paths = [as_sent] if as_sent == regular else [regular, as_sent]
    if service in S3_SERVICES:
        return paths
    return [quote(path, safe="/-_.~", encoding="latin-1") for path in paths]


def _normalised(path: str) -> str:
    """Without empty and dot segments (RFC 3986, 5.2.4), as every service but S3 signs it."""
    kept: list[str] = []
    for piece in path.split("/"):
        if piece == "..":
            if kept:
                kept.pop()
        elif piece and piece != ".":
            kept.append(piece)
    return "/" + "/".join(kept) + ("/" if kept and path.endswith("/") else "")


def canonical_query(raw: bytes, presigned: bool) -> str:
    if not raw:
        return ""
    pairs = []
    for piece in raw.split(b"&"):
        name, _, value = piece.partition(b"=")
        if presigned and name == b"X-Amz-Signature":
            continue
        if piece:
            pairs.append((_regular(name), _regular(value)))
    pairs.sort()
    return "&".join(f"{name}={value}" for name, value in pairs)


def _regular(piece: bytes) -> str:
    if piece.isalnum():
        return piece.decode("ascii")
    return quote_from_bytes(unquote_to_bytes(piece.replace(b"+", b" ")), "-_.~")
