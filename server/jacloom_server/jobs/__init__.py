"""Batch jobs: what is written down of them, how results are put in place so that each counts once, and how damage is found."""
