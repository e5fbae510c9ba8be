"""Quotas. EC2's own defaults where they make sense on one's own machines, else the most that EC2 grants."""

from __future__ import annotations

INSTANCES_MAX = 100_000
"""Instances of an account that are not terminated."""
INSTANCES_PER_CALL_MAX = 1000
VCPUS_PER_CALL_MAX = 10_000
VOLUMES_MAX = 200_000
SNAPSHOTS_MAX = 200_000
VOLUMES_PER_INSTANCE_MAX = 27
"""The root volume and the network interface are not counted."""
GROUPS_PER_VPC_MAX = 2500
GROUPS_PER_INTERFACE_MAX = 16
RULES_PER_GROUP_MAX = 1000
"""Rules of one direction: the highest that EC2 grants."""
ADDRESSES_MAX = 1024
KEY_PAIRS_MAX = 5000
TAGS_MAX = 50
TAG_KEY_LENGTH_MAX = 127
TAG_VALUE_LENGTH_MAX = 255
FILTER_VALUES_MAX = 200
USER_DATA_BYTES_MAX = 16 * 1024
CONSOLE_BYTES_MAX = 64 * 1024


GIB = 1 << 30
