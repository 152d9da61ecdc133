//! Check: what can be told of a template before any row is there.
//!
//! What it lets pass is looked at again in the rendered payload, by [`crate::payload`].
#![forbid(unsafe_code)]

use super::nature::{Nature, begins_with_date, is_currency, nature};
use super::{Batch, Endpoint, LATEST_PLAUSIBLE_SECONDS, Listing};
use crate::call::{Call, Method};
use crate::nearest::nearest;
use crate::template::{Key, Mistake, MistakeKind, Piece, Position, Shape, Subject, Template};

const START: Position = Position { line: 1, column: 1 };

fn refuse(at: Position, what: impl Into<String>, hint: impl Into<String>) -> Result<(), Mistake> {
    Err(Mistake { kind: MistakeKind::Malformed, what: what.into(), at, hint: hint.into() })
}

/// Checks a template against what the call reads.
pub fn check(call: &Call, template: &Template) -> Result<(), Mistake> {
    let mut required = call.required();
    required.retain(|key| !call.endpoint.is_some_and(|endpoint| endpoint.supplies(key)));
    if template.keys.is_empty() && !may_be_without_keys(call, template) {
        let keys =
            if required.is_empty() { String::new() } else { format!(" with at least {}", list(&required)) };
        let hint = match call.endpoint {
            Some(endpoint) => format!("for example: {}", endpoint.example),
            None => "write {\"key\": \"{{ row.column }}\"}".into(),
        };
        return refuse(START, format!("a template for {} is a JSON object{keys}", call.name()), hint);
    }
    for key in &template.keys {
        check_wrapping(call, key)?;
    }
    for key in &template.keys {
        check_key(call, template, key)?;
    }
    for name in required {
        if !template.has(name) {
            let hint = match mistyped(call, template, name) {
                Some(key) => format!("write it instead of \"{key}\""),
                None => missing_hint(call.endpoint, name),
            };
            return refuse(START, format!("the template has no \"{name}\""), hint);
        }
    }
    if let Some(endpoint) = call.endpoint {
        check_combination(endpoint, template)?;
    }
    Ok(())
}

/// Whether a template that names no key is well as it is: `{}` for a call that asks for none, and any
/// JSON for one of the user's own.
fn may_be_without_keys(call: &Call, template: &Template) -> bool {
    let is_object = match template.pieces.first() {
        Some(Piece::Literal(text)) => text.starts_with('{'),
        Some(Piece::Hole(_)) => false,
        // What tags will make of it, its payloads show.
        _ => true,
    };
    call.required().is_empty() && (is_object || call.endpoint.is_none())
}

/// The outer key in Lago's examples, pasted along with what it holds.
fn check_wrapping(call: &Call, key: &Key) -> Result<(), Mistake> {
    let own = call.root.as_deref().or_else(|| call.endpoint.and_then(|endpoint| endpoint.root));
    let of_many = match call.endpoint.map(|endpoint| endpoint.batch) {
        Some(Batch::UpTo { root, .. }) => Some(root),
        _ => None,
    };
    let name = key.name.as_str();
    let wraps = match key.value {
        Shape::Object => own == Some(name),
        Shape::Array => of_many == Some(name),
        _ => false,
    };
    if !wraps || call.known().contains(&name) {
        return Ok(());
    }
    let hint = match key.value {
        Shape::Array => {
            "leave the outer key and the array out, and write one object: lago_push puts several into a request itself"
        }
        _ => "leave the outer key out: lago_push adds it",
    };
    refuse(key.at, format!("\"{name}\" is the key that wraps what is sent"), hint)
}

fn check_key(call: &Call, template: &Template, key: &Key) -> Result<(), Mistake> {
    let name = key.name.as_str();
    let known = call.known();
    let Some(endpoint) = call.endpoint else { return Ok(()) };
    if !known.contains(&name) {
        let wanted = meant(endpoint, name);
        if endpoint.listing == Listing::Complete || wanted.is_some() {
            return refuse(key.at, unread(call, endpoint, name), unknown_hint(call, endpoint, name));
        }
        return Ok(());
    }
    let needed = call.required().contains(&name);
    check_shape(endpoint, key, needed)?;
    if (endpoint.name, name) == ("event", "transaction_id") && is_constant(template, key) {
        return refuse(
            key.at,
            "\"transaction_id\" is the same for every row, so Lago would bill one row and take all others for repeats",
            "put the primary key into it: \"call-{{ row.id }}\"; or leave it out, and lago_push makes one",
        );
    }
    Ok(())
}

