"""The program that speaks to Ceph: run by the system's Python, for its ``rados`` and ``rbd`` modules.

Only these and the standard library may be imported here. ``gureum.san.ceph.client`` starts and drives it.
"""
