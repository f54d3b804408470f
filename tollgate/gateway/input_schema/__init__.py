"""The input that an agent, or one of its questions, asks for: MIP-003 and its attachment 01."""
