"""Encryption between hosts: a WireGuard device in the host's namespace, inside which VXLAN goes.

The key is made here, in a file that only its owner reads, and never leaves the host; its public half is in
the host's report. Where the kernel has no WireGuard there is no unencrypted way instead: it is an error.
"""

from __future__ import annotations

import base64
import binascii
import os
from collections.abc import Iterable
from pathlib import Path

from gureum.errors import NetworkError
from gureum.files import write_atomically
from gureum.network import links
from gureum.network.names import wireguard_address
from gureum.network.namespaces import command, ip_batch
from gureum.network.portplan import HostPlan
from gureum.network.vxlan import Underlay

PORT = 51820
KEY_FILE = "wireguard.key"
"""In a host's run directory."""
OVERHEAD_BYTES = 80
"""Outer IPv6 or IPv4, UDP and WireGuard's own headers."""
KEY_BYTES = 32


def device(index: int) -> str:
    return f"wg{index}"


def public_key(key_file: Path) -> str:
    """This host's, made where there is none yet; "" where the kernel or the ``wg`` program is missing."""
    if not _supported():
        return ""
    return command(["wg", "pubkey"], _key(key_file)).strip()


def _supported() -> bool:
    """By trying: a device of this kind, which goes at once."""
    name = "gureumwgtry"
    try:
        ip_batch([f"link add {name} type wireguard", f"link delete {name}"])
        command(["wg", "--version"])
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


def ensure(index: int, number: int, hosts: Iterable[HostPlan], key_file: Path, mtu: int) -> Underlay:
    """Have the device, with exactly these peers. In the host's namespace; ``mtu`` is the uplink's.

    Raises NetworkError where the kernel has no WireGuard, or a host has no key.
    """
    name = device(index)
    if name not in links.devices(name):
        try:
            ip_batch([f"link add {name} type wireguard"])
        except NetworkError as error:
            raise NetworkError(
                f"traffic between hosts is to be encrypted, but this kernel has no WireGuard ({error})"
            ) from None
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
