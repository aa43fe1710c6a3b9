//! The table of features in the README, made from the `FEATURES.toml` files beside the code.

use std::{
    collections::BTreeMap,
    fmt::Write,
    fs,
    path::{Path, PathBuf},
};

const BEGIN: &str = "<!-- made by `cargo xtask features` -->\n";
const END: &str = "<!-- end -->\n";
/// Folders that have a `FEATURES.toml` or tests named in one.
const ROOTS: [&str; 6] = ["abi", "core", "plugins", "filters-wasm", "sdk", "tests"];

/// A line of a `FEATURES.toml`.
#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct Feature {
    state: State,
    by: Option<String>,
    note: Option<String>,
    test: Option<String>,
}

#[derive(Clone, Copy, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
enum State {
    Done,
    Part,
    No,
}

/// Writes the table into the README.
pub fn run() -> Result<bool, String> {
    let root = repository();
    let file = root.join("README.md");
    let readme = fs::read_to_string(&file).map_err(|e| format!("{}: {e}", file.display()))?;
    let new = with_table(&readme, &table(&root)?)?;
    fs::write(&file, new).map_err(|e| format!("{}: {e}", file.display()))?;
    Ok(true)
}

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn with_table(readme: &str, table: &str) -> Result<String, String> {
    let parts = readme.split_once(BEGIN).and_then(|(a, rest)| Some((a, rest.split_once(END)?.1)));
    let (before, after) = parts.ok_or(format!("README.md has no {BEGIN} ... {END}"))?;
    Ok(format!("{before}{BEGIN}\n{table}\n{END}{after}"))
}

fn table(root: &Path) -> Result<String, String> {
    let tests = names_of_functions(root);
    let mut out = String::from("| what | | how, or what is missing | test |\n|---|---|---|---|\n");
    for file in files(root, &|p| p.ends_with("FEATURES.toml")) {
        let named = |e: &dyn std::fmt::Display| format!("{}: {e}", file.display());
        let text = fs::read_to_string(&file).map_err(|e| named(&e))?;
        let parts: BTreeMap<String, BTreeMap<String, Feature>> = toml::from_str(&text).map_err(|e| named(&e))?;
        for (part, features) in parts {
            for (name, f) in features {
                let what = format!("{part}: {}", name.replace('_', " "));
                if f.state != State::No && f.test.is_none() && f.note.is_none() {
                    return Err(named(&format!("{what}: names no test")));
                }
                let test = f.test.as_deref().map_or("", |t| t.rsplit("::").next().unwrap_or(t));
                if !test.is_empty() && !tests.contains(test) {
                    return Err(named(&format!("{what}: there is no test {test}")));
                }
                let state = match f.state {
                    State::Done => "yes",
                    State::Part => "partly",
                    State::No => "no",
                };
                let how: Vec<&str> = [f.by.as_deref(), f.note.as_deref()].into_iter().flatten().collect();
                let test = if test.is_empty() { String::new() } else { format!("`{test}`") };
                // Writing to a String cannot fail.
                let _ = writeln!(out, "| {what} | {state} | {} | {test} |", how.join("; "));
            }
        }
    }
    Ok(out)
}

fn names_of_functions(root: &Path) -> std::collections::HashSet<String> {
    let mut out = std::collections::HashSet::new();
    for file in files(root, &|p| p.extension().is_some_and(|e| e == "rs")) {
        let text = fs::read_to_string(file).unwrap_or_default();
        let functions = text
            .lines()
            .filter_map(|l| l.split_once("fn ")?.1.split(|c: char| !c.is_alphanumeric() && c != '_').next());
        out.extend(functions.map(str::to_owned));
    }
    out
}

fn files(root: &Path, wanted: &dyn Fn(&Path) -> bool) -> Vec<PathBuf> {
    let mut out = Vec::new();
    let mut folders: Vec<PathBuf> = ROOTS.iter().map(|r| root.join(r)).collect();
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
            let path = entry.path();
            if path.is_dir() && !path.ends_with("target") {
                folders.push(path);
            } else if wanted(&path) {
                out.push(path);
            }
        }
    }
    out.sort();
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_in_the_readme_is_that_of_the_files_and_names_tests_that_exist() {
        let root = repository();
        let readme = fs::read_to_string(root.join("README.md")).unwrap();
        let new = with_table(&readme, &table(&root).unwrap()).unwrap();
        assert!(readme == new, "README.md is behind the FEATURES.toml files: run `cargo xtask features`");
    }
}
