//! A run's memory: a page of its rows and what capture may hold, however many rows have changed.
#![forbid(unsafe_code)]

use delivery::runs::{OVER, last_run};
use delivery::scene::Scene;
use delivery::wait::{LONG_PATIENCE, wait_until};
use std::fs;

const TEMPLATE: &str = r#"{"external_subscription_id": "sub", "code": "usage", "timestamp": {{ row.at }},
    "properties": {"amount": "{{ row.amount }}", "was": "{{ old.amount }}"}}"#;

/// Three times what it is seen to have, and half of what it had when each old row stayed until the end.
const MOST_MEGABYTES: u64 = 32;

/// What a process has for itself; none if there is no such process.
fn own_megabytes(pid: i32) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let own = status.lines().find_map(|line| line.strip_prefix("RssAnon:"))?;
    Some(own.trim().strip_suffix(" kB")?.parse::<u64>().ok()? / 1024)
}

/// Runs the query. Gives what it came to, and the most memory its process was seen to have.
fn run(scene: &Scene) -> (String, u64) {
    let before: i64 = scene.value(OVER);
    scene.sql("select lago_push.run_now('many')");
    let mut most = 0;
    wait_until("the run is over", LONG_PATIENCE, || {
        let pid: Option<i32> = scene.value("select max(pid) from lago_push.runs");
        most = most.max(pid.and_then(own_megabytes).unwrap_or_default());
        scene.value::<i64>(OVER) > before
    });
    (last_run(scene), most)
}

#[test]
fn does_not_grow_with_what_has_changed() {
    let scene = Scene::new();
    scene.sql("create table source (id bigint, amount numeric, at timestamptz)");
    scene.sql("insert into source select n, n, now() from generate_series(1, 30000) n");
    // What is captured is held, up to this, until the run ends.
    scene.sql("do $$ begin execute format('alter database %I set lago_push.capture_memory = ''1MB''', current_database()); end $$");
    scene.run(
        "select lago_push.create_sync('many', query => 'table source', key => '{id}', template => $1,
             operations => '{insert,update,delete}', max_removed => 1)",
        &[&TEMPLATE],
    );
    scene.activate("many");
    let (_, first) = run(&scene);
    scene.sql("update source set amount = amount + 1");
    let (changed, with_old_values) = run(&scene);
    scene.sql("delete from source");
    let (gone, with_rows_gone) = run(&scene);
    assert_eq!((changed.as_str(), gone.as_str()), ("succeeded 30000 0 30000 0 0", "succeeded 0 0 0 30000 0"));
    let seen = [first, with_old_values, with_rows_gone];
    assert!(seen.iter().all(|megabytes| (1..MOST_MEGABYTES).contains(megabytes)), "{seen:?} MB");
}
