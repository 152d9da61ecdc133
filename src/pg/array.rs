//! Arrays of texts in the database's encoding, as parameters of a statement.

use pgrx::datum::DatumWithOid;
use pgrx::pg_sys;

/// An array of text; null in the place of none.
pub fn of_texts<'a>(values: impl Iterator<Item = Option<&'a [u8]>>) -> DatumWithOid<'static> {
    of(values, pg_sys::TEXTOID, pg_sys::TEXTARRAYOID)
}

/// An array of json, which is text that is known to be JSON.
pub fn of_jsons<'a>(values: impl Iterator<Item = Option<&'a [u8]>>) -> DatumWithOid<'static> {
    of(values, pg_sys::JSONOID, pg_sys::JSONARRAYOID)
}

fn of<'a>(
    values: impl Iterator<Item = Option<&'a [u8]>>,
    element: pg_sys::Oid,
    array: pg_sys::Oid,
) -> DatumWithOid<'static> {
    // A bytea, a text and a json have the same form.
    let values: Vec<Option<pg_sys::Datum>> =
        values.map(|value| value.and_then(pgrx::IntoDatum::into_datum)).collect();
    let mut nulls: Vec<bool> = values.iter().map(Option::is_none).collect();
    let mut elements: Vec<pg_sys::Datum> =
        values.into_iter().map(|value| value.unwrap_or(pg_sys::Datum::from(0usize))).collect();
    let (mut length, mut lowest) = (i32::try_from(elements.len()).unwrap_or(i32::MAX), 1);
    // SAFETY: as many elements as nulls, all of a type of variable length aligned to integers; the server copies them
    // into the current memory context.
    let built = unsafe {
        pg_sys::construct_md_array(
            elements.as_mut_ptr(),
            nulls.as_mut_ptr(),
            1,
            &raw mut length,
            &raw mut lowest,
            element,
            -1,
            false,
            pg_sys::TYPALIGN_INT as core::ffi::c_char,
        )
    };
    // SAFETY: an array of that type.
    unsafe { DatumWithOid::new(pg_sys::Datum::from(built), array) }
}
