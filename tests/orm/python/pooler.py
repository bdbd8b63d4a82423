"""Many clients over a few server connections, through a pooler in transaction mode: no client meets another's account.

Every client is one account and does what clients do: commits, rolls back, fails, goes to a savepoint and back, takes on another
account for a moment, vanishes in the middle of a transaction or of a statement. Whatever happened before on the server
connection it is given, it has no account until it names one, then its own, and at the end its rows and units are those of
the transactions that it was told are committed.
"""

import random
import socket
import threading
from collections import Counter, defaultdict
from contextlib import contextmanager

import psycopg

from checks import check, finish

CLIENTS = 40
TRANSACTIONS = 25

strays = []  # what a client saw that it should not have
done = Counter()  # how often each thing was done
served = defaultdict(set)  # server process: the clients it served


class Back(Exception):
    """Leads out of a transaction that is to be rolled back."""


class Vanished(Exception):
    """Leads out of the transaction of a client whose connection is cut."""


class Client:
    def __init__(self, number, accounts):
        self.account = f"tenant-{number}"
        self.others = [account for account in accounts if account != self.account]
        self.random = random.Random(number)
        self.committed = 0
        self.connect()

    def connect(self):
        self.connection = psycopg.connect(autocommit=True, prepare_threshold=None)

    def ask(self, query, *arguments):
        row = self.connection.execute(query, arguments).fetchone()
        return row[0] if row else None

    def see(self, expected, where):
        """The current account is as expected, so are the rows."""
        account = self.ask("SELECT entitlements.current_account()")
        rows = self.ask("SELECT array_agg(DISTINCT account_id) FROM reports")
        if account != expected or rows != (expected and [expected]):
            strays.append(f"{self.account} {where}: is {account}, sees rows of {rows}")
        served[self.ask("SELECT pg_backend_pid()")].add(self.account)

    @contextmanager
    def acting(self):
        with self.connection.transaction():
            self.see(None, "before naming its account")
            self.ask("SELECT entitlements.set_account(%s)", self.account)
            self.see(self.account, "having named its account")
            yield

    def export(self):
        self.connection.execute("INSERT INTO exports (file, request) VALUES ('a.csv', gen_random_uuid()::text)")
        self.connection.execute("SELECT FROM entitlements.consume('exports')")

    def commit(self):
        with self.acting():
            self.export()
        self.committed += 1

    def roll_back(self):
        try:
            with self.acting():
                self.export()
                raise Back
        except Back:
            pass

    def fail(self):
        try:
            with self.acting():
                self.export()
                self.connection.execute("SELECT 1 / 0")
        except psycopg.errors.DivisionByZero:
            pass

    def be_denied(self):
        try:
            with self.acting():
                self.export()
                self.connection.execute("SELECT FROM entitlements.consume('searches', 2)")
        except psycopg.DatabaseError as error:
            if error.sqlstate != "NE002":
                raise

    def go_back_to_savepoint(self):
        with self.acting():
            with self.connection.transaction(force_rollback=True):
                other = self.random.choice(self.others)
                self.ask("SELECT entitlements.set_account(%s)", other)
                self.see(other, "with another account in a savepoint")
                self.export()
            self.see(self.account, "back from a savepoint")
            self.export()
        self.committed += 1

    def become_another(self):
        """Another account stays until the end of the transaction, and no longer."""
        with self.connection.transaction():
            with self.connection.transaction():
                other = self.random.choice(self.others)
                self.ask("SELECT entitlements.set_account(%s)", other)
            self.see(other, "with another account, its savepoint released")

    def name_nobody(self):
        with self.connection.transaction():
            self.see(None, "without an account")

    def name_outside_transaction(self):
        """The transaction of the statement is all there is."""
        self.ask("SELECT entitlements.set_account(%s)", self.account)
        self.see(None, "after a statement by itself")

    def vanish(self, query=None):
        try:
            with self.acting():
                self.export()
                if query:
                    self.connection.pgconn.send_query(query)
                with socket.socket(fileno=self.connection.pgconn.socket) as line:
                    line.shutdown(socket.SHUT_RDWR)
                    line.detach()
                raise Vanished
        except (Vanished, psycopg.OperationalError):
            self.connection.close()
            self.connect()

    def vanish_in_statement(self):
        self.vanish(b"SELECT entitlements.set_account('tenant-1'), pg_sleep(0.02)")

    def run(self):
        actions = [
            self.commit, self.commit, self.roll_back, self.fail, self.be_denied, self.go_back_to_savepoint,
            self.become_another, self.name_nobody, self.name_outside_transaction, self.vanish, self.vanish_in_statement,
        ]
        for _ in range(TRANSACTIONS):
            action = self.random.choice(actions)
            action()
            done[action.__name__] += 1

    def settled(self):
        """Whether its rows and its units are those of its committed transactions."""
        with self.acting():
            rows, used = self.connection.execute(
                "SELECT (SELECT count(*) FROM exports), used FROM entitlements.check_access('exports')"
            ).fetchone()
        return rows == used == self.committed


class Leaky(Client):
    """Keeps its account where many applications do, in a setting of the session."""

    def run(self):
        for _ in range(TRANSACTIONS):
            account = self.ask("SELECT nullif(current_setting('recipes.account', true), '')")
            if account not in (None, self.account):
                strays.append(f"{self.account} is {account}")
            self.ask("SELECT set_config('recipes.account', %s, false)", self.account)


def run(kind):
    """Runs all clients at once. Returns them, and the faults that ended any."""
    accounts = [f"tenant-{number}" for number in range(1, CLIENTS + 1)]
    clients = [kind(number, accounts) for number in range(1, CLIENTS + 1)]
    faults = []

    def live(client):
        try:
            client.run()
        except Exception as fault:  # reported by whoever started the thread
            faults.append(f"{client.account}: {fault!r}")

    threads = [threading.Thread(target=live, args=[client]) for client in clients]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return clients, faults


def main():
    clients, faults = run(Client)
    for line in (faults + strays)[:20]:
        print(f"# {line}")
    print(f"# {sum(done.values())} transactions over {len(served)} server processes: {dict(done)}")
    check("every client did its work", not faults and len(done) == 10)
    check("a server process serves many clients", max(map(len, served.values())) >= CLIENTS / 4)
    check("no client meets another's account or rows", not strays)
    check("rows and units are those of the committed transactions", all([client.settled() for client in clients]))
    check("the rows that were to be there are", sum(client.committed for client in clients) > CLIENTS)

    strays.clear()
    run(Leaky)
    check("an account kept in a session's setting is met by others", len(strays) > 0)


main()
finish()
