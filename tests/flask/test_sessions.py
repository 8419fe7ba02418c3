"""What the test's session knows after a request has changed the database."""

from __future__ import annotations

import unittest

from flask_sqlalchemy import SQLAlchemy
from sqlalchemy import ForeignKey, inspect, select
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, relationship
from sqlalchemy.orm.exc import ObjectDeletedError

from dbtestcase.flask import FlaskDatabaseTestCase
from tests.flask.shop import Customer, ShopTestCase, db
from tests.flask.shop import create_app as create_shop
from tests.support import problems, run_case


class Base(DeclarativeBase):
    pass


library = SQLAlchemy(model_class=Base)


class Author(library.Model):
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str]
    mail: Mapped[str]
    books: Mapped[list[Book]] = relationship(back_populates="author", cascade="all, delete-orphan")


class Book(library.Model):
    id: Mapped[int] = mapped_column(primary_key=True)
    title: Mapped[str]
    kind: Mapped[str] = mapped_column(default="book")
    author_id: Mapped[int] = mapped_column(ForeignKey(Author.id))
    author: Mapped[Author] = relationship(back_populates="books")

    __mapper_args__ = {"polymorphic_on": "kind", "polymorphic_identity": "book"}


class Atlas(Book):
    book_id: Mapped[int] = mapped_column(ForeignKey(Book.id), primary_key=True)
    scale: Mapped[int]

    __mapper_args__ = {"polymorphic_identity": "atlas"}


def create_library():
    from flask import Flask

    app = Flask("library")
    app.config["SQLALCHEMY_DATABASE_URI"] = "sqlite://"
    library.init_app(app)

    @app.post("/change")
    def change():
        for author in library.session.scalars(select(Author)):
            author.mail = "changed@example.com"
            author.books.append(Book(title="Another"))
        for atlas in library.session.scalars(select(Atlas)):
            atlas.scale += 1
        library.session.commit()
        return {}

    return app


class LibraryTestCase(FlaskDatabaseTestCase):
    db = library

    @classmethod
    def create_app(cls):
        return create_library()

    @classmethod
    def setUpTestData(cls, session):
        cls.ada = Author(name="Ada", mail="ada@example.com", books=[Atlas(title="The World", scale=1)])
        session.add(cls.ada)


class AfterARequestTests(unittest.TestCase):
    def test_a_row_that_a_request_deleted_is_gone_for_the_test(self):
        class Shop(ShopTestCase):
            def test_1(self):
                ada = Customer(name="Ada")
                db.session.add(ada)
                db.session.commit()
                self.assertEqual(ada.name, "Ada")

                self.client.post(f"/delete/{ada.id}")

                self.assertIsNone(db.session.get(Customer, ada.id))

        self.assertEqual(problems(run_case(Shop)), [])

    def test_the_primary_key_of_a_deleted_row_is_still_there(self):
        class Shop(ShopTestCase):
            def test_1(self):
                ada = Customer(name="Ada")
                db.session.add(ada)
                db.session.commit()
                number = ada.id
                db.session.commit()  # after which SQLAlchemy itself would ask the database for the id

                self.client.post(f"/delete/{number}")

                self.assertEqual(ada.id, number)
                self.assertEqual(inspect(ada).identity, (number,))
                with self.assertRaisesRegex(ObjectDeletedError, "has been deleted"):
                    _ = ada.name

        self.assertEqual(problems(run_case(Shop)), [])

    def test_relations_and_columns_of_subclasses_are_read_again(self):
        class Library(LibraryTestCase):
            def test_1(self):
                atlas = self.ada.books[0]
                self.assertEqual(atlas.scale, 1)

                self.client.post("/change")

                self.assertEqual([book.title for book in self.ada.books], ["The World", "Another"])
                self.assertEqual(atlas.scale, 2)

            test_2 = test_1

        self.assertEqual(problems(run_case(Library)), [])

    def test_what_is_not_flushed_outlives_a_request_and_the_rest_is_read_again(self):
        class Library(LibraryTestCase):
            def test_1(self):
                atlas = self.ada.books[0]
                with library.session.no_autoflush:
                    pending = Book(title="Pending", author=self.ada)
                    library.session.add(pending)
                    self.ada.name = "Grace"
                    atlas.title = "The Moon"

                    self.client.post("/change")

                    self.assertEqual((self.ada.name, self.ada.mail), ("Grace", "changed@example.com"))
                    self.assertEqual((atlas.title, atlas.scale), ("The Moon", 2))
                    self.assertPending(pending)
                library.session.commit()

                titles = library.session.scalars(select(Book.title).order_by(Book.id)).all()
                self.assertEqual(titles, ["The Moon", "Another", "Pending"])
                self.assertRowExists(Author, name="Grace", mail="changed@example.com")

        self.assertEqual(problems(run_case(Library)), [])

    def test_an_object_marked_for_deletion_stays_marked(self):
        class Shop(ShopTestCase):
            def test_1(self):
                ada = Customer(name="Ada")
                db.session.add(ada)
                db.session.commit()
                address = f"/rename/{ada.id}"
                db.session.delete(ada)
                self.client.post(address, json={"name": "Grace"})
                db.session.commit()
                self.assertRowAbsent(Customer)

        self.assertEqual(problems(run_case(Shop)), [])

    def test_a_command_is_seen_in_the_same_way(self):
        class Shop(ShopTestCase):
            def test_1(self):
                @self.app.cli.command("rename")
                def rename():
                    db.session.scalars(select(Customer)).one().name = "Grace"
                    db.session.commit()

                ada = Customer(name="Ada")
                db.session.add(ada)
                db.session.commit()
                self.app.test_cli_runner().invoke(args=["rename"])
                self.assertEqual(ada.name, "Grace")

        self.assertEqual(problems(run_case(Shop)), [])

    def test_self_session_without_a_context_sees_what_a_request_did(self):
        class Shop(FlaskDatabaseTestCase):
            db = db

            def setUp(self):
                self.app = create_shop()

            def test_1(self):
                ada = Customer(name="Ada")
                self.session.add(ada)
                self.session.commit()
                self.client.post(f"/rename/{ada.id}", json={"name": "Grace"})
                self.assertEqual(ada.name, "Grace")

        self.assertEqual(problems(run_case(Shop)), [])

    def test_many_requests_with_many_objects_send_no_query_of_ours(self):
        class Shop(ShopTestCase):
            def test_1(self):
                customers = [Customer(name=str(number)) for number in range(50)]
                db.session.add_all(customers)
                db.session.commit()
                with self.assertNumQueries(3):
                    for _ in range(3):
                        self.client.get("/customers")

        self.assertEqual(problems(run_case(Shop)), [])
