"""nftables commands that are read first and applied later."""

from __future__ import annotations

import pytest

from gureum.errors import NetworkError
from gureum.network.namespaces import Transaction, command, visit

from .conftest import HOST

pytestmark = pytest.mark.root


def tables() -> str:
    return command(["nft", "list", "tables"])


def test_all_or_none_and_only_when_it_is_told(host: None) -> None:
    def work() -> None:
        first = Transaction("add table inet one\nadd chain inet one x\n")
        assert tables() == ""
        first.commit()
        first.cancel()
        assert tables() == "table inet one\n"
        with pytest.raises(NetworkError, match="nowhere"):
            Transaction("add table inet two\nadd chain inet nowhere x\n").commit()
        with pytest.raises(NetworkError, match="syntax error"):
            Transaction("add tabel inet two\n" * 100_000).commit()
        Transaction("add table inet three\n").cancel()
        assert tables() == "table inet one\n"

    visit(HOST, work)
