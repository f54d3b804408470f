"""Describes the machine, the versions and the commit of a run."""

import os
import platform
import subprocess
import sysconfig
from contextlib import suppress
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Final

from benchmarks.processes import ROOT

LIBRARIES: Final = (
    "pyzmq", "msgspec", "pydantic", "redis", "hiredis", "celery", "rq", "dramatiq", "huey",
    "greenstalk",
)  # fmt: skip
PROGRAMS: Final = {"redis-server": "--version", "beanstalkd": "-v"}


def machine(directory: Path) -> dict[str, str]:
    """Return the properties of the machine that the figures depend on, by name."""
    return {
        "processor": f"{_processor()}, {os.cpu_count()} cores",
        "memory": f"{_memory_bytes() / 2**30:.0f} GiB",
        "system": f"{platform.system()} {platform.release()}",
        "file system": _file_system(directory),
        "load before": f"{os.getloadavg()[0]:.2f}",
        "date": datetime.now(UTC).date().isoformat(),
    }


def versions() -> dict[str, str]:
    """Return the versions of everything measured, "missing" for what is not installed."""
    import zmq  # noqa: PLC0415 - for its version alone

    found = {"tollgate": _commit(), "Python": f"{platform.python_version()}, {_build()}"}
    found["libzmq"] = zmq.zmq_version()
    for name, flag in PROGRAMS.items():
        found[name] = _said([name, flag])
    for name in LIBRARIES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "missing"
    return found


def _build() -> str:
    """Return who built the interpreter: one without a distribution's optimizations is slower."""
    if "deb_system" in sysconfig.get_scheme_names():
        return "as Debian builds it"
    return f"built {platform.python_build()[1]}"


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def _memory_bytes() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _file_system(directory: Path) -> str:
    """Return the type of the journals' file system: the cost of a sync depends on it."""
    best, kind = "", "unknown"
    for line in Path("/proc/mounts").read_text().splitlines():
        _, mount, mount_kind, *_ = line.split()
        inside = directory.resolve().is_relative_to(mount)
        if inside and len(mount) >= len(best):
            best, kind = mount, mount_kind
    return kind


def _commit() -> str:
    with suppress(OSError, subprocess.CalledProcessError):
        commit = _run(["git", "rev-parse", "--short", "HEAD"])
        changed = _run(["git", "status", "--porcelain", "--untracked-files=no"])
        return f"{commit} with changes" if changed else commit
    return "unknown"


def _said(command: list[str]) -> str:
    with suppress(OSError, subprocess.CalledProcessError):
        words = _run(command).replace("v=", "").split()
        return next((word for word in words if word[:1].isdigit()), "unknown")
    return "missing"


def _run(command: list[str]) -> str:
    done = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True)
    return (done.stdout or done.stderr).strip()
