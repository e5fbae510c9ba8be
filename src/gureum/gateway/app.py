"""The ASGI application: authenticate, find the operation, parse, dispatch, serialise."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import logging
import os
from collections.abc import AsyncIterable, Awaitable, Callable, MutableMapping
from typing import Any, NamedTuple

from gureum.errors import ApiError
from gureum.gateway import errors, sigv4
from gureum.gateway.body import Body, BodyReader, Budget, ClientGone, inflated, payload_body
from gureum.gateway.call import Call, Credential, CredentialLookup, Dispatch, Fragment
from gureum.gateway.catalogue import Catalogue
from gureum.gateway.codecs import Codec
from gureum.gateway.errors import AuthError, AuthFault
from gureum.gateway.limits import Limits
from gureum.gateway.message import Answer, Request
from gureum.gateway.protocols import Codecs
from gureum.gateway.query import split_form
from gureum.gateway.scalars import InputError
from gureum.gateway.shapes import Operation

log = logging.getLogger(__name__)

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]


HEALTH = "/.gureum/health"
"""Answered with 200 by the manager that leads, also to who signs nothing: for load balancers. No bucket can
have this name.
"""


def random_request_id() -> str:
    digits = os.urandom(16).hex()
    return f"{digits[:8]}-{digits[8:12]}-{digits[12:16]}-{digits[16:20]}-{digits[20:]}"


class Gateway:
    """An ASGI application that serves AWS's APIs.

    ``clock`` is seconds since the epoch. ``regions`` names the regions that exist here; None takes any.
    ``domains`` are the host names under which a bucket may be a label: ``bucket.s3.localhost``.
    ``healthy``: whether calls should be sent here.
    """

    def __init__(
        self,
        dispatch: Dispatch,
        credentials: CredentialLookup,
        clock: Callable[[], float],
        limits: Limits,
        *,
        catalogue: Catalogue,
        request_ids: Callable[[], str] = random_request_id,
        regions: frozenset[str] | None = None,
        domains: tuple[str, ...] = ("localhost", "localhost.localstack.cloud", "amazonaws.com"),
        healthy: Callable[[], bool] = lambda: True,
    ) -> None:
        self._dispatch = dispatch
        self._credentials = credentials
        self._clock = clock
        self._limits = limits
        self._request_ids = request_ids
        self._regions = regions
        self._codecs = Codecs(catalogue, limits, domains)
        self._verifier = sigv4.Verifier()
        self._healthy = healthy
        self._budget = Budget(limits.buffered_bytes_max)

    def fragment(self, service: str, shape: str, value: Any) -> Fragment:
        """A structure's content, serialised once, to stand in its place in outputs (XML protocols only)."""
        return self._codecs.fragment(service, shape, value)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            if scope["type"] == "lifespan":
                await _lifespan(receive, send)
            return
        reader = BodyReader(receive, self._budget)
        try:
            answer = await self._answer(Request(scope), reader)
            await _send(answer, scope["method"], receive, send)
        except ClientGone:
            return
        finally:
            reader.release()

    async def _answer(self, request: Request, reader: BodyReader) -> Answer:
        if request.raw_path == HEALTH and request.method in ("GET", "HEAD"):
            healthy = self._healthy()
            said = b"leads\n" if healthy else b"does not lead\n"
            return Answer(200 if healthy else 503, [(b"content-type", b"text/plain")], said)
        request_id = self._request_ids()
        codec = self._codecs.fallback
        try:
            request.query = split_form(request.raw_query, self._limits)
            codec = await self._codec(request, reader)
            return await self._serve(request, reader, codec, request_id)
        except AuthError as failure:
            error = errors.auth_error(failure, codec.protocol)
        except InputError as failure:
            error = errors.input_error(failure, codec.protocol)
        except ApiError as failure:
            error = failure
        except ClientGone:
            raise
        except Exception:
            log.exception("request %s failed: %s %s", request_id, request.method, request.raw_path[:200])
            error = errors.internal_error(codec.protocol, request_id)
        return codec.answer_error(error, request, request_id)

    async def _codec(self, request: Request, reader: BodyReader) -> Codec:
        """The service and protocol, from what the request says of itself; nothing of it is believed yet."""
        signing_name = sigv4.claimed_service(request)
        version = ""
        if not signing_name:
            pairs = request.query
            if request.has_form:
                pairs = pairs + split_form(await reader.whole(self._limits.body_bytes_max), self._limits)
            version = next((value for name, value in pairs if name == "Version"), "")
        return self._codecs.find(request, signing_name, version)

    async def _serve(self, request: Request, reader: BodyReader, codec: Codec, request_id: str) -> Answer:
        claim = sigv4.read_claim(request)
        service = codec.service.name
        limit = self._limits.body_bytes(service)
        proof: _Proof | None = None
        if claim is None:
            if not codec.reads_forms:  # no model of another protocol lets anything through unsigned
                raise AuthError(AuthFault.MISSING)
            request.body = await reader.whole(limit)
        else:
            if claim.payload == sigv4.UNSIGNED and codec.reads_forms:
                raise AuthError(
                    AuthFault.MISMATCH, "The payload of this service's operations must be signed."
                )
            proof = await self._authenticate(request, reader, claim, limit)
        operation, labels = self._operation(request, codec, claim)
        if not self._dispatch.implemented(service, operation.name):
            raise errors.not_implemented(service, operation.name)
        body = Body(reader, length=len(request.body))
        if proof is not None and not proof.hashed:
            body = payload_body(request, reader, proof.claim, proof.key, checksummed=operation.checksummed)
            if not codec.streams(operation):
                request.body = await body.read(limit)
        if request.body and "content-encoding" in request.headers and service != "s3":
            request.body = inflated(request.body, request.headers["content-encoding"], limit)
        call = Call(
            service=service,
            operation=operation.name,
            input=codec.parse(operation, request, labels, body),
            region=claim.region if claim else "",
            request_id=request_id,
            caller=proof.credential.principal if proof else None,
            source_ip=request.source_ip,
            access_key=proof.credential.access_key if proof else "",
        )
        return codec.render(operation, await self._dispatch(call), request_id)

    def _operation(
        self, request: Request, codec: Codec, claim: sigv4.Claim | None
    ) -> tuple[Operation, dict[str, str]]:
        if request.has_form and codec.reads_forms:
            request.query = request.query + split_form(request.body, self._limits)
        name, labels = codec.locate(request)
        operation = codec.operation(name)
        if claim is None and (operation is None or not operation.anonymous):
            raise AuthError(AuthFault.MISSING)
        if operation is None:
            if not self._codecs.known(codec.service.name):
                raise errors.not_implemented(codec.service.name, name or "this operation")
            raise errors.unknown_operation(codec.protocol, name, codec.service.api_version)
        unsigned = claim is not None and claim.payload == sigv4.UNSIGNED and not claim.for_s3
        if unsigned and not operation.unsigned_body:
            raise AuthError(AuthFault.MISMATCH, "The payload of this operation must be signed.")
        return operation, labels

    async def _authenticate(
        self, request: Request, reader: BodyReader, claim: sigv4.Claim, limit: int
    ) -> _Proof:
        """Who sent the request. Reads the body where the signature covers its hash and no header tells it."""
        now = self._clock()
        self._verifier.check_time(claim, now)
        if self._regions is not None and claim.region not in self._regions:
            text = f"Credential should be scoped to a valid region, not '{claim.region}'."
            raise AuthError(AuthFault.MISMATCH, text)
        payload = claim.payload
        hashed = not payload or (not claim.for_s3 and payload != sigv4.UNSIGNED)
        if hashed:
            request.body = await reader.whole(limit)
            digest = hashlib.sha256(request.body).hexdigest()
            if payload and not hmac.compare_digest(payload, digest):
                raise AuthError(AuthFault.MISMATCH)
            payload = digest
        credential = await self._credentials(claim.access_key)
        key = self._verifier.check(request, claim, credential, payload, now)
        assert credential is not None
        return _Proof(claim, credential, key, hashed)


