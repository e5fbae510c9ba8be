"""The catalogue of instance types: EC2's families t2, t3, t3a, m5, m6i, c5 and r5, with EC2's own figures.

vCPUs and memory are what a machine gets. The figures for network and EBS bandwidth are shown as EC2 shows
them, so that tools which choose by them work; gureum does not shape traffic by them.
"""

from __future__ import annotations

from functools import cache
from typing import Any, NamedTuple

import msgspec

from gureum.services.ec2 import limits

DEFAULT_TYPE = "t3.micro"
"""EC2's default is m1.small, which no longer exists in new regions."""


class Family(NamedTuple):
    manufacturer: str
    ghz: float
    burstable: bool = False
    threads: int = 2
    """Per core."""
    hypervisor: str = "nitro"


FAMILIES = {
    "t2": Family("Intel", 2.3, burstable=True, threads=1, hypervisor="xen"),
    "t3": Family("Intel", 2.5, burstable=True),
    "t3a": Family("AMD", 2.2, burstable=True),
    "m5": Family("Intel", 3.1),
    "m6i": Family("Intel", 3.5),
    "c5": Family("Intel", 3.4),
    "r5": Family("Intel", 3.1),
}

# family, size, vCPUs, MiB, interfaces, addresses each, network Gbit/s (baseline, burst),
# EBS Mbit/s and IOPS at baseline, EBS Mbit/s and IOPS in a burst (0: the type has no bandwidth of its own)
SIZES = """
t2   nano      1    512   2  2  0.032  0.512  0      0      0     0
t2   micro     1   1024   2  2  0.064  1.024  0      0      0     0
t2   small     1   2048   3  4  0.128  1.024  0      0      0     0
t2   medium    2   4096   3  6  0.256  1.024  0      0      0     0
t2   large     2   8192   3 12  0.512  1.024  0      0      0     0
t2   xlarge    4  16384   3 15  0.75   1.024  0      0      0     0
t2   2xlarge   8  32768   3 15  1      1.024  0      0      0     0
t3   nano      2    512   2  2  0.032  5     43    250   2085 11800
t3   micro     2   1024   2  2  0.064  5     87    500   2085 11800
t3   small     2   2048   3  4  0.128  5    174   1000   2085 11800
t3   medium    2   4096   3  6  0.256  5    347   2000   2085 11800
t3   large     2   8192   3 12  0.512  5    695   4000   2780 15700
t3   xlarge    4  16384   4 15  1.024  5    695   4000   2780 15700
t3   2xlarge   8  32768   4 15  2.048  5    695   4000   2780 15700
t3a  nano      2    512   2  2  0.032  5     45    250   2085 11800
t3a  micro     2   1024   2  2  0.064  5     90    500   2085 11800
t3a  small     2   2048   2  4  0.128  5    175   1000   2085 11800
t3a  medium    2   4096   3  6  0.256  5    350   2000   2085 11800
t3a  large     2   8192   3 12  0.512  5    695   4000   2780 15700
t3a  xlarge    4  16384   4 15  1.024  5    695   4000   2780 15700
t3a  2xlarge   8  32768   4 15  2.048  5    695   4000   2780 15700
m5   large     2   8192   3 10  0.75  10    650   3600   4750 18750
m5   xlarge    4  16384   4 15  1.25  10   1150   6000   4750 18750
m5   2xlarge   8  32768   4 15  2.5   10   2300  12000   4750 18750
m5   4xlarge  16  65536   8 30  5     10   4750  18750   4750 18750
m5   8xlarge  32 131072   8 30 10     10   6800  30000   6800 30000
m5   12xlarge 48 196608   8 30 12     12   9500  40000   9500 40000
m5   16xlarge 64 262144  15 50 20     20  13600  60000  13600 60000
m5   24xlarge 96 393216  15 50 25     25  19000  80000  19000 80000
m6i  large     2   8192   3 10  0.781 12.5  650   3600  10000 40000
m6i  xlarge    4  16384   4 15  1.562 12.5 1250   6000  10000 40000
m6i  2xlarge   8  32768   4 15  3.125 12.5 2500  12000  10000 40000
m6i  4xlarge  16  65536   8 30  6.25  12.5 5000  20000  10000 40000
m6i  8xlarge  32 131072   8 30 12.5  12.5 10000  40000  10000 40000
m6i  12xlarge 48 196608   8 30 18.75 18.75 15000 60000  15000 60000
m6i  16xlarge 64 262144  15 50 25    25   20000  80000  20000 80000
m6i  24xlarge 96 393216  15 50 37.5  37.5 30000 120000  30000 120000
c5   large     2   4096   3 10  0.75  10    650   4000   4750 20000
c5   xlarge    4   8192   4 15  1.25  10   1150   6000   4750 20000
c5   2xlarge   8  16384   4 15  2.5   10   2300  10000   4750 20000
c5   4xlarge  16  32768   8 30  5     10   4750  20000   4750 20000
c5   9xlarge  36  73728   8 30 12     12   9500  40000   9500 40000
c5   12xlarge 48  98304   8 30 12     12   9500  40000   9500 40000
c5   18xlarge 72 147456  15 50 25     25  19000  80000  19000 80000
c5   24xlarge 96 196608  15 50 25     25  19000  80000  19000 80000
r5   large     2  16384   3 10  0.75  10    650   3600   4750 18750
r5   xlarge    4  32768   4 15  1.25  10   1150   6000   4750 18750
r5   2xlarge   8  65536   4 15  2.5   10   2300  12000   4750 18750
r5   4xlarge  16 131072   8 30  5     10   4750  18750   4750 18750
r5   8xlarge  32 262144   8 30 10     10   6800  30000   6800 30000
r5   12xlarge 48 393216   8 30 12     12   9500  40000   9500 40000
r5   16xlarge 64 524288  15 50 20     20  13600  60000  13600 60000
r5   24xlarge 96 786432  15 50 25     25  19000  80000  19000 80000
"""


