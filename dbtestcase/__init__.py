"""unittest base classes for SQLAlchemy and Flask code, run on a real PostgreSQL that nobody has to set up."""
