//! Warnings that spare the log: pgrx's go to the writer and to the log, always.

use super::encoding;
use pgrx::{PgLogLevel, PgSqlErrorCode, pg_sys};
use std::ffi::{CStr, CString, c_char, c_int};

/// Who is to read a words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Audience {
    Writer,
    WriterAndLog,
}

/// What a report says.
pub struct Words {
    pub message: String,
    pub detail: String,
    pub hint: String,
}

// pgrx keeps these to itself.
unsafe extern "C-unwind" {
    fn errstart(level: c_int, domain: *const c_char) -> bool;
    fn errcode(code: c_int) -> c_int;
    fn errmsg_internal(format: *const c_char, ...) -> c_int;
    fn errdetail_internal(format: *const c_char, ...) -> c_int;
    fn errhint(format: *const c_char, ...) -> c_int;
    fn errfinish(file: *const c_char, line: c_int, function: *const c_char);
}

const TEXT: &CStr = c"%s";

/// Warns, and goes on.
pub fn warn(words: &Words, audience: Audience) {
    let level = match audience {
        Audience::Writer => pg_sys::WARNING_CLIENT_ONLY as c_int,
        Audience::WriterAndLog => PgLogLevel::WARNING as c_int,
    };
    // SAFETY: below ERROR none of these leaves by a jump; says whether anybody will read it.
    if !unsafe { errstart(level, std::ptr::null()) } {
        return;
    }
    let text = |text: &str| CString::new(encoding::to_server(text)).unwrap_or_default();
    let (message, detail, hint) = (text(&words.message), text(&words.detail), text(&words.hint));
    // SAFETY: between errstart and errfinish; each text is copied, and stands for the one argument of its format.
    unsafe {
        errcode(PgSqlErrorCode::ERRCODE_CONFIGURATION_LIMIT_EXCEEDED as c_int);
        errmsg_internal(TEXT.as_ptr(), message.as_ptr());
        errdetail_internal(TEXT.as_ptr(), detail.as_ptr());
        errhint(TEXT.as_ptr(), hint.as_ptr());
        errfinish(std::ptr::null(), 0, std::ptr::null());
    }
}
