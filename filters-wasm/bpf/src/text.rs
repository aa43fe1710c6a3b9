//! Programs as text: the listing of `tcpdump -d`, the C array of `-dd`, the decimal numbers of `-ddd`, and reading the
//! last one back.

use crate::insn::{Alu, Cond, Insn, Op, Size, Src};
use std::fmt::Write;

/// The listing of `tcpdump -d`, one line per instruction. An unknown code prints as `unimp`.
pub fn disassemble(insns: &[Insn]) -> String {
    let mut out = String::new();
    for (index, &insn) in insns.iter().enumerate() {
        out.push_str(&image(index, insn));
        out.push('\n');
    }
    out
}

/// The C array body of `tcpdump -dd`.
pub fn c_array(insns: &[Insn]) -> String {
    let mut out = String::new();
    for i in insns {
        // Writing to a String cannot fail.
        let _ = writeln!(out, "{{ {:#x}, {}, {}, {:#010x} }},", i.code, i.jt, i.jf, i.k);
    }
    out
}

/// The decimal numbers of `tcpdump -ddd`: the count, then one instruction a line.
pub fn decimal(insns: &[Insn]) -> String {
    let mut out = format!("{}\n", insns.len());
    for i in insns {
        let _ = writeln!(out, "{} {} {} {}", i.code, i.jt, i.jf, i.k);
    }
    out
}

/// Why text in the form of `-ddd` could not be read.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ParseError {
    /// The first line is no count.
    #[error("line 1: expected the number of instructions, as `tcpdump -ddd` prints it")]
    NoCount,
    /// A line is not four numbers.
    #[error("line {line}: expected four numbers `code jt jf k`; found {found:?}")]
    BadLine {
        /// Line number from 1.
        line: usize,
        /// What stands there, shortened.
        found: String,
    },
    /// A number does not fit its field.
    #[error("line {line}: {field} = {value} is out of range (code to 65535, jt and jf to 255, k to 4294967295)")]
    OutOfRange {
        /// Line number from 1.
        line: usize,
        /// Which field.
        field: &'static str,
        /// What was written.
        value: String,
    },
    /// The count does not equal the number of lines.
    #[error("line 1 promises {promised} instructions, {found} follow")]
    WrongCount {
        /// What line 1 says.
        promised: usize,
        /// How many lines follow.
        found: usize,
    },
}

/// Reads the form of `-ddd`. Empty lines and the `,` separators of iptables' variant (`4,48 0 0 9,...`) are understood.
///
/// The result is not validated; [`Program::new`](crate::Program::new) does that.
///
/// # Errors
/// The first line that is not as expected.
pub fn parse_decimal(text: &str) -> Result<Vec<Insn>, ParseError> {
    let mut lines =
        text.split(['\n', ',']).enumerate().map(|(n, line)| (n + 1, line.trim())).filter(|(_, line)| !line.is_empty());
    let promised = lines.next().and_then(|(_, l)| l.parse::<usize>().ok()).ok_or(ParseError::NoCount)?;
    let mut insns = Vec::new();
    for (line, text) in lines {
        insns.push(parse_line(line, text)?);
    }
    if insns.len() != promised {
        return Err(ParseError::WrongCount { promised, found: insns.len() });
    }
    Ok(insns)
}

fn parse_line(line: usize, text: &str) -> Result<Insn, ParseError> {
    fn number<T: TryFrom<u64>>(line: usize, field: &'static str, word: &str) -> Result<T, ParseError> {
        let out_of_range = || ParseError::OutOfRange { line, field, value: shorten(word) };
        word.parse::<u64>().ok().and_then(|v| T::try_from(v).ok()).ok_or_else(out_of_range)
    }
    let words: Vec<&str> = text.split_whitespace().collect();
    let [code, jt, jf, k] = words[..] else {
        return Err(ParseError::BadLine { line, found: shorten(text) });
    };
    if words.iter().any(|w| !w.bytes().all(|b| b.is_ascii_digit())) {
        return Err(ParseError::BadLine { line, found: shorten(text) });
    }
    Ok(Insn {
        code: number(line, "code", code)?,
        jt: number(line, "jt", jt)?,
        jf: number(line, "jf", jf)?,
        k: number(line, "k", k)?,
    })
}

fn shorten(text: &str) -> String {
    text.chars().take(40).collect()
}

