"""What signals do to a program: Ctrl-C while it starts or ends, and signals that mean nothing here.

Python raises KeyboardInterrupt wherever it is, also amid imports and in its own end, where nothing
can catch it. So a program takes SIGINT's default action until it has something to tidy up. Imported
first of all by each program: from `_signal`, because `signal` imports `enum`.
"""

from _signal import (  # type: ignore[import-not-found]
    SIG_BLOCK,
    SIG_DFL,
    SIG_IGN,
    SIG_UNBLOCK,
    SIGHUP,
    SIGINT,
    SIGTERM,
    SIGTTIN,
    SIGTTOU,
    SIGUSR1,
    SIGUSR2,
    default_int_handler,
    getsignal,
    pthread_sigmask,
    signal,
)

LOGGED = {SIGUSR1: "SIGUSR1", SIGUSR2: "SIGUSR2"}
"""What log rotation and operators send to other programs: by default they would end this one."""
STOPS = (SIGTERM, SIGINT, SIGHUP)
"""What stops a program that serves."""

_is_raised = False
"""Whether `raise_from_now` has had anything to do: the process is that of a program of ours."""


def end_at_once() -> None:
    """From now on let SIGINT end this process, unless it is ignored or has a handler of its own."""
    if getsignal(SIGINT) is default_int_handler:
        signal(SIGINT, SIG_DFL)
    let_go()  # the parent, or `hold`, may have blocked it


def raise_from_now() -> None:
    """From now on let SIGINT raise KeyboardInterrupt: there is something to tidy up, or to say."""
    global _is_raised  # noqa: PLW0603 - a process has one disposition of a signal
    if getsignal(SIGINT) == SIG_DFL:
        _is_raised = True
        signal(SIGINT, default_int_handler)


def is_program() -> bool:
    """Return whether this process is that of a program of ours, and not of a test, say."""
    return _is_raised


def end_again() -> None:
    """Let SIGINT end this process again, if it did before `raise_from_now`."""
    if _is_raised:
        end_at_once()


def ignore_stops() -> None:
    """Ignore what stops a program that serves: it ends already, and its exit code is to say how.

    Python gives signals their default action back before it has ended.
    """
    for number in STOPS:
        signal(number, SIG_IGN)


def obeyed_stops() -> list[int]:
    """Return the signals to stop by; not SIGHUP if the parent has it ignored, as `nohup` does."""
    return [number for number in STOPS if number != SIGHUP or getsignal(SIGHUP) != SIG_IGN]


def hold() -> None:
    """Let SIGINT wait for `end_at_once` of the program that replaces this one: Python starts."""
    pthread_sigmask(SIG_BLOCK, (SIGINT,))


def let_go() -> None:
    """Undo `hold`."""
    pthread_sigmask(SIG_UNBLOCK, (SIGINT,))


def serve_on(program: str) -> None:
    """From now on let no signal end or stop this process that others send by habit.

    SIGUSR1 and SIGUSR2 are logged. SIGTTIN and SIGTTOU are ignored: a terminal sends them to what
    reads or writes in its background, and they would stop the process.
    """

    def note(number: int, _: object) -> None:
        from tollgate.log import get_logger  # noqa: PLC0415 - not needed by most programs

        told = "a signal that means nothing here: the log goes to standard error, see --help"
        get_logger(program.replace(" ", ".")).warning(told, signal=LOGGED[number])

    for number in LOGGED:
        if getsignal(number) == SIG_DFL:
            signal(number, note)
    for number in (SIGTTIN, SIGTTOU):
        signal(number, SIG_IGN)
