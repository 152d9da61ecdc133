//! The same comparison as plain SQL: one transaction, set by set, as somebody would write it who knows PostgreSQL well.
//!
//! The differences go into a temporary table, so that the three statements which bring the state up to date have
//! plans for as many rows as there are.

use delivery::cluster::Cluster;

use super::Turn;
use super::source::State;
use super::watch::Watch;
use crate::failure::Outcome;
use crate::figures::ground::DATABASE;
use crate::session::Session;

/// In a session of its own, whose memory is this turn's then.
pub fn turn(cluster: &Cluster, state: State, run: usize) -> Outcome<Turn> {
    let mut db = Session::open(cluster, DATABASE)?;
    let watch = Watch::begin(db.value("select pg_backend_pid()")?)?;
    let seconds = db.timed(&statements(state, run))?.as_secs_f64();
    Ok(Turn { seconds, used: watch.end() })
}

fn statements(state: State, run: usize) -> String {
    // What is gone is made of what was kept of it; its columns have to have their types again.
    let (kept, before, gone, queued) = match state {
        State::WholeRows => (
            "row_to_json(d.b)",
            "s.row",
            "left join lateral json_populate_record(null::billed, d.row_before) g on d.operation = 'delete'",
            "true",
        ),
        State::Digests => ("null::json", "null::json", "", "d.operation <> 'delete'"),
    };
    let column = |name: &str| match state {
        State::WholeRows => format!("coalesce((d.b).{name}, g.{name})"),
        State::Digests => format!("(d.b).{name}"),
    };
    let (subscription, created_at, amount) = (column("subscription"), column("created_at"), column("amount"));
    format!(
        "begin isolation level repeatable read;
         create temporary table differing on commit drop as
             select coalesce(q.key, s.key) as key,
                    case when s.key is null then 'insert' when q.key is null then 'delete' else 'update' end as operation,
                    q.b, q.digest, {before} as row_before
             from (select b.id::text collate \"C\" as key, md5(b::text)::uuid as digest, b from billed b) q
             full join peer_state s on s.key = q.key
             where q.digest is distinct from s.digest;
         analyze differing (key, operation);
         insert into peer_outbox (sync_id, operation, payload)
             select 1, left(d.operation, 1)::\"char\", jsonb_build_object(
                 'transaction_id', 'runs:' || d.operation || ':' || d.key || ':{run}',
                 'external_subscription_id', {subscription},
                 'code', 'usage',
                 'timestamp', extract(epoch from {created_at}),
                 'properties', jsonb_build_object('amount', {amount}::text, 'operation', d.operation))::text
             from differing d {gone}
             where {queued};
         delete from peer_state s using differing d where d.operation = 'delete' and s.key = d.key;
         update peer_state s set digest = d.digest, row = d.row_now
             from (select d.key, d.digest, {kept} as row_now from differing d where d.operation = 'update') d
             where s.key = d.key;
         insert into peer_state (key, digest, row)
             select d.key, d.digest, {kept} from differing d where d.operation = 'insert';
         commit"
    )
}
