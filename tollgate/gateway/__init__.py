"""The gateway: agents of this broker over HTTP, as MIP-003 asks for."""
