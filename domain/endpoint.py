"""The default endpoint of broker and clients."""

import warnings
from pathlib import Path


def default_endpoint() -> str:
    """Return the ipc endpoint in this user's runtime directory, such as XDG_RUNTIME_DIR."""
    import platformdirs  # noqa: PLC0415 - not needed with a given endpoint

    with warnings.catch_warnings():  # it warns if XDG_RUNTIME_DIR is not set; its fallback is fine
        warnings.simplefilter("ignore")
        directory = platformdirs.user_runtime_dir("tollgate")
    return f"ipc://{Path(directory) / 'broker.sock'}"
