"""Habits of the project that no tool checks."""

import ast
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parent.parent
NAME_MAX = 59
"""Most characters of a test's name: it must fit into one line of a report."""


def long_names(source: str) -> Iterator[str]:
    """Yield the names of test functions that are too long."""
    for node in ast.walk(ast.parse(source)):
        name = node.name if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) else ""
        if name.startswith("test_") and len(name) > NAME_MAX:
            yield name


def test_a_test_name_has_under_60_characters() -> None:
    found = {
        str(path.relative_to(ROOT)): names
        for path in sorted((ROOT / "tests").rglob("test_*.py"))
        if (names := list(long_names(path.read_text())))
    }
    assert not found


def test_a_long_test_name_is_found() -> None:
    short, long = "test_" + "a" * 54, "test_" + "a" * 55
    source = f"def {short}(): ...\nclass Some:\n    async def {long}(self): ...\n"
    assert list(long_names(source)) == [long]


def test_every_make_target_is_in_the_help() -> None:
    lines = (ROOT / "Makefile").read_text().splitlines()
    listed = next(i for i, line in enumerate(lines) if line.startswith(".PHONY:"))
    phony = " ".join(lines[listed : listed + 2]).replace("\\", "").split()[1:]
    described = {line.split(":")[0] for line in lines if ":" in line and " ## " in line}
    assert set(phony) - {"bench-peers"} == described  # a part of both benchmarks


def test_the_workflow_tests_every_supported_python() -> None:
    supported = [
        line.split(" :: ")[-1].strip('", ')
        for line in (ROOT / "pyproject.toml").read_text().splitlines()
        if '"Programming Language :: Python :: 3.' in line
    ]
    assert len(supported) == 3
    workflow = (ROOT / ".github/workflows/ci.yml").read_text()
    assert f"python: {supported}".replace("'", '"') in workflow
    assert "- run: .ci/run" in workflow


LOGS = {"debug", "info", "warning", "error", "exception", "log"}
"""Methods of a logger."""


def lines_without_fields(source: str) -> Iterator[int]:
    """Yield the lines that log something about one job without the fields of the job."""
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute):
            continue
        texts = [each.value for each in node.args if isinstance(each, ast.Constant)]
        names_job = any("job %s" in text for text in texts if isinstance(text, str))
        has_fields = any(keyword.arg == "extra" for keyword in node.keywords)
        if node.func.attr in LOGS and names_job and not has_fields:
            yield node.lineno


def test_log_lines_about_a_job_carry_its_trace() -> None:
    paths = [*(ROOT / "worker").rglob("*.py"), *(ROOT / "tollgate").rglob("*.py")]
    found = {
        str(path.relative_to(ROOT)): lines
        for path in paths
        if (lines := list(lines_without_fields(path.read_text())))
    }
    assert not found


def test_a_log_line_without_the_trace_is_found() -> None:
    bare, full = 'log.info("job %s: x", 1)', 'log.info("job %s: x", 1, extra=log_fields(job))'
    assert list(lines_without_fields(f"{full}\n{bare}\nlog.info('left')\n")) == [2]
