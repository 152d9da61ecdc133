//! Who calls, and doing things with their rights and no others.

use pgrx::{pg_sys, prelude::*};
use std::ffi::CString;

/// The role that called, seen from inside a function that runs with its owner's rights.
pub fn role() -> pg_sys::Oid {
    // SAFETY: reads a variable of the backend.
    unsafe { pg_sys::GetOuterUserId() }
}

/// Runs one SQL command with the caller's rights.
pub fn execute(command: &str) -> Result<(), spi::Error> {
    let (mut user, mut context) = (pg_sys::InvalidOid, 0);
    // SAFETY: reads two variables of the backend.
    unsafe { pg_sys::GetUserIdAndSecContext(&raw mut user, &raw mut context) };
    let flags = context | pg_sys::SECURITY_LOCAL_USERID_CHANGE as i32;
    // SAFETY: the role exists: it is the session's. An error restores both with the transaction.
    unsafe { pg_sys::SetUserIdAndSecContext(role(), flags) };
    let result = Spi::run(command);
    // SAFETY: puts back what was read above.
    unsafe { pg_sys::SetUserIdAndSecContext(user, context) };
    result
}

/// Replaces the statement other sessions see in pg_stat_activity, because it carries a secret.
pub fn show_activity(instead: &str) {
    if let Ok(text) = CString::new(instead) {
        // SAFETY: the server copies the text.
        unsafe { pg_sys::pgstat_report_activity(pg_sys::BackendState::STATE_RUNNING, text.as_ptr()) };
    }
}
