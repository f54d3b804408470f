"""The demonstration: a broker, two workers and a producer of its own, shown live and summed up."""
