"""Failures that explain themselves: the SQL of a test, who blocks whom, what was left open, where the time went."""
