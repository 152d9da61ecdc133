//! What Liquid and mappers cost beside plain holes.
//!
//! The same rows go into tables with the same columns, each with a sync that makes nearly the same event
//! in another way. What a row takes longer than without any trigger is the cost of each.

use delivery::scene::insert_rows;

use super::ground::{Contestant, Ground, rotated};
use super::report::{Figure, Findings, Goal, Measurement, Unit};
use super::{Effort, counted_as_float};
use crate::failure::{Failure, Outcome};
use crate::spread::Spread;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    NoTrigger,
    PlainHoles,
    Filters,
    Tags,
    Mapper,
}

const WAYS: [Way; 5] = [Way::NoTrigger, Way::PlainHoles, Way::Filters, Way::Tags, Way::Mapper];

impl Way {
    fn table(self) -> &'static str {
        match self {
            Self::NoTrigger => Contestant::Plain.table(),
            Self::PlainHoles => Contestant::Ours.table(),
            Self::Filters => "usage_filters",
            Self::Tags => "usage_tags",
            Self::Mapper => "usage_mapper",
        }
    }
}

const SYNCS: &str = r#"
create table usage_filters (like usage_plain including all);
create table usage_tags (like usage_plain including all);
create table usage_mapper (like usage_plain including all);
select lago_push.create_sync('filters', source => 'usage_filters', template => '{
    "transaction_id": "usage-{{ row.id }}",
    "external_subscription_id": "{{ row.subscription | downcase }}",
    "code": "usage",
    "timestamp": {{ row.created_at }},
    "properties": {"amount": "{{ row.amount | times: 100 | round }}"}}');
select lago_push.create_sync('tags', source => 'usage_tags', template => '{
    "transaction_id": "usage-{{ row.id }}",
    "external_subscription_id": "{{ row.subscription }}",
    "code": "usage",
    "timestamp": {{ row.created_at }},
    "properties": {"amount": "{{ row.amount }}"{% if row.amount > 5 %}, "size": "large"{% endif %}}}');
create function usage_event(usage_mapper) returns jsonb language sql as $$
    select jsonb_build_object(
        'transaction_id', 'usage-' || $1.id,
        'external_subscription_id', $1.subscription,
        'code', 'usage',
        'timestamp', extract(epoch from $1.created_at),
        'properties', jsonb_build_object('amount', $1.amount::text))
$$;
select lago_push.create_sync('mapper', source => 'usage_mapper', mapper => 'usage_event(usage_mapper)');
select lago_push.activate('filters'), lago_push.activate('tags'), lago_push.activate('mapper');
"#;

const TIDYING: &str = "
select lago_push.drop_sync('filters', discard => true), lago_push.drop_sync('tags', discard => true),
       lago_push.drop_sync('mapper', discard => true);
drop table usage_filters, usage_tags;
drop table usage_mapper cascade;
";

pub fn measure(ground: &mut Ground, effort: Effort) -> Outcome<Findings> {
    let rows = effort.choose(30_000, 300_000);
    ground.db.run(SYNCS)?;
    let mut rounds = Vec::new();
    for number in 0..effort.rounds() {
        let mut round = [0.0; WAYS.len()];
        for way in rotated(&WAYS, number) {
            round[way as usize] = run(ground, way, rows)?;
        }
        rounds.push(round);
    }
    ground.clear()?;
    ground.db.run(TIDYING)?;
    Ok(findings(&rounds))
}

/// Microseconds a row takes.
fn run(ground: &mut Ground, way: Way, rows: usize) -> Outcome<f64> {
    ground.clear()?;
    ground.db.run(&format!("truncate {}", way.table()))?;
    ground.db.run("checkpoint")?;
    let took = ground.db.timed(&insert_rows(way.table(), rows))?;
    let captured: i64 = ground.db.value("select count(*) from lago_push.message")?;
    let expected = if way == Way::NoTrigger { 0 } else { rows };
    if usize::try_from(captured).ok() != Some(expected) {
        return Err(Failure::new(format!("{rows} rows by {way:?} gave {captured} messages")));
    }
    Ok(took.as_secs_f64() * 1e6 / counted_as_float(rows))
}

fn findings(rounds: &[[f64; WAYS.len()]]) -> Findings {
    let added = |round: &[f64; WAYS.len()], way: Way| round[way as usize] - round[Way::NoTrigger as usize];
    let figure = |what, way, goal| Figure {
        what,
        against: "a template of plain holes",
        measured: Spread::of(rounds.iter().map(|round| added(round, way) / added(round, Way::PlainHoles))),
        unit: Unit::Times,
        goal,
    };
    let all = |what: &str, way| {
        Measurement::new(format!("bulk insert, {what}"), rounds.iter().map(|round| added(round, way)), "µs")
    };
    Findings {
        figures: vec![
            figure("time capture adds to a row, with three filters", Way::Filters, Goal::AtMost(3.0)),
            figure("time capture adds to a row, with a condition", Way::Tags, Goal::None),
            figure("time capture adds to a row, with a mapper in SQL", Way::Mapper, Goal::None),
        ],
        measurements: vec![
            all("plain holes add", Way::PlainHoles),
            all("filters add", Way::Filters),
            all("a condition adds", Way::Tags),
            all("a mapper adds", Way::Mapper),
        ],
    }
}
