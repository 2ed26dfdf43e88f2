"""Coefficients from tables that others published."""
