"""The demonstration: its own broker, two workers and a producer, shown live and summed up."""
