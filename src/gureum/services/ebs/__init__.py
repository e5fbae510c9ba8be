"""Amazon EBS: the direct APIs, by which clients read and write the blocks of snapshots."""

from gureum.services.ebs import reading, writing

__all__ = ["reading", "writing"]
