//! All pairs of operations on one pool: the first in an open transaction when the second begins. Whether the second waits is
//! written down below; how both end is what doing one after the other gives.

use crate::stage::{Stage, allow, ask, run, slots};
use entitlements_client_tests::row;
use postgres::Client;
use std::fmt::Write;

/// Of an account's feature `calls`: what the plan allows, a credit that can be voided, one that may be granted, a reservation.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct State {
    limit: i64,
    used: i64,
    past: i64,
    credit: Credit,
    granted: Credit,
    reservation: Reservation,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
struct Credit {
    amount: i64,
    used: i64,
    voided: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Reservation {
    Held { in_past: bool },
    Committed,
    Canceled,
}

impl Credit {
    fn left(self) -> i64 {
        if self.voided { 0 } else { self.amount - self.used }
    }

    /// Takes what there is of `n` and leaves the rest of it.
    fn take(&mut self, n: &mut i64) {
        let part = self.left().min(*n);
        self.used += part;
        *n -= part;
    }

    fn give_back(&mut self, n: &mut i64) {
        let part = if self.voided { 0 } else { self.used.min(*n) };
        self.used -= part;
        *n -= part;
    }
}

type Effect = Result<(), &'static str>;

impl State {
    fn left(&self) -> i64 {
        (self.limit - self.used).max(0)
    }

    fn take(&mut self, n: i64) -> Effect {
        if self.left() + self.credit.left() + self.granted.left() < n { Err("NE002") } else { self.record(n) }
    }

    fn record(&mut self, n: i64) -> Effect {
        let from_plan = self.left().min(n);
        let mut rest = n - from_plan;
        self.credit.take(&mut rest);
        self.granted.take(&mut rest);
        self.used += from_plan + rest;
        Ok(())
    }

    fn give_back(&mut self, n: i64) -> Effect {
        let before = *self;
        let mut rest = n;
        // What is reserved is the reservation's to give back.
        let reserved = if self.reservation == (Reservation::Held { in_past: false }) { RESERVED } else { 0 };
        let in_use = (self.used - reserved).max(0);
        let beyond = (self.used - self.limit).clamp(0, rest.min(in_use));
        self.used -= beyond;
        rest -= beyond;
        self.granted.give_back(&mut rest);
        self.credit.give_back(&mut rest);
        if in_use - beyond < rest {
            *self = before;
            return Err("NE007");
        }
        self.used -= rest;
        Ok(())
    }

    fn correct(&mut self, used: i64) -> Effect {
        self.used = 0;
        for credit in [&mut self.credit, &mut self.granted] {
            credit.used = if credit.voided { credit.used } else { 0 };
        }
        self.record(used)
    }

    fn turn(&mut self) -> Effect {
        self.past += self.used;
        self.used = 0;
        if let Reservation::Held { in_past } = &mut self.reservation {
            *in_past = true;
        }
        Ok(())
    }

    fn commit(&mut self) -> Effect {
        match self.reservation {
            Reservation::Held { .. } => self.reservation = Reservation::Committed,
            Reservation::Committed | Reservation::Canceled => return Err("NE009"),
        }
        Ok(())
    }

