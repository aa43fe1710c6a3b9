//! What the language means, and what it says when something is wrong.

mod errors;
mod meaning;
mod random;

use super::*;
use std::collections::HashMap;

/// Files by their names.
#[derive(Clone, Debug, Default)]
struct Held(HashMap<String, String>);

impl Held {
    fn new(files: &[(&str, &str)]) -> Held {
        Held(files.iter().map(|(name, text)| (name.to_string(), text.to_string())).collect())
    }
}

impl Files for Held {
    fn read(&self, path: &str) -> Result<String, String> {
        self.0.get(path).cloned().ok_or_else(|| "no such file".to_owned())
    }
}

/// A configuration that must be right, and what it warns of.
fn right_with(text: &str, files: &dyn Files) -> Parsed {
    match parse("npf.conf", text, files) {
        Ok(parsed) => {
            let printed = print(&parsed.config);
            let again = parse("npf.conf", &printed, files).unwrap_or_else(|e| panic!("{e}\nprinted from:\n{text}"));
            let (before, after) = (parsed.config.without_places(), again.config.without_places());
            assert_eq!(before, after, "printed:\n{printed}");
            parsed
        }
        Err(e) => panic!("{e}\nof:\n{text}"),
    }
}

fn right(text: &str) -> Config {
    let parsed = right_with(text, &NoFiles);
    assert!(parsed.warnings.is_empty(), "{}", parsed.warnings);
    parsed.config
}

/// The errors of a configuration that must be wrong.
fn wrong_with(text: &str, files: &dyn Files) -> Diagnostics {
    match parse("npf.conf", text, files) {
        Ok(parsed) => panic!("this is right:\n{}", print(&parsed.config)),
        Err(e) => e,
    }
}

/// A rule of the default group, as it is printed.
fn rule(text: &str) -> Result<String, String> {
    let whole =
        format!("table <t> type ipset\ntable <p> type ipport\nprocedure \"x\" {{\n}}\ngroup default {{\n{text}\n}}\n");
    match parse("npf.conf", &whole, &NoFiles) {
        Ok(parsed) => {
            let printed = print(&parsed.config);
            let again = parse("npf.conf", &printed, &NoFiles).unwrap_or_else(|e| panic!("{e}\nprinted from: {text}"));
            assert!(parsed.config.same(&again.config), "{text} and\n{printed}");
            match &parsed.config.groups[0].items[..] {
                [Item::Rule(rule)] => Ok(print_rule(&parsed.config, rule)),
                other => panic!("{other:?}"),
            }
        }
        Err(e) => Err(e.to_string()),
    }
}
