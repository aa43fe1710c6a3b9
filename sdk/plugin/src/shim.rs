//! What all `extern "C"` functions of the SDK share: panics stop here, errors become text.

use crate::{Error, Host, memory};
use smpnet_abi::{ErrBuf, FAILED, FAULT, HostServices, OK, Text, UNSUPPORTED};
use std::cell::RefCell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};

thread_local! {
    static LAST_PANIC: RefCell<String> = const { RefCell::new(String::new()) };
}

/// Keeps the text and place of a panic for the report, instead of writing them to standard error. The hook is that of
/// the plugin's own copy of the standard library.
pub(crate) fn install_panic_hook() {
    std::panic::set_hook(Box::new(|info| {
        let text = info.payload_as_str().unwrap_or("a panic without text");
        let place = info.location().map(|l| format!(" at {}:{}", l.file(), l.line())).unwrap_or_default();
        LAST_PANIC.with(|last| *last.borrow_mut() = format!("{text}{place}"));
    }));
}

/// Runs `f`; a panic becomes its text.
pub(crate) fn guarded<R>(f: impl FnOnce() -> R) -> Result<R, String> {
    catch_unwind(AssertUnwindSafe(f)).map_err(|payload| {
        // A payload is any value, whose own drop may panic once more.
        if let Err(again) = catch_unwind(AssertUnwindSafe(|| drop(payload))) {
            std::mem::forget(again);
        }
        LAST_PANIC.with(|last| std::mem::take(&mut *last.borrow_mut()))
    })
}

/// Whether an object of the plugin can still be trusted: no function of it has panicked.
#[derive(Default)]
pub(crate) struct Health(AtomicBool);

impl Health {
    /// Whether a function of the object panicked.
    #[inline]
    pub(crate) fn is_bad(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    /// Runs a function of the object unless one has panicked before. A panic is reported once, as a fault of `ifindex`.
    #[inline]
    pub(crate) fn run<R>(&self, ifindex: u32, what: &str, f: impl FnOnce() -> R) -> Option<R> {
        if self.is_bad() {
            return None;
        }
        match guarded(f) {
            Ok(r) => Some(r),
            Err(text) => {
                self.fault(ifindex, &format!("panic in {what}: {text}"));
                None
            }
        }
    }

    /// Marks the object as broken and tells the router.
    #[cold]
    pub(crate) fn fault(&self, ifindex: u32, text: &str) {
        self.0.store(true, Ordering::Relaxed);
        if let Some(host) = memory::host() {
            // SAFETY: the text lives through the call.
            unsafe { (host.fault)(ifindex, Text::new(text)) };
        }
    }

    /// [`Health::run`] for a control function with an error buffer.
    pub(crate) fn control(
        &self,
        ifindex: u32,
        what: &str,
        err: *mut ErrBuf,
        f: impl FnOnce() -> Result<(), Error>,
    ) -> i32 {
        match self.run(ifindex, what, f) {
            Some(Ok(())) => OK,
            Some(Err(e)) => {
                say(err, &e.to_string());
                if e.is_unsupported() { UNSUPPORTED } else { FAILED }
            }
            None => {
                say(err, &format!("a function of the plugin panicked ({what})"));
                FAULT
            }
        }
    }
}

/// Runs a function that makes an object, of which there is no handle yet: `what` in front of a panic's text.
pub(crate) fn making(what: &str, err: *mut ErrBuf, f: impl FnOnce() -> Result<(), Error>) -> i32 {
    match guarded(f) {
        Ok(Ok(())) => OK,
        Ok(Err(e)) => {
            say(err, &e.to_string());
            FAILED
        }
        Err(text) => {
            say(err, &format!("panic in {what}: {text}"));
            FAULT
        }
    }
}

/// Writes to the caller's buffer, if there is one.
pub(crate) fn say(err: *mut ErrBuf, text: &str) {
    // SAFETY: null, or a buffer of the caller's with `cap` writable bytes, for the duration of the call.
    if let Some(err) = unsafe { err.as_mut() } {
        // SAFETY: as above.
        unsafe { err.put(text) };
    }
}

/// The host, kept again in case this is the first the plugin sees of it.
///
/// # Safety
/// `host` is null or the host's table, which lives as long as the process.
pub(crate) unsafe fn host_of(host: *const HostServices) -> Result<Host, Error> {
    // SAFETY: the caller's word.
    match memory::host().or(unsafe { host.as_ref() }) {
        Some(h) => Ok(Host::new(h)),
        None => Err(Error::from("the host gave no services")),
    }
}

/// A borrowed text of the host's, which is UTF-8 by the ABI; anything else is refused.
///
/// # Safety
/// `text` is valid for `'a`.
pub(crate) unsafe fn text<'a>(text: Text) -> Result<&'a str, Error> {
    if text.ptr.is_null() {
        return Ok("");
    }
    // SAFETY: the caller's word.
    let bytes = unsafe { std::slice::from_raw_parts(text.ptr, text.len as usize) };
    std::str::from_utf8(bytes).map_err(|_| Error::from("the host passed a text that is not UTF-8"))
}

/// Options out of the configuration; empty text is an empty object.
///
/// # Safety
/// As [`text`].
pub(crate) unsafe fn options(t: Text) -> Result<serde_json::Value, Error> {
    // SAFETY: the caller's word.
    match unsafe { text(t) }? {
        "" => Ok(serde_json::Value::Object(serde_json::Map::new())),
        json => serde_json::from_str(json).map_err(|e| Error::from(e).context("options")),
    }
}
