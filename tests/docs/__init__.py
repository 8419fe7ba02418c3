"""The documents: every block of code in them runs, every output shown is made by a run, every link leads somewhere."""
