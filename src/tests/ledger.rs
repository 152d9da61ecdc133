//! The ledger: every captured row is pending, delivered, dead or discarded, whatever is done to it.

#[pgrx::pg_schema]
mod tests {
    use crate::message::Tid;
    use crate::outbox::{self, Account, Dead, Settlement, Statements};
    use crate::tests::stage::{self, activate, run, text, texts};
    use pgrx::prelude::*;

    /// captured delivered duplicate dead redriven discarded pending balanced
    fn ledger(sync: &str) -> String {
        stage::reach_the_end();
        text(&format!(
            "select concat_ws(' ', captured, delivered, duplicate, dead, redriven, discarded, pending, balanced)
               from lago_push.ledger where sync = '{sync}'"
        ))
    }

    /// What the worker does with replies.
    enum Reply {
        Taken,
        Known,
        Refused,
    }

    /// Settles waiting messages as the worker does, oldest first.
    fn settle(replies: &[Reply]) {
        stage::reach_the_end();
        let statements = Statements::prepare().expect("statements");
        let mut settlement = Settlement::default();
        let waiting =
            texts("select concat_ws(' ', m.id, m.sync_id, m.entered) from lago_push.message m order by m.id");
        assert!(waiting.len() >= replies.len(), "{waiting:?}");
        for (message, reply) in waiting.iter().zip(replies) {
            let numbers: Vec<i64> =
                message.split(' ').map(|number| number.parse().expect("a number")).collect();
            let [id, sync, entered] = numbers[..] else { panic!("{message}") };
            let account: &mut Account =
                settlement.accounts.entry(i32::try_from(sync).expect("a sync")).or_default();
            account.captured += entered;
            settlement.gone.push((id, Tid::default()));
            match reply {
                Reply::Taken => account.delivered += 1,
                Reply::Known => {
                    account.delivered += 1;
                    account.duplicate += 1;
                }
                Reply::Refused => settlement.dead.push(Dead {
                    id,
                    attempts: 1,
                    reason: "no".into(),
                    reply_status: Some(422),
                    reply: None,
                }),
            }
        }
        outbox::settle(&statements, settlement).expect("settled");
    }

    /// Captures rows in one write; those with `bad` cannot be rendered.
    fn insert(from: i32, to: i32, bad: &str) {
        run(&format!(
            "insert into public.calls select n, case when {bad} then null else 's' end, n, 'eu', 'epoch' from generate_series({from}, {to}) n"
        ));
        stage::reach_the_end();
    }

    #[pg_test]
    fn a_new_sync_has_an_empty_ledger() {
        stage::set();
        stage::draft("calls", "");
        assert_eq!(ledger("calls"), "0 0 0 0 0 0 0 t");
    }

    #[pg_test]
    fn captured_rows_are_pending_or_dead() {
        stage::set();
        activate("calls", "");
        insert(1, 10, "n % 5 = 0");
        assert_eq!(ledger("calls"), "10 0 0 2 0 0 8 t");
        // A write that begins with a row that cannot be rendered, and one of such rows only.
        insert(11, 13, "n = 11");
        insert(14, 15, "true");
        assert_eq!(ledger("calls"), "15 0 0 5 0 0 10 t");
        run("select lago_push.pause('calls')");
        insert(16, 16, "false");
        assert_eq!(ledger("calls"), "16 0 0 5 0 0 11 t");
    }

