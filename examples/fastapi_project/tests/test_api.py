"""The endpoints, called without a server."""

from __future__ import annotations

from sqlalchemy.orm import Session

from lending.models import Loan, Notice, Tool

from .support import AppTestCase


class ToolTests(AppTestCase):
    @classmethod
    def setUpTestData(cls, session: Session) -> None:
        cls.saw = Tool(name="saw", pieces=1)
        session.add(cls.saw)

    async def test_a_tool_is_added(self) -> None:
        response = await self.client.post("/tools", json={"name": "drill", "pieces": 2})

        self.assertEqual(response.status_code, 201)
        await self.assertRowExists(Tool, name="drill", pieces=2)

    async def test_a_name_is_given_once(self) -> None:
        response = await self.client.post("/tools", json={"name": "saw"})

        self.assertEqual(response.status_code, 409)
        await self.assertRowCount(Tool, 1)

    async def test_the_list_says_how_many_are_lent_in_one_query(self) -> None:
        self.session.add(Loan(tool=self.saw, borrower="Ada"))
        await self.session.commit()

        async with self.assertNumQueries(1):
            response = await self.client.get("/tools")

        self.assertEqual(response.json(), [{"name": "saw", "lent": 1}])

    async def test_a_loan_is_made_and_its_receipt_written_in_the_background(self) -> None:
        response = await self.client.post(f"/tools/{self.saw.id}/loans", json={"borrower": "Ada"})

        self.assertEqual(response.status_code, 201)
        await self.assertRowExists(Loan, borrower="Ada", ended=None)
        await self.assertRowExists(Notice, borrower="Ada", text="You have: saw")

    async def test_what_is_lent_cannot_be_lent_again_before_it_is_back(self) -> None:
        loan = await self.client.post(f"/tools/{self.saw.id}/loans", json={"borrower": "Ada"})
        second = await self.client.post(f"/tools/{self.saw.id}/loans", json={"borrower": "Bob"})
        await self.client.delete(f"/loans/{loan.json()['id']}")
        third = await self.client.post(f"/tools/{self.saw.id}/loans", json={"borrower": "Bob"})

        self.assertEqual([loan.status_code, second.status_code, third.status_code], [201, 409, 201])
