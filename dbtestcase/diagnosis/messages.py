"""The sentences of this room: what to do about a failure, what was left open, who waits for whom.

Each says the problem, its cause and the next step. Names in braces are filled in by whoever uses the sentence.
"""

from __future__ import annotations

# -- errors of PostgreSQL, by what led to them

NO_TABLES = (
    "the database has no tables. Check that the class's 'schema' names what creates {name!r}, and that the module with "
    "the models is imported before the class runs: a model is in its MetaData only once its module has been imported."
)
NOT_IN_SEARCH_PATH = (
    "there is a table {name!r}, but its schema is not in search_path. Name the schema, as in MetaData(schema=...), or "
    "set the search_path."
)
FOLDED_NAME = (
    'there is a table {name!r}: PostgreSQL folds names without quotes to lower case. Write "{name}" with double quotes.'
)
NO_SUCH_TABLE = (
    "{guess} If {name!r} is right, import the module of its model before the schema is created, or add the migration "
    "that makes it."
)
SIMILAR_TABLES = "if {names} is meant, write that."
ALL_TABLES = "name one of the tables that exist: {names}."
STILL_REFERENCED = (
    "rows of another table still point to this one. Delete them first, or declare cascade='all, delete-orphan' on the "
    "relationship or ondelete='CASCADE' on the foreign key. (SQLite does not check foreign keys.)"
)
PARENT_MISSING = (
    "{detail} Add and flush that row first; with the ORM, set the relationship to the object instead of the key to a "
    "number. (SQLite does not check foreign keys.)"
)
PARENT_MISSING_DETAIL = "the row that the key points to does not exist."
NULL_KEY = (
    "{column} got no value. Set the relationship before the flush, or add the object it refers to to the same session. "
    "A parent that loses a child sets this to NULL too; cascade='all, delete-orphan' deletes the child instead."
)
NULL_VALUE = (
    "{column} got no value. Give it one where the object is made, or a default in the model (default=..., or "
    "server_default=... if rows are inserted without the ORM)."
)
KEY_TAKEN = (
    "there is a row with this key{detail}. If the key is a generated number: inserting rows with numbers of their own "
    "does not advance the sequence. Leave the key out, or set the sequence with setval()."
)
VALUE_TAKEN = (
    "there is a row with this value{detail}, made by this test or by setUpTestData. Give each row its own value, from "
    "a counter for example."
)
WRONG_TEXT = (
    "{message}: PostgreSQL stores in a column only what fits its type, SQLite stores anything. Convert the value "
    "first, with int() for example."
)
WRONG_TYPE = "{message}: PostgreSQL does not convert it by itself. Convert the value to the type of the column."
NUMBER_FOR_BOOLEAN = (
    "a number is no boolean in PostgreSQL. Use true and false, or the Python values as parameters. (SQLite takes 1 and "
    "0.)"
)
DIFFERENT_TYPES = (
    "{message}: the two sides have different types, and PostgreSQL does not convert them by itself. Give the value the "
    "type of the column (int(...), str(...)), or use cast(column, Type)."
)
EXTENSION = (
    "{name!r} comes with an extension: postgres = ThrowawayPostgres(extensions=({extensions},)) creates it before the "
    "schema."
)
# The extension that brings a type, function or operator class.
EXTENSION_WITH = {
    "citext": "citext",
    "hstore": "hstore",
    "ltree": "ltree",
    "cube": "cube",
    "vector": "vector",
    "geometry": "postgis",
    "geography": "postgis",
    **dict.fromkeys(["crypt", "gen_salt", "digest", "gen_random_bytes"], "pgcrypto"),
    **dict.fromkeys([f"uuid_generate_v{version}" for version in ("1", "1mc", "3", "4", "5")], "uuid-ossp"),
    **dict.fromkeys(["similarity", "gin_trgm_ops", "gist_trgm_ops"], "pg_trgm"),
    "unaccent": "unaccent",
}
GROUPING = (
    "each selected column must be in GROUP BY or inside an aggregate such as max() or count(); SQLite takes any row's "
    "value instead. Add it to group_by(), or group by the primary key of its table."
)
TOO_LONG = "{message}: PostgreSQL enforces the length of String(n). Shorten the text, or use Text."
OUT_OF_RANGE = "{message}: Integer has 32 bits in PostgreSQL. Use BigInteger."
FAILED_TRANSACTION = (
    "an earlier statement of this transaction failed, and PostgreSQL refuses all others until rollback(). Look at the "
    "first failure. Code that goes on after an error needs session.rollback(), or a 'with session.begin_nested():' "
    "around the statement that may fail."
)
NOT_IN_TRANSACTION = (
    "{message}. Run it on a connection with execution_options(isolation_level='AUTOCOMMIT'), in a test with real "
    "connections: isolation = 'clone' on the class, or @isolate('clone') on the test."
)
TABLE_THERE = (
    "the class's 'schema' has created it already. Leave create_all() out of the test, or let only one of the migration "
    "and 'schema' create it."
)
NO_SUCH_SCHEMA = (
    "PostgreSQL schemas must be created. If the models name {name!r} (MetaData(schema=...), __table_args__), 'schema' "
    "of the test class creates it; in SQL text, send CREATE SCHEMA first."
)

