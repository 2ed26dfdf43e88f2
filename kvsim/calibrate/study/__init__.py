"""The three-way study: one decoder, four ways to keep K and V, in torch and in the simulator."""
