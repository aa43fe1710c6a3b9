//! A project that is made from a template.

use std::fs;
use std::path::Path;

/// What is begun.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    FilterRust,
    FilterC,
    Plugin,
}

/// A file of a template: its name, which may have words to be replaced in it, and its text.
type File = (&'static str, &'static str);

macro_rules! template {
    ($($name:literal = $file:literal),* $(,)?) => {
        &[$(($name, include_str!(concat!("../../../../../", $file)))),*]
    };
}

/// The toolchain of smpnet itself, so that a stranger's first build is the one that was tested.
const FILTER_RUST: &[File] = template![
    "Cargo.toml" = "sdk/templates/filter-rust/Cargo.toml.in",
    "src/lib.rs" = "sdk/templates/filter-rust/lib.rs.in",
    "README.md" = "sdk/templates/filter-rust/README.md.in",
    "rust-toolchain.toml" = "rust-toolchain.toml",
    "rustfmt.toml" = "rustfmt.toml",
    ".gitignore" = "sdk/templates/gitignore.in",
];

const FILTER_C: &[File] = template![
    "{{ident}}.c" = "sdk/templates/filter-c/filter.c.in",
    "test.c" = "sdk/templates/filter-c/test.c.in",
    "Makefile" = "sdk/templates/filter-c/Makefile.in",
    "README.md" = "sdk/templates/filter-c/README.md.in",
    "smpnet_filter.h" = "sdk/include/smpnet_filter.h",
];

const PLUGIN: &[File] = template![
    "Cargo.toml" = "sdk/templates/plugin/Cargo.toml.in",
    "src/lib.rs" = "sdk/templates/plugin/lib.rs.in",
    "README.md" = "sdk/templates/plugin/README.md.in",
    "rust-toolchain.toml" = "rust-toolchain.toml",
    "rustfmt.toml" = "rustfmt.toml",
    ".gitignore" = "sdk/templates/gitignore.in",
];

impl Kind {
    /// Whether the project depends on a crate of the SDK; one in C takes the header along.
    pub fn needs_sdk(self) -> bool {
        self != Kind::FilterC
    }

    /// The crate of the SDK that it depends on.
    pub fn sdk_crate(self) -> &'static str {
        if self == Kind::Plugin { "plugin" } else { "filter" }
    }

    /// In words.
    pub fn describe(self) -> &'static str {
        match self {
            Kind::FilterRust => "a filter in Rust",
            Kind::FilterC => "a filter in C",
            Kind::Plugin => "a plugin",
        }
    }

    fn template(self) -> &'static [File] {
        match self {
            Kind::FilterRust => FILTER_RUST,
            Kind::FilterC => FILTER_C,
            Kind::Plugin => PLUGIN,
        }
    }

    /// What to type now.
    pub fn next_steps(self, project: &Project) -> Vec<String> {
        let (name, ident) = (&project.name, &project.ident);
        match self {
            Kind::FilterRust => {
                let module = format!("target/wasm32-unknown-unknown/release/{ident}.wasm");
                vec![
                    "cargo test".into(),
                    "cargo build --release --target wasm32-unknown-unknown".into(),
                    format!("smpnet filter check {module}"),
                    format!("smpnet filter load {name} --module {module}"),
                ]
            }
            Kind::FilterC => vec![
                "make test".into(),
                "make".into(),
                format!("smpnet filter check {name}.wasm"),
                format!("smpnet filter load {name} --module {name}.wasm"),
            ],
            Kind::Plugin => vec![
                "cargo test".into(),
                "cargo build --release".into(),
                format!("smpnet plugin load target/release/libsmpnet_{ident}.so"),
            ],
        }
    }
}

/// A project with its names.
#[derive(Debug)]
pub struct Project {
    kind: Kind,
    name: String,
    ident: String,
    type_name: String,
    sdk: String,
}