    fn cancel(&mut self) -> Effect {
        if let Reservation::Held { in_past } = self.reservation {
            *(if in_past { &mut self.past } else { &mut self.used }) -= RESERVED;
            self.reservation = Reservation::Canceled;
        }
        Ok(())
    }
}

struct Operation {
    name: &'static str,
    /// With `{a}` for the account.
    sql: &'static str,
    effect: fn(&mut State) -> Effect,
}

const fn operation(name: &'static str, sql: &'static str, effect: fn(&mut State) -> Effect) -> Operation {
    Operation { name, sql, effect }
}

const TURN: &str = "UPDATE entitlements.counters SET window_end = statement_timestamp() - interval '1 second'
     WHERE account_id = (SELECT id FROM entitlements.accounts WHERE key = '{a}') AND credit_id = 0 AND window_end = 'infinity'";
const COMMIT: &str =
    "SELECT entitlements.commit_reservation((SELECT id FROM entitlements.reservations WHERE metadata = '\"{a}\"'))";
const CANCEL: &str =
    "SELECT entitlements.cancel_reservation((SELECT id FROM entitlements.reservations WHERE metadata = '\"{a}\"'))";
/// Time goes by, and somebody sees to it. Who comes while another one is at it does nothing, and a transaction that ends gives its
/// rows back an instant before its advisory lock: so that is waited for.
const EXPIRE: &str = "UPDATE entitlements.reservations SET expires_at = created_at + interval '1 microsecond' WHERE state = 'held' AND metadata = '\"{a}\"';
     UPDATE entitlements.reservation_parts AS part SET expires_at = held.expires_at
       FROM entitlements.reservations AS held WHERE held.id = part.reservation_id AND held.metadata = '\"{a}\"';
     SELECT pg_advisory_xact_lock(7881696745994938734);
     SELECT entitlements.maintain()";
const VOID: &str = "SELECT entitlements.void_credit((SELECT id FROM entitlements.credits WHERE source_ref = '{a}'), 'test')";
const RECORD: &str = "SELECT entitlements.record_usage('[{\"account\": \"{a}\", \"feature\": \"calls\", \"n\": 3}]')";

#[rustfmt::skip]
const OPERATIONS: [Operation; 15] = [
    operation("consume", "SELECT entitlements.consume('{a}', 'calls', 4)", |state| state.take(4)),
    operation("consume all", "SELECT entitlements.consume('{a}', 'calls', 6)", |state| state.take(6)),
    operation("release", "SELECT entitlements.release('{a}', 'calls', 4)", |state| state.give_back(4)),
    operation("reserve", "SELECT entitlements.reserve('{a}', 'calls', 3, '1 hour')", |state| state.take(3)),
    operation("commit", COMMIT, State::commit),
    operation("cancel", CANCEL, State::cancel),
    operation("expire", EXPIRE, State::cancel),
    operation("record_usage", RECORD, |state| state.record(3)),
    operation("set_usage", "SELECT entitlements.set_usage('{a}', 'calls', 5, 'test')", |state| state.correct(5)),
    operation("lower", "SELECT entitlements.set_override('{a}', 'calls', 'set', '8', 'test')", |state| { state.limit = 8; Ok(()) }),
    operation("raise", "SELECT entitlements.set_override('{a}', 'calls', 'set', '40', 'test')", |state| { state.limit = 40; Ok(()) }),
    operation("grant", "SELECT entitlements.grant_credit('{a}', 'calls', 5, 'test', priority => 300)", |state| { state.granted.amount += 5; Ok(()) }),
    operation("void", VOID, |state| { state.credit.voided = true; Ok(()) }),
    operation("ask", "SELECT entitlements.check_access('{a}', 'calls')", |_| Ok(())),
    operation("window turn", TURN, State::turn),
];

/// Units of the reservation.
const RESERVED: i64 = 2;

/// 6 of 10 are used, of which 2 are reserved, and a credit has 2 more.
const BEFORE: State = State {
    limit: 10,
    used: 6,
    past: 0,
    credit: Credit { amount: 2, used: 0, voided: false },
    granted: Credit { amount: 0, used: 0, voided: false },
    reservation: Reservation::Held { in_past: false },
};

/// What is stored.
fn stored(client: &mut Client, account: &str) -> State {
    let found = row(
        client,
        "WITH counted AS (
            SELECT c.credit_id, c.window_end = 'infinity' AS present, credit.source_ref IS NULL AS is_granted,
                   c.used + (SELECT coalesce(sum(s.used), 0) FROM entitlements.counter_slots s WHERE s.counter_id = c.id) AS total
              FROM entitlements.counters c JOIN entitlements.accounts a ON a.id = c.account_id LEFT JOIN entitlements.credits credit ON credit.id = c.credit_id
             WHERE a.key = $1)
         SELECT entitlements.allowance(a.key, 'calls')::int8 AS allowance,
                (SELECT coalesce(sum(total) FILTER (WHERE credit_id = 0 AND present), 0)::int8 FROM counted) AS used,
                (SELECT coalesce(sum(total) FILTER (WHERE credit_id = 0 AND NOT present), 0)::int8 FROM counted) AS past,
                (SELECT coalesce(sum(total) FILTER (WHERE credit_id <> 0 AND NOT is_granted), 0)::int8 FROM counted) AS credit_used,
                (SELECT coalesce(sum(total) FILTER (WHERE credit_id <> 0 AND is_granted), 0)::int8 FROM counted) AS granted_used,
                (SELECT coalesce(sum(amount), 0)::int8 FROM entitlements.credits WHERE account_id = a.id AND source_ref IS NULL) AS granted,
                (SELECT voided_at IS NOT NULL FROM entitlements.credits WHERE source_ref = a.key) AS voided,
                (SELECT state FROM entitlements.reservations WHERE metadata = to_jsonb(a.key)) AS reservation,
                (SELECT c.window_end <> 'infinity' FROM entitlements.reservation_parts p JOIN entitlements.counters c ON c.id = p.counter_id
                                                     JOIN entitlements.reservations r ON r.id = p.reservation_id
                  WHERE r.metadata = to_jsonb(a.key)) AS in_past
           FROM entitlements.accounts a WHERE a.key = $1",
        &[&account],
    );
    State {
        limit: found.get("allowance"),
        used: found.get("used"),
        past: found.get("past"),
        credit: Credit { amount: 2, used: found.get("credit_used"), voided: found.get("voided") },
        granted: Credit { amount: found.get("granted"), used: found.get("granted_used"), voided: false },
        reservation: match found.get("reservation") {
            "held" => Reservation::Held { in_past: found.get("in_past") },
            "committed" => Reservation::Committed,
            _ => Reservation::Canceled,
        },
    }
}

