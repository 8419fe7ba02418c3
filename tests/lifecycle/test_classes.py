"""Classes one after the other: each ends before the next begins, and mistakes are of the class that makes them."""

from __future__ import annotations

import unittest
import warnings

from sqlalchemy import create_engine, select, text
from sqlalchemy.orm import Session

import dbtestcase
from dbtestcase import DatabaseTestCase
from tests.support import Base, Customer, of_throwaway_servers, problems, run_case, run_with_warnings

engine = create_engine(dbtestcase.URL)


class ShopTestCase(DatabaseTestCase):
    schema = Base

    @classmethod
    def setUpClass(cls):
        super().setUpClass()

    def test_it(self):
        with engine.begin() as connection:
            connection.execute(text("INSERT INTO customer (name) VALUES ('Ada')"))
        self.assertRowCount(Customer, 1)


class EndTests(unittest.TestCase):
    def test_a_base_class_that_is_set_up_by_name_is_told_and_later_classes_are_innocent(self):
        class Shop(ShopTestCase):
            @classmethod
            def setUpClass(cls):
                ShopTestCase.setUpClass()

        class Later(ShopTestCase):
            pass

        result = run_case(Shop, Later)

        self.assertEqual(len(problems(result)), 1, problems(result))
        for words in ("Shop.setUpClass calls ShopTestCase.setUpClass() by name", "test_classes.py:", "super()"):
            self.assertIn(words, problems(result)[0])
        self.assertEqual(result.testsRun, 1)

    @of_throwaway_servers
    def test_a_class_that_was_left_behind_is_ended_by_the_next_and_named(self):
        class Left(ShopTestCase):
            pass

        class Later(ShopTestCase):
            pass

        Left.setUpClass()
        directory = Left.instance.base_dir
        result, told = run_with_warnings(Later)

        self.assertEqual(problems(result), [])
        self.assertEqual(len([each for each in told if "Left was set up at" in each and "test_classes.py:" in each]), 1)
        self.assertNotIn(directory, Later.__dict__)
        self.assertFalse(hasattr(Left("test_it"), "engine"))

    def test_a_mistake_of_the_next_class_is_its_own(self):
        mistakes = (
            {"postgres": "postgresql://ci:ci_secret@127.0.0.1:1/ci"},
            {"schema": 42},
            {"isolation": "none"},
            {"url": "/customers"},
            {"app_engines": None},
        )
        for mistake in mistakes:
            with self.subTest(mistake):
                first = type("First", (ShopTestCase,), {})
                wrong = type("Wrong", (ShopTestCase,), mistake)
                last = type("Last", (ShopTestCase,), {})

                result = run_case(first, wrong, last)

                self.assertEqual(result.testsRun, 2)
                self.assertEqual(len(result.errors), 1)
                self.assertIn("Wrong.", result.errors[0][1])


class SetUpClassTests(unittest.TestCase):
    def test_a_session_that_set_up_class_left_open_reading_goes_on(self):
        class Shop(ShopTestCase):
            @classmethod
            def setUpClass(cls):
                super().setUpClass()
                cls.left = Session(cls.engine)
                cls.left.add(Customer(name="Grace"))
                cls.left.commit()
                cls.grace = cls.left.scalars(select(Customer)).one()

            def test_it(self):
                self.assertEqual(self.grace.name, "Grace")
                self.assertRowCount(Customer, 1)

            @classmethod
            def tearDownClass(cls):
                assert cls.left.scalar(text("SELECT count(*) FROM customer")) == 1
                cls.left.close()
                super().tearDownClass()

        result, told = run_with_warnings(Shop)

        self.assertEqual(problems(result), [])
        self.assertTrue(any("left open before the first test" in each for each in told), told)

    def test_a_connection_that_set_up_class_left_open_is_told_once_more_where_it_is_used(self):
        class Shop(ShopTestCase):
            @classmethod
            def setUpClass(cls):
                super().setUpClass()
                cls.left = cls.engine.connect()
                cls.left.execute(text("SELECT 1"))

            @classmethod
            def tearDownClass(cls):
                cls.left.execute(text("SELECT 1"))

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            result = run_case(Shop)

        self.assertEqual(len(result.errors), 1)
        self.assertIn("left open before the first test", problems(result)[0])


