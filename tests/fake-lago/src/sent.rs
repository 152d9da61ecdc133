//! What was ever received, whatever became of it: for each event and each other object, the distinct texts it
//! was sent with.
//!
//! A client that freezes what it sends sends one text only. The texts are the bytes of the request, not a
//! reading of them.

use std::collections::{BTreeMap, HashMap};

use serde_json::{Map, Value};

use crate::body::Element;
use crate::event;

/// One of the texts something was ever sent with, stored or not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SentBody {
    pub body: Vec<u8>,
    pub times: u64,
}

/// Something that was sent with more than one text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SentTwice {
    /// `events` for both event endpoints, since a message may travel alone or with others; else method and path.
    pub call: String,
    /// An event's subscription and transaction id; of other objects what [`Name::of_object`] takes.
    pub name: String,
    pub bodies: Vec<String>,
}

/// What one element is known by.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Name {
    Event { transaction_id: String, subscription: Option<String> },
    Object { call: String, name: String },
}

/// The fields that together tell one object from another, besides its metadata: what a client that makes many
/// calls for one object has to tell them apart with.
const NAMING: [&str; 9] = [
    "external_id",
    "external_customer_id",
    "external_subscription_id",
    "code",
    "coupon_code",
    "wallet_id",
    "invoice_id",
    "reference",
    "name",
];

impl Name {
    /// Nothing for an event without a transaction id.
    pub fn of_event(fields: &Map<String, Value>) -> Option<Name> {
        let subscription = fields.get("external_subscription_id").cloned().and_then(event::text_of);
        Some(Name::Event { transaction_id: event::transaction_id_of(fields)?, subscription })
    }

    pub fn of_object(method: &str, path: &str, fields: &Map<String, Value>) -> Name {
        let named = NAMING.iter().filter_map(|name| {
            let text = fields.get(*name).cloned().and_then(event::text_of)?;
            Some(format!("{name}={text}"))
        });
        let pairs = fields.get("metadata").and_then(Value::as_array).into_iter().flatten().map(|pair| {
            let part = |name: &str| pair.get(name).cloned().and_then(event::text_of).unwrap_or_default();
            format!("metadata {}={}", part("key"), part("value"))
        });
        let name = named.chain(pairs).collect::<Vec<_>>().join(", ");
        Name::Object { call: format!("{method} {path}"), name }
    }
}

/// Every element of a request with the name it is remembered under.
pub fn named<'a>(elements: &'a [Element<'a>]) -> Vec<(Name, &'a str)> {
    elements.iter().filter_map(|element| Some((Name::of_event(&element.fields)?, element.raw))).collect()
}

/// Whether a text was new under its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Seen {
    New,
    Again,
}

type BySubscription = Vec<(Option<String>, Vec<SentBody>)>;

#[derive(Debug, Default)]
pub struct Sent {
    events: HashMap<String, BySubscription>,
    objects: BTreeMap<(String, String), Vec<SentBody>>,
}

impl Sent {
    pub fn saw(&mut self, name: &Name, body: &[u8]) -> Seen {
        match name {
            Name::Event { transaction_id, subscription } => {
                if !self.events.contains_key(transaction_id) {
                    self.events.insert(transaction_id.clone(), Vec::with_capacity(1));
                }
                let Some(known) = self.events.get_mut(transaction_id) else { return Seen::New };
                match known.iter_mut().find(|(of, _)| of == subscription) {
                    Some((_, bodies)) => add(bodies, body),
                    None => {
                        let mut bodies = Vec::with_capacity(1);
                        add(&mut bodies, body);
                        known.push((subscription.clone(), bodies));
                        Seen::New
                    }
                }
            }
            Name::Object { call, name } => {
                add(self.objects.entry((call.clone(), name.clone())).or_default(), body)
            }
        }
    }

    /// The texts of each transaction id, under whatever subscription.
    pub fn copies(&self) -> BTreeMap<String, Vec<SentBody>> {
        self.events.keys().map(|id| (id.clone(), self.copies_of(id))).collect()
    }

