//! Instructions of the session that inserts rows, with capture, with its peers, and without.

use delivery::scene::insert_rows;

use super::callgrind::count;
use super::repeated::{Times, of_one};
use crate::failure::Outcome;
use crate::figures::ground::{Contestant, DATABASE, Ground};
use crate::session::Session;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Runner {
    /// All rows by one statement.
    Bulk(Contestant),
    /// Ready-made payloads, copied by one statement.
    Floor,
    /// Each row by a transaction, its statement planned before.
    Single(Contestant),
}

/// Payloads for the floor to copy.
pub fn prepare(ground: &mut Ground, times: Times) -> Outcome<()> {
    ground.clear()?;
    ground.db.run(&insert_rows(Contestant::Ours.table(), times.many))?;
    ground.expect_captured(Contestant::Ours, times.many as u64)?;
    ground.db.run("create table ready as select payload from lago_push.message order by id")
}

/// Instructions of one row or transaction.
pub fn measure(ground: &mut Ground, runner: Runner, times: Times) -> Outcome<f64> {
    of_one(times, |rows| run(ground, runner, rows))
}

/// Instructions of a session that does nothing but insert so many rows.
fn run(ground: &mut Ground, runner: Runner, rows: usize) -> Outcome<u64> {
    ground.clear()?;
    let mut db = Session::open(&ground.cluster, DATABASE)?;
    let process: i32 = db.value("select pg_backend_pid()")?;
    match runner {
        Runner::Bulk(contestant) => db.run(&insert_rows(contestant.table(), rows))?,
        Runner::Floor => db.run(&format!(
            "insert into floor_outbox (sync_id, operation, payload)
             select 1, 'i', payload from ready limit {rows}"
        ))?,
        Runner::Single(contestant) => {
            db.run("set synchronous_commit = off")?;
            let table = contestant.table();
            let insert = format!("insert into {table} (subscription, amount) values ('sub_1', 12.50)");
            let mut insert = db.prepared(&insert)?;
            for _ in 0..rows {
                insert.execute(&[])?;
            }
        }
    }
    drop(db);
    match runner {
        Runner::Bulk(contestant) | Runner::Single(contestant) => {
            ground.expect_captured(contestant, rows as u64)?;
        }
        Runner::Floor => ground.expect(rows as u64, "floor_outbox")?,
    }
    Ok(count(&ground.cluster, process)?.main_thread)
}
