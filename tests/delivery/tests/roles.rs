//! Who may what: the README's table, tried role by role; that grants survive a dump; and that a schema somebody
//! else has prepared, or default privileges somebody has set, open nothing.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::Stdio;

use delivery::cluster::{Cluster, Options};
use delivery::oracle::assert_billed_exactly_once;
use delivery::scene::Scene;
use delivery::wait::{PATIENCE, wait_until};
use fake_lago::Store;
use postgres::Client;

const DENIED: &str = "42501";

/// The kinds of access, as the README's table has its columns.
const KINDS: [&str; 4] = ["maker", "operator", "admin", "monitor"];

/// What a role may do with a function or view.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum May {
    Yes,
    Own,
    No,
}

/// For each function and view, what each of [`KINDS`] may do with it.
fn readme_table() -> BTreeMap<String, [May; 4]> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../README.md");
    let readme = fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    let head = format!("| what | {} |", KINDS.join(" | "));
    let rows =
        readme.lines().skip_while(|line| *line != head).skip(2).take_while(|line| line.starts_with('|'));
    let mut table = BTreeMap::new();
    for row in rows {
        let cells: Vec<&str> = row.trim_matches('|').split('|').map(str::trim).collect();
        let may = [1, 2, 3, 4].map(|column| match cells[column] {
            "yes" => May::Yes,
            "own" => May::Own,
            "no" => May::No,
            other => panic!("{other} is no answer: {row}"),
        });
        for name in cells[0].split('`').skip(1).step_by(2) {
            assert_eq!(table.insert(name.to_owned(), may), None, "{name} is there twice");
        }
    }
    assert!(table.len() >= 29, "only {} rows", table.len());
    table
}

/// A call of a function for a sync and its table, which comes as far as asking for rights.
fn call(scene: &Scene, name: &str, sync: &str) -> String {
    let letter: i64 =
        scene.value(&format!("select min(id) from lago_push.dead_letters where sync = '{sync}'"));
    match name {
        "create_sync" => format!("select lago_push.create_sync('new', 'public.{sync}', '{{}}')"),
        "suggest_template" => format!("select lago_push.suggest_template('public.{sync}')"),
        "correct" => format!("select lago_push.correct({letter}, '{{}}')"),
        "flush" => format!("select lago_push.flush('{sync}', '0 s')"),
        "hold" | "release" | "drop_destination" => format!("select lago_push.{name}('lago')"),
        "create_destination" => "select lago_push.create_destination('new', 'nonsense')".into(),
        "alter_destination" => "select lago_push.alter_destination('lago')".into(),
        "set_api_key" => "select lago_push.set_api_key('lago', 'other')".into(),
        "grant_access" => "select lago_push.grant_access('walk_nobody', 'admin')".into(),
        "revoke_access" => "select lago_push.revoke_access('walk_nobody')".into(),
        "capture" => "select lago_push.capture()".into(),
        _ => generic_call(scene, name, sync),
    }
}

/// A call whose first argument is the sync, and whose others are null.
fn generic_call(scene: &Scene, name: &str, sync: &str) -> String {
    let row = scene.rows(&format!(
        "select p.prokind::text, array(select format_type(t, null) from unnest(p.proargtypes) t)
           from pg_proc p where p.oid = 'lago_push.{name}'::regproc"
    ));
    let (kind, types): (&str, Vec<String>) = (row[0].get(0), row[0].get(1));
    let others = types.iter().skip(1).map(|of| format!(", null::{of}")).collect::<String>();
    let first = if types.is_empty() { String::new() } else { format!("'{sync}'") };
    format!("{} lago_push.{name}({first}{others})", if kind == "p" { "call" } else { "select" })
}

/// Whether a statement is refused for want of a right. It is undone in any case.
fn is_denied(db: &mut Client, statement: &str) -> bool {
    db.batch_execute("begin").unwrap();
    let error = db.batch_execute(statement).err();
    db.batch_execute("rollback").unwrap();
    error.as_ref().and_then(|error| error.code()).is_some_and(|code| code.code() == DENIED)
}

