"""psycopg 3, with a pool: rows of one account, units for its work, refusals as HTTP answers.

Where the server is comes from libpq's environment (PGHOST, PGDATABASE …).
"""

import json
import math
from contextlib import contextmanager
from datetime import datetime, timezone

import psycopg
from psycopg_pool import ConnectionPool

from checks import check, finish

POOL_SIZE = 1  # so that the checks meet a connection that was used before; an application has more

# recipe: pool
# prepare_threshold: no named prepared statements, which a pooler in transaction mode may not know.
pool = ConnectionPool(kwargs={"autocommit": True, "prepare_threshold": None}, min_size=1, max_size=POOL_SIZE, open=True)
# end


# recipe: account
@contextmanager
def acting_for(account):
    """A transaction for the account: it ends with the transaction, whatever ends that."""
    with pool.connection() as connection, connection.transaction():
        connection.execute("SELECT entitlements.set_account(%s)", [account])
        yield connection
# end


def reports(account):
    with acting_for(account) as connection:
        return [title for (title,) in connection.execute("SELECT title FROM reports ORDER BY id")]


# recipe: work
def export(account, file, request):
    """Writes the row and takes the unit, once for a request however often it comes. Returns how many are left."""
    with acting_for(account) as connection:
        connection.execute("INSERT INTO exports (file, request) VALUES (%s, %s) ON CONFLICT DO NOTHING", [file, request])
        return connection.execute(
            "SELECT remaining FROM entitlements.consume(entitlements.current_account(), 'exports', 1, %s)", [request]
        ).fetchone()[0]
# end


def search(account):
    with acting_for(account) as connection:
        connection.execute("SELECT FROM entitlements.consume('searches')")


# recipe: refusal
STATUS = {"NE001": 403, "NE002": 402, "NE012": 401}


def answer(error):
    """The HTTP status and headers that say what the database said; any other error is raised again."""
    if error.sqlstate not in STATUS:
        raise error
    detail = json.loads(error.diag.message_detail)
    if detail["reason"] != "rate_limited":
        return STATUS[error.sqlstate], {}
    again = datetime.fromisoformat(detail["resets_at"].replace("Z", "+00:00")) - datetime.now(timezone.utc)
    return 429, {"Retry-After": str(max(1, math.ceil(again.total_seconds())))}


def respond(work, *arguments):
    try:
        return 200, {}, work(*arguments)
    except psycopg.Error as error:
        return *answer(error), None
# end


def state(account):
    """How many exports there are, and how many units are used."""
    with acting_for(account) as connection:
        return connection.execute(
            "SELECT (SELECT count(*) FROM exports), used::int FROM entitlements.check_access('exports')"
        ).fetchone()


def main():
    check("an account sees its own rows and no others", reports("acme") == ["July", "August"])
    check("an account without the feature sees no rows", reports("hobby") == [])
    check("without an account there are no rows", reports(None) == [])

    check("a row and the unit it takes are committed together", export("acme", "a.csv", "r1") == 2 and state("acme") == (1, 1))

    try:
        with acting_for("acme") as connection:
            connection.execute("INSERT INTO exports (file, request) VALUES ('b.csv', 'r2')")
            connection.execute("SELECT FROM entitlements.consume('exports')")
            raise OSError("the disk is full")
    except OSError:
        check("a rollback gives the unit back", state("acme") == (1, 1))

    with acting_for("acme") as connection:
        with connection.transaction(force_rollback=True):
            connection.execute("SELECT FROM entitlements.consume('exports')")
    check("a rollback to a savepoint gives its unit back", state("acme") == (1, 1))

    check("the same request again takes nothing", export("acme", "a.csv", "r1") == 2 and state("acme") == (1, 1))

    export("acme", "b.csv", "r2")
    export("acme", "c.csv", "r3")
    status, _, _ = respond(export, "acme", "d.csv", "r4")
    check("used up: 402, and the row is not there", status == 402 and state("acme") == (3, 3))
    check("not entitled: 403", respond(export, "hobby", "a.csv", "r1")[0] == 403)
    first, second = respond(search, "globex"), respond(search, "globex")
    check(
        "too fast: 429 with Retry-After",
        first[0] == 200 and second[0] == 429 and 1 <= int(second[1]["Retry-After"]) <= 60,
    )

    with pool.connection() as connection, connection.transaction():
        account = connection.execute("SELECT entitlements.current_account()").fetchone()[0]
        check("the next transaction of the connection has no account", account is None)
    pool.close()


main()
finish()