type End = Result<(), String>;

/// Both results and the state afterwards, one after the other.
fn in_turn(first: &Operation, second: &Operation) -> (End, End, State) {
    let mut state = BEFORE;
    let one = (first.effect)(&mut state).map_err(str::to_owned);
    let other = (second.effect)(&mut state).map_err(str::to_owned);
    (one, other, state)
}

/// Does `first` in a transaction, starts `second`, ends the transaction, and compares. True if the second had to wait.
fn check(
    stage: &Stage,
    [client, opening]: [&mut Client; 2],
    account: &str,
    first: &Operation,
    second: &Operation,
    commits: bool,
) -> bool {
    let what =
        format!("{} and {}, the first {}", first.name, second.name, if commits { "committed" } else { "rolled back" });
    run(opening, "BEGIN");
    let of_account = |operation: &Operation| operation.sql.replace("{a}", account);
    let code = |error: postgres::Error| error.as_db_error().expect("the server answers").code().code().to_owned();
    let one = opening.simple_query(&of_account(first)).map(|_| ()).map_err(code);
    let started = stage.start(&of_account(second));
    let waits = started.waits(client);
    run(opening, if commits && one.is_ok() { "COMMIT" } else { "ROLLBACK" });
    let other = started.end().1.map(|_| ());
    let found = stored(client, account);
    if commits && one.is_ok() {
        let forward = in_turn(first, second);
        let (second_first, first_last, state) = in_turn(second, first);
        let backward = (first_last, second_first, state);
        let result = (one, other, found);
        assert!(result == forward || !waits && result == backward, "{what}: {result:?}, not {forward:?} or {backward:?}");
    } else {
        let mut alone = BEFORE;
        let result = (second.effect)(&mut alone).map_err(str::to_owned);
        assert_eq!((other, found), (result, alone), "{what}");
    }
    waits
}

/// A table of which pairs wait, in the order of OPERATIONS.
fn all_pairs(spread: bool, commits: bool) -> String {
    let stage = Stage::new();
    let (mut client, mut opening) = stage.two();
    // The ledger has its partitions, so that nobody waits for those.
    run(&mut client, "SELECT entitlements.maintain()");
    let mut table = String::new();
    for (line, first) in OPERATIONS.iter().enumerate() {
        for (column, second) in OPERATIONS.iter().enumerate() {
            let account = format!("a{line}_{column}");
            ask(&mut client, &format!("subscribe('{account}', 'team')"));
            if spread {
                allow(&mut client, &account, "calls", "100");
                stage.spread(&account, "calls");
                allow(&mut client, &account, "calls", "10");
            }
            ask(
                &mut client,
                &format!("grant_credit('{account}', 'calls', 2, 'test', priority => 200, source_ref => '{account}')"),
            );
            ask(&mut client, &format!("consume('{account}', 'calls', 4)"));
            ask(&mut client, &format!("reserve('{account}', 'calls', {RESERVED}, '1 hour', '\"{account}\"')"));
            assert_eq!(slots(&mut client, &account, "calls") > 1, spread);
            let waits = check(&stage, [&mut client, &mut opening], &account, first, second, commits);
            write!(table, "{}", if waits { 'x' } else { '.' }).expect("text can be written");
        }
        writeln!(table, " {}", first.name).expect("text can be written");
    }
    table
}

#[test]
fn pairs_on_a_pool_of_one_row_where_the_first_commits() {
    assert_eq!(all_pairs(false, true), WAITS);
}

#[test]
fn pairs_on_a_pool_of_one_row_where_the_first_is_rolled_back() {
    assert_eq!(all_pairs(false, false), WAITS);
}

/// Which slot a connection prefers is chance, and so is whether some of these wait.
#[test]
fn pairs_on_a_spread_pool() {
    all_pairs(true, true);
}

/// A line for the first operation, a column for the second: what takes from or gives back to the pool's one row waits for
/// whoever has changed it, and so do operators for each other. Nobody waits to ask.
const WAITS: &str = "\
xxxx.xxxx.....x consume
xxxx.xxxx...x.x consume all
xxxx.xxxx.....x release
xxxx.xxxx.....x reserve
....xxx........ commit
xxxxxxxxx.....x cancel
xxxxxxxxx.....x expire
xxxx.xxxx.....x record_usage
xxxx.xxxxxxxx.x set_usage
........xxxxx.. lower
........xxxxx.. raise
........xxxxx.. grant
.x......xxxxx.. void
............... ask
xxxx.xxxx.....x window turn
";