/// Types that the templates use themselves.
const TAKEN: [&str; 23] = [
    "Burst",
    "Driver",
    "Error",
    "Fate",
    "Filter",
    "Frame",
    "Harness",
    "Host",
    "Opened",
    "Option",
    "Options",
    "Packet",
    "PortDetails",
    "PortRequest",
    "Receiver",
    "Result",
    "Rx",
    "RxQueue",
    "Self",
    "SyncSender",
    "Tx",
    "TxQueue",
    "Worker",
];

/// Names that cargo or Rust would not take for a crate.
const RESERVED: [&str; 61] = [
    "abstract",
    "alloc",
    "as",
    "async",
    "await",
    "become",
    "box",
    "break",
    "build",
    "const",
    "continue",
    "core",
    "crate",
    "deps",
    "do",
    "dyn",
    "else",
    "enum",
    "examples",
    "extern",
    "false",
    "final",
    "fn",
    "for",
    "gen",
    "if",
    "impl",
    "in",
    "incremental",
    "let",
    "loop",
    "macro",
    "main",
    "match",
    "mod",
    "move",
    "mut",
    "override",
    "priv",
    "proc-macro",
    "pub",
    "ref",
    "return",
    "self",
    "static",
    "std",
    "struct",
    "super",
    "test",
    "trait",
    "true",
    "try",
    "type",
    "typeof",
    "unsafe",
    "unsized",
    "use",
    "virtual",
    "where",
    "while",
    "yield",
];

impl Project {
    /// A project of this name. The error says what is wrong with the name.
    pub fn new(kind: Kind, name: &str, sdk: Option<&Path>) -> Result<Project, String> {
        let fits = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
        let words = name.split('-').all(|w| !w.is_empty());
        if !name.starts_with(|c: char| c.is_ascii_lowercase()) || !name.chars().all(fits) || !words || name.len() > 40 {
            return Err(format!(
                "\"{name}\" is no name for a project: lower-case letters and digits with single hyphens between them, \
                 beginning with a letter, at most 40"
            ));
        }
        if RESERVED.contains(&name) || name.starts_with("smpnet-") {
            return Err(format!("\"{name}\" is a word of Rust, of cargo or of smpnet: take another name"));
        }
        let mut type_name = String::new();
        for word in name.split('-') {
            let (first, rest) = word.split_at(1);
            type_name.push_str(&first.to_ascii_uppercase());
            type_name.push_str(rest);
        }
        if TAKEN.contains(&&*type_name) {
            type_name.push_str("Of");
            type_name.push_str(if kind == Kind::Plugin { "Ports" } else { "Packets" });
        }
        let sdk = sdk.map(|d| d.display().to_string()).unwrap_or_default();
        // It stands in a string of TOML.
        if sdk.contains(['"', '\\']) || sdk.contains(char::is_control) {
            return Err(format!("the path of the SDK, {sdk:?}, cannot be written into Cargo.toml"));
        }
        Ok(Project { kind, name: name.into(), ident: name.replace('-', "_"), type_name, sdk })
    }

    fn fill(&self, text: &str) -> String {
        text.replace("{{name}}", &self.name)
            .replace("{{ident}}", &self.ident)
            .replace("{{type}}", &self.type_name)
            .replace("{{sdk}}", &self.sdk)
    }

    /// Writes the files into a folder that must not exist, or be empty. Returns their names.
    pub fn write(&self, dir: &Path) -> Result<Vec<String>, String> {
        let named = |what: &Path, e: std::io::Error| format!("{}: {e}", what.display());
        if fs::read_dir(dir).is_ok_and(|mut d| d.next().is_some()) {
            return Err(format!("{} is there already and not empty: nothing was written", dir.display()));
        }
        let mut names = Vec::new();
        for (name, text) in self.kind.template() {
            let name = self.fill(name);
            let file = dir.join(&name);
            let folder = file.parent().unwrap_or(dir);
            fs::create_dir_all(folder).map_err(|e| named(folder, e))?;
            fs::write(&file, self.fill(text)).map_err(|e| named(&file, e))?;
            names.push(name);
        }
        Ok(names)
    }
}
