"""Encryption of volumes, and whether an account wants it always.

There is no KMS here: keys are the cloud's own (``gureum.control.keys``), and ``alias/aws/ebs`` stands for
them, as it does on EC2 where no key is named.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from msgspec.structs import replace

from gureum.errors import ApiError
from gureum.resources import EbsDefaults, Snapshot, VolumeKey
from gureum.services.ec2.faults import invalid_combination
from gureum.services.operation import Context, Input, Output, operation

ALIAS = "alias/aws/ebs"


def key_arn(ctx: Context) -> str:
    """What is shown as the key of all that is encrypted."""
    return f"arn:aws:kms:{ctx.cloud.region}:{ctx.cloud.account}:{ALIAS}"


def shown_key(ctx: Context, encrypted: bool) -> str | None:
    return key_arn(ctx) if encrypted else None


def check_key(ctx: Context, key: str | None, encrypted: bool) -> None:
    """Raises for a key that is not the one that there is."""
    if not key:
        return
    if not encrypted:
        raise ApiError(
            "InvalidParameterDependency",
            "The parameter KmsKeyId requires the parameter Encrypted to be set.",
        )
    if key not in (ALIAS, key_arn(ctx)):
        raise ApiError(
            "InvalidParameterValue",
            f"The key '{key}' does not exist: gureum has no KMS yet, only the key {ALIAS}. Leave KmsKeyId "
            "out to use it.",
        )


async def by_default(ctx: Context) -> bool:
    defaults = await ctx.tx.get(EbsDefaults, ctx.caller.account)
    return defaults is not None and defaults.encrypted


async def wanted(ctx: Context, spec: Mapping[str, Any], snapshot: Snapshot | None = None) -> bool:
    """Whether a new volume or copy is to be encrypted. What is made of something encrypted always is."""
    inherited = snapshot is not None and snapshot.encrypted
    encrypted = bool(spec.get("Encrypted")) or inherited or await by_default(ctx)
    check_key(ctx, spec.get("KmsKeyId"), encrypted)
    if snapshot is not None and inherited and spec.get("Encrypted") is False:
        raise invalid_combination(
            f"The snapshot '{snapshot.id}' is encrypted, and so is what is made of it: it can't be decrypted."
        )
    return encrypted


async def new_key(ctx: Context) -> str:
    """The id of a key that was just made."""
    id = ctx.env.new_id("key")
    wrapped = ctx.keys.new(ctx.env, id)
    await ctx.tx.put(VolumeKey(id=id, account=ctx.caller.account, wrapped=wrapped))
    return id


async def _set(ctx: Context, encrypted: bool) -> Output:
    account = ctx.caller.account
    defaults = await ctx.tx.get(EbsDefaults, account) or EbsDefaults(id=account, account=account)
    await ctx.tx.put(replace(defaults, encrypted=encrypted))
    return {"EbsEncryptionByDefault": encrypted}


@operation("ec2", "EnableEbsEncryptionByDefault", write=True)
async def enable_ebs_encryption_by_default(ctx: Context, input: Input) -> Output:
    return await _set(ctx, True)


@operation("ec2", "DisableEbsEncryptionByDefault", write=True)
async def disable_ebs_encryption_by_default(ctx: Context, input: Input) -> Output:
    return await _set(ctx, False)


@operation("ec2", "GetEbsEncryptionByDefault")
async def get_ebs_encryption_by_default(ctx: Context, input: Input) -> Output:
    encrypted = await by_default(ctx)
    return {"EbsEncryptionByDefault": encrypted, "SseType": "sse-kms" if encrypted else "none"}


@operation("ec2", "GetEbsDefaultKmsKeyId")
async def get_ebs_default_kms_key_id(ctx: Context, input: Input) -> Output:
    return {"KmsKeyId": key_arn(ctx)}