class OrderedTests(unittest.TestCase):
    def test_tests_of_a_class_see_what_earlier_ones_committed_and_other_classes_do_not(self):
        class Shop(DatabaseTestCase):
            schema = Base
            isolation = "class"

            @classmethod
            def setUpTestData(cls, session):
                cls.ada = Customer(name="Ada")
                session.add(cls.ada)

            @classmethod
            def setUpClass(cls):
                super().setUpClass()
                cls.kept = Session(cls.engine)

            def test_1_commits(self):
                self.ada.name = "Augusta"
                self.session.add(Customer(name="Grace"))
                self.session.commit()
                self.kept.add(Customer(name="Edith"))
                self.kept.commit()
                self.edith = type(self).edith = self.kept.scalars(select(Customer).filter_by(name="Edith")).one()

            def test_2_sees_it(self):
                self.assertEqual(self.ada.name, "Augusta")
                self.assertEqual(self.edith.name, "Edith")
                self.assertRowCount(Customer, 3)
                with self.engine.connect() as one, self.engine.connect() as other:
                    self.assertNotEqual(*(each.scalar(text("SELECT pg_backend_pid()")) for each in (one, other)))

            def test_3_rolls_back(self):
                self.session.add(Customer(name="nobody"))

            def test_4_does_not_see_that(self):
                self.assertRowCount(Customer, 3)
                self.kept.close()

            @classmethod
            def tearDownClass(cls):
                with cls.engine.connect() as connection:
                    assert connection.scalar(text("SELECT count(*) FROM customer")) == 3

        class Later(ShopTestCase):
            pass

        result, told = run_with_warnings(Shop, Later)

        self.assertEqual(problems(result), [])
        self.assertEqual(result.testsRun, 5)
        self.assertEqual(told, [])

    def test_engines_are_redirected_others_refused_and_failures_explained(self):
        app_engine = create_engine("postgresql+psycopg2://nobody@matters.invalid/production")
        other = create_engine("postgresql+psycopg2://nobody@matters.invalid/other")

        class Shop(DatabaseTestCase):
            schema = Base
            isolation = "class"
            app_engines = [app_engine]

            def test_1(self):
                with app_engine.begin() as connection:
                    connection.execute(Customer.__table__.insert(), {"name": "Ada"})

            def test_2(self):
                self.assertRowCount(Customer, 1)
                with self.assertRaises(dbtestcase.errors.UndeclaredDatabase):
                    other.connect()

            def test_3(self):
                self.session.execute(text("SELECT * FROM customers"))

        result = run_case(Shop)

        self.assertEqual(len(result.errors), 1, problems(result))
        for words in ("test_3", "SQL sent: 1 statement", "What to do"):
            self.assertIn(words, str(result.errors[0]))

    def test_tests_of_other_kinds_in_such_a_class_begin_on_what_was_committed(self):
        class Shop(DatabaseTestCase):
            schema = Base
            isolation = "class"

            def add(self, name):
                customer = Customer(name=name)
                self.session.add(customer)
                self.session.commit()
                return customer.id

            def test_1(self):
                self.assertEqual(self.add("one"), 1)

            @dbtestcase.isolate("auto")
            def test_2_undone(self):
                self.assertEqual(self.add("two"), 2)
                self.assertRowCount(Customer, 2)

            @dbtestcase.isolate("clone")
            def test_3_on_a_copy(self):
                self.assertEqual(self.add("three"), 2)
                self.assertRowCount(Customer, 2)

            def test_4(self):
                self.add("four")
                self.assertRowCount(Customer, 2)

            @dbtestcase.isolate("clone")
            def test_5_on_a_copy(self):
                self.add("five")
                self.assertRowCount(Customer, 3)

        self.assertEqual(problems(run_case(Shop)), [])


if __name__ == "__main__":
    unittest.main()
