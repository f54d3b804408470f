"""Log lines of a handler's process: it sends them, and the worker logs them as its own."""

import json
import logging
import sys
from typing import Final, Protocol

import msgspec

from tollgate.worker.isolation.messages import Logged, printable

_RECORD_FIELDS: Final = {*vars(logging.makeLogRecord({})), "message", "asctime", "taskName"}


class LineSender(Protocol):
    """The connection to the worker."""

    @property
    def is_open(self) -> bool:
        """Whether this is the process of the handler, and not a fork of it."""
        ...

    def send(self, message: Logged) -> None:
        """Send a line."""
        ...


class SendingHandler(logging.Handler):
    """Sends what is logged to the worker, whose log has the format and the levels."""

    def __init__(self, connection: LineSender) -> None:
        super().__init__()
        self._connection = connection
        self.setFormatter(logging.Formatter(logging.BASIC_FORMAT))

    def emit(self, record: logging.LogRecord) -> None:
        """See `logging.Handler`; it raises nothing."""
        try:
            if self._connection.is_open:
                self._connection.send(_as_message(record))
            else:
                sys.stderr.write(self.format(record) + "\n")
        except Exception:  # noqa: BLE001 - arguments that do not fit, a __str__ that raises
            self.handleError(record)


def _as_message(record: logging.LogRecord) -> Logged:
    try:
        text = record.getMessage()
    except Exception as fault:  # noqa: BLE001 - arguments that do not fit, a __str__ that raises
        text = f"{record.msg} (its arguments do not fit: {type(fault).__name__})"
    trace = logging.Formatter().formatException(record.exc_info) if record.exc_info else None
    fields = {name: value for name, value in vars(record).items() if name not in _RECORD_FIELDS}
    try:
        extra = msgspec.json.encode(fields, enc_hook=repr)
    except Exception:  # noqa: BLE001 - a __repr__ that raises, a lone surrogate
        extra = json.dumps({str(name): _shown(value) for name, value in fields.items()}).encode()
    return Logged(
        record.name,
        record.levelno,
        printable(text),
        record.created,
        printable(record.pathname),
        record.lineno,
        record.funcName or "",
        record.threadName or "",
        None if trace is None else printable(trace),
        None if record.stack_info is None else printable(record.stack_info),
        extra,
    )


def _shown(value: object) -> str:
    try:
        return printable(str(value))
    except Exception:  # noqa: BLE001 - it may raise anything
        return f"<{type(value).__name__}>"


def log_here(message: Logged, pid: int) -> None:
    """Log a line as if the handler had logged it here."""
    logger = logging.getLogger(message.name)
    if not logger.isEnabledFor(message.level):
        return
    record = logging.getLogRecordFactory()(
        message.name,
        message.level,
        message.path,
        message.line,
        message.text,
        (),
        None,
        message.function,
        message.stack,
    )
    fields = msgspec.json.decode(message.fields, type=dict)
    vars(record).update(
        {
            **fields,
            "created": message.created,
            "msecs": message.created % 1 * 1_000,
            "process": pid,
            "threadName": message.thread,
            "exc_text": message.trace,
        }
    )
    logger.handle(record)
