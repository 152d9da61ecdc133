//! Which operation on which object a path names, below `/api/v1/`.
//!
//! As Rails reads paths: a segment is percent-decoded after the path was split, and where an id may not
//! hold a dot, what follows a dot is a format.

use super::kind::Kind;
use crate::config::Access;
use crate::http::percent_decode;

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Operation {
    Create(Kind),
    CreateWalletOf {
        customer: String,
    },
    Update(Kind, Target),
    /// Deletes, terminates or removes, whichever Lago does with the kind.
    End(Kind, Target),
    ListTransactions {
        wallet: String,
    },
    EstimateFees,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// An external id, a code or a `lago_id`, by the kind.
    Named(String),
    OfCustomer {
        customer: String,
        name: String,
    },
}

impl Operation {
    /// The key around the object in the body; `None` where none is read.
    pub fn root(&self) -> Option<&'static str> {
        match self {
            Operation::Create(kind) | Operation::Update(kind, _) => Some(kind.name()),
            Operation::CreateWalletOf { .. } => Some(Kind::Wallet.name()),
            Operation::EstimateFees => Some("event"),
            Operation::End(..) | Operation::ListTransactions { .. } => None,
        }
    }

    /// What the key must be permitted to touch.
    pub fn permission(&self) -> (Access, &'static str) {
        match self {
            Operation::Create(kind) | Operation::Update(kind, _) | Operation::End(kind, _) => {
                (Access::Write, kind.name())
            }
            Operation::CreateWalletOf { .. } => (Access::Write, Kind::Wallet.name()),
            Operation::ListTransactions { .. } => (Access::Read, Kind::WalletTransaction.name()),
            Operation::EstimateFees => (Access::Write, "event"),
        }
    }
}

pub fn operation(method: &str, path: [Option<&str>; 4]) -> Option<Operation> {
    match (method, path) {
        ("POST", [Some("events"), Some("estimate_fees"), None, None]) => Some(Operation::EstimateFees),
        ("POST", [Some(plural), None, None, None]) => {
            let kind = Kind::from_plural(plural)?;
            // Fees come from invoices only.
            (kind != Kind::Fee).then_some(Operation::Create(kind))
        }
        ("POST", [Some("customers"), Some(customer), Some("wallets"), None]) => {
            Some(Operation::CreateWalletOf { customer: inner(customer)? })
        }
        ("PUT", [Some(plural), Some(id), None, None]) => {
            let kind = Kind::from_plural(plural)?;
            let dots = updated(kind)?;
            Some(Operation::Update(kind, Target::Named(last(id, dots)?)))
        }
        ("DELETE", [Some(plural), Some(id), None, None]) => {
            let kind = Kind::from_plural(plural)?;
            let dots = ended(kind)?;
            Some(Operation::End(kind, Target::Named(last(id, dots)?)))
        }
        (method, [Some("customers"), Some(customer), Some(plural), Some(name)]) => {
            let target = Target::OfCustomer { customer: inner(customer)?, name: last(name, Dots::Format)? };
            match (method, plural) {
                ("PUT", "wallets") => Some(Operation::Update(Kind::Wallet, target)),
                ("DELETE", "wallets") => Some(Operation::End(Kind::Wallet, target)),
                ("DELETE", "applied_coupons") => Some(Operation::End(Kind::AppliedCoupon, target)),
                _ => None,
            }
        }
        ("GET", [Some("wallets"), Some(wallet), Some("wallet_transactions"), None]) => {
            Some(Operation::ListTransactions { wallet: inner(wallet)? })
        }
        _ => None,
    }
}

/// What a dot in the last segment means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Dots {
    PartOfTheId,
    Format,
}

fn updated(kind: Kind) -> Option<Dots> {
    match kind {
        Kind::Subscription | Kind::BillableMetric | Kind::Plan | Kind::AddOn | Kind::Coupon | Kind::Tax => {
            Some(Dots::PartOfTheId)
        }
        Kind::Wallet | Kind::Invoice | Kind::Fee => Some(Dots::Format),
        Kind::Customer | Kind::AppliedCoupon | Kind::WalletTransaction | Kind::CreditNote | Kind::Payment => {
            None
        }
    }
}

fn ended(kind: Kind) -> Option<Dots> {
    match kind {
        Kind::Subscription => Some(Dots::PartOfTheId),
        Kind::Customer | Kind::Wallet => Some(Dots::Format),
        _ => None,
    }
}

fn last(raw: &str, dots: Dots) -> Option<String> {
    let id = match (dots, raw.split_once('.')) {
        (Dots::PartOfTheId, _) | (_, None) => raw,
        (Dots::Format, Some((id, format))) => {
            let valid = !id.is_empty() && !format.is_empty() && !format.contains('.');
            valid.then_some(id)?
        }
    };
    Some(percent_decode(id))
}

/// A segment before the last one has no format.
fn inner(raw: &str) -> Option<String> {
    (!raw.contains('.')).then(|| percent_decode(raw))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(method: &str, path: &str) -> Option<Operation> {
        let mut segments = path.split('/');
        operation(method, std::array::from_fn(|_| segments.next()))
    }

    fn named(name: &str) -> Target {
        Target::Named(name.to_owned())
    }

    #[test]
    fn a_raw_dot_ends_the_id_of_a_customer_and_an_encoded_one_does_not() {
        let deleted = |name| Some(Operation::End(Kind::Customer, named(name)));
        assert_eq!(found("DELETE", "customers/user@example.com"), deleted("user@example"));
        assert_eq!(found("DELETE", "customers/user%40example%2Ecom"), deleted("user@example.com"));
        assert_eq!(found("DELETE", "customers/a%2Fb%20c"), deleted("a/b c"));
        assert_eq!(found("DELETE", "customers/a.b.c"), None);
        assert_eq!(found("DELETE", "customers/a."), None);
    }

    #[test]
    fn subscriptions_and_codes_take_raw_dots() {
        assert_eq!(
            found("PUT", "subscriptions/a.b.c"),
            Some(Operation::Update(Kind::Subscription, named("a.b.c")))
        );
        assert_eq!(found("PUT", "plans/pro.v2"), Some(Operation::Update(Kind::Plan, named("pro.v2"))));
        assert_eq!(
            found("DELETE", "subscriptions/a.b"),
            Some(Operation::End(Kind::Subscription, named("a.b")))
        );
    }

    #[test]
    fn a_raw_dot_inside_a_longer_path_matches_nothing() {
        assert_eq!(found("POST", "customers/a.b/wallets"), None);
        let customer = "a.b".to_owned();
        assert_eq!(found("POST", "customers/a%2Eb/wallets"), Some(Operation::CreateWalletOf { customer }));
        assert_eq!(found("DELETE", "customers/a.b/applied_coupons/1"), None);
    }

    #[test]
    fn what_lago_does_not_have_is_not_here() {
        for (method, path) in [
            ("POST", "applied_add_ons"),
            ("POST", "fees"),
            ("POST", "customer"),
            ("PUT", "customers/a"),
            ("DELETE", "plans/a"),
            ("PUT", "credit_notes/a"),
            ("DELETE", "applied_coupons/a"),
            ("POST", "customers/a/wallets/b"),
            ("GET", "customers/a"),
            ("POST", "wallets/a/wallet_transactions"),
        ] {
            assert_eq!(found(method, path), None, "{method} {path}");
        }
    }
}
