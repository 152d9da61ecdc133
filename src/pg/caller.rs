//! Who calls, doing things with the owner's rights, and doing things with the caller's and no others.
//!
//! Whoever's code runs in between can change settings of the session, `search_path` among them. So it
//! runs in a nesting level of settings that ends with it: what runs after it, with more rights, finds
//! every setting as it was.

use crate::buffer::Subtransaction;
use pgrx::{pg_guard, pg_sys};
use std::cell::RefCell;
use std::ffi::{CStr, CString};

thread_local! {
    /// Who called the entry points under way, innermost last.
    static CALLERS: RefCell<Vec<Caller>> = const { RefCell::new(Vec::new()) };
}

struct Caller {
    /// The subtransaction in which the entry point was entered.
    entered: Subtransaction,
    role: pg_sys::Oid,
    search_path: CString,
}

impl Caller {
    fn of(role: pg_sys::Oid) -> Caller {
        // SAFETY: a setting of the session; the server keeps a C string there.
        let path = unsafe { CStr::from_ptr(pg_sys::namespace_search_path) };
        Caller { entered: super::xact::current_subtransaction(), role, search_path: path.to_owned() }
    }
}

/// The role that called the entry point under way; outside of one, the current role.
pub fn role() -> pg_sys::Oid {
    let caller = CALLERS.with_borrow(|callers| callers.last().map(|caller| caller.role));
    // SAFETY: reads a variable of the backend.
    caller.unwrap_or_else(|| unsafe { pg_sys::GetUserId() })
}

/// An error ended the entry points entered in that subtransaction.
pub fn forget(aborted: Subtransaction) {
    CALLERS.with_borrow_mut(|callers| {
        while callers.last().is_some_and(|caller| caller.entered == aborted) {
            callers.pop();
        }
    });
}

/// The transaction is over: so are all entry points.
pub fn forget_all() {
    CALLERS.with_borrow_mut(Vec::clear);
}

/// What has to be put back after a call.
#[derive(Clone, Copy)]
struct Entered {
    own_function: *mut pg_sys::FmgrInfo,
    user: pg_sys::Oid,
    context: core::ffi::c_int,
    settings: core::ffi::c_int,
}

/// What the statements of the functions behind the entry points mean must not depend on the session.
const PINNED: [(&CStr, &CStr); 4] = [
    (c"search_path", c"pg_catalog, pg_temp"),
    (c"standard_conforming_strings", c"on"),
    (c"array_nulls", c"on"),
    (c"transform_null_equals", c"off"),
];

/// Entry point of every function people call; `sql/entry_points.sql` says which they are. Hands the call
/// over to the function of the same name with an underscore, which runs as the owner of both. The
/// caller is noted first: its rights are the ones that count, and they need not be those of the role
/// that logged in (a function of an index, a SECURITY DEFINER function).
///
/// No guard around this function, so that an error passes as if it were not there and keeps all it
/// says; its frame holds nothing that would have to be dropped. What an error leaves behind is put
/// right when its transaction or subtransaction is aborted: the user by the server, the caller by
/// [`forget`], and the call record is gone with the call.
#[unsafe(no_mangle)]
pub unsafe extern "C-unwind" fn lago_push_as_owner(call: pg_sys::FunctionCallInfo) -> pg_sys::Datum {
    let mut function = pg_sys::FmgrInfo::default();
    // SAFETY: the function manager passes a live call record.
    let entered = unsafe { enter(call, &raw mut function) };
    let result = match function.fn_addr {
        // SAFETY: looked up by the function manager; it has the same arguments, so the record fits.
        Some(run) => unsafe { run(call) },
        None => pg_sys::Datum::from(0usize),
    };
    // SAFETY: takes what `enter` gave.
    unsafe { leave(call, entered) };
    result
}

/// Tells the function manager how `lago_push_as_owner` wants to be called.
#[unsafe(no_mangle)]
pub extern "C" fn pg_finfo_lago_push_as_owner() -> &'static pg_sys::Pg_finfo_record {
    const V1: pg_sys::Pg_finfo_record = pg_sys::Pg_finfo_record { api_version: 1 };
    &V1
}

