//! Calls of plugins that answer in a buffer: one line on a failure, or a JSON document.

use serde_json::Value;
use smpnet_abi::{ErrBuf, OK, UNSUPPORTED};
use std::ffi::c_void;

/// Bytes for the one line that a plugin says of a failure.
const ERROR_BYTES: usize = 1024;
/// Bytes for a status document.
const STATUS_BYTES: usize = 64 << 10;

/// Calls a function of the ABI that has an error buffer; `Err` is what the plugin says.
pub(crate) fn call(function: impl FnOnce(&mut ErrBuf) -> i32) -> Result<(), String> {
    let mut bytes = vec![0; ERROR_BYTES];
    let mut err = ErrBuf::new(&mut bytes);
    match function(&mut err) {
        OK => Ok(()),
        UNSUPPORTED => Err("the plugin does not support it".into()),
        code => {
            // SAFETY: the buffer is ours, and the plugin wrote what it says it wrote.
            let text = unsafe { err.get() };
            Err(if text.is_empty() { format!("failed with code {code} and no message") } else { text })
        }
    }
}

/// What `status` of the ABI says of an object, for people; text that is no JSON as a text.
///
/// # Safety
/// `handle` is an object that `status` takes and that was not closed.
pub(crate) unsafe fn document(
    status: unsafe extern "C" fn(*mut c_void, *mut ErrBuf) -> i32,
    handle: *mut c_void,
) -> Option<Value> {
    let mut bytes = vec![0; STATUS_BYTES];
    let mut out = ErrBuf::new(&mut bytes);
    // SAFETY: the caller's word, and the buffer lives through the call.
    if unsafe { status(handle, &mut out) } != OK {
        return None;
    }
    // SAFETY: the buffer is ours, and the plugin wrote what it says it wrote.
    let text = unsafe { out.get() };
    Some(serde_json::from_str(&text).unwrap_or(Value::String(text)))
}
