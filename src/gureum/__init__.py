"""gureum: Linux machines become a cloud, behind the AWS API."""

__version__ = "0.11.0"
