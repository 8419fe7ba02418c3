"""What the application does, without HTTP."""

from __future__ import annotations

import asyncio

from dbtestcase import isolate
from sqlalchemy.orm import Session

from lending import services
from lending.database import make_session
from lending.models import Loan, Tool

from .support import AppTestCase


class LendingTests(AppTestCase):
    @classmethod
    def setUpTestData(cls, session: Session) -> None:
        cls.saw = Tool(name="saw", pieces=1)
        session.add(cls.saw)

    async def test_a_refused_name_keeps_what_was_committed_before(self) -> None:
        await services.add_tool(self.session, "drill", 1)

        with self.assertRaises(services.Refused):
            await services.add_tool(self.session, "saw", 1)

        await self.assertRowCount(Tool, 2)

    async def test_a_loan_ends_once(self) -> None:
        loan = await services.lend(self.session, self.saw.id, "Ada")
        await services.take_back(self.session, loan.id)

        with self.assertRaisesRegex(services.Refused, "not lent"):
            await services.take_back(self.session, loan.id)

    # Two sessions that wait for each other need real connections. Without the mark the test would find that out by
    # itself, and run a second time.
    @isolate("clone")
    async def test_of_two_who_want_the_last_piece_one_gets_it(self) -> None:
        async def try_to_lend(borrower: str) -> bool:
            async with make_session() as session:
                try:
                    await services.lend(session, self.saw.id, borrower)
                except services.Refused:
                    return False
                return True

        got_it = await asyncio.gather(try_to_lend("Ada"), try_to_lend("Bob"))

        self.assertEqual(sorted(got_it), [False, True])
        await self.assertRowCount(Loan, 1)
