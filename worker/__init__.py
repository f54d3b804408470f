"""The processes that advance jobs: they decide payments and do the work, over the client alone."""
