"""Documents that lie are defects: checks that README, CHANGELOG and docs agree with the code.

- every `gureum COMMAND` in a document exists in the CLI;
- every relative link leads to a file, every #anchor to a heading;
- the package's version is the newest in CHANGELOG.md and the one in pyproject.toml.
"""

import re
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "src"))

import gureum  # noqa: E402
from gureum.cli.commands import COMMANDS  # noqa: E402

FENCE = re.compile(r"^(```|~~~).*?^\1", re.MULTILINE | re.DOTALL)
CODE = re.compile(r"(?:^(?:\$ |# )?|`|\$\(|&& |sudo )(?:\./)?gureum(?: --yes)? ([a-z][a-z-]*)", re.MULTILINE)
LINK = re.compile(r"(?<!!)\[[^\]]*\]\(([^)\s]+)\)|!\[[^\]]*\]\(([^)\s]+)\)")
HEADING = re.compile(r"^#{1,6} +(.+?)\s*$", re.MULTILINE)
VERSION = re.compile(r"^## \[?v?(\d+\.\d+\.\d+[^\s\]]*)", re.MULTILINE)


def documents(root: Path) -> list[Path]:
    return sorted([*root.glob("*.md"), *root.glob("docs/**/*.md")])


def code_of(text: str) -> str:
    """Fenced blocks and `spans`: where `gureum word` means a command."""
    blocks = [match.group() for match in FENCE.finditer(text)]
    spans = re.findall(r"`[^`\n]+`", FENCE.sub("", text))
    return "\n".join([*blocks, *spans])


def unknown_commands(text: str) -> list[str]:
    return sorted({name for name in CODE.findall(code_of(text)) if name not in COMMANDS})


def anchor(heading: str) -> str:
    """A heading's anchor as forges make it."""
    words = re.sub(r"[`*]|\[([^\]]*)\]\([^)]*\)", r"\1", heading).lower()
    return re.sub(r"[^\w\- ]", "", words).replace(" ", "-")


def broken_links(document: Path, text: str) -> Iterator[str]:
    for target in (first or second for first, second in LINK.findall(FENCE.sub("", text))):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, fragment = target.partition("#")
        file = (document.parent / path).resolve() if path else document
        if not file.exists():
            yield f"{target}: no such file"
        elif fragment and file.suffix == ".md":
            headings = HEADING.findall(FENCE.sub("", file.read_text()))
            if fragment not in {anchor(heading) for heading in headings}:
                yield f"{target}: no such heading"


def version_faults(root: Path) -> Iterator[str]:
    declared = tomllib.loads((root / "pyproject.toml").read_text())["project"]["version"]
    if declared != gureum.__version__:
        yield f"pyproject.toml says {declared}, gureum.__version__ {gureum.__version__}"
    changelog = root / "CHANGELOG.md"
    newest = VERSION.search(changelog.read_text()) if changelog.exists() else None
    if newest is None or newest.group(1) != gureum.__version__:
        found = newest.group(1) if newest else "none"
        yield f"the newest version in CHANGELOG.md is {found}, gureum.__version__ is {gureum.__version__}"


def faults(root: Path) -> Iterator[str]:
    for document in documents(root):
        text = document.read_text()
        name = document.relative_to(root)
        for command in unknown_commands(text):
            yield f"{name}: there is no command `gureum {command}`"
        for fault in broken_links(document, text):
            yield f"{name}: {fault}"
    yield from version_faults(root)


def main() -> int:
    found = list(faults(ROOT))
    for fault in found:
        print(fault)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
