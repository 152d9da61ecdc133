//! Jsonb: what stands at the end of a path, found in the binary form.
//!
//! A document may be long and a template ask for one value of it. So only that value becomes JSON; it
//! is the same as if the whole had been written out, parsed and entered by the same steps.

use super::cell::{self, Unwritable};
use super::encoding;
use crate::liquid::{Datum, Step};
use pgrx::pg_sys;
use serde_json::Value as Json;
use std::ffi::CStr;
use std::marker::PhantomData;

/// A document, fetched and decompressed: a copy, so that no memory context can take it away, and in
/// words, because its parts are aligned.
pub struct Document {
    words: Box<[u64]>,
}

/// An array or object in a document.
#[derive(Clone, Copy)]
struct Container<'d> {
    at: *mut pg_sys::JsonbContainer,
    document: PhantomData<&'d Document>,
}

enum Found<'d> {
    Container(Container<'d>),
    Text(&'d [u8]),
    Number(pg_sys::Numeric),
    Bool(bool),
    Length(u32),
    Null,
    /// Nothing stands there, which is null in the end; but an object without a `size` still has one.
    Nothing,
}

impl Document {
    /// Of a jsonb that is not null.
    pub fn new(datum: pg_sys::Datum) -> Document {
        cell::with_varlena(datum, |bytes| {
            let mut words = vec![0_u64; bytes.len().div_ceil(size_of::<u64>())].into_boxed_slice();
            // SAFETY: there is room for these bytes in what was made just now.
            unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), words.as_mut_ptr().cast(), bytes.len()) };
            Document { words }
        })
    }

    /// What the steps lead to, and how many of them were taken: those that are left want the value itself.
    pub fn follow(&self, steps: &[Step]) -> Result<(Datum, usize), Unwritable> {
        let mut found = self.root();
        let mut taken = 0;
        for step in steps {
            let Found::Container(container) = found else { break };
            let Some(next) = container.step(step) else { break };
            found = next;
            taken += 1;
        }
        Ok((Datum::Json(found.json()?), taken))
    }

    fn root(&self) -> Found<'_> {
        let root = Container { at: self.words.as_ptr().cast_mut().cast(), document: PhantomData };
        // A scalar at the root stands in an array of its own.
        let scalar = if root.is(pg_sys::JB_FSCALAR) { root.item(0) } else { None };
        scalar.unwrap_or(Found::Container(root))
    }
}

impl<'d> Container<'d> {
    /// What the step leads to; none if it is not told here.
    fn step(self, step: &Step) -> Option<Found<'d>> {
        if self.is(pg_sys::JB_FOBJECT) {
            let (index, name);
            match step {
                Step::Name(given) => name = given.as_str(),
                Step::Index(given) => {
                    index = given.to_string();
                    name = index.as_str();
                }
                Step::Computed(_) => return None,
            }
            if !name.is_ascii() && !encoding::is_utf8() {
                return None;
            }
            return match (self.member(name.as_bytes())?, name) {
                (Found::Nothing, "size") => Some(Found::Length(self.length())),
                // Pairs of name and value.
                (Found::Nothing, "first" | "last") => None,
                (found, _) => Some(found),
            };
        }
        let index = match step {
            Step::Index(index) => *index,
            Step::Name(name) => match name.as_str() {
                "size" => return Some(Found::Length(self.length())),
                "first" => 0,
                "last" => -1,
                name => match name.parse() {
                    Ok(index) => index,
                    Err(_) => return Some(Found::Nothing),
                },
            },
            Step::Computed(_) => return None,
        };
        let length = i64::from(self.length());
        let place = if index < 0 { length.checked_add(index) } else { Some(index) };
        match place.and_then(|place| u32::try_from(place).ok()) {
            Some(place) => self.item(place),
            None => Some(Found::Nothing),
        }
    }

    fn header(self) -> u32 {
        // SAFETY: a container begins with its header, and is as old as the document it is borrowed from.
        unsafe { (*self.at).header }
    }

    fn is(self, flag: u32) -> bool {
        self.header() & flag != 0
    }

    fn length(self) -> u32 {
        self.header() & pg_sys::JB_CMASK
    }

    /// An object's value under a key.
    fn member(self, key: &[u8]) -> Option<Found<'d>> {
        let mut value = pg_sys::JsonbValue::default();
        let length = i32::try_from(key.len()).ok()?;
        // SAFETY: reads an object and a key of this length; writes to `value`.
        let found = unsafe {
            pg_sys::getKeyJsonValueFromContainer(self.at, key.as_ptr().cast(), length, &raw mut value)
        };
        if found.is_null() { Some(Found::Nothing) } else { Found::new(&value) }
    }

    /// An array's item.
    fn item(self, place: u32) -> Option<Found<'d>> {
        // SAFETY: reads an array; gives a value of its own, or null beyond the end.
        let made = unsafe { pg_sys::getIthJsonbValueFromContainer(self.at, place) };
        if made.is_null() {
            return Some(Found::Nothing);
        }
        // SAFETY: made above; what it points to is in the document.
        let value = unsafe { *made };
        // SAFETY: as above, and not looked at any more.
        unsafe { pg_sys::pfree(made.cast()) };
        Found::new(&value)
    }

    fn json(self) -> Result<Json, Unwritable> {
        const SHORT: i32 = 64;
        // SAFETY: reads a container; makes a C string, which grows beyond the length given.
        let written = unsafe { pg_sys::JsonbToCString(std::ptr::null_mut(), self.at, SHORT) };
        // SAFETY: as above.
        let json = encoding::json_from_server(unsafe { CStr::from_ptr(written) }.to_bytes());
        // SAFETY: made above, and not looked at any more.
        unsafe { pg_sys::pfree(written.cast()) };
        json.map_err(|_| Unwritable::NotJson)
    }
}

impl Found<'_> {
    /// Of a value whose text and parts are in a document that is as old as the result; none for a type no
    /// document holds.
    fn new(value: &pg_sys::JsonbValue) -> Option<Self> {
        let inside = &value.val;
        Some(match value.type_ {
            pg_sys::jbvType::jbvNull => Found::Null,
            // SAFETY: the type says which of the union's fields it is, here and below.
            pg_sys::jbvType::jbvBool => Found::Bool(unsafe { inside.boolean }),
            // SAFETY: as above.
            pg_sys::jbvType::jbvNumeric => Found::Number(unsafe { inside.numeric }),
            pg_sys::jbvType::jbvString => {
                // SAFETY: as above.
                let text = unsafe { inside.string };
                let length = usize::try_from(text.len).ok()?;
                // SAFETY: that many bytes of the document.
                Found::Text(unsafe { std::slice::from_raw_parts(text.val.cast(), length) })
            }
            pg_sys::jbvType::jbvBinary => {
                // SAFETY: as above.
                let binary = unsafe { inside.binary };
                Found::Container(Container { at: binary.data, document: PhantomData })
            }
            _ => return None,
        })
    }

    fn json(self) -> Result<Json, Unwritable> {
        Ok(match self {
            Found::Null | Found::Nothing => Json::Null,
            Found::Bool(value) => Json::Bool(value),
            Found::Length(length) => Json::from(length),
            Found::Text(text) => Json::String(encoding::to_utf8(text)),
            Found::Number(numeric) => Json::Number(
                cell::numeric_text(pg_sys::Datum::from(numeric)).parse().map_err(|_| Unwritable::NotJson)?,
            ),
            Found::Container(container) => container.json()?,
        })
    }
}
