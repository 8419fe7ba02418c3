"""The tables."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import CheckConstraint, DateTime, ForeignKey, func
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, relationship


class Base(DeclarativeBase):
    pass


class Tool(Base):
    __tablename__ = "tool"
    __table_args__ = (CheckConstraint("pieces >= 0", name="tool_has_pieces"),)

    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(unique=True)
    pieces: Mapped[int] = mapped_column(default=1)
    loans: Mapped[list[Loan]] = relationship(back_populates="tool")


class Loan(Base):
    __tablename__ = "loan"

    id: Mapped[int] = mapped_column(primary_key=True)
    tool_id: Mapped[int] = mapped_column(ForeignKey("tool.id"))
    borrower: Mapped[str]
    begun: Mapped[datetime] = mapped_column(DateTime(timezone=True), server_default=func.now())
    ended: Mapped[datetime | None] = mapped_column(DateTime(timezone=True))
    tool: Mapped[Tool] = relationship(back_populates="loans")


class Notice(Base):
    """What is to be told to a borrower."""

    __tablename__ = "notice"

    id: Mapped[int] = mapped_column(primary_key=True)
    borrower: Mapped[str]
    text: Mapped[str]
