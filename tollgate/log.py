"""The log of broker and worker: one format, one set of fields, and a writer that never blocks.

Each line has `event`, `level`, `timestamp` (UTC) and `logger`; further fields say more. It is one
JSON document, or a line for people. The broker logs with structlog, the worker and libraries with
`logging`, and both come out alike.
"""

import json
import logging
import os
import sys
import threading
from collections.abc import MutableMapping
from types import TracebackType
from typing import Any, Final

import msgspec
import structlog

from tollgate import streams
from tollgate.terminal.uncaught import OUT_OF_MEMORY, is_out_of_memory

FORMATS: Final = ("console", "json")
FORMAT_VARIABLE: Final = "TOLLGATE_LOG_FORMAT"
LEVELS: Final = ("debug", "info", "warning", "error")

_stamp: Final = structlog.processors.TimeStamper(fmt="iso", utc=True)


def get_logger(name: str) -> Any:  # noqa: ANN401 - as structlog has it
    """Return the logger of a part of tollgate, with the methods of structlog's.

    Before `configure`, tollgate is a guest in somebody else's process, where structlog is not its
    own to set up: then its lines go to `logging`.
    """
    return _Logger(name)


def configure(level: str, form: str | None = None) -> streams.Writer:
    """Log from `level` on to standard error, as `form` says: console or json.

    Without `form` a terminal gets lines for people, and everything else JSON. Warnings and
    uncaught exceptions, also of threads, are logged too. Returns the writer of the lines.
    """
    _Logger.is_guest = False
    writer = streams.protect()
    is_terminal = os.isatty(streams.STDERR)
    renderer = _Renderer(form or ("console" if is_terminal else "json"), colors=is_terminal)
    number = logging.getLevelNamesMapping()[level.upper()]

    structlog.configure(
        processors=[renderer],
        wrapper_class=structlog.make_filtering_bound_logger(number),
        logger_factory=lambda name="tollgate": _Sink(writer, name),
        cache_logger_on_first_use=True,
    )
    logging.basicConfig(level=number, handlers=[_Handler(writer, renderer)], force=True)
    logging.captureWarnings(capture=True)
    log = structlog.get_logger("tollgate")
    sys.excepthook = _excepthook
    threading.excepthook = lambda hook: log.error(
        "a thread ended with an exception",
        thread=hook.thread.name if hook.thread else None,
        exc_info=(hook.exc_type, hook.exc_value, hook.exc_traceback),
    )
    sys.unraisablehook = lambda hook: log.error(
        hook.err_msg or "an exception was ignored",
        at=_text(hook.object),
        exc_info=(hook.exc_type, hook.exc_value, hook.exc_traceback),
    )
    writer.tell = lambda lost: log.warning("lines of the log were dropped", lines=lost)
    return writer


def protect_stdout() -> None:
    """Make standard output, too, a stream that cannot stop the process; losses are logged."""
    log = structlog.get_logger("tollgate")
    writer = streams.protect(streams.STDOUT)
    writer.tell = lambda lost: log.warning("lines of standard output were dropped", lines=lost)


class _Logger:
    """A logger that asks, with each line, whether `configure` was called."""

    is_guest = True

    def __init__(self, name: str) -> None:
        self._own = structlog.get_logger(name)
        self._of_host = structlog.wrap_logger(
            logging.getLogger(name), [_as_text], structlog.stdlib.BoundLogger
        )

    def __getattr__(self, method: str) -> Any:  # noqa: ANN401 - as structlog has it
        return getattr(self._of_host if self.is_guest else self._own, method)


def _as_text(
    _logger: object, _method: str, fields: MutableMapping[str, Any]
) -> tuple[tuple[str, str], dict[str, Any]]:
    """Return what a method of `logging` takes: the fields stand behind the event."""
    exc_info = fields.pop("exc_info", None)
    words = [str(fields.pop("event")), *(f"{name}={value!r}" for name, value in fields.items())]
    return ("%s", " ".join(words)), {"exc_info": exc_info}


