"""Machines by QEMU, with KVM where it works and TCG elsewhere.

A machine is one QEMU process that no other process of ours has to be alive for. Everything it needs is given
to it as an open file: disks, taps, log, and its listening sockets, so it runs as a user that may open
nothing. ``hypervisor`` is the way in.
"""
