//! Cells: one column's value, from the server's form to JSON.
//!
//! The bytes must depend on the value alone, never on the writer's session: TimeZone, DateStyle,
//! IntervalStyle, extra_float_digits, bytea_output, search_path. The common types are written by
//! code that reads no setting and cannot fail; all others go through the type's own functions, with
//! those settings pinned and failures caught.

use crate::json;
use crate::liquid::Datum;
use crate::template::Place;
use pgrx::{FromDatum, pg_sys, varlena};
use std::cell::UnsafeCell;
use std::ffi::CStr;

/// How a column's type is written.
pub enum Kind {
    Bool,
    Int2,
    Int4,
    Int8,
    Oid,
    Float4,
    Float8,
    Numeric,
    /// text and varchar
    Text,
    /// Blank-padded: the blanks are not part of the value, by the SQL standard and to Lago.
    Bpchar,
    Name,
    Uuid,
    Bytea,
    Json,
    Jsonb,
    /// date, time, timetz, timestamp, timestamptz
    Moment(pg_sys::Oid),
    /// Everything else: enums, arrays, composites, ranges, intervals, extension types, …
    Other(Box<Functions>),
}

/// The functions of a type with no code of its own here. They keep what they learn about the type
/// in their records, so each record is used in place, never copied.
pub struct Functions {
    output: UnsafeCell<pg_sys::FmgrInfo>,
    to_json: UnsafeCell<pg_sys::FmgrInfo>,
}

/// Why a value cannot be written.
#[derive(Debug, PartialEq, Eq)]
pub enum Unwritable {
    NotFinite,
    OutOfRange,
    /// A json column whose text this library cannot read, for its depth.
    NotJson,
    /// The type's own function failed.
    Failed {
        sqlstate: String,
    },
}

/// PostgreSQL counts from 2000-01-01, Unix from 1970-01-01.
const EPOCH_SHIFT_DAYS: i64 = 10_957;
const DAY_MICROSECONDS: i64 = 86_400_000_000;

impl Kind {
    /// The kind of a type, domains reduced to what they stand on.
    pub fn of(type_oid: pg_sys::Oid) -> Kind {
        // SAFETY: a catalog lookup, inside a transaction.
        let base = unsafe { pg_sys::getBaseType(type_oid) };
        match base {
            pg_sys::BOOLOID => Kind::Bool,
            pg_sys::INT2OID => Kind::Int2,
            pg_sys::INT4OID => Kind::Int4,
            pg_sys::INT8OID => Kind::Int8,
            pg_sys::OIDOID => Kind::Oid,
            pg_sys::FLOAT4OID => Kind::Float4,
            pg_sys::FLOAT8OID => Kind::Float8,
            pg_sys::NUMERICOID => Kind::Numeric,
            pg_sys::TEXTOID | pg_sys::VARCHAROID => Kind::Text,
            pg_sys::BPCHAROID => Kind::Bpchar,
            pg_sys::NAMEOID => Kind::Name,
            pg_sys::UUIDOID => Kind::Uuid,
            pg_sys::BYTEAOID => Kind::Bytea,
            pg_sys::JSONOID => Kind::Json,
            pg_sys::JSONBOID => Kind::Jsonb,
            pg_sys::DATEOID
            | pg_sys::TIMEOID
            | pg_sys::TIMETZOID
            | pg_sys::TIMESTAMPOID
            | pg_sys::TIMESTAMPTZOID => Kind::Moment(base),
            _ => Kind::Other(Box::new(Functions::of(base))),
        }
    }

