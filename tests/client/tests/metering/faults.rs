//! The server dies under load: what was acknowledged is stored, and what was not is not, in crash recovery as on a standby
//! that takes over. Of transactions whose COMMIT was on its way, the rows tell.
//!
//! METERING_SECONDS sets how long the load runs.

use crate::stage::{Stage, ask, assert_sound, run, say};
use crate::traffic::Traffic;
use entitlements_client_tests::cluster::Cluster;
use entitlements_client_tests::{Database, one};
use std::thread;
use std::time::{Duration, Instant};

fn seconds(default: f64) -> Duration {
    let set = std::env::var("METERING_SECONDS").ok();
    Duration::from_secs_f64(set.map_or(default, |text| text.parse().expect("METERING_SECONDS is a number")))
}

#[test]
fn what_was_acknowledged_outlives_crashes() {
    let cluster = Cluster::new("crash");
    let stage = Stage::in_database(Database::on(cluster.addresses().0));
    // As with a slow disk many are about to be committed at any time.
    run(&mut stage.connect(), "ALTER SYSTEM SET commit_delay = 20000");
    run(&mut stage.connect(), "SELECT pg_reload_conf()");
    let traffic = Traffic::new(&stage.database, 20, Duration::MAX, false);
    let end = Instant::now() + seconds(5.0);
    let balance = thread::scope(|scope| {
        let load = scope.spawn(|| traffic.run(64));
        let mut crashes = 0;
        while crashes < 2 || Instant::now() < end {
            thread::sleep(Duration::from_millis(1500));
            cluster.script("crash");
            cluster.script("start");
            crashes += 1;
        }
        traffic.stop();
        load.join().expect("the load runs")
    });
    let mut client = stage.connect();
    balance.assert_stored(&mut client);
    assert!(traffic.samples().iter().all(|sample| sample.used <= sample.most), "{:?}", traffic.samples());
    assert_sound(&mut client, true);
}

#[test]
fn a_synchronous_standby_that_takes_over_has_what_was_acknowledged() {
    let cluster = Cluster::new("failover");
    let mut stage = Stage::in_database(Database::on(cluster.addresses().0));
    cluster.script("standby");
    let mut client = stage.connect();
    run(&mut client, "ALTER SYSTEM SET synchronous_standby_names = '*'");
    run(&mut client, "SELECT pg_reload_conf()");
    let until = Instant::now() + Duration::from_secs(20);
    while !one::<bool>(&mut client, "SELECT count(*) = 1 FROM pg_stat_replication WHERE sync_state = 'sync'", &[]) {
        assert!(Instant::now() < until, "the standby is a synchronous one");
        thread::sleep(Duration::from_millis(20));
    }
    let standby = cluster.addresses().1.expect("the standby runs");
    let duration = seconds(4.0);
    let traffic = Traffic::new(&stage.database, 20, duration + Duration::from_secs(1), true);
    let balance = thread::scope(|scope| {
        let load = scope.spawn(|| traffic.run(64));
        thread::sleep(duration);
        cluster.script("crash");
        load.join().expect("the load runs")
    });
    stage.database.move_to(standby);
    let mut client = stage.connect();
    let promoted: bool = one(&mut client, "SELECT pg_promote()", &[]);
    assert!(promoted);
    balance.assert_stored(&mut client);
    assert_sound(&mut client, false);
    ask(&mut client, "subscribe('new', 'team')");
    assert_eq!(say(&mut client, "consume('new', 'calls', 10)"), "granted 10 used 10 of 10 left 0");
}
