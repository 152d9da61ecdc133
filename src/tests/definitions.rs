//! Wrong definitions: each gets an error of its own, which says what is wrong and what to type.

#[pgrx::pg_schema]
mod tests {
    use crate::tests::stage::{self, event, event_without, failure, run};
    use pgrx::prelude::*;
    use std::collections::HashSet;

    /// A statement, and the SQLSTATE, message, DETAIL and HINT it is refused with.
    struct Wrong {
        statement: String,
        words: [&'static str; 4],
    }

    fn wrong(statement: impl Into<String>, words: [&'static str; 4]) -> Wrong {
        Wrong { statement: statement.into(), words }
    }

    fn create(options: &str) -> String {
        format!("select lago_push.create_sync('wrong', 'public.calls', {options})")
    }

    fn with_template(template: &str, options: &str) -> String {
        create(&format!("$t${template}$t${options}"))
    }

    /// A good event but for one of its members.
    fn with_member(member: &str) -> String {
        with_template(&event(member), "")
    }

    /// A good definition but for what follows.
    fn with(options: &str) -> String {
        with_template(&event(""), &format!(", {options}"))
    }

    /// A mapper, and nothing else but what follows.
    fn mapped(mapper: &str, options: &str) -> String {
        create(&format!("mapper => 'public.{mapper}'{options}"))
    }

    const MALFORMED: &str = "22P02";
    const UNSUPPORTED: &str = "0A000";
    const INVALID: &str = "22023";
    const NO_COLUMN: &str = "42703";
    const WRONG_FUNCTION: &str = "42P13";
    const DENIED: &str = "42501";

    /// What the cases below refer to.
    fn set() {
        stage::set();
        stage::draft("taken", "");
        run("create view public.a_view as select * from public.calls;
             create function public.to_text(public.calls) returns text language sql as 'select null::text';
             create function public.to_many(public.calls) returns setof jsonb language sql as 'select null::jsonb';
             create function public.of_number(integer) returns jsonb language sql as 'select null::jsonb';
             create function public.of_four(public.calls, public.calls, text, text) returns jsonb language sql as 'select null::jsonb';
             create function public.secret(public.calls) returns jsonb language sql as 'select null::jsonb';
             create function public.good(public.calls) returns jsonb language sql as 'select null::jsonb';
             revoke execute on function public.secret(public.calls) from public;
             create role stranger;
             grant usage on schema lago_push to stranger;
             grant execute on all functions in schema lago_push to stranger;
             create role maker in role stranger;
             create table public.mine (id int);
             create function public.closed(public.mine) returns jsonb language sql as 'select null::jsonb';
             revoke execute on function public.closed(public.mine) from public;
             alter table public.mine owner to maker");
    }

    fn in_templates() -> Vec<Wrong> {
        vec![
            wrong(
                with_template("", ""),
                [
                    MALFORMED,
                    "template, line 1, column 1: the template is empty",
                    "",
                    "write a JSON object with {{ row.column }} where a value belongs",
                ],
            ),
            wrong(
                with_template("{\"code\": \"x\" \"timestamp\": 0}", ""),
                [
                    MALFORMED,
                    "template, line 1, column 14: a comma or a closing brace is expected here",
                    "",
                    "check the value before it, and the commas",
                ],
            ),
            wrong(
                with_template("{\"code\": 'x'}", ""),
                [
                    MALFORMED,
                    "template, line 1, column 10: JSON strings stand in double quotes",
                    "",
                    "write \" instead of '",
                ],
            ),
            wrong(
                with_member(r#""code": "{{ row.regoin }}""#),
                [
                    NO_COLUMN,
                    "template, line 2, column 12: table public.calls has no column \"regoin\"",
                    "",
                    "Perhaps you meant \"region\".",
                ],
            ),
            wrong(
                with_member(r#""code": "{{ row.subscriptoin | upcase }}""#),
                [
                    NO_COLUMN,
                    "template, line 2, column 15: table public.calls has no column \"subscriptoin\"",
                    "",
                    "Perhaps you meant \"subscription\".",
                ],
            ),
            wrong(
                with_member(r#""code": "{% if row.bites > 1 %}a{% else %}b{% endif %}""#),
                [
                    NO_COLUMN,
                    "template, line 2, column 18: table public.calls has no column \"bites\"",
                    "",
                    "Perhaps you meant \"bytes\".",
                ],
            ),
            wrong(
                with_template(r#"{"name": "x"}"#, ", path => '/customers/{{ row.customer }}'"),
                [
                    NO_COLUMN,
                    "path, line 1, column 15: table public.calls has no column \"customer\"",
                    "",
                    "Columns: id, subscription, bytes, region, created_at.",
                ],
            ),
            wrong(
                with_template(
                    &event(r#""properties": {"region": "{{ row.region }}"}"#),
                    ", exclude => '{region}'",
                ),
                [
                    INVALID,
                    "template, line 2, column 29: column \"region\" is excluded",
                    "The parameter exclude names it, so the sync may not see it.",
                    "Take it out of one of the two.",
                ],
            ),
            wrong(
                with_member(r#""code": "{{ row.region | upcse }}""#),
                [
                    MALFORMED,
                    "template, line 2, column 12: there is no filter \"upcse\"",
                    "",
                    "did you mean upcase?",
                ],
            ),
            wrong(
                with_member(r#""code": "{{ row.region | append }}""#),
                [
                    MALFORMED,
                    "template, line 2, column 12: filter append takes one argument, not 0",
                    "",
                    "write | append: …",
                ],
            ),
            wrong(
                with_template(r#"{"code": "{{ row.region"}"#, ""),
                [MALFORMED, "template, line 1, column 11: a {{ is not closed", "", "add }}"],
            ),
            wrong(
                with_member(r#""code": "{% include 'x' %}""#),
                [
                    UNSUPPORTED,
                    "template, line 2, column 12: the tag {% include %} is not supported",
                    "",
                    "there are if, unless, case, for, break, continue, assign, capture, comment and raw",
                ],
            ),
            wrong(
                with_member(r#""code": "{% if row.region %}x""#),
                [MALFORMED, "template, line 2, column 12: {% if %} is not closed", "", "add {% endif %}"],
            ),
            wrong(
                with_member(r#""code": "{% endif %}""#),
                [
                    MALFORMED,
                    "template, line 2, column 12: {% endif %} belongs to no tag before it",
                    "",
                    "remove it, or add what it ends",
                ],
            ),
            wrong(
                with_member(r#""code": {% if row.region %}"x{% else %}"y"{% endif %}"#),
                [
                    MALFORMED,
                    "template, line 2, column 11: the branches of {% if %} leave the JSON in different places",
                    "",
                    "open and close quotes, braces and brackets within the same branch; without else the branch may also be skipped",
                ],
            ),
            wrong(
                with_member(r#""code": "{% for x in (1..3) %}", {% endfor %}""#),
                [
                    MALFORMED,
                    "template, line 2, column 12: the body of {% for %} ends elsewhere in the JSON than it begins",
                    "",
                    "open and close quotes, braces and brackets within the body",
                ],
            ),
            wrong(
                with_member(r#""code": "{{ region | upcase }}""#),
                [
                    MALFORMED,
                    "template, line 2, column 12: \"region\" names neither row, old nor op",
                    "",
                    "write row.region for the column, or \"region\" for the text",
                ],
            ),
            wrong(
                with_member(r#""code": "a", "code": "b""#),
                [
                    MALFORMED,
                    "template, line 2, column 16: the key \"code\" stands twice",
                    "",
                    "keep one of them",
                ],
            ),
        ]
    }

    fn in_what_lago_reads() -> Vec<Wrong> {
        vec![
            wrong(
                with_member(r#""externalSubscriptionId": "x""#),
                [
                    MALFORMED,
                    "template, line 2, column 3: Lago reads no key \"externalSubscriptionId\" in an event and drops it without a word",
                    "",
                    "write \"external_subscription_id\"",
                ],
            ),
            wrong(
                with_member(r#""external_customer_id": "x""#),
                [
                    MALFORMED,
                    "template, line 2, column 3: Lago reads no key \"external_customer_id\" in an event and drops it without a word",
                    "",
                    "name the subscription, not the customer: \"external_subscription_id\"",
                ],
            ),
            wrong(
                with_member(r#""timestamp": "2024-03-14T13:09:00Z""#),
                [
                    MALFORMED,
                    "template, line 2, column 3: \"timestamp\" is not a time in Unix seconds",
                    "",
                    "write {{ row.created_at }} (a timestamptz column becomes Unix seconds), or seconds, not milliseconds and not ISO 8601",
                ],
            ),
            wrong(
                with_member(r#""timestamp": 1710421740123"#),
                [
                    MALFORMED,
                    "template, line 2, column 3: \"timestamp\" is too large for Unix seconds: it looks like milliseconds",
                    "",
                    "write seconds: Lago answers 200 to milliseconds and never bills them",
                ],
            ),
            wrong(
                with_template(&event_without("code"), ""),
                [
                    MALFORMED,
                    "template, line 1, column 1: the template has no \"code\"",
                    "",
                    "it is the code of the billable metric: \"code\": \"api_calls\"",
                ],
            ),
            wrong(
                with_template(r#"{"name": "x"}"#, ", endpoint => 'customer'"),
                [
                    MALFORMED,
                    "template, line 1, column 1: the template has no \"external_id\"",
                    "",
                    "write \"external_id\": \"{{ row.column }}\"",
                ],
            ),
            wrong(
                with_template(r#"{"wallet_id": "{{ row.id }}"}"#, ", endpoint => 'wallet_transaction'"),
                [
                    MALFORMED,
                    "template, line 1, column 1: the template has none of paid_credits, granted_credits, voided_credits",
                    "",
                    "for example: \"paid_credits\": \"{{ row.amount }}\"",
                ],
            ),
            wrong(
                with_template(
                    r#"{"wallet_id": "{{ row.id }}", "paid_credits": {{ row.bytes }}}"#,
                    ", endpoint => 'wallet_transaction'",
                ),
                [
                    MALFORMED,
                    "template, line 1, column 31: \"paid_credits\" is a JSON number, and Lago takes it as text only",
                    "",
                    "put it in double quotes: write \"paid_credits\": \"{{ row.amount }}\"",
                ],
            ),
            wrong(
                with_template(
                    r#"{"invoice_id": "{{ row.id }}", "amount_cents": 100, "reference": "0123456789 0123456789 0123456789 01234567"}"#,
                    ", endpoint => 'payment'",
                ),
                [
                    MALFORMED,
                    "template, line 1, column 53: \"reference\" is longer than the 40 characters Lago takes",
                    "",
                    "shorten it",
                ],
            ),
            wrong(
                with_template(
                    r#"{"name": "n", "code": "c", "aggregation_type": "sum_agg"}"#,
                    ", endpoint => 'billable_metric'",
                ),
                [
                    MALFORMED,
                    "template, line 1, column 28: this aggregation needs \"field_name\"",
                    "",
                    "name the property it reads: \"field_name\": \"bytes\"; only count_agg goes without",
                ],
            ),
            wrong(
                with_template(
                    r#"{"external_customer_id": "c", "rate_amount": "1.0", "currency": "euro"}"#,
                    ", endpoint => 'wallet'",
                ),
                [
                    MALFORMED,
                    "template, line 1, column 53: \"currency\" is not the code of a currency",
                    "",
                    "write \"currency\": \"EUR\"",
                ],
            ),
            wrong(
                with_template(
                    r#"{"external_id": "{{ row.id }}", "name": "x"}"#,
                    ", endpoint => 'customer_delete', operations => '{delete}'",
                ),
                [
                    MALFORMED,
                    "template, line 1, column 33: \"name\" has no place in a customer_delete, which has no body",
                    "",
                    "the keys are external_id",
                ],
            ),
            wrong(
                with_template(r#"{"name": "x"}"#, ", path => '/tenants/{tenant}'"),
                [
                    MALFORMED,
                    "template, line 1, column 1: the template has no \"tenant\"",
                    "",
                    "write \"tenant\": \"{{ row.column }}\"",
                ],
            ),
            wrong(
                with_template(&format!("{{\"event\": {}}}", event("")), ""),
                [
                    MALFORMED,
                    "template, line 1, column 2: \"event\" is the key that wraps what is sent",
                    "",
                    "leave the outer key out: lago_push adds it",
                ],
            ),
            wrong(
                with_template(&format!("{{\"events\": [{}]}}", event("")), ""),
                [
                    MALFORMED,
                    "template, line 1, column 2: \"events\" is the key that wraps what is sent",
                    "",
                    "leave the outer key and the array out, and write one object: lago_push puts several into a request itself",
                ],
            ),
            wrong(
                with_member(r#""transaction_id": "call""#),
                [
                    MALFORMED,
                    "template, line 2, column 3: \"transaction_id\" is the same for every row, so Lago would bill one row and take all others for repeats",
                    "",
                    "put the primary key into it: \"call-{{ row.id }}\"; or leave it out, and lago_push makes one",
                ],
            ),
            wrong(
                with_member(r#""properties": "x""#),
                [
                    MALFORMED,
                    "template, line 2, column 3: \"properties\" is not an object, and Lago drops it without a word",
                    "",
                    "write \"properties\": {\"name\": \"{{ row.column }}\"}",
                ],
            ),
            wrong(
                with_member(r#""properties": {"before": {{ old.bytes }}}"#),
                [
                    INVALID,
                    "the template names old, but the sync captures inserts only",
                    "An inserted row has no older version.",
                    "Add update or delete to operations, or use row.",
                ],
            ),
        ]
    }

    fn in_parameters() -> Vec<Wrong> {
        vec![
            wrong(with("endpoint => 'evnt'"), [INVALID, "endpoint \"evnt\" is not known", "", "…"]),
            wrong(
                with("mapper => 'public.good(public.calls)'"),
                [INVALID, "sync \"wrong\" has both a template and a mapper", "", "Give one of them."],
            ),
            wrong(
                create("null"),
                [
                    "22004",
                    "sync \"wrong\" needs a template",
                    "",
                    "select example from lago_push.endpoints shows one; lago_push.suggest_template() drafts one from the table's columns.",
                ],
            ),
            wrong(
                with("method => 'GET', path => '/x'"),
                [INVALID, "method must be POST, PUT, PATCH or DELETE", "", ""],
            ),
            wrong(
                with("path => 'customers'"),
                [
                    INVALID,
                    "path must begin with a slash",
                    "It follows the destination's URL, which ends with /api/v1.",
                    "For example: path => '/customers/{{ row.external_id }}'.",
                ],
            ),
            wrong(
                with("endpoint => 'manual'"),
                [
                    INVALID,
                    "sync \"wrong\" names no path",
                    "",
                    "A manual call needs one: path => '/customers/{{ row.external_id }}'.",
                ],
            ),
            wrong(
                with("path => '/x', root => 'a b'"),
                [
                    INVALID,
                    "root must be one key",
                    "It wraps the payload: root => 'customer' sends {\"customer\": …}.",
                    "",
                ],
            ),
            wrong(
                with("headers => '[\"X-Tenant\"]'"),
                [
                    INVALID,
                    "headers must be a JSON object of header names and text",
                    "",
                    "For example: '{\"X-Tenant\": \"acme\"}'.",
                ],
            ),
            wrong(
                with("headers => '{\"Authorization\": \"Bearer x\"}'"),
                [
                    INVALID,
                    "headers sets a header that lago_push sets itself",
                    "",
                    "The API key goes into api_key, never into headers: headers are readable.",
                ],
            ),
            wrong(
                with("schedule => 'now and then'"),
                [
                    INVALID,
                    "schedule is neither an interval nor five cron fields",
                    "…",
                    "For example '15 minutes', or '0 3 * * *' for 3:00 UTC each day.",
                ],
            ),
            wrong(
                with("schedule => '1 month'"),
                [
                    INVALID,
                    "schedule as an interval must be whole seconds, at least one and at most 366 days",
                    "",
                    "For months write cron fields: '0 3 1 * *' is the first of each month at 3:00 UTC.",
                ],
            ),
            wrong(
                with("keep_replies => '-1 s'"),
                [INVALID, "keep_replies must be between 1 second and 10 years", "", ""],
            ),
            wrong(
                with("unchanged => 'ignore'"),
                [
                    INVALID,
                    "unchanged must be send or skip",
                    "It says what is done with an update that changes no value the sync uses.",
                    "",
                ],
            ),
            wrong(
                with("unchanged => 'skip'"),
                [
                    INVALID,
                    "unchanged is skip, but the sync does not capture updates",
                    "",
                    "Add update to operations, or leave unchanged out.",
                ],
            ),
            wrong(
                with("columns => '{bytes}'"),
                [
                    INVALID,
                    "columns is given, but the sync does not capture updates",
                    "",
                    "Add update to operations, or leave columns out.",
                ],
            ),
            wrong(
                with("columns => '{size}', operations => '{update}'"),
                [
                    NO_COLUMN,
                    "column \"size\" of table public.calls does not exist",
                    "",
                    "columns lists the columns whose update is captured.",
                ],
            ),
            wrong(
                with("exclude => '{email}'"),
                [
                    NO_COLUMN,
                    "column \"email\" of table public.calls does not exist",
                    "",
                    "exclude lists the columns the sync may not see.",
                ],
            ),
            wrong(
                with("batch_size => 101"),
                [
                    INVALID,
                    "batch_size must be between 1 and 100",
                    "Lago takes at most 100 events in one request.",
                    "",
                ],
            ),
            wrong(
                with("on_error => 'ignore'"),
                [
                    INVALID,
                    "on_error must be dead_letter or raise",
                    "dead_letter lets the write go through and keeps the row; raise refuses the write.",
                    "",
                ],
            ),
            wrong(
                with("operations => '{upsert}'"),
                [
                    INVALID,
                    "operations must be some of insert, update, delete",
                    "",
                    "For example: operations => '{insert,update}'.",
                ],
            ),
            wrong(
                with("destination => 'nowhere'"),
                ["42704", "destination \"nowhere\" does not exist", "", "Destinations: lago."],
            ),
            wrong(
                format!("select lago_push.create_sync('', 'public.calls', $t${}$t$)", event("")),
                [INVALID, "a sync needs a name", "", ""],
            ),
            wrong(
                format!("select lago_push.create_sync('taken', 'public.calls', $t${}$t$)", event("")),
                [
                    "42710",
                    "sync \"taken\" already exists",
                    "",
                    "Change it with lago_push.alter_sync(), drop it with lago_push.drop_sync(), or choose another name.",
                ],
            ),
        ]
    }

    fn in_filters() -> Vec<Wrong> {
        vec![
            wrong(with("filter => 'new.bytes >'"), ["42601", "syntax error at end of input", "", ""]),
            wrong(
                with("filter => 'new.nothing > 0'"),
                [NO_COLUMN, "column new.nothing does not exist", "", ""],
            ),
            wrong(
                with("filter => 'new.bytes + 1'"),
                ["42804", "argument of WHEN must be type boolean, not type numeric", "", ""],
            ),
            wrong(
                with("filter => 'true) execute function pg_temp.x(); --'"),
                ["42601", "syntax error at or near \")\"", "", ""],
            ),
            wrong(
                with("filter => 'true; drop table public.calls'"),
                ["42601", "syntax error at or near \";\"", "", ""],
            ),
        ]
    }

    fn in_sources_and_mappers() -> Vec<Wrong> {
        let template = event("");
        vec![
            wrong(
                format!("select lago_push.create_sync('wrong', 'public.a_view', $t${template}$t$)"),
                [
                    "42809",
                    "\"public.a_view\" is not a table",
                    "Rows are captured by a row trigger, which only tables and partitioned tables can have.",
                    "Name the table the rows are written to, or have a query run on a schedule: query => 'table public.a_view', key => '{…}'.",
                ],
            ),
            wrong(
                format!("select lago_push.create_sync('wrong', null, $t${template}$t$)"),
                ["22004", "sync \"wrong\" needs a source", "", "Give the table: source => 'public.my_table'; or, for what is none, a query: query => 'select …', key => '{id}'."],
            ),
            wrong(
                format!("set local role stranger; {}", with_template(&template, "")),
                [
                    DENIED,
                    "must be owner of table public.calls",
                    "A sync sends what the table holds to another system, so only its owner may make or change one.",
                    "…",
                ],
            ),
            wrong(
                mapped("to_text(public.calls)", ""),
                [
                    WRONG_FUNCTION,
                    "mapper public.to_text(public.calls) does not return one jsonb",
                    "It returns text.",
                    "Declare it returns jsonb; null skips the row.",
                ],
            ),
            wrong(
                mapped("to_many(public.calls)", ""),
                [
                    WRONG_FUNCTION,
                    "mapper public.to_many(public.calls) does not return one jsonb",
                    "It returns SETOF jsonb.",
                    "Declare it returns jsonb; null skips the row.",
                ],
            ),
            wrong(
                mapped("of_number(integer)", ""),
                [
                    WRONG_FUNCTION,
                    "mapper public.of_number(integer) does not take rows of public.calls",
                    "",
                    "It takes the row, and if it likes the old row and the operation: (public.calls), (public.calls, public.calls) or (public.calls, public.calls, text).",
                ],
            ),
            wrong(
                mapped("of_four(public.calls,public.calls,text,text)", ""),
                [
                    WRONG_FUNCTION,
                    "mapper public.of_four(public.calls,public.calls,text,text) does not take rows of public.calls",
                    "",
                    "It takes the row, and if it likes the old row and the operation: (public.calls), (public.calls, public.calls) or (public.calls, public.calls, text).",
                ],
            ),
            wrong(
                mapped("nobody(public.calls)", ""),
                ["42883", "function \"public.nobody(public.calls)\" does not exist", "", ""],
            ),
            wrong(
                "set local role maker;
                 select lago_push.create_sync('wrong', 'public.mine', mapper => 'public.closed(public.mine)')",
                [
                    DENIED,
                    "permission denied for mapper public.closed(public.mine)",
                    "It runs with the rights of the source's owner, who must be allowed to execute it; so must you.",
                    "",
                ],
            ),
        ]
    }

    fn in_changes() -> Vec<Wrong> {
        let alter = |options: &str| format!("select lago_push.alter_sync('taken', {options})");
        vec![
            wrong(
                "select lago_push.alter_sync('tkaen', batch_size => 10)",
                ["42704", "sync \"tkaen\" does not exist", "", "Syncs: taken."],
            ),
            wrong(
                alter("template => '{}', mapper => 'public.good(public.calls)'"),
                [INVALID, "sync \"taken\" has both a template and a mapper", "", "Give one of them."],
            ),
            wrong(
                alter("template => ''"),
                [
                    "22004",
                    "sync \"taken\" needs a template",
                    "",
                    "select example from lago_push.endpoints shows one; lago_push.suggest_template() drafts one from the table's columns.",
                ],
            ),
            wrong(
                alter("source => 'public.mine'"),
                [
                    NO_COLUMN,
                    "template, line 3, column 32: table public.mine has no column \"subscription\"",
                    "",
                    "Columns: id.",
                ],
            ),
            wrong(
                alter("keep_replies => '11 years'"),
                [INVALID, "keep_replies must be between 1 second and 10 years", "", ""],
            ),
        ]
    }

    #[pg_test]
    fn every_wrong_definition_is_refused_in_words_of_its_own() {
        set();
        let cases: Vec<Wrong> = [
            in_templates(),
            in_what_lago_reads(),
            in_parameters(),
            in_filters(),
            in_sources_and_mappers(),
            in_changes(),
        ]
        .into_iter()
        .flatten()
        .collect();
        let mut amiss = Vec::new();
        let mut seen = HashSet::new();
        for Wrong { statement, words } in &cases {
            let said = failure(statement);
            for (said, wanted) in said.iter().zip(words) {
                if said != wanted && *wanted != "…" {
                    amiss.push(format!("{said:?} instead of {wanted:?}: {statement}"));
                }
            }
            seen.insert([said[1].clone(), said[2].clone()]);
        }
        assert!(amiss.is_empty(), "{} amiss:\n{}", amiss.len(), amiss.join("\n"));
        // One mistake is made twice, once in each of create_sync and alter_sync.
        assert_eq!(seen.len() + 1, cases.len(), "two mistakes share their words");
        assert!(seen.len() >= 36);
    }
}
