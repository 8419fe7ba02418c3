"""What all contenders do alike: the schema, the bodies of the tests, the work that tests do besides."""

from __future__ import annotations

import time

from sqlalchemy import Column, DateTime, ForeignKey, Integer, MetaData, Numeric, String, Table, func, insert, select
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column


class Base(DeclarativeBase):
    pass


class Item(Base):
    """The table that the tests write to."""

    __tablename__ = "item"

    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str]


def schema(tables: int, salt: str = "") -> MetaData:
    """Return the metadata of so many tables, the first of them ``item``.

    The others have a serial key, four columns, an index and a foreign key to the table before. With another ``salt``
    it is another schema.
    """
    metadata = MetaData()
    if tables:
        Item.__table__.to_metadata(metadata)  # type: ignore[attr-defined]
    before = "item"
    for number in range(1, tables):
        name = f"table{salt}_{number}"
        Table(
            name,
            metadata,
            Column("id", Integer, primary_key=True),
            Column("name", String(80), index=True),
            Column("amount", Numeric(10, 2), nullable=False),
            Column("made", DateTime, server_default=func.now()),
            Column("before_id", ForeignKey(f"{before}.id")),
        )
        before = name
    return metadata


COUNT = select(func.count()).select_from(Item)
INSERT = insert(Item.__table__).values(name="Ada")  # type: ignore[arg-type]


def read(session: Session) -> int:
    """Count."""
    return session.scalar(COUNT) or 0


def write(session: Session) -> int:
    """Insert, commit, count."""
    session.add(Item(name="Ada"))
    session.commit()
    return read(session)


def write_three_times(session: Session) -> int:
    """Insert and commit three times, count."""
    for name in ("Ada", "Grace", "Mary"):
        session.add(Item(name=name))
        session.commit()
    return read(session)


BODIES = {"read": read, "write": write, "write with three commits": write_three_times}
# What they return when nothing of another test is there.
ALONE = {"read": 0, "write": 1, "write with three commits": 3}


def compute(seconds: float) -> None:
    """Keep this thread, and so the interpreter's lock, busy for a while."""
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        sum(range(100))


def toil(loops: int) -> None:
    """Do a fixed amount of work: it takes longer when others need the processor."""
    for _ in range(loops):
        sum(range(100))


def loops_for(seconds: float) -> int:
    """Return how many loops of :func:`toil` take so long on this machine while nothing else runs."""
    loops, best = 1000, float("inf")
    for _ in range(20):
        started = time.perf_counter()
        toil(loops)
        best = min(best, time.perf_counter() - started)
    return round(loops * seconds / best)
