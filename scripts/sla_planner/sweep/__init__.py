"""Measuring an engine: what to start, which point to measure next, what a measurement is, and whether the result holds in use."""