# -- errors of the ORM

LAZY_LOAD = (
    "{attribute} was to be loaded after the session had been closed. Load it with the object: "
    ".options(selectinload({attribute})); or read it before the session closes. An object that a request or another "
    "session made: get it again through self.session."
)
DETACHED = (
    "the object's values expired with a commit, and its session is closed. Read what you need before the session "
    "closes, use a session with expire_on_commit=False, or get the object again through self.session."
)
PENDING_ROLLBACK = (
    "a flush of this session failed before, and the session waits for session.rollback(). What was added since the "
    "last commit is gone with it, also fixtures that were only flushed: commit() those.{first_error}"
)
FIRST_ERROR = " It began with: {error}"
STALE = (
    "a row that the session knows is not there any more: it was deleted, or the transaction that made it was rolled "
    "back, elsewhere. Get the object again, or commit() what the other side relies on."
)

# -- failures without an error of the database

FLUSHED_ONLY = (
    "commit() first: the {verb} at {written} was not committed when the SELECT at {read} looked at {table} on another "
    "connection, which sees only what was committed. flush() sends, commit() makes it visible."
)
ROLLED_BACK = (
    "the {verb} at {written} was rolled back{where}, because nothing had committed it. If it was to stay, commit() it "
    "where it is sent: flush() only sends."
)
NEVER_SENT = (
    "{object}, added to a session at {added}, was never sent: its session was closed or rolled back before flush() or "
    "commit(). If the row was to be stored, commit() there."
)
UNSENT = "The test's session holds changes that were not sent yet ({changes}); flush() or commit() sends them."
COMMIT_FIRST = "commit() first? {unsent} Requests and other sessions see only what was committed."
ROWS_OF_EARLIER_TEST = (
    "the SELECT at {read} found no row of {table}. {test} of this class inserted such rows, but what a test commits is "
    "undone after it. Let the test or setUp insert what it needs, or setUpTestData for all tests; tests that build on "
    "each other need isolation = 'class'."
)
TIME_STANDS_STILL = (
    "now() and CURRENT_TIMESTAMP are the time at which the transaction began: all rows of one transaction have the "
    "same, with isolation = 'savepoint' all rows of the test. clock_timestamp() goes on."
)

# -- the end of the server

SERVER_ENDED = "The server of {owner} has ended{cause}. The next test gets a fresh one."

# -- what outlives a test

CONNECTION_LEFT = (
    "{owner}: {label}, opened at {opened}, was left open {when} and has been closed.{details}\n"
    "Close it where it is opened: 'with engine.connect() as connection:', or connection.close()."
)
CURSOR_LEFT = (
    "{owner}: the cursor opened at {opened} was left open {when} and has been closed.\n"
    "Close it where it is opened: 'with connection.cursor() as cursor:', cursor.close(), or close() of the result."
)
TASK_LEFT = (
    "{owner}: {label}, opened at {opened}, was in use after the test by a task that was still running and has been "
    "cancelled. Still running: {tasks}.\n"
    "Await the task in the test, or cancel() it and await its end."
)
CLOSED_BY_US = "This connection is closed because of what was left open before:\n{warning}"
LATE_THREAD = (
    "{owner}: thread {thread!r} used the database for a test that is over: it was at work when an earlier test ended, "
    "and this test does not wait for it. What it does belongs to no test, so it was refused. Let the test wait for it: "
    "join() the thread, or wait for its future or its queue."
)

# -- who waits for whom

LOCK_WAIT = "{owner}: a statement waited {waited} for a lock and was cancelled."
LOCK_LIMIT = "(Waits of more than {limit:g} s are ended; {owner}.lock_wait sets another limit, 0 none.)"
STOPPED = "(Server process {pid} was stopped, by a signal, and answered nothing; it was ended, and its server with it.)"
WAITED_LOCKS = {
    "transactionid": "a lock on a row that another transaction has changed",
    "tuple": "a lock on a row that another transaction has changed",
    "advisory": "an advisory lock",
    "virtualxid": "a lock on a transaction that must end first",
}
BLOCKER_RUNS = (
    "What to do: the blocking statement is still running. Wait for its thread before this one, or commit earlier there."
)
SAME_THREAD = " Both belong to one thread, so this wait would never have ended."
NEEDS_TABLE_ALONE = " {verb} needs the table for itself: each transaction that has even read it must have ended."
END_SESSION = (
    "end that session's transaction first: session.close(), remove() of a scoped_session, or commit() or rollback()"
)
END_TRANSACTION = "end that transaction first: commit(), rollback() or close() of its connection or session"
END_STRANGER = "end the transaction of that process, or point its engine at the class's database with app_engines"
DEADLOCK = "These connections waited for each other, and PostgreSQL ended the statement of one:"
DEADLOCK_REMEDY = (
    "What to do: let all of them lock rows in the same order (by key, with_for_update() first), or commit in between."
)
