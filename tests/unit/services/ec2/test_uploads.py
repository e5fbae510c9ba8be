from __future__ import annotations

import hashlib
from datetime import UTC, datetime

from gureum.resources import Snapshot
from gureum.services.ec2 import uploads
from gureum.services.ec2.uploads import Uploads


def snapshot(id: str = "snap-1") -> Snapshot:
    started = datetime.fromtimestamp(0, UTC)
    return Snapshot(id=id, volume="vol-1", size_bytes=1, started=started, timeout_seconds=60.0)


def test_it_expires_after_the_last_block() -> None:
    known = Uploads()
    known.begin("snap-1", 0.0)
    assert not known.expired(snapshot(), 59.0)
    known.wrote("snap-1", 50.0, 7, b"")
    assert not known.expired(snapshot(), 109.0)
    assert known.expired(snapshot(), 110.0)


def test_one_from_before_this_process_is_not_known_whole() -> None:
    known = Uploads()
    assert not known.expired(snapshot(), 1000.0)
    assert not known.get("snap-1", 1000.0).whole
    assert known.expired(snapshot(), 1060.0)
    known.begin("snap-2", 0.0)
    assert known.get("snap-2", 0.0).whole


def test_checksum_is_linear_in_the_order_of_the_indexes() -> None:
    known = Uploads()
    for index, part in ((9, b"9" * 32), (1, b"x" * 32), (1, b"1" * 32)):
        known.wrote("snap-1", 0.0, index, part)
    upload = known.get("snap-1", 0.0)
    assert upload.checksum() == hashlib.sha256(b"1" * 32 + b"9" * 32).digest()
    assert len(upload.blocks) == 2


def test_they_are_bounded() -> None:
    known = Uploads()
    for number in range(uploads.UPLOADS_MAX + 1):
        known.begin(f"snap-{number}", 0.0)
    assert not known.get("snap-0", 0.0).whole
    assert known.get(f"snap-{uploads.UPLOADS_MAX}", 0.0).whole
