"""Asks a daemon on this machine about itself, by its admin socket: what it says cannot be out of date."""

from __future__ import annotations

import json
import socket
import struct
from pathlib import Path
from typing import Any

TIMEOUT_S = 2.0
ANSWER_BYTES_MAX = 1 << 20


def ask_daemon(path: Path, prefix: str) -> Any:
    """The JSON that the daemon answers, None where it does not."""
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as stream:
            stream.settimeout(TIMEOUT_S)
            stream.connect(str(path))
            stream.sendall(json.dumps({"prefix": prefix, "format": "json"}).encode() + b"\0")
            with stream.makefile("rb") as answer:
                (size,) = struct.unpack("!I", answer.read(4))
                return json.loads(answer.read(min(size, ANSWER_BYTES_MAX)))
    except (OSError, ValueError, struct.error):
        return None


def is_in_map(path: Path) -> bool:
    """Whether an OSD that runs has joined the others."""
    said = ask_daemon(path, "status")
    return isinstance(said, dict) and said.get("state") == "active"
