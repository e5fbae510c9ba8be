"""Errors of this package.

ImageError (a GureumError)
├── CommandError        a tool is missing, failed or took too long; the message names it and what it said
├── ImageBuildError     a built-in image cannot be made from what was found
├── ImageFormatError    a disk image from a user is broken or refused
└── ManifestError       a manifest file is missing, broken or from another version
"""

from gureum.errors import GureumError


class ImageError(GureumError):
    """Base of all errors of gureum.images. The text is meant for the person who asked."""


class CommandError(ImageError):
    pass


class ImageBuildError(ImageError):
    pass


class ImageFormatError(ImageError):
    pass


class ManifestError(ImageError):
    pass
