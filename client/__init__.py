"""The client library: blocking and asyncio clients over one protocol session without I/O."""
