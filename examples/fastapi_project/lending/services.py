"""What the application does. Each function is one unit of work: it commits, or it raises and changes nothing."""

from __future__ import annotations

from datetime import UTC, datetime

from sqlalchemy import func, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncSession

from lending.database import make_session
from lending.models import Loan, Notice, Tool


class Refused(Exception):
    """The request is understood, but what is in the database forbids it. The message is for the user."""


async def add_tool(session: AsyncSession, name: str, pieces: int) -> Tool:
    """Add a tool.

    Raises:
        Refused: There is one of this name.
    """
    tool = Tool(name=name, pieces=pieces)
    session.add(tool)
    try:
        await session.commit()
    except IntegrityError as exc:
        await session.rollback()
        raise Refused(f"there is a tool named {name!r}") from exc
    return tool


async def lend(session: AsyncSession, tool_id: int, borrower: str) -> Loan:
    """Give a piece of a tool to somebody.

    Raises:
        Refused: No piece is left, or there is no such tool.
    """
    # Locked, so that of two who want the last piece one has to wait, and then sees that it is gone.
    tool = await session.get(Tool, tool_id, with_for_update=True)
    lent = await session.scalar(
        select(func.count()).select_from(Loan).where(Loan.tool_id == tool_id, Loan.ended.is_(None))
    )
    if tool is None or (lent or 0) >= tool.pieces:
        await session.rollback()
        raise Refused("no piece is left")
    loan = Loan(tool=tool, borrower=borrower)
    session.add(loan)
    await session.commit()
    return loan


async def take_back(session: AsyncSession, loan_id: int) -> None:
    """End a loan.

    Raises:
        Refused: There is none that is going on.
    """
    loan = await session.get(Loan, loan_id)
    if loan is None or loan.ended is not None:
        raise Refused("it is not lent")
    loan.ended = datetime.now(UTC)
    await session.commit()


async def send_receipt(loan_id: int) -> None:
    """Tell a borrower what he has. Runs after the answer, when the session of the request is gone."""
    async with make_session() as session:
        loan = await session.get_one(Loan, loan_id)
        tool = await session.get_one(Tool, loan.tool_id)
        session.add(Notice(borrower=loan.borrower, text=f"You have: {tool.name}"))
        await session.commit()


async def tools_with_loans(session: AsyncSession) -> list[tuple[str, int]]:
    """Return each tool with the number of its pieces that are lent, in one query."""
    lent = func.count(Loan.id).filter(Loan.ended.is_(None))
    rows = await session.execute(select(Tool.name, lent).outerjoin(Tool.loans).group_by(Tool.id).order_by(Tool.name))
    return [(name, number) for name, number in rows]
