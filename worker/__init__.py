"""The processes that advance jobs: clients of the broker that decide payments and do work."""
