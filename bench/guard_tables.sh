# shellcheck shell=bash
# The part `guard-tables` of bench/run, which reads this file: rows guarded by protect_table against the same rows unguarded, and
# against the best policies that one can write by hand. Nothing is written, so any server will do.

guard_rounds=${GUARD_ROUNDS:-25}

guard_tables() {
    local results=$target/bench/guard_tables.md
    sql postgres -c 'DROP DATABASE IF EXISTS bench_guard WITH (FORCE)' -c 'CREATE DATABASE bench_guard'
    make_noop
    say "loading: guard-tables"
    sql bench_guard -v "noop=$noop" -v "rows=$million" -f "$bench/guard_tables.sql" >"$work/load.log"
    say "measuring: guard-tables"
    sql bench_guard -c "SELECT DISTINCT format('CALL bench.measure(%L, $guard_rounds);', experiment) FROM bench.subjects" >"$work/calls.sql"
    sql bench_guard -f "$work/calls.sql"
    sql bench_guard -v "rounds=$guard_rounds" -v "processors=$(nproc)" -v "load_before=$load_before" -v "load_after=$(load_average)" -v "rows=$million" \
        -f "$bench/report_guard_tables.sql" | tee "$results"
    [ -n "${BENCH_KEEP:-}" ] || sql postgres -c 'DROP DATABASE bench_guard WITH (FORCE)' -c 'DROP ROLE bench_member'
    say "also in $results"
}
