from __future__ import annotations

import pytest
from botocore.eventstream import EventStreamBuffer

from gureum.gateway import eventstream


def test_frames_are_as_botocore_reads_them() -> None:
    data = (
        eventstream.event("Records", "application/octet-stream", b"\x00\xff", {"extra": "é"})
        + eventstream.event("End", "", b"", {})
        + eventstream.exception("TooMany", "application/json", b"{}")
        + eventstream.error("InternalFailure", "what happened")
    )
    buffer = EventStreamBuffer()
    for at in range(0, len(data), 5):
        buffer.add_data(data[at : at + 5])
    read = [(message.headers, message.payload) for message in buffer]
    assert read == [
        (
            {
                ":message-type": "event",
                ":event-type": "Records",
                ":content-type": "application/octet-stream",
                "extra": "é",
            },
            b"\x00\xff",
        ),
        ({":message-type": "event", ":event-type": "End"}, b""),
        (
            {":message-type": "exception", ":exception-type": "TooMany", ":content-type": "application/json"},
            b"{}",
        ),
        (
            {
                ":message-type": "error",
                ":error-code": "InternalFailure",
                ":error-message": "what happened",
            },
            b"",
        ),
    ]


def test_too_large_an_event() -> None:
    with pytest.raises(ValueError, match="larger than"):
        eventstream.event("e", "", bytes(eventstream.FRAME_BYTES_MAX), {})
