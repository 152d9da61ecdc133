//! Caps: what becomes of rows when as many messages wait as may, within one transaction.

#[pgrx::pg_schema]
mod tests {
    use crate::tests::stage::{self, failure, payloads, reasons, refuses, run, text, texts};
    use pgrx::prelude::*;

    const NOTHING: [&str; 0] = [];

    fn rows(from: i32, to: i32) -> String {
        format!(
            "insert into public.calls select n, 'acme', n, 'eu', 'epoch' from generate_series({from}, {to}) n"
        )
    }

    /// The numbers of the rows that wait.
    fn waiting() -> String {
        stage::reach_the_end();
        text(
            "select coalesce(string_agg(payload::json -> 'properties' ->> 'bytes', ' ' order by id), '') from lago_push.message",
        )
    }

    fn dead() -> String {
        stage::reach_the_end();
        text(
            "select coalesce(string_agg(source_row ->> 'id', ' ' order by id), '') from lago_push.dead_letters",
        )
    }

    #[pg_test]
    fn rows_beyond_the_cap_are_dead_letters_that_say_so() {
        stage::set();
        stage::activate("calls", ", max_pending => 3, when_full => 'dead_letter'");
        run(&rows(1, 5));
        assert_eq!((&*waiting(), &*dead()), ("1 2 3", "4 5"));
        assert_eq!(
            reasons(),
            ["the outbox held 3 messages of this sync, and max_pending is 3; lago_push.redrive() sends this row";
                2]
        );
        assert_eq!(
            text("select concat_ws(' ', captured, pending, dead, balanced) from lago_push.ledger"),
            "5 3 2 t"
        );
    }

    #[pg_test]
    fn a_letter_of_a_full_outbox_is_redriven_as_its_row_would_have_been_captured() {
        stage::set();
        stage::activate("calls", ", max_pending => 1, when_full => 'dead_letter'");
        run("insert into public.calls values (7, 'acme', 1, 'eu', 'epoch')");
        run(stage::INSERT);
        stage::reach_the_end();
        run("delete from lago_push.message");
        assert_eq!(text("select lago_push.redrive('calls')::text"), "1");
        assert_eq!(payloads(), [stage::PAYLOAD]);
        assert_eq!(reasons(), NOTHING);
    }

    #[pg_test]
    fn a_row_beyond_the_cap_is_refused_if_the_sync_says_so() {
        stage::set();
        stage::activate("calls", ", max_pending => 3, when_full => 'raise'");
        run(&rows(1, 3));
        assert_eq!(
            failure(&rows(4, 4)),
            [
                "53400",
                "sync \"calls\" takes no more rows: 3 of its messages wait",
                "Its max_pending is 3, and when_full is raise.",
                "See in lago_push.status and lago_push.destinations why they wait. To let such writes through: lago_push.alter_sync(…, when_full => 'warn')."
            ]
        );
        assert_eq!(waiting(), "1 2 3");
        assert_eq!(text("select count(*)::text from public.calls"), "3");
    }

    #[pg_test]
    fn a_row_beyond_the_cap_is_captured_with_a_warning_by_default() {
        stage::set();
        stage::activate("calls", ", max_pending => 3");
        run(&rows(1, 5));
        assert_eq!((&*waiting(), &*dead()), ("1 2 3 4 5", ""));
    }

    #[pg_test]
    fn what_a_savepoint_took_back_makes_room() {
        stage::set();
        stage::activate("calls", ", max_pending => 3, when_full => 'raise'");
        run(&rows(1, 1));
        for _ in 0..5 {
            // Two rows fit and the third, which ends the block, does not.
            assert_eq!(failure(&rows(2, 4))[0], "53400");
        }
        run(
            "do $$ begin insert into public.calls values (2, 'acme', 2, 'eu', 'epoch'); exception when others then raise; end $$",
        );
        run(&rows(3, 3));
        assert_eq!(failure(&rows(4, 4))[0], "53400");
        assert_eq!(waiting(), "1 2 3");
    }

    #[pg_test]
    fn what_was_written_early_counts_too() {
        stage::set();
        stage::activate("calls", ", max_pending => 3, when_full => 'dead_letter'");
        run(&rows(1, 2));
        // Every entry point has the transaction's rows written first.
        run("select lago_push.pause('calls')");
        run(&rows(3, 4));
        assert_eq!((&*waiting(), &*dead()), ("1 2 3", "4"));
        // At the end of the transaction each row is written at once.
        run(&rows(5, 5));
        assert_eq!(dead(), "4 5");
    }

    #[pg_test]
    fn redriven_letters_count_and_are_let_in_whatever_waits() {
        stage::set();
        stage::activate("calls", ", max_pending => 2, when_full => 'dead_letter'");
        run(&rows(1, 5));
        assert_eq!(text("select lago_push.redrive('calls')::text"), "3");
        assert_eq!((&*waiting(), &*dead()), ("1 2 3 4 5", ""));
        run("select lago_push.alter_sync('calls', max_pending => 6)");
        run(&rows(6, 7));
        assert_eq!((&*waiting(), &*dead()), ("1 2 3 4 5 6", "7"));
    }

    #[pg_test]
    fn syncs_of_one_table_have_caps_of_their_own() {
        stage::set();
        stage::activate("capped", ", max_pending => 1, when_full => 'dead_letter'");
        stage::activate("free", "");
        run(&rows(1, 3));
        stage::reach_the_end();
        assert_eq!(
            texts("select concat_ws(' ', sync, pending, dead) from lago_push.status order by sync"),
            ["capped 1 2", "free 3 0"]
        );
    }

    #[pg_test]
    fn skipped_and_unrenderable_rows_need_no_room() {
        stage::set();
        stage::activate("calls", ", max_pending => 1, when_full => 'raise'");
        run(&rows(1, 1));
        run("insert into public.calls (id) values (2)");
        assert_eq!((&*waiting(), &*dead()), ("1", "2"));
    }

    #[pg_test]
    fn a_cap_is_changed_and_taken_away() {
        stage::set();
        let stored = || text("select concat_ws(' ', max_pending, when_full) from lago_push.sync");
        stage::activate("calls", "");
        assert_eq!(stored(), "warn");
        run("select lago_push.alter_sync('calls', max_pending => 1, when_full => 'dead_letter')");
        assert_eq!(stored(), "1 dead_letter");
        run(&rows(1, 2));
        run("select lago_push.alter_sync('calls', batch_size => 5)");
        assert_eq!(stored(), "1 dead_letter", "left as it was");
        run("select lago_push.alter_sync('calls', max_pending => 0)");
        assert_eq!(stored(), "dead_letter");
        run(&rows(3, 4));
        assert_eq!((&*waiting(), &*dead()), ("1 3 4", "2"));
    }

    #[pg_test]
    fn a_cap_that_is_none_is_refused() {
        stage::set();
        stage::draft("calls", "");
        refuses(
            "select lago_push.alter_sync('calls', max_pending => -1)",
            [
                "22023",
                "max_pending must be at least 1",
                "It says how many messages of the sync may wait in the outbox.",
                "0 takes it away: then any number may.",
            ],
        );
        refuses(
            "select lago_push.alter_sync('calls', when_full => 'drop')",
            [
                "22023",
                "when_full must be warn, dead_letter or raise",
                "It says what becomes of rows when max_pending messages wait: warn captures them all the same, dead_letter keeps them as dead letters, raise refuses the write.",
                "",
            ],
        );
    }
}
