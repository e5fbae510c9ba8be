"""The gateway: bytes of an AWS request -> an authenticated call of (service, operation, input) -> bytes.

Generic over the service models: nothing here knows an operation by name, except for a few quirks of S3.
"""