    #[pg_test]
    fn a_rolled_back_savepoint_takes_its_part_of_the_ledger_with_it() {
        stage::set();
        activate("calls", "");
        run("set local lago_push.capture_memory = '64kB'");
        run("do $$ begin
                 insert into public.calls values (1, 's', 1, 'eu', 'epoch');
                 begin
                     insert into public.calls select n, case when n % 2 = 0 then 's' end, n, repeat('x', 1000), 'epoch' from generate_series(100, 500) n;
                     assert (select captured > 10 and dead > 5 and pending > 5 and balanced from lago_push.ledger), 'nothing was written early';
                     raise exception 'no';
                 exception when raise_exception then end;
                 insert into public.calls values (2, null, 1, 'eu', 'epoch');
             end $$");
        assert_eq!(ledger("calls"), "2 0 0 1 0 0 1 t");
    }

    #[pg_test]
    fn rows_of_several_syncs_are_counted_apart() {
        stage::set();
        activate("calls", "");
        activate("others", ", filter => 'new.id > 8'");
        insert(1, 10, "n = 9");
        assert_eq!(ledger("calls"), "10 0 0 1 0 0 9 t");
        assert_eq!(ledger("others"), "2 0 0 1 0 0 1 t");
    }

    #[pg_test]
    fn settled_messages_are_delivered_duplicate_or_dead() {
        stage::set();
        activate("calls", "");
        insert(1, 10, "n % 5 = 0");
        // The one that bears the number of all is the first to go.
        settle(&[Reply::Refused, Reply::Taken, Reply::Known]);
        assert_eq!(ledger("calls"), "10 2 1 3 0 0 5 t");
        settle(&[Reply::Taken, Reply::Taken, Reply::Taken, Reply::Taken, Reply::Taken]);
        assert_eq!(ledger("calls"), "10 7 1 3 0 0 0 t");
    }

    #[pg_test]
    fn redriven_letters_are_pending_again() {
        stage::set();
        activate("calls", "");
        insert(1, 10, "n < 4");
        settle(&[Reply::Refused, Reply::Taken]);
        assert_eq!(ledger("calls"), "10 1 0 4 0 0 5 t");
        assert_eq!(text("select lago_push.redrive('calls', 'reason = ''no''')::text"), "1");
        assert_eq!(ledger("calls"), "10 1 0 3 1 0 6 t");
        // They still cannot be rendered.
        assert_eq!(text("select lago_push.redrive('calls')::text"), "0");
        assert_eq!(ledger("calls"), "10 1 0 3 1 0 6 t");
        run(
            "update lago_push.dead_letter set source_row = (source_row::jsonb || '{\"subscription\": \"s\"}')::json",
        );
        assert_eq!(text("select lago_push.redrive('calls')::text"), "3");
        assert_eq!(ledger("calls"), "10 1 0 0 4 0 9 t");
        settle(&[Reply::Taken, Reply::Taken, Reply::Taken]);
        assert_eq!(ledger("calls"), "10 4 0 0 4 0 6 t");
    }

    #[pg_test]
    fn a_redriven_letter_keeps_its_key_and_what_it_entered_as() {
        stage::set();
        stage::draft("calls", "");
        run("insert into lago_push.dead_letter (id, enqueued_at, died_at, sync_id, attempts, operation, sync_name, reason, payload, entered, key)
             select n, now(), now(), s.id, 1, 'i', 'calls', 'no', '{}', 3 * (2 - n), -n from lago_push.sync s, generate_series(1, 2) n");
        run("select lago_push.redrive('calls')");
        assert_eq!(
            texts("select concat_ws(' ', entered, key) from lago_push.message order by id"),
            ["3 -1", "0 -2"]
        );
    }

    #[pg_test]
    fn a_letter_with_nothing_to_send_any_more_is_discarded() {
        stage::set();
        run("create function public.map(call public.calls) returns jsonb language plpgsql as $$
             begin
                 if current_setting('tests.mend', true) is distinct from 'on' then raise exception 'no'; end if;
                 return null;
             end $$;
             select lago_push.create_sync('calls', 'public.calls', mapper => 'public.map(public.calls)');
             select lago_push.activate('calls')");
        insert(1, 3, "false");
        assert_eq!(ledger("calls"), "3 0 0 3 0 0 0 t");
        run("set local tests.mend = 'on'");
        assert_eq!(text("select lago_push.redrive('calls', 'source_row ->> ''id'' < ''3''')::text"), "2");
        assert_eq!(ledger("calls"), "3 0 0 1 0 2 0 t");
    }

    #[pg_test]
    fn discarded_letters_stay_counted() {
        stage::set();
        activate("calls", "");
        insert(1, 10, "n < 4");
        settle(&[Reply::Refused]);
        assert_eq!(text("select lago_push.discard('calls', 'reason = ''no''')::text"), "1");
        assert_eq!(ledger("calls"), "10 0 0 3 0 1 6 t");
        assert_eq!(text("select lago_push.discard('calls')::text"), "3");
        assert_eq!(text("select lago_push.discard('calls')::text"), "0");
        assert_eq!(ledger("calls"), "10 0 0 0 0 4 6 t");
    }

    #[pg_test]
    fn a_discarded_letter_may_bear_the_number_of_all() {
        stage::set();
        activate("calls", "");
        insert(1, 3, "true");
        assert_eq!(text("select lago_push.discard('calls', 'source_row ->> ''id'' = ''1''')::text"), "1");
        assert_eq!(ledger("calls"), "3 0 0 2 0 1 0 t");
    }

    #[pg_test]
    fn a_corrected_letter_is_counted_as_before() {
        stage::set();
        activate("calls", "");
        insert(1, 3, "n = 1");
        run(
            r#"select lago_push.correct(id, '{"transaction_id": "t", "external_subscription_id": "s", "code": "c", "timestamp": 0}') from lago_push.dead_letters"#,
        );
        assert_eq!(ledger("calls"), "3 0 0 1 0 0 2 t");
        assert_eq!(text("select lago_push.redrive('calls')::text"), "1");
        assert_eq!(ledger("calls"), "3 0 0 0 1 0 3 t");
    }

    #[pg_test]
    fn each_call_leaves_a_note_of_who_made_it() {
        stage::set();
        activate("calls", "");
        insert(1, 4, "n < 4");
        run("create role \"The Clerk\";
             grant usage on schema lago_push to \"The Clerk\";
             grant execute on function lago_push.redrive, lago_push.discard to \"The Clerk\";
             alter table public.calls owner to \"The Clerk\";
             update lago_push.dead_letter set source_row = (source_row::jsonb || '{\"subscription\": \"s\"}')::json
              where source_row ->> 'id' < '3'");
        run("set local role \"The Clerk\"");
        run("select lago_push.redrive('calls', 'false'), lago_push.discard('calls', 'false')");
        run("select lago_push.redrive('calls')");
        run("select lago_push.discard('calls')");
        run("reset role");
        assert_eq!(
            texts(
                "select concat_ws(' ', by, what, captured, redriven, discarded) from lago_push.intervention order by at"
            ),
            ["\"The Clerk\" redrive 0 2 0", "\"The Clerk\" discard 0 0 1"],
            "and none where nothing was done"
        );
        assert_eq!(ledger("calls"), "4 0 0 0 2 1 3 t");
    }

    #[pg_test]
    fn a_row_that_vanished_behind_the_ledgers_back_shows() {
        stage::set();
        activate("calls", "");
        insert(1, 6, "n > 4");
        for (table, row) in [("message", "entered = 0"), ("message", "entered > 0"), ("dead_letter", "true")]
        {
            assert_eq!(ledger("calls"), "6 0 0 2 0 0 4 t");
            run(&format!(
                "create temp table gone (like lago_push.{table});
                 with gone as (delete from lago_push.{table} where id = (select min(id) from lago_push.{table} where {row}) returning *)
                 insert into pg_temp.gone select * from gone"
            ));
            assert!(ledger("calls").ends_with(" f"), "{table}, {row}: {}", ledger("calls"));
            run(&format!(
                "insert into lago_push.{table} select * from pg_temp.gone; drop table pg_temp.gone"
            ));
        }
    }

    #[pg_test]
    fn a_dropped_sync_takes_its_ledger_with_it() {
        stage::set();
        activate("calls", "");
        activate("others", "");
        insert(1, 4, "n = 1");
        run("select lago_push.discard('calls')");
        run("select lago_push.drop_sync('calls', discard => true)");
        assert_eq!(texts("select sync from lago_push.ledger"), ["others"]);
        assert_eq!(ledger("others"), "4 0 0 1 0 0 3 t");
        assert_eq!(text("select count(*)::text from lago_push.intervention"), "0");
    }

    #[pg_test]
    fn messages_of_a_sync_that_is_gone_do_not_touch_the_ledger_of_others() {
        stage::set();
        activate("calls", "");
        activate("others", "");
        insert(1, 4, "n = 1");
        let gone = text("select id::text from lago_push.sync where name = 'calls'");
        run("delete from lago_push.sync where name = 'calls'");
        let statements = Statements::prepare().expect("statements");
        outbox::bury_all(&statements, gone.parse().expect("a number")).expect("buried");
        assert_eq!(
            text(&format!(
                "select sum(entered)::text from lago_push.dead_letter where sync_name = 'sync {gone} (dropped)'"
            )),
            "4"
        );
        assert_eq!(ledger("others"), "4 0 0 1 0 0 3 t");
        assert_eq!(text(&format!("select lago_push.discard('sync {gone} (dropped)')::text")), "3");
        assert_eq!(text("select lago_push.discard('calls')::text"), "1");
        assert_eq!(ledger("others"), "4 0 0 1 0 0 3 t");
    }

    #[pg_test]
    fn whatever_is_done_the_ledger_adds_up() {
        stage::set();
        activate("calls", "");
        let mut dice: u64 = 20_240_314;
        let mut throw = |sides: u64| {
            dice = dice.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (dice >> 33) % sides
        };
        let (mut inserted, mut done) = (0, [0; 6]);
        for step in 0..300 {
            let act = throw(6) as usize;
            match act {
                0 | 1 => {
                    let rows = 1 + throw(7) as i32;
                    insert(inserted + 1, inserted + rows, &format!("n % 3 = {}", throw(3)));
                    inserted += rows;
                }
                2 | 3 => {
                    let waiting =
                        text("select count(*)::text from lago_push.message").parse().expect("a number");
                    let some = throw(5).min(waiting);
                    let replies: Vec<Reply> = (0..some)
                        .map(|_| match throw(3) {
                            0 => Reply::Taken,
                            1 => Reply::Known,
                            _ => Reply::Refused,
                        })
                        .collect();
                    settle(&replies);
                }
                4 => run(&format!("select lago_push.redrive('calls', 'id % 2 = {}')", throw(2))),
                _ => run(&format!("select lago_push.discard('calls', 'id % 3 = {}')", throw(3))),
            }
            done[act] += 1;
            let figures = ledger("calls");
            assert!(
                figures.starts_with(&format!("{inserted} ")) && figures.ends_with(" t"),
                "step {step}: {figures}"
            );
        }
        assert!(done.iter().all(|times| *times > 20), "{done:?}");
    }
}
