//! Hooks into the server: one on utility commands, one on the log.

use pgrx::{PgSqlErrorCode, pg_guard, pg_sys};
use std::ffi::CStr;
use std::sync::OnceLock;

/// A utility command lago_push has to know of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Command {
    /// Needs every other connection to that database gone.
    WantsDatabaseAlone(pg_sys::Oid),
    /// Takes our tables away from under the worker, or changes them; the two would deadlock over them.
    ChangesExtension,
    /// Makes the messages of a prepared transaction visible; no callback of the transaction says so.
    CommitPrepared,
    /// Takes them back; no callback of the transaction says so either.
    RollbackPrepared,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Time {
    Before,
    After,
}

static ON_COMMAND: OnceLock<fn(Command, Time)> = OnceLock::new();
static PREVIOUS_UTILITY: OnceLock<pg_sys::ProcessUtility_hook_type> = OnceLock::new();
static PREVIOUS_LOG: OnceLock<pg_sys::emit_log_hook_type> = OnceLock::new();

/// Installs both hooks. Only from _PG_init.
pub fn install(on_command: fn(Command, Time)) {
    ON_COMMAND.get_or_init(|| on_command);
    // SAFETY: _PG_init runs in the postmaster, before any other thread or process exists.
    PREVIOUS_UTILITY.get_or_init(|| unsafe { pg_sys::ProcessUtility_hook });
    // SAFETY: as above.
    PREVIOUS_LOG.get_or_init(|| unsafe { pg_sys::emit_log_hook });
    // SAFETY: as above.
    unsafe { pg_sys::ProcessUtility_hook = Some(on_utility) };
    // SAFETY: as above.
    unsafe { pg_sys::emit_log_hook = Some(on_log) };
}

unsafe extern "C-unwind" {
    /// Declared here and not taken from pgrx, whose version catches errors: see on_utility.
    #[allow(clippy::too_many_arguments, reason = "the server defines the signature")]
    fn standard_ProcessUtility(
        statement: *mut pg_sys::PlannedStmt,
        query: *const core::ffi::c_char,
        read_only_tree: bool,
        context: pg_sys::ProcessUtilityContext::Type,
        params: pg_sys::ParamListInfo,
        environment: *mut pg_sys::QueryEnvironment,
        destination: *mut pg_sys::DestReceiver,
        completion: *mut pg_sys::QueryCompletion,
    );
}

/// Every utility command of the server passes through here, ours or not. So an error raised in it must
/// pass as if this function were not there: were it caught and raised again, it would lose its cursor
/// position. Hence no guard around this function, and nothing in its frame that would have to be
/// dropped when the server jumps over it; what Rust has to do is done in [`note_command`] and [`tell_command`], which have one.
#[allow(clippy::too_many_arguments, reason = "the server defines the signature")]
unsafe extern "C-unwind" fn on_utility(
    statement: *mut pg_sys::PlannedStmt,
    query: *const core::ffi::c_char,
    read_only_tree: bool,
    context: pg_sys::ProcessUtilityContext::Type,
    params: pg_sys::ParamListInfo,
    environment: *mut pg_sys::QueryEnvironment,
    destination: *mut pg_sys::DestReceiver,
    completion: *mut pg_sys::QueryCompletion,
) {
    // SAFETY: the server passes a planned utility statement, whose tree lives as long as the command.
    let command = unsafe { note_command((*statement).utilityStmt) };
    // SAFETY: takes what note_command gave.
    unsafe { tell_command(command, Time::Before) };
    if let Some(Some(previous)) = PREVIOUS_UTILITY.get() {
        // SAFETY: a hook another library installed before us, called as the server would.
        unsafe {
            previous(statement, query, read_only_tree, context, params, environment, destination, completion)
        };
    } else {
        // SAFETY: what the server would have called without hooks.
        unsafe {
            standard_ProcessUtility(
                statement,
                query,
                read_only_tree,
                context,
                params,
                environment,
                destination,
                completion,
            )
        };
    }
    // SAFETY: takes what note_command gave.
    unsafe { tell_command(command, Time::After) };
}