class InstanceType(msgspec.Struct, frozen=True, kw_only=True):
    """One type. Bandwidths: network in Gbit/s, EBS in Mbit/s."""

    name: str
    family: str
    vcpus: int
    memory_mib: int
    interfaces_max: int
    addresses_per_interface: int
    network_baseline: float
    network_burst: float
    ebs_baseline: int
    ebs_baseline_iops: int
    ebs_burst: int
    ebs_burst_iops: int

    @property
    def memory_bytes(self) -> int:
        return self.memory_mib << 20

    @property
    def burstable(self) -> bool:
        return FAMILIES[self.family].burstable

    @property
    def cores(self) -> int:
        return self.vcpus // self.threads

    @property
    def threads(self) -> int:
        """Per core."""
        return FAMILIES[self.family].threads

    @property
    def network_performance(self) -> str:
        if FAMILIES[self.family].hypervisor == "xen":
            # EC2 has words for the old types.
            return "Moderate" if self.network_baseline >= 0.75 else "Low to Moderate"
        upto = "" if self.network_baseline == self.network_burst else "Up to "
        return f"{upto}{self.network_burst:g} Gigabit"


def _parse(line: str) -> InstanceType:
    family, size, *figures = line.split()
    vcpus, mib, interfaces, addresses, low, high, ebs, iops, ebs_burst, iops_burst = map(float, figures)
    return InstanceType(
        name=f"{family}.{size}",
        family=family,
        vcpus=int(vcpus),
        memory_mib=int(mib),
        interfaces_max=int(interfaces),
        addresses_per_interface=int(addresses),
        network_baseline=low,
        network_burst=high,
        ebs_baseline=int(ebs),
        ebs_baseline_iops=int(iops),
        ebs_burst=int(ebs_burst),
        ebs_burst_iops=int(iops_burst),
    )


TYPES = {each.name: each for each in map(_parse, SIZES.strip().splitlines())}


