"""Every form of query that SQLAlchemy's compiler for PostgreSQL produces, on a few tables."""

from __future__ import annotations

import datetime
import decimal
from typing import Any

import sqlalchemy as sa
from sqlalchemy import func
from sqlalchemy.dialects import postgresql as pg
from sqlalchemy.orm import DeclarativeBase, Mapped, aliased, joinedload, mapped_column, relationship, selectinload

__all__ = ["Base", "queries"]


class Base(DeclarativeBase):
    pass


class Customer(Base):
    __tablename__ = "customer"

    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(sa.String(40))
    orders: Mapped[list[Order]] = relationship(back_populates="customer")


class Order(Base):
    __tablename__ = "order"

    id: Mapped[int] = mapped_column(primary_key=True)
    customer_id: Mapped[int] = mapped_column(sa.ForeignKey("customer.id"))
    price: Mapped[decimal.Decimal] = mapped_column(sa.Numeric(10, 2))
    at: Mapped[datetime.datetime] = mapped_column(sa.DateTime(timezone=True))
    data: Mapped[Any] = mapped_column(pg.JSONB)
    plain: Mapped[Any] = mapped_column(sa.JSON)
    tags: Mapped[list[str]] = mapped_column(pg.ARRAY(sa.String(10)))
    span: Mapped[Any] = mapped_column(pg.INT4RANGE)
    words: Mapped[Any] = mapped_column(pg.TSVECTOR)
    key: Mapped[Any] = mapped_column(pg.UUID)
    address: Mapped[Any] = mapped_column(pg.INET)
    customer: Mapped[Customer] = relationship(back_populates="orders")


c, o = Customer.__table__.c, Order.__table__.c
customer, order = Customer.__table__, Order.__table__


def _distinct_on(query: Any, *columns: Any) -> Any:
    return query.ext(pg.distinct_on(*columns)) if hasattr(pg, "distinct_on") else query.distinct(*columns)