    pub fn copies_of(&self, transaction_id: &str) -> Vec<SentBody> {
        let known = self.events.get(transaction_id);
        known.into_iter().flatten().flat_map(|(_, bodies)| bodies).cloned().collect()
    }

    /// The transaction ids that were sent with more than one text.
    pub fn differently(&self) -> Vec<String> {
        let count = |known: &BySubscription| known.iter().map(|(_, bodies)| bodies.len()).sum::<usize>();
        let mut ids: Vec<String> =
            self.events.iter().filter(|(_, known)| count(known) > 1).map(|(id, _)| id.clone()).collect();
        ids.sort_unstable();
        ids
    }

    /// What was sent with two texts under one name, events first.
    pub fn twice(&self) -> Vec<SentTwice> {
        let texts = |bodies: &[SentBody]| {
            bodies.iter().map(|sent| String::from_utf8_lossy(&sent.body).into_owned()).collect()
        };
        let mut events: Vec<SentTwice> = Vec::new();
        for (id, known) in &self.events {
            for (subscription, bodies) in known.iter().filter(|(_, bodies)| bodies.len() > 1) {
                events.push(SentTwice {
                    call: "events".to_owned(),
                    name: format!("{} {id}", subscription.as_deref().unwrap_or("no subscription")),
                    bodies: texts(bodies),
                });
            }
        }
        events.sort_unstable_by(|one, other| one.name.cmp(&other.name));
        let objects = self.objects.iter().filter(|(_, bodies)| bodies.len() > 1);
        events.extend(objects.map(|((call, name), bodies)| SentTwice {
            call: call.clone(),
            name: name.clone(),
            bodies: texts(bodies),
        }));
        events
    }
}

fn add(bodies: &mut Vec<SentBody>, body: &[u8]) -> Seen {
    if let Some(known) = bodies.iter_mut().find(|known| known.body == body) {
        known.times += 1;
        return Seen::Again;
    }
    bodies.reserve_exact(1);
    bodies.push(SentBody { body: body.to_vec(), times: 1 });
    Seen::New
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn event(id: &str, subscription: &str) -> Name {
        Name::Event { transaction_id: id.to_owned(), subscription: Some(subscription.to_owned()) }
    }

    fn object(fields: Value) -> Name {
        let Value::Object(fields) = fields else { panic!("not an object") };
        Name::of_object("POST", "/api/v1/wallet_transactions", &fields)
    }

    #[test]
    fn different_texts_for_one_id_are_remembered() {
        let mut sent = Sent::default();
        for body in ["{}", "{ }", "{}"] {
            sent.saw(&event("a", "s"), body.as_bytes());
        }
        assert_eq!(sent.saw(&event("b", "s"), b"{}"), Seen::New);
        assert_eq!(sent.saw(&event("b", "s"), b"{}"), Seen::Again);
        assert_eq!(sent.differently(), ["a"]);
        assert_eq!(sent.copies_of("a")[0].times, 2);
        let twice = sent.twice();
        assert_eq!((twice.len(), twice[0].name.as_str()), (1, "s a"));
        assert_eq!(twice[0].bodies, ["{}", "{ }"]);
    }

    #[test]
    fn one_id_under_two_subscriptions_is_two_events() {
        let mut sent = Sent::default();
        sent.saw(&event("a", "s"), b"{1}");
        sent.saw(&event("a", "t"), b"{2}");
        assert!(sent.twice().is_empty());
        assert_eq!(sent.differently(), ["a"]);
    }

    #[test]
    fn other_objects_are_told_apart_by_what_names_them_and_by_their_metadata() {
        let top_up = |id: &str| object(json!({"wallet_id": "w", "metadata": [{"key": "id", "value": id}]}));
        assert_ne!(top_up("1"), top_up("2"));
        let mut sent = Sent::default();
        sent.saw(&top_up("1"), b"{1}");
        sent.saw(&top_up("2"), b"{2}");
        assert!(sent.twice().is_empty());
        sent.saw(&top_up("2"), b"{3}");
        assert_eq!(sent.twice()[0].call, "POST /api/v1/wallet_transactions");
    }
}