/// Two syncs with a dead letter each: `mine` on a table of the maker's, `theirs` on one of somebody else's.
fn two_owners() -> Scene {
    let scene = Scene::on(Cluster::start(&Options::default()), Store::Postgres);
    scene.sql(
        "create role walk_maker login; create role walk_operator login; create role walk_admin login;
               create role walk_monitor login; create role walk_nobody login; create role walk_writer login;
               create role walk_owner login; create role walk_superuser login superuser;
               grant create on schema public to walk_maker",
    );
    for (table, owner) in [("mine", "walk_maker"), ("theirs", "walk_owner")] {
        scene.billed_table(table);
        scene.sql(&format!(
            "alter table {table} owner to {owner}; grant insert on {table} to walk_writer;
             insert into lago_push.dead_letter (id, enqueued_at, died_at, sync_id, attempts, operation, sync_name, reason, payload)
             select nextval('lago_push.message_id'), now(), now(), s.id, 0, 'i', s.name, 'no', '{{}}' from lago_push.sync s where s.name = '{table}'"
        ));
    }
    for kind in KINDS {
        scene.sql(&format!("select lago_push.grant_access('walk_{kind}', '{kind}')"));
    }
    scene
}

#[test]
fn every_role_may_do_what_the_readme_says_and_nothing_else() {
    let scene = two_owners();
    let table = readme_table();
    let names = |sql: &str| scene.rows(sql).iter().map(|row| row.get::<_, String>(0)).collect::<Vec<_>>();
    let functions = names(
        "select distinct p.proname::text from pg_proc p
          where p.pronamespace = 'lago_push'::regnamespace and p.proname not like '\\_%'",
    );
    let relations = names(
        "select c.relname::text from pg_class c
          where c.relnamespace = 'lago_push'::regnamespace and c.relkind = 'v' and c.relname not like '\\_%'",
    );
    let all: Vec<&String> = functions.iter().chain(&relations).collect();
    let missing: Vec<_> = all.iter().filter(|name| !table.contains_key(**name)).collect();
    assert!(missing.is_empty(), "not in the table: {missing:?}");
    let gone: Vec<_> = table.keys().filter(|name| !all.contains(name)).collect();
    assert!(gone.is_empty(), "in the table only: {gone:?}");

    let mut wrong = Vec::new();
    let mut check = |role: &str, db: &mut Client, name: &str, may: May| {
        let statements = |sync: &str| match functions.iter().any(|function| function == name) {
            true => call(&scene, name, sync),
            false => format!("select * from lago_push.{name}"),
        };
        for (sync, allowed) in [("mine", may != May::No), ("theirs", may == May::Yes)] {
            let statement = statements(sync);
            if is_denied(db, &statement) == allowed {
                wrong.push(format!("{role}, {} denied: {statement}", if allowed { "is" } else { "is not" }));
            }
        }
    };
    for (column, kind) in KINDS.iter().enumerate() {
        let role = format!("walk_{kind}");
        let mut db = scene.cluster.try_connect_as(&role, &scene.database).unwrap();
        for (name, may) in &table {
            check(&role, &mut db, name, may[column]);
        }
    }
    for (role, may) in [
        ("walk_nobody", May::No),
        ("walk_writer", May::No),
        ("walk_owner", May::No),
        ("walk_superuser", May::Yes),
    ] {
        let mut db = scene.cluster.try_connect_as(role, &scene.database).unwrap();
        for name in table.keys() {
            check(role, &mut db, name, may);
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));

    // What nobody is granted is nobody's: tables, sequences and all that begins with an underscore.
    let open = names(
        "select r.rolname || ' ' || c.relname from pg_class c cross join pg_roles r
          where c.relnamespace = 'lago_push'::regnamespace and c.relkind in ('r', 'S') and r.rolname like 'walk\\_%' and not r.rolsuper
            and case c.relkind when 'S' then has_sequence_privilege(r.oid, c.oid, 'usage, select, update')
                     else has_table_privilege(r.oid, c.oid, 'select, insert, update, delete, truncate, references, trigger') end",
    );
    assert_eq!(open, Vec::<String>::new());
    let open = names(
        "select r.rolname || ' ' || p.proname from pg_proc p cross join pg_roles r
          where p.pronamespace = 'lago_push'::regnamespace and p.proname like '\\_%' and r.rolname like 'walk\\_%' and not r.rolsuper
            and has_function_privilege(r.oid, p.oid, 'execute')
            and not exists (select from aclexplode(p.proacl) a where a.grantee = 'pg_monitor'::regrole)",
    );
    assert_eq!(open, ["walk_operator _operate"]);
    // A writer writes.
    let mut db = scene.cluster.try_connect_as("walk_writer", &scene.database).unwrap();
    db.batch_execute("insert into theirs (subscription, amount) values ('sub_1', 1)").unwrap();
    scene.wait_for_event("theirs-1");
}