/// Whether the value can be what Lago reads under that key.
fn check_shape(endpoint: &Endpoint, key: &Key, needed: bool) -> Result<(), Mistake> {
    let (name, at) = (key.name.as_str(), key.at);
    let nature = nature(endpoint, name);
    let sample = || format!("write \"{name}\": {}", sample(nature));
    match (nature, &key.value) {
        (Nature::UnixSeconds, Shape::Text(text) | Shape::Bare(text)) if is_beyond_seconds(text) => refuse(
            at,
            format!("\"{name}\" is too large for Unix seconds: it looks like milliseconds"),
            "write seconds: Lago answers 200 to milliseconds and never bills them",
        ),
        (Nature::UnixSeconds, Shape::Text(text) | Shape::Bare(text)) if !is_unix_seconds(text) => refuse(
            at,
            format!("\"{name}\" is not a time in Unix seconds"),
            "write {{ row.created_at }} (a timestamptz column becomes Unix seconds), or seconds, not milliseconds and not ISO 8601",
        ),
        (Nature::Object, Shape::Object | Shape::HoleValue | Shape::Null) if !needed => Ok(()),
        (
            Nature::Object,
            Shape::Text(_) | Shape::Bare(_) | Shape::HoleText | Shape::MixedText | Shape::Array,
        ) => refuse(
            at,
            format!("\"{name}\" is not an object, and Lago drops it without a word"),
            "write \"properties\": {\"name\": \"{{ row.column }}\"}",
        ),
        (
            Nature::List,
            Shape::Text(_) | Shape::Bare(_) | Shape::HoleText | Shape::MixedText | Shape::Object,
        ) => refuse(at, format!("\"{name}\" is not an array"), sample()),
        (_, Shape::Null) if needed => refuse(at, format!("\"{name}\" needs {}", noun(nature)), sample()),
        (_, Shape::Text(text)) if needed && text.is_empty() => {
            refuse(at, format!("\"{name}\" is empty"), sample())
        }
        (nature, Shape::Object | Shape::Array) if !nature.is_structured() => {
            refuse(at, format!("\"{name}\" needs {}", noun(nature)), sample())
        }
        (Nature::DecimalText, Shape::Bare(_) | Shape::HoleValue) => refuse(
            at,
            format!("\"{name}\" is a JSON number, and Lago takes it as text only"),
            format!("put it in double quotes: {}", sample()),
        ),
        (Nature::DecimalText | Nature::PreciseAmount, Shape::Text(text))
            if !crate::json::is_plain_decimal(text.as_bytes()) =>
        {
            refuse(at, format!("\"{name}\" is not a decimal number"), sample())
        }
        (Nature::PreciseAmount, Shape::Bare(_)) => refuse(
            at,
            format!("\"{name}\" is a JSON number, whose digits Lago does not all keep"),
            format!("put it in double quotes: {}", sample()),
        ),
        (Nature::Whole, Shape::Bare(text) | Shape::Text(text)) if !is_whole(text) => {
            refuse(at, format!("\"{name}\" is not a whole number"), sample())
        }
        (Nature::Moment, Shape::Bare(_)) => {
            refuse(at, format!("\"{name}\" is not a time as ISO 8601"), sample())
        }
        (Nature::Moment, Shape::Text(text)) if !is_escaped(text) && !begins_with_date(text) => {
            refuse(at, format!("\"{name}\" is not a time as ISO 8601"), sample())
        }
        (Nature::Currency, Shape::Text(text)) if !is_escaped(text) && !is_currency(text) => {
            refuse(at, format!("\"{name}\" is not the code of a currency"), sample())
        }
        (Nature::Short(most), Shape::Text(text)) if !is_escaped(text) && text.chars().count() > most => {
            refuse(at, format!("\"{name}\" is longer than the {most} characters Lago takes"), "shorten it")
        }
        (Nature::OneOf(words), Shape::Text(text)) if !is_escaped(text) && !words.contains(&text.as_str()) => {
            refuse(
                at,
                format!("\"{name}\" is no word Lago knows there"),
                format!("write one of {}", list(words)),
            )
        }
        _ => Ok(()),
    }
}

