//! Where the objects are: each a JSON object as its answers print it, found by `lago_id` or by its key.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use serde_json::{Map, Value};

use super::kind::Kind;
use crate::journal::Effect;

pub type Fields = Map<String, Value>;

/// The text of a field; empty if it is absent or no text.
pub fn text<'a>(fields: &'a Fields, name: &str) -> &'a str {
    fields.get(name).and_then(Value::as_str).unwrap_or_default()
}

/// One object's place. Objects never move.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct At {
    kind: Kind,
    index: usize,
}

#[derive(Debug)]
struct Row {
    /// `None` once the object was deleted.
    fields: Option<Fields>,
    /// The object as a test defined it, for the next start.
    defined: Option<Fields>,
}

#[derive(Debug, Default)]
struct Table {
    rows: Vec<Row>,
    by_id: HashMap<String, usize>,
    by_key: HashMap<String, Vec<usize>>,
}

#[derive(Debug, Default)]
pub struct Objects {
    tables: BTreeMap<Kind, Table>,
    /// What is not as it was when the changes were taken last.
    changed: BTreeSet<(Kind, usize)>,
}

impl Objects {
    /// Adds an object, which carries its `lago_id`.
    pub fn insert(&mut self, kind: Kind, fields: Fields) -> At {
        let table = self.tables.entry(kind).or_default();
        let index = table.rows.len();
        table.by_id.insert(text(&fields, "lago_id").to_owned(), index);
        table.by_key.entry(text(&fields, kind.key()).to_owned()).or_default().push(index);
        table.rows.push(Row { fields: Some(fields), defined: None });
        self.changed.insert((kind, index));
        At { kind, index }
    }

    pub fn get(&self, at: At) -> Option<&Fields> {
        self.tables.get(&at.kind)?.rows.get(at.index)?.fields.as_ref()
    }

    /// The object as an answer prints it.
    pub fn value(&self, at: At) -> Value {
        self.get(at).cloned().map_or(Value::Null, Value::Object)
    }

    pub fn by_id(&self, kind: Kind, lago_id: &str) -> Option<At> {
        let index = *self.tables.get(&kind)?.by_id.get(lago_id)?;
        Some(At { kind, index })
    }

    /// All objects with this key, in the order of their creation.
    pub fn by_key(&self, kind: Kind, key: &str) -> Vec<At> {
        let found = self.tables.get(&kind).and_then(|table| table.by_key.get(key));
        found.into_iter().flatten().map(|index| At { kind, index: *index }).collect()
    }

    /// The oldest of them.
    pub fn first(&self, kind: Kind, key: &str) -> Option<At> {
        let index = *self.tables.get(&kind)?.by_key.get(key)?.first()?;
        Some(At { kind, index })
    }

    /// Every object of a kind, in the order of creation.
    pub fn all(&self, kind: Kind) -> impl Iterator<Item = &Fields> {
        self.tables.get(&kind).into_iter().flat_map(|table| &table.rows).filter_map(|row| row.fields.as_ref())
    }

    /// Overwrites these fields.
    pub fn change(&mut self, at: At, changes: Fields) {
        let Some(table) = self.tables.get_mut(&at.kind) else { return };
        let Some(fields) = table.rows.get_mut(at.index).and_then(|row| row.fields.as_mut()) else { return };
        let before = text(fields, at.kind.key()).to_owned();
        self.changed.insert((at.kind, at.index));
        fields.extend(changes);
        let after = text(fields, at.kind.key()).to_owned();
        if before != after {
            forget(&mut table.by_key, &before, at.index);
            table.by_key.entry(after).or_default().push(at.index);
        }
    }

    /// Overwrites one field.
    pub fn set(&mut self, at: At, name: &str, value: impl Into<Value>) {
        self.change(at, Fields::from_iter([(name.to_owned(), value.into())]));
    }

    /// Deletes an object: nothing finds or lists it any more.
    pub fn remove(&mut self, at: At) {
        let Some(table) = self.tables.get_mut(&at.kind) else { return };
        let Some(fields) = table.rows.get_mut(at.index).and_then(|row| row.fields.take()) else { return };
        self.changed.insert((at.kind, at.index));
        table.by_id.remove(text(&fields, "lago_id"));
        forget(&mut table.by_key, text(&fields, at.kind.key()), at.index);
    }

    /// Makes what the object is now its definition.
    pub fn keep(&mut self, at: At) {
        if let Some(row) = self.tables.get_mut(&at.kind).and_then(|table| table.rows.get_mut(at.index)) {
            row.defined.clone_from(&row.fields);
            self.changed.insert((at.kind, at.index));
        }
    }

