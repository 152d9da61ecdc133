//! Runs of queries: asked for, waited for, and told in a line.

use crate::scene::Scene;
use crate::wait::{PATIENCE, wait_until};

/// How many runs are over.
pub const OVER: &str = "select count(*) from lago_push.runs where finished_at is not null";

/// Runs a sync's query, and waits until the run is over. Gives what it came to, as [`last_run`] does.
#[track_caller]
pub fn run(scene: &Scene, sync: &str) -> String {
    let before: i64 = scene.value(OVER);
    scene.run("select lago_push.run_now($1)", &[&sync]);
    wait_until("the run is over", PATIENCE, || scene.value::<i64>(OVER) > before);
    last_run(scene)
}

/// Of the run that began last: its state, the rows it has read, those added, changed, removed and unchanged, and why it
/// failed.
#[track_caller]
pub fn last_run(scene: &Scene) -> String {
    scene.value(
        "select concat_ws(' ', state, rows_read, added, changed, removed, unchanged, error) from lago_push.runs
          order by started_at desc limit 1",
    )
}
