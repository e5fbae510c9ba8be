from __future__ import annotations

import asyncio
import subprocess
import sys
from pathlib import Path

import pytest

from gureum.errors import ConfigError
from gureum.gateway import catalogue as catalogues
from gureum.gateway.catalogue import Catalogue


def test_directory(catalogue: Catalogue) -> None:
    directory = catalogue.directory
    assert directory.signing_names["s3"] == ("s3", "s3control")
    assert directory.signing_names["monitoring"] == ("cloudwatch",)
    assert directory.target_prefixes["Logs_20140328"] == "logs"
    assert directory.versions["2016-11-15"] == "ec2"


def test_records(catalogue: Catalogue) -> None:
    operation = catalogue.operation("sts", "AssumeRoleWithWebIdentity")
    assert operation is not None
    assert operation.anonymous
    assert catalogue.operation("sts", "NoSuch") is None
    assert "RunInstances" in catalogue.operations("ec2")
    assert catalogue.service("cloudwatch").query_compatible
    with pytest.raises(LookupError, match="kms"):
        catalogue.service("kms")
    with pytest.raises(LookupError, match="NoSuch"):
        catalogue.shape("sts", "NoSuch")


async def test_several_processes_may_compile_at_once(tmp_path: Path) -> None:
    def ensure() -> Path:
        return catalogues.ensure(tmp_path, ["sts"])

    paths = set(await asyncio.gather(*(asyncio.to_thread(ensure) for _ in range(3))))
    assert list(tmp_path.iterdir()) == list(paths)


def test_found_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = catalogues.ensure(tmp_path, ["sts"])
    monkeypatch.setattr(sys, "executable", "/nonexistent")
    assert catalogues.ensure(tmp_path, ["sts"]) == path


@pytest.mark.parametrize("content", [b"", b"not a database" * 100])
def test_damaged_file_is_made_anew(tmp_path: Path, content: bytes) -> None:
    path = catalogues.path_in(tmp_path, ["sts"])
    path.write_bytes(content)
    catalogue = Catalogue.open(tmp_path, ["sts"])
    assert catalogue.operation("sts", "GetCallerIdentity")
    catalogue.close()


def test_unknown_service(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no-such-service"):
        catalogues.ensure(tmp_path, ["no-such-service"])
    assert list(tmp_path.iterdir()) == []


def test_gateway_does_not_import_what_is_heavy() -> None:
    """Its process is to be small: the models stay in the compiler's."""
    code = (
        "import sys, gureum.gateway.app, gureum.gateway.server\n"
        "heavy = {'botocore', 'boto3', 'cryptography', 'lxml', 'cbor2', 'rich', 'typer'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
