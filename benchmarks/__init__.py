"""What dbtestcase costs beside other ways to test with PostgreSQL: ``python -m benchmarks``. See README.md here."""
