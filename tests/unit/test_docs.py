"""The user guide against the code: what a user can type or set is documented, what is generated is fresh.

That commands in documents exist and links lead somewhere is checked by scripts/check_docs.py.
"""

import importlib.util
import re
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import typer.main

from gureum.cli.commands import COMMANDS, EXIT_CODES
from gureum.cli.main import app
from gureum.cli.packages import PACKAGES

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
VARIABLE = re.compile(r"\bGUREUM_[A-Z_]*[A-Z]\b")


@pytest.fixture(scope="module")
def operations() -> ModuleType:
    spec = importlib.util.spec_from_file_location("operations", ROOT / "scripts" / "operations.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def sections(page: str) -> dict[str, str]:
    """The text below each heading of the third level."""
    found = re.split(r"^### (.+)$|^## .+$", page, flags=re.MULTILINE)
    return {name: text for name, text in zip(found[1::2], found[2::2], strict=True) if name}


def options_of(command: Any) -> set[str]:
    """The long options, also of subcommands."""
    own = {name for parameter in command.params for name in parameter.opts if name.startswith("--")}
    return own.union(*(options_of(each) for each in getattr(command, "commands", {}).values()))


def commands() -> dict[str, Any]:
    found: dict[str, Any] = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    return found


def test_every_command_has_a_section() -> None:
    assert commands().keys() == COMMANDS.keys()
    assert COMMANDS.keys() <= sections((DOCS / "operating.md").read_text()).keys()


@pytest.mark.parametrize("name", COMMANDS)
def test_every_option_is_in_its_command_s_section(name: str) -> None:
    section = sections((DOCS / "operating.md").read_text())[name]
    # --state-dir is said once for all of them.
    missing = {option for option in options_of(commands()[name]) if option not in section}
    assert missing <= {"--state-dir"}


def test_options_before_the_command_are_documented() -> None:
    page = (DOCS / "operating.md").read_text()
    own = {
        name
        for parameter in typer.main.get_command(app).params
        for name in parameter.opts
        if name.startswith("--") and "completion" not in name
    }
    assert {"--yes", "--version"} <= own
    assert [option for option in [*sorted(own), "--state-dir"] if f"`{option}" not in page] == []


def test_every_exit_code_is_documented() -> None:
    page = (DOCS / "operating.md").read_text()
    assert [code for code, meaning in EXIT_CODES.items() if f"| {code} | {meaning} |" not in page] == []


def test_every_environment_variable_is_documented_and_used() -> None:
    sources = [ROOT / "gureum", *(ROOT / "src").rglob("*.py")]
    used = {name for source in sources for name in VARIABLE.findall(source.read_text())}
    table = re.findall(r"^\| `(GUREUM_\w+)` \|", (DOCS / "operating.md").read_text(), re.MULTILINE)
    assert used
    assert set(table) == used


def test_every_debian_package_is_documented() -> None:
    page = (DOCS / "install.md").read_text()
    assert [package.name for package in PACKAGES if package.name not in page] == []


def test_every_page_is_in_the_index() -> None:
    index = (DOCS / "README.md").read_text()
    pages = {str(page.relative_to(DOCS)) for page in DOCS.rglob("*.md")} - {"README.md"}
    assert {page for page in pages if f"]({page})" not in index} == set()


def test_the_operations_are_fresh(operations: ModuleType) -> None:
    page = (DOCS / "operations.md").read_text()
    assert operations.fresh(page) == page, "run scripts/operations.py"


def test_a_stale_page_of_operations_is_noticed(operations: ModuleType) -> None:
    page = (DOCS / "operations.md").read_text()
    assert operations.fresh(page.replace("| RunInstances |", "| RunNothing |")) == page
    assert "| RunInstances |" in page
    with pytest.raises(ValueError, match="lacks the mark"):
        operations.fresh(page.replace(operations.END, ""))
