"""The DEALER side: blocking and asyncio clients over one session that knows no socket."""
