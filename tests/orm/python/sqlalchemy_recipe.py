"""SQLAlchemy 2 on psycopg 3: a session acts for one account in each of its transactions; refusals are exceptions.

Where the server is comes from libpq's environment (PGHOST, PGDATABASE …).
"""

import json
import math
from datetime import datetime, timezone

from sqlalchemy import Engine, FetchedValue, Integer, create_engine, event, func, select, text
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from checks import check, finish

POOL_SIZE = 1  # so that the checks meet a connection that was used before; an application has more

# recipe: engine
# prepare_threshold: no named prepared statements, which a pooler in transaction mode may not know.
engine = create_engine("postgresql+psycopg://", pool_size=POOL_SIZE, max_overflow=0, connect_args={"prepare_threshold": None})
# end


# recipe: account
@event.listens_for(Session, "after_begin")
def bind_account(session, transaction, connection):
    if not transaction.nested and "account" in session.info:
        connection.execute(select(func.entitlements.set_account(session.info["account"])))


def acting_for(account):
    """A session each of whose transactions acts for the account."""
    return Session(engine, info={"account": account})
# end


# recipe: exceptions
class Denied(Exception):
    status = 403

    def __init__(self, detail):
        super().__init__(detail["reason"])
        self.detail = detail
        self.headers = {}


class LimitExceeded(Denied):
    status = 402


class RateLimited(Denied):
    status = 429

    def __init__(self, detail):
        super().__init__(detail)
        again = datetime.fromisoformat(detail["resets_at"].replace("Z", "+00:00")) - datetime.now(timezone.utc)
        self.headers = {"Retry-After": str(max(1, math.ceil(again.total_seconds())))}


@event.listens_for(Engine, "handle_error")
def name_the_denial(context):
    """Raises a denial under its own name, wherever in the application it happens."""
    sqlstate = getattr(context.original_exception, "sqlstate", None)
    if sqlstate not in ("NE001", "NE002"):
        return
    detail = json.loads(context.original_exception.diag.message_detail)
    if detail["reason"] == "rate_limited":
        raise RateLimited(detail)
    raise (LimitExceeded if sqlstate == "NE002" else Denied)(detail)
# end


class Base(DeclarativeBase):
    pass


class Report(Base):
    __tablename__ = "reports"
    id: Mapped[int] = mapped_column(primary_key=True)
    title: Mapped[str]


class Export(Base):
    __tablename__ = "exports"
    id: Mapped[int] = mapped_column(primary_key=True)
    account_id: Mapped[str] = mapped_column(server_default=FetchedValue())  # the database fills in the current account
    file: Mapped[str]
    request: Mapped[str]


def reports(account):
    with acting_for(account) as session:
        return session.scalars(select(Report.title).order_by(Report.id)).all()


# recipe: work
def export(account, file, request):
    """Writes the row and takes the unit, once for a request however often it comes. Returns how many are left."""
    with acting_for(account) as session, session.begin():
        session.execute(insert(Export).values(file=file, request=request).on_conflict_do_nothing())
        return session.scalar(
            text("SELECT remaining FROM entitlements.consume(entitlements.current_account(), 'exports', 1, :request)"),
            {"request": request},
        )
# end


def search(account):
    with acting_for(account) as session, session.begin():
        session.execute(text("SELECT FROM entitlements.consume('searches')"))


def respond(work, *arguments):
    try:
        work(*arguments)
    except Denied as denied:
        return denied.status, denied.headers
    return 200, {}


def state(account):
    """How many exports there are, and how many units are used."""
    with acting_for(account) as session:
        rows = session.scalar(select(func.count()).select_from(Export))
        return rows, session.scalar(text("SELECT used FROM entitlements.check_access('exports')").columns(used=Integer))


def main():
    check("an account sees its own rows and no others", reports("acme") == ["July", "August"])
    check("an account without the feature sees no rows", reports("hobby") == [])
    check("without an account there are no rows", reports(None) == [])

    check("a row and the unit it takes are committed together", export("acme", "a.csv", "r1") == 2 and state("acme") == (1, 1))

    try:
        with acting_for("acme") as session, session.begin():
            session.add(Export(file="b.csv", request="r2"))
            session.flush()
            session.execute(text("SELECT FROM entitlements.consume('exports')"))
            raise OSError("the disk is full")
    except OSError:
        check("a rollback gives the unit back", state("acme") == (1, 1))

    with acting_for("acme") as session, session.begin():
        with session.begin_nested() as savepoint:
            session.execute(text("SELECT FROM entitlements.consume('exports')"))
            savepoint.rollback()
        still = session.scalar(select(func.entitlements.current_account()))
    check("a rollback to a savepoint gives its unit back", still == "acme" and state("acme") == (1, 1))

    check("the same request again takes nothing", export("acme", "a.csv", "r1") == 2 and state("acme") == (1, 1))

    export("acme", "b.csv", "r2")
    export("acme", "c.csv", "r3")
    status, _ = respond(export, "acme", "d.csv", "r4")
    check("used up: 402, and the row is not there", status == 402 and state("acme") == (3, 3))
    check("not entitled: 403", respond(export, "hobby", "a.csv", "r1")[0] == 403)
    first, second = respond(search, "globex"), respond(search, "globex")
    check(
        "too fast: 429 with Retry-After",
        first[0] == 200 and second[0] == 429 and 1 <= int(second[1]["Retry-After"]) <= 60,
    )

    with Session(engine) as session:
        account = session.scalar(select(func.entitlements.current_account()))
        check("the next transaction of the connection has no account", account is None)

    # One session, one account, more than one transaction: each is bound.
    with acting_for("acme") as session:
        before = session.scalar(select(func.entitlements.current_account()))
        session.commit()
        after = session.scalar(select(func.entitlements.current_account()))
        check("each transaction of a session is bound", before == after == "acme")


main()
finish()
