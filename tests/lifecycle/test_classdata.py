"""What setUpTestData leaves on the class arrives in each test as the test's own."""

from __future__ import annotations

import unittest
from collections import defaultdict, namedtuple
from dataclasses import dataclass
from unittest.mock import Mock

from sqlalchemy import ForeignKey, create_engine, inspect, select, text
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.ext.mutable import MutableDict
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column, relationship
from werkzeug.local import LocalProxy

from dbtestcase import DatabaseTestCase
from tests.support import problems, run_case


class Base(DeclarativeBase):
    pass


class Person(Base):
    __tablename__ = "person"
    __mapper_args__ = {"polymorphic_on": "kind", "polymorphic_identity": "person"}

    id: Mapped[int] = mapped_column(primary_key=True)
    kind: Mapped[str]
    name: Mapped[str]
    biography: Mapped[str | None] = mapped_column(deferred=True)
    tracked: Mapped[dict] = mapped_column(MutableDict.as_mutable(JSONB), default=dict)
    plain: Mapped[dict] = mapped_column(JSONB, default=dict)
    pets: Mapped[list[Pet]] = relationship(back_populates="owner", order_by="Pet.id")


class Boss(Person):
    __tablename__ = "boss"
    __mapper_args__ = {"polymorphic_identity": "boss"}

    id: Mapped[int] = mapped_column(ForeignKey("person.id"), primary_key=True)
    power: Mapped[int] = mapped_column(default=1)


class Pet(Base):
    __tablename__ = "pet"

    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str]
    owner_id: Mapped[int] = mapped_column(ForeignKey("person.id"))
    owner: Mapped[Person] = relationship(back_populates="pets")


Pair = namedtuple("Pair", "first second")


@dataclass(frozen=True)
class Box:
    content: object


class PetsTestCase(DatabaseTestCase):
    schema = Base

    @classmethod
    def setUpTestData(cls, session):
        cls.boss = Boss(name="Ada", power=3, biography="long", tracked={"a": [1]}, plain={"a": [1]})
        cls.rex, cls.tom = Pet(name="Rex", owner=cls.boss), Pet(name="Tom", owner=cls.boss)
        session.add_all([cls.boss, cls.rex, cls.tom])


