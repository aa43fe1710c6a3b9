//! Files of test vectors for packet filters: one JSON object a line,
//! `{"name": ..., "insns": [[code, jt, jf, k], ...], "pkt": "hex", "wirelen": n, "buflen": n, "ret": n | "reject"}`.
//!
//! `ret` also says which validator is meant. `"reject"` asks the one that every filter passes on its way into smpnet
//! ([`Program::new`]), and the vector passes when it refuses. A number is what a program returned where it was
//! recorded; such programs may read scratch words that they never wrote, which give 0 there, so they are made with
//! [`Program::with_zeroed_scratch`].
//!
//! `name` may be missing, and so may `wirelen` and `buflen`, which are then the length of `pkt`, and `insns`, which is then
//! the program of the command line.

use serde::Deserialize;
use serde_json::Value;
use smpnet_bpf::{Insn, Program, ValidateError};

/// One vector.
#[derive(Debug, PartialEq, Eq)]
pub struct Vector {
    /// Line of the file, from 1.
    pub line: usize,
    /// Its name; empty when it has none.
    pub name: String,
    /// Its program, when it has one of its own.
    pub insns: Option<Vec<Insn>>,
    /// The bytes that may be read.
    pub packet: Vec<u8>,
    /// Length on the wire.
    pub wirelen: u32,
    /// What must come out.
    pub expected: Expected,
}

/// What must come out of a vector.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expected {
    /// The program runs and returns this.
    Returns(u32),
    /// The validator refuses the program.
    Refusal,
}

impl Expected {
    /// Makes the program with the validator that is meant.
    pub fn validate(self, insns: Vec<Insn>) -> Result<Program, ValidateError> {
        match self {
            Expected::Returns(_) => Program::with_zeroed_scratch(insns),
            Expected::Refusal => Program::new(insns),
        }
    }
}

impl std::fmt::Display for Expected {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Expected::Returns(n) => write!(f, "{n}"),
            Expected::Refusal => f.write_str("a refusal"),
        }
    }
}

#[derive(Deserialize)]
struct Line {
    #[serde(default)]
    name: String,
    insns: Option<Vec<(u16, u8, u8, u32)>>,
    pkt: String,
    wirelen: Option<u32>,
    buflen: Option<usize>,
    ret: Value,
}

/// Reads a file of vectors. The error names line and reason; empty lines are skipped.
pub fn read(text: &str) -> Result<Vec<Vector>, String> {
    let lines = text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty());
    lines.map(|(i, line)| read_line(i + 1, line).map_err(|reason| format!("line {}: {reason}", i + 1))).collect()
}

fn read_line(line: usize, text: &str) -> Result<Vector, String> {
    let v: Line = serde_json::from_str(text).map_err(|e| {
        // serde counts lines of this one line.
        let what = e.to_string();
        let what = what.split(" at line ").next().unwrap_or_default().to_owned();
        format!("column {}: {what}", e.column())
    })?;
    let expected = match &v.ret {
        Value::String(word) if word == "reject" => Expected::Refusal,
        other => match other.as_u64().and_then(|n| u32::try_from(n).ok()) {
            Some(n) => Expected::Returns(n),
            None => return Err(format!("ret is {other}; it must be a number from 0 to {} or \"reject\"", u32::MAX)),
        },
    };
    let mut packet = bytes(&v.pkt).map_err(|e| format!("pkt: {e}"))?;
    let buflen = v.buflen.unwrap_or(packet.len());
    if buflen > packet.len() {
        return Err(format!("buflen is {buflen}, but pkt has only {} bytes", packet.len()));
    }
    let length = u32::try_from(packet.len()).map_err(|_| "pkt is too long".to_owned())?;
    packet.truncate(buflen);
    let insns = v.insns.map(|list| list.into_iter().map(|(code, jt, jf, k)| Insn { code, jt, jf, k }).collect());
    Ok(Vector { line, name: v.name, insns, packet, wirelen: v.wirelen.unwrap_or(length), expected })
}

/// Bytes from hex digits; blanks and colons may stand between them.
pub fn bytes(hex: &str) -> Result<Vec<u8>, String> {
    let digits: Vec<u8> = hex
        .char_indices()
        .filter(|(_, c)| !c.is_whitespace() && *c != ':')
        .map(|(at, c)| match c.to_digit(16) {
            Some(d) => Ok(d as u8),
            None => Err(format!("{c:?} at byte {at} is no hex digit")),
        })
        .collect::<Result<_, _>>()?;
    if !digits.len().is_multiple_of(2) {
        return Err(format!("{} hex digits are no whole number of bytes", digits.len()));
    }
    Ok(digits.chunks_exact(2).map(|pair| pair[0] << 4 | pair[1]).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_read_field_by_field() {
        let text = "\n{\"name\":\"n\",\"insns\":[[48,0,0,1],[22,0,0,0]],\"pkt\":\"00ffee\",\"wirelen\":60,\"buflen\":2,\"ret\":255}\n";
        let expected = Vector {
            line: 2,
            name: "n".into(),
            insns: Some(vec![Insn::stmt(48, 1), Insn::stmt(22, 0)]),
            packet: vec![0, 0xff],
            wirelen: 60,
            expected: Expected::Returns(255),
        };
        assert_eq!(read(text).unwrap(), [expected]);
        let bare = read(r#"{"pkt":"0a 0B:0c","ret":"reject"}"#).unwrap();
        assert_eq!((bare[0].wirelen, bare[0].packet.as_slice()), (3, &[10, 11, 12][..]));
        assert_eq!((bare[0].expected, bare[0].insns.as_ref()), (Expected::Refusal, None));
    }

    #[test]
    fn a_bad_line_is_named_with_its_reason() {
        let error = |line: &str| read(&format!("{{\"pkt\":\"\",\"ret\":0}}\n{line}")).unwrap_err();
        assert!(error("{").starts_with("line 2: column 1: EOF"), "{}", error("{"));
        assert!(error(r#"{"pkt":"","ret":-1}"#).starts_with("line 2: ret is -1; it must be a number from 0"));
        assert!(error(r#"{"pkt":"","ret":"refuse"}"#).contains("\"reject\""));
        assert_eq!(error(r#"{"pkt":"0","ret":0}"#), "line 2: pkt: 1 hex digits are no whole number of bytes");
        assert_eq!(error(r#"{"pkt":"0g","ret":0}"#), "line 2: pkt: 'g' at byte 1 is no hex digit");
        assert_eq!(error(r#"{"pkt":"00","buflen":2,"ret":0}"#), "line 2: buflen is 2, but pkt has only 1 bytes");
        assert!(error(r#"{"pkt":"","insns":[[65536,0,0,0]],"ret":0}"#).contains("65536"));
        assert!(error(r#"{"ret":0}"#).contains("missing field `pkt`"));
    }

    #[test]
    fn a_number_asks_the_lenient_validator_and_a_refusal_the_strict_one() {
        // `ld M[0]; ret a`: a word that was never written.
        let unwritten = || vec![Insn::stmt(0x60, 0), Insn::stmt(0x16, 0)];
        assert!(Expected::Returns(0).validate(unwritten()).is_ok());
        assert!(Expected::Refusal.validate(unwritten()).is_err());
    }
}