#[test]
fn access_survives_a_dump() {
    let scene = two_owners();
    let copy = format!("{}_copy", &scene.database[..40.min(scene.database.len())]);
    scene.cluster.create_database(&copy);
    let dump = scene.cluster.program("pg_dump").args(["-d", &scene.database]).output().expect("pg_dump runs");
    assert!(dump.status.success(), "{}", String::from_utf8_lossy(&dump.stderr));
    let path = scene.cluster.folder().join("roles.sql");
    fs::write(&path, &dump.stdout).unwrap();
    let restored = scene
        .cluster
        .program("psql")
        .args(["-X", "-q", "-v", "ON_ERROR_STOP=1", "-d", &copy, "-f"])
        .arg(&path)
        .stdout(Stdio::null())
        .output()
        .expect("psql runs");
    assert!(restored.status.success(), "{}", String::from_utf8_lossy(&restored.stderr));
    let grants = "select coalesce(string_agg(g, e'\\n' order by g), '') from (
        select p.oid::regprocedure || ' ' || a.grantee::regrole || ' ' || a.privilege_type as g
          from pg_proc p cross join aclexplode(p.proacl) a
         where p.pronamespace = 'lago_push'::regnamespace and a.grantee <> 0
        union all
        select c.oid::regclass || ' ' || a.grantee::regrole || ' ' || a.privilege_type
          from pg_class c cross join aclexplode(c.relacl) a where c.relnamespace = 'lago_push'::regnamespace and a.grantee <> 0
        union all
        select 'schema ' || a.grantee::regrole || ' ' || a.privilege_type
          from pg_namespace n cross join aclexplode(n.nspacl) a where n.nspname = 'lago_push' and a.grantee <> 0) s";
    let (before, after) = (scene.cluster.psql(&scene.database, grants), scene.cluster.psql(&copy, grants));
    assert!(before.contains("walk_operator EXECUTE"), "{before}");
    assert_eq!(after, before);
}

fn bare() -> Scene {
    Scene::without_extension(Cluster::shared(), Store::Postgres, "")
}

#[test]
fn a_schema_somebody_else_prepared_is_refused() {
    let scene = bare();
    scene.sql("create role schema_thief; create role schema_guest");
    let refused = "schema \"lago_push\" is there already and is not lago_push's alone";
    for prepared in [
        "create schema lago_push authorization schema_thief",
        "create schema lago_push; grant create on schema lago_push to schema_guest",
        "create schema lago_push; grant create on schema lago_push to public",
        "create schema lago_push; create function lago_push._sync_named(varchar) returns int language sql as 'select 1'",
        "create schema lago_push; create table lago_push.spare ()",
        "create schema lago_push; create domain lago_push.spare as text",
        "create schema lago_push; create operator lago_push.= (leftarg = integer, rightarg = integer, function = pg_catalog.int4eq)",
    ] {
        scene.sql(prepared);
        let error = scene.sql_error("create extension lago_push");
        assert!(error.starts_with(refused), "{prepared}: {error}");
        scene.sql("drop schema lago_push cascade");
    }
    // As a dump makes it.
    scene.sql("create schema lago_push; create extension lago_push");
    scene.sql("drop extension lago_push; create extension lago_push");
    scene.sql(
        "drop extension lago_push; drop schema lago_push; drop role schema_thief; drop role schema_guest",
    );
}