/// What no key shows alone.
fn check_combination(endpoint: &Endpoint, template: &Template) -> Result<(), Mistake> {
    if !endpoint.any_of.is_empty() && !endpoint.any_of.iter().any(|name| template.has(name)) {
        return refuse(
            START,
            format!("the template has none of {}", list(endpoint.any_of)),
            match endpoint.any_of.first() {
                Some(first) => format!("for example: \"{first}\": {}", sample(nature(endpoint, first))),
                None => String::new(),
            },
        );
    }
    let adds_up = |text: &str| !matches!(text, "count_agg" | "custom_agg");
    let adding = template.keys.iter().find(|key| {
        key.name == "aggregation_type" && matches!(&key.value, Shape::Text(text) if adds_up(text))
    });
    if let Some(key) = adding
        && endpoint.name == "billable_metric"
        && !template.has("field_name")
    {
        return refuse(
            key.at,
            "this aggregation needs \"field_name\"",
            "name the property it reads: \"field_name\": \"bytes\"; only count_agg goes without",
        );
    }
    Ok(())
}

/// Whether text is written with escapes: what it says is then not looked into.
fn is_escaped(text: &str) -> bool {
    text.contains('\\')
}

fn is_unix_seconds(text: &str) -> bool {
    crate::json::is_plain_decimal(text.as_bytes()) && !is_beyond_seconds(text)
}

/// Whether text is a number of millennia when it is read as seconds.
fn is_beyond_seconds(text: &str) -> bool {
    crate::json::is_plain_decimal(text.as_bytes())
        && text.parse::<f64>().is_ok_and(|seconds| seconds >= LATEST_PLAUSIBLE_SECONDS)
}

fn is_whole(text: &str) -> bool {
    crate::json::is_plain_decimal(text.as_bytes()) && !text.contains('.')
}

/// Whether a value is written out, or nothing but the operation: the same for every row.
fn is_constant(template: &Template, key: &Key) -> bool {
    let only_the_operation = || {
        template.pieces.iter().any(|piece| match piece {
            Piece::Hole(hole) => {
                hole.subject == Subject::Operation
                    && hole
                        .key
                        .and_then(|index| template.keys.get(index))
                        .is_some_and(|owner| owner.name == key.name)
            }
            _ => false,
        })
    };
    match key.value {
        Shape::Text(_) | Shape::Bare(_) => true,
        Shape::HoleText | Shape::HoleValue => only_the_operation(),
        _ => false,
    }
}

/// The known key a key of another spelling was certainly meant to be: `externalId`, `External-ID`.
pub fn meant(endpoint: &Endpoint, name: &str) -> Option<&'static str> {
    let folded =
        |key: &str| key.chars().filter(char::is_ascii_alphanumeric).collect::<String>().to_ascii_lowercase();
    endpoint.keys().find(|key| *key != name && folded(key) == folded(name))
}

/// That a key has no effect.
fn unread(call: &Call, endpoint: &Endpoint, name: &str) -> String {
    match call.method {
        Method::Delete => format!("\"{name}\" has no place in {}, which has no body", article(endpoint.name)),
        _ => format!(
            "Lago reads no key \"{name}\" in {} and drops it without a word",
            article(endpoint.root.unwrap_or(endpoint.name))
        ),
    }
}

fn unknown_hint(call: &Call, endpoint: &Endpoint, name: &str) -> String {
    if endpoint.name == "event" && matches!(name, "external_customer_id" | "externalCustomerId") {
        return "name the subscription, not the customer: \"external_subscription_id\"".into();
    }
    let known = call.known();
    match meant(endpoint, name).or_else(|| nearest(name, &known)) {
        Some(key) => format!("write \"{key}\""),
        None if endpoint.name == "event" => {
            format!("the keys are {}; values of your own go into \"properties\"", list(&known))
        }
        None => format!("the keys are {}", list(&known)),
    }
}

/// A key of the template that was probably meant to be `wanted`.
fn mistyped<'a>(call: &Call, template: &'a Template, wanted: &str) -> Option<&'a str> {
    let known = call.known();
    let unknown: Vec<&str> =
        template.keys.iter().map(|key| key.name.as_str()).filter(|name| !known.contains(name)).collect();
    nearest(wanted, &unknown)
}

fn missing_hint(endpoint: Option<&Endpoint>, key: &str) -> String {
    let nature = endpoint.map_or(Nature::Plain, |endpoint| nature(endpoint, key));
    match (endpoint.map(|endpoint| endpoint.name), key) {
        (Some("event"), "external_subscription_id") => {
            "Lago answers 200 to an event without a subscription and never bills it: \"external_subscription_id\": \"{{ row.subscription }}\"".into()
        }
        (Some("event"), "code") => "it is the code of the billable metric: \"code\": \"api_calls\"".into(),
        _ => format!("write \"{key}\": {}", sample(nature)),
    }
}

