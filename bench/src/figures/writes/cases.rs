//! Which writes are measured, and the same event of each written twice: as a template and by hand.

/// What the statement that is measured does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Write {
    Insert,
    Update { set: &'static str },
    Delete,
}

impl Write {
    fn operation(self) -> &'static str {
        match self {
            Self::Insert => "insert",
            Self::Update { .. } => "update",
            Self::Delete => "delete",
        }
    }
}

pub struct Case {
    pub name: &'static str,
    pub figure: &'static str,
    /// Of a full run. As many as write some tens of megabytes.
    pub rows: usize,
    pub write: Write,
    /// A query over the numbers `n` that makes the rows, whose columns are those of the table.
    made: String,
    template: &'static str,
    /// The event as PL/pgSQL would build it.
    by_hand: &'static str,
}

impl Case {
    /// SQL that makes the tables, the hand-written trigger and the sync.
    pub fn preparation(&self, rows: usize) -> String {
        let Self { made, template, by_hand, .. } = self;
        let operation = self.write.operation();
        format!(
            "create table prepared as {made} from generate_series(1, {rows}) n;
             create table written_plain (like prepared, primary key (id));
             create table written_peer (like written_plain including all);
             create table written_ours (like written_plain including all);
             create function bill_written() returns trigger language plpgsql as $$
             begin
                 insert into peer_outbox (sync_id, operation, payload) values (1, 'i', {by_hand}::text);
                 return null;
             end $$;
             create trigger bill after {operation} on written_peer for each row execute function bill_written();
             select lago_push.create_sync('written', source => 'written_ours', operations => '{{{operation}}}',
                 template => $template${template}$template$);
             select lago_push.activate('written');"
        )
    }
}

/// What all rows have.
const USAGE: &str = "select n::bigint as id, 'sub_' || n % 8 as subscription, n % 1000 * 0.01 as amount,
    timestamptz '2026-01-15 12:00:00+00' + n * interval '1 ms' as created_at";