#[test]
fn default_privileges_of_the_database_open_nothing() {
    let scene = bare();
    scene.sql(
        "create role default_guest;
         alter default privileges grant all on tables to public;
         alter default privileges grant all on sequences to public, default_guest;
         alter default privileges grant execute on functions to public;
         alter default privileges grant all on tables to default_guest;
         alter default privileges grant execute on functions to default_guest;
         alter default privileges grant usage on schemas to public, default_guest",
    );
    scene.sql("create extension lago_push");
    let open = scene.rows(
        "select c.relname::text || ' ' || a.grantee::text from pg_class c cross join aclexplode(c.relacl) a
          where c.relnamespace = 'lago_push'::regnamespace and a.grantee not in (c.relowner, 'pg_monitor'::regrole)
         union all
         select p.proname::text || ' ' || a.grantee::text from pg_proc p cross join aclexplode(coalesce(p.proacl, acldefault('f', p.proowner))) a
          where p.pronamespace = 'lago_push'::regnamespace and a.grantee not in (p.proowner, 'pg_monitor'::regrole)
         union all
         select 'schema ' || a.grantee::text from pg_namespace n cross join aclexplode(n.nspacl) a
          where n.nspname = 'lago_push' and a.grantee not in (n.nspowner, 'pg_monitor'::regrole)",
    );
    let open: Vec<&str> = open.iter().map(|row| row.get(0)).collect();
    assert_eq!(open, Vec::<&str>::new());
    scene.sql("drop owned by default_guest; drop role default_guest");
}

#[test]
fn what_a_database_sets_for_its_sessions_changes_nothing_for_capture_and_worker() {
    let scene = Scene::new();
    scene.usage_table("usage");
    scene.sql(&format!(
        "create schema trap;
         create function trap.shout() returns boolean language plpgsql as $$ begin raise exception 'the trap ran'; end $$;
         create function trap.equal(bigint, bigint) returns boolean language sql as 'select trap.shout()';
         create function trap.equal(integer, integer) returns boolean language sql as 'select trap.shout()';
         create operator trap.= (leftarg = bigint, rightarg = bigint, function = trap.equal);
         create operator trap.= (leftarg = integer, rightarg = integer, function = trap.equal);
         create operator trap.> (leftarg = bigint, rightarg = bigint, function = trap.equal);
         create function trap.clock_timestamp() returns timestamptz language sql as $$ select trap.shout()::text::timestamptz $$;
         create function trap.unnest(anyarray) returns setof anyelement language sql as $$ select $1[1] where trap.shout() $$;
         create type trap.text as enum ('none');
         create type trap.jsonb as enum ('none');
         create function public.to_event(r public.usage, o public.usage, op pg_catalog.text) returns pg_catalog.jsonb language sql as
             $$ select jsonb_build_object('transaction_id', 'usage-' || r.id, 'external_subscription_id', r.subscription, 'code', 'usage',
                                          'timestamp', extract(epoch from r.created_at), 'properties', jsonb_build_object('amount', r.amount::pg_catalog.text)) $$;
         alter database \"{}\" set search_path = trap, pg_catalog, public;
         alter database \"{}\" set standard_conforming_strings = off",
        scene.database, scene.database
    ));
    scene.disconnect();
    assert_eq!(scene.sql_error("select 1::bigint = 2::bigint"), "the trap ran");
    scene.sql(
        "select lago_push.create_sync('usage', 'public.usage', mapper => 'public.to_event(public.usage, public.usage, pg_catalog.text)',
                    max_pending => 100, when_full => 'raise', keep_replies => '1 hour');
         select lago_push.activate('usage')",
    );
    scene.sql(
        "insert into public.usage (subscription, amount) select 'sub_1', n from generate_series(1, 20) n",
    );
    wait_until("the rows have arrived", PATIENCE, || scene.lago.stored_count() == 20);
    // The test itself must not step into it.
    scene.sql(&format!(
        "alter database \"{0}\" reset search_path; alter database \"{0}\" reset standard_conforming_strings",
        scene.database
    ));
    scene.disconnect();
    assert_billed_exactly_once(&scene);
}