/// What stands under a key of some nature, for hints.
fn sample(nature: Nature) -> String {
    match nature {
        Nature::Plain | Nature::Short(_) => "\"{{ row.column }}\"".into(),
        Nature::UnixSeconds => "{{ row.created_at }}".into(),
        // Bare, so that null stays null.
        Nature::Moment => "{{ row.created_at }}".into(),
        Nature::DecimalText | Nature::PreciseAmount => "\"{{ row.amount }}\"".into(),
        Nature::Whole => "{{ row.cents }}".into(),
        Nature::Flag => "true".into(),
        Nature::Currency => "\"EUR\"".into(),
        Nature::OneOf(words) => format!("\"{}\"", words.first().copied().unwrap_or_default()),
        Nature::Object | Nature::Nested => "{\"name\": \"{{ row.column }}\"}".into(),
        Nature::List => "[{\"name\": \"{{ row.column }}\"}]".into(),
    }
}

fn noun(nature: Nature) -> &'static str {
    match nature {
        Nature::Plain | Nature::Short(_) | Nature::OneOf(_) => "text",
        Nature::UnixSeconds => "a time in Unix seconds",
        Nature::Moment => "a time",
        Nature::DecimalText | Nature::PreciseAmount => "a decimal number",
        Nature::Whole => "a whole number",
        Nature::Flag => "true or false",
        Nature::Currency => "a currency",
        Nature::Object | Nature::Nested => "an object",
        Nature::List => "an array",
    }
}

fn list(names: &[&str]) -> String {
    names.join(", ")
}

