//! Text across the boundary: borrowed UTF-8 one way, a caller's buffer for errors the other way.

/// Borrowed UTF-8 text, not NUL-terminated. Valid for the duration of the call it is passed to, unless the function
/// says otherwise. `len` is in bytes; a null `ptr` with `len` 0 is the empty text.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Text {
    /// First byte.
    pub ptr: *const u8,
    /// Bytes.
    pub len: u32,
    /// Always 0.
    pub _pad: u32,
}

// SAFETY: a Text is a shared reference to bytes that nobody writes while it is valid.
unsafe impl Send for Text {}
// SAFETY: as above.
unsafe impl Sync for Text {}

impl Text {
    /// A text that lives as long as `s`. Texts longer than 4 GiB are cut.
    pub const fn new(s: &str) -> Self {
        Text { ptr: s.as_ptr(), len: s.len() as u32, _pad: 0 }
    }

    /// The text as Rust sees it; what is not UTF-8 is shown as replacement characters.
    ///
    /// # Safety
    /// `ptr` points to `len` readable bytes (or is null) for as long as the result is used.
    pub unsafe fn to_str_lossy<'a>(self) -> std::borrow::Cow<'a, str> {
        if self.ptr.is_null() {
            return "".into();
        }
        // SAFETY: the caller vouches for ptr and len.
        String::from_utf8_lossy(unsafe { std::slice::from_raw_parts(self.ptr, self.len as usize) })
    }
}

/// A buffer of the caller's for one line of text (an error, or a status document): the callee writes at most `cap`
/// bytes of UTF-8 and sets `len`. If the text did not fit, `len` is the length that was needed.
#[repr(C)]
#[derive(Debug)]
pub struct ErrBuf {
    /// First byte of the buffer.
    pub ptr: *mut u8,
    /// Bytes that may be written.
    pub cap: u32,
    /// Bytes of the text.
    pub len: u32,
}

impl ErrBuf {
    /// A buffer over `bytes`.
    pub fn new(bytes: &mut [u8]) -> Self {
        ErrBuf { ptr: bytes.as_mut_ptr(), cap: bytes.len() as u32, len: 0 }
    }

    /// Writes `text`, cut at the capacity.
    ///
    /// # Safety
    /// `ptr` points to `cap` writable bytes.
    pub unsafe fn put(&mut self, text: &str) {
        let n = text.len().min(self.cap as usize);
        // SAFETY: n is at most cap, and the caller vouches for ptr and cap; the two do not overlap.
        unsafe { std::ptr::copy_nonoverlapping(text.as_ptr(), self.ptr, n) };
        self.len = text.len() as u32;
    }

    /// What was written, cut at the capacity.
    ///
    /// # Safety
    /// `ptr` points to `cap` readable bytes of which the first `len` were written.
    pub unsafe fn get(&self) -> String {
        let n = self.len.min(self.cap) as usize;
        // SAFETY: n is at most cap, and the caller vouches for the rest.
        String::from_utf8_lossy(unsafe { std::slice::from_raw_parts(self.ptr, n) }).into_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_comes_back_as_it_was() {
        // SAFETY: string literals and null.
        unsafe {
            assert_eq!(Text::new("gif0 \u{e9}").to_str_lossy(), "gif0 \u{e9}");
            assert_eq!(Text { ptr: std::ptr::null(), len: 0, _pad: 0 }.to_str_lossy(), "");
            let bytes = [b'a', 0xff];
            assert_eq!(Text { ptr: bytes.as_ptr(), len: 2, _pad: 0 }.to_str_lossy(), "a\u{fffd}");
        }
    }

    #[test]
    fn a_buffer_is_never_overrun_and_tells_what_was_needed() {
        let mut bytes = [0; 8];
        let mut buf = ErrBuf { ptr: bytes.as_mut_ptr(), cap: 4, len: 0 };
        // SAFETY: eight bytes, of which four are offered.
        let text = unsafe {
            buf.put("no such device");
            buf.get()
        };
        assert_eq!((text.as_str(), buf.len, &bytes), ("no s", 14, b"no s\0\0\0\0"));
    }
}
