"""The world outside: a namespace behind the machine, to which that is a router."""

from __future__ import annotations

import contextlib
import http.server
import os
import subprocess
import threading
import urllib.request
from collections.abc import Iterator
from typing import Any

from gureum.network.namespaces import visit

from .guests import PORT

TRY_SECONDS = 2
INDEX = int(os.environ["GUREUM_TEST_INDEX"])
OUTSIDE, CABLE = f"gvpct{INDEX}-outside", f"gvpct{INDEX}"
OUTSIDE_ADDRESS, ROUTER_ADDRESS = f"198.51.100.{4 * INDEX + 2}", f"198.51.100.{4 * INDEX + 1}"
"""Of who is there, and of the machine there (RFC 5737)."""
OUTSIDE_ADDRESS6, ROUTER_ADDRESS6 = f"2001:db8:55:{INDEX:x}::2", f"2001:db8:55:{INDEX:x}::1"
"""The same of IPv6 (RFC 3849)."""


class _Who(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        body = f"outside {self.client_address[0]}\n".encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        pass


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True)


@contextlib.contextmanager
def outside_world() -> Iterator[None]:
    """A namespace behind the machine, to which it is a router; it serves a page as guests do."""
    for left in (["link", "delete", CABLE], ["netns", "delete", OUTSIDE]):
        subprocess.run(["ip", *left], capture_output=True, check=False)
    _ip("netns", "add", OUTSIDE)
    try:
        _ip("link", "add", CABLE, "type", "veth", "peer", "name", "eth0", "netns", OUTSIDE)
        _ip("address", "add", f"{ROUTER_ADDRESS}/30", "dev", CABLE)
        _ip("link", "set", CABLE, "up")
        _ip("address", "add", f"{ROUTER_ADDRESS6}/64", "dev", CABLE, "nodad")
        for words in ("link set lo up", f"address add {OUTSIDE_ADDRESS}/30 dev eth0", "link set eth0 up"):
            _ip("-n", OUTSIDE, *words.split())
        _ip("-n", OUTSIDE, "route", "add", "default", "via", ROUTER_ADDRESS)
        _ip("-n", OUTSIDE, "address", "add", f"{OUTSIDE_ADDRESS6}/64", "dev", "eth0", "nodad")
        _ip("-n", OUTSIDE, "-6", "route", "add", "default", "via", ROUTER_ADDRESS6)
        server = visit(OUTSIDE, lambda: http.server.ThreadingHTTPServer((OUTSIDE_ADDRESS, PORT), _Who))
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield
        finally:
            server.shutdown()
            server.server_close()
    finally:
        # Not by the namespace's end, which comes when its last socket has gone.
        subprocess.run(["ip", "link", "delete", CABLE], capture_output=True, check=False)
        _ip("netns", "delete", OUTSIDE)


def seen_from_outside(address: str, seconds: float = TRY_SECONDS) -> tuple[str, str] | None:
    """Who serves the page at this address, and whom it saw."""

    def get() -> tuple[str, str] | None:
        try:
            with urllib.request.urlopen(f"http://{address}:{PORT}/cgi-bin/who", timeout=seconds) as answer:
                name, saw = answer.read().decode().split()
                return name, saw
        except OSError:
            return None

    return visit(OUTSIDE, get)


def pinged_from_outside(address: str) -> bool:
    """Whether one of two echo requests is answered."""
    argv = ["ip", "netns", "exec", OUTSIDE, "ping", "-q", "-c2", "-i0.3", f"-W{TRY_SECONDS}", address]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    return " received" in done.stdout and " 0 received" not in done.stdout
