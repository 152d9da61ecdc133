//! What waits and what is dead: exact where it is little, a marked estimate where it is much, and never read through.

#[pgrx::pg_schema]
mod tests {
    use crate::backlog::stretches;
    use crate::cursor::Range;
    use crate::tests::stage::{self, INSERT, activate, draft, run, text, texts};
    use pgrx::prelude::*;

    /// What tests before this one rolled back is still in the indexes, unless these are new.
    fn set() {
        stage::set();
        run("truncate lago_push.message, lago_push.retry, lago_push.dead_letter");
    }

    /// Messages of the syncs in turn, as capture would have written them, one after the other.
    fn wait(from: i64, to: i64, sync: &str, seconds_ago: &str) {
        run(&format!(
            "insert into lago_push.message (id, enqueued_at, sync_id, entered, operation, payload)
             select n, clock_timestamp() - ({seconds_ago}) * interval '1 s', s.id, 1, 'i', repeat('x', 100)
               from generate_series({from}::bigint, {to}) n
               join lago_push.sync s on s.name = {sync}
              order by n"
        ));
    }

    /// Dead letters of a sync.
    fn die(from: i64, to: i64, sync: &str) {
        run(&format!(
            "insert into lago_push.dead_letter (id, enqueued_at, died_at, sync_id, attempts, operation, sync_name, reason, entered)
             select n, now(), now(), s.id, 1, 'i', s.name, 'no', 1
               from generate_series({from}::bigint, {to}) n
               join lago_push.sync s on s.name = {sync}
              order by n"
        ));
    }

    fn number(query: &str) -> f64 {
        text(&format!("select ({query})::text")).parse().expect("a number")
    }

    fn status(column: &str, sync: &str) -> f64 {
        number(&format!("select {column} from lago_push.status where sync = '{sync}'"))
    }

    /// Within so many parts in a hundred.
    #[track_caller]
    fn assert_near(found: f64, expected: f64, percent: f64) {
        assert!((found - expected).abs() <= expected * percent / 100.0, "{found}, not {expected}");
    }

    /// The pages a query touches.
    fn pages(query: &str) -> f64 {
        let plan = texts_of_plan(&format!("explain (analyze, buffers, format json, timing off) {query}"));
        let plan: serde_json::Value = serde_json::from_str(&plan).expect("a plan");
        let of = |key: &str| plan[0]["Plan"][key].as_f64().expect("a number");
        of("Shared Hit Blocks") + of("Shared Read Blocks")
    }

    fn texts_of_plan(explain: &str) -> String {
        Spi::connect(|client| {
            let rows = client.select(explain, None, &[]).expect("a plan");
            rows.filter_map(|row| row.get::<pgrx::Json>(1).expect("a row"))
                .map(|json| json.0.to_string())
                .collect()
        })
    }

