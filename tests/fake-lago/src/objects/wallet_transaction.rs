//! Credits into and out of wallets. Nothing makes a repeated top-up one: it doubles the credit, and only
//! the listing by metadata can tell.

use bigdecimal::BigDecimal;
use serde_json::{Value, json};

use super::books::{Books, Outcome};
use super::input::{self, Permitted, Problems};
use super::kind::Kind;
use super::table::{At, Fields, text};
use super::wallet;
use crate::decimal;
use crate::http;
use crate::reply::Reply;

const CREATED: Permitted = Permitted {
    texts: &["wallet_id", "name"],
    scalars: &[
        "paid_credits",
        "granted_credits",
        "voided_credits",
        "invoice_requires_successful_payment",
        "ignore_paid_top_up_limits",
        "priority",
    ],
    nested: &["metadata", "payment_method", "invoice_custom_section"],
};

const DEFAULT_PAGE_LENGTH: usize = 100;

/// The three kinds of credits, and what the server makes of each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Direction {
    /// Counts once it is paid, which does not happen here.
    Paid,
    Granted,
    Voided,
}

impl Direction {
    const ALL: [Direction; 3] = [Direction::Paid, Direction::Granted, Direction::Voided];

    fn field(self) -> &'static str {
        match self {
            Direction::Paid => "paid_credits",
            Direction::Granted => "granted_credits",
            Direction::Voided => "voided_credits",
        }
    }

    /// Type, reason and state, as the transaction shows them.
    fn shown(self) -> (&'static str, &'static str, &'static str) {
        match self {
            Direction::Paid => ("inbound", "purchased", "pending"),
            Direction::Granted => ("inbound", "granted", "settled"),
            Direction::Voided => ("outbound", "voided", "settled"),
        }
    }
}

/// What one request moves, and what its transactions carry.
#[derive(Debug, Default)]
pub struct Movement {
    credits: Vec<(Direction, BigDecimal)>,
    name: Value,
    metadata: Value,
}

pub fn check_credits(sent: &Fields, problems: &mut Problems) {
    for direction in Direction::ALL {
        let field = direction.field();
        // Ruby takes everything but null and false for a value.
        let given = sent.get(field).filter(|value| !matches!(value, Value::Null | Value::Bool(false)));
        if given.is_some_and(|value| input::credits(value).is_none()) {
            problems.add(field, &format!("invalid_{field}"));
            problems.add(field, "invalid_amount");
        }
    }
}

fn movement(sent: &mut Fields, name: &str, metadata: &str) -> Movement {
    let credits = Direction::ALL.into_iter().filter_map(|direction| {
        let credits = sent.remove(direction.field()).as_ref().and_then(input::credits)?;
        (credits > 0).then_some((direction, credits))
    });
    let credits = credits.collect();
    let mut taken = |field: &str| sent.remove(field).unwrap_or_default();
    Movement { credits, name: taken(name), metadata: taken(metadata) }
}

/// Takes the first credits out of what a wallet is created with.
pub fn take(sent: &mut Fields) -> Movement {
    movement(sent, "transaction_name", "transaction_metadata")
}

pub fn create(books: &mut Books<'_>, sent: Fields) -> Result<Vec<Value>, Reply> {
    let mut sent = CREATED.read(sent);
    let mut problems = Problems::default();
    let wallet = books.objects.by_id(Kind::Wallet, text(&sent, "wallet_id"));
    match wallet {
        None => problems.add("wallet_id", "wallet_not_found"),
        Some(at) if books.text(at, "status") == "terminated" => {
            problems.add("wallet_id", "wallet_is_terminated");
        }
        Some(_) => {}
    }
    check_credits(&sent, &mut problems);
    let voided = sent.get("voided_credits").and_then(input::credits).unwrap_or_default();
    if wallet.is_some_and(|at| voided > balance(books, at)) {
        problems.add("voided_credits", "insufficient_credits");
    }
    problems.check()?;
    let moved = movement(&mut sent, "name", "metadata");
    let made = wallet.map(|at| apply(books, at, moved)).unwrap_or_default();
    Ok(made.into_iter().map(|at| books.value(at)).collect())
}

