mod mutated;
mod nft;
mod pf;

use super::*;
use crate::language::{NoFiles, parse};

/// The rules and maps of a text that must parse, without comments and what always stands there.
fn lines(converted: &Converted) -> Vec<&str> {
    if let Err(errors) = parse("converted", &converted.text, &NoFiles) {
        panic!("{errors}\n{}", converted.text);
    }
    let lines = converted.text.lines().map(str::trim);
    lines
        .filter(|line| !line.is_empty() && !line.starts_with('#') && !["group default {", "}"].contains(line))
        .collect()
}

fn said(converted: &Converted) -> String {
    converted.notes.iter().map(|note| format!("{note}\n")).collect()
}