/// One line of the listing. Offsets print as signed, as libpcap's `bpf_image` prints them.
fn image(index: usize, insn: Insn) -> String {
    let Some(op) = Op::decode(insn) else {
        return format!("({index:03}) {:<8} {:#x}", "unimp", insn.code);
    };
    let signed = insn.k as i32;
    let ld = |size| match size {
        Size::Word => "ld",
        Size::Half => "ldh",
        Size::Byte => "ldb",
    };
    let (name, operand) = match op {
        Op::LdAbs(size, _) => (ld(size), format!("[{signed}]")),
        Op::LdInd(size, _) => (ld(size), format!("[x + {signed}]")),
        Op::LdImm(k) => ("ld", format!("#{k:#x}")),
        Op::LdMem(k) => ("ld", format!("M[{k}]")),
        Op::LdLen => ("ld", "#pktlen".into()),
        Op::LdxImm(k) => ("ldx", format!("#{k:#x}")),
        Op::LdxMem(k) => ("ldx", format!("M[{k}]")),
        Op::LdxLen => ("ldx", "#pktlen".into()),
        Op::LdxMsh(_) => ("ldxb", format!("4*([{signed}]&0xf)")),
        Op::St(k) => ("st", format!("M[{k}]")),
        Op::Stx(k) => ("stx", format!("M[{k}]")),
        Op::Alu(alu, src) => (alu_name(alu), alu_operand(alu, src)),
        Op::Neg => ("neg", String::new()),
        Op::Ja(k) => ("ja", format!("{}", (index as i32).wrapping_add(1).wrapping_add(k as i32))),
        Op::Jmp { cond, src, jt, jf } => {
            let operand = match src {
                Src::K(k) => format!("#{k:#x}"),
                Src::X => "x".into(),
            };
            let (t, f) = (index + 1 + usize::from(jt), index + 1 + usize::from(jf));
            return format!("({index:03}) {:<8} {operand:<16} jt {t}\tjf {f}", cond_name(cond));
        }
        Op::RetK(_) => ("ret", format!("#{signed}")),
        Op::RetA => ("ret", String::new()),
        Op::Tax => ("tax", String::new()),
        Op::Txa => ("txa", String::new()),
    };
    format!("({index:03}) {name:<8} {operand}")
}

fn alu_operand(alu: Alu, src: Src) -> String {
    match (alu, src) {
        (_, Src::X) => "x".into(),
        (Alu::And | Alu::Or | Alu::Xor, Src::K(k)) => format!("#{k:#x}"),
        (_, Src::K(k)) => format!("#{}", k as i32),
    }
}

fn alu_name(alu: Alu) -> &'static str {
    match alu {
        Alu::Add => "add",
        Alu::Sub => "sub",
        Alu::Mul => "mul",
        Alu::Div => "div",
        Alu::Mod => "mod",
        Alu::And => "and",
        Alu::Or => "or",
        Alu::Xor => "xor",
        Alu::Lsh => "lsh",
        Alu::Rsh => "rsh",
    }
}

fn cond_name(cond: Cond) -> &'static str {
    match cond {
        Cond::Eq => "jeq",
        Cond::Gt => "jgt",
        Cond::Ge => "jge",
        Cond::Set => "jset",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::insn::code;

    const ARP: [Insn; 4] = [
        Insn::stmt(code::LD_H_ABS, 12),
        Insn::jump(code::JEQ_K, 0x806, 0, 1),
        Insn::stmt(code::RET_K, 262_144),
        Insn::stmt(code::RET_K, 0),
    ];

    #[test]
    fn the_listing_equals_that_of_tcpdump() {
        let expected = "(000) ldh      [12]\n(001) jeq      #0x806           jt 2\tjf 3\n\
                        (002) ret      #262144\n(003) ret      #0\n";
        assert_eq!(disassemble(&ARP), expected);
    }

    #[test]
    fn the_c_array_equals_that_of_tcpdump() {
        let expected = "{ 0x28, 0, 0, 0x0000000c },\n{ 0x15, 0, 1, 0x00000806 },\n\
                        { 0x6, 0, 0, 0x00040000 },\n{ 0x6, 0, 0, 0x00000000 },\n";
        assert_eq!(c_array(&ARP), expected);
    }

    #[test]
    fn decimal_text_reads_back_as_written() {
        assert_eq!(decimal(&ARP), "4\n40 0 0 12\n21 0 1 2054\n6 0 0 262144\n6 0 0 0\n");
        assert_eq!(parse_decimal(&decimal(&ARP)).unwrap(), ARP);
        assert_eq!(parse_decimal("4,40 0 0 12,21 0 1 2054,6 0 0 262144,6 0 0 0").unwrap(), ARP);
    }

    #[test]
    fn bad_decimal_text_names_line_and_reason() {
        assert_eq!(parse_decimal(""), Err(ParseError::NoCount));
        assert_eq!(parse_decimal("x\n"), Err(ParseError::NoCount));
        assert_eq!(parse_decimal("2\n6 0 0 0\n"), Err(ParseError::WrongCount { promised: 2, found: 1 }));
        assert_eq!(parse_decimal("1\n6 0 0\n"), Err(ParseError::BadLine { line: 2, found: "6 0 0".into() }));
        let expected = ParseError::OutOfRange { line: 2, field: "jt", value: "256".into() };
        assert_eq!(parse_decimal("1\n6 256 0 0\n"), Err(expected));
    }
}
