"""Simulated data for the verdicts, tests and intervals of modalnet; see ../calibration.py."""
