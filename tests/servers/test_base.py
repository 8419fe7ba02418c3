from __future__ import annotations

import subprocess
import sys
import unittest


class BaseTests(unittest.TestCase):
    def test_pg8000_is_imported_only_when_testing_postgresql_is_used_itself(self):
        code = (
            "import sys, dbtestcase\n"
            "assert 'pg8000' not in sys.modules\n"
            "import testing.postgresql\n"
            "assert callable(testing.postgresql.pg8000.connect)\n"
            "assert 'pg8000' in sys.modules\n"
            "from dbtestcase.servers import Instance\n"
            "assert issubclass(Instance, testing.postgresql.Postgresql)\n"
        )
        run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=180, check=False)

        self.assertEqual(run.returncode, 0, run.stderr)
