//! Where an API key could get to, and does not: a server that sends back what it was sent, everything a role
//! that may look at everything can read, the log at its most talkative, dumps, and calls that fail.
#![forbid(unsafe_code)]

use std::fmt::Write as _;
use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::sync::{Arc, OnceLock};
use std::thread;

use delivery::cluster::{Cluster, Options};
use delivery::scene::{Scene, error_text};
use delivery::wait::{PATIENCE, wait_until};
use fake_lago::Store;

/// Unlike anything else, and with every kind of character that somebody may write in another way.
const KEY: &str = "hush-5e4b2c/91fa03";
const OLD_KEY: &str = "hush-77d1a9/c0ffee";

/// A cluster that logs whatever it can, and counts statements.
fn talkative_cluster() -> Arc<Cluster> {
    static SHARED: OnceLock<Arc<Cluster>> = OnceLock::new();
    let options = || {
        Options::default()
            .with("shared_preload_libraries", "lago_push, pg_stat_statements")
            .with("pg_stat_statements.track", "all")
            // The text of a block or a function is the user's own, and is in pg_proc as well.
            .with("pg_stat_statements.track_utility", "off")
            .with("log_statement", "all")
            .with("log_min_duration_statement", "0")
            .with("log_min_messages", "debug5")
            .with("log_min_error_statement", "debug5")
            .with("log_parameter_max_length", "-1")
            .with("log_parameter_max_length_on_error", "-1")
            .with("log_error_verbosity", "verbose")
            .with("debug_print_parse", "on")
            .with("debug_print_rewritten", "on")
            .with("debug_print_plan", "on")
            // Else a constant's bytes are spread over lines.
            .with("debug_pretty_print", "off")
    };
    Arc::clone(SHARED.get_or_init(|| Cluster::start(&options())))
}

/// A Lago that puts the header `Authorization` into every answer, where each is looked at.
fn echo() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            thread::spawn(move || serve(stream));
        }
    });
    address
}

