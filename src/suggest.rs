//! Suggest: a first draft of a template, from the names and types of a table's columns.
//!
//! Before the journey begins. The draft is for a person to read and correct; what it promises is that it
//! parses and passes the check of its call, and that what could not be found is plain to see.
#![forbid(unsafe_code)]

use crate::call::Call;
use crate::endpoint::{Endpoint, Nature, nature};
use std::collections::BTreeSet;

/// A column, as far as a draft cares.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Column {
    pub name: String,
    pub kind: ColumnKind,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ColumnKind {
    Text,
    Integer,
    Decimal,
    Float,
    Boolean,
    /// A date, or a date and time.
    Moment,
    Json,
    Other,
}

/// What begins every text that somebody has to replace.
const REPLACE: &str = "REPLACE_ME";
/// Lago takes as much metadata in an object.
const MOST_METADATA: usize = 50;
const LONGEST_METADATA_KEY: usize = 40;

/// A template for the call, drafted from the columns of a table.
pub fn template(call: &Call, table: &str, columns: &[Column], primary_key: &[String]) -> String {
    let columns: Vec<&Column> = columns.iter().filter(|column| can_be_named(&column.name)).collect();
    let key: Vec<&Column> = primary_key
        .iter()
        .filter_map(|name| columns.iter().copied().find(|column| column.name == *name))
        .collect();
    let mut draft = Draft {
        table: plain_name(table),
        has_key: !primary_key.is_empty(),
        // A part of a key tells no row from another.
        key: if key.len() == primary_key.len() { key } else { Vec::new() },
        columns,
        used: BTreeSet::new(),
        members: Vec::new(),
    };
    match call.endpoint {
        Some(endpoint) => draft.fill(call, endpoint),
        None => draft.fill_freely(call),
    }
    draft.written()
}

struct Draft<'a> {
    table: String,
    columns: Vec<&'a Column>,
    /// Then lago_push makes ids itself, and better ones: those of updates differ.
    has_key: bool,
    /// Empty when there is no primary key, or a template cannot name it.
    key: Vec<&'a Column>,
    used: BTreeSet<&'a str>,
    /// Keys and the JSON text of their values.
    members: Vec<(String, String)>,
}

impl<'a> Draft<'a> {
    fn fill(&mut self, call: &Call, endpoint: &Endpoint) {
        for key in call.required() {
            let value = match (endpoint.name, key) {
                ("event", "transaction_id") if self.has_key => None,
                ("event", "transaction_id") => Some(self.identity()),
                // Better the time of the change than one nobody meant.
                ("event", "timestamp") => self.found(endpoint, key),
                _ => self.found(endpoint, key).or_else(|| Some(placeholder(endpoint, key, &self.table))),
            };
            self.members.extend(value.map(|value| (key.to_owned(), value)));
        }
        let before = self.members.len();
        for key in endpoint.any_of {
            self.add_if_found(endpoint, key);
        }
        if let Some(first) = endpoint.any_of.first()
            && self.members.len() == before
        {
            self.members.push(((*first).to_owned(), placeholder(endpoint, first, &self.table)));
        }
        for key in endpoint.optional.iter().filter(|key| !matches!(**key, "properties" | "metadata")) {
            self.add_if_found(endpoint, key);
        }
        for key in wanted_by_lago(endpoint) {
            if !self.members.iter().any(|(name, _)| name == key) {
                self.members.push(((*key).to_owned(), placeholder(endpoint, key, &self.table)));
            }
        }
        match endpoint.name {
            "event" => self.add_leftovers("properties", usize::MAX, usize::MAX),
            "wallet" | "wallet_update" | "plan" | "plan_update" | "credit_note" => {
                self.add_leftovers("metadata", MOST_METADATA, LONGEST_METADATA_KEY);
            }
            // By it a top-up can be found again, after a reply that never came.
            "wallet_transaction" if !self.has_key => {
                let value = format!("[{{\"key\": \"source\", \"value\": {}}}]", self.identity());
                self.members.push(("metadata".into(), value));
            }
            _ => {}
        }
    }

