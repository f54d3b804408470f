"""Workers: clients of the broker that run handlers; they decide payments in simulation only."""
