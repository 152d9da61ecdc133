//! What a statement that writes many rows takes for each of them: time, write-ahead log, and room in an outbox.

use super::counted_as_float;
use crate::failure::Outcome;
use crate::session::Session;

/// What one row took.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Cost {
    pub microseconds: f64,
    pub wal_bytes: f64,
    /// With indexes and what is stored out of line.
    pub outbox_bytes: f64,
}

impl Cost {
    /// Runs the statement, which writes so many rows and queues into `outbox`.
    pub fn of(db: &mut Session, statement: &str, rows: usize, outbox: Option<&str>) -> Outcome<Self> {
        let room = |db: &mut Session| match outbox {
            Some(outbox) => db.value(&format!("select pg_total_relation_size('{outbox}')::float8")),
            None => Ok(0.0),
        };
        let room_before = room(db)?;
        let from: String = db.value("select pg_current_wal_insert_lsn()::text")?;
        let took = db.timed(statement)?;
        let sql = format!("select pg_wal_lsn_diff(pg_current_wal_insert_lsn(), '{from}')::float8");
        let wal_bytes: f64 = db.value(&sql)?;
        let outbox_bytes: f64 = room(db)? - room_before;
        let rows = counted_as_float(rows);
        Ok(Self {
            microseconds: took.as_secs_f64() * 1e6 / rows,
            wal_bytes: wal_bytes / rows,
            outbox_bytes: outbox_bytes / rows,
        })
    }

    pub fn beyond(self, base: Self) -> Self {
        Self {
            microseconds: self.microseconds - base.microseconds,
            wal_bytes: self.wal_bytes - base.wal_bytes,
            outbox_bytes: self.outbox_bytes - base.outbox_bytes,
        }
    }
}

/// One turn of each runner.
pub struct Round<R>(Vec<(R, Cost)>);

impl<R: Copy + PartialEq> Round<R> {
    /// Lets the runners take their turns in this order.
    pub fn run(runners: Vec<R>, mut turn: impl FnMut(R) -> Outcome<Cost>) -> Outcome<Self> {
        let turns: Outcome<_> = runners.into_iter().map(|runner| Ok((runner, turn(runner)?))).collect();
        turns.map(Self)
    }

    /// Not a number where it took no turn.
    pub fn of(&self, runner: R) -> Cost {
        let unknown = Cost { microseconds: f64::NAN, wal_bytes: f64::NAN, outbox_bytes: f64::NAN };
        self.0.iter().find(|(other, _)| *other == runner).map_or(unknown, |(_, cost)| *cost)
    }

    /// What the runner took beyond what the base did.
    pub fn added(&self, runner: R, base: R) -> Cost {
        self.of(runner).beyond(self.of(base))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_added_is_what_a_runner_takes_beyond_the_base() {
        let cost = |microseconds| Cost { microseconds, wal_bytes: 10.0 * microseconds, outbox_bytes: 0.0 };
        let round = Round::run(vec!['a', 'b'], |runner| Ok(cost(if runner == 'a' { 1.0 } else { 3.5 })));
        let round = round.unwrap_or_else(|failure| panic!("{failure}"));
        assert_eq!(round.added('b', 'a'), cost(2.5));
        assert!(round.of('c').microseconds.is_nan());
    }
}
