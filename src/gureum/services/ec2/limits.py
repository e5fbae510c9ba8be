"""Quotas. EC2's own defaults where they make sense on one's own machines, else the most that EC2 grants."""

from __future__ import annotations

INSTANCES_MAX = 100_000
"""Instances of an account that are not terminated."""
INSTANCES_PER_CALL_MAX = 1000
VCPUS_PER_CALL_MAX = 10_000
VOLUMES_MAX = 200_000
SNAPSHOTS_MAX = 200_000
IMAGES_MAX = 50_000
VOLUMES_PER_INSTANCE_MAX = 27
"""The root volume and the network interface are not counted."""
GROUPS_PER_VPC_MAX = 2500
GROUPS_PER_INTERFACE_MAX = 16
INTERFACES_MAX = 200_000
ADDRESSES_PER_INTERFACE_MAX = 50
"""Of one family, on an interface without an instance: what the largest types have."""
DEVICE_INDEX_MAX = 31
DESCRIPTION_LENGTH_MAX = 255
RULES_PER_GROUP_MAX = 1000
"""Rules of one direction: the highest that EC2 grants."""
VPCS_MAX = 1000
"""As the following ones: Amazon VPC User Guide, "Amazon VPC quotas"."""
CIDRS_PER_VPC_MAX = 5
"""Its first IPv4 network is one of them."""
CIDRS6_PER_VPC_MAX = 1
SUBNETS_PER_VPC_MAX = 200
INTERNET_GATEWAYS_MAX = VPCS_MAX
EGRESS_GATEWAYS_MAX = VPCS_MAX
ROUTE_TABLES_PER_VPC_MAX = 200
ROUTES_PER_TABLE_MAX = 1000
"""The local routes are not counted, a prefix list counts as the most entries that it can have."""
DHCP_OPTIONS_MAX = 1000
DHCP_VALUES_MAX = 4
"""Servers of a kind in a set of DHCP options."""
GATEWAY_ENDPOINTS_PER_VPC_MAX = 255
NETWORK_ACLS_PER_VPC_MAX = 200
RULES_PER_ACL_MAX = 40
"""Rules of one direction: the highest that EC2 grants."""
PEERINGS_PER_VPC_MAX = 125
FLOW_LOGS_PER_RESOURCE_MAX = 10
PREFIX_LISTS_MAX = 1000
PREFIX_LIST_ENTRIES_MAX = 1000
PREFIX_LIST_VERSIONS_MAX = 10
"""That are kept. EC2 keeps 1000; here they are all in one record."""
NAT_GATEWAYS_PER_ZONE_MAX = 200
"""What EC2 grants at most; its default is 5."""
ADDRESSES_MAX = 1024
KEY_PAIRS_MAX = 5000
PLACEMENT_GROUPS_MAX = 500
"""Of an account, as in EC2."""
TAGS_MAX = 50
TAG_KEY_LENGTH_MAX = 127
TAG_VALUE_LENGTH_MAX = 255
FILTER_VALUES_MAX = 200
USER_DATA_BYTES_MAX = 16 * 1024
CONSOLE_BYTES_MAX = 64 * 1024


GIB = 1 << 30