fn serve(mut stream: TcpStream) -> Option<()> {
    loop {
        let (mut head, mut byte) = (Vec::new(), [0]);
        while !head.ends_with(b"\r\n\r\n") {
            stream.read_exact(&mut byte).ok()?;
            head.push(byte[0]);
        }
        let head = String::from_utf8_lossy(&head).into_owned();
        let header = |name: &str| {
            let line = head.lines().find(|line| line.to_lowercase().starts_with(name))?;
            line.split_once(": ").map(|(_, value)| value.to_owned())
        };
        let mut body = vec![0; header("content-length:").and_then(|length| length.parse().ok()).unwrap_or(0)];
        stream.read_exact(&mut body).ok()?;
        let (body, quoted) =
            (String::from_utf8_lossy(&body).into_owned(), header("authorization:").unwrap_or_default());
        let (status, reply) = if head.starts_with("GET ") {
            // It is well, so what it fails at counts.
            (404, r#"{"status":404,"error":"Not Found","code":"event_not_found"}"#.to_owned())
        } else if body.contains("taken") {
            (200, format!(r#"{{"events":[{{"you_sent":"{quoted}"}}]}}"#))
        } else if body.contains("refused") {
            (
                422,
                format!(r#"{{"code":"validation_errors","error_details":{{"0":{{"code":["{quoted}"]}}}}}}"#),
            )
        } else if body.contains("failing") {
            (500, format!(r#"{{"code":"{}"}}"#, quoted.replace('/', "\\/")))
        } else {
            (403, format!(r#"{{"code":"{quoted}"}}"#))
        };
        let head = format!("HTTP/1.1 {status} {quoted}\r\nX-You-Sent: {quoted}\r\nRetry-After: {quoted}\r\n");
        stream.write_all(format!("{head}Content-Length: {}\r\n\r\n{reply}", reply.len()).as_bytes()).ok()?;
    }
}

fn key_file(scene: &Scene, text: impl AsRef<[u8]>) -> String {
    let path = scene.cluster.folder().join(format!("{}-key", scene.database));
    fs::write(&path, text).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
    path.to_str().unwrap().to_owned()
}

/// A scene in which one message was taken, one refused, one failed and one met a key without rights, and
/// the key came back with each answer.
fn scene_with_echoes(destination: impl Fn(&Scene) -> String) -> Scene {
    let scene = Scene::without_destination(talkative_cluster(), Store::Postgres);
    let url = format!("http://{}/api/v1", echo());
    scene.sql(&format!(
        "create extension pg_stat_statements;
         select lago_push.create_destination('lago', url => '{url}', {})",
        destination(&scene)
    ));
    scene.usage_table("usage");
    scene.draft("usage", "batch_size => 1, keep_replies => '1 day'");
    scene.activate("usage");
    let sees = |what: &str, subscription: &str, sql: &str| {
        scene.run("insert into usage (subscription, amount) values ($1, 1)", &[&subscription]);
        let sql = format!("select exists (select from {sql})");
        wait_until(what, PATIENCE, || scene.value::<bool>(&sql));
    };
    sees("the reply is kept", "taken", "lago_push.replies where reply::text like '%***%'");
    sees(
        "the message is dead",
        "refused",
        "lago_push.dead_letters where reply like '%***%' and reason like '%***%'",
    );
    sees("the message waits", "failing", "lago_push.outbox where last_error like '%500%'");
    sees("the destination is held", "forbidden", "lago_push.destinations where state like 'held: %403%'");
    scene
}

/// What a key may look like to whoever looks for it: as text, as bytes in hexadecimal, and as the server
/// prints a constant of a plan.
fn spellings(key: &str) -> [String; 3] {
    let (mut hexadecimal, mut decimal) = (String::new(), String::new());
    for byte in key.bytes() {
        write!(hexadecimal, "{byte:02x}").unwrap();
        write!(decimal, "{byte} ").unwrap();
    }
    [key.into(), hexadecimal, decimal]
}

#[track_caller]
fn assert_hidden(place: &str, text: &str) {
    for spelling in [KEY, OLD_KEY].iter().flat_map(|key| spellings(key)) {
        if let Some(at) = text.find(&spelling) {
            let from = text[..at].rfind('\n').map_or(0, |newline| newline + 1);
            let line = text[from..].lines().next().unwrap_or_default();
            panic!("a key is in {place}: {}", line.chars().take(2000).collect::<String>());
        }
    }
}

/// Everything that may be read by a role that may read everything, the catalogs included.
fn assert_hidden_from_readers(scene: &Scene) {
    let role = format!("reader_{}", scene.value::<i64>("select txid_current()"));
    scene.sql(&format!("analyze; create role {role} login; grant pg_monitor, pg_read_all_data to {role}"));
    let mut reader = scene.cluster.try_connect_as(&role, &scene.database).unwrap();
    let relations = scene.rows(
        "select c.oid::regclass::text from pg_class c
          where c.relkind in ('r', 'v', 'm', 'p', 't') and c.oid <> 'pg_stat_activity'::regclass",
    );
    let mut read = 0;
    for relation in &relations {
        let relation: &str = relation.get(0);
        // Refusing to show it is as good.
        if let Ok(rows) = reader.query(&format!("select r::text from {relation} r"), &[]) {
            read += 1;
            let text: Vec<String> =
                rows.iter().map(|row| row.get::<_, Option<String>>(0).unwrap_or_default()).collect();
            assert_hidden(relation, &text.join("\n"));
        }
    }
    assert!(read > 150, "only {read} of {} relations could be read", relations.len());
    // Of this database and of no database: beside it run tests that are giving keys.
    let activity = "select a::text from pg_stat_activity a
                    where coalesce(a.datname, current_database()) = current_database()";
    let activity: Vec<String> = reader.query(activity, &[]).unwrap().iter().map(|row| row.get(0)).collect();
    assert!(activity.iter().any(|line| line.contains("lago_push")), "the worker is not there: {activity:?}");
    assert_hidden("pg_stat_activity", &activity.join("\n"));
    drop(reader);
    scene.sql(&format!("drop role {role}"));
}

fn assert_hidden_in_dump(scene: &Scene) {
    for options in [&["--inserts"][..], &["--schema-only"], &["--format=custom", "--compress=0"]] {
        let out = scene.cluster.program("pg_dump").args(options).arg(&scene.database).output().unwrap();
        assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
        let dump = String::from_utf8_lossy(&out.stdout);
        assert!(dump.contains("lago_push"), "the dump lacks the extension");
        assert_hidden("the dump", &dump);
    }
}

fn assert_hidden_in_log(scene: &Scene) {
    let log = scene.cluster.log();
    for sign in ["create extension lago_push", "DEBUG:  ", "rewritten parse tree", "plan"] {
        assert!(log.contains(sign), "the log does not hold {sign}");
    }
    assert_hidden("the log", &log);
}

#[test]
fn a_stored_key_that_is_sent_back_is_nowhere() {
    let scene = scene_with_echoes(|_| format!("api_key => '{OLD_KEY}'"));
    scene.sql(&format!("select lago_push.set_api_key('lago', '{KEY}')"));
    // Another, so that there is something to count in statistics.
    scene.sql(&format!(
        "select lago_push.create_destination('other', url => 'http://127.0.0.1:1/api/v1', api_key => '{OLD_KEY}')"
    ));
    assert_eq!(scene.value::<i64>("select count(*) from lago_push.api_key"), 2);
    assert_hidden_from_readers(&scene);
    assert_hidden_in_dump(&scene);
    assert_hidden_in_log(&scene);
}

#[test]
fn a_key_in_a_file_that_is_sent_back_is_nowhere() {
    let scene = scene_with_echoes(|scene| format!("api_key_file => '{}'", key_file(scene, KEY)));
    assert_hidden_from_readers(&scene);
    assert_hidden_in_dump(&scene);
    assert_hidden_in_log(&scene);
}

#[test]
fn what_send_test_shows_is_without_the_key() {
    let scene = scene_with_echoes(|_| format!("api_key => '{KEY}'"));
    for subscription in ["taken", "refused", "failing", "forbidden"] {
        scene.run("truncate usage", &[]);
        scene.run("insert into usage (subscription, amount) values ($1, 1)", &[&subscription]);
        let shown: String = scene.value("select t::text from lago_push.send_test('usage') t");
        assert!(shown.contains("***"), "{shown}");
        assert_hidden("the answer", &shown);
        let shown: String = scene.value("select string_agg(p::text, ' ') from lago_push.preview('usage') p");
        assert!(shown.contains("Bearer ***"), "{shown}");
        assert_hidden("the preview", &shown);
    }
}

#[test]
fn a_key_file_that_cannot_be_used_is_not_quoted() {
    let scene = Scene::without_destination(talkative_cluster(), Store::Postgres);
    let file = key_file(&scene, "");
    let sql = "select lago_push.create_destination('lago', url => $1, api_key_file => $2)";
    scene.run(sql, &[&scene.lago.url(), &file]);
    scene.usage_table("usage");
    scene.draft("usage", "");
    scene.sql("insert into usage (subscription, amount) values ('sub_1', 1)");
    let told = || -> String { scene.value("select message from lago_push.send_test('usage')") };
    assert_eq!(told(), "the destination cannot be used: api_key_file is empty");
    key_file(&scene, [KEY.as_bytes(), b"\xff\xfe"].concat());
    assert_eq!(told(), "the destination cannot be used: api_key_file cannot be read: invalid data");
    key_file(&scene, format!("{KEY}\n{OLD_KEY}\n"));
    assert_eq!(told(), "the destination cannot be used: its API key holds what no header can carry");
    fs::remove_file(&file).unwrap();
    assert_eq!(told(), "the destination cannot be used: api_key_file cannot be read: entity not found");
    fs::create_dir(&file).unwrap();
    assert_eq!(told(), "the destination cannot be used: api_key_file cannot be read: is a directory");
    assert_hidden_in_log(&scene);
    assert_eq!(scene.lago.request_count(), 0);
}

#[test]
fn calls_that_fail_tell_no_key_however_they_are_made() {
    let scene = Scene::without_destination(talkative_cluster(), Store::Postgres);
    scene.sql("create extension pg_stat_statements");
    let mut db = scene.db();
    for (failing, parameters) in [
        ("select lago_push.set_api_key('nobody', $1)", [KEY]),
        ("select lago_push.create_destination('', url => 'http://127.0.0.1:1/api/v1', api_key => $1)", [KEY]),
        ("select lago_push.create_destination('a', url => 'http://127.0.0.1:1', api_key => $1)", [KEY]),
        (
            "select lago_push.create_destination('a', url => 'http://127.0.0.1:1/api/v1', api_key => $1 || chr(10))",
            [KEY],
        ),
        (
            "select lago_push.create_destination('a', url => 'http://127.0.0.1:1/api/v1', api_key => $1, connections => 0)",
            [KEY],
        ),
    ] {
        let literal = failing.replace("$1", &format!("'{}'", parameters[0]));
        assert_hidden("the error", &error_text(&db.batch_execute(&literal).unwrap_err()));
        assert_hidden("the error", &error_text(&db.query(failing, &[&parameters[0]]).unwrap_err()));
        // Inside a block, where the error tells what led to it.
        let block = format!("do $do$ begin perform {}; end $do$", literal.trim_start_matches("select "));
        db.batch_execute(&block).unwrap_err();
    }
    assert_hidden_in_log(&scene);
}

#[test]
fn a_key_given_by_a_function_of_ones_own_is_not_logged() {
    let scene = Scene::without_destination(talkative_cluster(), Store::Postgres);
    scene.create_destination("lago");
    scene.sql(&format!(
        "create function rotate() returns void language plpgsql as $f$
         begin perform lago_push.set_api_key('lago', '{KEY}'); end $f$"
    ));
    scene.sql("select rotate()");
    let used: bool = scene.value("select api_key like 'hush%' from lago_push.api_key");
    assert!(used);
    assert_hidden_in_log(&scene);
}

#[test]
fn secrets_in_headers_and_in_a_proxys_url_are_not_shown_to_who_watches() {
    let scene = Scene::without_destination(talkative_cluster(), Store::Postgres);
    let password = OLD_KEY.replace('/', "");
    scene.sql(&format!(
        "select lago_push.create_destination('lago', url => 'http://127.0.0.1:1/api/v1',
             headers => '{{\"X-Api-Key\": \"{KEY}\"}}', proxy => 'http://anna:{password}@127.0.0.1:1')"
    ));
    let role = format!("watcher_{}", scene.value::<i64>("select txid_current()"));
    scene.sql(&format!("create role {role} login; grant pg_monitor to {role}"));
    let mut watcher = scene.cluster.try_connect_as(&role, &scene.database).unwrap();
    let mut read = 0;
    for relation in scene.rows(
        "select c.oid::regclass::text from pg_class c
          where c.relnamespace = 'lago_push'::regnamespace and c.relkind in ('r', 'v')",
    ) {
        let relation: &str = relation.get(0);
        if let Ok(rows) = watcher.query(&format!("select r::text from {relation} r"), &[]) {
            read += 1;
            for row in rows {
                let text: String = row.get(0);
                assert!(!text.contains(KEY) && !text.contains(&password), "{relation}: {text}");
            }
        }
    }
    assert!(read >= 3, "only {read} relations could be read");
    drop(watcher);
    scene.sql(&format!("drop role {role}"));
}
