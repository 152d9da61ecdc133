//! What a run of a query costs, beside the same comparison written as plain SQL.
//!
//! Both read the same source, remember it in a table, and queue an event for each row that is new, changed or gone:
//! once when nothing is remembered, once when a hundredth has changed, once when nothing has. The destination is held,
//! so delivery takes no part. Each works in a process that does nothing else, whose memory and processor time are
//! watched from outside.

mod by_hand;
mod ours;
mod source;
mod watch;

use super::Effort;
use super::ground::{Ground, rotated};
use super::report::{Figure, Findings, Goal, Measurement, Unit};
use crate::failure::{Failure, Outcome};
use crate::session::Session;
use crate::spread::Spread;
use source::{Source, Stage, State};
use watch::Used;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Runner {
    Ours,
    ByHand,
}

const RUNNERS: [Runner; 2] = [Runner::Ours, Runner::ByHand];
const STAGES: [Stage; 3] = [Stage::First, Stage::Changed, Stage::Same];

impl Runner {
    fn name(self) -> &'static str {
        match self {
            Self::Ours => "lago_push",
            Self::ByHand => "plain SQL",
        }
    }
}

/// One run of one of them.
#[derive(Clone, Copy, Debug)]
struct Turn {
    seconds: f64,
    used: Used,
}

/// What each took at each stage.
struct Round(Vec<(Stage, Runner, Turn)>);

impl Round {
    /// Not a number where it took no turn.
    fn of(&self, stage: Stage, runner: Runner, value: fn(&Turn) -> f64) -> f64 {
        let found = self.0.iter().find(|(at, who, _)| (*at, *who) == (stage, runner));
        found.map_or(f64::NAN, |(.., turn)| value(turn))
    }

    fn ratio(&self, stage: Stage, value: fn(&Turn) -> f64) -> f64 {
        self.of(stage, Runner::Ours, value) / self.of(stage, Runner::ByHand, value)
    }
}

pub fn measure(ground: &mut Ground, effort: Effort) -> Outcome<Findings> {
    let source = Source { rows: effort.choose(50_000, 1_000_000) };
    ground.db.run(&source.tables())?;
    let mut found = Findings::default();
    for state in [State::WholeRows, State::Digests] {
        let mut rounds = Vec::new();
        for number in 0..effort.choose(3, 5) {
            rounds.push(round(ground, &source, state, number)?);
        }
        found.extend(findings(state, &rounds));
    }
    ground.clear()?;
    ground.db.run(source::TIDYING)?;
    Ok(found)
}

fn round(ground: &mut Ground, source: &Source, state: State, number: usize) -> Outcome<Round> {
    ground.db.run(&source.fill())?;
    ground.db.run(&ours::sync(state))?;
    let mut turns = Vec::new();
    for (run, stage) in STAGES.into_iter().enumerate() {
        if stage == Stage::Changed {
            ground.db.run(&source.change())?;
        }
        prepare(ground)?;
        for runner in rotated(&RUNNERS, number + run) {
            let turn = match runner {
                Runner::Ours => ours::turn(ground, source, stage)?,
                Runner::ByHand => by_hand::turn(&ground.cluster, state, run + 1)?,
            };
            turns.push((stage, runner, turn));
        }
        compare(&mut ground.db, source, state, stage)?;
    }
    ground.db.run("select lago_push.drop_sync('runs', discard => true)")?;
    Ok(Round(turns))
}

/// Empty outboxes, and tables as they are when nobody has touched them for a while.
fn prepare(ground: &mut Ground) -> Outcome<()> {
    ground.clear()?;
    for table in ["billed", "lago_push.remembered", "peer_state"] {
        ground.db.run(&format!("vacuum analyze {table}"))?;
    }
    ground.db.run("checkpoint")
}

/// Both must have queued the same events, as many as there are differences, and remember the same rows.
fn compare(db: &mut Session, source: &Source, state: State, stage: Stage) -> Outcome<()> {
    let differing =
        |one: &str, other: &str| format!("select count(*) from ({one} except all {other}) differing");
    let [ours, by_hand] =
        ["lago_push.message", "peer_outbox"].map(|outbox| format!("(select payload::jsonb from {outbox})"));
    let [kept, kept_by_hand] =
        ["lago_push.remembered", "peer_state"].map(|table| format!("(select key from {table})"));
    let counts = [
        ("events of ours", "select count(*) from lago_push.message".to_owned(), source.events(state, stage)),
        ("events by hand", "select count(*) from peer_outbox".to_owned(), source.events(state, stage)),
        ("events that only we have", differing(&ours, &by_hand), 0),
        ("rows that only we remember", differing(&kept, &kept_by_hand), 0),
        ("rows that only plain SQL remembers", differing(&kept_by_hand, &kept), 0),
    ];
    for (what, sql, expected) in counts {
        let count: i64 = db.value(&sql)?;
        if usize::try_from(count).ok() != Some(expected) {
            return Err(Failure::new(format!(
                "{count} {what} after {}, and {expected} are right",
                stage.name()
            )));
        }
    }
    Ok(())
}

/// What a turn took of something.
type Value = fn(&Turn) -> f64;

fn findings(state: State, rounds: &[Round]) -> Findings {
    let figure = |stage: Stage| Figure {
        what: state.figure(stage),
        against: "the same as plain SQL",
        measured: Spread::of(rounds.iter().map(|round| round.ratio(stage, |turn| turn.seconds))),
        unit: Unit::Times,
        goal: Goal::AtMost(1.3),
    };
    let mut found = Findings {
        figures: [Stage::Changed, Stage::Same, Stage::First].map(figure).into(),
        ..Findings::default()
    };
    let values: [(&str, Value, &'static str); 4] = [
        ("", |turn| turn.seconds * 1e3, "ms"),
        (", processor time", |turn| turn.used.processor_seconds * 1e3, "ms"),
        (", its own memory at most", |turn| turn.used.own_megabytes, "MB"),
        (", with the server's that it has touched", |turn| turn.used.megabytes, "MB"),
    ];
    for stage in STAGES {
        for (what, value, unit) in values {
            for runner in RUNNERS {
                let title = format!("{}, {}, {}{what}", state.name(), stage.name(), runner.name());
                let all = rounds.iter().map(|round| round.of(stage, runner, value));
                found.measurements.push(Measurement::new(title, all, unit));
            }
        }
    }
    found
}
