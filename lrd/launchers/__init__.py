"""Launchers that run the jobs of a sweep in other processes. Imports no torch."""