/// [`recognize`], with the guard that [`on_utility`] must not have.
#[pg_guard]
#[allow(improper_ctypes_definitions, reason = "called from Rust only; the calling convention is the guard's")]
unsafe extern "C-unwind" fn note_command(node: *mut pg_sys::Node) -> Option<Command> {
    // SAFETY: promised by on_utility.
    unsafe { recognize(node) }
}

/// Tells the listener, with the guard that [`on_utility`] must not have.
#[pg_guard]
#[allow(improper_ctypes_definitions, reason = "called from Rust only; the calling convention is the guard's")]
unsafe extern "C-unwind" fn tell_command(command: Option<Command>, time: Time) {
    if let (Some(command), Some(on_command)) = (command, ON_COMMAND.get()) {
        on_command(command, time);
    }
}

/// # Safety
/// `node` is a utility statement's parse tree.
unsafe fn recognize(node: *mut pg_sys::Node) -> Option<Command> {
    // SAFETY: a node begins with its tag, which says what it is.
    let tag = unsafe { (*node).type_ };
    let database = match tag {
        pg_sys::NodeTag::T_TransactionStmt => {
            // SAFETY: the tag says so.
            let kind = unsafe { (*node.cast::<pg_sys::TransactionStmt>()).kind };
            return match kind {
                pg_sys::TransactionStmtKind::TRANS_STMT_COMMIT_PREPARED => Some(Command::CommitPrepared),
                pg_sys::TransactionStmtKind::TRANS_STMT_ROLLBACK_PREPARED => Some(Command::RollbackPrepared),
                _ => None,
            };
        }
        // SAFETY: the tag says so.
        pg_sys::NodeTag::T_DropdbStmt => unsafe { (*node.cast::<pg_sys::DropdbStmt>()).dbname },
        pg_sys::NodeTag::T_DropStmt => {
            // SAFETY: the tag says so.
            let drop = unsafe { &*node.cast::<pg_sys::DropStmt>() };
            let ours = [pg_sys::ObjectType::OBJECT_EXTENSION, pg_sys::ObjectType::OBJECT_SCHEMA];
            // The objects of these two kinds are named by plain strings.
            let names_us = || {
                // SAFETY: the list is part of the command's tree.
                let names = unsafe { elements(drop.objects) };
                names.iter().any(|name| {
                    // SAFETY: a string node, which holds a C string.
                    let name = unsafe { CStr::from_ptr(super::compat::string_value(name.ptr_value.cast())) };
                    name == c"lago_push"
                })
            };
            return (ours.contains(&drop.removeType) && names_us()).then_some(Command::ChangesExtension);
        }
        pg_sys::NodeTag::T_AlterExtensionStmt => {
            // SAFETY: the tag says so.
            let name = unsafe { (*node.cast::<pg_sys::AlterExtensionStmt>()).extname };
            // SAFETY: a C string of the command's tree.
            let ours = unsafe { CStr::from_ptr(name) } == c"lago_push";
            return ours.then_some(Command::ChangesExtension);
        }
        pg_sys::NodeTag::T_CreatedbStmt => {
            // SAFETY: the tag says so.
            return unsafe { template_of((*node.cast::<pg_sys::CreatedbStmt>()).options) };
        }
        pg_sys::NodeTag::T_AlterDatabaseStmt => {
            // Only a change of tablespace needs the database alone; the others come and go quickly.
            // SAFETY: the tag says so.
            unsafe { (*node.cast::<pg_sys::AlterDatabaseStmt>()).dbname }
        }
        pg_sys::NodeTag::T_RenameStmt => {
            // SAFETY: the tag says so.
            let rename = unsafe { &*node.cast::<pg_sys::RenameStmt>() };
            if rename.renameType != pg_sys::ObjectType::OBJECT_DATABASE {
                return None;
            }
            rename.subname
        }
        _ => return None,
    };
    // SAFETY: a database name from the parse tree; a catalog lookup inside the command's transaction.
    let database = unsafe { pg_sys::get_database_oid(database, true) };
    (database != pg_sys::InvalidOid).then_some(Command::WantsDatabaseAlone(database))
}

