"""`python -m tollgate`: the same as the command `tollgate`."""

from tollgate.cli.__main__ import main

if __name__ == "__main__":
    main()
