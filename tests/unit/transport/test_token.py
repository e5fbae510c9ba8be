import pytest

from gureum.errors import ConfigError
from gureum.transport import token

FINGERPRINT = "ab" * 32
SECRET = bytes(range(32))


def test_what_is_written_is_read() -> None:
    text = token.write(FINGERPRINT, SECRET)
    assert token.read(f" {text}\n") == (FINGERPRINT, SECRET)
    assert text.isascii()
    assert " " not in text


@pytest.mark.parametrize(
    "text",
    [
        "",
        "gureum1",
        "gureum1..",
        "gureum2.YWJj.YWJj",
        "gureum1.YWJj.YWJj",
        "a.b.c.d",
        "gureum1.é.é",
        "x" * 9999,
    ],
)
def test_what_is_no_token(text: str) -> None:
    with pytest.raises(ConfigError, match="no token"):
        token.read(text)


def test_part_of_a_token_is_none() -> None:
    text = token.write(FINGERPRINT, SECRET)
    for cut in range(len(text)):
        with pytest.raises(ConfigError):
            token.read(text[:cut])


def test_the_secret_is_not_to_be_found_from_what_is_stored() -> None:
    assert token.identify(SECRET) != SECRET.hex()
    assert token.identify(SECRET) == token.identify(bytes(SECRET))
