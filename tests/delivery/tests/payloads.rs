//! What a value becomes on its way into a payload: valid JSON whatever the row holds, exact numbers, and the
//! same bytes whatever the writing session is set to.
#![forbid(unsafe_code)]

use delivery::cluster::Cluster;
use delivery::oracle::{assert_billed, assert_billed_exactly_once};
use delivery::random::Random;
use delivery::scene::{SUBSCRIPTIONS, Scene};
use delivery::wait::{PATIENCE, wait_until};
use fake_lago::Store;
use serde_json::Value;

/// What is expected of a value in one of the two places a hole can stand.
enum Expect {
    /// This JSON, numbers digit by digit.
    Json(&'static str),
    /// A string or number that PostgreSQL reads back as the same value.
    ReadsBack,
}

use Expect::{Json, ReadsBack};

/// Type, SQL literal, what it is in value position, what it is inside a string.
type Case = (&'static str, &'static str, Expect, Expect);

fn cases() -> Vec<Case> {
    vec![
        ("boolean", "true", Json("true"), Json(r#""true""#)),
        ("boolean", "false", Json("false"), Json(r#""false""#)),
        ("smallint", "-32768", Json("-32768"), Json(r#""-32768""#)),
        ("integer", "2147483647", Json("2147483647"), Json(r#""2147483647""#)),
        ("bigint", "9223372036854775807", Json("9223372036854775807"), Json(r#""9223372036854775807""#)),
        ("bigint", "-9223372036854775808", Json("-9223372036854775808"), Json(r#""-9223372036854775808""#)),
        ("numeric", "1.50", Json("1.50"), Json(r#""1.50""#)),
        (
            "numeric",
            "0.000000000000000000001",
            Json("0.000000000000000000001"),
            Json(r#""0.000000000000000000001""#),
        ),
        (
            "numeric",
            "-123456789012345678901234567890.123456789012345678901234567890",
            Json("-123456789012345678901234567890.123456789012345678901234567890"),
            Json(r#""-123456789012345678901234567890.123456789012345678901234567890""#),
        ),
        ("numeric(20, 4)", "7", Json("7.0000"), Json(r#""7.0000""#)),
        (
            "numeric",
            "1e40",
            Json("10000000000000000000000000000000000000000"),
            Json(r#""10000000000000000000000000000000000000000""#),
        ),
        ("real", "0.1", Json("0.1"), Json(r#""0.1""#)),
        ("double precision", "0.1", Json("0.1"), Json(r#""0.1""#)),
        ("double precision", "1e-7", Json("0.0000001"), Json(r#""0.0000001""#)),
        ("double precision", "1e21", Json("1000000000000000000000"), Json(r#""1000000000000000000000""#)),
        (
            "double precision",
            "0.30000000000000004",
            Json("0.30000000000000004"),
            Json(r#""0.30000000000000004""#),
        ),
        ("double precision", "123456.789", Json("123456.789"), Json(r#""123456.789""#)),
        ("text", "'plain'", Json(r#""plain""#), Json(r#""plain""#)),
        ("text", "''", Json(r#""""#), Json(r#""""#)),
        (
            "text",
            r#"'a "quoted" \ back/slash'"#,
            Json(r#""a \"quoted\" \\ back/slash""#),
            Json(r#""a \"quoted\" \\ back/slash""#),
        ),
        (
            "text",
            r"E'line\nbreak\ttab\r\x01\x1f'",
            Json(r#""line\nbreak\ttab\r\u0001\u001f""#),
            Json(r#""line\nbreak\ttab\r\u0001\u001f""#),
        ),
        (
            "text",
            "'Größe 東京 🐘 \u{2028}'",
            Json("\"Größe 東京 🐘 \u{2028}\""),
            Json("\"Größe 東京 🐘 \u{2028}\""),
        ),
        (
            "text",
            "'{{ row.id }} {% if %} }}'",
            Json(r#""{{ row.id }} {% if %} }}""#),
            Json(r#""{{ row.id }} {% if %} }}""#),
        ),
        ("varchar(20)", "'short'", Json(r#""short""#), Json(r#""short""#)),
        // Padding is how the type is stored, not what it says.
        ("char(5)", "'ab'", Json(r#""ab""#), Json(r#""ab""#)),
        ("name", "'a name'", Json(r#""a name""#), Json(r#""a name""#)),
        ("\"char\"", "'x'", Json(r#""x""#), Json(r#""x""#)),
        ("bytea", r"'\x00ff41'", Json(r#""\\x00ff41""#), Json(r#""\\x00ff41""#)),
        (
            "uuid",
            "'1A901A90-1a90-1a90-1a90-1a901a901a90'",
            Json(r#""1a901a90-1a90-1a90-1a90-1a901a901a90""#),
            Json(r#""1a901a90-1a90-1a90-1a90-1a901a901a90""#),
        ),
        ("date", "'2024-03-14'", Json(r#""2024-03-14""#), Json(r#""2024-03-14""#)),
        ("time", "'13:09:00.25'", Json(r#""13:09:00.25""#), Json(r#""13:09:00.25""#)),
        ("timetz", "'13:09:00+02'", ReadsBack, ReadsBack),
        (
            "timestamp",
            "'2024-03-14 13:09:00.123456'",
            Json(r#""2024-03-14T13:09:00.123456""#),
            Json(r#""2024-03-14T13:09:00.123456""#),
        ),
        ("timestamptz", "'2024-03-14 13:09:00.123456+05:30'", ReadsBack, ReadsBack),
        ("interval", "'1 year 2 months 3 days 04:05:06.789'", ReadsBack, ReadsBack),
        ("interval", "'-1 days +02:03:00'", ReadsBack, ReadsBack),
        (
            "json",
            r#"'{"b": [1, 2.50, null], "a": "x"}'"#,
            Json(r#"{"b":[1,2.50,null],"a":"x"}"#),
            Json(r#""{\"b\": [1, 2.50, null], \"a\": \"x\"}""#),
        ),
        (
            "jsonb",
            r#"'{"n": 12345678901234567890.5}'"#,
            Json(r#"{"n":12345678901234567890.5}"#),
            Json(r#""{\"n\": 12345678901234567890.5}""#),
        ),
        ("jsonb", "'null'", Json("null"), Json(r#""null""#)),
        ("integer[]", "'{1,2,NULL}'", Json("[1,2,null]"), ReadsBack),
        ("integer[]", "'{}'", Json("[]"), ReadsBack),
        ("integer[]", "'{{1,2},{3,4}}'", Json("[[1,2],[3,4]]"), ReadsBack),
        ("numeric[]", "'{1.50,0.1234567890123456789}'", Json("[1.50,0.1234567890123456789]"), ReadsBack),
        (
            "text[]",
            r#"'{"a,b","say \"hi\"",NULL,"NULL"}'"#,
            Json(r#"["a,b","say \"hi\"",null,"NULL"]"#),
            ReadsBack,
        ),
        ("jsonb[]", r#"array['{"a": 1}'::jsonb]"#, Json(r#"[{"a":1}]"#), ReadsBack),
        ("pair", r#"row(7, 'a "b"')"#, Json(r#"{"n":7,"label":"a \"b\""}"#), ReadsBack),
        ("mood", "'in between'", Json(r#""in between""#), Json(r#""in between""#)),
        ("price", "19.90", Json("19.90"), Json(r#""19.90""#)),
        ("int4range", "'[1,5)'", Json(r#""[1,5)""#), Json(r#""[1,5)""#)),
        ("int4multirange", "'{[1,3),[5,8)}'", ReadsBack, ReadsBack),
        ("inet", "'10.0.0.1'", ReadsBack, ReadsBack),
        ("cidr", "'10.0.0.0/8'", Json(r#""10.0.0.0/8""#), Json(r#""10.0.0.0/8""#)),
        ("macaddr", "'08:00:2b:01:02:03'", Json(r#""08:00:2b:01:02:03""#), Json(r#""08:00:2b:01:02:03""#)),
        ("bit(3)", "B'101'", Json(r#""101""#), Json(r#""101""#)),
        ("varbit", "B'10110'", Json(r#""10110""#), Json(r#""10110""#)),
        ("money", "1234.5", ReadsBack, ReadsBack),
        ("oid", "4294967295", ReadsBack, Json(r#""4294967295""#)),
        ("pg_lsn", "'16/B374D848'", Json(r#""16/B374D848""#), Json(r#""16/B374D848""#)),
        ("tsvector", "'fat:2 cat:3'", ReadsBack, ReadsBack),
    ]
}

const TYPES: &str = "create type pair as (n integer, label text);
    create type mood as enum ('sad', 'in between', 'happy');
    create domain price as numeric check (value >= 0)";

/// A template of an event with these properties.
fn event(transaction_id: &str, properties: &str) -> String {
    format!(
        r#"{{"transaction_id": "{transaction_id}", "external_subscription_id": "sub_1", "code": "usage",
            "timestamp": 1710421740, "properties": {{{properties}}}}}"#
    )
}

/// A paused sync of the table `sample`, whose columns `c0`, `c1`, … are put in both places.
fn sample_scene(types: &[&str]) -> Scene {
    let scene = Scene::new();
    scene.sql(TYPES);
    let columns: Vec<String> =
        types.iter().enumerate().map(|(n, sql_type)| format!("c{n} {sql_type}")).collect();
    scene.sql(&format!("create table sample (id int generated always as identity, {})", columns.join(", ")));
    let properties: Vec<String> = (0..types.len())
        .map(|n| format!(r#""v{n}": {{{{ row.c{n} }}}}, "s{n}": "{{{{ row.c{n} }}}}""#))
        .collect();
    let template = event("sample-{{ row.id }}", &properties.join(", "));
    scene.draft_with("sample", &template, "");
    scene.activate("sample");
    scene.sql("select lago_push.pause('sample')");
    scene
}

fn payloads(scene: &Scene) -> Vec<String> {
    scene
        .rows("select payload::text from lago_push.outbox order by id")
        .iter()
        .map(|row| row.get(0))
        .collect()
}

fn parse(payload: &str) -> Value {
    serde_json::from_str(payload).unwrap_or_else(|e| panic!("{e} in {payload}"))
}

#[test]
fn every_type_becomes_the_json_it_should_in_both_places() {
    let cases = cases();
    let types: Vec<&str> = cases.iter().map(|case| case.0).collect();
    let scene = sample_scene(&types);
    let literals: Vec<String> =
        cases.iter().map(|(sql_type, literal, ..)| format!("({literal})::{sql_type}")).collect();
    let literals = literals.join(", ");
    let columns: Vec<String> = (0..cases.len()).map(|n| format!("c{n}")).collect();
    scene.sql(&format!("insert into sample ({}) values ({literals})", columns.join(", ")));

    let payload = parse(&payloads(&scene)[0]);
    let mut wrong = Vec::new();
    for (n, (sql_type, literal, in_value, in_string)) in cases.iter().enumerate() {
        for (place, expected) in [("v", in_value), ("s", in_string)] {
            let got = &payload["properties"][format!("{place}{n}")];
            let (fits, expected) = match expected {
                Json(json) => (*got == parse(json), (*json).to_owned()),
                ReadsBack => {
                    (reads_back(&scene, n, sql_type, got), format!("something that reads back as {literal}"))
                }
            };
            if !fits {
                let place = if place == "v" { "in value position" } else { "in a string" };
                wrong.push(format!("{sql_type} {literal} {place}: {got}, expected {expected}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

fn reads_back(scene: &Scene, column: usize, sql_type: &str, got: &Value) -> bool {
    let text = got.as_str().map_or_else(|| got.to_string(), str::to_owned);
    let sql = format!("select c{column} = $1::text::{sql_type} from sample");
    scene.db().query_one(&sql, &[&text]).is_ok_and(|row| row.get(0))
}

#[test]
fn null_is_null_as_a_value_and_nothing_in_a_string() {
    let cases = cases();
    let types: Vec<&str> = cases.iter().map(|case| case.0).collect();
    let scene = sample_scene(&types);
    scene.sql("insert into sample default values");
    let payload = parse(&payloads(&scene)[0]);
    for (n, sql_type) in types.iter().enumerate() {
        assert_eq!(payload["properties"][format!("v{n}")], Value::Null, "{sql_type} as a value");
        assert_eq!(payload["properties"][format!("s{n}")], "", "{sql_type} in a string");
    }
}

#[test]
fn the_bytes_do_not_depend_on_the_writing_session() {
    let cases = cases();
    let mut types: Vec<&str> = cases.iter().map(|case| case.0).collect();
    types.push("regclass");
    let scene = sample_scene(&types);
    let literals = cases.iter().map(|(sql_type, literal, ..)| format!("({literal})::{sql_type}"));
    let literals = literals.chain(["'sample'::regclass".into()]);
    let originals: Vec<String> =
        literals.enumerate().map(|(n, literal)| format!("{literal} as c{n}")).collect();
    scene.sql(&format!("create table original as select {}", originals.join(", ")));
    let settings = [
        "select 1",
        "set timezone = 'Asia/Kathmandu'",
        "set datestyle = 'German, DMY'",
        "set datestyle = 'SQL, MDY'",
        "set intervalstyle = 'sql_standard'",
        "set intervalstyle = 'iso_8601'",
        "set extra_float_digits = -15",
        "set extra_float_digits = 3",
        "set bytea_output = 'escape'",
        "set search_path = ''",
        "set search_path = 'pg_temp', 'public'",
        "set client_encoding = 'SQL_ASCII'",
        "set client_encoding = 'LATIN1'",
        "set standard_conforming_strings = off",
        "set quote_all_identifiers = on",
        "set lc_monetary = 'C.UTF-8'",
        "set xmlbinary = 'hex'",
        "set default_transaction_isolation = 'serializable'",
        "set timezone = 'Asia/Tokyo'; set datestyle = 'Postgres'; set intervalstyle = 'postgres_verbose'",
    ];
    let columns: Vec<String> = (0..types.len()).map(|n| format!("c{n}")).collect();
    let copy = format!("insert into public.sample ({}) select * from public.original", columns.join(", "));
    for setting in settings {
        let mut session = scene.db();
        session.batch_execute(setting).unwrap_or_else(|e| panic!("{setting}: {e:?}"));
        session.batch_execute(&copy).unwrap_or_else(|e| panic!("after {setting}: {e:?}"));
    }
    let payloads = payloads(&scene);
    assert_eq!(payloads.len(), settings.len());
    let without_id = |n: usize| payloads[n].replacen(&format!("\"sample-{}\"", n + 1), "", 1);
    for (n, setting) in settings.iter().enumerate() {
        assert_eq!(without_id(n), without_id(0), "after {setting}");
    }
}

#[test]
fn the_bytes_are_those_of_the_moment_of_writing() {
    let scene = Scene::new();
    scene.billed_table("usage");
    scene.sql("select lago_push.pause('usage')");
    scene.sql("insert into usage (subscription, amount) values ('sub_1', 1)");
    let before = payloads(&scene);
    scene.sql("update usage set amount = 2, subscription = 'sub_2'; delete from usage");
    assert_eq!(payloads(&scene), before);
    scene.sql("select lago_push.resume('usage')");
    scene.wait_for_event("usage-1");
    let sent: Vec<String> = scene.lago.stored().iter().map(|event| event.raw_text().to_owned()).collect();
    assert_eq!(sent, before);
}

#[test]
fn what_json_cannot_say_is_refused_or_said_as_valid_json() {
    let scene = Scene::new();
    scene.sql(
        "create table odd (id int generated always as identity,
                                  n numeric, f float8, r real, d date, t timestamp)",
    );
    let properties: Vec<String> = ["n", "f", "r", "d", "t"]
        .iter()
        .map(|c| format!(r#""v{c}": {{{{ row.{c} }}}}, "s{c}": "{{{{ row.{c} }}}}""#))
        .collect();
    let template = event("odd-{{ row.id }}", &properties.join(", "));
    scene.draft_with("odd", &template, "");
    scene.activate("odd");
    scene.sql("select lago_push.pause('odd')");
    for (column, value) in [
        ("n", "NaN"),
        ("n", "Infinity"),
        ("n", "-Infinity"),
        ("f", "NaN"),
        ("f", "Infinity"),
        ("f", "-Infinity"),
        ("f", "-0"),
        ("r", "NaN"),
        ("r", "-Infinity"),
        ("d", "infinity"),
        ("d", "0044-03-15 BC"),
        ("t", "-infinity"),
        ("t", "294276-12-31 23:59:59.999999"),
    ] {
        scene.sql(&format!("insert into odd ({column}) values ('{value}')"));
    }
    let rows = payloads(&scene);
    for payload in &rows {
        parse(payload);
    }
    let dead: i64 = scene.value("select count(*) from lago_push.dead_letters");
    assert_eq!(i64::try_from(rows.len()).unwrap() + dead, 13, "every row is a message or a dead letter");
}

#[test]
fn any_text_arrives_as_it_was() {
    let scene = Scene::new();
    scene.sql("create table said (id int primary key, words text)");
    scene.draft_with(
        "said",
        &event("said-{{ row.id }}", r#""amount": "1", "bare": {{ row.words }}, "in": "<{{ row.words }}>""#),
        "",
    );
    scene.activate("said");
    let mut random = Random::seeded(0x007E_5717);
    let bits = [
        "\"",
        "\\",
        "\\\"",
        "\"}",
        "{\"",
        "{{ row.id }}",
        "}}",
        "{%",
        "\u{1}",
        "\n",
        "\r\n",
        "\t",
        "\u{7f}",
        "\u{80}",
        "\u{feff}",
        "\u{2028}",
        "é",
        "東",
        "🐘",
        "'",
        "$$",
        ",",
        "\":\"",
        "\\u0000",
        "null",
        " ",
        "code",
    ];
    let mut db = scene.db();
    let mut said = vec![r#"","code":"stolen","x":""#.to_owned()];
    said.extend((0..300).map(|_| {
        (0..random.below(12))
            .map(|_| bits[usize::try_from(random.below(bits.len() as u64)).unwrap()])
            .collect()
    }));
    for (n, words) in said.iter().enumerate() {
        db.execute("insert into said values ($1, $2)", &[&i32::try_from(n).unwrap(), words]).unwrap();
    }
    assert_billed(&scene, "select 'sub_1', 1 from said");
    for event in scene.lago.stored() {
        let n: usize = event.transaction_id.trim_start_matches("said-").parse().unwrap();
        assert_eq!(event.code, "usage");
        assert_eq!(event.properties["bare"], said[n].as_str());
        assert_eq!(event.properties["in"], format!("<{}>", said[n]));
    }
}

#[test]
fn a_timestamp_becomes_unix_seconds_to_the_microsecond() {
    for (sql_type, hole) in [
        ("timestamptz", "{{ row.at }}"),
        ("timestamptz", "\"{{ row.at }}\""),
        ("timestamp", "{{ row.at }}"),
        ("timestamp", "\"{{ row.at }}\""),
    ] {
        let scene = Scene::new();
        scene.sql(&format!("create table moment (id int primary key, at {sql_type} not null)"));
        scene.draft_with(
            "moment",
            &event("m-{{ row.id }}", r#""amount": "1""#).replace("1710421740", hole),
            "",
        );
        scene.activate("moment");
        scene.sql("select lago_push.pause('moment')");
        scene.sql(
            "set timezone = 'Asia/Tokyo'; set datestyle = 'German';
             insert into moment values
                 (1, '2024-03-14 13:09:00.123456+00'), (2, '2024-03-14 13:09:00+00'),
                 (3, '2024-03-14 13:09:00.000001+00'), (4, '1969-12-31 23:59:59.5+00'),
                 (5, '1970-01-01 00:00:00+00'), (6, '2024-03-14 13:09:00.100000+00')",
        );
        let expected: Vec<String> = scene
            .rows(
                "select trim_scale(extract(epoch from at at time zone 'UTC' at time zone 'UTC'))::text
                 from moment order by id",
            )
            .iter()
            .map(|row| row.get(0))
            .collect();
        for (payload, expected) in payloads(&scene).iter().zip(&expected) {
            let got = &parse(payload)["timestamp"];
            let got = got.as_str().map_or_else(|| got.to_string(), str::to_owned);
            let same: bool = scene.value(&format!("select {got} = {expected}"));
            assert!(same, "{sql_type} in {hole}: {got}, expected {expected}");
        }
    }
}

#[test]
fn columns_with_any_name_can_be_used() {
    let scene = Scene::new();
    scene.sql(r#"create table usage ("The Id" int primary key, "select" text, größe numeric)"#);
    scene.draft_with(
        "usage",
        r#"{"transaction_id": "named-{{ row["The Id"] }}", "external_subscription_id": "{{ row.select }}",
            "code": "usage", "timestamp": 1710421740, "properties": {"amount": "{{ row.größe }}"}}"#,
        "",
    );
    scene.activate("usage");
    scene.sql("insert into usage values (1, 'sub_1', 1.25)");
    scene.wait_for_exactly(&["named-1"]);
    assert_billed(&scene, r#"select "select", größe from usage"#);
}

#[test]
fn large_values_arrive_whole() {
    let scene = Scene::new();
    scene.sql(
        "create table document (id int primary key, words text, amount numeric);
         alter table document alter words set storage external",
    );
    scene.draft_with(
        "document",
        &event(
            "{{ op }}-{{ row.id }}-{{ row.amount }}",
            r#""amount": "{{ row.amount }}", "words": "{{ row.words }}""#,
        ),
        "operations => '{insert,update,delete}'",
    );
    scene.activate("document");
    // Out of line in the table; the update does not touch it, the delete removes it.
    scene.sql("insert into document select n, repeat('0123456789', 100000), n from generate_series(1, 5) n");
    scene.sql("update document set amount = amount + 10 where id < 3");
    scene.sql("delete from document where id = 3");
    wait_until("all have arrived", PATIENCE, || scene.lago.stored_count() == 8);
    for event in scene.lago.stored() {
        assert_eq!(
            event.properties["words"].as_str().map(str::len),
            Some(1_000_000),
            "{}",
            event.transaction_id
        );
    }
    assert_billed(&scene, "select 'sub_1', unnest('{1, 2, 3, 4, 5, 11, 12, 3}'::numeric[])");
}

#[test]
fn a_database_in_another_encoding_sends_utf_8() {
    let scene =
        Scene::in_database(Cluster::shared(), Store::Postgres, "encoding 'LATIN1' template template0");
    scene.create_destination("lago");
    scene.sql("create table usage (id int primary key, subscription text, amount numeric, note text)");
    scene.draft_with(
        "usage",
        &event("größe-{{ row.id }}", r#""amount": "{{ row.amount }}", "note": "{{ row.note }}""#),
        "",
    );
    scene.activate("usage");
    scene.sql("insert into usage values (1, 'sub_1', 1, 'Übergröße: naïve café')");
    scene.wait_for_exactly(&["größe-1"]);
    assert_eq!(scene.lago.stored()[0].properties["note"], "Übergröße: naïve café");
    assert_billed_exactly_once(&scene);
}

#[test]
fn exact_amounts_add_up_exactly() {
    let scene = Scene::new();
    scene.billed_table("usage");
    // A double would lose the last digits of every one of these.
    scene.sql(&format!(
        "insert into usage (subscription, amount)
         select 'sub_' || n % {SUBSCRIPTIONS}, 0.000000000000000001 * n + 123456789
         from generate_series(1, 2000) n"
    ));
    assert_billed_exactly_once(&scene);
}