    /// For a call that is not in the catalogue: every column under its own name.
    fn fill_freely(&mut self, call: &Call) {
        for key in call.required() {
            let value = match self.columns.iter().find(|column| column.name == key) {
                Some(column) => {
                    self.used.insert(&column.name);
                    format!("\"{}\"", hole(&column.name))
                }
                None => format!("\"{REPLACE}_{key}\""),
            };
            self.members.push((key.to_owned(), value));
        }
        for column in self.columns.clone() {
            if self.used.insert(&column.name) {
                self.members.push((escaped(&column.name), hole(&column.name)));
            }
        }
    }

    /// The columns that tell one row from another: the primary key, or what looks most like one.
    fn telling_apart(&self) -> Vec<&'a Column> {
        if !self.key.is_empty() {
            return self.key.clone();
        }
        let by_name = ["id", "uuid", "transaction_id", "event_id", "idempotency_key"]
            .iter()
            .find_map(|name| self.columns.iter().find(|column| folded(&column.name) == folded(name)));
        by_name.copied().into_iter().collect()
    }

    /// Text that is another one for every row; nothing is guessed, as rows alike would be billed once.
    /// Its columns may serve another key too: the subscription is often part of a primary key.
    fn identity(&self) -> String {
        let columns = self.telling_apart();
        if columns.is_empty() {
            return format!("\"{REPLACE}-{{{{ op }}}}\"");
        }
        let holes: Vec<String> = columns.iter().map(|column| hole(&column.name)).collect();
        format!("\"{}-{}\"", self.table, holes.join("-"))
    }

    fn add_if_found(&mut self, endpoint: &Endpoint, key: &str) {
        if let Some(value) = self.found(endpoint, key) {
            self.members.push((key.to_owned(), value));
        }
    }

    /// A hole for the column that is probably meant, the more telling names first.
    fn found(&mut self, endpoint: &Endpoint, key: &str) -> Option<String> {
        let nature = nature(endpoint, key);
        let fits = |column: &&&Column| {
            !self.used.contains(column.name.as_str()) && written_as(nature, column).is_some()
        };
        let named = names(endpoint, key)
            .iter()
            .find_map(|name| self.columns.iter().filter(fits).find(|c| folded(&c.name) == folded(name)));
        let by_type = || match nature {
            Nature::UnixSeconds => self.columns.iter().filter(fits).find(|c| c.kind == ColumnKind::Moment),
            _ => None,
        };
        let by_key = || match (self.key.as_slice(), stands_for_the_row(endpoint, key)) {
            ([only], true) => self.columns.iter().filter(fits).find(|c| c.name == only.name),
            _ => None,
        };
        let column: &'a Column = named.or_else(by_type).or_else(by_key).copied()?;
        self.used.insert(&column.name);
        written_as(nature, column)
    }

    /// What no other key took, as an object of its own.
    fn add_leftovers(&mut self, key: &str, most: usize, longest_name: usize) {
        let telling_apart = self.telling_apart();
        let members: Vec<String> = self
            .columns
            .iter()
            .filter(|column| !self.used.contains(column.name.as_str()) && !telling_apart.contains(column))
            .filter(|column| column.name.chars().count() <= longest_name)
            .filter(|column| key == "properties" || column.kind != ColumnKind::Json)
            .take(most)
            .map(|column| {
                let hole = hole(&column.name);
                let value = match column.kind {
                    ColumnKind::Boolean | ColumnKind::Json if key == "properties" => hole,
                    // Numbers too: as text Lago keeps every digit.
                    _ => format!("\"{hole}\""),
                };
                format!("    \"{}\": {value}", escaped(&column.name))
            })
            .collect();
        if !members.is_empty() {
            self.members.push((key.to_owned(), format!("{{\n{}\n  }}", members.join(",\n"))));
        }
    }

    fn written(&self) -> String {
        if self.members.is_empty() {
            return "{}".into();
        }
        let members: Vec<String> =
            self.members.iter().map(|(key, value)| format!("  \"{key}\": {value}")).collect();
        format!("{{\n{}\n}}", members.join(",\n"))
    }
}

