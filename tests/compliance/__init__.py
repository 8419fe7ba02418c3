"""SQLAlchemy's own compliance suite for dialects, run plain and through the sandbox.

::

    python -m tests.compliance                     # psycopg2; three minutes or so
    python -m tests.compliance --driver psycopg
    python -m tests.compliance --quick             # the modules in which transactions and cursors matter
    python -m tests.compliance -k JSONTest         # what pytest's -k selects

A test that passes on real connections has to pass on the virtual ones of the sandbox, and to leave nothing behind. What
cannot be given is listed in ``differences.py``, with the reason. The command fails if a test fails only through the
sandbox and is not listed, or is listed and passes.

These are no unit tests: discovery does not find them, and they need pytest, which the suite is written for.
"""
