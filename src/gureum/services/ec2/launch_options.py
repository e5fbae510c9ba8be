"""The options of RunInstances: which are understood, which are refused, and what they become in a record."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable, Mapping
from typing import Any

from msgspec.structs import replace

from gureum.errors import ApiError
from gureum.resources import KeyPair, MetadataOptions, Recovery, RecoveryPolicy
from gureum.services.ec2 import limits
from gureum.services.ec2.faults import invalid_combination, invalid_value, unsupported
from gureum.services.ec2.instance_types import DEFAULT_TYPE, TYPES, InstanceType
from gureum.services.operation import Context, Input

HOP_LIMIT_MAX = 64
CREDIT_OPTIONS = ("standard", "unlimited")


def _only(**allowed: tuple[Any, ...]) -> Callable[[Mapping[str, Any]], bool]:
    """A test that a structure says nothing but these values, which are what happens anyway."""
    return lambda value: all(
        member is None or member in allowed.get(name, ()) for name, member in value.items()
    )


# Options that gureum cannot honour, and when they are harmless. What is not listed here is understood.
_UNSUPPORTED: dict[str, Callable[[Any], bool]] = {
    "AdditionalInfo": lambda value: not value,
    "CapacityReservationSpecification": _only(CapacityReservationPreference=("open", "none")),
    "ElasticGpuSpecification": lambda value: not value,
    "ElasticInferenceAccelerators": lambda value: not value,
    "EnablePrimaryIpv6": lambda value: not value,
    "EnclaveOptions": _only(Enabled=(False,)),
    "HibernationOptions": _only(Configured=(False,)),
    "IamInstanceProfile": _only(Arn=("",), Name=("",)),
    "InstanceMarketOptions": lambda value: False,
    "KernelId": lambda value: not value,
    "LaunchTemplate": lambda value: False,
    "LicenseSpecifications": lambda value: not value,
    "MaintenanceOptions": _only(AutoRecovery=("default", "disabled")),
    "NetworkPerformanceOptions": _only(BandwidthWeighting=("default",)),
    "Operator": lambda value: False,
    "PrivateDnsNameOptions": _only(
        HostnameType=("ip-name",),
        EnableResourceNameDnsARecord=(False,),
        EnableResourceNameDnsAAAARecord=(False,),
    ),
    "RamdiskId": lambda value: not value,
    "SecondaryInterfaces": lambda value: not value,
}


def refuse_unsupported(input: Input) -> None:
    """Raises UnsupportedOperation for the first option that gureum would have to ignore."""
    for name, harmless in _UNSUPPORTED.items():
        value = input.get(name)
        if value is None:
            continue
        if not harmless(value):
            raise unsupported(f"The option {name} with the given value is not supported by gureum yet.")


def instance_count(input: Input) -> tuple[int, int]:
    """At least and at most how many instances."""
    low, high = input["MinCount"], input["MaxCount"]
    if low < 1:
        raise invalid_value(f"Value ({low}) for parameter minCount is invalid. It must be greater than 0.")
    if high < low:
        raise invalid_value(
            f"Value ({high}) for parameter maxCount is invalid. It must not be less than minCount."
        )
    if low > limits.INSTANCES_PER_CALL_MAX:
        raise instance_limit(low, limits.INSTANCES_PER_CALL_MAX)
    return low, min(high, limits.INSTANCES_PER_CALL_MAX)


def instance_limit(asked: int, limit: int) -> ApiError:
    return ApiError(
        "InstanceLimitExceeded",
        f"You have requested more instances ({asked}) than your current instance limit of {limit} allows.",
    )


def recovery(options: Mapping[str, Any] | None, present: Recovery) -> Recovery:
    """As EC2's maintenance options ask: what is "disabled" may also be gureum's own way of that, to stop."""
    wanted = (options or {}).get("AutoRecovery")
    if wanted not in (None, "default", "disabled"):
        raise invalid_value(f"Invalid value '{wanted}' for AutoRecovery.")
    if wanted == "default":
        return replace(present, policy=RecoveryPolicy.restart)
    if wanted == "disabled" and present.policy is RecoveryPolicy.restart:
        return replace(present, policy=RecoveryPolicy.none)
    return present


def instance_type(name: str | None) -> InstanceType:
    found = TYPES.get(name or DEFAULT_TYPE)
    if found is None:
        raise invalid_value(f"Invalid value '{name}' for InstanceType.")
    return found


def check_cpu_options(options: Mapping[str, Any] | None, type: InstanceType) -> None:
    if not options:
        return
    cores, threads = options.get("CoreCount"), options.get("ThreadsPerCore")
    given = {name for name, value in options.items() if value is not None}
    if given - {"CoreCount", "ThreadsPerCore"} or (cores, threads) not in (
        (type.cores, type.threads),
        (None, None),
    ):
        raise unsupported(
            f"CPU options other than {type.cores} cores with {type.threads} threads each are not supported "
            f"by gureum for {type.name}."
        )


def cpu_credits(given: Mapping[str, Any] | None, type: InstanceType) -> str:
    """The credit option asked for, "" for none. No instance is slowed down here: it is kept and shown."""
    value = str((given or {}).get("CpuCredits") or "")
    if value not in ("", *CREDIT_OPTIONS):
        raise invalid_value(
            f"Value ({value}) for parameter CpuCredits is invalid. Expected: {', '.join(CREDIT_OPTIONS)}."
        )
    if value and not type.burstable:
        raise no_credits(type.name)
    return value


def no_credits(type: str) -> ApiError:
    return ApiError(
        "InstanceCreditSpecification.NotSupported",
        f"The {type} instance type does not support CPU credits. Use a burstable type, or leave the credit "
        "specification out.",
    )


def user_data(text: str | None) -> bytes:
    """Decoded user data. The text is base64, with or without line breaks."""
    if not text:
        return b""
    try:
        data = base64.b64decode("".join(text.split()), validate=True)
    except (binascii.Error, ValueError):
        raise ApiError("InvalidUserData.Malformed", "Invalid BASE64 encoding of user data.") from None
    return checked_user_data(data)


def checked_user_data(data: bytes) -> bytes:
    if len(data) > limits.USER_DATA_BYTES_MAX:
        raise invalid_value(f"User data is limited to {limits.USER_DATA_BYTES_MAX} bytes")
    return data


def metadata_options(
    given: Mapping[str, Any] | None, before: MetadataOptions | None = None
) -> MetadataOptions:
    """``before`` with what is given put in its place."""
    given = given or {}
    before = before or MetadataOptions()
    if given.get("HttpProtocolIpv6") == "enabled":
        raise unsupported("The IPv6 endpoint of the metadata service is not supported by gureum yet.")
    hops = given.get("HttpPutResponseHopLimit")
    if hops is not None and not 1 <= hops <= HOP_LIMIT_MAX:
        raise invalid_value(
            f"The HttpPutResponseHopLimit must be between 1 and {HOP_LIMIT_MAX}, but is {hops}."
        )
    endpoint = _switch(given, "HttpEndpoint", "enabled", "disabled")
    if endpoint is False and (hops is not None or given.get("HttpTokens")):
        raise invalid_combination(
            "HttpTokens and HttpPutResponseHopLimit cannot be specified when HttpEndpoint is disabled."
        )
    tokens = _switch(given, "HttpTokens", "required", "optional")
    tags = _switch(given, "InstanceMetadataTags", "enabled", "disabled")
    return MetadataOptions(
        tokens_required=before.tokens_required if tokens is None else tokens,
        hop_limit=hops or before.hop_limit,
        enabled=before.enabled if endpoint is None else endpoint,
        tags_enabled=before.tags_enabled if tags is None else tags,
    )


def _switch(given: Mapping[str, Any], member: str, on: str, off: str) -> bool | None:
    value = given.get(member)
    if value in (None, ""):
        return None
    if value not in (on, off):
        raise invalid_value(f"Value ({value}) for parameter {member} is invalid. Expected: {on}, {off}.")
    return bool(value == on)


def shutdown_behavior(value: str | None) -> str:
    if value not in (None, "", "stop", "terminate"):
        raise invalid_value(
            f"Value ({value}) for parameter instanceInitiatedShutdownBehavior is invalid. "
            "Expected: stop, terminate."
        )
    return value or "stop"


async def public_key(ctx: Context, name: str | None) -> str:
    if not name:
        return ""
    found = await ctx.tx.find(KeyPair, account=ctx.caller.account, name=name)
    if not found:
        raise ApiError("InvalidKeyPair.NotFound", f"The key pair '{name}' does not exist")
    return found[0].public_key