class _Proof(NamedTuple):
    """A claim that was verified. ``hashed``: its signature covered the body, which has been read."""

    claim: sigv4.Claim
    credential: Credential
    key: bytes
    hashed: bool


async def _send(answer: Answer, method: str, receive: Receive, send: Send) -> None:
    headers = answer.headers
    body = answer.body
    if isinstance(body, bytes):
        if method != "HEAD" and answer.status != 204:
            headers = [pair for pair in headers if pair[0] != b"content-length"]
            headers.append((b"content-length", str(len(body)).encode("ascii")))
        await send({"type": "http.response.start", "status": answer.status, "headers": headers})
        await send({"type": "http.response.body", "body": b"" if method == "HEAD" else body})
        return
    await send({"type": "http.response.start", "status": answer.status, "headers": headers})
    sender = asyncio.create_task(_send_pieces(body, send))
    gone = asyncio.create_task(_disconnected(receive))
    try:
        await asyncio.wait({sender, gone}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        gone.cancel()
        if not sender.done():  # nobody is there to read the rest, or this request is cut off
            sender.cancel()
        await asyncio.wait({sender, gone})
    if not sender.cancelled():
        sender.result()


async def _send_pieces(body: AsyncIterable[bytes], send: Send) -> None:
    async for piece in body:
        await send({"type": "http.response.body", "body": piece, "more_body": True})
    await send({"type": "http.response.body", "body": b""})


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _lifespan(receive: Receive, send: Send) -> None:
    while True:
        message = await receive()
        await send({"type": f"{message['type']}.complete"})
        if message["type"] == "lifespan.shutdown":
            return
