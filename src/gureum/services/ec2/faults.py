"""EC2's general errors, in EC2's words."""

from __future__ import annotations

from gureum.errors import ApiError
from gureum.resources import Instance


def invalid_value(message: str) -> ApiError:
    return ApiError("InvalidParameterValue", message)


def invalid_parameter_value(value: object, parameter: str, reason: str = "") -> ApiError:
    """As ``Value (x) for parameter y is invalid.``, with a reason."""
    text = f"Value ({value}) for parameter {parameter} is invalid."
    return ApiError("InvalidParameterValue", f"{text} {reason}" if reason else text)


def unknown_attribute(attribute: str) -> ApiError:
    """For an operation on one attribute by its name."""
    return invalid_parameter_value(attribute, "attribute", "Unknown attribute.")


def invalid_combination(message: str) -> ApiError:
    return ApiError("InvalidParameterCombination", message)


def missing(parameter: str) -> ApiError:
    return ApiError("MissingParameter", f"The request must contain the parameter {parameter}")


def unsupported(message: str) -> ApiError:
    """For what EC2 has and gureum does not: refused by name, never ignored."""
    return ApiError("UnsupportedOperation", message)


def incorrect_state(message: str) -> ApiError:
    return ApiError("IncorrectState", message)


def incorrect_instance_state(message: str) -> ApiError:
    return ApiError("IncorrectInstanceState", message)


def dependency_violation(message: str) -> ApiError:
    return ApiError("DependencyViolation", message)


def several_interfaces(instance: Instance) -> ApiError:
    """For an operation on an instance that means its only network interface."""
    return ApiError(
        "InvalidInstanceID",
        f"There are multiple interfaces attached to instance '{instance.id}'. Please specify an interface ID "
        "for the operation instead.",
    )
