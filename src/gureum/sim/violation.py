"""What a simulated run raises when something is not as it must be."""

from __future__ import annotations


class Violation(AssertionError):
    """An invariant does not hold; the text says which, and of what."""
