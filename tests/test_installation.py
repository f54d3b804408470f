"""What is built and installed: one package, which works beside any other file or package."""

import os
import signal
import subprocess
import sys
import tarfile
import time
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

import tollgate
import tollgate.testing

ROOT = Path(__file__).parents[1]
PATIENCE_S = 20.0
NAMES = ("broker", "client", "domain", "worker")
"""Top-level names of another distribution, and of files in the user's directory."""
SITE_PACKAGES = Path("lib", f"python{sys.version_info[0]}.{sys.version_info[1]}", "site-packages")

HANDLER = """
import helper  # beside this file

def answer(job):
    import later  # imported when it is called, and beside this file too
    return later.shout(helper.greet(job.input))
"""
APPLICATION = """
import client, tollgate
assert client.answer
with tollgate.connect() as broker:
    print(broker.count().total)
"""
FIXTURES = """
import sys, tollgate.testing
def test_it(tollgate_broker, tollgate_client):
    assert tollgate.testing.__file__.startswith(sys.prefix)
    assert tollgate_broker.pay(tollgate_client.create(input="a")).status == "running"
"""
TRAP = "open(__file__ + '.ran', 'w').close()\nraise SystemExit('the wrong file runs')\n"
TRAPS = ("asyncio", "click", "json", "logging", "msgspec", "pydantic", "rich", "structlog", "zmq")
"""Modules that tollgate imports. A file with such a name in the user's directory must not run."""


