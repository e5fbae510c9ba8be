"""What the process of a machine may have."""

from __future__ import annotations

from gureum.hypervisors.qemu.launch import limits_of
from gureum.migrationspec import Room

GIB = 1 << 30


def test_kvm_keeps_books_of_room_that_was_never_used() -> None:
    """Once the guest has guests of its own; what the kernel has for that counts as the machine's."""
    room = Room(threads=1, vcpus_max=8, memory_bytes=8 * GIB, memory_max_bytes=512 * GIB)
    alone, growing = (limits_of(2, 8 * GIB, "kvm", False, each).memory_bytes for each in (None, room))
    rmaps = 8 * (504 * GIB // 4096)
    assert rmaps <= growing - alone <= 1.5 * rmaps
    emulated = [limits_of(2, 8 * GIB, "tcg", False, each).memory_bytes for each in (None, room)]
    assert len(set(emulated)) == 1
