"""The warden: lets a host run machines only while it may, also when its agent is dead.

A process of its own, run by the system's Python, for its ``rados`` module: only that and the standard library
may be imported here, and ``network.silence``. ``custody`` decides; the rest are its hands.
"""
