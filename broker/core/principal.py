"""Who a peer has proved to be: by the kernel's word for its process, or by its key."""

from typing import Final, NamedTuple

from tollgate.broker.core.roles import Role


class Principal(NamedTuple):
    """A name that goes with whatever its owner does, and what that may be.

    `name` says how it was proved: `uid:1000`, `key:alice`. Without a `role` nothing is allowed.
    """

    name: str
    role: Role | None


NOBODY: Final = Principal("nobody", None)
"""Who has proved nothing."""