pub fn all() -> [Case; 6] {
    [
        Case {
            name: "update",
            figure: "time capture adds to an update",
            rows: 100_000,
            write: Write::Update { set: "amount = amount + 1" },
            made: USAGE.to_owned(),
            template: r#"{
                "transaction_id": "usage-{{ row.id }}-changed",
                "external_subscription_id": "{{ row.subscription }}",
                "code": "usage",
                "timestamp": {{ row.created_at }},
                "properties": {"amount": "{{ row.amount }}", "before": "{{ old.amount }}"}}"#,
            by_hand: "jsonb_build_object(
                'transaction_id', 'usage-' || new.id || '-changed',
                'external_subscription_id', new.subscription,
                'code', 'usage',
                'timestamp', extract(epoch from new.created_at),
                'properties', jsonb_build_object('amount', new.amount::text, 'before', old.amount::text))",
        },
        Case {
            name: "delete",
            figure: "  to a delete",
            rows: 100_000,
            write: Write::Delete,
            made: USAGE.to_owned(),
            template: r#"{
                "transaction_id": "usage-{{ row.id }}-gone",
                "external_subscription_id": "{{ row.subscription }}",
                "code": "usage",
                "timestamp": {{ row.created_at }},
                "properties": {"amount": "{{ row.amount }}"}}"#,
            by_hand: "jsonb_build_object(
                'transaction_id', 'usage-' || old.id || '-gone',
                'external_subscription_id', old.subscription,
                'code', 'usage',
                'timestamp', extract(epoch from old.created_at),
                'properties', jsonb_build_object('amount', old.amount::text))",
        },
        Case {
            name: "50 columns, five named",
            figure: "  to an insert of 50 columns, five named",
            rows: 50_000,
            write: Write::Insert,
            made: wide(),
            template: r#"{
                "transaction_id": "usage-{{ row.id }}",
                "external_subscription_id": "{{ row.subscription }}",
                "code": "usage",
                "timestamp": {{ row.created_at }},
                "properties": {"amount": "{{ row.amount }}", "last": "{{ row.more_46 }}"}}"#,
            by_hand: "jsonb_build_object(
                'transaction_id', 'usage-' || new.id,
                'external_subscription_id', new.subscription,
                'code', 'usage',
                'timestamp', extract(epoch from new.created_at),
                'properties', jsonb_build_object('amount', new.amount::text, 'last', new.more_46::text))",
        },
        Case {
            name: "50 columns, two named",
            figure: "  to an insert of 50 columns, two named",
            rows: 50_000,
            write: Write::Insert,
            made: wide(),
            template: r#"{
                "transaction_id": "usage-{{ row.id }}",
                "external_subscription_id": "{{ row.subscription }}",
                "code": "usage"}"#,
            by_hand: "jsonb_build_object(
                'transaction_id', 'usage-' || new.id,
                'external_subscription_id', new.subscription,
                'code', 'usage',
                'timestamp', extract(epoch from now()))",
        },
        Case {
            name: "8 kB of jsonb, one path",
            figure: "  to an insert with 8 kB of jsonb, one path taken",
            rows: 10_000,
            write: Write::Insert,
            made: with_document(),
            template: r#"{
                "transaction_id": "usage-{{ row.id }}",
                "external_subscription_id": "{{ row.subscription }}",
                "code": "usage",
                "timestamp": {{ row.created_at }},
                "properties": {"region": "{{ row.document.region }}"}}"#,
            by_hand: "jsonb_build_object(
                'transaction_id', 'usage-' || new.id,
                'external_subscription_id', new.subscription,
                'code', 'usage',
                'timestamp', extract(epoch from new.created_at),
                'properties', jsonb_build_object('region', new.document ->> 'region'))",
        },
        Case {
            name: "8 kB of jsonb, whole",
            figure: "  to an insert with 8 kB of jsonb, all of it taken",
            rows: 10_000,
            write: Write::Insert,
            made: with_document(),
            template: r#"{
                "transaction_id": "usage-{{ row.id }}",
                "external_subscription_id": "{{ row.subscription }}",
                "code": "usage",
                "timestamp": {{ row.created_at }},
                "properties": {{ row.document }}}"#,
            by_hand: "jsonb_build_object(
                'transaction_id', 'usage-' || new.id,
                'external_subscription_id', new.subscription,
                'code', 'usage',
                'timestamp', extract(epoch from new.created_at),
                'properties', new.document)",
        },
    ]
}

/// Fifty columns of the usual types.
fn wide() -> String {
    let more = (1..=46).map(|number| match number % 4 {
        0 => format!(", (n * {number})::bigint as more_{number}"),
        1 => format!(", 'text ' || n % {number} as more_{number}"),
        2 => format!(", n * 0.01 + {number} as more_{number}"),
        _ => format!(", timestamptz '2026-01-15 12:00:00+00' + n * interval '{number} s' as more_{number}"),
    });
    USAGE.to_owned() + &more.collect::<String>()
}

/// Texts like each other, as in most documents: PostgreSQL stores them compressed.
fn with_document() -> String {
    format!(
        "{USAGE}, jsonb_build_object('region', 'eu-' || n % 5) || (
             select jsonb_object_agg('step_' || k, 'job ' || n * k || ' on host ' || md5((n % 50 * k)::text))
             from generate_series(1, 122) k) as document"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wide_row_has_fifty_columns() {
        assert_eq!(wide().matches(" as ").count(), 50);
    }

    #[test]
    fn the_sync_captures_what_the_case_does_and_nothing_else() {
        for case in all() {
            let operation = case.write.operation();
            let sql = case.preparation(10);
            assert!(sql.contains(&format!("create trigger bill after {operation} on written_peer")));
            assert!(sql.contains(&format!("operations => '{{{operation}}}'")), "{}", case.name);
        }
    }
}
