//! The trigger function called in ways it cannot work, and triggers attached by hand.

#[pgrx::pg_schema]
mod tests {
    use crate::tests::stage::{self, refuses, run, text, texts};
    use pgrx::prelude::*;

    const UNFIT: &str = "lago_push.capture() is not declared as it must be";
    const DECLARE: &str = "create trigger … after insert or update or delete on … for each row execute function lago_push.capture('sync')";

    fn refuses_after(trigger: &str, write: &str, detail: &str) {
        stage::set();
        stage::draft("calls", "");
        run(&format!("create trigger unfit {trigger}"));
        refuses(write, ["39P01", UNFIT, detail, DECLARE]);
        assert_eq!(text("select count(*)::text from public.calls"), "0");
    }

    #[pg_test]
    fn capture_is_no_ordinary_function() {
        stage::set();
        refuses(
            "select lago_push.capture()",
            ["39P01", UNFIT, "It was called as an ordinary function.", DECLARE],
        );
    }

    #[pg_test]
    fn capture_does_not_fire_before_the_change() {
        refuses_after(
            "before insert on public.calls for each row execute function lago_push.capture('calls')",
            stage::INSERT,
            "It was fired before or instead of the row's change, or once for a whole statement.",
        );
    }

    #[pg_test]
    fn capture_does_not_fire_once_for_a_statement() {
        refuses_after(
            "after insert on public.calls for each statement execute function lago_push.capture('calls')",
            stage::INSERT,
            "It was fired before or instead of the row's change, or once for a whole statement.",
        );
    }

    #[pg_test]
    fn capture_does_not_fire_instead_of_the_change() {
        stage::set();
        run("create view public.seen as select * from public.calls;
             create trigger unfit instead of insert on public.seen for each row execute function lago_push.capture('calls')");
        refuses(
            "insert into public.seen (id) values (1)",
            [
                "39P01",
                UNFIT,
                "It was fired before or instead of the row's change, or once for a whole statement.",
                DECLARE,
            ],
        );
    }

    #[pg_test]
    fn capture_takes_an_argument() {
        refuses_after(
            "after insert on public.calls for each row execute function lago_push.capture()",
            stage::INSERT,
            "It takes one argument: the name of the sync.",
        );
    }

    #[pg_test]
    fn capture_takes_one_argument_only() {
        refuses_after(
            "after insert on public.calls for each row execute function lago_push.capture('calls', 'more')",
            stage::INSERT,
            "It takes one argument: the name of the sync.",
        );
    }

    #[pg_test]
    fn capture_does_not_fire_on_truncate() {
        refuses_after(
            "after truncate on public.calls for each statement execute function lago_push.capture('calls')",
            "truncate public.calls",
            "TRUNCATE removes rows without visiting them, so there is nothing to bill.",
        );
    }

    #[pg_test]
    fn activate_names_the_trigger_after_the_sync() {
        stage::set();
        stage::activate("calls", "");
        let long = "Größe, \"quoted\" and 'quoted' \\ and longer than any name PostgreSQL keeps".to_owned();
        run(&format!(
            "select lago_push.create_sync($n${long}$n$, 'public.calls', $t${}$t$)",
            stage::TEMPLATE
        ));
        run(&format!("select lago_push.activate($n${long}$n$)"));
        let names = texts(
            "select tgname::text from pg_trigger where tgrelid = 'public.calls'::regclass order by oid",
        );
        assert_eq!(names[0], "lago_push_calls");
        assert!(names[1].starts_with("lago_push_Größe, \"quoted\" and 'quoted' \\ and"), "{names:?}");
        run(stage::INSERT);
        assert_eq!(stage::payloads(), [stage::PAYLOAD, stage::PAYLOAD]);
        run(&format!("select lago_push.drop_sync($n${long}$n$, discard => true)"));
        assert_eq!(
            texts("select tgname::text from pg_trigger where tgrelid = 'public.calls'::regclass"),
            ["lago_push_calls"]
        );
    }

    #[pg_test]
    fn two_syncs_whose_names_begin_alike_share_a_table() {
        stage::set();
        let name = "a name that is so long that the name of the trigger has no room for its end, ";
        for number in ["1", "2"] {
            stage::activate(&format!("{name}{number}"), "");
        }
        run(stage::INSERT);
        assert_eq!(stage::payloads().len(), 2);
    }

    #[pg_test]
    fn activate_declares_operations_columns_and_filter() {
        stage::set();
        run("alter table public.calls add \"Odd \"\"Column\" text");
        let draft = ", operations => '{insert,update}', columns => '{bytes,\"Odd \\\"Column\"}', filter => 'new.bytes > 0'";
        stage::activate("calls", draft);
        assert_eq!(
            text("select pg_get_triggerdef(oid) from pg_trigger where tgrelid = 'public.calls'::regclass"),
            "CREATE TRIGGER lago_push_calls AFTER INSERT OR UPDATE OF bytes, \"Odd \"\"Column\" ON public.calls \
             FOR EACH ROW WHEN ((new.bytes > (0)::numeric)) EXECUTE FUNCTION lago_push.capture('calls')"
        );
    }

    #[pg_test]
    fn activate_leaves_a_trigger_made_by_hand_alone() {
        stage::set();
        stage::draft("calls", "");
        run("create trigger by_hand after insert on public.calls for each row when (new.region = 'eu')
             execute function lago_push.capture('calls')");
        run(stage::INSERT);
        assert_eq!(stage::payloads(), <[String; 0]>::default(), "a draft captures nothing");
        run("select lago_push.activate('calls')");
        assert_eq!(
            texts("select tgname::text from pg_trigger where tgrelid = 'public.calls'::regclass"),
            ["by_hand"]
        );
        run("insert into public.calls values (2, 'acme', 1, 'eu', 'epoch'), (3, 'acme', 1, 'us', 'epoch')");
        assert_eq!(stage::payloads().len(), 1);
    }

    #[pg_test]
    fn a_trigger_for_more_than_the_sync_covers_captures_what_the_sync_covers() {
        stage::set();
        stage::draft("calls", "");
        run("create trigger by_hand after insert or update or delete on public.calls for each row
             execute function lago_push.capture('calls')");
        run("select lago_push.activate('calls')");
        run(stage::INSERT);
        run("update public.calls set bytes = 11; delete from public.calls");
        assert_eq!(stage::operations(), "i");
    }
}
