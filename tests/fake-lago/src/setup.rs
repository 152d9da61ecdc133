//! What tests put there and look at besides events: objects, each as the API would print it.

use serde_json::{Value, json};

use crate::app::lock;
use crate::{FakeLago, Kind, Reusable};

impl FakeLago {
    /// All objects of a kind, in the order of their creation; deleted ones are gone, ended ones are there.
    pub fn objects(&self, kind: Kind) -> Vec<Value> {
        lock(&self.app.state).objects.all(kind).cloned().map(Value::Object).collect()
    }

    /// All objects with this key: an external id, a code, the customer of wallets, coupons and invoices, the
    /// wallet of transactions, the invoice of fees, credit notes and payments.
    pub fn objects_of(&self, kind: Kind, key: &str) -> Vec<Value> {
        let state = lock(&self.app.state);
        let found = state.objects.by_key(kind, key);
        found.into_iter().map(|at| state.objects.value(at)).collect()
    }

    /// The object with this `lago_id`.
    pub fn object(&self, kind: Kind, lago_id: &str) -> Option<Value> {
        let state = lock(&self.app.state);
        state.objects.by_id(kind, lago_id).map(|at| state.objects.value(at))
    }

    pub fn customers(&self) -> Vec<Value> {
        self.objects(Kind::Customer)
    }

    pub fn customer(&self, external_id: &str) -> Option<Value> {
        self.objects_of(Kind::Customer, external_id).pop()
    }

    pub fn subscriptions(&self) -> Vec<Value> {
        self.objects(Kind::Subscription)
    }

    /// The latest of the subscriptions with this id.
    pub fn subscription(&self, external_id: &str) -> Option<Value> {
        self.objects_of(Kind::Subscription, external_id).pop()
    }

    /// The wallets of a customer, ended ones included.
    pub fn wallets(&self, external_customer_id: &str) -> Vec<Value> {
        self.objects_of(Kind::Wallet, external_customer_id)
    }

    pub fn wallet_transactions(&self) -> Vec<Value> {
        self.objects(Kind::WalletTransaction)
    }

    pub fn invoices(&self) -> Vec<Value> {
        self.objects(Kind::Invoice)
    }

    /// Adds an object, or changes the customer or code that exists; returns its `lago_id`.
    pub fn define_object(&self, kind: Kind, fields: &Value) -> String {
        self.app.define_object(kind, fields.as_object().cloned().unwrap_or_default())
    }

    pub fn define_customer(&self, external_id: &str) -> String {
        self.define_object(Kind::Customer, &json!({"external_id": external_id}))
    }

    /// A monthly plan that costs nothing.
    pub fn define_plan(&self, code: &str) -> String {
        self.define_object(Kind::Plan, &json!({"code": code}))
    }

    pub fn define_coupon(&self, code: &str, reusable: Reusable) -> String {
        self.define_object(Kind::Coupon, &json!({"code": code, "reusable": reusable == Reusable::Yes}))
    }

    pub fn define_add_on(&self, code: &str, amount_cents: u64) -> String {
        self.define_object(Kind::AddOn, &json!({"code": code, "amount_cents": amount_cents}))
    }

    /// An empty wallet in USD with code `default`, one unit of currency per credit.
    pub fn define_wallet(&self, external_customer_id: &str) -> String {
        self.define_object(Kind::Wallet, &json!({"external_customer_id": external_customer_id}))
    }

    /// A finalized invoice of one fee, unpaid.
    pub fn define_invoice(&self, external_customer_id: &str, amount_cents: u64) -> String {
        let fields = json!({"external_customer_id": external_customer_id, "amount_cents": amount_cents});
        self.define_object(Kind::Invoice, &fields)
    }

    /// A fee that no invoice holds.
    pub fn define_fee(&self, amount_cents: u64) -> String {
        self.define_object(Kind::Fee, &json!({"amount_cents": amount_cents}))
    }
}
