"""File systems that fail as real ones do."""
