"""Encryption between hosts: a WireGuard device in the host's namespace, inside which VXLAN goes.

The key is made here, in a file that only its owner reads, and never leaves the host; its public half is in
the host's report. Where the kernel has no WireGuard, the program wireguard-go makes a device of the same
kind, if it is installed: a process of its own, which outlives the agent. Where neither is, there is no
unencrypted way instead: it is an error.
"""

from __future__ import annotations

import base64
import binascii
import logging
import os
import shutil
import subprocess
from collections.abc import Iterable
from pathlib import Path

from gureum.errors import NetworkError
from gureum.files import write_atomically
from gureum.network import links
from gureum.network.names import wireguard_address
from gureum.network.namespaces import command, ip_batch
from gureum.network.portplan import HostPlan
from gureum.network.vxlan import Underlay

log = logging.getLogger(__name__)

PORT = 51820
KEY_FILE = "wireguard.key"
"""In a host's run directory."""
OVERHEAD_BYTES = 80
"""Outer IPv6 or IPv4, UDP and WireGuard's own headers."""
KEY_BYTES = 32
PROGRAM = "wireguard-go"
START_SECONDS_MAX = 10.0


def public_key(key_file: Path) -> str:
    """This host's, made where there is none yet; "" where nothing could encrypt (``carrier``)."""
    return command(["wg", "pubkey"], _key(key_file)).strip() if carrier() else ""


def carrier() -> str:
    """What would encrypt here: "kernel", PROGRAM, or "" for nothing."""
    if shutil.which("wg") is None:
        return ""
    if in_kernel():
        return "kernel"
    return PROGRAM if shutil.which(PROGRAM) and Path("/dev/net/tun").exists() else ""


def in_kernel() -> bool:
    """By trying: a device of this kind, which goes at once."""
    name = "gureumwgtry"
    try:
        ip_batch([f"link add {name} type wireguard", f"link delete {name}"])
    except NetworkError:
        return False
    return True


def _key(key_file: Path) -> str:
    """The private key as text (RFC 7748: X25519 takes any 32 bytes, with some bits set)."""
    try:
        return key_file.read_text()
    except FileNotFoundError:
        secret = bytearray(os.urandom(KEY_BYTES))
        secret[0] &= 248
        secret[31] = secret[31] & 127 | 64
        text = base64.b64encode(secret).decode() + "\n"
        write_atomically(key_file, text.encode())
        return text


def ensure(name: str, number: int, hosts: Iterable[HostPlan], key_file: Path, mtu: int) -> Underlay:
    """Have the device, with exactly these peers. In the host's namespace; ``mtu`` is the uplink's.

    Raises NetworkError where nothing encrypts, or a host has no key.
    """
    if name not in links.devices(name):
        try:
            ip_batch([f"link add {name} type wireguard"])
        except NetworkError as error:
            _start(name, str(error))
    configuration = configure(hosts, key_file)
    command(["wg", "syncconf", name, "/dev/stdin"], configuration)
    inner = mtu - OVERHEAD_BYTES
    ip_batch(
        [
            f"link set dev {name} mtu {inner} addrgenmode none",
            f"address replace {wireguard_address(number)}/64 dev {name} nodad",
            f"link set dev {name} up",
        ]
    )
    return Underlay(wireguard_address(number), inner)


def _start(name: str, why: str) -> None:
    """The same device, made by a process in the calling thread's namespace. It ends with the device."""
    if shutil.which(PROGRAM) is None:
        raise NetworkError(
            f"traffic between hosts is to be encrypted, but this kernel has no WireGuard ({why}), "
            f"and {PROGRAM} is not installed"
        )
    log.warning(
        "this kernel has no WireGuard: %s encrypts what goes to other hosts, which is slower", PROGRAM
    )
    try:
        # It returns once the device is there; what stays has the terminal and the pipes of nobody.
        done = subprocess.run(
            [PROGRAM, name],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=START_SECONDS_MAX,
            check=False,
            env={**os.environ, "LOG_LEVEL": "silent"},
            start_new_session=True,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise NetworkError(f"cannot run {PROGRAM}: {error}") from error
    if done.returncode != 0:
        raise NetworkError(f"{PROGRAM} {name}: {' '.join(done.stderr.split())[-500:]}")


def remove(name: str) -> None:
    """Remove the device of the calling thread's namespace, and with it the process that made it, if any."""
    command(["ip", "link", "delete", name], fails=True)


def configure(hosts: Iterable[HostPlan], key_file: Path) -> str:
    """The device's configuration: each host is a peer, and may send from its own inner address only."""
    sections = [f"[Interface]\nPrivateKey = {_key(key_file).strip()}\nListenPort = {PORT}\n"]
    for host in sorted(hosts, key=lambda host: host.number):
        if not is_key(host.key):
            raise NetworkError(f"host {host.id} has no WireGuard key, and nothing is sent unencrypted")
        sections.append(
            f"[Peer]\nPublicKey = {host.key}\nEndpoint = {host.outer}:{PORT}\n"
            f"AllowedIPs = {wireguard_address(host.number)}/128\n"
        )
    return "\n".join(sections)


def is_key(text: str) -> bool:
    try:
        return len(base64.b64decode(text, validate=True)) == KEY_BYTES
    except (binascii.Error, ValueError):
        return False
