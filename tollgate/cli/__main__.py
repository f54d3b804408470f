"""Is the entry point of the command line `tollgate`; the commands are in `client.commands`."""

import sys
from typing import NoReturn


def main() -> NoReturn:
    """Run the command that was typed, and exit with its code."""
    try:
        from tollgate.cli.main import cli  # noqa: PLC0415 - what Ctrl-C may interrupt

        cli.main()
    except KeyboardInterrupt:  # so early, or so late, that no command could take it
        sys.exit(130)


if __name__ == "__main__":
    main()
