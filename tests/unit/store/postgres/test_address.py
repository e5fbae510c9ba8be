import pytest

from gureum.errors import ConfigError
from gureum.store.postgres.address import Address, is_local


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("postgresql://me@/cloud?host=/run/postgresql", "database cloud at /run/postgresql"),
        ("postgres://me@localhost/cloud", "database cloud at localhost:5432"),
        ("postgresql://me@[::1]:5433/cloud", "database cloud at ::1:5433"),
        ("postgresql://me@%2Frun%2Fpostgresql/cloud", "database cloud at /run/postgresql"),
    ],
)
def test_on_this_machine_it_is_taken_as_it_is(text: str, place: str) -> None:
    address = Address.parse(text)
    assert address.place == place
    assert "sslmode" not in address.url
    assert Address.parse(address.url) == address


def test_several_servers() -> None:
    address = Address.parse("postgresql://me@one,[::2]:5433,%2Frun%2Fpg/cloud?sslrootcert=/ca.pem")
    assert address.place == "database cloud at one:5432, ::2:5433, /run/pg"
    tail = "/cloud?sslrootcert=%2Fca.pem&sslmode=verify-full"
    hosts = ("one", "[::2]:5433", "%2Frun%2Fpg")
    assert address.servers == tuple(f"postgresql://me@{host}{tail}" for host in hosts)
    assert Address.parse(address.url) == address


def test_off_this_machine_the_server_has_to_prove_who_it_is() -> None:
    assert Address.parse("postgresql://me@db.example/cloud").url == (
        "postgresql://me@db.example/cloud?sslmode=verify-full"
    )
    ca = "postgresql://me@10.0.0.1/cloud?sslmode=verify-ca&sslrootcert=/ca.pem"
    assert "sslmode=verify-ca" in Address.parse(ca).url


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("/var/lib/store.db", "has to be postgresql://"),
        ("mysql://me@localhost/cloud", "has to be postgresql://"),
        ("postgresql://me:secret@localhost/cloud", "has a password in it"),
        ("postgresql://me@localhost/cloud?password=secret", "has a password in it"),
        ("postgresql://localhost/cloud", "names no user"),
        ("postgresql://me@localhost", "names no database"),
        ("postgresql://me@/cloud", "names no host"),
        ("postgresql://me@one,,two/cloud", "names no host"),
        ("postgresql://me@one,two/cloud?port=5433", "several servers are named before"),
        ("postgresql://me@/cloud?host=one,two", "several servers are named before"),
        ("postgresql://me@localhost,two/cloud?sslmode=disable", "anybody between here and two"),
        ("postgresql://me@localhost:x/cloud", "no URL"),
        ("postgresql://me@localhost/cloud?options=-cx", "not known: options"),
        ("postgresql://me@db.example/cloud?sslmode=disable", "anybody between here and db.example"),
        ("postgresql://me@db.example/cloud?sslmode=require", "anybody between here and db.example"),
        ("postgresql://me@/cloud?host=db.example&sslmode=prefer", "anybody between here and db.example"),
    ],
)
def test_what_is_refused(text: str, why: str) -> None:
    with pytest.raises(ConfigError, match=why) as caught:
        Address.parse(text)
    assert "secret" not in str(caught.value)


def test_which_hosts_are_this_machine() -> None:
    assert is_local("127.0.0.2")
    assert not is_local("localhost.example")
    assert not is_local("192.168.0.1")
