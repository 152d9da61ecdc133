//! One operation on one object: the body's root key, then the handler, then the answer around its object.
//!
//! Everything happens under the lock of the state, so that two requests are one after the other, as two
//! transactions of the server would be for one object.

use serde_json::{Value, json};

use super::books::{Books, Origin};
use super::kind::Kind;
use super::route::{Operation, Target};
use super::table::Fields;
use super::{
    applied_coupon, coded, credit_note, customer, input, invoice, payment, plan, subscription, wallet,
    wallet_transaction,
};
use crate::app::{Call, Stopped, lock};
use crate::body::Root;
use crate::reply::{self, Reply};
use crate::time;

pub fn answer(call: &Call<'_>, operation: &Operation, root: Root<'_>) -> Result<Reply, Stopped> {
    let sent = match (operation.root(), root) {
        (None, _) => Fields::new(),
        (Some(name), Root::Missing) => return Ok(reply::missing_root(name)),
        (Some(_), Root::NotAnObject) => return Ok(reply::internal_error()),
        (Some(_), Root::Object(element)) => element.fields,
    };
    if input::holds_nul(&sent) {
        return Ok(reply::internal_error());
    }
    let mut state = lock(&call.app.state);
    if state.generation != call.generation {
        return Err(Stopped);
    }
    let mut books = Books {
        origin: Origin::Request,
        objects: &mut state.objects,
        app: call.app,
        license: call.settings.config.license,
        now: time::micros_of(call.arrival.at),
    };
    Ok(perform(&mut books, operation, &call.request.query, sent).unwrap_or_else(|refusal| refusal))
}

fn perform(books: &mut Books<'_>, operation: &Operation, query: &str, sent: Fields) -> Result<Reply, Reply> {
    let (root, object) = match operation {
        Operation::Create(Kind::WalletTransaction) => {
            let made = wallet_transaction::create(books, sent)?;
            return Ok(Reply::value(200, &json!({"wallet_transactions": made})));
        }
        Operation::ListTransactions { wallet } => {
            return wallet_transaction::list(books, wallet, query).map(|body| Reply::value(200, &body));
        }
        Operation::Create(kind) => (kind.name(), create(books, *kind, sent)?),
        Operation::CreateWalletOf { customer } => {
            (Kind::Wallet.name(), wallet::create_of(books, customer, sent)?)
        }
        Operation::Update(kind, target) => (kind.name(), update(books, *kind, target, query, sent)?),
        Operation::End(kind, target) => (kind.name(), end(books, *kind, target, query)?),
        Operation::EstimateFees => ("fees", Value::Array(plan::estimate(books, sent)?)),
    };
    Ok(Reply::value(200, &json!({root: object})))
}

fn create(books: &mut Books<'_>, kind: Kind, sent: Fields) -> Result<Value, Reply> {
    match kind {
        Kind::Customer => customer::upsert(books, sent),
        Kind::Subscription => subscription::create(books, sent),
        Kind::AppliedCoupon => applied_coupon::create(books, sent),
        Kind::Wallet => wallet::create(books, sent),
        Kind::Invoice => invoice::create(books, sent),
        Kind::CreditNote => credit_note::create(books, sent),
        Kind::Payment => payment::create(books, sent),
        kind => coded::create(books, kind, sent),
    }
}

fn update(
    books: &mut Books<'_>,
    kind: Kind,
    target: &Target,
    query: &str,
    sent: Fields,
) -> Result<Value, Reply> {
    match (kind, target) {
        (Kind::Subscription, Target::Named(id)) => subscription::update(books, id, query, sent),
        (Kind::Wallet, Target::Named(id)) => {
            let found = wallet::find(books, id);
            wallet::update(books, found, sent)
        }
        (Kind::Wallet, Target::OfCustomer { customer, name }) => {
            let found = wallet::find_of(books, customer, name);
            wallet::update(books, found, sent)
        }
        (Kind::Invoice, Target::Named(id)) => invoice::update(books, id, sent),
        (Kind::Fee, Target::Named(id)) => invoice::update_fee(books, id, sent),
        (kind, Target::Named(code)) => coded::update(books, kind, code, sent),
        (_, Target::OfCustomer { .. }) => Err(reply::not_found("resource")),
    }
}

fn end(books: &mut Books<'_>, kind: Kind, target: &Target, query: &str) -> Result<Value, Reply> {
    match (kind, target) {
        (Kind::Customer, Target::Named(id)) => customer::delete(books, id),
        (Kind::Subscription, Target::Named(id)) => subscription::end(books, id, query),
        (Kind::Wallet, Target::Named(id)) => {
            let found = wallet::find(books, id);
            wallet::end(books, found)
        }
        (Kind::Wallet, Target::OfCustomer { customer, name }) => {
            let found = wallet::find_of(books, customer, name);
            wallet::end(books, found)
        }
        (Kind::AppliedCoupon, Target::OfCustomer { customer, name }) => {
            applied_coupon::end(books, customer, name)
        }
        _ => Err(reply::not_found("resource")),
    }
}
