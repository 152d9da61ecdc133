//! Who calls, and doing things with their rights and no others.

use pgrx::pg_sys;
use std::ffi::CString;

/// The role that called, seen from inside a function that runs with its owner's rights.
pub fn role() -> pg_sys::Oid {
    // SAFETY: reads a variable of the backend.
    unsafe { pg_sys::GetOuterUserId() }
}

/// Runs SQL, in the database's encoding, with the caller's rights.
pub fn execute(command: &[u8]) {
    let Ok(command) = CString::new(command) else { return };
    let (mut user, mut context) = (pg_sys::InvalidOid, 0);
    // SAFETY: reads two variables of the backend.
    unsafe { pg_sys::GetUserIdAndSecContext(&raw mut user, &raw mut context) };
    let flags = context | pg_sys::SECURITY_LOCAL_USERID_CHANGE as i32;
    // SAFETY: the role exists: it is the session's. An error restores both with the transaction.
    unsafe { pg_sys::SetUserIdAndSecContext(role(), flags) };
    // SAFETY: connects for the one command below.
    unsafe { pg_sys::SPI_connect() };
    // SAFETY: connected above; errors of the command leave by unwinding.
    unsafe { pg_sys::SPI_execute(command.as_ptr(), false, 0) };
    // SAFETY: connected above.
    unsafe { pg_sys::SPI_finish() };
    // SAFETY: puts back what was read above.
    unsafe { pg_sys::SetUserIdAndSecContext(user, context) };
}

/// Replaces the statement other sessions see in pg_stat_activity, because it carries a secret.
pub fn show_activity(instead: &str) {
    if let Ok(text) = CString::new(instead) {
        // SAFETY: the server copies the text.
        unsafe { pg_sys::pgstat_report_activity(pg_sys::BackendState::STATE_RUNNING, text.as_ptr()) };
    }
}