#[pg_guard]
#[allow(improper_ctypes_definitions, reason = "called from Rust only; the calling convention is the guard's")]
unsafe extern "C-unwind" fn enter(
    call: pg_sys::FunctionCallInfo,
    function: *mut pg_sys::FmgrInfo,
) -> Entered {
    // What this transaction has captured is part of what the function sees, as far as it can be.
    crate::capture::write_captured();
    // SAFETY: a live call record.
    let own_function = unsafe { (*call).flinfo };
    // SAFETY: as above.
    let (implementation, owner) = implementation_of(unsafe { (*own_function).fn_oid });
    // SAFETY: the record lives as long as the call.
    unsafe { pg_sys::fmgr_info(implementation, function) };
    let (mut user, mut context) = (pg_sys::InvalidOid, 0);
    // SAFETY: reads two variables of the backend.
    unsafe { pg_sys::GetUserIdAndSecContext(&raw mut user, &raw mut context) };
    CALLERS.with_borrow_mut(|callers| callers.push(Caller::of(user)));
    // SAFETY: opens a nesting level, closed in `leave`; an error closes it with its transaction.
    let settings = unsafe { pg_sys::NewGUCNestLevel() };
    pin_settings();
    // SAFETY: the owner exists. An error restores both with the transaction.
    unsafe { pg_sys::SetUserIdAndSecContext(owner, context | pg_sys::SECURITY_LOCAL_USERID_CHANGE as i32) };
    // SAFETY: as for `own_function`.
    unsafe { (*call).flinfo = function };
    Entered { own_function, user, context, settings }
}

#[pg_guard]
#[allow(improper_ctypes_definitions, reason = "called from Rust only; the calling convention is the guard's")]
unsafe extern "C-unwind" fn leave(call: pg_sys::FunctionCallInfo, entered: Entered) {
    // SAFETY: the call record is live until its function returns.
    unsafe { (*call).flinfo = entered.own_function };
    // SAFETY: puts back what was read in `enter`.
    unsafe { pg_sys::SetUserIdAndSecContext(entered.user, entered.context) };
    // SAFETY: closes the level opened in `enter`.
    unsafe { pg_sys::AtEOXact_GUC(false, entered.settings) };
    CALLERS.with_borrow_mut(Vec::pop);
}

fn pin_settings() {
    PINNED.iter().for_each(|(name, value)| super::cell::pin(name, value));
}

/// The function that does the work of an entry point, and the owner of the entry point.
fn implementation_of(entry_point: pg_sys::Oid) -> (pg_sys::Oid, pg_sys::Oid) {
    // SAFETY: a catalog lookup; the function is running, so it exists.
    let tuple = unsafe {
        pg_sys::SearchSysCache1(pg_sys::SysCacheIdentifier::PROCOID as i32, pg_sys::Datum::from(entry_point))
    };
    if tuple.is_null() {
        return (pg_sys::InvalidOid, pg_sys::InvalidOid);
    }
    // SAFETY: a tuple of pg_proc.
    let entry: &pg_sys::FormData_pg_proc = unsafe { &*pg_sys::GETSTRUCT(tuple).cast() };
    // SAFETY: names are zero-terminated.
    let name = unsafe { std::ffi::CStr::from_ptr(entry.proname.data.as_ptr()) };
    let name = CString::new([b"_", name.to_bytes()].concat()).unwrap_or_default();
    // SAFETY: a catalog lookup; the argument types lie in the tuple, which is released below.
    let implementation = unsafe {
        pg_sys::GetSysCacheOid(
            pg_sys::SysCacheIdentifier::PROCNAMEARGSNSP as i32,
            pg_sys::Anum_pg_proc_oid as i16,
            pg_sys::Datum::from(name.as_ptr()),
            pg_sys::Datum::from(&raw const entry.proargtypes),
            pg_sys::Datum::from(entry.pronamespace),
            pg_sys::Datum::from(0usize),
        )
    };
    let owner = entry.proowner;
    // SAFETY: looked up above; nothing of it is used after.
    unsafe { pg_sys::ReleaseSysCache(tuple) };
    (implementation, owner)
}

/// Raises a syntax error unless the text is one expression and nothing after it.
pub fn parse_expression(text: &[u8]) {
    let Ok(text) = CString::new(text) else { return };
    // SAFETY: parses only; the tree lives in the current memory context.
    unsafe { pg_sys::raw_parser(text.as_ptr(), pg_sys::RawParseMode::RAW_PARSE_PLPGSQL_EXPR) };
}

