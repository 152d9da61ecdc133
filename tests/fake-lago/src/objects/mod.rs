//! The objects besides events: customers, subscriptions, wallets and all else a client writes.
//!
//! One file per family. A handler gets what was sent and answers with the object or a refusal; nothing here
//! knows about sockets, keys or faults.

mod answer;
mod applied_coupon;
mod billable_metric;
mod books;
mod coded;
mod credit_note;
mod customer;
pub mod define;
mod input;
mod invoice;
mod kind;
mod payment;
mod period;
mod plan;
mod route;
mod subscription;
mod table;
mod wallet;
mod wallet_transaction;

pub use answer::answer;
pub use billable_metric::of as metric_of;
pub use books::{Books, Origin};
pub use define::Reusable;
pub use kind::Kind;
pub use period::{all as all_periods, of as periods};
pub use route::{Operation, operation};
pub use table::Objects;
