//! The kinds of objects an organization has, and what Lago calls them.

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    Customer,
    Subscription,
    AppliedCoupon,
    Wallet,
    WalletTransaction,
    Invoice,
    Fee,
    CreditNote,
    Payment,
    BillableMetric,
    Plan,
    AddOn,
    Coupon,
    Tax,
}

impl Kind {
    pub const ALL: [Kind; 14] = [
        Kind::Customer,
        Kind::Subscription,
        Kind::AppliedCoupon,
        Kind::Wallet,
        Kind::WalletTransaction,
        Kind::Invoice,
        Kind::Fee,
        Kind::CreditNote,
        Kind::Payment,
        Kind::BillableMetric,
        Kind::Plan,
        Kind::AddOn,
        Kind::Coupon,
        Kind::Tax,
    ];

    /// The root key of bodies, the resource of permissions, and the beginning of `…_not_found`.
    pub fn name(self) -> &'static str {
        match self {
            Kind::Customer => "customer",
            Kind::Subscription => "subscription",
            Kind::AppliedCoupon => "applied_coupon",
            Kind::Wallet => "wallet",
            Kind::WalletTransaction => "wallet_transaction",
            Kind::Invoice => "invoice",
            Kind::Fee => "fee",
            Kind::CreditNote => "credit_note",
            Kind::Payment => "payment",
            Kind::BillableMetric => "billable_metric",
            Kind::Plan => "plan",
            Kind::AddOn => "add_on",
            Kind::Coupon => "coupon",
            Kind::Tax => "tax",
        }
    }

    /// The path segment.
    pub fn plural(self) -> &'static str {
        match self {
            Kind::Customer => "customers",
            Kind::Subscription => "subscriptions",
            Kind::AppliedCoupon => "applied_coupons",
            Kind::Wallet => "wallets",
            Kind::WalletTransaction => "wallet_transactions",
            Kind::Invoice => "invoices",
            Kind::Fee => "fees",
            Kind::CreditNote => "credit_notes",
            Kind::Payment => "payments",
            Kind::BillableMetric => "billable_metrics",
            Kind::Plan => "plans",
            Kind::AddOn => "add_ons",
            Kind::Coupon => "coupons",
            Kind::Tax => "taxes",
        }
    }

    /// The field objects of this kind are looked up by, besides their `lago_id`.
    pub fn key(self) -> &'static str {
        match self {
            Kind::Customer | Kind::Subscription => "external_id",
            Kind::AppliedCoupon | Kind::Wallet | Kind::Invoice => "external_customer_id",
            Kind::WalletTransaction => "lago_wallet_id",
            Kind::Fee | Kind::CreditNote | Kind::Payment => "lago_invoice_id",
            Kind::BillableMetric | Kind::Plan | Kind::AddOn | Kind::Coupon | Kind::Tax => "code",
        }
    }

    pub fn from_plural(plural: &str) -> Option<Kind> {
        Kind::ALL.into_iter().find(|kind| kind.plural() == plural)
    }

    pub fn from_name(name: &str) -> Option<Kind> {
        Kind::ALL.into_iter().find(|kind| kind.name() == name || kind.plural() == name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_is_found_by_both_of_its_names() {
        for kind in Kind::ALL {
            assert_eq!(Kind::from_name(kind.name()), Some(kind));
            assert_eq!(Kind::from_name(kind.plural()), Some(kind));
        }
        assert_eq!(Kind::from_name("event"), None);
    }
}