fn article(noun: &str) -> String {
    format!("{} {noun}", if noun.starts_with(['a', 'e', 'i', 'o', 'u']) { "an" } else { "a" })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::endpoint::{CATALOGUE, find};
    use crate::template::parse;

    fn call(name: &str) -> Call {
        Call::from(find(name).expect("in the catalogue"))
    }

    fn checked(name: &str, text: &str) -> Result<(), Mistake> {
        check(&call(name), &parse(text).expect("valid template"))
    }

    /// The members of a template for the endpoint without fault, one of them changed, or left out ("-").
    fn with(name: &str, change: &str) -> String {
        let fields: &[(&str, &str)] = match name {
            "event" => &[
                ("transaction_id", r#""transaction_id": "t-{{ row.id }}""#),
                ("external_subscription_id", r#""external_subscription_id": "s""#),
                ("code", r#""code": "c""#),
                ("timestamp", r#""timestamp": {{ row.at }}"#),
            ],
            "wallet_transaction" => &[
                ("wallet_id", r#""wallet_id": "{{ row.w }}""#),
                ("paid_credits", r#""paid_credits": "{{ row.n }}""#),
            ],
            "payment" => &[
                ("invoice_id", r#""invoice_id": "{{ row.i }}""#),
                ("amount_cents", r#""amount_cents": {{ row.c }}"#),
                ("reference", r#""reference": "{{ row.r }}""#),
            ],
            "plan" => &[
                ("name", r#""name": "{{ row.n }}""#),
                ("code", r#""code": "{{ row.c }}""#),
                ("interval", r#""interval": "monthly""#),
                ("amount_cents", r#""amount_cents": 100"#),
                ("amount_currency", r#""amount_currency": "EUR""#),
                ("pay_in_advance", r#""pay_in_advance": false"#),
            ],
            "billable_metric" => &[
                ("name", r#""name": "{{ row.n }}""#),
                ("code", r#""code": "{{ row.c }}""#),
                ("aggregation_type", r#""aggregation_type": "count_agg""#),
            ],
            "invoice" => &[
                ("external_customer_id", r#""external_customer_id": "{{ row.c }}""#),
                ("fees", r#""fees": [{"add_on_code": "a"}]"#),
            ],
            "subscription_update" => &[("external_id", r#""external_id": "{{ row.id }}""#)],
            "customer" => &[("external_id", r#""external_id": "{{ row.id }}""#)],
            "customer_delete" => &[("external_id", r#""external_id": "{{ row.id }}""#)],
            "subscription_terminate" => &[("external_id", r#""external_id": "{{ row.id }}""#)],
            _ => &[],
        };
        let key = change.trim_start_matches(['-', '"']).split('"').next().unwrap_or_default();
        let mut members: Vec<&str> =
            fields.iter().filter(|(field, _)| *field != key).map(|(_, member)| *member).collect();
        if !change.starts_with('-') {
            members.push(change);
        }
        format!("{{{}}}", members.join(","))
    }

    #[test]
    fn every_example_passes_its_own_check() {
        for endpoint in CATALOGUE {
            assert_eq!(checked(endpoint.name, endpoint.example), Ok(()), "{}", endpoint.name);
        }
    }

    #[test]
    fn what_lago_would_refuse_or_silently_not_bill_is_refused() {
        let cases = [
            ("event", "-external_subscription_id", "no \"external_subscription_id\""),
            ("event", "-code", "no \"code\""),
            ("event", r#""externalSubscriptionId": "x""#, "reads no key"),
            ("event", r#""external_customer_id": "x""#, "reads no key"),
            ("event", r#""amount": 5"#, "reads no key"),
            ("event", r#""timestamp": "2026-01-01T00:00:00Z""#, "Unix seconds"),
            ("event", r#""timestamp": 1710421740123"#, "Unix seconds"),
            ("event", r#""timestamp": true"#, "Unix seconds"),
            ("event", r#""timestamp": null"#, "Unix seconds"),
            ("event", r#""timestamp": {}"#, "Unix seconds"),
            ("event", r#""properties": "x""#, "not an object"),
            ("event", r#""properties": []"#, "not an object"),
            ("event", r#""properties": "{{ row.x }}""#, "not an object"),
            ("event", r#""precise_total_amount_cents": 12.5"#, "digits"),
            ("event", r#""precise_total_amount_cents": "12,5""#, "decimal"),
            ("event", r#""code": """#, "empty"),
            ("event", r#""code": null"#, "needs text"),
            ("event", r#""code": {"a": 1}"#, "needs text"),
            ("event", r#""transaction_id": "same""#, "same for every row"),
            ("event", r#""transaction_id": "{{ op }}""#, "same for every row"),
            ("wallet_transaction", "-paid_credits", "none of paid_credits"),
            ("wallet_transaction", "-wallet_id", "no \"wallet_id\""),
            ("wallet_transaction", r#""paid_credits": 10"#, "text only"),
            ("wallet_transaction", r#""paid_credits": {{ row.n }}"#, "text only"),
            ("wallet_transaction", r#""granted_credits": "ten""#, "decimal"),
            ("payment", r#""amount_cents": 10.5"#, "whole number"),
            ("payment", r#""amount_cents": "10.50""#, "whole number"),
            ("payment", r#""paid_at": 1710421740"#, "ISO 8601"),
            ("payment", r#""paid_at": "yesterday""#, "ISO 8601"),
            ("payment", r#""reference": "12345678901234567890123456789012345678901""#, "40 characters"),
            ("plan", r#""interval": "month""#, "no word Lago knows"),
            ("plan", r#""amount_currency": "eur""#, "currency"),
            ("plan", "-pay_in_advance", "no \"pay_in_advance\""),
            ("plan", r#""payInAdvance": true"#, "reads no key"),
            ("plan", r#""charges": "{{ row.x }}""#, "not an array"),
            ("billable_metric", r#""aggregation_type": "sum""#, "no word Lago knows"),
            ("billable_metric", r#""aggregation_type": "sum_agg""#, "needs \"field_name\""),
            ("invoice", "-fees", "no \"fees\""),
            ("invoice", r#""fees": {"add_on_code": "a"}"#, "not an array"),
            ("invoice", r#""fees": null"#, "needs an array"),
            ("customer", r#""externalId": "x""#, "reads no key"),
            ("customer_delete", r#""name": "x""#, "has no body"),
            ("customer_delete", "-external_id", "at least external_id"),
            ("subscription_update", "-external_id", "at least external_id"),
            ("subscription_terminate", r#""on_termination_invoice": "yes""#, "no word Lago knows"),
        ];
        for (name, change, what) in cases {
            let mistake = checked(name, &with(name, change)).expect_err(change);
            assert!(mistake.what.contains(what), "{name}, {change}: {mistake:?}");
            assert!(!mistake.hint.is_empty(), "{name}, {change}");
        }
    }

    #[test]
    fn what_is_right_or_cannot_be_told_passes() {
        let cases = [
            ("event", r#""properties": {{ row.meta }}"#),
            ("event", r#""properties": null"#),
            ("event", r#""timestamp": "1710421740.123""#),
            ("event", "-transaction_id"),
            ("event", "-timestamp"),
            ("event", r#""precise_total_amount_cents": "{{ row.x }}""#),
            ("wallet_transaction", r#""paid_credits": "10.5""#),
            ("wallet_transaction", r#""metadata": [{"key": "a", "value": "b"}]"#),
            ("payment", r#""paid_at": "2026-01-31T00:00:00Z""#),
            ("payment", r#""reference": "1234567890123456789012345678901234567890""#),
            ("plan", r#""interval": "{{ row.i }}""#),
            ("plan", r#""charges": {{ row.charges }}"#),
            ("plan", r#""a_key_of_a_later_lago": 1"#),
            ("billable_metric", r#""aggregation_type": "custom_agg""#),
            ("invoice", r#""fees": {{ row.fees }}"#),
            ("customer", r#""billing_configuration": {"payment_provider": "stripe"}"#),
            ("subscription_update", r#""status": "pending""#),
            ("subscription_terminate", r#""on_termination_credit_note": "skip""#),
        ];
        for (name, change) in cases {
            assert_eq!(checked(name, &with(name, change)), Ok(()), "{name}, {change}");
        }
    }

    #[test]
    fn the_hint_says_what_was_meant() {
        let hint = |name, change| checked(name, &with(name, change)).expect_err(change).hint;
        assert!(hint("event", r#""externalSubscriptionId": "x""#).contains("\"external_subscription_id\""));
        assert!(hint("event", r#""externalCustomerId": "x""#).contains("subscription"));
        assert!(hint("event", r#""time_stmp": 1"#).contains("\"timestamp\""));
        assert!(hint("event", r#""region": "x""#).contains("\"properties\""));
        assert!(hint("wallet_transaction", r#""paid_credits": {{ row.n }}"#).contains("double quotes"));
        assert!(hint("plan", r#""interval": "month""#).contains("monthly"));
        let hint = checked("customer", r#"{"extenal_id": "{{ row.id }}"}"#).expect_err("a slip").hint;
        assert_eq!(hint, "write it instead of \"extenal_id\"");
    }

    #[test]
    fn the_outer_key_of_lagos_examples_is_left_out() {
        for (name, text) in [
            ("event", r#"{"event": {"code": "c"}}"#),
            ("customer", r#"{"customer": {"external_id": "{{ row.id }}"}}"#),
            ("event", r#"{"events": [{"code": "c"}]}"#),
        ] {
            let mistake = checked(name, text).expect_err(text);
            assert!(mistake.what.contains("wraps"), "{mistake:?}");
            assert!(mistake.hint.contains("leave the outer key"), "{mistake:?}");
        }
        let own = Call::of(crate::call::MANUAL, None, Some("/x"), Some("thing")).expect("a call");
        assert!(check(&own, &parse(r#"{"thing": {"a": 1}}"#).expect("valid")).is_err());
    }

    #[test]
    fn a_path_of_ones_own_needs_no_key_for_the_endpoints() {
        let own = Call::of("customer_delete", None, Some("/customers/{{ row.id }}"), None).expect("a call");
        assert_eq!(check(&own, &parse("{}").expect("valid")), Ok(()));
        assert!(checked("customer_delete", "{}").expect_err("no id").what.contains("external_id"));
        let own = Call::of("plan_update", None, Some("/plans/{which}"), None).expect("a call");
        assert!(
            check(&own, &parse(r#"{"name": "x"}"#).expect("valid")).expect_err("x").what.contains("which")
        );
        assert_eq!(check(&own, &parse(r#"{"which": "{{ row.id }}"}"#).expect("valid")), Ok(()));
    }

    #[test]
    fn the_body_of_a_manual_call_is_the_users_affair() {
        let manual = Call::of(crate::call::MANUAL, None, Some("/x"), None).expect("a call");
        for text in ["[1]", "{}", r#"{"anything": null}"#, "{{ row.body }}"] {
            assert_eq!(check(&manual, &parse(text).expect("valid")), Ok(()), "{text}");
        }
        let with_key = Call::of(crate::call::MANUAL, None, Some("/x/{id}"), None).expect("a call");
        assert!(check(&with_key, &parse("[1]").expect("valid")).is_err());
    }

    #[test]
    fn a_template_that_is_no_object_is_refused() {
        for text in ["[1]", "{{ row.x }}", "\"x\"", "{}"] {
            assert!(checked("event", text).expect_err(text).what.contains("JSON object"), "{text}");
        }
    }
}
