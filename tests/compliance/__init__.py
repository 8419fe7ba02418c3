"""SQLAlchemy's own compliance suite for dialects, run plain and isolated as tests are by default.

::

    python -m tests.compliance                     # psycopg2; three minutes or so
    python -m tests.compliance --driver psycopg
    python -m tests.compliance --quick             # the modules in which transactions and cursors matter
    python -m tests.compliance -k JSONTest         # what pytest's -k selects

A test that passes plain has to pass isolated, in one transaction or by running twice, and to leave nothing behind. What
cannot be given is listed in ``differences.py``, with the reason. The command fails if a test fails only isolated and is
not listed, or is listed and passes.

These are no unit tests: discovery does not find them, and they need pytest, which the suite is written for.
"""
