"""The entry point of the console script `tollgate`, and of `python -m tollgate`."""

import sys

if __name__ == "__main__" and not sys.flags.safe_path:
    del sys.path[0]  # `python -m` puts the current directory here, and with it any `click.py`

from tollgate import signals

TYPE_CHECKING = False  # type checkers take it as true; importing `typing` costs 2 ms
if TYPE_CHECKING:
    from typing import NoReturn


def main() -> "NoReturn":
    """Run the command that was typed, and exit with its code."""
    signals.end_at_once()
    try:
        from tollgate.terminal import uncaught  # noqa: PLC0415 - so that Ctrl-C may interrupt it

        uncaught.install("tollgate", least_bytes=0)
        from tollgate.streams import protect  # noqa: PLC0415 - so that Ctrl-C may interrupt it

        protect(threaded=False)
        from tollgate.cli.main import cli  # noqa: PLC0415 - so that Ctrl-C may interrupt it

        cli.main()
    except KeyboardInterrupt:  # before or after the part that reports it
        sys.exit(130)
    finally:
        signals.end_again()


if __name__ == "__main__":
    main()
