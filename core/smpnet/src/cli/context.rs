//! What every command gets, and what it gives back.

use crate::client::{Client, ClientError};
use serde_json::{Value, json};
use std::{io::Write, path::PathBuf, process::ExitCode};

/// What every command gets.
pub struct Context {
    /// The daemon.
    pub client: Client,
    /// The socket, when the user named one.
    pub socket: Option<PathBuf>,
    /// Whether the user wants JSON.
    pub json: bool,
}

impl Context {
    /// A context for the daemon at `socket`; `given` when the user named it.
    pub fn new(socket: PathBuf, given: Option<PathBuf>, json: bool) -> Context {
        Context { client: Client::new(socket), socket: given, json }
    }
}

/// What a command has to say: the same as text and as JSON.
pub struct Output {
    text: String,
    json: Value,
    code: u8,
}

impl Output {
    /// Text for people, `json` for programs.
    pub fn new(text: impl Into<String>, json: Value) -> Output {
        Output { text: text.into(), json, code: 0 }
    }

    /// Nothing to say to people.
    pub fn silent(json: Value) -> Output {
        Output::new("", json)
    }

    /// Everything was printed already.
    pub fn printed() -> Output {
        Output { text: String::new(), json: Value::Null, code: 0 }
    }

    /// The same with another exit code.
    pub fn code(mut self, code: u8) -> Output {
        self.code = code;
        self
    }

    /// Prints it to stdout.
    pub fn print(self, as_json: bool) -> ExitCode {
        if as_json && !self.json.is_null() {
            print(&format!("{:#}", self.json));
        } else {
            print(&self.text);
        }
        ExitCode::from(self.code)
    }
}

/// Prints a text with a newline at its end. A reader that went away (`| head`) is no error.
pub fn print(text: &str) {
    if text.is_empty() {
        return;
    }
    let mut out = std::io::stdout().lock();
    let _ = out.write_all(text.as_bytes());
    if !text.ends_with('\n') {
        let _ = out.write_all(b"\n");
    }
    let _ = out.flush();
}

/// Why a command failed.
#[derive(Debug)]
pub struct Failure {
    /// Exit code.
    pub code: u8,
    /// Why, in one line or, for a file with several mistakes, one line each.
    pub error: String,
    /// What to do about it.
    pub hint: Option<String>,
    /// More for programs.
    pub body: Value,
}

impl Failure {
    /// Exit code 1: refused or failed.
    pub fn new(error: impl Into<String>) -> Failure {
        Failure { code: 1, error: error.into(), hint: None, body: Value::Null }
    }

    /// Exit code 2: the command line is wrong.
    pub fn usage(error: impl Into<String>) -> Failure {
        Failure { code: 2, ..Failure::new(error) }
    }

    /// The same with advice.
    pub fn hint(mut self, hint: impl Into<Option<String>>) -> Failure {
        self.hint = hint.into();
        self
    }

    /// Prints it: to stderr, or as JSON to stdout.
    pub fn print(self, as_json: bool) -> ExitCode {
        if as_json {
            let mut body = if self.body.is_object() { self.body } else { json!({"error": self.error}) };
            if let Some(hint) = self.hint {
                body["hint"] = hint.into();
            }
            print(&format!("{body:#}"));
        } else {
            let hint = self.hint.map(|h| format!(" ({h})")).unwrap_or_default();
            eprintln!("smpnet: {}{hint}", self.error);
        }
        ExitCode::from(self.code)
    }
}

impl From<ClientError> for Failure {
    fn from(e: ClientError) -> Failure {
        let code = if matches!(e, ClientError::NoDaemon { .. }) { 3 } else { 1 };
        match e {
            ClientError::Refused { error, hint, body, .. } => Failure { code, error, hint, body },
            other => Failure { code, ..Failure::new(other.to_string()) },
        }
    }
}

/// Shorthands for reading answers. A field that is missing reads as empty, so that an older client shows what it can of
/// a newer daemon's answer.
pub trait Read {
    /// A text field.
    fn text(&self, key: &str) -> &str;
    /// A number field.
    fn number(&self, key: &str) -> u64;
    /// A field that is true.
    fn flag(&self, key: &str) -> bool;
    /// A list field.
    fn list(&self, key: &str) -> &[Value];
    /// The elements, for a list.
    fn items(&self) -> &[Value];
}

impl Read for Value {
    fn text(&self, key: &str) -> &str {
        self.get(key).and_then(Value::as_str).unwrap_or("")
    }

    fn number(&self, key: &str) -> u64 {
        self.get(key).and_then(Value::as_u64).unwrap_or(0)
    }

    fn flag(&self, key: &str) -> bool {
        self.get(key).and_then(Value::as_bool).unwrap_or(false)
    }

    fn list(&self, key: &str) -> &[Value] {
        self.get(key).map_or(&[], Value::items)
    }

    fn items(&self) -> &[Value] {
        self.as_array().map_or(&[], Vec::as_slice)
    }
}