    /// Every object that was added, changed or deleted since the last call, as it is now.
    pub fn take_changes(&mut self) -> Vec<Effect> {
        let changed = std::mem::take(&mut self.changed);
        let effects = changed.into_iter().filter_map(|(kind, index)| {
            let row = self.tables.get(&kind)?.rows.get(index)?;
            Some(Effect::Object { kind, index, fields: row.fields.clone(), defined: row.defined.clone() })
        });
        effects.collect()
    }

    /// Puts an object where it was.
    pub fn restore(&mut self, kind: Kind, index: usize, fields: Option<Fields>, defined: Option<Fields>) {
        self.remove(At { kind, index });
        let table = self.tables.entry(kind).or_default();
        while table.rows.len() <= index {
            table.rows.push(Row { fields: None, defined: None });
        }
        if let Some(fields) = &fields {
            table.by_id.insert(text(fields, "lago_id").to_owned(), index);
            let same = table.by_key.entry(text(fields, kind.key()).to_owned()).or_default();
            same.push(index);
            same.sort_unstable();
        }
        if let Some(row) = table.rows.get_mut(index) {
            *row = Row { fields, defined };
        }
        self.changed.clear();
    }

    /// The definitions alone, as they were defined.
    pub fn definitions(self) -> Objects {
        let mut objects = Objects::default();
        for (kind, table) in self.tables {
            for fields in table.rows.into_iter().filter_map(|row| row.defined) {
                let at = objects.insert(kind, fields);
                objects.keep(at);
            }
        }
        objects
    }
}

fn forget(by_key: &mut HashMap<String, Vec<usize>>, key: &str, index: usize) {
    if let Some(indexes) = by_key.get_mut(key) {
        indexes.retain(|known| *known != index);
        if indexes.is_empty() {
            by_key.remove(key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn plan(id: &str, code: &str) -> Fields {
        Fields::from_iter([("lago_id".to_owned(), json!(id)), ("code".to_owned(), json!(code))])
    }

    #[test]
    fn a_changed_key_is_found_and_the_old_one_is_not() {
        let mut objects = Objects::default();
        let at = objects.insert(Kind::Plan, plan("1", "old"));
        objects.set(at, "code", "new");
        assert_eq!(objects.first(Kind::Plan, "new"), Some(at));
        assert_eq!(objects.first(Kind::Plan, "old"), None);
        assert_eq!(objects.by_id(Kind::Plan, "1"), Some(at));
        assert_eq!(objects.by_id(Kind::Tax, "1"), None);
    }

    #[test]
    fn definitions_come_back_as_they_were_defined() {
        let mut objects = Objects::default();
        let defined = objects.insert(Kind::Plan, plan("1", "a"));
        objects.keep(defined);
        objects.insert(Kind::Plan, plan("2", "b"));
        objects.set(defined, "code", "c");
        objects.remove(defined);
        let objects = objects.definitions().definitions();
        let codes: Vec<&str> = objects.all(Kind::Plan).map(|fields| text(fields, "code")).collect();
        assert_eq!(codes, ["a"]);
    }

    #[test]
    fn changes_make_the_same_objects_elsewhere() {
        let mut objects = Objects::default();
        let first = objects.insert(Kind::Plan, plan("1", "a"));
        let second = objects.insert(Kind::Plan, plan("2", "b"));
        objects.keep(second);
        let mut copy = Objects::default();
        let mut carry_over = |objects: &mut Objects| {
            let changes = objects.take_changes();
            for change in &changes {
                let Effect::Object { kind, index, fields, defined } = change.clone() else {
                    panic!("object")
                };
                copy.restore(kind, index, fields, defined);
            }
            (changes.len(), copy.by_key(Kind::Plan, "a"), copy.by_key(Kind::Plan, "c"))
        };
        assert_eq!(carry_over(&mut objects), (2, vec![first], vec![]));
        objects.set(first, "code", "c");
        assert_eq!(carry_over(&mut objects), (1, vec![], vec![first]));
        objects.remove(first);
        assert_eq!(carry_over(&mut objects), (1, vec![], vec![]));
        assert_eq!(carry_over(&mut objects).0, 0);
        assert_eq!(copy.definitions().all(Kind::Plan).count(), 1);
    }

    #[test]
    fn a_deleted_object_leaves_the_others_in_place() {
        let mut objects = Objects::default();
        let first = objects.insert(Kind::Plan, plan("1", "a"));
        let second = objects.insert(Kind::Plan, plan("2", "a"));
        objects.remove(first);
        assert_eq!(objects.by_key(Kind::Plan, "a"), [second]);
        assert_eq!(objects.by_id(Kind::Plan, "1"), None);
        assert_eq!(objects.all(Kind::Plan).count(), 1);
        objects.remove(second);
        assert_eq!(objects.first(Kind::Plan, "a"), None);
    }
}
