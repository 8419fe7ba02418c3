"""Class data that the code under test makes in a session of its own, as factories on a scoped session do."""

from __future__ import annotations

import unittest

import factory
from factory.alchemy import SQLAlchemyModelFactory
from sqlalchemy import create_engine, inspect, select
from sqlalchemy.orm import Session, scoped_session, sessionmaker

from dbtestcase import DatabaseTestCase
from tests.support import Base, Customer, Order, problems, run_case

engine = create_engine("postgresql+psycopg2://production.invalid/shop")
Db = scoped_session(sessionmaker(engine))


class CustomerFactory(SQLAlchemyModelFactory):
    class Meta:
        model = Customer
        sqlalchemy_session = Db
        sqlalchemy_session_persistence = "commit"

    name = factory.Sequence(lambda number: f"customer {number}")


class ShopTestCase(DatabaseTestCase):
    schema = Base
    app_engines = [engine]


class OtherSessionsTests(unittest.TestCase):
    def setUp(self):
        self.addCleanup(Db.remove)

    def passes(self, *cases):
        self.assertEqual(problems(run_case(*cases)), [])

    def test_the_session_of_the_application_is_left_alone_and_serves_every_test(self):
        class Shop(ShopTestCase):
            @classmethod
            def setUpTestData(cls, session):
                cls.ada = Customer(name="Ada")
                Db.add(cls.ada)
                Db.commit()

            @classmethod
            def setUpClass(cls):
                super().setUpClass()
                assert inspect(cls.ada).session is Db()
                assert not Db().in_transaction()

            def test_1(self):
                self.assertEqual(Db.scalars(select(Customer.name)).all(), ["Ada"])
                self.assertEqual(self.ada.name, "Ada")
                self.assertIs(inspect(self.ada).session, self.session)
                self.ada.name = "Grace"
                self.session.commit()
                Db.scalars(select(Customer)).one().name = "Edith"
                Db.commit()

            test_2 = test_1

        class Next(ShopTestCase):
            def test_3(self):
                self.assertEqual(Db.scalars(select(Customer)).all(), [])

        self.passes(Shop, Next)

    def test_factories_on_a_scoped_session(self):
        class Shop(ShopTestCase):
            @classmethod
            def setUpTestData(cls, session):
                cls.many = CustomerFactory.create_batch(2)
                cls.ada = CustomerFactory(name="Ada")
                cls.by_name = {"Ada": cls.ada}
                session.add(Order(item="book", customer_id=cls.ada.id))

            def test_1(self):
                self.assertEqual(len({each.name for each in self.many}), 2)
                self.assertIs(self.by_name["Ada"], self.ada)
                self.assertEqual([order.item for order in self.ada.orders], ["book"])
                CustomerFactory(name="Grace")
                self.ada.orders.append(Order(item="pen"))
                self.session.commit()

            test_2 = test_1

        self.passes(Shop)

    def test_a_session_that_is_configured_in_set_up_class(self):
        Late = scoped_session(sessionmaker())
        self.addCleanup(Late.remove)

        class Shop(DatabaseTestCase):
            schema = Base

            @classmethod
            def setUpTestData(cls, session):
                Late.configure(bind=cls.engine)
                Late.add(Customer(name="Ada"))
                Late.commit()
                cls.ada = Late.scalars(select(Customer)).one()
                Late.remove()

            def test_1(self):
                self.assertEqual(self.ada.name, "Ada")
                Late.scalars(select(Customer)).one().name = "Grace"
                Late.commit()

            test_2 = test_1

        self.passes(Shop)

    def test_an_object_of_a_session_that_is_closed_already(self):
        class Shop(ShopTestCase):
            @classmethod
            def setUpTestData(cls, session):
                with Session(engine) as other:
                    cls.ada = Customer(name="Ada")
                    other.add(cls.ada)
                    other.commit()

            def test_1(self):
                self.assertEqual(self.ada.name, "Ada")
                self.ada.name = "Grace"
                self.session.commit()

            test_2 = test_1

        self.passes(Shop)

    def test_what_was_only_added_or_flushed_there_is_committed_as_in_the_session_of_the_hook(self):
        for finish in (lambda: None, Db.flush):
            with self.subTest(finish=finish):

                class Shop(ShopTestCase):
                    finish_data = staticmethod(finish)

                    @classmethod
                    def setUpTestData(cls, session):
                        cls.many = [Customer(name="Ada"), Customer(name="Grace")]
                        Db.add_all(cls.many)
                        cls.finish_data()

                    def test_1(self):
                        self.assertEqual([each.name for each in self.many], ["Ada", "Grace"])
                        self.assertRowCount(Customer, 2)
                        Db.query(Customer).delete()
                        Db.commit()

                    test_2 = test_1

                self.passes(Shop)
                Db.remove()

    def test_an_object_of_a_transaction_that_is_still_open_is_told_with_its_attribute(self):
        class Shop(ShopTestCase):
            @classmethod
            def setUpTestData(cls, session):
                connection = cls.enterClassContext(engine.connect())
                connection.begin()
                other = cls.other = Session(connection)
                cls.ada = Customer(name="Ada")
                other.add(cls.ada)
                other.commit()

            def test_1(self):
                self.fail("not reached")

        texts = problems(run_case(Shop))

        self.assertRegex(
            "".join(texts), "Shop.ada is not in the database: the session .* transaction that is still open"
        )


if __name__ == "__main__":
    unittest.main()
