"""Loads what a user names as `module:name`, such as a handler or an agent."""

import importlib
import os
import sys
from contextlib import suppress
from functools import reduce
from typing import Any

from tollgate.domain.exceptions import TollgateError


class NotLoadedError(TollgateError):
    """It cannot be loaded; the message is one line that says why."""


def load(path: str, form: str = "module:name") -> Any:  # noqa: ANN401 - of the user's type
    """Return what `path` names. `form` is what errors say that a path looks like.

    The current directory is searched for modules too.

    Raises:
        NotLoadedError: it does not exist, or its module cannot be imported.

    """
    module_name, colon, name = path.partition(":")
    if not (module_name and colon and name):
        raise NotLoadedError(f"{path!r} is not of the form {form}")
    # First while the module is imported: its own files come before what is installed. Then last,
    # for what it imports when it runs: no file there replaces an installed module.
    try:
        here = os.getcwd()  # noqa: PTH109 - sys.path holds texts
    except OSError:  # it was removed; the module may be an installed one
        here = ""
    sys.path.insert(0, here)
    try:
        module = importlib.import_module(module_name)
    except (Exception, SystemExit) as fault:  # a script without a guard runs its `main` here
        if isinstance(fault, ModuleNotFoundError) and fault.name == module_name:
            raise NotLoadedError(
                f"there is no module {module_name}, neither installed nor in this directory"
            ) from None
        message = " ".join(f"{type(fault).__name__}: {fault}".split())
        raise NotLoadedError(f"module {module_name} cannot be imported: {message}") from fault
    finally:
        with suppress(ValueError):  # the module may have removed it
            sys.path.remove(here)
        if here not in sys.path:
            sys.path.append(here)
    try:
        return reduce(getattr, name.split("."), module)
    except AttributeError:
        raise NotLoadedError(f"module {module_name} has no {name}") from None
