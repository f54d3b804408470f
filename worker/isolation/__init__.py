"""Handlers in processes of their own: what runs in them, and how the worker sees them."""
