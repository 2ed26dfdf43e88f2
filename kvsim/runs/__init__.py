"""The public verbs over the simulator: simulate, replicate, compare."""