def run(*command: str | Path, cwd: Path = ROOT) -> str:
    """Run a command; return what it printed. It finds what is installed, and no checkout."""
    environment = {name: text for name, text in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        command, cwd=cwd, env=environment, capture_output=True, text=True, check=False,
        timeout=PATIENCE_S,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def build(source: Path, directory: Path, *targets: str) -> list[Path]:
    """Build distributions of the project in `source`."""
    options = [option for target in targets for option in ("-t", target)]
    run(sys.executable, "-m", "hatchling", "build", *options, "-d", directory, cwd=source)
    return sorted(directory.iterdir())


def contents(wheel: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(wheel) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A wheel and an sdist of this tree."""
    wheel, sdist = build(ROOT, tmp_path_factory.mktemp("built"), "wheel", "sdist")
    return wheel, sdist


def test_wheel_has_one_package(built: tuple[Path, Path]) -> None:
    names = contents(built[0])
    assert {name.split("/")[0] for name in names} == {"tollgate", "tollgate-0.1.0.dist-info"}
    for name in NAMES:
        assert f"tollgate/{name}/__init__.py" in names
    assert {"tollgate/py.typed", "tollgate/demo/inputs.jsonl"} <= names.keys()


def extract_all(archive: tarfile.TarFile, directory: Path) -> None:
    if hasattr(tarfile, "data_filter"):
        archive.extractall(directory, filter="data")
    else:  # Python 3.11 before 3.11.4
        archive.extractall(directory)  # noqa: S202 - we built it


def test_sdist_has_no_link_and_builds_the_same_wheel(
    built: tuple[Path, Path], tmp_path: Path
) -> None:
    wheel, sdist = built
    with tarfile.open(sdist) as archive:
        assert all(member.isfile() for member in archive)
        extract_all(archive, tmp_path)
    (source,) = tmp_path.iterdir()
    (again,) = build(source, tmp_path / "wheel", "wheel")
    assert contents(again) == contents(wheel)


def test_editable_installation_is_a_path_alone(tmp_path: Path) -> None:
    program = f"import hatchling.build as b; b.build_editable({str(tmp_path)!r})"
    run(sys.executable, "-c", program)
    files = contents(next(tmp_path.iterdir()))
    (path,) = (name for name in files if not name.startswith("tollgate-0.1.0.dist-info/"))
    assert path.endswith(".pth")
    assert files[path].decode().split() == [str(ROOT)]


class Installation:
    """An environment without any package but what the tests install."""

    def __init__(self, directory: Path) -> None:
        self.bin = directory / "bin"
        self.packages = directory / SITE_PACKAGES
        self.python = self.bin / "python"
        run(sys.executable, "-m", "venv", "--without-pip", directory)
        self._dependencies = self.packages / "dependencies.pth"

    def pip(self, *arguments: str | Path) -> None:
        # The dependencies come from the environment of the tests. Pip must not see them: it would
        # find the tollgate that is installed there.
        self._dependencies.unlink(missing_ok=True)
        run(sys.executable, "-m", "pip", "--python", self.python, "--quiet", *arguments)
        self._dependencies.write_text(f"{Path(pytest.__file__).parents[1]}\n")

    def install(self, *wheels: Path) -> None:
        self.pip("install", "--no-deps", "--no-index", "--no-compile", *wheels)


def other_distribution(directory: Path) -> Path:
    """Make a wheel that owns the top-level names."""
    path = directory / "others-1.0-py3-none-any.whl"
    metadata = "others-1.0.dist-info"
    files = {f"{name}/__init__.py": "OWNER = 'others'\n" for name in NAMES}
    files |= {f"{name}/__main__.py": TRAP for name in NAMES}
    files[f"{metadata}/METADATA"] = "Metadata-Version: 2.1\nName: others\nVersion: 1.0\n"
    files[f"{metadata}/WHEEL"] = "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
    record = f"{metadata}/RECORD"
    files[record] = "".join(f"{name},,\n" for name in (*files, record))
    with zipfile.ZipFile(path, "w") as archive:
        for name, text in files.items():
            archive.writestr(name, text)
    return path


@pytest.fixture(scope="module")
def installation(
    built: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory
) -> Installation:
    """An environment with tollgate and another distribution that owns the top-level names."""
    made = Installation(tmp_path_factory.mktemp("environment"))
    made.install(built[0], other_distribution(tmp_path_factory.mktemp("others")))
    return made


class User:
    """Runs commands in a directory that has files with names like those of our modules."""

    def __init__(self, installation: Installation, directory: Path) -> None:
        self._bin = installation.bin
        self.directory = directory / "here"
        for name in ("broker.py", "tollgate.py", "domain/__init__.py", "worker/__init__.py"):
            self._write(name, TRAP)
        for name in TRAPS:
            self._write(f"{name}.py", TRAP)
        self._write("client.py", HANDLER)
        self._write("helper.py", "def greet(text): return f'hello, {text}'\n")
        self._write("later.py", "def shout(text): return text.upper()\n")
        self._write("application/client.py", "answer = 42\n")
        self._write("application/broker.py", TRAP)
        self._write("application/app.py", APPLICATION)
        kept = {name: value for name, value in os.environ.items() if name in ("PATH", "LC_ALL")}
        xdg = {f"XDG_{name}": str(directory / name) for name in ("RUNTIME_DIR", "STATE_HOME")}
        for path in xdg.values():
            Path(path).mkdir(mode=0o700)
        self.environment = {**kept, **xdg, "HOME": str(directory)}

    def _write(self, name: str, text: str) -> None:
        path = self.directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)

    def run(self, *command: str, cwd: str = ".", text: str = "") -> str:
        """Run a program of the environment; return what it printed."""
        program, *arguments = command
        done = subprocess.run(
            [self._bin / program, *arguments], cwd=self.directory / cwd, env=self.environment,
            input=text, capture_output=True, text=True, check=False, timeout=PATIENCE_S,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout.strip()

    @contextmanager
    def broker(self, *command: str) -> Iterator[None]:
        """Run a broker, and check that it stops in order."""
        program, *arguments = command
        process = subprocess.Popen(
            [self._bin / program, *arguments], cwd=self.directory, env=self.environment,
            stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        assert process.stderr is not None
        log: list[str] = []
        try:
            for line in process.stderr:
                log.append(line)
                if '"ready"' in line:
                    break
            assert '"ready"' in log[-1], log
            yield
        finally:
            process.send_signal(signal.SIGTERM)
            process.communicate(timeout=PATIENCE_S)
        assert process.returncode == 0

    def works_with(self, *tollgate: str, worker: tuple[str, ...]) -> None:
        """Take a job through its life."""
        job_id = self.run(*tollgate, "create", "you")
        assert self.run(*tollgate, "list", "--status", "awaiting_payment").startswith(job_id)
        handler = ("--handler", "client:answer", "--jobs", "1")
        paying = ("--simulate-payments", "--pay-delay-ms-min", "0", "--pay-delay-ms-max", "0")
        self.run(*worker, *handler, *paying)
        assert "HELLO, YOU" in self.run(*tollgate, "wait", job_id)

    def wait_for_file(self, pattern: str) -> None:
        """Return once there is such a file in the user's state directory."""
        until = time.monotonic() + PATIENCE_S
        while not [*Path(self.environment["XDG_STATE_HOME"]).rglob(pattern)]:
            assert time.monotonic() < until, f"no {pattern}"
            time.sleep(0.05)

    def traps(self) -> list[Path]:
        """Return the files that must not run, and did."""
        return [*self.directory.rglob("*.ran")]


def test_installed_beside_files_with_the_same_names(
    installation: Installation, built: tuple[Path, Path], short_dir: Path
) -> None:
    user = User(installation, short_dir)
    with user.broker("tollgate", "broker", "--segment-bytes", "65536"):
        user.works_with("tollgate", worker=("tollgate", "worker"))
        moved = user.run("tollgate", "create", "x")
        assert "running" in user.run("tollgate", "transition", moved, "running")
        assert moved in user.run("tollgate", "get", moved)
        assert user.run("tollgate", "count").endswith("2")
        assert " answered in " in user.run("tollgate", "ping")
        assert user.run("python", "app.py", cwd="application") == "2"
        # More than the broker reserves for one batch, so that a segment is closed.
        user.run("tollgate", "create", "-", text=f"{'a' * 60_000}\n" * 250)
        user.wait_for_file("snapshot-*")  # which a process of the broker writes
    assert "record" in user.run("tollgate", "journal", "verify")
    user.run("tollgate", "keys", "new", "alice", "--role", "producer")
    assert '"ok":true' in user.run("tollgate", "demo", "--jobs", "1", "--seed", "2377", "--json")
    assert user.traps() == []

    # As modules. Before `tollgate` is found, only the interpreter itself can help.
    (user.directory / "tollgate.py").unlink()
    with user.broker("python", "-m", "tollgate.broker", "--in-memory"):
        user.works_with("python", "-m", "tollgate", worker=("python", "-m", "tollgate.worker"))
    assert user.traps() == []


def test_pytest_finds_the_fixtures(installation: Installation, tmp_path: Path) -> None:
    (tmp_path / "test_it.py").write_text(FIXTURES)
    options = ("-q", "-p", "no:cacheprovider", "-c", os.devnull, "--rootdir", tmp_path)
    # -B: pip would leave what pytest compiles
    assert "1 passed" in run(installation.python, "-B", "-m", "pytest", *options, ".", cwd=tmp_path)


def test_uninstalling_leaves_the_other_whole(
    installation: Installation, built: tuple[Path, Path], tmp_path: Path
) -> None:
    owners = f"import {', '.join(NAMES)}; print(*(m.OWNER for m in ({', '.join(NAMES)})))"
    installation.pip("uninstall", "--yes", "tollgate")
    assert run(installation.python, "-c", owners, cwd=tmp_path).split() == ["others"] * 4
    assert [path.name for path in installation.packages.glob("tollgate*")] == []
    installation.install(built[0])
    installation.pip("uninstall", "--yes", "others")
    assert run(installation.bin / "tollgate", "broker", "--help", cwd=tmp_path)
    assert not [name for name in NAMES if (installation.packages / name).exists()]


def test_mypy_sees_the_types_of_all_public_names(
    installation: Installation, tmp_path: Path
) -> None:
    lines = [f"reveal_type(tollgate.{name})" for name in tollgate.__all__]
    lines += [f"reveal_type(tollgate.testing.{name})" for name in tollgate.testing.__all__]
    lines += ["reveal_type(tollgate.connect().count().total)", "tollgate.Clint"]
    (tmp_path / "use.py").write_text(
        "\n".join(["import tollgate", "import tollgate.testing", *lines])
    )
    options = ("--python-executable", str(installation.python), "--cache-dir", "cache")
    command = [sys.executable, "-m", "mypy", *options, "--no-error-summary", "use.py"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    *types, total, misspelt = done.stdout.splitlines()
    assert len(types) == len([*tollgate.__all__, *tollgate.testing.__all__])
    assert not [line for line in types if "Revealed type is" not in line or '"Any"' in line]
    assert total.endswith(('Revealed type is "int"', '"builtins.int"'))
    assert 'no attribute "Clint"' in misspelt
