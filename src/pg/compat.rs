//! What differs between PostgreSQL 14, 15, 16, 17 and 18, under one name each.

use pgrx::pg_sys;

/// Asks for shared memory at server start, by `request`. Since 15 this has to happen in a hook of
/// its own; before, in `_PG_init` itself.
pub fn request_shared_memory(request: fn()) {
    #[cfg(feature = "pg14")]
    request();

    #[cfg(not(feature = "pg14"))]
    {
        use std::sync::OnceLock;
        static REQUEST: OnceLock<fn()> = OnceLock::new();
        static PREVIOUS: OnceLock<pg_sys::shmem_request_hook_type> = OnceLock::new();

        #[pgrx::pg_guard]
        unsafe extern "C-unwind" fn on_request() {
            if let Some(Some(previous)) = PREVIOUS.get() {
                // SAFETY: a hook another library installed before us, called as the server would.
                unsafe { previous() };
            }
            if let Some(request) = REQUEST.get() {
                request();
            }
        }

        REQUEST.get_or_init(|| request);
        // SAFETY: _PG_init runs in the postmaster, before any other thread or process exists.
        PREVIOUS.get_or_init(|| unsafe { pg_sys::shmem_request_hook });
        // SAFETY: as above.
        unsafe { pg_sys::shmem_request_hook = Some(on_request) };
    }
}

/// The text of a string node, whose type got a name of its own in 15.
///
/// # Safety
/// `node` is a string node.
pub unsafe fn string_value(node: *mut pg_sys::Node) -> *const core::ffi::c_char {
    #[cfg(feature = "pg14")]
    // SAFETY: promised by the caller.
    unsafe {
        (*node.cast::<pg_sys::Value>()).val.str_
    }
    #[cfg(not(feature = "pg14"))]
    // SAFETY: promised by the caller.
    unsafe {
        (*node.cast::<pg_sys::String>()).sval
    }
}

/// A handler for a signal.
pub type SignalHandler = unsafe extern "C-unwind" fn(core::ffi::c_int);

/// Installs a signal handler the way the server does.
pub fn on_signal(signal: core::ffi::c_int, handler: SignalHandler) {
    #[cfg(not(feature = "pg18"))]
    // SAFETY: the handler does only what a handler may.
    unsafe {
        pg_sys::pqsignal(signal, Some(handler));
    }
    #[cfg(feature = "pg18")]
    // SAFETY: the handler does only what a handler may.
    unsafe {
        pg_sys::pqsignal_be(signal, Some(handler));
    }
}

/// The timeline on which this server writes its log. Outside recovery.
pub fn own_timeline() -> u32 {
    #[cfg(feature = "pg14")]
    {
        // SAFETY: sets the variable below, where no recovery is under way.
        unsafe { pg_sys::RecoveryInProgress() };
        // SAFETY: a variable of this process.
        unsafe { pg_sys::ThisTimeLineID }
    }
    #[cfg(not(feature = "pg14"))]
    // SAFETY: reads shared memory, where recovery has left it.
    unsafe {
        pg_sys::GetWALInsertionTimeLine()
    }
}

/// Settings a worker must not inherit from a database or role, beyond those all versions have.
pub const EXTRA_WORKER_SETTINGS: &[(&str, &str)] = &[
    #[cfg(any(feature = "pg17", feature = "pg18"))]
    ("transaction_timeout", "0"),
];

/// The number by which the server shows a wait of an extension. Since 17 each may have a name of its own.
pub fn wait_event(name: &'static core::ffi::CStr) -> u32 {
    #[cfg(not(any(feature = "pg17", feature = "pg18")))]
    {
        let _ = name;
        pg_sys::PG_WAIT_EXTENSION
    }
    #[cfg(any(feature = "pg17", feature = "pg18"))]
    // SAFETY: looks the name up in a table all processes share, and adds it if it is new.
    unsafe {
        pg_sys::WaitEventExtensionNew(name.as_ptr())
    }
}

/// Begins a walk along an index, in the active snapshot. Since 18 the server counts what it does.
pub fn begin_index_scan(
    relation: pg_sys::Relation,
    index: pg_sys::Relation,
    keys: core::ffi::c_int,
) -> pg_sys::IndexScanDesc {
    // SAFETY: inside a query.
    let snapshot = unsafe { pg_sys::GetActiveSnapshot() };
    #[cfg(not(feature = "pg18"))]
    // SAFETY: both relations are open, the index is one of the table's.
    unsafe {
        pg_sys::index_beginscan(relation, index, snapshot, keys, 0)
    }
    #[cfg(feature = "pg18")]
    // SAFETY: both relations are open, the index is one of the table's.
    unsafe {
        pg_sys::index_beginscan(relation, index, snapshot, std::ptr::null_mut(), keys, 0)
    }
}