@cache
def item(name: str) -> dict[str, Any]:
    """A type as DescribeInstanceTypes shows it. Shared: not to be changed."""
    type = TYPES[name]
    family = FAMILIES[type.family]
    return {
        "InstanceType": name,
        "CurrentGeneration": True,
        "FreeTierEligible": name == DEFAULT_TYPE,
        "SupportedUsageClasses": ["on-demand"],
        "SupportedRootDeviceTypes": ["ebs"],
        "SupportedVirtualizationTypes": ["hvm"],
        "BareMetal": False,
        "Hypervisor": family.hypervisor,
        "ProcessorInfo": {
            "SupportedArchitectures": ["x86_64"],
            "SustainedClockSpeedInGhz": family.ghz,
            "Manufacturer": family.manufacturer,
        },
        "VCpuInfo": {
            "DefaultVCpus": type.vcpus,
            "DefaultCores": type.cores,
            "DefaultThreadsPerCore": type.threads,
            "ValidCores": [type.cores],
            "ValidThreadsPerCore": [type.threads],
        },
        "MemoryInfo": {"SizeInMiB": type.memory_mib},
        "InstanceStorageSupported": False,
        "EbsInfo": _ebs(type),
        "NetworkInfo": _network(type),
        "PlacementGroupInfo": {"SupportedStrategies": []},
        "HibernationSupported": False,
        "BurstablePerformanceSupported": family.burstable,
        "DedicatedHostsSupported": False,
        "AutoRecoverySupported": True,
        "SupportedBootModes": ["legacy-bios"],
        "NitroEnclavesSupport": "unsupported",
        "NitroTpmSupport": "unsupported",
        "PhcSupport": "unsupported",
        "RebootMigrationSupport": "unsupported",
        "SupportedInRegion": True,
    }


def _ebs(type: InstanceType) -> dict[str, Any]:
    common = {
        "EncryptionSupport": "unsupported",
        "NvmeSupport": "unsupported",
        "MaximumEbsAttachments": limits.VOLUMES_PER_INSTANCE_MAX,
        "AttachmentLimitType": "shared",
    }
    if not type.ebs_burst:
        return {"EbsOptimizedSupport": "unsupported", **common}
    return {
        "EbsOptimizedSupport": "default",
        **common,
        "EbsOptimizedInfo": {
            "BaselineBandwidthInMbps": type.ebs_baseline,
            "BaselineThroughputInMBps": type.ebs_baseline / 8,
            "BaselineIops": type.ebs_baseline_iops,
            "MaximumBandwidthInMbps": type.ebs_burst,
            "MaximumThroughputInMBps": type.ebs_burst / 8,
            "MaximumIops": type.ebs_burst_iops,
        },
    }


def _network(type: InstanceType) -> dict[str, Any]:
    shared = {
        "NetworkPerformance": type.network_performance,
        "MaximumNetworkInterfaces": type.interfaces_max,
    }
    return {
        **shared,
        "MaximumNetworkCards": 1,
        "DefaultNetworkCardIndex": 0,
        "NetworkCards": [
            {
                "NetworkCardIndex": 0,
                **shared,
                "BaselineBandwidthInGbps": type.network_baseline,
                "PeakBandwidthInGbps": type.network_burst,
            }
        ],
        "Ipv4AddressesPerInterface": type.addresses_per_interface,
        "Ipv6AddressesPerInterface": type.addresses_per_interface,
        "Ipv6Supported": True,
        "EnaSupport": "unsupported",
        "EfaSupported": False,
        "EncryptionInTransitSupported": False,
        "EnaSrdSupported": False,
    }


def machine_size(name: str) -> InstanceType:
    """The type of an instance. Raises LookupError for one that is not in the catalogue."""
    return TYPES[name]


GROWTH = 4
GROWING_MIB_MIN = 1024


class Growth(NamedTuple):
    vcpus: int
    memory_bytes: int


@cache
def growth(name: str) -> Growth:
    """To what an instance that is started with this type can grow while it runs: the larger types of its
    family, up to GROWTH times of what it has.

    A guest keeps tables for memory that it gets in the memory that it has, and what it gets is of no use for
    some of what its kernel needs. And a Linux that may get memory above 4 GiB sets 64 MiB aside (swiotlb),
    which is much for those with the least: they keep what they have.
    """
    type = TYPES[name]
    if type.memory_mib < GROWING_MIB_MIN:
        return Growth(type.vcpus, type.memory_bytes)
    near = [
        each
        for each in TYPES.values()
        if each.family == type.family
        and each.vcpus <= GROWTH * type.vcpus
        and each.memory_mib <= GROWTH * type.memory_mib
    ]
    return Growth(max(each.vcpus for each in near), max(each.memory_bytes for each in near))
