from __future__ import annotations

import base64
import hashlib
import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from gureum.resources import KeyPair
from gureum.services.ec2.key_pairs import NAME_LENGTH_MAX

if TYPE_CHECKING:
    from ..conftest import Rig


def openssh(key: object) -> bytes:
    public: bytes = key.public_bytes(  # type: ignore[attr-defined]
        serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH
    )
    return public


async def test_create_ed25519(rig: Rig) -> None:
    made = await rig.call("CreateKeyPair", KeyName="me", KeyType="ed25519")
    assert made["KeyMaterial"].startswith("-----BEGIN OPENSSH PRIVATE KEY-----\n")
    private = serialization.load_ssh_private_key(made["KeyMaterial"].encode(), None)
    pair = await rig.get(KeyPair, made["KeyPairId"])
    assert pair.public_key.encode() == openssh(private.public_key())
    digest = hashlib.sha256(base64.b64decode(pair.public_key.split()[1])).digest()
    assert made["KeyFingerprint"] == base64.b64encode(digest).decode()
    assert "KeyMaterial" not in str(await rig.call("DescribeKeyPairs"))


async def test_create_rsa(rig: Rig) -> None:
    made = await rig.call("CreateKeyPair", KeyName="me")
    assert made["KeyMaterial"].startswith("-----BEGIN RSA PRIVATE KEY-----\n")
    private = serialization.load_pem_private_key(made["KeyMaterial"].encode(), None)
    assert isinstance(private, rsa.RSAPrivateKey)
    assert private.key_size == 2048
    der = private.private_bytes(
        serialization.Encoding.DER, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    digest = hashlib.sha1(der).hexdigest()
    assert made["KeyFingerprint"].replace(":", "") == digest
    assert made["KeyFingerprint"][2] == ":"
    pair = await rig.get(KeyPair, made["KeyPairId"])
    assert pair.type == "rsa"
    assert pair.public_key.encode() == openssh(private.public_key())


def public_half(path: Path) -> list[str]:
    """What OpenSSH makes of a private key."""
    command = ["ssh-keygen", "-y", "-f", str(path)]
    return subprocess.run(command, capture_output=True, text=True, timeout=20, check=True).stdout.split()


@pytest.mark.skipif(shutil.which("ssh-keygen") is None, reason="needs OpenSSH")
@pytest.mark.parametrize("type", ["ed25519", "rsa"])
async def test_openssh_can_use_the_key(rig: Rig, tmp_path: Path, type: str) -> None:
    made = await rig.call("CreateKeyPair", KeyName="me", KeyType=type)
    path = tmp_path / "me.pem"
    path.write_text(made["KeyMaterial"])
    path.chmod(0o600)
    assert public_half(path)[:2] == (await rig.get(KeyPair, made["KeyPairId"])).public_key.split()


@pytest.mark.parametrize(
    ("code", "input"),
    [
        ("InvalidParameterValue", {"KeyName": ""}),
        ("InvalidParameterValue", {"KeyName": "x" * (NAME_LENGTH_MAX + 1)}),
        ("InvalidParameterValue", {"KeyName": "gäst"}),
        ("InvalidParameterValue", {"KeyName": "me", "KeyType": "dsa"}),
        ("UnsupportedOperation", {"KeyName": "me", "KeyFormat": "ppk"}),
    ],
)
async def test_create_refuses(rig: Rig, code: str, input: dict[str, str]) -> None:
    await rig.fails(code, "CreateKeyPair", **input)


async def test_names_are_unique(rig: Rig) -> None:
    made = await rig.call("CreateKeyPair", KeyName="me", KeyType="ed25519")
    await rig.fails("InvalidKeyPair.Duplicate", "CreateKeyPair", KeyName="me", KeyType="ed25519")
    public = (await rig.get(KeyPair, made["KeyPairId"])).public_key.encode()
    await rig.fails("InvalidKeyPair.Duplicate", "ImportKeyPair", KeyName="me", PublicKeyMaterial=public)


async def test_import(rig: Rig) -> None:
    made = await rig.call("CreateKeyPair", KeyName="first", KeyType="ed25519")
    public = (await rig.get(KeyPair, made["KeyPairId"])).public_key
    tags = [{"ResourceType": "key-pair", "Tags": [{"Key": "a", "Value": "b"}]}]
    imported = await rig.call(
        "ImportKeyPair",
        KeyName="second",
        PublicKeyMaterial=f"{public} me@laptop\n".encode(),
        TagSpecifications=tags,
    )
    assert imported["KeyFingerprint"] == made["KeyFingerprint"]
    assert imported["Tags"] == [{"Key": "a", "Value": "b"}]
    assert (await rig.get(KeyPair, imported["KeyPairId"])).public_key == public


async def test_import_rsa_in_every_form(rig: Rig) -> None:
    key = rsa.generate_private_key(65537, 2048).public_key()
    der = key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    pem = key.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    expected = hashlib.md5(der).hexdigest()
    forms = [openssh(key), pem, der, base64.b64encode(openssh(key)), rfc4716(key)]
    for number, material in enumerate(forms):
        answer = await rig.call("ImportKeyPair", KeyName=f"key-{number}", PublicKeyMaterial=material)
        assert answer["KeyFingerprint"].replace(":", "") == expected
    assert {pair.public_key.encode() for pair in await rig.find(KeyPair)} == {openssh(key)}


def rfc4716(key: object) -> bytes:
    """The key with headers, one of which goes on in the next line, and its base64 in lines of 70."""
    blob = openssh(key).split()[1].decode()
    lines = ["---- BEGIN SSH2 PUBLIC KEY ----", "Comment: a key\\", "of mine", "x-other: yes"]
    lines += [blob[start : start + 70] for start in range(0, len(blob), 70)]
    return "\n".join([*lines, "---- END SSH2 PUBLIC KEY ----", ""]).encode()


async def test_import_refuses(rig: Rig) -> None:
    elliptic = openssh(ec.generate_private_key(ec.SECP256R1()).public_key())
    odd = openssh(rsa.generate_private_key(65537, 1536).public_key())
    cut = (
        b"---- BEGIN SSH2 PUBLIC KEY ----\n"
        + openssh(rsa.generate_private_key(65537, 1024).public_key()).split()[1]
    )
    await rig.fails("MissingParameter", "ImportKeyPair", KeyName="me", PublicKeyMaterial=b"")
    for material in (cut, b"hello", b"ssh-rsa AAAA", b"ssh-ed25519 !", elliptic, odd, b"x" * 5000):
        await rig.fails("InvalidKey.Format", "ImportKeyPair", KeyName="me", PublicKeyMaterial=material)


async def test_describe(rig: Rig) -> None:
    for name in ("b", "a"):
        await rig.call("CreateKeyPair", KeyName=name, KeyType="ed25519")
    pairs = (await rig.call("DescribeKeyPairs"))["KeyPairs"]
    assert [each["KeyName"] for each in pairs] == ["a", "b"]
    assert "PublicKey" not in pairs[0]
    assert pairs[0]["KeyType"] == "ed25519"
    [only] = (await rig.call("DescribeKeyPairs", KeyNames=["b"], IncludePublicKey=True))["KeyPairs"]
    assert only["PublicKey"].endswith(" b\n")
    [only] = (await rig.call("DescribeKeyPairs", KeyPairIds=[pairs[0]["KeyPairId"]]))["KeyPairs"]
    assert only["KeyName"] == "a"
    filters = [{"Name": "key-name", "Values": ["b*"]}]
    [only] = (await rig.call("DescribeKeyPairs", Filters=filters))["KeyPairs"]
    assert only["KeyName"] == "b"


async def test_describe_unknown(rig: Rig) -> None:
    message = await rig.fails("InvalidKeyPair.NotFound", "DescribeKeyPairs", KeyNames=["me"])
    assert message == "The key pair 'me' does not exist"
    message = await rig.fails("InvalidKeyPair.NotFound", "DescribeKeyPairs", KeyNames=["me", "you"])
    assert message == "The key pair 'me, you' do not exist"
    await rig.fails("InvalidKeyPair.NotFound", "DescribeKeyPairs", KeyPairIds=["key-0123456789abcdef0"])


async def test_delete(rig: Rig) -> None:
    one = await rig.call("CreateKeyPair", KeyName="one", KeyType="ed25519")
    await rig.call("CreateKeyPair", KeyName="two", KeyType="ed25519")
    assert await rig.call("DeleteKeyPair", KeyName="one") == {"Return": True, "KeyPairId": one["KeyPairId"]}
    assert await rig.call("DeleteKeyPair", KeyName="one") == {"Return": True}
    [two] = await rig.find(KeyPair)
    assert await rig.call("DeleteKeyPair", KeyPairId=two.id) == {"Return": True, "KeyPairId": two.id}
    assert await rig.find(KeyPair) == []
    await rig.fails("MissingParameter", "DeleteKeyPair")
