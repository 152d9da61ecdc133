//! Reconciliation before Lago is asked: what is refused, and to whom.

#[pgrx::pg_schema]
mod tests {
    use crate::tests::stage::{self, failure, refuses, run};
    use pgrx::prelude::*;

    const STATE: &str = "55000";
    const KEEP: &str = "Keep replies with lago_push.alter_sync(…, keep_replies => …): what is sent from then on can be reconciled.";

    #[pg_test]
    fn only_a_sync_that_has_captured_can_be_reconciled() {
        stage::set();
        stage::draft("calls", "");
        refuses(
            "select * from lago_push.reconcile('calls')",
            [
                STATE,
                "sync \"calls\" is a draft",
                "It has captured nothing yet that Lago could have.",
                "Start it with lago_push.activate('calls').",
            ],
        );
        assert_eq!(failure("select * from lago_push.reconcile('cals')")[1], "sync \"cals\" does not exist");
    }

    #[pg_test]
    fn a_period_begins_before_it_ends() {
        stage::set();
        stage::activate("calls", "");
        for (since, until) in [("now()", "now()"), ("'infinity'", "now()"), ("'2025-01-02'", "'2025-01-01'")]
        {
            refuses(
                &format!("select * from lago_push.reconcile('calls', since => {since}, until => {until})"),
                [
                    "22023",
                    "since must be before until",
                    "",
                    "Give the period of the events: since => now() - interval '1 day', until => now().",
                ],
            );
        }
    }

    #[pg_test]
    fn lago_lists_nothing_but_events() {
        stage::set();
        run(
            r#"select lago_push.create_sync('people', 'public.calls', '{"external_id": "{{ row.id }}"}', endpoint => 'customer');
               select lago_push.activate('people')"#,
        );
        refuses(
            "select * from lago_push.reconcile('people')",
            [
                STATE,
                "sync \"people\" cannot be reconciled",
                "It does not send events, and Lago lists nothing else by the time it is about.",
                "With keep_replies, lago_push.replies shows what Lago answered to each call.",
            ],
        );
    }

    #[pg_test]
    fn what_no_row_tells_has_to_be_kept() {
        stage::set();
        stage::activate("changes", ", operations => '{update,delete}'");
        refuses(
            "select * from lago_push.reconcile('changes')",
            [
                STATE,
                "sync \"changes\" cannot be reconciled for this period",
                "It captures updates or deletes only, and what they sent is kept nowhere.",
                KEEP,
            ],
        );
        let template = stage::event_without("timestamp");
        run(&format!("select lago_push.create_sync('times', 'public.calls', '{template}')"));
        run("select lago_push.activate('times')");
        refuses(
            "select * from lago_push.reconcile('times')",
            [
                STATE,
                "sync \"times\" cannot be reconciled for this period",
                "Its template gives no timestamp, and when its rows were captured is kept nowhere.",
                KEEP,
            ],
        );
        // Replies are kept for a day, and the period begins before that.
        run("select lago_push.alter_sync('times', keep_replies => '1 day')");
        assert_eq!(
            failure("select * from lago_push.reconcile('times', since => now() - interval '2 days')")[0],
            STATE
        );
    }

    #[pg_test]
    fn a_source_that_has_changed_is_told() {
        stage::set();
        stage::activate("calls", "");
        run("alter table public.calls drop column bytes");
        refuses(
            "select * from lago_push.reconcile('calls')",
            [
                STATE,
                "sync \"calls\" cannot be applied to its source",
                "column \"bytes\" does not exist (any more)",
                "Mend it with lago_push.alter_sync().",
            ],
        );
    }

    #[pg_test]
    fn what_a_condition_of_a_hand_written_trigger_passes_over_is_not_sent() {
        stage::set();
        stage::draft("calls", "");
        run("create trigger by_hand after insert on public.calls for each row when (new.bytes > 0)
             execute function lago_push.capture('calls');
             select lago_push.activate('calls')");
        refuses(
            "select * from lago_push.reconcile('calls', resend => true)",
            [
                STATE,
                "what sync \"calls\" has missed cannot be told from what it was meant to miss",
                "A trigger written by hand captures for it, with a condition that lago_push does not know.",
                "Make the condition the sync's filter, or write the rows again that are missing.",
            ],
        );
    }
}