/// The JSON text that gives a column's value to a key of this nature, if its type suits.
fn written_as(nature: Nature, column: &Column) -> Option<String> {
    use ColumnKind::{Boolean, Decimal, Float, Integer, Json, Moment, Other, Text};
    let bare = hole(&column.name);
    let quoted = format!("\"{bare}\"");
    match (nature, column.kind) {
        (Nature::Plain | Nature::Short(_), Text | Integer | Decimal | Other) => Some(quoted),
        (Nature::UnixSeconds, Moment | Integer | Decimal | Float) => Some(bare),
        // Bare, so that null stays null.
        (Nature::Moment, Moment) => Some(bare),
        (Nature::DecimalText | Nature::PreciseAmount, Integer | Decimal | Float) => Some(quoted),
        (Nature::Whole, Integer) => Some(bare),
        (Nature::Flag, Boolean) => Some(bare),
        (Nature::Currency, Text | Other) => Some(quoted),
        (Nature::OneOf(_), Text | Other) => Some(quoted),
        (Nature::Object | Nature::List | Nature::Nested, Json) => Some(bare),
        _ => None,
    }
}

/// Names a column for this key may have, the likeliest first.
fn names(endpoint: &Endpoint, key: &str) -> Vec<String> {
    let object = object_of(endpoint);
    let mut names = vec![key.to_owned()];
    let more: &[&str] = match (object, key) {
        (_, "external_subscription_id") | ("subscription", "external_id") => &[
            "external_subscription_id",
            "subscription_external_id",
            "subscription_id",
            "subscription",
            "sub_id",
        ],
        (_, "external_customer_id") | ("customer", "external_id") => &[
            "external_customer_id",
            "customer_external_id",
            "customer_id",
            "customer",
            "account_id",
            "account",
            "organization_id",
            "org_id",
            "tenant_id",
            "tenant",
            "company_id",
            "client_id",
            "user_id",
        ],
        (_, "timestamp") => &[
            "occurred_at",
            "happened_at",
            "event_time",
            "event_at",
            "used_at",
            "recorded_at",
            "logged_at",
            "created_at",
            "inserted_at",
            "time",
            "ts",
            "at",
        ],
        ("event", "code") => {
            &["event_code", "metric_code", "billable_metric_code", "metric", "event_name", "event_type"]
        }
        (_, "plan_code") => &["plan", "plan_key", "plan_id"],
        (_, "coupon_code") => &["coupon", "coupon_id"],
        (_, "code") => &["slug", "sku"],
        (_, "name") => &["title", "label"],
        (_, "amount_cents") => &["cents", "amount_in_cents", "price_cents", "total_cents"],
        (_, "amount_currency") => &["currency", "currency_code"],
        (_, "currency") => &["amount_currency", "currency_code"],
        (_, "paid_credits") => &["credits", "amount"],
        (_, "rate_amount") => &["rate"],
        (_, "rate") => &["percent", "percentage", "tax_rate"],
        (_, "pay_in_advance") => &["in_advance"],
        (_, "interval") => &["billing_interval", "period"],
        (_, "payment_status") => &["status"],
        (_, "reference") => &["payment_reference", "external_reference"],
        (_, "wallet_id") => &["lago_wallet_id", "wallet_lago_id"],
        (_, "invoice_id") => &["lago_invoice_id", "invoice_lago_id"],
        (_, "subscription_at") => &["started_at", "starts_at", "start_date"],
        (_, "ending_at") => &["ends_at", "end_date", "ended_at"],
        (_, "expiration_at") => &["expires_at"],
        (_, "email") => &["email_address", "mail"],
        (_, "address_line1") => &["address", "street"],
        (_, "zipcode") => &["zip", "postal_code", "postcode"],
        (_, "phone") => &["phone_number", "telephone"],
        (_, "country") => &["country_code"],
        (_, "url") => &["website"],
        _ => &[],
    };
    names.extend(more.iter().map(|name| (*name).to_owned()));
    if key == "lago_id" {
        names.extend([format!("lago_{object}_id"), format!("{object}_lago_id"), format!("{object}_id")]);
    }
    if matches!(key, "code" | "name") && object != "event" {
        names.push(format!("{object}_{key}"));
    }
    names
}

/// What an endpoint is about: `wallet` for `wallet_update`.
fn object_of(endpoint: &Endpoint) -> &'static str {
    ["_update", "_delete", "_terminate"]
        .iter()
        .find_map(|suffix| endpoint.name.strip_suffix(suffix))
        .unwrap_or(endpoint.name)
}

/// Whether a key names the row itself, so that the table's primary key will do.
fn stands_for_the_row(endpoint: &Endpoint, key: &str) -> bool {
    key == "external_id" || (endpoint.name == "payment" && key == "reference")
}