    /// Appends the value as JSON (in value position) or as escaped text (inside a string).
    pub fn write(&self, datum: pg_sys::Datum, place: Place, out: &mut Vec<u8>) -> Result<(), Unwritable> {
        let finite = |written: bool| if written { Ok(()) } else { Err(Unwritable::NotFinite) };
        match self {
            Kind::Bool => out.extend_from_slice(if datum.value() & 1 == 1 { b"true" } else { b"false" }),
            Kind::Int2 => json::push_integer(out, i64::from(datum.value() as i16)),
            Kind::Int4 => json::push_integer(out, i64::from(datum.value() as i32)),
            Kind::Int8 => json::push_integer(out, datum.value() as i64),
            Kind::Oid => json::push_integer(out, i64::from(datum.value() as u32)),
            Kind::Float4 => {
                let value = f32::from_bits(datum.value() as u32);
                return match place {
                    Place::InString if !value.is_finite() => text(non_finite(value.into()), place, out),
                    _ => finite(json::push_float4(out, value)),
                };
            }
            Kind::Float8 => {
                let value = f64::from_bits(datum.value() as u64);
                return match place {
                    Place::InString if !value.is_finite() => text(non_finite(value), place, out),
                    _ => finite(json::push_float8(out, value)),
                };
            }
            Kind::Numeric => return numeric(datum, place, out),
            Kind::Text => return with_varlena(datum, |bytes| text(bytes, place, out)),
            Kind::Bpchar => {
                return with_varlena(datum, |bytes| {
                    let length = bytes.iter().rposition(|byte| *byte != b' ').map_or(0, |last| last + 1);
                    text(&bytes[..length], place, out)
                });
            }
            Kind::Name => {
                // SAFETY: a name is a pointer to a zero-terminated array.
                let name = unsafe { CStr::from_ptr(datum.cast_mut_ptr()) };
                return text(name.to_bytes(), place, out);
            }
            Kind::Uuid => {
                // SAFETY: a uuid is a pointer to sixteen bytes.
                let bytes = unsafe { &*datum.cast_mut_ptr::<[u8; 16]>() };
                return text(&uuid(bytes), place, out);
            }
            Kind::Bytea => {
                return with_varlena(datum, |bytes| {
                    quoted(place, out, |out| json::push_hex(out, bytes, b"\\\\"));
                    Ok(())
                });
            }
            Kind::Json => {
                return with_varlena(datum, |bytes| {
                    match place {
                        Place::Value => out.extend_from_slice(bytes),
                        Place::InString => json::push_escaped(out, bytes),
                    }
                    Ok(())
                });
            }
            Kind::Jsonb => {
                // SAFETY: jsonb_out reads a jsonb, makes a C string and reads no setting.
                let written = unsafe { call_output(pg_sys::jsonb_out, datum) };
                match place {
                    Place::Value => out.extend_from_slice(written.to_bytes()),
                    Place::InString => json::push_escaped(out, written.to_bytes()),
                }
            }
            Kind::Moment(type_oid) => {
                let mut buffer = [0 as core::ffi::c_char; pg_sys::MAXDATELEN as usize + 1];
                // Zone zero: the writer's TimeZone must not show in the bytes.
                let utc = 0;
                // SAFETY: the buffer has the size this function asks for; the type is one it knows.
                let written = unsafe {
                    CStr::from_ptr(pg_sys::JsonEncodeDateTime(
                        buffer.as_mut_ptr(),
                        datum,
                        *type_oid,
                        &raw const utc,
                    ))
                };
                return text(written.to_bytes(), place, out);
            }
            Kind::Other(functions) => return functions.write(datum, place, out),
        }
        Ok(())
    }

