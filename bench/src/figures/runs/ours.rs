//! The sync with a query, and a run of it.

use std::thread;
use std::time::{Duration, Instant};

use super::source::{Source, Stage, State};
use super::watch::Watch;
use super::{Ground, Turn};
use crate::failure::{Failure, Outcome};
use crate::session::Session;

/// Short beside a run, and long beside a look.
const LOOK_EVERY: Duration = Duration::from_millis(5);
const BEGUN_WITHIN: Duration = Duration::from_secs(60);
const DONE_WITHIN: Duration = Duration::from_secs(300);

pub fn sync(state: State) -> String {
    format!(
        r#"select lago_push.create_sync('runs', query => 'select * from billed', key => '{{id}}',
               operations => '{}', template => '{{
               "external_subscription_id": "{{{{ row.subscription }}}}",
               "code": "usage",
               "timestamp": {{{{ row.created_at }}}},
               "properties": {{"amount": "{{{{ row.amount }}}}", "operation": "{{{{ op }}}}"}}}}');
           select lago_push.activate('runs')"#,
        state.operations()
    )
}

/// A run that was asked for: from its `started_at` to the moment at which its commit is seen. Its `finished_at` would
/// leave out that the last messages are written.
pub fn turn(ground: &mut Ground, source: &Source, stage: Stage) -> Outcome<Turn> {
    let db = &mut ground.db;
    let ended: i64 = db.value("select count(*) from lago_push.runs where finished_at is not null")?;
    db.run("select lago_push.run_now('runs')")?;
    let process = "select (select pid from pg_stat_activity where backend_type = 'lago_push run' limit 1)";
    let process: i32 = wait(BEGUN_WITHIN, || db.value::<Option<i32>>(process))?
        .ok_or_else(|| Failure::new("no run begins"))?;
    let watch = Watch::begin(process)?;
    let took = {
        let mut look = db.prepared(
            "select case when count(finished_at) > $1
                    then extract(epoch from clock_timestamp() - max(started_at))::float8 end from lago_push.run",
        )?;
        wait(DONE_WITHIN, || look.value::<Option<f64>>(&[&ended]))?
    };
    let used = watch.end();
    let seconds = took.ok_or_else(|| Failure::new("a run does not end"))?;
    expect(db, source, stage)?;
    Ok(Turn { seconds, used })
}

/// Looks until there is something to see; none if there is nothing in time.
fn wait<T>(deadline: Duration, mut look: impl FnMut() -> Outcome<Option<T>>) -> Outcome<Option<T>> {
    let give_up_at = Instant::now() + deadline;
    loop {
        let seen = look()?;
        if seen.is_some() || Instant::now() >= give_up_at {
            return Ok(seen);
        }
        thread::sleep(LOOK_EVERY);
    }
}

/// The run must have found what there is to find.
fn expect(db: &mut Session, source: &Source, stage: Stage) -> Outcome<()> {
    let row = db.row(
        "select coalesce(added, -1), coalesce(changed, -1), coalesce(removed, -1), coalesce(unchanged, -1),
                coalesce(error, '') from lago_push.runs order by started_at desc limit 1",
    )?;
    let found: [i64; 4] = [row.get(0), row.get(1), row.get(2), row.get(3)];
    let right = source.differences(stage);
    if found.map(|count| usize::try_from(count).ok()) == right.map(Some) {
        return Ok(());
    }
    let error: String = row.get(4);
    Err(Failure::new(format!("{}: a run found {found:?} and not {right:?}: {error}", stage.name())))
}
