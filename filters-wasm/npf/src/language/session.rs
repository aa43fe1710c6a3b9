//! What one reading of a configuration shares: the files, their texts, and what is wrong with them.

use super::{
    diagnostic::Report,
    source::{MAX_TEXT, Sources, Span, quote},
};
use std::{fmt::Write, io::Read, path::Path};

/// Deepest nesting of `include`.
const MAX_DEPTH: usize = 16;
/// Files that one configuration may consist of, so that files that include each other twice come to an end.
const MAX_FILES: usize = 1024;
/// Bytes of them all.
const MAX_BYTES: usize = 4 * MAX_TEXT;

/// Where files come from that a configuration names.
pub trait Files {
    /// The text of a file.
    ///
    /// # Errors
    /// Why it cannot be read, in words that follow the name of the file.
    fn read(&self, path: &str) -> Result<String, String>;
}

/// No files at all.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoFiles;

impl Files for NoFiles {
    fn read(&self, _: &str) -> Result<String, String> {
        Err("files cannot be read here".to_owned())
    }
}

/// The files of this machine, those up to 64 MiB.
#[derive(Clone, Copy, Debug, Default)]
pub struct Disk;

impl Files for Disk {
    fn read(&self, path: &str) -> Result<String, String> {
        // A device or a pipe could keep us forever.
        let meta = std::fs::metadata(path).map_err(|e| e.to_string())?;
        if !meta.is_file() {
            return Err("it is no regular file".to_owned());
        }
        let file = std::fs::File::open(path).map_err(|e| e.to_string())?;
        let mut bytes = Vec::with_capacity(meta.len().min(MAX_TEXT as u64) as usize);
        file.take(MAX_TEXT as u64 + 1).read_to_end(&mut bytes).map_err(|e| e.to_string())?;
        if bytes.len() > MAX_TEXT {
            return Err(format!("it is longer than {MAX_TEXT} bytes"));
        }
        String::from_utf8(bytes).map_err(|e| {
            let line = e.as_bytes()[..e.utf8_error().valid_up_to()].iter().filter(|&&b| b == b'\n').count() + 1;
            format!("line {line} is not UTF-8")
        })
    }
}

/// One reading.
pub(super) struct Session<'f> {
    pub files: &'f dyn Files,
    pub sources: Sources,
    pub report: Report,
    /// The files that are being parsed, each included by the one before.
    pub open: Vec<u32>,
    bytes: usize,
}

impl<'f> Session<'f> {
    /// A reading that has read nothing yet.
    pub fn new(files: &'f dyn Files) -> Session<'f> {
        Session { files, sources: Sources::default(), report: Report::default(), open: Vec::new(), bytes: 0 }
    }

    /// Reports an error.
    pub fn error(&mut self, span: Span, message: impl Into<String>) {
        self.report.error(span, message, None);
    }

    /// Reports an error and what could be done.
    pub fn error_hint(&mut self, span: Span, message: impl Into<String>, hint: impl Into<String>) {
        self.report.error(span, message, Some(hint.into()));
    }

    /// Reads a file that `at` asks for. None when that was refused, which is reported.
    fn load(&mut self, path: &str, at: Span) -> Option<u32> {
        if self.sources.len() >= MAX_FILES {
            self.error(at, format!("there are more than {MAX_FILES} files"));
            return None;
        }
        let text = match self.files.read(path) {
            Ok(text) => text,
            Err(e) => {
                self.error(at, format!("{} cannot be read: {e}", quote(path)));
                return None;
            }
        };
        self.bytes += text.len();
        if text.len() > MAX_TEXT || self.bytes > MAX_BYTES {
            self.error(
                at,
                format!("{} is too long: a file may have {MAX_TEXT} bytes, all together {MAX_BYTES}", quote(path)),
            );
            return None;
        }
        Some(self.sources.add(path, &text))
    }

    /// A path as it is meant in a file: relative to the folder of that file.
    fn beside(&self, path: &str, at: Span) -> String {
        let file = self.sources.get(at.file).map_or_else(|| "".into(), |s| s.name.clone());
        beside(&file, path)
    }

    /// Reads a file that `at` names, relative to its own.
    pub fn load_beside(&mut self, path: &str, at: Span) -> Option<u32> {
        let path = self.beside(path, at);
        self.load(&path, at)
    }

    /// Opens a file for `include`. Its name is relative to the file that includes it.
    pub fn include(&mut self, path: &str, at: Span) -> Option<u32> {
        let path = self.beside(path, at);
        let names: Vec<&str> = self.open.iter().filter_map(|&f| self.sources.get(f)).map(|s| &*s.name).collect();
        let refused = if names.contains(&path.as_str()) {
            Some("includes itself")
        } else if names.len() > MAX_DEPTH {
            Some("is included too deep")
        } else {
            None
        };
        if let Some(why) = refused {
            let mut chain = String::from("the chain of files: ");
            for name in names {
                let _ = write!(chain, "{name} -> ");
            }
            chain.push_str(&path);
            self.error_hint(at, format!("{} {why}", quote(&path)), chain);
            return None;
        }
        self.load(&path, at)
    }
}

/// A path as it is seen from a file's folder.
fn beside(file: &str, path: &str) -> String {
    let joined = Path::new(file).parent().unwrap_or(Path::new("")).join(path);
    // "./x" and "x" are the same file.
    let plain: std::path::PathBuf = joined.components().filter(|c| *c != std::path::Component::CurDir).collect();
    plain.to_string_lossy().into_owned()
}
