"""A test's session, its requests, commands and contexts, used in random order and compared with what must be so."""

from __future__ import annotations

import random
import unittest
import warnings

from sqlalchemy import select
from sqlalchemy.orm.exc import ObjectDeletedError

from tests.flask.shop import Customer, ShopTestCase, create_app, db
from tests.support import once


class Story:
    """A sequence of steps that is told again by its number.

    Attributes:
        names: What is committed.
        held: The objects that the test got with their keys, whatever became of their rows.
    """

    def __init__(self, test: ShopTestCase, number: int) -> None:
        self.test = test
        self.random = random.Random(number)
        self.names: dict[str, int] = {}
        self.held: list[tuple[Customer, int]] = []
        self.told: list[str] = []
        self._made = 0

    def tell(self, length: int) -> None:
        steps = [name for name in dir(self) if name.startswith("step_")]
        for _ in range(length):
            self.told.append(self.random.choice(steps))
            getattr(self, self.told[-1])()
            self.test.assertEqual(set(db.session.scalars(select(Customer.name))), set(self.names))
            self.look_at_what_is_held()

    def look_at_what_is_held(self) -> None:
        for customer, key in self.held:
            try:
                name = customer.name
            except ObjectDeletedError:
                self.test.assertNotIn(key, self.names.values())
            else:
                self.test.assertEqual(self.names[name], key)

    def new(self) -> str:
        self._made += 1
        return f"customer {self._made}"

    def any(self) -> str | None:
        return self.random.choice(sorted(self.names)) if self.names else None

    def note(self, name: str) -> None:
        self.names[name] = db.session.scalars(select(Customer.id).where(Customer.name == name)).one()

    def step_commit(self) -> None:
        customer = Customer(name=self.new())
        db.session.add(customer)
        db.session.commit()
        self.held.append((customer, customer.id))
        self.names[customer.name] = customer.id

    def step_rename(self) -> None:
        if (name := self.any()) is not None:
            customer = db.session.scalars(select(Customer).where(Customer.name == name)).one()
            self.held.append((customer, customer.id))
            customer.name = self.new()
            db.session.commit()
            self.names[customer.name] = self.names.pop(name)

    def step_roll_back(self) -> None:
        db.session.add(Customer(name=self.new()))
        db.session.flush()
        db.session.rollback()

    def step_other_context(self) -> None:
        name = self.new()
        with self.test.app.app_context():
            db.session.add(Customer(name=name))
            db.session.commit()
        self.note(name)

    def step_request_context(self) -> None:
        with self.test.app.test_request_context():
            self.test.assertEqual(set(db.session.scalars(select(Customer.name))), set(self.names))

    def step_request_lists(self) -> None:
        self.test.assertEqual(self.test.client.get("/customers").json, {"names": sorted(self.names)})

    def step_request_streams(self) -> None:
        self.test.assertIn("x", self.test.client.get("/stream?first=x").text)

    def step_request_streams_and_nobody_reads(self) -> None:
        self.test.client.get("/stream?first=x")

    def step_request_adds(self) -> None:
        name = self.new()
        self.test.assertEqual(self.test.client.post("/customers", json={"name": name}).status_code, 201)
        self.note(name)

    def step_request_adds_in_a_with_block(self) -> None:
        with self.test.client as client:
            client.post("/customers", json={"name": (name := self.new())})
            client.get("/customers")
        self.note(name)

    def step_request_rolls_back(self) -> None:
        if (name := self.any()) is not None:
            self.test.assertEqual(self.test.client.post("/customers", json={"name": name}).status_code, 409)

    def step_request_fails(self) -> None:
        with self.test.assertRaises(LookupError):
            self.test.client.post("/fail")

    def step_request_renames(self) -> None:
        if (name := self.any()) is not None:
            new = self.new()
            self.test.client.post(f"/rename/{self.names[name]}", json={"name": new})
            self.names[new] = self.names.pop(name)

    def step_request_deletes(self) -> None:
        if (name := self.any()) is not None:
            self.test.client.post(f"/delete/{self.names.pop(name)}")

    def step_command(self) -> None:
        if "from the command" not in self.names:
            self.test.assertEqual(self.test.app.test_cli_runner().invoke(args=["add"]).exit_code, 0)
            self.note("from the command")


class StoryTests(ShopTestCase):
    first, last = 1, 10

    @classmethod
    def create_app(cls):
        app = create_app()
        app.testing = True
        return app

    def test_each_story_ends_as_it_must_and_leaves_no_object_detached(self):
        for number in range(self.first, self.last + 1):
            with self.subTest(number=number), warnings.catch_warnings():
                warnings.simplefilter("error")
                story = Story(self, number)
                try:
                    story.tell(20)
                except Exception as error:
                    error.add_note(f"told so far: {story.told}")
                    raise
                finally:
                    db.session.rollback()
                    db.session.query(Customer).delete()
                    db.session.commit()


@once
class PsycopgStoryTests(StoryTests):
    @classmethod
    def create_app(cls):
        app = create_app("postgresql+psycopg://nobody@matters.invalid/production")
        app.testing = True
        return app


@once
class CloneStoryTests(StoryTests):
    isolation = "clone"


class PsycopgCloneStoryTests(PsycopgStoryTests):
    isolation = "clone"


if __name__ == "__main__":
    unittest.main()
