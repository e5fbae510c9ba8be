"""Output members that are event streams: boto3's events to frames."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterable, AsyncIterator, Callable
from typing import Any

from gureum.errors import ApiError
from gureum.gateway import eventstream
from gureum.gateway.catalogue import Catalogue
from gureum.gateway.shapes import Ref, Shape

log = logging.getLogger(__name__)

WriteBody = Callable[[Ref, Any], bytes]
"""The bytes of a structure in the service's format."""


class EventWriter:
    """Writes the events of one event stream shape.

    A stream is an async iterable of ``{event name: {member: value}}``. An ApiError that it raises becomes the
    stream's last frame, since the status line has long been sent.
    """

    def __init__(
        self, catalogue: Catalogue, service: str, stream: Shape, write: WriteBody, content_type: str
    ) -> None:
        self._write = write
        self._content_type = content_type
        self._members = {ref.name: ref for ref in stream.members}
        self._shapes = {ref.name: catalogue.shape(service, ref.shape) for ref in stream.members}

    async def frames(
        self, stream: AsyncIterable[dict[str, Any]], initial: bytes | None, request_id: str
    ) -> AsyncIterator[bytes]:
        if initial is not None:
            yield eventstream.event("initial-response", self._content_type, initial, {})
        try:
            async for event in stream:
                for name, value in event.items():
                    yield self._event(name, value)
        except ApiError as error:
            yield self._error(error)
        except Exception:
            log.exception("request %s: its event stream failed", request_id)
            yield eventstream.error(
                "InternalFailure", f"An internal error has occurred (request {request_id})."
            )

    def _event(self, name: str, value: dict[str, Any]) -> bytes:
        payload = next((m for m in self._shapes[name].members if m.event_payload), None)
        if payload is None:
            if not self._shapes[name].members:
                return eventstream.event(name, "", b"", {})
            return eventstream.event(name, self._content_type, self._write(self._members[name], value), {})
        item = value.get(payload.name)
        if payload.kind == "blob":
            return eventstream.event(name, "application/octet-stream", bytes(item or b""), {})
        if payload.kind == "string":
            return eventstream.event(name, "text/plain", (item or "").encode(), {})
        return eventstream.event(name, self._content_type, self._write(payload, item or {}), {})

    def _error(self, error: ApiError) -> bytes:
        shape = self._shapes.get(error.code)
        if shape is None or not shape.error:
            return eventstream.error(error.code, error.message)
        body = {**error.fields}
        for name in ("message", "Message"):
            if shape.member(name):
                body[name] = error.message
        return eventstream.exception(
            error.code, self._content_type, self._write(self._members[error.code], body)
        )
