# shellcheck shell=bash
# The part `guard-rows` of bench/run, which reads this file: limits on rows against no limit, and against a trigger that counts
# in a row of its own. The server must be durable, as for meter: a cluster of its own with fsync.
#
# All subjects run in turn, once a round. If afterwards a counter is not the number of rows, the run fails.

rows_seconds=${ROWS_SECONDS:-5}
rows_rounds=${ROWS_ROUNDS:-5}

# In a subshell, so that the parts after it still measure on the server they were given.
guard_rows() { (
    trap guard_rows_finish EXIT
    guard_rows_start
    for experiment in bulk single; do
        say "measuring: guard-rows, $experiment"
        "guard_rows_$experiment"
    done
    guard_rows_report
); }

guard_rows_start() {
    local environment
    rows_bulk=$((million / 10))
    export CLUSTER=guard-rows
    "$root/scripts/cluster" destroy "$PG"
    FSYNC=on SETTINGS='shared_buffers=1GB' "$root/scripts/cluster" start "$PG"
    environment=$("$root/scripts/cluster" env "$PG")
    eval "$environment"
    export PGOPTIONS="$PGOPTIONS -c session_preload_libraries=entitlements"
    sql postgres -c 'CREATE DATABASE bench_rows'
    sql bench_rows -f "$bench/guard_rows.sql" >"$work/load.log"
    : >"$work/rates"
}

guard_rows_finish() { "$root/scripts/cluster" destroy "$PG"; }

# Rows in one statement, a second: those of one account, and of a thousand.
guard_rows_bulk() {
    local accounts
    for accounts in 1 1000; do
        sql bench_rows -c "CALL bench.bulk($rows_bulk, $accounts, $rows_rounds)"
        sql bench_rows -F $'\t' -c "SELECT 'bulk, ' || accounts, subject, round, rate FROM bench.measurements WHERE accounts = $accounts ORDER BY round, subject" >>"$work/rates"
    done
}

# One row in a transaction each, all of one account.
guard_rows_single() {
    local round subject transactions tps
    for ((round = 1; round <= rows_rounds; round++)); do
        for subject in $(shuf -e unlimited limit_rows trigger); do
            sql bench_rows -c "TRUNCATE bench.$subject" -c 'UPDATE bench.counted SET used = 0' -c 'VACUUM FULL bench.counted' -c CHECKPOINT
            pgbench -n -M prepared -c 64 -j "$(nproc)" -T "$rows_seconds" -f <(echo "INSERT INTO bench.$subject (account) VALUES ('1')") \
                bench_rows >"$work/output" 2>"$work/pgbench.log" || fail "pgbench $subject: $(cat "$work/pgbench.log")"
            transactions=$(sed -n 's/^number of transactions actually processed: \([0-9]*\).*/\1/p' "$work/output")
            tps=$(sed -n 's/^tps = \([0-9.]*\).*/\1/p' "$work/output")
            [ "$(sql bench_rows -c "SELECT bench.faults('$subject', $transactions)")" = none ] || fail "$subject: its counter is not $transactions"
            printf 'single\t%s\t%s\t%s\n' "$subject" "$round" "$tps" >>"$work/rates"
        done
    done
}

guard_rows_report() {
    echo "PostgreSQL $(sql bench_rows -c 'SHOW server_version'), fsync on, shared_buffers 1GB; $(nproc) processors; load average $load_before before, $(load_average) after;" \
        "$rows_rounds rounds, $rows_seconds s each; $rows_bulk rows in one statement." >"$work/heading"
    "$bench/report_guard_rows" "$work" | tee "$target/bench/guard_rows.md"
    say "also in $target/bench/guard_rows.md"
}