/// Whether the text is one SELECT (or VALUES, or TABLE) that makes no table, and nothing after it. Raises a syntax error
/// where it is no SQL.
pub fn is_one_select(text: &[u8]) -> bool {
    let Ok(text) = CString::new(text) else { return false };
    // SAFETY: parses only; the tree lives in the current memory context.
    let statements = unsafe { pg_sys::raw_parser(text.as_ptr(), pg_sys::RawParseMode::RAW_PARSE_DEFAULT) };
    // SAFETY: a list, or a null pointer for none.
    let Some(statements) = (unsafe { statements.as_ref() }) else { return false };
    // SAFETY: a list of pointers to RawStmt, as many as it is long.
    let first: *const pg_sys::RawStmt = unsafe { (*statements.elements).ptr_value.cast() };
    // SAFETY: a statement's node begins with its tag, which says what it is.
    let makes_no_table = unsafe {
        let node = (*first).stmt;
        (*node).type_ == pg_sys::NodeTag::T_SelectStmt
            && (*node.cast::<pg_sys::SelectStmt>()).intoClause.is_null()
    };
    statements.length == 1 && makes_no_table
}

/// Does `work` as an entry point would: the current role is noted as the caller, and the owner's rights
/// apply. For what cannot be handed over to a function, because it has to commit in between.
pub fn as_owner_of<R>(entry_point: pg_sys::Oid, work: impl FnOnce() -> R) -> R {
    crate::capture::write_captured();
    let (_, owner) = implementation_of(entry_point);
    // SAFETY: reads a variable of the backend.
    let caller = unsafe { pg_sys::GetUserId() };
    let caller = Caller::of(caller);
    with_rights_of(owner, || {
        pin_settings();
        CALLERS.with_borrow_mut(|callers| callers.push(caller));
        let result = work();
        CALLERS.with_borrow_mut(Vec::pop);
        result
    })
}

/// Does `work` with the rights of a role that exists. An error restores the former ones, and all
/// settings, with the transaction or subtransaction it ends.
///
/// Within an entry point, code of a role other than the caller may do nothing that would run later, with
/// the caller's rights: no deferred trigger, no temporary object. That is the server's own rule for what
/// it runs on behalf of a table's owner.
pub fn with_rights_of<R>(role: pg_sys::Oid, work: impl FnOnce() -> R) -> R {
    let is_foreign = CALLERS.with_borrow(|callers| callers.last().is_some_and(|caller| caller.role != role));
    let (mut user, mut context) = (pg_sys::InvalidOid, 0);
    // SAFETY: reads two variables of the backend.
    unsafe { pg_sys::GetUserIdAndSecContext(&raw mut user, &raw mut context) };
    let mut flags = context | pg_sys::SECURITY_LOCAL_USERID_CHANGE as i32;
    if is_foreign {
        flags |= pg_sys::SECURITY_RESTRICTED_OPERATION as i32;
    }
    // SAFETY: opens a nesting level of settings, closed below.
    let level = unsafe { pg_sys::NewGUCNestLevel() };
    // SAFETY: the role exists.
    unsafe { pg_sys::SetUserIdAndSecContext(role, flags) };
    let result = work();
    // SAFETY: closes the level opened above: whatever the role's code has set is as before.
    unsafe { pg_sys::AtEOXact_GUC(false, level) };
    // SAFETY: puts back what was read above.
    unsafe { pg_sys::SetUserIdAndSecContext(user, context) };
    result
}

/// Whether there is a role of that number.
pub fn is_role(role: pg_sys::Oid) -> bool {
    // SAFETY: a catalog lookup inside a transaction; gives a null pointer where there is none.
    let name = unsafe { pg_sys::GetUserNameFromId(role, true) };
    !name.is_null()
}

/// Does `work` with the rights of a role that exists, and less: it may read and not write, and leave nothing behind that
/// would run later. Names are looked up where `search_path` says, and what values may depend on is pinned.
pub fn reading_as<R>(role: pg_sys::Oid, search_path: &str, work: impl FnOnce() -> R) -> R {
    let path = CString::new(super::encoding::to_server(search_path)).unwrap_or_default();
    with_rights_of(role, || {
        let (mut user, mut context) = (pg_sys::InvalidOid, 0);
        // SAFETY: reads two variables of the backend.
        unsafe { pg_sys::GetUserIdAndSecContext(&raw mut user, &raw mut context) };
        // SAFETY: the role exists; what was is put back by `with_rights_of`.
        unsafe {
            pg_sys::SetUserIdAndSecContext(role, context | pg_sys::SECURITY_RESTRICTED_OPERATION as i32)
        };
        super::cell::pinned_with(&path, || super::xact::read_only(work))
    })
}

