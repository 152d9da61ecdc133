//! A block of shared memory made of atomics.
//!
//! Atomics and nothing else: no pointers, no locks, nothing a dying process could leave half done.

use pgrx::{pg_guard, pg_sys};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicPtr, Ordering};

/// A type all of whose bit patterns are valid and whose fields are atomics.
///
/// # Safety
/// The implementer promises both; zeroed memory is how every value begins.
pub unsafe trait AllAtomics: Sync {}

/// Shared memory holding one `T`, zeroed at server start.
pub struct Block<T: AllAtomics> {
    at: AtomicPtr<T>,
}

impl<T: AllAtomics> Block<T> {
    pub const fn new() -> Self {
        Block { at: AtomicPtr::new(std::ptr::null_mut()) }
    }

    /// The block; none when the library was not loaded at server start.
    pub fn get(&'static self) -> Option<&'static T> {
        // SAFETY: set once, at server start, to memory that lives as long as the server; T is made
        // of atomics, so sharing it between processes is sound.
        unsafe { self.at.load(Ordering::Relaxed).as_ref() }
    }

    /// Finds or makes the block. To be called from the shared memory start-up hook.
    pub fn attach(&self, name: &'static std::ffi::CStr) {
        let mut found = false;
        // SAFETY: called under the start-up hook, where ShmemInitStruct is allowed; the size was requested.
        let at: *mut T =
            unsafe { pg_sys::ShmemInitStruct(name.as_ptr(), size_of::<T>(), &raw mut found) }.cast();
        if !found {
            // SAFETY: the memory is ours, of this size, and all-zero is a valid T.
            unsafe { at.write_bytes(0, 1) };
        }
        self.at.store(at, Ordering::Relaxed);
    }
}

static STARTUP: OnceLock<fn()> = OnceLock::new();
static PREVIOUS_STARTUP: OnceLock<pg_sys::shmem_startup_hook_type> = OnceLock::new();

/// Asks for `bytes` of shared memory and has `startup` called when it can be taken.
pub fn reserve(request: fn(), startup: fn()) {
    super::compat::request_shared_memory(request);
    STARTUP.get_or_init(|| startup);
    // SAFETY: _PG_init runs in the postmaster, before any other thread or process exists.
    PREVIOUS_STARTUP.get_or_init(|| unsafe { pg_sys::shmem_startup_hook });
    // SAFETY: as above.
    unsafe { pg_sys::shmem_startup_hook = Some(on_startup) };
}

/// Adds to what the server reserves. Only from the request hook.
pub fn request(bytes: usize) {
    // SAFETY: a plain addition in the server, which checks itself that the time is right.
    unsafe { pg_sys::RequestAddinShmemSpace(bytes) };
}

#[pg_guard]
unsafe extern "C-unwind" fn on_startup() {
    if let Some(Some(previous)) = PREVIOUS_STARTUP.get() {
        // SAFETY: a hook another library installed before us, called as the server would.
        unsafe { previous() };
    }
    if let Some(startup) = STARTUP.get() {
        startup();
    }
}
