"""DescribeInstanceTypes and DescribeInstanceTypeOfferings."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from gureum.errors import ApiError
from gureum.services.ec2 import pagination
from gureum.services.ec2.faults import invalid_value
from gureum.services.ec2.filters import Filters, Query
from gureum.services.ec2.instance_types import TYPES, item
from gureum.services.ec2.zones import zone_ids
from gureum.services.operation import Context, Input, Output, operation

_EBS = {
    f"{level.lower()}-{name}": f"{level}{member}"
    for level in ("Baseline", "Maximum")
    for name, member in (
        ("bandwidth-in-mbps", "BandwidthInMbps"),
        ("iops", "Iops"),
        ("throughput-in-mbps", "ThroughputInMBps"),
    )
}
TYPE_FILTERS = Filters(
    {
        **{f"ebs-info.ebs-optimized-info.{n}": f"EbsInfo.EbsOptimizedInfo.{m}" for n, m in _EBS.items()},
        "auto-recovery-supported": "AutoRecoverySupported",
        "bare-metal": "BareMetal",
        "burstable-performance-supported": "BurstablePerformanceSupported",
        "current-generation": "CurrentGeneration",
        "dedicated-hosts-supported": "DedicatedHostsSupported",
        "ebs-info.attachment-limit-type": "EbsInfo.AttachmentLimitType",
        "ebs-info.ebs-optimized-support": "EbsInfo.EbsOptimizedSupport",
        "ebs-info.encryption-support": "EbsInfo.EncryptionSupport",
        "ebs-info.maximum-ebs-attachments": "EbsInfo.MaximumEbsAttachments",
        "ebs-info.nvme-support": "EbsInfo.NvmeSupport",
        "free-tier-eligible": "FreeTierEligible",
        "hibernation-supported": "HibernationSupported",
        "hypervisor": "Hypervisor",
        "instance-storage-info.disk.count": "InstanceStorageInfo.Disks[].Count",
        "instance-storage-info.disk.size-in-gb": "InstanceStorageInfo.Disks[].SizeInGB",
        "instance-storage-info.disk.type": "InstanceStorageInfo.Disks[].Type",
        "instance-storage-info.encryption-support": "InstanceStorageInfo.EncryptionSupport",
        "instance-storage-info.nvme-support": "InstanceStorageInfo.NvmeSupport",
        "instance-storage-info.total-size-in-gb": "InstanceStorageInfo.TotalSizeInGB",
        "instance-storage-supported": "InstanceStorageSupported",
        "instance-type": "InstanceType",
        "memory-info.size-in-mib": "MemoryInfo.SizeInMiB",
        "network-info.bandwidth-weightings": "NetworkInfo.BandwidthWeightings",
        "network-info.efa-info.maximum-efa-interfaces": "NetworkInfo.EfaInfo.MaximumEfaInterfaces",
        "network-info.efa-supported": "NetworkInfo.EfaSupported",
        "network-info.ena-support": "NetworkInfo.EnaSupport",
        "network-info.encryption-in-transit-supported": "NetworkInfo.EncryptionInTransitSupported",
        "network-info.ipv4-addresses-per-interface": "NetworkInfo.Ipv4AddressesPerInterface",
        "network-info.ipv6-addresses-per-interface": "NetworkInfo.Ipv6AddressesPerInterface",
        "network-info.ipv6-supported": "NetworkInfo.Ipv6Supported",
        "network-info.maximum-network-cards": "NetworkInfo.MaximumNetworkCards",
        "network-info.maximum-network-interfaces": "NetworkInfo.MaximumNetworkInterfaces",
        "network-info.network-performance": "NetworkInfo.NetworkPerformance",
        "nitro-enclaves-support": "NitroEnclavesSupport",
        "nitro-tpm-info.supported-versions": "NitroTpmInfo.SupportedVersions",
        "nitro-tpm-support": "NitroTpmSupport",
        "processor-info.supported-architecture": "ProcessorInfo.SupportedArchitectures",
        "processor-info.supported-features": "ProcessorInfo.SupportedFeatures",
        "processor-info.sustained-clock-speed-in-ghz": "ProcessorInfo.SustainedClockSpeedInGhz",
        "reboot-migration-support": "RebootMigrationSupport",
        "supported-boot-mode": "SupportedBootModes",
        "supported-root-device-type": "SupportedRootDeviceTypes",
        "supported-usage-class": "SupportedUsageClasses",
        "supported-virtualization-type": "SupportedVirtualizationTypes",
        "vcpu-info.default-cores": "VCpuInfo.DefaultCores",
        "vcpu-info.default-threads-per-core": "VCpuInfo.DefaultThreadsPerCore",
        "vcpu-info.default-vcpus": "VCpuInfo.DefaultVCpus",
        "vcpu-info.valid-cores": "VCpuInfo.ValidCores",
        "vcpu-info.valid-threads-per-core": "VCpuInfo.ValidThreadsPerCore",
    },
    tags=False,
)
OFFERING_FILTERS = Filters({"instance-type": "InstanceType", "location": "Location"}, tags=False)


@operation("ec2", "DescribeInstanceTypes")
async def describe_instance_types(ctx: Context, input: Input) -> Output:
    names: Sequence[str] = input.get("InstanceTypes") or ()
    absent = [name for name in dict.fromkeys(names) if name not in TYPES]
    if absent:
        raise ApiError(
            "InvalidInstanceType",
            f"The following supplied instance types do not exist: [{', '.join(absent)}]",
        )
    page = pagination.page(input, "DescribeInstanceTypes", ids="InstanceTypes", high=100, default=100)
    query = TYPE_FILTERS.parse(input.get("Filters"))
    chosen = [(name, item(name)) for name in sorted(set(names) or TYPES)]
    return _paged(chosen, query, page, "DescribeInstanceTypes", "InstanceTypes")


@operation("ec2", "DescribeInstanceTypeOfferings")
async def describe_instance_type_offerings(ctx: Context, input: Input) -> Output:
    page = pagination.page(input, "DescribeInstanceTypeOfferings")
    query = OFFERING_FILTERS.parse(input.get("Filters"))
    kind = input.get("LocationType") or "region"
    locations: dict[str, Callable[[], list[str]]] = {
        "region": lambda: [ctx.cloud.region],
        "availability-zone": lambda: list(ctx.cloud.zones),
        "availability-zone-id": lambda: list(zone_ids(ctx.cloud).values()),
        "outpost": list,
    }
    if kind not in locations:
        raise invalid_value(f"Value ({kind}) for parameter locationType is invalid.")
    chosen = [
        (f"{name}/{location}", {"InstanceType": name, "LocationType": kind, "Location": location})
        for name in sorted(TYPES)
        for location in sorted(locations[kind]())
    ]
    return _paged(chosen, query, page, "DescribeInstanceTypeOfferings", "InstanceTypeOfferings")


def _paged(
    entries: Sequence[tuple[str, dict[str, Any]]],
    query: Query,
    page: pagination.Page,
    operation: str,
    member: str,
) -> dict[str, Any]:
    """A page of (position, item) entries, which are sorted by position."""
    matching = [entry for entry in entries if entry[0] > page.after and query.matches(entry[1])]
    output: dict[str, Any] = {member: [entry[1] for entry in matching[: page.limit]]}
    if len(matching) > page.limit:
        output["NextToken"] = pagination.encode(matching[page.limit - 1][0], operation)
    return output