fn balance(books: &Books<'_>, wallet: At) -> BigDecimal {
    input::number(&books.field(wallet, "credits_balance")).unwrap_or_default()
}

/// Makes the transactions and moves the balance.
pub fn apply(books: &mut Books<'_>, wallet: At, moved: Movement) -> Vec<At> {
    let rate = input::number(&books.field(wallet, "rate_amount")).unwrap_or_default();
    let mut made = Vec::new();
    for (direction, credits) in moved.credits {
        let (transaction_type, transaction_status, status) = direction.shown();
        let after = match direction {
            Direction::Paid => balance(books, wallet),
            Direction::Granted => balance(books, wallet) + &credits,
            Direction::Voided => balance(books, wallet) - &credits,
        };
        books.objects.set(wallet, "credits_balance", decimal::plain_text(&after));
        let settled_at = if status == "settled" { books.stamp() } else { Value::Null };
        let fields = Fields::from_iter(
            [
                ("lago_wallet_id", books.field(wallet, "lago_id")),
                ("status", json!(status)),
                ("transaction_status", json!(transaction_status)),
                ("transaction_type", json!(transaction_type)),
                ("amount", json!(decimal::plain_text(&(&rate * &credits)))),
                ("credit_amount", json!(decimal::plain_text(&credits))),
                ("source", json!("manual")),
                ("name", moved.name.clone()),
                ("metadata", if moved.metadata.is_null() { json!([]) } else { moved.metadata.clone() }),
                ("settled_at", settled_at),
            ]
            .map(|(name, value)| (name.to_owned(), value)),
        );
        made.push(books.add(Kind::WalletTransaction, fields));
    }
    made
}

/// A wallet's transactions, newest first, as `?metadata[key]=value`, `status` and `transaction_type` say.
pub fn list(books: &Books<'_>, wallet: &str, query: &str) -> Outcome {
    wallet::find(books, wallet)?;
    let pairs = http::query_pairs(query);
    let mut found: Vec<Value> = books
        .objects
        .by_key(Kind::WalletTransaction, wallet)
        .into_iter()
        .rev()
        .map(|at| books.value(at))
        .filter(|transaction| pairs.iter().all(|(name, value)| matches(transaction, name, value)))
        .collect();
    let total = found.len();
    let positive = |wanted: &str, default: usize| {
        let pair = pairs.iter().find(|(name, _)| name == wanted);
        pair.and_then(|(_, value)| value.parse().ok()).filter(|number| *number > 0).unwrap_or(default)
    };
    let (page, per_page) = (positive("page", 1), positive("per_page", DEFAULT_PAGE_LENGTH));
    let pages = total.div_ceil(per_page);
    found = found.into_iter().skip((page - 1).saturating_mul(per_page)).take(per_page).collect();
    Ok(json!({
        "wallet_transactions": found,
        "meta": {
            "current_page": page,
            "next_page": (page < pages).then(|| page + 1),
            "prev_page": (page > 1).then(|| page - 1),
            "total_pages": pages,
            "total_count": total,
        },
    }))
}

fn matches(transaction: &Value, name: &str, value: &str) -> bool {
    if let Some(key) = name.strip_prefix("metadata[").and_then(|rest| rest.strip_suffix(']')) {
        let pairs = transaction.get("metadata").and_then(Value::as_array);
        return pairs.into_iter().flatten().any(|pair| {
            pair.get("key").and_then(Value::as_str) == Some(key)
                && pair.get("value").and_then(Value::as_str) == Some(value)
        });
    }
    match name {
        "status" | "transaction_type" | "transaction_status" => {
            transaction.get(name).and_then(Value::as_str) == Some(value)
        }
        _ => true,
    }
}
