"""Where a store is: postgresql://USER@HOST:PORT/DATABASE, with no password in it and TLS off this machine.

There may be several servers, HOST:PORT,HOST:PORT, as of a cluster that has one primary at a time.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from ipaddress import ip_address
from typing import NamedTuple
from urllib.parse import parse_qsl, quote, unquote, urlencode, urlsplit

from gureum.errors import ConfigError

SCHEMES = ("postgresql", "postgres")
TLS_MODES = ("verify-ca", "verify-full")
HOSTS = re.compile(r"(?<=@)[^@/?]+(?=/)")
OPTIONS = frozenset({"host", "port", "sslmode", "sslrootcert", "sslcert", "sslkey", "passfile"})


@dataclass(frozen=True)
class Address:
    """``url`` holds no secret: a password comes from ~/.pgpass, or the file that its ``passfile`` names."""

    url: str
    place: str
    """For people: what the cloud's files, messages and logs may show."""
    servers: tuple[str, ...]
    """The URL of each server, one of which can be written to at a time."""

    @classmethod
    def parse(cls, text: str) -> Address:
        """Raises ConfigError, saying what to write instead."""
        try:
            # Several hosts are nothing that a URL has: they are taken out of it.
            named = HOSTS.search(text)
            parts = urlsplit(HOSTS.sub("", text))
            hosts = [_Host.parse(each) for each in (named[0] if named else parts.netloc).split(",")]
        except ValueError as error:
            raise ConfigError(f"the store's address is no URL: {error}") from error
        if parts.scheme not in SCHEMES:
            raise ConfigError("the store's address has to be postgresql://USER@HOST/DATABASE")
        options = dict(parse_qsl(parts.query, keep_blank_values=True))
        if parts.password is not None or "password" in options:
            raise ConfigError(
                "the store's address has a password in it, which every user of this machine could read: put"
                " it into ~/.pgpass, or into a file of mode 0600 like that and name it:"
                " ?passfile=/etc/gureum/pgpass"
            )
        if unknown := sorted(set(options) - OPTIONS):
            raise ConfigError(
                f"the store's address has options that are not known: {', '.join(unknown)};"
                f" known are {', '.join(sorted(OPTIONS))}"
            )
        database = unquote(parts.path.lstrip("/"))
        if not database or "/" in database:
            raise ConfigError("the store's address names no database: postgresql://USER@HOST/DATABASE")
        if not parts.username:
            raise ConfigError("the store's address names no user: postgresql://USER@HOST/DATABASE")
        if "host" in options or "port" in options:
            hosts = [_Host.option(hosts, options.pop("host", ""), options.pop("port", ""))]
        if not all(host.name for host in hosts):
            raise ConfigError("the store's address names no host: postgresql://USER@HOST/DATABASE")
        if far := [host.name for host in hosts if not is_local(host.name)]:
            mode = options.setdefault("sslmode", "verify-full")
            if mode not in TLS_MODES:
                raise ConfigError(
                    f"with sslmode={mode} anybody between here and {far[0]} could be the store: leave it out,"
                    " which means verify-full, and name the authority: ?sslrootcert=/etc/gureum/db-ca.pem"
                )
        tail = f"/{quote(database, safe='')}" + (f"?{urlencode(options)}" if options else "")
        user = quote(unquote(parts.username), safe="")
        return cls(
            url=f"postgresql://{user}@{','.join(map(str, hosts))}{tail}",
            place=f"database {database} at {', '.join(host.shown for host in hosts)}",
            servers=tuple(f"postgresql://{user}@{host}{tail}" for host in hosts),
        )


class _Host(NamedTuple):
    """A server, or the directory of its UNIX socket."""

    name: str
    port: int | None

    @classmethod
    def parse(cls, text: str) -> _Host:
        """Raises ValueError."""
        parts = urlsplit(f"//{text}")
        return cls(unquote(parts.hostname or ""), parts.port)

    @classmethod
    def option(cls, named: list[_Host], name: str, port: str) -> _Host:
        """As ``?host=`` and ``?port=`` say. Raises ConfigError."""
        if len(named) > 1 or "," in name or not (port or "0").isdigit():
            raise ConfigError(
                "several servers are named before the database: USER@ONE:5432,TWO:5432/DATABASE"
            )
        return cls(name or named[0].name, int(port) if port else named[0].port)

    def __str__(self) -> str:
        name = f"[{self.name}]" if ":" in self.name else quote(self.name, safe="")
        return name + (f":{self.port}" if self.port else "")

    @property
    def shown(self) -> str:
        return self.name if self.name.startswith("/") else f"{self.name}:{self.port or 5432}"


def is_local(host: str) -> bool:
    """Whether what is sent there never leaves this machine: a UNIX socket's directory, or loopback."""
    if host.startswith("/") or host == "localhost":
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False
