"""The jobs of a broker, and their indexes."""