/// Keys Lago refuses to go without, though it depends on others which.
fn wanted_by_lago(endpoint: &Endpoint) -> &'static [&'static str] {
    match endpoint.name {
        "coupon" => &["coupon_type", "amount_currency", "frequency", "expiration"],
        _ => &[],
    }
}

/// A value nobody can take for a real one, and that passes the check.
fn placeholder(endpoint: &Endpoint, key: &str, table: &str) -> String {
    match (nature(endpoint, key), key) {
        // Most often one table counts for one metric, of the same name.
        (Nature::Plain, "code") if endpoint.name == "event" => format!("\"{table}\""),
        (Nature::Plain | Nature::Short(_), _) => format!("\"{REPLACE}_{key}\""),
        (Nature::UnixSeconds | Nature::Whole, _) => "0".into(),
        (Nature::Moment, _) => "\"2000-01-01T00:00:00Z\"".into(),
        (Nature::DecimalText | Nature::PreciseAmount, _) => "\"0\"".into(),
        (Nature::Flag, _) => "false".into(),
        // ISO 4217's code for no currency at all.
        (Nature::Currency, _) => "\"XXX\"".into(),
        (Nature::OneOf(words), _) => format!("\"{}\"", words.first().copied().unwrap_or(REPLACE)),
        (Nature::List, "fees") => {
            format!("[{{\"add_on_code\": \"{REPLACE}_add_on_code\", \"units\": \"1\"}}]")
        }
        (Nature::List, "items") => format!("[{{\"fee_id\": \"{REPLACE}_fee_id\", \"amount_cents\": 0}}]"),
        (Nature::List, _) => "[]".into(),
        (Nature::Object | Nature::Nested, _) => "{}".into(),
    }
}

/// A name as it is compared: `SubscriptionId` is `subscription_id`.
fn folded(name: &str) -> String {
    name.chars().filter(|c| c.is_alphanumeric()).flat_map(char::to_lowercase).collect()
}

/// Whether a template can ask for a column of this name.
fn can_be_named(name: &str) -> bool {
    let both_quotes = name.contains('"') && name.contains('\'');
    let liquid = ["{{", "}}", "{%", "%}"].iter().any(|mark| name.contains(mark));
    !name.is_empty() && !both_quotes && !liquid && !name.contains(|c: char| c.is_control() || c == '\\')
}

fn hole(name: &str) -> String {
    let is_word = name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
        && !name.starts_with(|c: char| c.is_ascii_digit());
    match (is_word, name.contains('"')) {
        (true, _) => format!("{{{{ row.{name} }}}}"),
        (false, false) => format!("{{{{ row[\"{name}\"] }}}}"),
        (false, true) => format!("{{{{ row['{name}'] }}}}"),
    }
}

/// A name between the quotes of a JSON string.
fn escaped(name: &str) -> String {
    name.replace('\\', "\\\\").replace('"', "\\\"")
}

