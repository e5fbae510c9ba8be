"""The keys of a cloud's own cluster, and what each may do: cephx keyrings."""

from __future__ import annotations

import base64
import re
import secrets
import struct
import time
from collections.abc import Iterable

from gureum.san.ceph.cluster import ADMIN, MGR, osd
from gureum.san.settings import DEFAULT_POOL, DEFAULT_USER

ALL = "allow *"
KEY_TYPE_AES = 1
KEY_BYTES = 16
MON_KEY = "mon."

Capabilities = dict[str, str]
OSD_RIGHTS: Capabilities = {"mon": "allow profile osd", "mgr": "allow profile osd", "osd": ALL}


def capabilities(osds: int) -> dict[str, Capabilities]:
    """Entities of a cluster with so many OSDs, and their rights."""
    return {
        MON_KEY: {"mon": ALL},
        f"client.{ADMIN}": {"mon": ALL, "mgr": ALL, "osd": ALL},
        f"client.{DEFAULT_USER}": user_rights([DEFAULT_POOL]),
        MGR: {"mon": "allow profile mgr", "osd": ALL},
        **{osd(number): OSD_RIGHTS for number in range(osds)},
    }


def user_rights(pools: Iterable[str]) -> Capabilities:
    """What who has disks in these pools may do: nothing in any other."""
    profiles = ", ".join(f"profile rbd pool={pool}" for pool in pools)
    return {"mon": "profile rbd", "mgr": profiles, "osd": profiles}


def new_key() -> str:
    """A key as `ceph-authtool --gen-print-key` makes them: type, time of birth, length, bytes."""
    header = struct.pack("<HIIH", KEY_TYPE_AES, int(time.time()), 0, KEY_BYTES)
    return base64.b64encode(header + secrets.token_bytes(KEY_BYTES)).decode()


def new_keys(osds: int) -> dict[str, str]:
    return {entity: new_key() for entity in capabilities(osds)}


def keyring(
    keys: dict[str, str], entities: Iterable[str], rights: dict[str, Capabilities] | None = None
) -> str:
    """The keyring of these entities; with ``rights`` for the monitor's database."""
    lines = []
    for entity in entities:
        lines += [f"[{entity}]", f"\tkey = {keys[entity]}"]
        lines += [f'\tcaps {service} = "{text}"' for service, text in (rights or {}).get(entity, {}).items()]
    return "\n".join(lines) + "\n"


def read_keyring(text: str) -> dict[str, str]:
    """The keys in a keyring, by entity."""
    keys = {}
    entity = ""
    for line in map(str.strip, text.splitlines()):
        if header := re.fullmatch(r"\[(.+)\]", line):
            entity = header[1]
        elif entity and (found := re.fullmatch(r"key\s*=\s*(\S+)", line)):
            keys[entity] = found[1]
    return keys
