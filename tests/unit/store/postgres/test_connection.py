"""Several servers of which one can be written to."""

from __future__ import annotations

import asyncio
import socket
from pathlib import Path
from urllib.parse import quote

import pytest

from gureum.store.postgres.address import Address
from gureum.store.postgres.connection import Unreachable, connect, discard
from support.postgres import PORT, USER, Server

pytestmark = pytest.mark.postgres


def several(*directories: Path) -> Address:
    hosts = ",".join(quote(str(directory), safe="") for directory in directories)
    return Address.parse(f"postgresql://{USER}@{hosts}/postgres")


async def test_one_is_gone_and_one_says_nothing(postgres_server: Server, tmp_path: Path) -> None:
    gone, silent = tmp_path / "gone", tmp_path / "silent"
    silent.mkdir()
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(silent / f".s.PGSQL.{PORT}"))
        listening.listen()
        async with asyncio.timeout(60):
            connection = await connect(several(gone, silent, postgres_server.directory))
            assert await connection.fetchval("SELECT 1") == 1
            await discard(connection)
            with pytest.raises(Unreachable):
                await connect(several(gone, tmp_path / "none"))


async def test_one_that_only_reads_is_not_taken(postgres_server: Server, tmp_path: Path) -> None:
    postgres_server.query("postgres", "CREATE DATABASE standby")
    postgres_server.query("postgres", "ALTER DATABASE standby SET default_transaction_read_only = on")
    there = quote(str(postgres_server.directory), safe="")
    async with asyncio.timeout(60):
        with pytest.raises(Unreachable, match="does its server run"):
            await connect(Address.parse(f"postgresql://{USER}@{there},{there}/standby"))
