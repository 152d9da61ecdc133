//! What every in-server test stands on: a table, a destination, and a way to look at an error.

use crate::pg::xact::Moment;
use pgrx::prelude::*;

/// A row becomes an event that names every column of `public.calls` the catalogue's example does.
pub const TEMPLATE: &str = r#"{
  "transaction_id": "call-{{ row.id }}",
  "external_subscription_id": "{{ row.subscription }}",
  "code": "api_calls",
  "timestamp": {{ row.created_at }},
  "properties": {"bytes": {{ row.bytes }}, "region": "{{ row.region }}"}
}"#;

/// A row of `public.calls` that can be billed, but for what the test adds.
pub const INSERT: &str = "insert into public.calls (id, subscription, bytes, region, created_at)
                          values (1, 'acme', 10, 'eu', '2024-03-14 13:09:00.123456+00')";

/// What [`INSERT`] is billed as by [`TEMPLATE`].
pub const PAYLOAD: &str = r#"{"transaction_id":"call-1","external_subscription_id":"acme","code":"api_calls","timestamp":1710421740.123456,"properties":{"bytes":10,"region":"eu"}}"#;

/// The table `public.calls`, the destination `lago`, and the functions the helpers below call.
pub fn set() {
    // Tests run side by side, and one that makes what another has made but not rolled back yet would
    // wait for it, and perhaps it for the first.
    run("select pg_advisory_xact_lock(7355608)");
    run("create table public.calls (
             id bigint primary key,
             subscription text,
             bytes numeric,
             region text,
             created_at timestamptz);
         create function pg_temp.failure(statement text) returns text[] language plpgsql as $$
         declare
             code text; said text; why text; advice text;
         begin
             execute statement;
             return null;
         exception when others then
             get stacked diagnostics code = returned_sqlstate, said = message_text,
                 why = pg_exception_detail, advice = pg_exception_hint;
             return array[code, said, why, advice];
         end $$;
         create function pg_temp.made() returns text language sql security definer as $$
             select concat_ws(e'\\n',
                 (select string_agg(d::text, ' ' order by d.id) from lago_push.destination d),
                 (select string_agg(k::text, ' ' order by k.destination_id) from lago_push.api_key k),
                 (select string_agg(h::text, ' ' order by h.destination_id) from lago_push.destination_health h),
                 (select string_agg(s::text, ' ' order by s.id) from lago_push.sync s),
                 (select string_agg(a::text, ' ' order by a.sync_id) from lago_push.account a),
                 (select string_agg(t.tgname, ' ' order by t.oid) from pg_trigger t
                   where t.tgfoid = 'lago_push.capture()'::regprocedure))
         $$");
    run(
        "select lago_push.create_destination('lago', url => 'https://lago.example/api/v1', api_key => 'secret')",
    );
}