class _Sink:
    """What structlog hands finished lines to."""

    def __init__(self, writer: streams.Writer, name: str) -> None:
        self._writer = writer
        self.name = name

    def msg(self, line: str) -> None:
        self._writer.put(f"{line}\n".encode(errors="backslashreplace"))

    debug = info = warning = error = critical = exception = msg


class _Handler(logging.Handler):
    """Takes what is logged with `logging`; fields given as `extra` become fields of the line."""

    def __init__(self, writer: streams.Writer, renderer: "_Renderer") -> None:
        super().__init__()
        self._writer = writer
        self._renderer = renderer

    def createLock(self) -> None:  # noqa: N802 - the name is given
        """Have no lock: a daemon thread that dies at exit could hold it. The writer has one."""
        self.lock = None

    def emit(self, record: logging.LogRecord) -> None:
        """See `logging.Handler`; it raises nothing."""
        try:
            event = record.getMessage()
        except Exception as fault:  # noqa: BLE001 - arguments that do not fit, a __str__ that raises
            event = f"{record.msg} (its arguments do not fit: {type(fault).__name__})"
        fields = {name: value for name, value in vars(record).items() if name not in _RECORD_FIELDS}
        fields["event"] = event
        if record.exc_info:
            fields["exc_info"] = record.exc_info
        elif record.exc_text:  # of a record from another process
            fields["exception"] = record.exc_text
        if record.stack_info:
            fields["stack"] = record.stack_info
        sink = _Sink(self._writer, record.name)
        sink.msg(self._renderer(sink, record.levelname.lower(), fields))

    def handle(self, record: logging.LogRecord) -> bool:
        """See `logging.Handler`; without its lock."""
        if self.filter(record):
            self.emit(record)
        return True


_RECORD_FIELDS: Final = {*vars(logging.makeLogRecord({})), "message", "asctime", "taskName"}


class _Renderer:
    """Makes a line of an event. It raises nothing, whatever the fields hold."""

    def __init__(self, form: str, *, colors: bool) -> None:
        self._as_json = form == "json"
        self._console = structlog.dev.ConsoleRenderer(
            colors=colors and "NO_COLOR" not in os.environ,
            exception_formatter=structlog.dev.plain_traceback,
        )

    def __call__(self, logger: Any, method: str, event: MutableMapping[str, Any]) -> str:  # noqa: ANN401
        fields = {**event, "level": method, "logger": logger.name}
        _stamp(logger, method, fields)
        try:
            structlog.processors.format_exc_info(logger, method, fields)
            if self._as_json:
                return msgspec.json.encode(fields, enc_hook=repr).decode()
            shown = {name: _for_people(name, value) for name, value in fields.items()}
            return str(self._console(logger, method, shown))
        except Exception as fault:  # noqa: BLE001 - a __repr__ that raises, a lone surrogate
            safe = {_text(name): _text(value) for name, value in fields.items()}
            return json.dumps(safe | {"unprintable": type(fault).__name__}, separators=(",", ":"))


def _for_people(name: str, value: object) -> object:
    """Return a field as a terminal may get it: a text from outside must not move its cursor."""
    if isinstance(value, int | float | None):
        return value
    text = value if isinstance(value, str) else repr(value)
    if text.isprintable():
        return text
    kept = "\n\t" if name in _OF_LINES else ""
    return "".join(
        each if each.isprintable() or each in kept else each.encode("unicode_escape").decode()
        for each in text
    )


_OF_LINES: Final = frozenset({"exception", "stack"})


def _text(value: object) -> str:
    try:
        return str(value)
    except Exception:  # noqa: BLE001 - it may raise anything
        return f"<{type(value).__name__}>"


def _excepthook(
    kind: type[BaseException], fault: BaseException, trace: TracebackType | None
) -> None:
    if issubclass(kind, KeyboardInterrupt):
        sys.__excepthook__(kind, fault, trace)
    elif is_out_of_memory(kind):
        structlog.get_logger("tollgate").critical(OUT_OF_MEMORY)
    else:
        structlog.get_logger("tollgate").critical(
            "uncaught exception", exc_info=(kind, fault, trace)
        )
