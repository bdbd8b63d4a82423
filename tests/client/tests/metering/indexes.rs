//! Indexes rebuilt at any time: what is written with ON CONFLICT meanwhile neither fails nor is written twice.
//!
//! METERING_SECONDS sets how long it goes on.

use crate::stage::{Stage, allow, ask, assert_sound, run, used};
use entitlements_client_tests::one;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

const CONNECTIONS: usize = 6;
/// Written with ON CONFLICT by whoever uses the product, not only by who administers it.
const TABLES: [&str; 6] = ["idempotency_keys", "seats", "credits", "accounts", "audit_chains", "counters"];

#[test]
fn nothing_fails_and_nothing_is_done_twice_while_indexes_are_rebuilt() {
    let stage = Stage::new();
    allow(&mut stage.connect(), "acme", "calls", "1000000");
    let (over, rebuilt) = (AtomicBool::new(false), AtomicUsize::new(0));
    let steps: Vec<usize> = thread::scope(|scope| {
        // All come to the same keys at about the same time.
        let clients: Vec<_> = (0..CONNECTIONS)
            .map(|_| {
                scope.spawn(|| {
                    let mut client = stage.connect();
                    let mut steps = 0;
                    while !over.load(Ordering::Relaxed) {
                        steps += 1;
                        for call in [
                            format!("consume('acme', 'calls', 1, idempotency_key => '{steps}')"),
                            format!("assign_seat('acme', 'seats', 'holder {}')", steps % 3),
                            format!("release_seat('acme', 'seats', 'holder {}')", steps % 3),
                            format!("grant_credit('acme', 'mails', 1, 'test', source => 'shop', source_ref => '{steps}')"),
                            format!("define_account('n{steps}', metadata => '{{}}')"),
                            format!("grant_credit('n{steps}', 'watched', 1000, 'test', source => 'gift', source_ref => '{steps}')"),
                            format!("consume('n{steps}', 'watched', 100)"),
                        ] {
                            ask(&mut client, &call);
                        }
                    }
                    steps
                })
            })
            .collect();
        for tables in TABLES.chunks(2) {
            let (stage, over, rebuilt) = (&stage, &over, &rebuilt);
            scope.spawn(move || {
                let mut client = stage.connect();
                for table in tables.iter().cycle().take_while(|_| !over.load(Ordering::Relaxed)) {
                    run(&mut client, &format!("REINDEX TABLE CONCURRENTLY entitlements.{table}"));
                    rebuilt.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        let end = Instant::now() + duration();
        while Instant::now() < end || rebuilt.load(Ordering::Relaxed) < 30 {
            thread::sleep(Duration::from_millis(50));
        }
        over.store(true, Ordering::Relaxed);
        clients.into_iter().map(|client| client.join().expect("no client fails")).collect()
    });
    let mut client = stage.connect();
    let most = *steps.iter().max().expect("there are clients");
    eprintln!("{steps:?} steps, {} times rebuilt", rebuilt.load(Ordering::Relaxed));
    assert_eq!(used(&mut client, "acme", "calls"), most.to_string());
    let credits: i64 = one(&mut client, "SELECT count(*) FROM entitlements.credits WHERE source = 'shop'", &[]);
    let accounts: i64 = one(&mut client, "SELECT count(*) FROM entitlements.accounts WHERE key LIKE 'n%'", &[]);
    assert_eq!((credits, accounts), (most as i64, most as i64));
    assert_sound(&mut client, true);
}

fn duration() -> Duration {
    let set = std::env::var("METERING_SECONDS").ok();
    Duration::from_secs_f64(set.map_or(4.0, |text| text.parse().expect("METERING_SECONDS is a number")))
}