/// The fields of an event of `public.calls`, one a line, with `members` in place of those of the same key.
pub fn event(members: &str) -> String {
    let fields = [
        ("transaction_id", r#""transaction_id": "call-{{ row.id }}""#),
        ("external_subscription_id", r#""external_subscription_id": "{{ row.subscription }}""#),
        ("code", r#""code": "api_calls""#),
        ("timestamp", r#""timestamp": {{ row.created_at }}"#),
    ];
    let kept =
        fields.iter().filter(|(key, _)| !members.contains(&format!("\"{key}\""))).map(|(_, member)| *member);
    let members: Vec<&str> =
        std::iter::once(members).filter(|members| !members.is_empty()).chain(kept).collect();
    format!("{{\n  {}\n}}", members.join(",\n  "))
}

/// The event without one of its fields.
pub fn event_without(key: &str) -> String {
    event("")
        .lines()
        .filter(|line| !line.contains(&format!("\"{key}\"")))
        .collect::<Vec<_>>()
        .join("\n")
        .replace(",\n}", "\n}")
}

/// A draft on `public.calls`; `options` are further arguments, each after a comma.
pub fn draft(name: &str, options: &str) {
    run(&format!("select lago_push.create_sync('{name}', 'public.calls', '{TEMPLATE}'{options})"));
}

/// A sync on `public.calls` that captures.
pub fn activate(name: &str, options: &str) {
    draft(name, options);
    run(&format!("select lago_push.activate('{name}')"));
}

/// Captures from `table` what `value`, an expression over `row`, `old` and `op`, is in each row.
pub fn activate_for_value(table: &str, value: &str, options: &str) {
    run(&format!(
        r#"select lago_push.create_sync('values', '{table}', $template${{
             "transaction_id": "t-{{{{ op }}}}", "external_subscription_id": "s", "code": "c", "timestamp": 0,
             "properties": {{"v": {value}}}}}$template${options});
           select lago_push.activate('values')"#
    ));
}

/// What the rows captured by [`activate_for_value`] have for `value`, as written.
pub fn captured_values() -> Vec<String> {
    let frame = |payload: String| {
        let (_, rest) = payload.split_once(r#""properties":{"v":"#).expect("a payload of this template");
        rest.strip_suffix("}}").expect("the end of the payload").to_owned()
    };
    payloads().into_iter().map(frame).collect()
}

#[track_caller]
pub fn run(sql: &str) {
    if let Err(error) = Spi::run(sql) {
        panic!("{error}: {sql}");
    }
}

/// The rows of a query for one text.
#[track_caller]
pub fn texts(query: &str) -> Vec<String> {
    match Spi::get_one::<Vec<Option<String>>>(&format!("select array({query})")) {
        Ok(rows) => {
            rows.unwrap_or_default().into_iter().map(|row| row.unwrap_or_else(|| "null".into())).collect()
        }
        Err(error) => panic!("{error}: {query}"),
    }
}

/// The row of a query for one text.
#[track_caller]
pub fn text(query: &str) -> String {
    let rows = texts(query);
    assert_eq!(rows.len(), 1, "{query}: {rows:?}");
    rows.into_iter().next().unwrap_or_default()
}

/// Lets capture write what it holds, as at the end of the transaction; later rows are written at once.
pub fn reach_the_end() {
    crate::capture::on_transaction(Moment::BeforeEnd);
}

/// The payloads captured so far, in the order of capture.
pub fn payloads() -> Vec<String> {
    reach_the_end();
    texts("select m.payload from lago_push.message m order by m.id")
}

/// What one property of each event captured so far is, as it is written in the payload.
pub fn properties(name: &str) -> Vec<String> {
    reach_the_end();
    texts(&format!(
        "select (m.payload::json -> 'properties' -> '{name}')::text from lago_push.message m order by m.id"
    ))
}

/// The paths captured so far; `null` where the call's own serves.
pub fn paths() -> Vec<String> {
    reach_the_end();
    texts("select m.path from lago_push.message m order by m.id")
}

/// Why rows captured so far could not be rendered.
pub fn reasons() -> Vec<String> {
    reach_the_end();
    texts("select reason from lago_push.dead_letters order by id")
}

/// The operations captured so far, one letter each.
pub fn operations() -> String {
    reach_the_end();
    texts("select m.operation::text from lago_push.message m order by m.id").concat()
}

/// SQLSTATE, message, DETAIL and HINT of the error a statement ends in.
#[track_caller]
pub fn failure(statement: &str) -> [String; 4] {
    let made = || text("select pg_temp.made()");
    let role = || text("select concat_ws(' ', session_user, current_user, current_setting('search_path'))");
    let before = (made(), role());
    let quoted = statement.replace("$statement$", "$s$");
    let failure =
        Spi::get_one::<Vec<String>>(&format!("select pg_temp.failure($statement${quoted}$statement$)"));
    let Ok(Some(failure)) = failure else { panic!("succeeded: {statement}") };
    assert_eq!((made(), role()), before, "half made by: {statement}");
    failure.try_into().expect("four texts")
}

/// A statement is refused with exactly this SQLSTATE, message, DETAIL and HINT; empty means none.
#[track_caller]
pub fn refuses(statement: &str, words: [&str; 4]) {
    assert_eq!(failure(statement), words, "{statement}");
}

/// The worker does its work in transactions of their own; a test has one for all, so it has to show its own doing.
pub fn up_to_now<R>(work: impl FnOnce() -> R) -> R {
    // SAFETY: inside a transaction.
    unsafe { pg_sys::CommandCounterIncrement() };
    // SAFETY: as above.
    unsafe { pg_sys::PushActiveSnapshot(pg_sys::GetTransactionSnapshot()) };
    let result = work();
    // SAFETY: pops what was pushed above.
    unsafe { pg_sys::PopActiveSnapshot() };
    result
}
