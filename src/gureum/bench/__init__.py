"""``gureum bench``: the figures of docs/SPECIFICATION.md, each against a peer in the same run."""
