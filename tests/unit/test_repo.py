"""Rules of this repository that a program can check. Each names what to write instead."""

import importlib.util
import re
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[2]
DETERMINISTIC = ("services", "control", "agent")
IN_DETERMINISTIC_CODE = {
    r"\btime\.(time|monotonic|time_ns)\(": "env.now()",
    r"\bdatetime\.(now|utcnow|today)\(": "env.utcnow()",
    r"\brandom\.(random|randint|choice|choices|shuffle|getrandbits|uniform|sample)\(": "env.random",
    r"\buuid\.uuid[14]\(": "env.uuid()",
    r"\bsecrets\.\w+\(": "env.random or env.token()",
    r"\bos\.urandom\(": "env.random",
    r"\btime\.sleep\(": "await asyncio.sleep()",
}
IN_ALL_CODE = {
    r"\bexcept:": "the exceptions that are meant",
    r"\bshell=True": "a list of arguments",
    r"\byaml\.load\(|\bpickle\.loads?\(|\beval\(|\bexec\(": "msgspec or json",
    r"\b(TODO|FIXME|XXX|HACK)\b": "an issue, or the code",
    r"\btempfile\.mktemp\(": "tempfile.mkstemp() or TemporaryDirectory()",
}
PRINTING = {r"(?<![\w.])(?<!def )print\(": "logging"}
IN_ALL_TEXT = {
    r"(?<![\w.}/])/work/": "a path relative to the checkout",
    r"\bpypi\.org|files\.pythonhosted|deb\.debian\.org|registry\.npmjs": "no registry, pip knows its own",
    r"--(extra-)?index-url|--find-links": "no registry: pip knows its own",
}
SKIPPED = {
    ".git",
    ".venv",
    "__pycache__",
    ".mypy_cache",
    ".ruff_cache",
    ".pytest_cache",
    ".hypothesis",
    "dist",
}
FILE_LINES_MAX = 600


def findings(text: str, rules: dict[str, str]) -> list[str]:
    """`line: what was found -> what to write instead`, for each place. Comments count: they mislead too."""
    return [
        f"{number}: {match.group()} -> {instead}"
        for number, line in enumerate(text.splitlines(), 1)
        for rule, instead in rules.items()
        if (match := re.search(rule, line))
    ]


def in_files(files: list[Path], rules: dict[str, str]) -> list[str]:
    return [
        f"{path.relative_to(ROOT)}:{found}" for path in files for found in findings(path.read_text(), rules)
    ]


def sources(*areas: str) -> list[Path]:
    package = ROOT / "src" / "gureum"
    roots = [package / area for area in areas] or [package]
    return sorted(path for root in roots for path in root.rglob("*.py"))


def all_text() -> list[Path]:
    """Every text file of the repository but this one, which has to name what it forbids."""
    found = []
    for path in sorted(ROOT.rglob("*")):
        if SKIPPED & set(path.relative_to(ROOT).parts) or not path.is_file() or path == Path(__file__):
            continue
        try:
            path.read_text()
        except UnicodeDecodeError:
            continue
        found.append(path)
    return found


def test_what_decides_is_deterministic() -> None:
    # A warden is a process with threads of its own; what it decides is in one module, and that has no clock.
    apart = [path for path in sources("agent/warden") if path.name != "custody.py"]
    assert in_files(sorted(set(sources(*DETERMINISTIC)) - set(apart)), IN_DETERMINISTIC_CODE) == []


def test_code_is_free_of_traps() -> None:
    assert in_files(sources(), IN_ALL_CODE) == []


def test_only_programs_print() -> None:
    talkers = {path for path in sources() if path.name == "__main__.py"} | set(sources("cli"))
    assert in_files([path for path in sources() if path not in talkers], PRINTING) == []


def test_text_names_no_machine_and_no_registry() -> None:
    assert in_files(all_text(), IN_ALL_TEXT) == []


def test_files_fit_in_a_head() -> None:
    lengths = {str(path.relative_to(ROOT)): len(path.read_text().splitlines()) for path in sources()}
    assert {path: length for path, length in lengths.items() if length > FILE_LINES_MAX} == {}


def test_every_package_is_one() -> None:
    folders = {path.parent for path in sources()}
    assert [str(folder) for folder in sorted(folders) if not (folder / "__init__.py").exists()] == []


@pytest.mark.parametrize(
    ("line", "rules", "instead"),
    [
        ("now = time.time()", IN_DETERMINISTIC_CODE, "env.now()"),
        ("x = datetime.now(UTC)", IN_DETERMINISTIC_CODE, "env.utcnow()"),
        ("print('x')", PRINTING, "logging"),
        ("cd /work/main", IN_ALL_TEXT, "a path relative to the checkout"),
        ("x = self.env.random.choice(y)", {}, ""),
    ],
)
def test_rules_find_what_they_forbid(line: str, rules: dict[str, str], instead: str) -> None:
    found = findings(line, rules)
    assert len(found) == bool(rules)
    assert all(instead in finding for finding in found)


def test_rules_leave_what_is_right() -> None:
    right = "delay = env.random.uniform(0, 1); path = '/usr/work/x'; pprint(x); self.print_table()"
    assert findings(right, IN_ALL_CODE | IN_ALL_TEXT | PRINTING) == []


# ---- lock files


@pytest.mark.parametrize("name", ["requirements.lock", "requirements-dev.lock"])
def test_every_locked_package_has_hashes(name: str) -> None:
    entries = re.split(r"\n(?=\S)", (ROOT / name).read_text().strip())
    assert entries
    assert [entry.split()[0] for entry in entries if "--hash=sha256:" not in entry] == []


def test_development_lock_contains_the_other() -> None:
    run, dev = (
        set(re.findall(r"^\S+==\S+", (ROOT / name).read_text(), re.MULTILINE))
        for name in ("requirements.lock", "requirements-dev.lock")
    )
    assert run - dev == set()


def test_every_dependency_is_locked() -> None:
    import tomllib

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    locked = set(re.findall(r"^([\w.-]+)==", (ROOT / "requirements-dev.lock").read_text(), re.MULTILINE))
    wanted = [*project["dependencies"], *project["optional-dependencies"]["dev"]]
    names = {re.split(r"[\[<>=~! ;]", requirement)[0].lower().replace(".", "-") for requirement in wanted}
    assert names - locked == set()


# ---- scripts/check_docs.py


@pytest.fixture(scope="module")
def check_docs() -> ModuleType:
    spec = importlib.util.spec_from_file_location("check_docs", ROOT / "scripts" / "check_docs.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_documents_agree_with_the_code(check_docs: ModuleType) -> None:
    assert list(check_docs.faults(ROOT)) == []


def test_unknown_commands_are_found(check_docs: ModuleType) -> None:
    text = (
        "With gureum you can.\n```\n$ ./gureum upp -d\ngureum env\n```\n"
        "Use `gureum dwon`, `sudo ./gureum --yes demo`.\n"
    )
    assert check_docs.unknown_commands(text) == ["dwon", "upp"]


def test_broken_links_are_found(check_docs: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "b.md").write_text("# One `two` three!\n")
    text = (
        "[a](b.md) [b](b.md#one-two-three) [c](c.md) [d](b.md#four) [e](https://x/y) ![f](f.png) [g](#here)\n"
        "# Here\n"
    )
    document = tmp_path / "a.md"
    document.write_text(text)
    assert list(check_docs.broken_links(document, text)) == [
        "c.md: no such file",
        "b.md#four: no such heading",
        "f.png: no such file",
    ]
