"""One test class while it runs: its schedule, its databases, its class data, its tests and what is kept of them.

Knows the rooms below it (servers, sandbox, schema, diagnosis) and nothing of Flask or of the base classes above it.
"""