    /// The value as Liquid takes it.
    pub fn datum(&self, datum: pg_sys::Datum) -> Result<Datum, Unwritable> {
        let as_json = |written: &[u8]| {
            super::encoding::json_from_server(written).map(Datum::Json).map_err(|_| Unwritable::NotJson)
        };
        Ok(match self {
            Kind::Bool => Datum::Bool(datum.value() & 1 == 1),
            Kind::Int2 => Datum::Integer(i64::from(datum.value() as i16)),
            Kind::Int4 => Datum::Integer(i64::from(datum.value() as i32)),
            Kind::Int8 => Datum::Integer(datum.value() as i64),
            Kind::Oid => Datum::Integer(i64::from(datum.value() as u32)),
            // By its shortest digits: widened as it is, 0.1 would show digits nobody wrote.
            Kind::Float4 => match f32::from_bits(datum.value() as u32) {
                value if value.is_finite() => Datum::Decimal(value.to_string()),
                value => Datum::Float(value.into()),
            },
            Kind::Float8 => match f64::from_bits(datum.value() as u64) {
                value if value.is_finite() => Datum::Decimal(value.to_string()),
                value => Datum::Float(value),
            },
            Kind::Json => return with_varlena(datum, as_json),
            // SAFETY: as in `write`.
            Kind::Jsonb => return as_json(unsafe { call_output(pg_sys::jsonb_out, datum) }.to_bytes()),
            Kind::Other(_) => {
                let mut written = Vec::new();
                self.write(datum, Place::Value, &mut written)?;
                match as_json(&written)? {
                    Datum::Json(serde_json::Value::String(text)) => Datum::Text(text),
                    value => value,
                }
            }
            Kind::Moment(_) => {
                let iso = self.plain_text(datum)?;
                match self.unix_micros(datum) {
                    Some(Ok(unix_micros)) => Datum::Moment { iso, unix_micros },
                    Some(Err(_)) | None => Datum::Text(iso),
                }
            }
            Kind::Numeric => Datum::Decimal(self.plain_text(datum)?),
            Kind::Text => {
                return with_varlena(datum, |bytes| Ok(Datum::Text(super::encoding::to_utf8(bytes))));
            }
            Kind::Bpchar | Kind::Name | Kind::Uuid => Datum::Text(self.plain_text(datum)?),
            Kind::Bytea => with_varlena(datum, |bytes| {
                let mut text = Vec::new();
                json::push_hex(&mut text, bytes, b"\\");
                Datum::Text(String::from_utf8_lossy(&text).into_owned())
            }),
        })
    }

    /// The value's text without any escapes, in UTF-8.
    fn plain_text(&self, datum: pg_sys::Datum) -> Result<String, Unwritable> {
        let mut quoted = vec![b'"'];
        self.write(datum, Place::InString, &mut quoted)?;
        quoted.push(b'"');
        serde_json::from_str(&super::encoding::to_utf8(&quoted)).map_err(|_| Unwritable::NotJson)
    }

    /// Appends a point in time as Unix seconds; says false when the type is none.
    pub fn write_unix_seconds(
        &self,
        datum: pg_sys::Datum,
        out: &mut Vec<u8>,
    ) -> Option<Result<(), Unwritable>> {
        Some(self.unix_micros(datum)?.map(|micros| json::push_unix_seconds(out, micros)))
    }

    /// A point in time in microseconds since the Unix epoch; none when the type is none.
    fn unix_micros(&self, datum: pg_sys::Datum) -> Option<Result<i64, Unwritable>> {
        let micros = match self {
            // A timestamp without time zone is taken as UTC: nothing else would be stable.
            Kind::Moment(pg_sys::TIMESTAMPTZOID | pg_sys::TIMESTAMPOID) => datum.value() as i64,
            Kind::Moment(pg_sys::DATEOID) => match datum.value() as i32 {
                i32::MIN => i64::MIN,
                i32::MAX => i64::MAX,
                days => i64::from(days) * DAY_MICROSECONDS,
            },
            _ => return None,
        };
        if micros == i64::MIN || micros == i64::MAX {
            return Some(Err(Unwritable::NotFinite));
        }
        Some(micros.checked_add(EPOCH_SHIFT_DAYS * DAY_MICROSECONDS).ok_or(Unwritable::OutOfRange))
    }
}

fn quoted(place: Place, out: &mut Vec<u8>, write: impl FnOnce(&mut Vec<u8>)) {
    if place == Place::Value {
        out.push(b'"');
    }
    write(out);
    if place == Place::Value {
        out.push(b'"');
    }
}

fn text(bytes: &[u8], place: Place, out: &mut Vec<u8>) -> Result<(), Unwritable> {
    quoted(place, out, |out| json::push_escaped(out, bytes));
    Ok(())
}

fn non_finite(value: f64) -> &'static [u8] {
    if value.is_nan() {
        b"NaN"
    } else if value > 0.0 {
        b"Infinity"
    } else {
        b"-Infinity"
    }
}

fn numeric(datum: pg_sys::Datum, place: Place, out: &mut Vec<u8>) -> Result<(), Unwritable> {
    // SAFETY: numeric_out reads a numeric, makes a C string and reads no setting.
    let written = unsafe { call_output(pg_sys::numeric_out, datum) }.to_bytes();
    // NaN, Infinity and -Infinity are the texts with a letter in them.
    if place == Place::Value && written.iter().any(u8::is_ascii_alphabetic) {
        return Err(Unwritable::NotFinite);
    }
    out.extend_from_slice(written);
    Ok(())
}

