"""Where a store is: postgresql://USER@HOST:PORT/DATABASE, with no password in it and TLS off this machine."""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import ip_address
from urllib.parse import parse_qsl, quote, unquote, urlencode, urlsplit

from gureum.errors import ConfigError

SCHEMES = ("postgresql", "postgres")
TLS_MODES = ("verify-ca", "verify-full")
OPTIONS = frozenset({"host", "port", "sslmode", "sslrootcert", "sslcert", "sslkey", "passfile"})


@dataclass(frozen=True)
class Address:
    """``url`` holds no secret: a password comes from ~/.pgpass, or the file that its ``passfile`` names."""

    url: str
    place: str
    """For people: what the cloud's files, messages and logs may show."""

    @classmethod
    def parse(cls, text: str) -> Address:
        """Raises ConfigError, saying what to write instead."""
        try:
            parts = urlsplit(text)
            named, port = parts.hostname or "", parts.port
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
        host = options.get("host") or unquote(named)
        if not host:
            raise ConfigError("the store's address names no host: postgresql://USER@HOST/DATABASE")
        if "," in host:
            raise ConfigError(
                "the store has to be at one host, perhaps an address that moves with the server"
            )
        if not is_local(host):
            mode = options.setdefault("sslmode", "verify-full")
            if mode not in TLS_MODES:
                raise ConfigError(
                    f"with sslmode={mode} anybody between here and {host} could be the store: leave it out,"
                    " which means verify-full, and name the authority: ?sslrootcert=/etc/gureum/db-ca.pem"
                )
        netloc = quote(unquote(parts.username), safe="") + "@"
        if "host" not in options:
            netloc += f"[{named}]" if ":" in named else quote(unquote(named), safe="")
        netloc += f":{port}" if port else ""
        where = f"{host}:{port or options.get('port') or 5432}" if not host.startswith("/") else host
        return cls(
            url=f"postgresql://{netloc}/{quote(database, safe='')}"
            + (f"?{urlencode(options)}" if options else ""),
            place=f"database {database} at {where}",
        )


def is_local(host: str) -> bool:
    """Whether what is sent there never leaves this machine: a UNIX socket's directory, or loopback."""
    if host.startswith("/") or host == "localhost":
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False
