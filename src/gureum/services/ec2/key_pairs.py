"""Key pairs. The private half is made, handed out once, and never stored."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from gureum.errors import ApiError
from gureum.resources import KeyPair
from gureum.services.ec2 import limits, lookup
from gureum.services.ec2.faults import invalid_value, missing, unsupported
from gureum.services.ec2.filters import Filters
from gureum.services.ec2.tagging import specified_tags, tag_list
from gureum.services.operation import Context, Input, Output, operation

NAME_LENGTH_MAX = 255

_FILTERS = Filters(
    {
        "fingerprint": "fingerprint",
        "key-name": "name",
        "key-pair-id": "id",
        "key-type": "type",
    }
)


async def _new_name(ctx: Context, name: str) -> str:
    """A name that a new key pair can have."""
    if not name or len(name) > NAME_LENGTH_MAX or not name.isascii() or not name.isprintable():
        raise invalid_value(
            f"Value ({name}) for parameter keyName is invalid. It must have 1 to {NAME_LENGTH_MAX} ASCII "
            "characters."
        )
    if await ctx.tx.count(KeyPair, account=ctx.caller.account, name=name):
        raise ApiError("InvalidKeyPair.Duplicate", f"The keypair '{name}' already exists.")
    if await ctx.tx.count(KeyPair, account=ctx.caller.account) >= limits.KEY_PAIRS_MAX:
        raise ApiError("KeyPairLimitExceeded", "The maximum number of key pairs has been reached.")
    return name


async def _store(
    ctx: Context, name: str, type: str, key: str, fingerprint: str, tags: dict[str, str]
) -> KeyPair:
    return await ctx.tx.put(
        KeyPair(
            id=ctx.env.new_id("key"),
            account=ctx.caller.account,
            tags=tags,
            name=name,
            type=type,
            public_key=key,
            fingerprint=fingerprint,
            created=ctx.env.utcnow(),
        )
    )


def _answer(pair: KeyPair) -> dict[str, Any]:
    return {
        "KeyPairId": pair.id,
        "KeyName": pair.name,
        "KeyFingerprint": pair.fingerprint,
        "Tags": tag_list(pair.tags),
    }


@operation("ec2", "CreateKeyPair", write=True)
async def create_key_pair(ctx: Context, input: Input) -> Output:
    # The cryptography package takes its time to import; the manager does without it until a key is made.
    from gureum.services.ec2 import key_material

    type = input.get("KeyType") or "rsa"
    if type not in ("rsa", "ed25519"):
        raise invalid_value(f"Value ({type}) for parameter keyType is invalid. Expected: rsa, ed25519.")
    if (input.get("KeyFormat") or "pem") != "pem":
        raise unsupported("Key formats other than pem are not supported by gureum yet.")
    name = await _new_name(ctx, input["KeyName"])
    tags = specified_tags(input, "key-pair")["key-pair"]
    if type == "rsa":
        # Looking for primes takes 0.1 s or so of a core.
        made = await asyncio.to_thread(key_material.new_rsa)
    else:
        made = key_material.new_ed25519(ctx.env)
    pair = await _store(ctx, name, type, made.public_key, made.fingerprint, tags)
    return {**_answer(pair), "KeyMaterial": made.private_key}


@operation("ec2", "ImportKeyPair", write=True)
async def import_key_pair(ctx: Context, input: Input) -> Output:
    from gureum.services.ec2 import key_material

    name = await _new_name(ctx, input["KeyName"])
    tags = specified_tags(input, "key-pair")["key-pair"]
    if not input["PublicKeyMaterial"]:
        raise missing("PublicKeyMaterial")
    imported = key_material.read_public(input["PublicKeyMaterial"])
    pair = await _store(ctx, name, imported.type, imported.public_key, imported.fingerprint, tags)
    return _answer(pair)


@operation("ec2", "DescribeKeyPairs")
async def describe_key_pairs(ctx: Context, input: Input) -> Output:
    query = _FILTERS.parse(input.get("Filters"))
    chosen: dict[str, KeyPair] = {}
    if input.get("KeyNames"):
        for pair in await _named(ctx, input["KeyNames"]):
            chosen[pair.id] = pair
    if input.get("KeyPairIds"):
        for pair in await lookup.many(ctx, lookup.KEY_PAIR, input["KeyPairIds"]):
            chosen[pair.id] = pair
    if not input.get("KeyNames") and not input.get("KeyPairIds"):
        chosen = {pair.id: pair for pair in await ctx.tx.find(KeyPair, account=ctx.caller.account)}
    shown = []
    for pair in sorted(chosen.values(), key=lambda pair: pair.name):
        if query.admits(pair):
            public = f"{pair.public_key} {pair.name}\n" if input.get("IncludePublicKey") else None
            more = {"KeyType": pair.type, "CreateTime": pair.created, "PublicKey": public}
            shown.append({**_answer(pair), **more})
    return {"KeyPairs": shown}


async def _named(ctx: Context, names: Sequence[str]) -> list[KeyPair]:
    found = await ctx.tx.find(KeyPair, account=ctx.caller.account, name=list(names))
    absent = sorted(set(names) - {pair.name for pair in found})
    if absent:
        listed = ", ".join(absent)
        verb = "does" if len(absent) == 1 else "do"
        raise ApiError("InvalidKeyPair.NotFound", f"The key pair '{listed}' {verb} not exist")
    return found


@operation("ec2", "DeleteKeyPair", write=True)
async def delete_key_pair(ctx: Context, input: Input) -> Output:
    """Deleting what is not there succeeds, as in EC2."""
    name, id = input.get("KeyName"), input.get("KeyPairId")
    if not name and not id:
        raise missing("KeyName or KeyPairId")
    if id:
        pairs = await ctx.tx.get_many(KeyPair, [id])
    else:
        assert name
        pairs = await ctx.tx.find(KeyPair, account=ctx.caller.account, name=name)
    for pair in pairs:
        if pair.account == ctx.caller.account and name in (None, "", pair.name):
            await ctx.tx.delete(pair)
            return {"Return": True, "KeyPairId": pair.id}
    return {"Return": True}