    #[pg_test]
    fn little_is_counted() {
        set();
        activate("calls", "");
        activate("others", "");
        wait(1, 4000, "case when n % 4 = 0 then 'others' else 'calls' end", "4000 - n");
        wait(4001, 4010, "'others'", "0");
        run("insert into lago_push.retry (message_id, attempts, next_attempt_at, last_error)
             values (4, 1, now(), 'no'), (8, 2, now(), 'no'), (9, 2, now(), 'no')");
        die(1, 7, "'calls'");
        assert_eq!(
            texts(
                "select concat_ws(' ', sync, pending, extract(epoch from oldest_pending)::int, retrying, dead, estimated, bytes_waiting)
                   from lago_push.status order by sync"
            ),
            ["calls 3000 3999 1 7 f 300000", "others 1010 3996 2 0 f 101000"]
        );
        assert_eq!(text("select count(*)::text from lago_push.status"), "2");
    }

    #[pg_test]
    fn it_is_seen_whether_rows_are_captured() {
        set();
        let capturing = || {
            texts(
                "select concat_ws(' ', s.sync, s.capturing, m.value) from lago_push.status s
                   join lago_push.metrics m on m.name = 'lago_push_sync_capturing' and m.labels ->> 'sync' = s.sync
                  order by s.sync",
            )
        };
        activate("calls", "");
        draft("others", "");
        assert_eq!(capturing(), ["calls t 1", "others f 0"]);
        run("alter table public.calls disable trigger lago_push_calls");
        assert_eq!(capturing(), ["calls f 0", "others f 0"], "switched off");
        run("alter table public.calls enable always trigger lago_push_calls");
        assert_eq!(capturing(), ["calls t 1", "others f 0"]);
        run("drop trigger lago_push_calls on public.calls");
        assert_eq!(capturing(), ["calls f 0", "others f 0"], "gone");
        run(
            "create trigger by_hand after insert on public.calls for each row execute function lago_push.capture('calls')",
        );
        assert_eq!(capturing(), ["calls t 1", "others f 0"], "one written by hand does as well");
    }

    #[pg_test]
    fn it_is_seen_whether_as_many_wait_as_may() {
        set();
        let at_cap = || {
            texts(
                "select concat_ws(' ', s.at_cap, m.value) from lago_push.status s
                   left join lago_push.metrics m on m.name = 'lago_push_sync_at_cap'",
            )
        };
        activate("calls", "");
        assert_eq!(at_cap(), ["f 0"], "there is no cap");
        run("select lago_push.alter_sync('calls', max_pending => 1000000)");
        run(INSERT);
        assert_eq!(at_cap(), ["f 0"]);
    }

    #[pg_test]
    fn an_empty_outbox_is_counted() {
        set();
        activate("calls", "");
        assert_eq!(
            texts(
                "select concat_ws(' ', pending, oldest_pending, bytes_waiting, bytes_per_second, drains_in, estimated) from lago_push.status"
            ),
            ["0 0 0 00:00:00 f"]
        );
    }

    #[pg_test]
    fn up_to_a_hundred_thousand_are_counted() {
        set();
        activate("calls", "");
        wait(1, 99_000, "'calls'", "0");
        run("delete from lago_push.message where id % 11 = 0");
        die(99_001, 129_000, "'calls'");
        assert_eq!(
            texts("select concat_ws(' ', pending, bytes_waiting, dead, estimated) from lago_push.status"),
            ["90000 9000000 30000 f"]
        );
    }

    #[pg_test]
    fn much_is_estimated_and_marked() {
        set();
        activate("calls", "");
        activate("others", "");
        wait(1, 150_000, "case when n % 3 = 0 then 'others' else 'calls' end", "150000 - n");
        assert_near(status("pending", "calls"), 100_000.0, 10.0);
        assert_near(status("pending", "others"), 50_000.0, 15.0);
        assert_near(number("select sum(pending) from lago_push.status"), 150_000.0, 0.1);
        assert_near(number("select sum(bytes_waiting) from lago_push.status"), 1.5e7, 0.1);
        assert_eq!(texts("select distinct estimated::text from lago_push.status"), ["true"]);
        assert_eq!(
            texts("select extract(epoch from oldest_pending)::int::text from lago_push.status order by sync"),
            ["149999", "149997"],
            "the oldest are read"
        );
    }

    #[pg_test]
    fn what_has_gone_from_between_is_left_out_of_the_estimate() {
        set();
        activate("calls", "");
        wait(1, 300_000, "'calls'", "0");
        run("delete from lago_push.message where id > 20000 and id / 1000 % 2 = 0");
        assert_near(status("pending", "calls"), number("select count(*) from lago_push.message"), 15.0);
    }

    #[pg_test]
    fn what_has_gone_from_the_front_is_not_read_where_the_worker_noted_it() {
        set();
        activate("calls", "");
        wait(1, 50_000, "'calls'", "0");
        // In the same transaction, so its entries stay in the index, as behind somebody else's snapshot.
        run("delete from lago_push.message where id <= 49900");
        assert_eq!(text("select estimated::text from lago_push.status"), "true", "too many entries to read");
        assert_near(status("pending", "calls"), 100.0, 200.0);
        run("insert into lago_push.outbox_start values (49000)");
        assert_eq!(
            texts("select concat_ws(' ', pending, bytes_waiting, estimated) from lago_push.status"),
            ["100 10000 f"]
        );
        assert_eq!(text("select pending::text from lago_push.ledger"), "100");
        assert_eq!(text("select count(*)::text from lago_push.outbox"), "100");
        for look in ["outbox order by id limit 10", "status", "metrics"] {
            let touched = pages(&format!("select * from lago_push.{look}"));
            assert!(touched < 400.0, "{look}: {touched} pages");
        }
    }

    #[pg_test]
    fn many_dead_letters_are_estimated() {
        set();
        activate("calls", "");
        activate("others", "");
        die(1, 130_000, "'calls'");
        die(130_001, 130_005, "'others'");
        assert_near(status("dead", "calls"), 130_000.0, 5.0);
        assert_eq!(
            texts("select sync || ' ' || estimated from lago_push.status order by sync"),
            ["calls true", "others false"]
        );
        assert_eq!(text("select dead::text from lago_push.status where sync = 'others'"), "5");
        assert_eq!(
            texts(
                "select concat_ws(' ', captured, dead, balanced, estimated) from lago_push.ledger order by sync"
            ),
            ["130000 130000 t f", "5 5 t f"],
            "the ledger counts them"
        );
    }

    #[pg_test]
    fn many_retries_are_estimated() {
        set();
        activate("calls", "");
        wait(1, 5000, "'calls'", "0");
        run("insert into lago_push.retry (message_id, attempts, next_attempt_at, last_error)
             select n, 1, now(), 'no' from generate_series(1, 5000) n");
        assert_eq!(texts("select concat_ws(' ', pending, estimated) from lago_push.status"), ["5000 t"]);
        assert!(status("retrying", "calls") >= 2000.0);
    }

    #[pg_test]
    fn the_ledger_and_a_recount_agree() {
        set();
        activate("calls", "");
        activate("others", "");
        wait(1, 60_000, "case when n % 3 = 0 then 'others' else 'calls' end", "0");
        run("delete from lago_push.message where id % 7 = 0");
        die(1, 40, "'others'");
        let ledger = texts("select l::text from lago_push.ledger l order by sync");
        assert_eq!(texts("select l::text from lago_push.recount() l order by sync"), ledger);
        assert_eq!(texts("select l::text from lago_push.recount('others') l"), ledger[1..]);
        assert_eq!(ledger[1], "(others,17183,0,0,40,0,0,17143,t,f)");
        let [code, message, ..] = stage::failure("select lago_push.recount('no')");
        assert_eq!((code.as_str(), message.as_str()), ("42704", "sync \"no\" does not exist"));
    }

    #[pg_test]
    fn beyond_a_million_the_ledger_estimates_and_says_so() {
        set();
        activate("calls", "");
        wait(1, 10_000, "'calls'", "0");
        // No test has the time to write a million: those that are looked at stand for the others.
        let rest = Range { from: 10_001, to: 2_000_000 };
        let ids: Vec<String> = stretches(rest)
            .flat_map(|stretch| stretch.ids.from..=stretch.ids.to)
            .map(|id| id.to_string())
            .collect();
        run(&format!(
            "insert into lago_push.message (id, enqueued_at, sync_id, entered, operation, payload)
             select distinct n, now(), s.id, 1, 'i', '' from unnest('{{{},{}}}'::bigint[]) n, lago_push.sync s",
            ids.join(","),
            rest.to
        ));
        assert_eq!(
            texts(
                "select concat_ws(' ', pending, captured, balanced is null, estimated) from lago_push.ledger"
            ),
            ["2000000 2000000 t t"]
        );
        assert_eq!(text("select balanced::text from lago_push.recount()"), "true");
        assert_eq!(
            texts(
                "select name from lago_push.metrics where name in ('lago_push_captured_total', 'lago_push_balanced')"
            ),
            [""; 0],
            "no figure rather than a wrong one"
        );
    }

    #[pg_test]
    fn growth_is_what_came_in_the_last_minute() {
        set();
        activate("calls", "");
        // A hundred bytes each, ten a second, for ten minutes, and nothing goes.
        wait(1, 6000, "'calls'", "600 - n * 0.1");
        assert_near(status("bytes_per_second", "calls"), 1000.0, 3.0);
        // An old one that is stuck does not make it look slower.
        run("update lago_push.message set enqueued_at = now() - interval '3 days' where id = 1");
        assert_near(status("bytes_per_second", "calls"), 1000.0, 3.0);
        // As much goes as comes; then twice as much.
        run("update lago_push.destination_health set messages_per_second = 10, paced_at = clock_timestamp()");
        assert!(status("bytes_per_second", "calls").abs() < 30.0);
        run("update lago_push.destination_health set messages_per_second = 20");
        assert_near(-status("bytes_per_second", "calls"), 1000.0, 3.0);
        // What it took before the outage does not go now.
        run("update lago_push.destination_health set paced_at = now() - interval '1 minute'");
        assert_near(status("bytes_per_second", "calls"), 1000.0, 3.0);
    }

    #[pg_test]
    fn growth_is_seen_in_a_backlog_too_long_to_count() {
        set();
        activate("calls", "");
        // A hundred bytes each, a hundred a second.
        wait(1, 150_000, "'calls'", "1500 - n * 0.01");
        assert_near(status("bytes_per_second", "calls"), 10_000.0, 15.0);
    }

    #[pg_test]
    fn what_waits_for_a_moment_is_no_growth() {
        set();
        activate("calls", "");
        wait(1, 100, "'calls'", "1");
        run("update lago_push.destination_health set messages_per_second = 10, paced_at = clock_timestamp()");
        assert_eq!(text("select bytes_per_second::text from lago_push.status"), "0");
    }

    #[pg_test]
    fn a_backlog_drains_at_the_pace_seen_or_the_rate_allowed() {
        set();
        activate("calls", "");
        let drains =
            || texts("select extract(epoch from drains_in)::int::text from lago_push.status")[0].clone();
        wait(1, 6000, "'calls'", "7200 - n * 0.1");
        assert_eq!(drains(), "null", "nothing is known of it");
        run("update lago_push.destination_health set messages_per_second = 100");
        assert_eq!(drains(), "60");
        run("select lago_push.alter_destination('lago', rate_limit => 0.5)");
        assert_eq!(drains(), "120", "a hundred each two seconds");
        run("select lago_push.alter_destination('lago', rate_limit => 5)");
        assert_eq!(drains(), "60");
        // Fifty a second come, which makes it take twice as long; then as many as go.
        wait(6001, 9000, "'calls'", "60 - (n - 6000) * 0.02");
        assert_near(drains().parse().expect("a number"), 180.0, 3.0);
        wait(9001, 15_000, "'calls'", "60 - (n - 9000) * 0.01");
        run("delete from lago_push.message where id <= 6000");
        assert_eq!(drains(), "null", "never");
    }

    #[pg_test]
    fn syncs_of_a_destination_drain_together_and_a_paused_one_waits_apart() {
        set();
        activate("calls", "");
        activate("others", "");
        wait(1, 3000, "'calls'", "7200");
        wait(3001, 4000, "'others'", "7200");
        run("update lago_push.destination_health set messages_per_second = 100");
        let drains =
            || texts("select extract(epoch from drains_in)::int::text from lago_push.status order by sync");
        assert_eq!(drains(), ["40", "40"]);
        run("select lago_push.pause('others')");
        assert_eq!(drains(), ["30", "40"]);
    }

    #[pg_test]
    fn no_view_reads_the_whole_outbox() {
        set();
        activate("calls", "");
        let all = |to: i64| {
            wait(to - 149_999, to, "'calls'", "0");
            [
                "status",
                "metrics",
                "destinations",
                "workers",
                "outbox order by id limit 100",
                "outbox limit 100",
            ]
            .map(|view| pages(&format!("select * from lago_push.{view}")))
        };
        let (before, after) = (all(150_000), all(300_000));
        let whole =
            number("select pg_relation_size('lago_push.message') / current_setting('block_size')::int");
        assert!(whole > 3000.0, "{whole}");
        for (before, after) in before.into_iter().zip(after) {
            assert!(
                after < before * 1.3 + 100.0 && after < whole,
                "{before} pages became {after} of {whole}"
            );
        }
    }
}
