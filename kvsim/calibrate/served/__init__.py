"""What real servers printed and served, beside the plan and the simulation."""
