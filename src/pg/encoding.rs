//! Between the database's encoding and UTF-8, which is what Rust, JSON and Lago speak.
//!
//! In the usual UTF-8 database all of this hands its argument through.

use pgrx::pg_sys;
use std::ffi::CStr;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// UTF-8, or none at all (SQL_ASCII), where bytes are taken for UTF-8 and nothing can be converted.
    Utf8,
    Other,
}

fn kind() -> Kind {
    // SAFETY: a variable of the backend.
    let encoding = unsafe { pg_sys::GetDatabaseEncoding() };
    let same = [pg_sys::pg_enc::PG_UTF8, pg_sys::pg_enc::PG_SQL_ASCII].map(|encoding| encoding as i32);
    if same.contains(&encoding) { Kind::Utf8 } else { Kind::Other }
}

/// Whether the database's text is known to be UTF-8.
pub fn is_utf8() -> bool {
    // SAFETY: a variable of the backend.
    unsafe { pg_sys::GetDatabaseEncoding() == pg_sys::pg_enc::PG_UTF8 as i32 }
}

/// Text of the database as UTF-8. In a database without an encoding, bytes that are no UTF-8 are
/// replaced: Lago would refuse the whole request they stand in.
pub fn to_utf8(bytes: &[u8]) -> String {
    if kind() == Kind::Utf8 {
        return in_utf8(bytes);
    }
    // SAFETY: reads `bytes`; gives them back when nothing needs converting, else a C string.
    let converted = unsafe {
        pg_sys::pg_server_to_any(bytes.as_ptr().cast(), bytes.len() as i32, pg_sys::pg_enc::PG_UTF8 as i32)
    };
    if std::ptr::eq(converted.cast_const().cast(), bytes.as_ptr()) {
        return in_utf8(bytes);
    }
    // SAFETY: as above.
    let text = unsafe { CStr::from_ptr(converted) }.to_string_lossy().into_owned();
    // SAFETY: made above, and not looked at any more.
    unsafe { pg_sys::pfree(converted.cast()) };
    text
}

/// What replaces bytes looks at each of them; the mere check takes many at a time.
fn in_utf8(bytes: &[u8]) -> String {
    match std::str::from_utf8(bytes) {
        Ok(text) => text.to_owned(),
        Err(_) => String::from_utf8_lossy(bytes).into_owned(),
    }
}

/// Text in the database's encoding; an error if it has no such character, which is right for what
/// came out of the same database.
pub fn to_server(text: &str) -> Vec<u8> {
    if kind() == Kind::Utf8 {
        return text.as_bytes().to_vec();
    }
    // SAFETY: reads `text`; gives it back when nothing needs converting, else a C string.
    let converted = unsafe {
        pg_sys::pg_any_to_server(text.as_ptr().cast(), text.len() as i32, pg_sys::pg_enc::PG_UTF8 as i32)
    };
    if std::ptr::eq(converted.cast_const().cast(), text.as_ptr()) {
        return text.as_bytes().to_vec();
    }
    // SAFETY: as above.
    unsafe { CStr::from_ptr(converted) }.to_bytes().to_vec()
}

/// Appends JSON text, given in UTF-8, in the database's encoding, whatever characters it holds: where
/// not all of them have a place there, those beyond ASCII are written as JSON's escapes.
pub fn push_json(out: &mut Vec<u8>, json: &[u8]) {
    if kind() == Kind::Utf8 {
        return out.extend_from_slice(json);
    }
    for c in String::from_utf8_lossy(json).chars() {
        if c.is_ascii() {
            out.push(c as u8);
            continue;
        }
        for unit in c.encode_utf16(&mut [0; 2]) {
            out.extend_from_slice(format!("\\u{unit:04x}").as_bytes());
        }
    }
}

/// JSON text of the database, read.
pub fn json_from_server(json: &[u8]) -> serde_json::Result<serde_json::Value> {
    match kind() {
        Kind::Utf8 => match std::str::from_utf8(json) {
            Ok(text) => serde_json::from_str(text),
            // In a database without an encoding.
            Err(_) => serde_json::from_str(&String::from_utf8_lossy(json)),
        },
        Kind::Other => serde_json::from_str(&to_utf8(json)),
    }
}

/// Text from outside (a reply of Lago's, say) in a form any database can store: where the encoding is
/// not UTF-8, characters beyond ASCII are written as escapes; zero bytes are dropped everywhere.
pub fn storable(text: &str) -> String {
    let text = text.replace('\0', "");
    match kind() {
        Kind::Utf8 => text,
        Kind::Other => text
            .chars()
            .map(|c| if c.is_ascii() { c.to_string() } else { c.escape_unicode().to_string() })
            .collect(),
    }
}