/// The table's own name, without its schema, in letters that need no quoting anywhere.
fn plain_name(table: &str) -> String {
    let own = match table.strip_suffix('"') {
        Some(inner) => inner.rsplit(".\"").next().unwrap_or(inner).trim_start_matches('"'),
        None => table.rsplit('.').next().unwrap_or(table),
    };
    let plain: String =
        own.chars().map(|c| if c.is_alphanumeric() || matches!(c, '_' | '-') { c } else { '_' }).collect();
    if plain.is_empty() { "row".into() } else { plain }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::call::MANUAL;
    use crate::endpoint::{CATALOGUE, check, find};
    use crate::template::parse;
    use ColumnKind::{Boolean, Decimal, Float, Integer, Json, Moment, Other, Text};
    use proptest::prelude::*;

    fn call(name: &str) -> Call {
        Call::from(find(name).expect("in the catalogue"))
    }

    fn columns(columns: &[(&str, ColumnKind)]) -> Vec<Column> {
        columns.iter().map(|(name, kind)| Column { name: (*name).to_owned(), kind: *kind }).collect()
    }

    fn drafted(endpoint: &str, table: &str, of: &[(&str, ColumnKind)], key: &[&str]) -> String {
        let key: Vec<String> = key.iter().map(|name| (*name).to_owned()).collect();
        template(&call(endpoint), table, &columns(of), &key)
    }

    #[test]
    fn an_event_is_drafted_from_what_the_columns_are_called() {
        let draft = drafted(
            "event",
            "public.api_calls",
            &[
                ("id", Integer),
                ("updated_at", Moment),
                ("created_at", Moment),
                ("subscription", Text),
                ("bytes", Integer),
                ("cost", Decimal),
                ("cached", Boolean),
                ("meta", Json),
                ("Odd Name", Text),
            ],
            &["id"],
        );
        assert_eq!(
            draft,
            r#"{
  "external_subscription_id": "{{ row.subscription }}",
  "code": "api_calls",
  "timestamp": {{ row.created_at }},
  "properties": {
    "updated_at": "{{ row.updated_at }}",
    "bytes": "{{ row.bytes }}",
    "cost": "{{ row.cost }}",
    "cached": {{ row.cached }},
    "meta": {{ row.meta }},
    "Odd Name": "{{ row["Odd Name"] }}"
  }
}"#
        );
    }

    #[test]
    fn what_cannot_be_found_is_plain_to_see() {
        let draft = drafted("event", "t", &[], &[]);
        assert!(
            draft.contains(r#""external_subscription_id": "REPLACE_ME_external_subscription_id""#),
            "{draft}"
        );
        assert!(draft.contains(r#""transaction_id": "REPLACE_ME-{{ op }}""#), "{draft}");
        let draft = drafted("event", "t", &[("bytes", Integer)], &[]);
        assert!(draft.contains(r#""transaction_id": "REPLACE_ME-{{ op }}""#), "{draft}");
        assert!(draft.contains(r#""bytes": "{{ row.bytes }}""#), "{draft}");
        let draft = drafted("invoice", "t", &[("customer_id", Integer)], &[]);
        assert!(draft.contains(r#""external_customer_id": "{{ row.customer_id }}""#), "{draft}");
        assert!(draft.contains("REPLACE_ME_add_on_code"), "{draft}");
        assert!(drafted("wallet", "t", &[], &[]).contains(r#""currency": "XXX""#));
    }

    #[test]
    fn the_transaction_id_is_left_to_lago_push_where_there_is_a_primary_key() {
        let of = [("tenant", Integer), ("day", Moment), ("n", Integer)];
        let draft = drafted("event", "usage", &of, &["tenant", "day"]);
        assert!(!draft.contains("transaction_id"), "{draft}");
        assert!(draft.contains(r#""timestamp": {{ row.day }}"#), "{draft}");
        let of = [("subscription_id", Text), ("at", Moment)];
        let draft = drafted("event", "usage", &of, &["subscription_id", "at"]);
        assert!(draft.contains(r#""external_subscription_id": "{{ row.subscription_id }}""#), "{draft}");
        let draft = drafted("event", "usage", &[("a}}b", Integer), ("uuid", Other)], &["a}}b"]);
        assert!(!draft.contains("transaction_id"), "{draft}");
        let draft = drafted("event", "usage", &[("n", Integer), ("uuid", Other)], &[]);
        assert!(draft.contains(r#""transaction_id": "usage-{{ row.uuid }}""#), "{draft}");
    }

    #[test]
    fn the_primary_key_names_a_customer_or_subscription_without_a_better_name() {
        let of = [("id", Integer), ("first_name", Text), ("postcode", Text), ("email", Text)];
        let draft = drafted("customer", "people", &of, &["id"]);
        for member in [
            r#""external_id": "{{ row.id }}""#,
            r#""firstname": "{{ row.first_name }}""#,
            r#""zipcode": "{{ row.postcode }}""#,
            r#""email": "{{ row.email }}""#,
        ] {
            assert!(draft.contains(member), "{member}: {draft}");
        }
        let draft = drafted("customer_delete", "people", &[("id", Integer), ("account_id", Text)], &["id"]);
        assert!(draft.contains(r#""{{ row.account_id }}""#), "{draft}");
    }

    #[test]
    fn a_column_of_the_wrong_type_is_not_taken() {
        let draft = drafted("plan", "plans", &[("amount_cents", Decimal), ("pay_in_advance", Text)], &[]);
        assert!(draft.contains(r#""amount_cents": 0"#), "{draft}");
        assert!(draft.contains(r#""pay_in_advance": false"#), "{draft}");
        let draft = drafted("event", "t", &[("timestamp", Text), ("at", Moment)], &[]);
        assert!(draft.contains(r#""timestamp": {{ row.at }}"#), "{draft}");
    }

    #[test]
    fn a_top_up_of_a_table_without_key_carries_what_it_can_be_found_by() {
        let of = [("id", Integer), ("lago_wallet_id", Text), ("credits", Decimal)];
        let draft = drafted("wallet_transaction", "top_ups", &of, &["id"]);
        for member in [r#""wallet_id": "{{ row.lago_wallet_id }}""#, r#""paid_credits": "{{ row.credits }}""#]
        {
            assert!(draft.contains(member), "{member}: {draft}");
        }
        assert!(!draft.contains("metadata"), "{draft}");
        let draft = drafted("wallet_transaction", "top_ups", &of, &[]);
        let label = r#""metadata": [{"key": "source", "value": "top_ups-{{ row.id }}"}]"#;
        assert!(draft.contains(label), "{draft}");
    }

    #[test]
    fn a_path_of_ones_own_relieves_the_draft_of_the_endpoints_keys() {
        let own = Call::of("customer_delete", None, Some("/customers/{{ row.id }}"), None).expect("a call");
        assert_eq!(template(&own, "t", &columns(&[("id", Integer)]), &[]), "{}");
    }

    #[test]
    fn a_manual_call_gets_every_column() {
        let manual = Call::of(MANUAL, None, Some("/things/{id}"), None).expect("a call");
        assert_eq!(
            template(&manual, "t", &columns(&[("a \"b\"", Text), ("id", Integer)]), &[]),
            "{\n  \"id\": \"{{ row.id }}\",\n  \"a \\\"b\\\"\": {{ row['a \"b\"'] }}\n}"
        );
    }

    #[test]
    fn a_table_goes_by_its_own_name() {
        for (table, name) in [
            ("public.api_calls", "api_calls"),
            ("api_calls", "api_calls"),
            (r#"public."Api Calls""#, "Api_Calls"),
            (r#""a.b"."c.d""#, "c_d"),
            (r#""{{ x }}""#, "___x___"),
            ("", "row"),
        ] {
            assert_eq!(plain_name(table), name, "{table}");
        }
    }

    fn some_columns() -> impl Strategy<Value = Vec<Column>> {
        let name = prop_oneof![
            "[a-z_]{1,8}",
            "[a-zA-Z0-9 \"'{}%|.\\[\\]\\\\äß€-]{1,10}",
            any::<String>(),
            prop::sample::select(
                CATALOGUE.iter().flat_map(Endpoint::keys).map(str::to_owned).collect::<Vec<_>>()
            ),
            prop::sample::select(vec![
                "id",
                "created_at",
                "event",
                "events",
                "customer",
                "plan",
                "credits",
                "cents"
            ])
            .prop_map(str::to_owned),
        ];
        let kind = prop::sample::select(vec![Text, Integer, Decimal, Float, Boolean, Moment, Json, Other]);
        prop::collection::btree_map(name, kind, 0..12)
            .prop_map(|map| map.into_iter().map(|(name, kind)| Column { name, kind }).collect())
    }

    proptest! {
        #[test]
        fn every_draft_parses_and_passes_the_check(
            columns in some_columns(),
            table in prop_oneof!["[a-z_.]{0,12}", any::<String>()],
            key_parts in 0..3usize,
        ) {
            let key: Vec<String> = columns.iter().take(key_parts).map(|column| column.name.clone()).collect();
            let manual = [
                Call::of(MANUAL, None, Some("/x"), None).expect("a call"),
                Call::of(MANUAL, None, Some("/x/{id}/{other}"), Some("event")).expect("a call"),
            ];
            for call in CATALOGUE.iter().map(Call::from).chain(manual) {
                let draft = template(&call, &table, &columns, &key);
                let parsed = parse(&draft);
                prop_assert!(parsed.is_ok(), "{}: {:?}\n{}", call.name(), parsed, draft);
                let passed = parsed.and_then(|parsed| check(&call, &parsed));
                prop_assert!(passed.is_ok(), "{}: {:?}\n{}", call.name(), passed, draft);
            }
        }
    }
}