/// # Safety
/// `list` is null or a list of pointers that outlives the result.
unsafe fn elements<'a>(list: *mut pg_sys::List) -> &'a [pg_sys::ListCell] {
    if list.is_null() {
        return &[];
    }
    // SAFETY: a list has as many elements as it says.
    unsafe { std::slice::from_raw_parts((*list).elements, (*list).length as usize) }
}

/// # Safety
/// `options` is the option list of a CREATE DATABASE.
unsafe fn template_of(options: *mut pg_sys::List) -> Option<Command> {
    // SAFETY: promised by the caller.
    let elements = unsafe { elements(options) };
    let template = elements.iter().find_map(|element| {
        // SAFETY: an option list holds DefElem nodes.
        let option: *mut pg_sys::DefElem = unsafe { element.ptr_value }.cast();
        // SAFETY: names are C strings.
        let name = unsafe { CStr::from_ptr((*option).defname) };
        // SAFETY: defGetString gives text in the current memory context.
        (name == c"template").then(|| unsafe { pg_sys::defGetString(option) })
    })?;
    // SAFETY: a catalog lookup inside the command's transaction.
    let database = unsafe { pg_sys::get_database_oid(template, true) };
    (database != pg_sys::InvalidOid).then_some(Command::WantsDatabaseAlone(database))
}

/// The calls whose text may carry an API key.
const SECRET_CALLS: [&str; 3] = ["create_destination", "alter_destination", "set_api_key"];
const HIDDEN: &CStr = c"(hidden: it may carry a Lago API key)";

fn may_hold_a_key(text: *const core::ffi::c_char) -> bool {
    if text.is_null() {
        return false;
    }
    // SAFETY: a C string the server keeps for the length of the statement.
    let text = unsafe { CStr::from_ptr(text) }.to_string_lossy();
    SECRET_CALLS.iter().any(|call| text.contains(call))
}

/// Keeps API keys out of the log: the statement of a failing call, the statement itself where
/// log_statement or log_min_duration_statement asks for it, its parameters and its trees, and the lines
/// that tell what led to an entry, which quote the statements of functions.
#[pg_guard]
unsafe extern "C-unwind" fn on_log(report: *mut pg_sys::ErrorData) {
    // SAFETY: the server passes the report it is about to write.
    let entry = unsafe { &mut *report };
    // SAFETY: a variable of the backend: the statement under way, or null.
    let in_secret_call =
        may_hold_a_key(unsafe { pg_sys::debug_query_string }) || may_hold_a_key(entry.context);
    if in_secret_call {
        entry.hide_stmt = true;
    }
    let is_log = entry.elevel <= pgrx::PgLogLevel::LOG as i32;
    for text in [&mut entry.message, &mut entry.detail, &mut entry.detail_log, &mut entry.context] {
        // Parameters logged beside a secret call hold the key without its name.
        let parameters = in_secret_call && !text.is_null() && {
            // SAFETY: a C string of the report.
            unsafe { CStr::from_ptr(*text) }.to_string_lossy().to_ascii_lowercase().contains("parameters:")
        };
        if is_log && may_hold_a_key(*text) && statement_text(*text) || parameters {
            hide(text, entry.assoc_context);
        }
    }
    // The trees of debug_print_parse and its like hold it byte by byte.
    if is_log && in_secret_call && !entry.detail.is_null() {
        hide(&mut entry.detail, entry.assoc_context);
    }
    if entry.sqlerrcode != PgSqlErrorCode::ERRCODE_INTERNAL_ERROR as i32 && is_backtrace(entry.detail) {
        entry.detail = std::ptr::null_mut();
    }
    if entry.elevel >= pgrx::PgLogLevel::ERROR as i32 && !entry.context.is_null() {
        // SAFETY: a C string of the report.
        let context = unsafe { CStr::from_ptr(entry.context) };
        entry.context = match beyond_ours(context) {
            None => entry.context,
            Some([]) => std::ptr::null_mut(),
            // SAFETY: the end of the same string.
            Some(rest) => unsafe { entry.context.add(context.count_bytes() - rest.len()) },
        };
    }
    if may_hold_a_key(entry.context) && quotes_a_statement(entry.context) {
        hide(&mut entry.context, entry.assoc_context);
    }
    if let Some(Some(previous)) = PREVIOUS_LOG.get() {
        // SAFETY: a hook another library installed before us, called as the server would.
        unsafe { previous(report) };
    }
}