fn uuid(bytes: &[u8; 16]) -> Vec<u8> {
    let mut out = Vec::with_capacity(36);
    for (index, byte) in bytes.iter().enumerate() {
        if matches!(index, 4 | 6 | 8 | 10) {
            out.push(b'-');
        }
        json::push_hex_byte(&mut out, *byte);
    }
    out
}

/// Whether a value's bytes stand behind its header as they are: it is neither compressed nor elsewhere.
///
/// # Safety
/// It is a varlena.
pub unsafe fn is_at_hand(at: *const pg_sys::varlena) -> bool {
    // SAFETY: promised by the caller; the header tells.
    unsafe { varlena::varatt_is_4b_u(at) || varlena::varatt_is_1b(at) && !varlena::varatt_is_1b_e(at) }
}

/// Lends the bytes of a text-like value, fetched and decompressed if need be.
pub(super) fn with_varlena<R>(datum: pg_sys::Datum, read: impl FnOnce(&[u8]) -> R) -> R {
    let at = datum.cast_mut_ptr::<pg_sys::varlena>();
    // SAFETY: the caller knows the type to be a varlena.
    let is_at_hand = unsafe { is_at_hand(at) };
    // SAFETY: as above; a copy, if one is made, lives in the current memory context, which outlives this call.
    let varlena = if is_at_hand { at } else { unsafe { pg_sys::pg_detoast_datum_packed(at) } };
    // SAFETY: a detoasted varlena says its own length.
    let length = unsafe { pgrx::varsize_any_exhdr(varlena) };
    // SAFETY: as above; that many bytes follow its header.
    let result = read(unsafe { std::slice::from_raw_parts(pgrx::vardata_any(varlena).cast(), length) });
    if !std::ptr::eq(varlena, at) {
        // SAFETY: the copy made above. Whoever reads many large values in one context must not hold them all.
        unsafe { pg_sys::pfree(varlena.cast()) };
    }
    result
}

/// # Safety
/// `function` is an output function of the datum's type.
unsafe fn call_output<'a>(
    function: unsafe fn(pg_sys::FunctionCallInfo) -> pg_sys::Datum,
    datum: pg_sys::Datum,
) -> &'a CStr {
    // SAFETY: promised by the caller; output functions take one argument and give a C string in the
    // current memory context.
    unsafe {
        let result = pgrx::direct_function_call_as_datum(function, &[Some(datum)]);
        match result {
            Some(text) => CStr::from_ptr(text.cast_mut_ptr()),
            None => c"",
        }
    }
}

impl Functions {
    fn of(type_oid: pg_sys::Oid) -> Functions {
        let mut output = pg_sys::FmgrInfo::default();
        let mut to_json = pg_sys::FmgrInfo::default();
        let mut output_oid = pg_sys::InvalidOid;
        let mut is_varlena = false;
        // SAFETY: catalog lookups inside a transaction. The records live in the cache context, so
        // that they outlive the query that first needed them; to_json learns its argument's type
        // from an expression, as if it had been called in a query.
        unsafe {
            pg_sys::getTypeOutputInfo(type_oid, &raw mut output_oid, &raw mut is_varlena);
            pg_sys::fmgr_info_cxt(output_oid, &raw mut output, pg_sys::CacheMemoryContext);
            pg_sys::fmgr_info_cxt(
                pg_sys::Oid::from(pg_sys::F_TO_JSON),
                &raw mut to_json,
                pg_sys::CacheMemoryContext,
            );
            let previous = pg_sys::MemoryContextSwitchTo(pg_sys::CacheMemoryContext);
            let argument = pg_sys::makeNullConst(type_oid, -1, pg_sys::InvalidOid);
            let arguments = pg_sys::lappend(std::ptr::null_mut(), argument.cast());
            to_json.fn_expr = pg_sys::makeFuncExpr(
                pg_sys::Oid::from(pg_sys::F_TO_JSON),
                pg_sys::JSONOID,
                arguments,
                pg_sys::InvalidOid,
                pg_sys::InvalidOid,
                pg_sys::CoercionForm::COERCE_EXPLICIT_CALL,
            )
            .cast();
            pg_sys::MemoryContextSwitchTo(previous);
        }
        Functions { output: UnsafeCell::new(output), to_json: UnsafeCell::new(to_json) }
    }