def queries() -> dict[str, Any]:
    """Return the queries by a name for each."""
    select = sa.select
    parent = aliased(Customer, name="update")
    cte = select(c.id, c.name).where(c.id > 1).cte("chosen")
    numbers = select(sa.literal(1).label("n")).cte("numbers", recursive=True)
    numbers = numbers.union_all(select(numbers.c.n + 1).where(numbers.c.n < 5))
    nested = select(c.id).cte("inner_one", nesting=True)
    lateral = select(o.price).where(o.customer_id == c.id).limit(1).lateral("newest")
    values = sa.values(sa.column("id", sa.Integer), sa.column("name", sa.String(9)), name="given").data([(1, "a")])
    scalar = select(func.count()).where(o.customer_id == c.id).scalar_subquery()
    over = {"partition_by": o.customer_id, "order_by": o.id}
    dated = sa.cast("2026-01-01", sa.DateTime(timezone=True))
    pair = sa.tuple_(c.id, c.name)
    return {
        "columns": select(customer),
        "alias": select(customer.alias("insert").c.id),
        "alias of an entity": select(parent.id),
        "join": select(c.id, o.id).join_from(customer, order),
        "outer join": select(c.id).join_from(customer, order, isouter=True),
        "full join": select(c.id).join_from(customer, order, full=True),
        "join on a subquery": select(c.id).join(select(o.customer_id).subquery("bought"), sa.true()),
        "join in parentheses": select(c.id).select_from(customer.join(order.join(cte, cte.c.id == o.id), sa.true())),
        "eager join": select(Customer).options(joinedload(Customer.orders)),
        "eager select": select(Customer).options(selectinload(Customer.orders)),
        "lateral": select(c.id, lateral.c.price).join(lateral, sa.true()),
        "cte": select(cte),
        "two ctes": select(cte.c.id).join(nested, sa.true()),
        "recursive": select(numbers.c.n),
        "recursive, materialized": select(numbers.c.n).prefix_with("ALL"),
        "materialized": select(select(c.id).cte("m").prefix_with("MATERIALIZED")),
        "not materialized": select(select(c.id).cte("m").prefix_with("NOT MATERIALIZED")),
        "nested cte": select(select(nested).cte("outer_one")),
        "union": sa.union(select(c.id), select(o.id)),
        "union all": sa.union_all(select(c.id), select(o.id)).order_by("id").limit(3),
        "except": sa.except_(select(c.id), select(o.id)),
        "except all": sa.except_all(select(c.id), select(o.id)),
        "intersect": sa.intersect(select(c.id), sa.union(select(o.id), select(c.id))),
        "intersect all": sa.intersect_all(select(c.id), select(o.id)),
        "limited parts": sa.union(select(c.id).limit(1).subquery().select(), select(o.id)),
        "group by": select(c.name, func.count()).group_by(c.name).having(func.count() > 1),
        "grouping sets": select(func.count())
        .select_from(customer)
        .group_by(func.grouping_sets(sa.tuple_(c.id, c.name), sa.tuple_(c.id))),
        "rollup": select(c.id, func.count()).group_by(func.rollup(c.id, c.name)),
        "cube": select(c.id, func.grouping(c.id, c.name)).group_by(func.cube(c.id, c.name)),
        "window": select(func.row_number().over(**over)),
        "window rows": select(func.sum(o.price).over(**over, rows=(-2, 0))),
        "window range": select(func.avg(o.price).over(**over, range_=(None, 0))),
        "window groups": select(func.sum(o.price).over(partition_by=o.id, order_by=o.id, rows=(None, None))),
        "lag": select(func.lag(o.price, 1, 0).over(**over), func.first_value(o.id).over(**over)),
        "filter": select(func.count(o.id).filter(o.price > 1)),
        "filtered window": select(func.sum(o.price).filter(o.price > 1).over(**over)),
        "within group": select(func.percentile_cont(sa.literal_column("0.5")).within_group(o.price.desc())),
        "mode": select(func.mode().within_group(o.price)),
        "rank": select(func.rank(1).within_group(o.price)),
        "aggregate order": select(func.array_agg(pg.aggregate_order_by(c.name, c.id.desc()))),
        "string aggregate": select(func.string_agg(c.name, ", ").filter(c.id > 0)),
        "tablesample": select(customer.tablesample(func.bernoulli(50), name="sampled", seed=sa.func.abs(1)).c.id),
        "tablesample system": select(customer.tablesample(func.system(5.0), name="sampled").c.id),
        "values": select(values),
        "values in from": select(c.id).join(values, values.c.id == c.id),
        "values alone": sa.text("VALUES (1, 'a'), (2, 'b')"),
        "table alone": sa.text('TABLE "customer"'),
        "scalar subquery": select(c.name, scalar.label("many")),
        "exists": select(sa.exists().where(o.customer_id == c.id)),
        "not exists": select(c.id).where(~select(o.id).where(o.customer_id == c.id).exists()),
        "any": select(Customer.id).where(Customer.orders.any(Order.price > 3)),
        "has": select(Order.id).where(Order.customer.has(name="Ada")),
        "in": select(c.id).where(c.id.in_([1, 2, 3])),
        "in nothing": select(c.id).where(c.id.in_([])),
        "not in": select(c.id).where(c.id.not_in(select(o.customer_id))),
        "tuple in": select(c.id).where(pair.in_([(1, "a"), (2, "b")])),
        "= any": select(c.id).where(c.id == sa.any_(select(o.customer_id).scalar_subquery())),
        "= any of an array": select(o.id).where(sa.literal("a") == sa.any_(o.tags)),
        "> all": select(c.id).where(c.id > sa.all_(select(o.customer_id).scalar_subquery())),
        "case": select(sa.case((c.id == 1, "one"), (c.id == 2, "two"), else_="many")),
        "case of a value": select(sa.case({1: "one"}, value=c.id)),
        "cast": select(sa.cast(c.id, sa.Numeric(12, 3)), sa.cast(c.name, sa.String(10)), sa.cast(c.id, sa.Text)),
        "casts of many types": select(
            *(
                sa.cast(sa.null(), kind)
                for kind in (
                    sa.Integer,
                    sa.BigInteger,
                    sa.SmallInteger,
                    sa.Float(53),
                    sa.REAL,
                    sa.Boolean,
                    sa.Date,
                    sa.Time,
                    sa.TIMESTAMP(timezone=True),
                    sa.Interval,
                    sa.LargeBinary,
                    sa.CHAR(3),
                    sa.VARCHAR(5),
                    sa.Uuid,
                    pg.INTERVAL(fields="DAY TO SECOND", precision=3),
                    pg.TIME(precision=2),
                    pg.TIMESTAMP(precision=4),
                    pg.BIT(4),
                    pg.BIT(5, varying=True),
                    pg.INET,
                    pg.CIDR,
                    pg.MACADDR,
                    pg.MONEY,
                    pg.OID,
                    pg.REGCLASS,
                    pg.JSONPATH,
                    pg.INT8RANGE,
                    pg.NUMRANGE,
                    pg.TSRANGE,
                    pg.TSTZRANGE,
                    pg.DATERANGE,
                    pg.TSQUERY,
                    pg.ARRAY(sa.Numeric(4, 1)),
                    pg.ARRAY(sa.String(7), dimensions=2),
                    pg.DOUBLE_PRECISION,
                )
            )
        ),
        "type coerce": select(sa.type_coerce(c.name, sa.String(3))),
        "json": select(o.data["a"], o.data["a"].astext, o.data[("a", "b")], o.data[("a", "b")].astext),
        "json operators": select(
            o.data.has_key("a"),
            o.data.has_all(pg.array(["a"])),
            o.data.has_any(pg.array(["a"])),
            o.data.contains({"a": 1}),
            o.data.contained_by({"a": 1}),
            o.data.concat({"b": 2}),
            o.data.op("-")("a"),
            o.data.delete_path(pg.array(["a"])),
            o.data.path_exists("$.a"),
            o.data.path_match("$.a == 1"),
        ),
        "json as": select(o.plain["a"].as_integer(), o.plain["a"].as_string(), o.plain[("a", 1)].as_numeric(10, 2)),
        "json functions": select(
            func.jsonb_build_object("a", c.id), func.jsonb_agg(c.name), func.jsonb_object_agg(c.id, c.name)
        ).group_by(c.id),
        "json elements": select(o.id, func.jsonb_array_elements(o.data).table_valued("value", name="element").c.value),
        "json record": select(
            func.jsonb_to_recordset(sa.cast([{"a": 1}], pg.JSONB))
            .table_valued(sa.column("a", sa.Integer), sa.column("b", sa.String(4)))
            .render_derived(name="record", with_types=True)
        ),
        "array": select(
            pg.array([1, 2]) + pg.array([3]),
            o.tags[1],
            o.tags[1:2],
            o.tags.contains(["a"]),
            o.tags.overlap(["b"]),
            o.tags.contained_by(["c"]),
            sa.literal("a") == sa.any_(o.tags),
            sa.literal("b") == sa.all_(o.tags),
            func.array_length(o.tags, 1),
            func.unnest(o.tags),
            func.cardinality(o.tags),
            func.array_to_string(o.tags, ","),
        ),
        "array subquery": select(func.array(select(c.id).scalar_subquery())),
        "unnest": select(
            func.unnest(pg.array([1, 2])).table_valued("n", with_ordinality="place", name="listed").render_derived()
        ),
        "unnest with names": select(
            func.unnest(pg.array(["a"]), pg.array([1])).table_valued("word", "n").render_derived(name="listed")
        ),
        "column valued": select(func.generate_series(1, 3).column_valued("number")),
        "series": select(func.generate_series(1, 9, 2).table_valued("n").render_derived(name="series")),
        "table valued": select(func.pg_get_keywords().table_valued("word", "catcode").c.word),
        "range": select(
            o.span.contains(3),
            o.span.overlaps(pg.Range(1, 2)),
            o.span.adjacent_to(pg.Range(5, 7)),
            o.span.strictly_left_of(pg.Range(5, 7)),
            func.lower(o.span),
            func.upper(o.span),
            func.int4range(1, 2),
            o.span + pg.Range(1, 2),
            func.range_agg(o.span).over(),
        ),
        "text search": select(
            func.to_tsvector("english", c.name).bool_op("@@")(func.to_tsquery("english", "a & b")),
            o.words.match("word"),
            func.ts_rank(o.words, func.plainto_tsquery("x")),
            func.ts_headline("x y", func.to_tsquery("x")),
        ),
        "inet": select(o.address.op("<<")(sa.cast("10.0.0.0/8", pg.CIDR)), func.host(o.address)),
        "distinct": select(c.name).distinct(),
        "distinct on": _distinct_on(select(c.name), c.id, func.lower(c.name)),
        "count distinct": select(func.count(c.id.distinct())),
        "limit": select(c.id).limit(3).offset(2),
        "limit by expression": select(c.id).limit(select(func.count()).scalar_subquery()),
        "fetch": select(c.id).order_by(c.id).fetch(3),
        "fetch with ties": select(c.id).order_by(c.id).fetch(3, with_ties=True).offset(1),
        "order": select(c.id).order_by(c.name.desc().nulls_last(), c.id.asc().nulls_first(), func.lower(c.name)),
        "collate": select(sa.collate(c.name, "C")).order_by(c.name.collate("POSIX")),
        "extract": select(sa.extract("year", o.at), sa.extract("epoch", func.now()), func.date_trunc("day", o.at)),
        "date part": select(func.date_part("hour", o.at), func.age(o.at), o.at - dated, o.at + datetime.timedelta(1)),
        "at time zone": select(o.at.op("AT TIME ZONE")("UTC"), func.timezone("UTC", o.at)),
        "now": select(
            func.now(),
            func.current_timestamp(),
            func.current_date(),
            func.current_time(),
            func.localtime(),
            func.localtimestamp(),
            func.clock_timestamp(),
            func.statement_timestamp(),
            func.transaction_timestamp(),
        ),
        "user": select(func.current_user(), func.session_user(), func.user(), func.current_schema(), func.version()),
        "strings": select(
            func.lower(c.name),
            func.upper(c.name),
            func.left(c.name, 1),
            func.right(c.name, 1),
            func.replace(c.name, "a", "b"),
            func.substring(c.name, 1, 2),
            func.position(sa.text("'a' IN 'abc'")),
            func.trim(c.name),
            func.overlay(sa.text("'a' PLACING 'b' FROM 1")),
            func.coalesce(c.name, ""),
            func.nullif(c.name, ""),
            func.greatest(c.id, 1),
            func.least(c.id, 1),
            func.concat(c.name, "x"),
            func.char_length(c.name),
            func.format("%s", c.name),
            func.md5(c.name),
            func.regexp_replace(c.name, "a", "b"),
            func.row(1, 2),
            func.normalize(c.name),
            func.string_to_array(c.name, ","),
            func.encode(sa.cast(b"a", sa.LargeBinary), "hex"),
        ),
        "like": select(c.id).where(
            c.name.ilike("%a%"), c.name.not_like("b%", escape="/"), c.name.startswith("a", autoescape=True)
        ),
        "regular expressions": select(c.name.regexp_match("a", flags="i"), c.name.regexp_replace("a", "b", flags="g")),
        "between": select(c.id).where(
            c.id.between(1, 2), ~c.id.between(3, 4, symmetric=True), c.name.is_distinct_from("x")
        ),
        "bitwise": select(
            c.id.bitwise_and(1), c.id.bitwise_or(2), c.id.bitwise_xor(3), c.id.bitwise_lshift(1), c.id.bitwise_not()
        ),
        "mathematics": select(
            func.abs(c.id), func.round(o.price, 1), func.power(2, 3), c.id % 2, c.id // 2, -c.id, func.random()
        ),
        "booleans": select(sa.and_(c.id == 1, sa.or_(c.id == 2, sa.not_(c.name.is_(None)))), sa.true(), sa.false()),
        "row": select(sa.tuple_(c.id, c.name) > sa.tuple_(1, "a")),
        "literals": select(
            sa.literal("commit; delete"), sa.literal_column("'insert into x'"), sa.literal(None), sa.literal(True)
        ),
        "uuid": select(func.gen_random_uuid()),
        "sizes": select(
            func.pg_total_relation_size("customer"), func.pg_size_pretty(func.pg_database_size(func.current_database()))
        ),
        "settings": select(func.current_setting("search_path"), func.current_setting("app.x", True)),
        "catalogue functions": select(
            func.pg_catalog.obj_description(1, "pg_class"),
            func.pg_get_serial_sequence("customer", "id"),
            func.to_regclass("customer"),
            func.has_table_privilege("customer", "select"),
            func.pg_typeof(c.id),
            func.col_description(1, 1),
            func.pg_is_in_recovery(),
        ),
        "comments": select(c.id).prefix_with("/* delete from customer */").suffix_with("-- commit"),
        "only": sa.text('SELECT id FROM ONLY "customer"'),
        "text": sa.text("SELECT id AS delete FROM customer WHERE name <> 'update; commit'"),
        "text with columns": sa.text("SELECT id, name FROM customer").columns(c.id, c.name).subquery("told").select(),
        "quoted names": select(sa.column("commit"), sa.column("Delete"), sa.column("txid_current")).select_from(
            sa.text('(SELECT 1 AS "commit", 2 AS "Delete", 3 AS "txid_current") AS "insert into"')
        ),
        "explain": sa.text("EXPLAIN (FORMAT JSON, COSTS false) SELECT * FROM customer"),
        "show": sa.text("SHOW server_version"),
        "correlated update name": select(c.id.label("update"), c.name.label("for")),
    }
