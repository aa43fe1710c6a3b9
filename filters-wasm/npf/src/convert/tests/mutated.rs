//! Whatever comes, nothing panics, and what comes out parses.

use super::{
    nft::{meta, not, payload, ruleset, state, verdict},
    pf::{NOT_PF, PF},
};
use crate::{
    convert::{nft, pf},
    language::{NoFiles, parse},
};
use proptest::prelude::*;
use serde_json::{Value, json};

/// Texts that have something of everything, for mutation.
fn seeds() -> (String, String) {
    let mut text = String::new();
    PF.iter().for_each(|(seed, _)| text += &format!("{seed}\n"));
    NOT_PF.iter().for_each(|(seed, _)| text += &format!("{seed}\n"));
    let rules = [
        ("input", vec![state(&["established"]), verdict("accept")]),
        ("input", vec![meta("iifname", json!({"set": ["a", "b"]})), json!({"jump": {"target": "sub"}})]),
        (
            "sub",
            vec![payload("ip", "saddr", json!("@nets")), json!({"limit": {"rate": 1, "per": "day"}}), verdict("drop")],
        ),
        (
            "sub",
            vec![
                not(payload("tcp", "dport", json!({"range": [1, 9]}))),
                json!({"log": {"prefix": "x"}}),
                verdict("accept"),
            ],
        ),
        ("forward", vec![meta("iif", json!("lan")), payload("icmp", "type", json!("redirect")), verdict("reject")]),
        ("post", vec![meta("oif", json!("wan")), json!({"masquerade": {"port": 7}})]),
        (
            "pre",
            vec![meta("iif", json!("wan")), payload("tcp", "dport", json!(8)), json!({"dnat": {"addr": "10.0.0.2"}})],
        ),
    ];
    let chains = [
        ("input", "input", "drop"),
        ("sub", "", ""),
        ("forward", "forward", "drop"),
        ("post", "postrouting", ""),
        ("pre", "prerouting", ""),
    ];
    (text, ruleset(&chains, &rules))
}

/// Changes characters of a text, copies pieces of it and cuts it.
fn mutated(text: &str, changes: &[(prop::sample::Index, prop::sample::Index, u8)]) -> String {
    const INSERTS: &[&str] = &[
        "{", "}", "\"", "!", "$", "<", ">", "(", ")", "\\\n", "\n", "#", " ", ",", ":", "[", "]", "9", "\u{0}", "é",
        "=", "-",
    ];
    let mut chars: Vec<char> = text.chars().collect();
    for (a, b, how) in changes {
        if chars.len() < 2 {
            break;
        }
        let (a, b) = (a.index(chars.len()), b.index(chars.len()));
        let (first, last) = (a.min(b), a.max(b).min(a.min(b) + 60));
        match how % 4 {
            0 => _ = chars.splice(first..first, INSERTS[b % INSERTS.len()].chars()),
            1 => _ = chars.drain(first..(first + 1 + b % 3).min(chars.len())),
            2 => {
                let piece: Vec<char> = chars[first..last].to_vec();
                chars.splice(b..b, piece);
            }
            _ => chars.swap(a, b),
        }
    }
    chars.into_iter().collect()
}

/// Replaces values of JSON by others of it.
fn mutated_json(value: &mut Value, all: &[Value], changes: &mut impl Iterator<Item = (prop::sample::Index, u8)>) {
    match changes.next() {
        Some((at, 0..6)) => *value = all[at.index(all.len())].clone(),
        None => return,
        _ => {}
    }
    match value {
        Value::Array(list) => list.iter_mut().for_each(|v| mutated_json(v, all, changes)),
        Value::Object(map) => map.values_mut().for_each(|v| mutated_json(v, all, changes)),
        _ => {}
    }
}

fn all_values(value: &Value, out: &mut Vec<Value>) {
    out.push(value.clone());
    match value {
        Value::Array(list) => list.iter().for_each(|v| all_values(v, out)),
        Value::Object(map) => map.values().for_each(|v| all_values(v, out)),
        _ => {}
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn no_text_makes_a_converter_panic_and_what_comes_out_parses(
        start in any::<prop::sample::Index>(),
        changes in prop::collection::vec(any::<(prop::sample::Index, prop::sample::Index, u8)>(), 0..8),
        noise in "\\PC{0,60}",
    ) {
        let (text, json) = seeds();
        let lines: Vec<_> = text.lines().collect();
        let start = start.index(lines.len());
        let piece = lines[start..(start + 12).min(lines.len())].join("\n");
        let converted = pf(&mutated(&piece, &changes));
        prop_assert!(parse("converted", &converted.text.replace(" file ", " # "), &NoFiles).is_ok(), "{}", converted.text);
        let _ = pf(&noise);
        if let Ok(converted) = nft(&mutated(&json, &changes)) {
            prop_assert!(parse("converted", &converted.text, &NoFiles).is_ok(), "{}", converted.text);
        }
    }

    #[test]
    fn no_ruleset_makes_the_converter_panic(
        changes in prop::collection::vec(any::<(prop::sample::Index, u8)>(), 600),
    ) {
        let mut value: Value = serde_json::from_str(&seeds().1).unwrap();
        let mut all = Vec::new();
        all_values(&value, &mut all);
        all.extend([json!(-1), json!(1e300), json!("\"\n{"), json!("@bad"), json!("@"), json!([]), json!({})]);
        let mut changes = changes.into_iter();
        if let Some(list) = value["nftables"].as_array_mut() {
            list.iter_mut().for_each(|item| mutated_json(item, &all, &mut changes));
        }
        if let Ok(converted) = nft(&value.to_string()) {
            prop_assert!(parse("converted", &converted.text, &NoFiles).is_ok(), "{}", converted.text);
        }
    }
}
