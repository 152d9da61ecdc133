//! Guard: a copy of the database delivers nothing.
//!
//! Before the worker learns of destinations, it compares who it is with the mark that whoever delivered
//! before has left; [`crate::instance`] judges. A copy holds all its destinations and leaves its own
//! mark, in one transaction, so that what it finds later is an ordinary hold and an ordinary release.
//! Whoever releases a destination looks first, or the worker would hold it again a moment later.

use crate::instance::{self, Destinations, Instance, Judgement, Place};
use crate::outbox::Result;
use crate::pg::{heap, place, process};
use crate::settings;
use pgrx::prelude::*;

type Failure = Box<dyn std::error::Error>;

/// Whether it is known on whose behalf this server delivers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Guard {
    /// There is no mark yet, or, before 0.2.0, no place for one.
    Asking,
    Satisfied,
}

/// How a hold that was put on a copy ends.
pub const ADVICE: &str = "if this server is to bill: select lago_push.release";

/// Looks whether this is a copy, and holds its destinations if it is. In the current transaction.
pub fn look() -> std::result::Result<Guard, Failure> {
    if !can_be_marked() {
        return Ok(Guard::Asking);
    }
    let here = place::here()
        .map_err(|error| format!("it cannot be told whether this is a copy of the database: {error}"))?;
    match judge(&here)? {
        Judgement::TooEarly => return Ok(Guard::Asking),
        Judgement::Same => return Ok(Guard::Satisfied),
        Judgement::Successor(_) | Judgement::Copy(_) => {}
    }
    // A session may be at the same, and then release.
    Spi::run("lock table lago_push.instance in share row exclusive mode")?;
    match judge(&here)? {
        Judgement::TooEarly => return Ok(Guard::Asking),
        Judgement::Same => {}
        Judgement::Successor(succession) => {
            write_mark(&here)?;
            pgrx::log!("lago_push delivers here from now on: {succession}");
        }
        Judgement::Copy(sign) => {
            let held = hold_all(&sign.to_string())?;
            write_mark(&here)?;
            if held > 0 {
                pgrx::log!("lago_push holds all destinations of this database: {sign}; {ADVICE}(…)");
            }
        }
    }
    Ok(Guard::Satisfied)
}

fn judge(here: &Instance) -> std::result::Result<Judgement, Failure> {
    Ok(instance::judge(
        read_mark()?.as_ref(),
        here,
        destinations()?,
        place::testimony().as_ref(),
        settings::on_promotion(),
    ))
}

/// Whether the table is there: the SQL of 0.1.0 has none.
fn can_be_marked() -> bool {
    heap::extension_schema().is_some_and(|schema| heap::find(c"instance", schema).is_some())
}

fn read_mark() -> std::result::Result<Option<Instance>, Failure> {
    let stored = Spi::connect(|client| {
        let mut rows = client.select(
            "select i.system_identifier, i.database, i.major_version, i.timeline, i.place from lago_push.instance i",
            None,
            &[],
        )?;
        let Some(row) = rows.next() else { return Ok(None) };
        let database: Option<pg_sys::Oid> = row.get(2)?;
        Ok::<_, spi::Error>(Some((
            row.get::<i64>(1)?.unwrap_or_default(),
            database.map(u32::from).unwrap_or_default(),
            row.get::<i32>(3)?.unwrap_or_default(),
            row.get::<i32>(4)?.unwrap_or_default(),
            row.get::<String>(5)?.unwrap_or_default(),
        )))
    })?;
    let Some((system, database, major_version, timeline, place)) = stored else { return Ok(None) };
    let place = Place::parse(&place).ok_or("lago_push.instance names no place")?;
    Ok(Some(Instance { system, database, major_version, timeline, place }))
}

fn destinations() -> Result<Destinations> {
    let any = Spi::get_one::<bool>("select exists (select from lago_push.destination)")?;
    Ok(if any == Some(true) { Destinations::Defined } else { Destinations::None })
}

fn write_mark(here: &Instance) -> Result<()> {
    Spi::connect_mut(|client| {
        client.update("delete from lago_push.instance", None, &[])?;
        client.update(
            "insert into lago_push.instance (system_identifier, database, major_version, timeline, place)
             values ($1, $2, $3, $4, $5)",
            None,
            &[
                here.system.into(),
                process::own_database().into(),
                here.major_version.into(),
                here.timeline.into(),
                here.place.to_string().into(),
            ],
        )?;
        Ok(())
    })
}

/// Holds every destination; gives how many there are.
fn hold_all(why: &str) -> Result<usize> {
    Spi::connect_mut(|client| {
        let held = client.update(
            "insert into lago_push.destination_hold (destination_id, why)
             select d.id, format('%s; %s(%L)', $1, $2, d.name) from lago_push.destination d
             on conflict on constraint one_hold_per_destination do update
                set why = excluded.why, since = excluded.since",
            None,
            &[why.into(), ADVICE.into()],
        )?;
        Ok(held.len())
    })
}
