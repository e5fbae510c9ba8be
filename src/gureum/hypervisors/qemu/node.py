"""What QEMU is told as JSON: a block node, a device, an object."""

from __future__ import annotations

Node = dict[str, object]
