"""The endpoints."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, BackgroundTasks, Depends, HTTPException
from pydantic import BaseModel
from sqlalchemy.ext.asyncio import AsyncSession

from lending import services
from lending.database import session_of_request

router = APIRouter()
RequestSession = Annotated[AsyncSession, Depends(session_of_request)]


class NewTool(BaseModel):
    name: str
    pieces: int = 1


class NewLoan(BaseModel):
    borrower: str


@router.get("/tools")
async def tools(session: RequestSession) -> list[dict[str, Any]]:
    return [{"name": name, "lent": lent} for name, lent in await services.tools_with_loans(session)]


@router.post("/tools", status_code=201)
async def add_tool(new: NewTool, session: RequestSession) -> dict[str, int]:
    try:
        tool = await services.add_tool(session, new.name, new.pieces)
    except services.Refused as exc:
        raise HTTPException(409, str(exc)) from exc
    return {"id": tool.id}


@router.post("/tools/{tool_id}/loans", status_code=201)
async def lend(tool_id: int, new: NewLoan, session: RequestSession, tasks: BackgroundTasks) -> dict[str, int]:
    try:
        loan = await services.lend(session, tool_id, new.borrower)
    except services.Refused as exc:
        raise HTTPException(409, str(exc)) from exc
    tasks.add_task(services.send_receipt, loan.id)
    return {"id": loan.id}


@router.delete("/loans/{loan_id}", status_code=204)
async def take_back(loan_id: int, session: RequestSession) -> None:
    try:
        await services.take_back(session, loan_id)
    except services.Refused as exc:
        raise HTTPException(409, str(exc)) from exc
