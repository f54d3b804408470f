"""The documents name only what exists: files, folders, modules, make targets, and links.

The decision records keep the names of their time; only their links are checked.
"""

import ast
import inspect
import re
import subprocess
import tomllib
from importlib import import_module
from operator import attrgetter
from pathlib import Path

import pytest
from click.testing import CliRunner

import tollgate
from tollgate.cli.main import cli
from tollgate.gateway.command import main as gateway
from tollgate.metrics.command import main as metrics
from tollgate.worker.__main__ import main as worker

ROOT = Path(__file__).parent.parent
DECISIONS = ROOT / "docs" / "decisions"
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
FENCED = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)
QUOTED = re.compile(r"`([^`\n]+)`")
PATH = re.compile(r"[\w@.-]+(?:/[\w@.-]+)*/?")
MODULE = re.compile(r"tollgate(?:\.\w+)+")
COMMAND = re.compile(r"(?:^|\$\(|bin/)tollgate ([a-z-]+)([^#\n|;)]*)", re.MULTILINE)
RUN = re.compile(r"(?:python|\$\(BIN\)/python) -m ((?:tollgate|tests|benchmarks)[\w.]*)")
MAKE = re.compile(r"make ([a-z-]+)")
HEADING = re.compile(r"^#+ (.*)$", re.MULTILINE)
SUFFIXES = (".py", ".md", ".toml", ".yml", ".service", ".conf", ".jsonl")
OTHERS = {"shop.py"}
"""Files that the reader makes."""


def tracked(pattern: str) -> list[Path]:
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", pattern]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if listed.returncode:  # no checkout, but an sdist
        return [path for path in ROOT.rglob(pattern) if "." not in path.relative_to(ROOT).parts[0]]
    return [ROOT / name for name in listed.stdout.splitlines() if (ROOT / name).exists()]


PAGES = tracked("*.md")
FOLDERS = {path.name for path in ROOT.iterdir() if path.is_dir() and path.name[0] != "."}
NAMES = {path.name for suffix in SUFFIXES for path in tracked(f"*{suffix}")}
PROGRAMS = {"worker": worker, "gateway": gateway, "metrics": metrics}
"""Commands that replace this process."""
TARGETS = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))


def anchors(page: str) -> set[str]:
    """Return the anchors that GitHub makes of the headings of a page."""
    titles = HEADING.findall(FENCED.sub("", page))
    return {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}


def broken_links(page: str, folder: Path) -> list[str]:
    """Return the relative links of a page that lead nowhere."""
    broken = []
    for link in LINK.findall(FENCED.sub("", page)):
        if "://" in link or link.startswith("mailto:"):
            continue
        name, _, anchor = link.partition("#")
        target = folder / name
        if not target.exists() or (
            anchor and anchor not in anchors(target.read_text() if name else page)
        ):
            broken.append(link)
    return broken


def is_there(dotted: str) -> bool:
    """Return whether a module, or a name in one, exists."""
    path = ROOT.joinpath(*dotted.split("."))
    if path.is_dir() or path.with_suffix(".py").is_file():
        return True
    module, _, name = dotted.rpartition(".")
    return bool(module) and is_there(module) and hasattr(import_module(module), name)


def is_missing(word: str, folder: Path) -> bool:
    """Return whether a word looks like the path of one of our files or modules, and is none."""
    if MODULE.fullmatch(word):
        return not is_there(word)
    if not PATH.fullmatch(word) or word in OTHERS:
        return False
    if "/" in word and word.partition("/")[0] in FOLDERS:
        return not ((ROOT / word).exists() or (folder / word).exists())
    return "/" not in word and word.endswith(SUFFIXES) and word not in NAMES


def missing_names(page: str, folder: Path) -> list[str]:
    """Return the files, modules and make targets that a page names and that do not exist."""
    words = QUOTED.findall(FENCED.sub("", page))
    missing = [word for word in words if is_missing(word, folder)]
    missing += [module for module in RUN.findall(page) if not is_there(module)]
    commands = [*words, *"\n".join(FENCED.findall(page)).splitlines()]
    targets = [target for line in commands for target in MAKE.findall(line) if "make" in line[:7]]
    return missing + [target for target in targets if target not in TARGETS]


@pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_somewhere(path: Path) -> None:
    assert broken_links(path.read_text(), path.parent) == []


@pytest.mark.parametrize(
    "path",
    [page for page in PAGES if DECISIONS not in page.parents],
    ids=lambda path: str(path.relative_to(ROOT)),
)
def test_what_is_named_exists(path: Path) -> None:
    assert missing_names(path.read_text(), path.parent) == []


