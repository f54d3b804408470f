"""The HTTP gateway of an agent: MIP-003 in front of a broker (extra `gateway`)."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tollgate.gateway.agent import Agent as Agent

__all__ = ["Agent"]


def __getattr__(name: str) -> object:
    """Import `Agent` when it is first used."""
    if name == "Agent":
        from tollgate.gateway.agent import Agent  # noqa: PLC0415 - what this function is for

        return Agent
    raise AttributeError(f"module {__name__} has no attribute {name}")
