"""Calibration: fit step-time coefficients from measurements, and write them into profiles."""
