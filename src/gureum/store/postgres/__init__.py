"""The store in a PostgreSQL database, for several managers of which one leads."""

from gureum.store.postgres.address import Address
from gureum.store.postgres.store import PostgresStore

__all__ = ["Address", "PostgresStore"]