@pytest.mark.parametrize(
    "text",
    [
        "see `broker/nothing.py`",
        "see `broker/nothing/`",
        "in `nothing.py`",
        "`tollgate.broker.nothing`",
        "`tollgate.Nothing`",
        "`python -m tollgate.nothing`",
        "```sh\npython -m benchmarks.nothing\n```",
        "`make nothing`",
        "```sh\nmake nothing\n```",
    ],
)
def test_a_missing_name_is_found(text: str) -> None:
    assert missing_names(text, ROOT)


@pytest.mark.parametrize("link", ["nothing.md", "README.md#nothing", "#nothing"])
def test_a_broken_link_is_found(link: str) -> None:
    assert broken_links(f"# Title\n[text]({link})", ROOT) == [link]


def test_every_decision_is_listed() -> None:
    listed = LINK.findall((DECISIONS / "README.md").read_text())
    assert listed == sorted(path.name for path in DECISIONS.glob("0*.md"))


def test_the_changelog_knows_the_version() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    page = (ROOT / "CHANGELOG.md").read_text()
    released = re.findall(r"^## \[(\d[^\]]*)\]", page, re.MULTILINE)
    sections = re.findall(r"^### (\w+)", page, re.MULTILINE)
    assert released[:1] in ([], [project["version"]])
    assert released or sections == ["Added"]  # nothing that a user never had can change


def is_ours(kind: object) -> bool:
    return isinstance(kind, type) and issubclass(kind, tollgate.TollgateError)


def test_the_guide_says_what_to_do_about_each_exception() -> None:
    page = (ROOT / "docs" / "guides" / "exceptions.md").read_text()
    rows = re.findall(r"^\| `(\w+)` \| .* \| (again|look|skip|stop) \|$", page, re.MULTILINE)
    bases = ("TollgateError", "Refusal")
    names = {name: getattr(tollgate, name) for name in tollgate.__all__ if name not in bases}
    kinds = {name: kind for name, kind in names.items() if is_ours(kind)}
    assert sorted(name for name, _ in rows) == sorted(kinds)
    for name, what in rows:
        kind = kinds[name]
        if issubclass(kind, tollgate.Refusal) and kind is not tollgate.ExpiredError:
            assert kind.retryable == (what == "again"), name


def commands(page: str) -> list[tuple[str, list[str]]]:
    """Return each `tollgate COMMAND` in the shell blocks of a page, and the options it is given."""
    lines = "\n".join(re.findall(r"^```sh\n(.*?)^```", page, re.MULTILINE | re.DOTALL))
    found = COMMAND.findall(lines.replace("\\\n", " "))
    return [(command, re.findall(r"(--[a-z-]+)", rest)) for command, rest in found]


@pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_commands_and_options_exist(path: Path) -> None:
    helps: dict[str, str] = {}
    for command, options in commands(path.read_text()):
        if command in {"broker", "journal", "keys", "config", "doctor"}:
            continue  # commands of other pages, with commands of their own
        if command not in helps:
            runner = CliRunner()
            program = PROGRAMS.get(command)
            asked = runner.invoke(program or cli, ["--help"] if program else [command, "--help"])
            assert asked.exit_code == 0, command
            helps[command] = asked.output
        for option in options:
            assert re.search(rf"{option}\b", helps[command]), (command, option)


def python_blocks(page: str) -> list[ast.Module]:
    """Return the Python blocks of a page; they may await at the top level, as in a notebook."""
    blocks = re.findall(r"^```python\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    flags = ast.PyCF_ONLY_AST | ast.PyCF_ALLOW_TOP_LEVEL_AWAIT
    return [compile(block, "block", "exec", flags) for block in blocks]


@pytest.mark.parametrize(
    "path",
    [page for page in PAGES if "```python" in page.read_text()],
    ids=lambda path: str(path.relative_to(ROOT)),
)
def test_python_in_pages_uses_what_exists(path: Path) -> None:
    for node in (node for block in python_blocks(path.read_text()) for node in ast.walk(block)):
        if isinstance(node, ast.Attribute) and ast.unparse(node.value) == "tollgate":
            assert hasattr(tollgate, node.attr), node.attr
        if isinstance(node, ast.Call) and MODULE.fullmatch(ast.unparse(node.func)):
            called = ast.unparse(node.func).removeprefix("tollgate.")
            known = inspect.signature(attrgetter(called)(tollgate)).parameters
            assert {each.arg for each in node.keywords} <= {*known}, ast.unparse(node)