    fn write(&self, datum: pg_sys::Datum, place: Place, out: &mut Vec<u8>) -> Result<(), Unwritable> {
        let written = super::xact::protected(|| {
            pinned(|| match place {
                Place::Value => {
                    // SAFETY: to_json with the argument's type in its expression; gives a json varlena.
                    let json =
                        unsafe { pg_sys::FunctionCall1Coll(self.to_json.get(), pg_sys::InvalidOid, datum) };
                    with_varlena(json, <[u8]>::to_vec)
                }
                Place::InString => {
                    // SAFETY: the type's own output function; gives a C string.
                    unsafe { CStr::from_ptr(pg_sys::OutputFunctionCall(self.output.get(), datum)) }
                        .to_bytes()
                        .to_vec()
                }
            })
        });
        let written = written.map_err(|caught| Unwritable::Failed { sqlstate: caught.sqlstate })?;
        match place {
            Place::Value => out.extend_from_slice(&written),
            Place::InString => json::push_escaped(out, &written),
        }
        Ok(())
    }
}

/// A whole row but for some columns as JSON text, for a dead letter; none if not even that can be made.
pub fn row_to_json(row: super::trigger::Tuple, without: &[String]) -> Option<Vec<u8>> {
    let json = super::xact::protected(|| {
        pinned(|| {
            // SAFETY: row_to_json takes a composite value, which carries its own type.
            let json = unsafe {
                pg_sys::OidFunctionCall1Coll(
                    pg_sys::Oid::from(pg_sys::F_ROW_TO_JSON_RECORD),
                    pg_sys::InvalidOid,
                    row.composite(),
                )
            };
            with_varlena(json, <[u8]>::to_vec)
        })
    });
    let json = json.ok()?;
    if without.is_empty() {
        return Some(json);
    }
    let mut columns: serde_json::Map<String, serde_json::Value> =
        serde_json::from_str(&super::encoding::to_utf8(&json)).ok()?;
    columns.retain(|column, _| !without.contains(column));
    let mut kept = Vec::new();
    super::encoding::push_json(&mut kept, serde_json::Value::Object(columns).to_string().as_bytes());
    Some(kept)
}

/// What output functions may depend on, and the value each has while a payload is made.
const PINNED: [(&CStr, &CStr); 8] = [
    (c"TimeZone", c"UTC"),
    (c"DateStyle", c"ISO, MDY"),
    (c"IntervalStyle", c"postgres"),
    (c"extra_float_digits", c"1"),
    (c"bytea_output", c"hex"),
    (c"xmlbinary", c"base64"),
    (c"lc_monetary", c"C"),
    (c"quote_all_identifiers", c"off"),
];

/// Runs `work` with the settings pinned that values may depend on, and nobody's functions in the way.
pub fn pinned<R>(work: impl FnOnce() -> R) -> R {
    pinned_with(c"pg_catalog, pg_temp", work)
}

/// The same with a search_path.
pub fn pinned_with<R>(search_path: &CStr, work: impl FnOnce() -> R) -> R {
    // SAFETY: opens a nesting level of settings; an error closes it with the surrounding subtransaction.
    let level = unsafe { pg_sys::NewGUCNestLevel() };
    for (name, value) in PINNED.into_iter().chain([(c"search_path", search_path)]) {
        pin(name, value);
    }
    let result = work();
    // SAFETY: closes the level opened above, with everything that was set in it: a user's code, too, may
    // have set something.
    unsafe { pg_sys::AtEOXact_GUC(false, level) };
    result
}

/// Gives a setting a value until the nesting level ends that was opened last.
pub fn pin(name: &CStr, value: &CStr) {
    // Most sessions have most of them so already, and looking costs less than setting.
    if is_set_to(name, value) {
        return;
    }
    // SAFETY: both are C strings that outlive the call; the change ends with the level.
    unsafe {
        pg_sys::set_config_option(
            name.as_ptr(),
            value.as_ptr(),
            pg_sys::GucContext::PGC_USERSET,
            pg_sys::GucSource::PGC_S_SESSION,
            pg_sys::GucAction::GUC_ACTION_SAVE,
            true,
            0,
            false,
        );
    }
}