class CopyTests(unittest.TestCase):
    def test_values_changed_in_place_are_as_they_were_in_the_next_test(self):
        for isolation in ("savepoint", "clone"):

            class Shop(PetsTestCase):
                def test_1(self):
                    self.assertEqual((self.boss.tracked, self.boss.plain), ({"a": [1]}, {"a": [1]}))
                    self.boss.tracked["b"] = 2
                    self.boss.tracked["a"].append(2)
                    self.boss.plain["a"].append(2)
                    self.session.commit()
                    self.assertEqual(self.session.scalar(text("SELECT tracked ->> 'b' FROM person")), "2")

                test_2 = test_1

                def test_3_begins_with_a_query(self):
                    self.session.scalar(text("SELECT 1"))
                    self.test_1()

            Shop.isolation = isolation
            with self.subTest(isolation=isolation):
                self.assertEqual(problems(run_case(Shop)), [])

    def test_values_of_objects_that_come_along_through_a_relationship_are_parted_too(self):
        class Shop(PetsTestCase):
            @classmethod
            def setUpTestData(cls, session):
                boss = Boss(name="Ada", plain={"a": [1]})
                cls.rex = Pet(name="Rex", owner=boss)
                session.add(cls.rex)

            @classmethod
            def setUpClass(cls):
                super().setUpClass()
                with Session(cls.engine) as session:
                    session.add(cls.rex)
                    cls.rex.owner  # noqa: B018 - loaded, so that it is part of the copy
                    session.expunge_all()

            def test_1(self):
                self.rex.owner.plain["a"].append(2)
                self.assertEqual(self.rex.owner.plain, {"a": [1, 2]})

            test_2 = test_1

        self.assertEqual(problems(run_case(Shop)), [])

    def test_inheritance_deferred_columns_relations_and_identities_are_kept(self):
        class Shop(PetsTestCase):
            def test_1(self):
                self.assertIsInstance(self.boss, Boss)
                self.assertEqual((self.boss.power, self.boss.biography), (3, "long"))
                self.assertIs(self.rex.owner, self.boss)
                self.assertEqual(self.boss.pets, [self.rex, self.tom])
                self.assertIs(self.session.scalars(select(Person)).one(), self.boss)
                self.assertTrue(inspect(self.boss).persistent)
                self.boss.power, self.boss.name, self.boss.biography = 9, "Grace", "short"
                self.boss.pets.append(Pet(name="Kit"))
                self.session.commit()

            test_2 = test_1

            def test_3_deletes(self):
                for pet in self.boss.pets:
                    self.session.delete(pet)
                self.session.delete(self.boss)
                self.session.commit()

            test_4 = test_1

            def test_5_expires(self):
                self.boss.name = "Grace"
                self.session.rollback()
                self.assertEqual(self.boss.name, "Ada")
                self.session.expire_all()
                self.assertEqual((self.boss.name, self.boss.power), ("Ada", 3))

        self.assertEqual(problems(run_case(Shop)), [])

    def test_collections_of_every_kind_are_copied_with_the_objects_in_them(self):
        class Shop(PetsTestCase):
            @classmethod
            def setUpTestData(cls, session):
                super().setUpTestData(session)
                session.flush()
                cls.nested = [cls.rex, [cls.tom], {"boss": (cls.boss, 1)}]
                cls.some, cls.few = {cls.rex, cls.tom}, frozenset([cls.rex])
                cls.ages = {cls.rex: 3}
                cls.pair, cls.box = Pair(cls.rex, cls.tom), Box([cls.rex])
                cls.by_owner = defaultdict(list, {"Ada": [cls.rex]})
                cls.ring = [cls.rex]
                cls.ring.append(cls.ring)
                cls.boss_s = cls.boss.pets

            def test_1(self):
                first, (second,), third = self.nested
                self.assertIs(first, self.rex)
                self.assertIs(second, self.tom)
                self.assertIs(third["boss"][0], self.boss)
                self.assertEqual((self.some, self.few), ({self.rex, self.tom}, {self.rex}))
                self.assertEqual(self.ages[self.rex], 3)
                self.assertEqual(self.pair, Pair(self.rex, self.tom))
                self.assertIs(self.box.content[0], self.rex)
                self.assertEqual(self.by_owner["Ada"], [self.rex])
                self.assertEqual(self.by_owner["nobody"], [])
                self.assertIs(self.ring[1], self.ring)
                self.assertEqual(self.boss_s, [self.rex, self.tom])
                self.nested.clear()
                self.some.clear()
                self.by_owner["Ada"].clear()
                self.boss_s.clear()

            test_2 = test_1

        self.assertEqual(problems(run_case(Shop)), [])

    def test_collections_without_objects_are_the_test_s_own_too(self):
        class Shop(PetsTestCase):
            @classmethod
            def setUpTestData(cls, session):
                cls.names, cls.by_name, cls.known = ["Ada"], {"Ada": ["Rex"]}, {"Ada"}

            def test_1(self):
                self.assertEqual((self.names, self.by_name, self.known), (["Ada"], {"Ada": ["Rex"]}, {"Ada"}))
                self.names.append("Grace")
                self.by_name["Ada"].append("Tom")
                self.known.add("Grace")

            test_2 = test_1

        self.assertEqual(problems(run_case(Shop)), [])

    def test_a_collection_of_the_class_body_that_got_objects_is_copied_and_left_on_the_class(self):
        kept = []

        class Shop(PetsTestCase):
            pets = kept

            @classmethod
            def setUpTestData(cls, session):
                super().setUpTestData(session)
                cls.pets.append(cls.rex)

            def test_1(self):
                self.assertIs(self.pets[0], self.rex)
                self.pets.clear()

            test_2 = test_1

        self.assertEqual(problems(run_case(Shop)), [])
        self.assertIs(Shop.pets, kept)

    def test_what_else_is_on_the_class_is_left_alone(self):
        elsewhere = create_engine("postgresql+psycopg2://nobody@matters.invalid/production")
        nothing = LocalProxy(lambda: self.fail("a proxy was used"))

        class Shop(PetsTestCase):
            @classmethod
            def setUpTestData(cls, session):
                super().setUpTestData(session)
                cls.others = [elsewhere, nothing, Mock(spec=list), Person, Person(name="never added")]

            def test_1(self):
                self.assertIs(self.others[0], elsewhere)
                self.assertIs(self.others[4], type(self).others[4])

        Shop.elsewhere, Shop.nothing = elsewhere, nothing

        self.assertEqual(problems(run_case(Shop)), [])

    def test_an_object_that_the_hook_deleted_again_is_no_row(self):
        class Shop(PetsTestCase):
            @classmethod
            def setUpTestData(cls, session):
                cls.gone = Person(name="Nobody")
                session.add(cls.gone)
                session.flush()
                session.delete(cls.gone)

            def test_1(self):
                self.assertNotIn(self.gone, self.session)
                self.assertIsNone(self.session.get(Person, self.gone.id))

        self.assertEqual(problems(run_case(Shop)), [])

    def test_an_object_of_a_session_of_the_hook_s_own_is_copied_like_others(self):
        class Shop(PetsTestCase):
            @classmethod
            def setUpTestData(cls, session):
                with Session(cls.engine, expire_on_commit=False) as own:
                    cls.ada = Person(name="Ada")
                    own.add(cls.ada)
                    own.commit()

            def test_1(self):
                self.assertEqual(self.ada.name, "Ada")
                self.ada.name = "Grace"
                self.session.commit()

            test_2 = test_1

        self.assertEqual(problems(run_case(Shop)), [])


if __name__ == "__main__":
    unittest.main()