/// The path by which the caller of the entry point under way looks for names, as the schemas that are there, quoted
/// and in UTF-8.
pub fn search_path() -> String {
    let path = CALLERS.with_borrow(|callers| callers.last().map(|caller| caller.search_path.clone()));
    let query = b"select pg_catalog.string_agg(pg_catalog.quote_ident(s.name), ', ' order by s.place)
                    from pg_catalog.unnest(pg_catalog.current_schemas(false)) with ordinality s(name, place)";
    let named = super::cell::pinned_with(&path.unwrap_or_default(), || {
        query_as(role(), query, &[], |rows| rows.into_iter().flatten().next().map(super::cell::text_as_utf8))
    });
    let temporary_last = |schemas: Option<String>| match schemas {
        Some(schemas) => format!("{schemas}, pg_temp"),
        None => "pg_catalog, pg_temp".into(),
    };
    temporary_last(named.flatten())
}

/// Runs SQL, in the database's encoding, with the caller's rights.
pub fn execute(command: &[u8]) {
    query(command, &[], |_| ());
}

/// Runs a query, in the database's encoding, with the caller's rights, and hands `visit` the first
/// column of its rows, whose values live as long as the visit. `parameters` are JSON text; they stand
/// for `$1` and so on.
pub fn query<R>(
    command: &[u8],
    parameters: &[&[u8]],
    visit: impl FnOnce(Vec<Option<pg_sys::Datum>>) -> R,
) -> Option<R> {
    query_as(role(), command, parameters, visit)
}

/// The same with the rights of another role, which is to be the owner of whatever code may run.
pub fn query_as<R>(
    role: pg_sys::Oid,
    command: &[u8],
    parameters: &[&[u8]],
    visit: impl FnOnce(Vec<Option<pg_sys::Datum>>) -> R,
) -> Option<R> {
    let command = CString::new(command).ok()?;
    let mut types = vec![pg_sys::JSONOID; parameters.len()];
    // A bytea and a json have the same form.
    let mut values: Vec<_> =
        parameters.iter().filter_map(|json| pgrx::IntoDatum::into_datum(*json)).collect();
    Some(with_rights_of(role, || {
        // SAFETY: connects for the one command below.
        unsafe { pg_sys::SPI_connect() };
        // SAFETY: connected above; as many types as values, none null; errors leave by unwinding.
        unsafe {
            pg_sys::SPI_execute_with_args(
                command.as_ptr(),
                values.len() as i32,
                types.as_mut_ptr(),
                values.as_mut_ptr(),
                std::ptr::null(),
                false,
                0,
            )
        };
        // SAFETY: variables SPI has just set.
        let (table, count) = unsafe { (pg_sys::SPI_tuptable, pg_sys::SPI_processed as usize) };
        let count = if table.is_null() { 0 } else { count };
        let rows = (0..count).map(|index| {
            let mut null = false;
            // SAFETY: the table holds that many tuples, each with at least one column.
            let datum = unsafe {
                pg_sys::SPI_getbinval(*(*table).vals.add(index), (*table).tupdesc, 1, &raw mut null)
            };
            (!null).then_some(datum)
        });
        let result = visit(rows.collect());
        // SAFETY: connected above.
        unsafe { pg_sys::SPI_finish() };
        result
    }))
}

/// Runs a query with the rights of a role, and hands over its rows as [`super::rows::for_each`] does.
pub fn for_each_as(role: pg_sys::Oid, query: &[u8], visit: impl FnMut(pg_sys::Datum)) {
    with_rights_of(role, || super::rows::for_each(query, visit));
}

/// Replaces the statement other sessions see in pg_stat_activity, because it carries a secret.
pub fn show_activity(instead: &str) {
    if let Ok(text) = CString::new(instead) {
        // SAFETY: the server copies the text.
        unsafe { pg_sys::pgstat_report_activity(pg_sys::BackendState::STATE_RUNNING, text.as_ptr()) };
    }
}