fn is_set_to(name: &CStr, value: &CStr) -> bool {
    // SAFETY: reads a setting by its name; what comes back lives until the next such call.
    let now = unsafe { pg_sys::GetConfigOption(name.as_ptr(), true, false) };
    // SAFETY: a C string unless null.
    !now.is_null() && unsafe { CStr::from_ptr(now) } == value
}

/// Reads a value as pgrx does, for the few catalog-like rows that are read directly.
pub fn read<T: FromDatum>(datum: Option<pg_sys::Datum>) -> Option<T> {
    let datum = datum?;
    // SAFETY: the caller names the type the column has in sql/tables.sql.
    unsafe { T::from_datum(datum, false) }
}

/// A value of one of the types whose order is that of a number, as that number: integers, dates, timestamps.
pub fn ordered(datum: pg_sys::Datum, type_name: &str) -> i64 {
    match type_name {
        "smallint" => i64::from(datum.value() as i16),
        "integer" | "date" | "pg_catalog.date" => i64::from(datum.value() as i32),
        _ => datum.value() as i64,
    }
}

/// A numeric's digits.
pub(super) fn numeric_text(datum: pg_sys::Datum) -> String {
    // SAFETY: numeric_out reads a numeric, makes a C string and reads no setting.
    let written = unsafe { call_output(pg_sys::numeric_out, datum) };
    let text = written.to_string_lossy().into_owned();
    // SAFETY: made above, and not looked at any more.
    unsafe { pg_sys::pfree(written.as_ptr().cast_mut().cast()) };
    text
}

/// A jsonb value as text, in the database's encoding.
pub fn jsonb_text(datum: pg_sys::Datum) -> Vec<u8> {
    // SAFETY: jsonb_out reads a jsonb, makes a C string and reads no setting.
    unsafe { call_output(pg_sys::jsonb_out, datum) }.to_bytes().to_vec()
}

/// A jsonb value as text in UTF-8.
pub fn jsonb_as_utf8(datum: pg_sys::Datum) -> String {
    super::encoding::to_utf8(&jsonb_text(datum))
}

/// A `name`, in UTF-8.
pub fn name(datum: pg_sys::Datum) -> String {
    // SAFETY: a name is a pointer to a zero-terminated array.
    super::encoding::to_utf8(unsafe { CStr::from_ptr(datum.cast_mut_ptr()) }.to_bytes())
}

/// An `interval` that is not below zero, a month being thirty days.
pub fn duration(datum: pg_sys::Datum) -> Option<std::time::Duration> {
    // SAFETY: an interval is a pointer to one.
    let interval = unsafe { &*datum.cast_mut_ptr::<pg_sys::Interval>() };
    let days = i64::from(interval.month) * 30 + i64::from(interval.day);
    let micros = days.checked_mul(DAY_MICROSECONDS)?.checked_add(interval.time)?;
    u64::try_from(micros).ok().map(std::time::Duration::from_micros)
}

/// The elements of a `name[]`, in UTF-8.
pub fn names(datum: pg_sys::Datum) -> Vec<String> {
    let (mut values, mut count) = (std::ptr::null_mut(), 0);
    // SAFETY: the caller's datum is an array of names, whose elements are 64 bytes, passed by
    // reference and aligned as characters; without nulls, as the definition was checked.
    unsafe {
        let array = pg_sys::pg_detoast_datum(datum.cast_mut_ptr()).cast();
        pg_sys::deconstruct_array(
            array,
            pg_sys::NAMEOID,
            pg_sys::NAMEDATALEN as i32,
            false,
            b'c' as core::ffi::c_char,
            &raw mut values,
            std::ptr::null_mut(),
            &raw mut count,
        );
    }
    (0..usize::try_from(count).unwrap_or(0))
        .map(|index| {
            // SAFETY: one of `count` names, each zero-terminated.
            let name = unsafe { CStr::from_ptr((*values.add(index)).cast_mut_ptr()) };
            super::encoding::to_utf8(name.to_bytes())
        })
        .collect()
}

/// A text value in UTF-8.
pub fn text_as_utf8(datum: pg_sys::Datum) -> String {
    with_varlena(datum, super::encoding::to_utf8)
}
