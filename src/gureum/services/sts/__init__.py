"""The Security Token Service."""

from gureum.services.sts import identity

__all__ = ["identity"]
