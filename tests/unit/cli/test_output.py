import pytest

from gureum.cli.commands import TYPED_VARIABLE
from gureum.cli.output import CliError, as_typed, show_error


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("gureum up -d", "../g/gureum up -d"),
        ("gureum down, then up; gureum logs mon.a", "../g/gureum down, then up; ../g/gureum logs mon.a"),
        ('eval "$(gureum env)"', 'eval "$(../g/gureum env)"'),
        ("./gureum --yes test", "./gureum --yes test"),
        ("what gureum uploads: /var/lib/gureum up to now", "what gureum uploads: /var/lib/gureum up to now"),
    ],
)
def test_commands_are_shown_as_they_can_be_typed(
    monkeypatch: pytest.MonkeyPatch, text: str, shown: str
) -> None:
    assert as_typed(text) == text
    monkeypatch.setenv(TYPED_VARIABLE, "../g/gureum")
    assert as_typed(text) == shown


def test_an_error_names_the_next_step(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(TYPED_VARIABLE, "./gureum")
    show_error(CliError("it does not run", "gureum up -d", detail="gureum up failed before"))
    # What another program said is shown as it is.
    assert capsys.readouterr().err == (
        "gureum: it does not run\ngureum up failed before\n  next: ./gureum up -d\n"
    )
