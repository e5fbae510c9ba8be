"""Looks at a cluster that was there before: can a cloud have its disks in it, and if not, what is wrong."""

from __future__ import annotations

import re
import secrets
from dataclasses import dataclass
from pathlib import Path

from gureum.errors import ConfigError, GureumError, PoolError, PoolUnavailable
from gureum.san.ceph import health
from gureum.san.ceph.commands import Access, Answer, ConfError, ask
from gureum.san.ceph.keys import read_keyring, user_rights
from gureum.san.ceph.status import numbers, read_version
from gureum.san.ceph.trial import run_trial
from gureum.san.settings import SanSettings

VERSION_MIN = (14,)
TIMEOUT_S = 10.0
SYSTEM_DIRECTORY = Path("/etc/ceph")
NOBODY = "192.0.2.1:0/{nonce}"
"""A client's address of a network that is for documentation (RFC 5737): shutting it out harms nobody."""
EACCES, EPERM = -13, -1


@dataclass(frozen=True)
class Problem:
    """``is_fatal``: a cloud cannot have its disks there."""

    text: str
    todo: str = ""
    is_fatal: bool = True


def find_keyring(conf: Path, user: str) -> Path:
    """The file with the user's key: what the configuration says, else beside it, else in /etc/ceph.

    Raises ConfigError, saying what is wrong with the configuration or where the key was looked for.
    """
    settings = read_conf(conf, user)
    cluster = conf.stem
    names = [f"{cluster}.client.{user}.keyring", f"{cluster}.keyring", "keyring"]
    said = settings.get("keyring", "")
    places = [Path(_expand(name, cluster, user)) for name in said.split(",") if name.strip()]
    places += [directory / name for directory in (conf.parent, SYSTEM_DIRECTORY) for name in names]
    for place in dict.fromkeys(places):
        try:
            if f"client.{user}" in read_keyring(place.read_text()):
                return place
        except (OSError, UnicodeDecodeError):
            continue
    looked = ", ".join(map(str, dict.fromkeys(places)))
    raise ConfigError(f"no key of client.{user} was found; it is looked for in {looked}")


def read_conf(conf: Path, user: str) -> dict[str, str]:
    """What a ceph.conf says to the user's client. Raises ConfigError."""
    try:
        text = conf.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{conf} cannot be read: {getattr(error, 'strerror', None) or error}") from error
    sections: dict[str, dict[str, str]] = {}
    section = "global"
    for line in re.sub(r"\\\n", " ", text).splitlines():
        line = re.split(r"[#;]", line, maxsplit=1)[0].strip()
        if header := re.fullmatch(r"\[(.+)\]", line):
            section = header[1].strip()
        elif "=" in line:
            name, _, value = line.partition("=")
            name = re.sub(r"[\s-]+", "_", name.strip())
            sections.setdefault(section, {})[name] = value.strip().strip("\"'")
    parts = ("global", "client", f"client.{user}")
    settings = {name: value for part in parts for name, value in sections.get(part, {}).items()}
    if not settings.get("mon_host"):
        raise ConfigError(f"{conf} does not say where the cluster's monitors are: there is no mon_host in it")
    return settings


def _expand(text: str, cluster: str, user: str) -> str:
    values = {"cluster": cluster, "name": f"client.{user}", "type": "client", "id": user}
    return re.sub(r"\$\{?(\w+)\}?", lambda found: values.get(found[1], found[0]), text.strip())


