//! The statements a user would type, shown and then run as shown. Only the key is masked.

use super::place::Place;
use super::{METRIC, say};
use crate::failure::Outcome;
use crate::session::Session;

const MASK: &str = "••••••••";

pub fn run(db: &mut Session, place: &Place) -> Outcome<()> {
    for statement in statements(place) {
        say(&format!("{statement};\n"));
        db.run(&statement.replace(MASK, &place.api_key().replace('\'', "''")))?;
    }
    Ok(())
}

fn statements(place: &Place) -> Vec<String> {
    let url = place.url().replace('\'', "''");
    // Plain http is refused by default except to this machine. Who names such an address here means it.
    let plain = matches!(place, Place::Real { .. }) && url.starts_with("http://");
    let allow = if plain { ",\n    allow_http => true" } else { "" };
    let prefix = place.id_prefix();
    vec![
        // pgbench names the columns it inserts, so further ones do not disturb it.
        "alter table pgbench_history\n    \
         add column id bigint generated always as identity,\n    \
         add column at timestamptz not null default clock_timestamp()"
            .to_owned(),
        "create extension lago_push".to_owned(),
        format!(
            "select lago_push.create_destination('lago',\n    url => '{url}',\n    api_key => '{MASK}'{allow})"
        ),
        format!(
            r#"select lago_push.create_sync('pgbench', source => 'pgbench_history', template => '{{
    "transaction_id": "{prefix}-{{{{ row.id }}}}",
    "external_subscription_id": "branch-{{{{ row.bid }}}}",
    "code": "{METRIC}",
    "timestamp": {{{{ row.at }}}},
    "properties": {{"delta": "{{{{ row.delta }}}}", "teller": {{{{ row.tid }}}}}}}}')"#
        ),
        "select lago_push.activate('pgbench')".to_owned(),
    ]
}
