"""What goes wrong with a request, in the codes of the service it is for.

Every protocol and some services have names of their own for the same fault: a signature that does not match
is SignatureDoesNotMatch to IAM, AuthFailure to EC2 and InvalidSignatureException to Lambda.
"""

from __future__ import annotations

from enum import Enum

from gureum.errors import ApiError
from gureum.gateway.scalars import InputError


class AuthFault(Enum):
    """Why a request is not authenticated. All are answered with 403."""

    MISSING = "missing"
    INCOMPLETE = "incomplete"
    UNKNOWN_KEY = "unknown key"
    MISMATCH = "mismatch"
    SKEWED = "skewed"
    EXPIRED = "expired"
    BAD_TOKEN = "bad token"
    EXPIRED_TOKEN = "expired token"


_EC2 = {
    AuthFault.MISSING: "MissingAuthenticationToken",
    AuthFault.INCOMPLETE: "IncompleteSignature",
    AuthFault.UNKNOWN_KEY: "AuthFailure",
    AuthFault.MISMATCH: "AuthFailure",
    AuthFault.SKEWED: "RequestExpired",
    AuthFault.EXPIRED: "RequestExpired",
    AuthFault.BAD_TOKEN: "AuthFailure",
    AuthFault.EXPIRED_TOKEN: "RequestExpired",
}
_QUERY = {
    AuthFault.MISSING: "MissingAuthenticationToken",
    AuthFault.INCOMPLETE: "IncompleteSignature",
    AuthFault.UNKNOWN_KEY: "InvalidClientTokenId",
    AuthFault.MISMATCH: "SignatureDoesNotMatch",
    AuthFault.SKEWED: "SignatureDoesNotMatch",
    AuthFault.EXPIRED: "SignatureDoesNotMatch",
    AuthFault.BAD_TOKEN: "InvalidClientTokenId",
    AuthFault.EXPIRED_TOKEN: "ExpiredToken",
}
_JSON = {
    AuthFault.MISSING: "MissingAuthenticationTokenException",
    AuthFault.INCOMPLETE: "IncompleteSignatureException",
    AuthFault.UNKNOWN_KEY: "UnrecognizedClientException",
    AuthFault.MISMATCH: "InvalidSignatureException",
    AuthFault.SKEWED: "InvalidSignatureException",
    AuthFault.EXPIRED: "InvalidSignatureException",
    AuthFault.BAD_TOKEN: "UnrecognizedClientException",
    AuthFault.EXPIRED_TOKEN: "ExpiredTokenException",
}
_S3 = {
    AuthFault.MISSING: "AccessDenied",
    AuthFault.INCOMPLETE: "AuthorizationHeaderMalformed",
    AuthFault.UNKNOWN_KEY: "InvalidAccessKeyId",
    AuthFault.MISMATCH: "SignatureDoesNotMatch",
    AuthFault.SKEWED: "RequestTimeTooSkewed",
    AuthFault.EXPIRED: "AccessDenied",
    AuthFault.BAD_TOKEN: "InvalidToken",
    AuthFault.EXPIRED_TOKEN: "ExpiredToken",
}
_CODES = {"ec2": _EC2, "query": _QUERY, "rest-xml": _S3}

_TEXTS = {
    AuthFault.MISSING: "Request is missing Authentication Token",
    AuthFault.UNKNOWN_KEY: "The security token included in the request is invalid.",
    AuthFault.MISMATCH: (
        "The request signature we calculated does not match the signature you provided. "
        "Check your AWS Secret Access Key and signing method."
    ),
    AuthFault.EXPIRED: "Request has expired.",
    AuthFault.BAD_TOKEN: "The security token included in the request is invalid.",
    AuthFault.EXPIRED_TOKEN: "The security token included in the request is expired",
}
_EC2_TEXT = "AWS was not able to validate the provided access credentials"


class AuthError(Exception):
    """A request that is not authenticated; becomes an ApiError once its protocol is known."""

    def __init__(self, fault: AuthFault, text: str = "") -> None:
        super().__init__(fault.value)
        self.fault = fault
        self.text = text


def auth_error(error: AuthError, protocol: str) -> ApiError:
    code = _CODES.get(protocol, _JSON)[error.fault]
    text = error.text or (_EC2_TEXT if code == "AuthFailure" else _TEXTS.get(error.fault, ""))
    return ApiError(code, text or "The request is not authenticated.", 403)


def input_error(error: InputError, protocol: str) -> ApiError:
    """A request that does not fit the model, as the protocol's services say it."""
    path, text = error.path, error.text
    if protocol in ("ec2", "query"):
        return _form_error(error.reason, path, text)
    if protocol == "rest-xml":
        code = "InvalidArgument" if error.reason == "invalid" else "MalformedXML"
        if error.reason == "missing":
            code, text = "InvalidRequest", f"The request must contain {path}."
        return ApiError(code, f"{path}: {text}" if path and error.reason != "missing" else text)
    if error.reason == "missing":
        return ApiError(
            "ValidationException",
            f"1 validation error detected: Value null at '{path}' failed to satisfy constraint: "
            "Member must not be null",
        )
    code = "ValidationException" if error.reason == "invalid" and not path else "SerializationException"
    return ApiError(code, f"{path}: {text}" if path else text)


_NO_INSTANCES = "InvalidParameterCombination", "No instances specified"
_MISSING = {
    **{
        f"{each}InstancesRequest.InstanceIds": _NO_INSTANCES
        for each in ("Reboot", "Start", "Stop", "Terminate")
    },
    **{
        f"{each}TagsRequest.{member}": ("MissingParameter", f"The request must contain the parameter {name}")
        for each in ("Create", "Delete")
        for member, name in (("Resources", "resourceIdSet"), ("Tags", "tagSet"))
    },
}
"""What EC2 says of required members that its own code looks for, by shape and member: code and message."""


def _form_error(reason: str, path: str, text: str) -> ApiError:
    if reason == "unknown":
        return ApiError("UnknownParameter", f"The parameter {path} is not recognized")
    if reason == "missing":
        code, said = _MISSING.get(
            text, ("MissingParameter", f"The request must contain the parameter {path}")
        )
        return ApiError(code, said)
    if reason == "malformed":
        return ApiError("MalformedQueryString", text)
    return ApiError("InvalidParameterValue", f"The parameter {path} is invalid: {text}" if path else text)


def internal_error(protocol: str, request_id: str) -> ApiError:
    code = {"ec2": "InternalError", "rest-xml": "InternalError", "query": "InternalFailure"}.get(
        protocol, "InternalServerError" if protocol.startswith("rest") else "InternalFailure"
    )
    return ApiError(code, f"An internal error has occurred (request {request_id}).", 500)


def not_implemented(service: str, operation: str) -> ApiError:
    """400 and not 501: SDKs retry what they do not know above 499."""
    return ApiError("NotImplemented", f"gureum does not implement {operation} of {service} yet.", 400)


def unknown_operation(protocol: str, operation: str, version: str = "") -> ApiError:
    if protocol in ("ec2", "query"):
        if not operation:
            return ApiError("MissingAction", "The request must contain the parameter Action.")
        return ApiError(
            "InvalidAction", f"The action {operation[:128]} is not valid for this web service ({version})."
        )
    if protocol == "rest-xml":
        return ApiError("MethodNotAllowed", "The specified method is not allowed against this resource.", 405)
    if protocol == "rest-json":
        return ApiError("UnknownOperationException", f"No operation is at {operation[:128]}.", 404)
    return ApiError(
        "UnknownOperationException",
        f"The operation {operation[:128]} is not known.",
        404 if not operation else 400,
    )