def check(settings: SanSettings) -> list[Problem]:
    """Everything that is wrong, the worst first; [] where all is well. Blocks for seconds."""
    access = Access.of(settings)
    try:
        answers = ask(
            access,
            [
                {"prefix": "versions"},
                {"prefix": "status"},
                {"prefix": "health", "detail": "detail"},
                {"prefix": "osd dump"},
            ],
            TIMEOUT_S,
        )
    except PoolUnavailable:
        hosts = read_conf(access.conf, access.user)["mon_host"]
        todo = "do they run, and does this machine reach them? ceph --conf CONF --id USER status"
        return [Problem(f"none of the monitors {hosts} answers within {TIMEOUT_S:.0f} s", todo)]
    except ConfError as error:
        return [Problem(str(error), "ceph --conf CONF --id USER status says more")]
    except PoolError as error:
        todo = f"is the key in {settings.keyring} the one that `ceph auth get client.{settings.user}` shows?"
        return [Problem(f"the cluster does not let client.{settings.user} in: {error}", todo)]
    try:
        return _examine(settings, access, answers)
    except GureumError as error:
        return [Problem(f"the cluster could not be examined: {error}", rights_todo(settings))]


def _examine(settings: SanSettings, access: Access, answers: list[Answer]) -> list[Problem]:
    if any(answer.code in (EACCES, EPERM) for answer in answers):
        text = f"client.{settings.user} may not read the state of the cluster"
        return [Problem(text, rights_todo(settings))]
    versions, status, detail, dump = (answer.document() for answer in answers)
    version = read_version(versions)
    if numbers(version) < VERSION_MIN:
        text = f"the cluster runs Ceph {version}: too old for clones that outlive their snapshots"
        return [Problem(text, f"upgrade it to {VERSION_MIN[0]} or newer")]
    shapes = {each["pool_name"]: each for each in dump["pools"]}
    problems = [each for name in settings.pools for each in _about_pool(settings, name, shapes.get(name))]
    if not any(problem.is_fatal for problem in problems):
        problems += _about_rights(settings, access)
    found = health.read(status, detail)
    problems += [
        Problem(f"the cluster says: {each.text}", each.todo, is_fatal=False) for each in found.findings
    ]
    return sorted(problems, key=lambda problem: not problem.is_fatal)


def _about_pool(settings: SanSettings, name: str, pool: dict[str, object] | None) -> list[Problem]:
    if pool is None:
        other = "pool=NAME in --san" if name == settings.pool else "another in --volume-types"
        todo = f"ceph osd pool create {name}; rbd pool init {name}; or {other}"
        return [Problem(f"the cluster has no pool {name!r}", todo)]
    problems = []
    applications = pool.get("application_metadata")
    if not isinstance(applications, dict) or "rbd" not in applications:
        problems.append(Problem(f"the pool {name!r} is not for RBD", f"rbd pool init {name}"))
    if pool.get("size") == 1:
        text = f"the pool {name!r} keeps one copy: a disk that fails takes its data with it"
        problems.append(Problem(text, f"ceph osd pool set {name} size 3", is_fatal=False))
    return problems


def _about_rights(settings: SanSettings, access: Access) -> list[Problem]:
    """Tries what a cloud does with disks, in each pool on an image of its own."""
    problems = []
    for pool in settings.pools:
        if failed := run_trial(access, pool):
            text = f"client.{settings.user} cannot {failed.step} in pool {pool!r}: {failed.message}"
            problems.append(Problem(text, rights_todo(settings)))
    if not _may_fence(access):
        text = (
            f"client.{settings.user} may not shut out others (osd blocklist), as a host that fails has to be"
        )
        problems.append(Problem(text, rights_todo(settings), is_fatal=False))
    return problems


def _may_fence(access: Access) -> bool:
    nobody = NOBODY.format(nonce=secrets.randbelow(1 << 31))
    for word in ("blocklist", "blacklist"):  # what it was called before 16
        command = {"prefix": f"osd {word}", f"{word}op": "add", "addr": nobody, "expire": 1.0}
        if ask(access, [command], TIMEOUT_S)[0].code == 0:
            return True
    return False


def rights_todo(settings: SanSettings) -> str:
    rights = " ".join(f"{service} '{text}'" for service, text in user_rights(settings.pools).items())
    return f"ceph auth caps client.{settings.user} {rights}"
