//! Texts of a fixed size, and the error that says why a filter refuses its configuration or state.

use core::fmt;

/// A text of at most `N` bytes; what does not fit is cut off at a character.
#[derive(Clone)]
pub struct Text<const N: usize> {
    bytes: [u8; N],
    len: u16,
}

impl<const N: usize> Text<N> {
    /// No text.
    pub const fn new() -> Text<N> {
        const { assert!(N <= u16::MAX as usize, "a text has at most 65535 bytes") };
        Text { bytes: [0; N], len: 0 }
    }

    /// What `format!` would make, without memory of its own.
    pub fn format(arguments: fmt::Arguments<'_>) -> Text<N> {
        let mut text = Text::new();
        // Writing to it cannot fail, and what a `Display` of somebody's refuses is left out.
        let _ = fmt::write(&mut text, arguments);
        text
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        core::str::from_utf8(&self.bytes[..usize::from(self.len)]).unwrap_or("")
    }
}

impl<const N: usize> Default for Text<N> {
    fn default() -> Text<N> {
        Text::new()
    }
}

impl<const N: usize> fmt::Write for Text<N> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let at = usize::from(self.len);
        let mut end = text.len().min(N - at);
        while !text.is_char_boundary(end) {
            end -= 1;
        }
        self.bytes[at..at + end].copy_from_slice(&text.as_bytes()[..end]);
        self.len += end as u16; // at most N
        Ok(())
    }
}

/// Why a filter refuses: one line, of at most 124 bytes, that says what is wrong, where, and what to do. The operator reads
/// it.
#[derive(Clone)]
pub struct Error(Text<124>);

impl Error {
    /// An error with this text; [`fail!`](crate::fail) makes one as `format!` does.
    pub fn new(arguments: fmt::Arguments<'_>) -> Error {
        Error(Text::format(arguments))
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        self.0.as_str()
    }
}

impl From<&str> for Error {
    fn from(text: &str) -> Error {
        Error::new(format_args!("{text}"))
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Error({:?})", self.as_str())
    }
}

impl core::error::Error for Error {}

/// Returns an [`Error`] from the function: `fail!("rate {rate} is too high: at most 1000000")`.
#[macro_export]
macro_rules! fail {
    ($($text:tt)*) => {
        return ::core::result::Result::Err($crate::Error::new(::core::format_args!($($text)*)))
    };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_text_is_cut_at_a_character() {
        let text = Text::<7>::format(format_args!("{}{}", "abc", "äöü"));
        assert_eq!(text.as_str(), "abcäö");
        assert_eq!(Text::<6>::format(format_args!("abcäö")).as_str(), "abcä");
        assert_eq!(Error::from("no rate").as_str(), "no rate");
    }
}
