"""Faults injected into running jobs, and what is there afterwards; `make chaos`."""