fn hide(text: &mut *mut core::ffi::c_char, context: pg_sys::MemoryContext) {
    // SAFETY: the copy lives in the report's own memory context, as the text it replaces did.
    *text = unsafe { pg_sys::MemoryContextStrdup(context, HIDDEN.as_ptr()) };
}

/// Whether a context holds the text of what a function was doing, not only its place in it.
fn quotes_a_statement(context: *const core::ffi::c_char) -> bool {
    // SAFETY: checked by the caller not to be null; a C string.
    let context = unsafe { CStr::from_ptr(context) }.to_bytes();
    context.windows(4).any(|word| word == b"SQL ")
}

/// Whether a detail is the list of Rust's calls that pgrx adds to every error that passes through it
/// where the server's environment has RUST_BACKTRACE. It is of use where Rust itself has failed.
fn is_backtrace(detail: *const core::ffi::c_char) -> bool {
    // SAFETY: a C string of the report unless null.
    !detail.is_null() && unsafe { CStr::from_ptr(detail) }.to_bytes().starts_with(b"\n   0: ")
}

/// What is left of an error's context once the lines about our own functions are taken away, which tell
/// whoever called one of them nothing; none if there are no such lines. Innermost lines come first.
fn beyond_ours(context: &CStr) -> Option<&[u8]> {
    const OURS: &[u8] = b"PL/pgSQL function lago_push._";
    let bytes = context.to_bytes();
    let last = bytes.windows(OURS.len()).rposition(|window| window == OURS)?;
    let end = bytes[last..].iter().position(|byte| *byte == b'\n');
    Some(end.map_or(&[], |end| &bytes[last + end + 1..]))
}

/// Whether a log line is the server quoting a statement (and not lago_push speaking of a function).
fn statement_text(text: *const core::ffi::c_char) -> bool {
    // SAFETY: checked by the caller not to be null; a C string.
    let text = unsafe { CStr::from_ptr(text) }.to_string_lossy();
    ["statement:", "execute ", "parse ", "bind ", "duration:"].iter().any(|mark| text.contains(mark))
}

#[cfg(test)]
mod tests {
    use super::beyond_ours;

    #[test]
    fn a_context_keeps_what_is_not_ours() {
        let beyond = |context| beyond_ours(context).map(|rest| String::from_utf8_lossy(rest).into_owned());
        let ours = c"SQL statement \"select 1\"\nPL/pgSQL function lago_push._check(text) line 2 at PERFORM\nPL/pgSQL function lago_push._create_sync(text) line 7 at PERFORM";
        assert_eq!(beyond(ours).as_deref(), Some(""));
        let called = c"PL/pgSQL function lago_push._pause(text) line 7 at RAISE\nSQL statement \"select lago_push.pause('x')\"\nPL/pgSQL function own() line 3 at PERFORM";
        assert_eq!(
            beyond(called).as_deref(),
            Some("SQL statement \"select lago_push.pause('x')\"\nPL/pgSQL function own() line 3 at PERFORM")
        );
        assert_eq!(beyond(c"PL/pgSQL function own() line 3 at PERFORM"), None);
    }
}
