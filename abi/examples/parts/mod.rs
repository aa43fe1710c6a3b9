//! What the generators of both C headers share: constants and names.

use std::fmt::Write;

/// `pub const` of integers, in a module or not, as `#define <PREFIX>_<MODULE>_<NAME>`; those of `&str` too where `texts`
/// is set.
pub fn constants(source: &str, prefix: &str, texts: bool, out: &mut String) {
    let (mut module, mut docs) = (String::new(), Vec::new());
    for line in source.lines() {
        let code = line.trim();
        if let Some(doc) = code.strip_prefix("///") {
            docs.push(doc.trim().to_owned());
            continue;
        }
        if let Some(name) = line.strip_prefix("pub mod ").and_then(|l| l.strip_suffix(" {")) {
            module = format!("{}_", name.to_uppercase());
            let _ = write!(out, "\n/* {} */\n", docs.join(" "));
        } else if line == "}" {
            module.clear();
        } else if let Some((name, ty, value)) = constant(code, texts) {
            let number = value.replace("u32::MAX", "0xffffffff").replace("u16::MAX", "0xffff").replace('_', "");
            let value = match ty {
                "&str" => value.to_owned(),
                _ if ty.starts_with('u') => with_suffix(&number),
                _ => format!("({number})"),
            };
            let _ = writeln!(out, "/* {} */\n#define {prefix}_{module}{name} {value}", docs.join(" "));
        }
        docs.clear();
    }
}

/// Name, type and value of a line that defines an integer constant, or a text.
fn constant(code: &str, texts: bool) -> Option<(&str, &str, &str)> {
    let (name, rest) = code.strip_prefix("pub const ")?.split_once(": ")?;
    let (ty, value) = rest.strip_suffix(';')?.split_once(" = ")?;
    let ty = match ty {
        // Cell is a u32.
        "Cell" => "u32",
        "&str" if texts => ty,
        "u8" | "u16" | "u32" | "u64" | "i32" | "usize" => ty,
        _ => return None,
    };
    Some((name, ty, value))
}

/// Unsigned numbers of a simple expression (`1 << 3`) get their suffix.
fn with_suffix(value: &str) -> String {
    match value.split_once(" << ") {
        Some((one, by)) => format!("({one}u << {by})"),
        None => format!("{value}u"),
    }
}

/// `PktHdr` is `smpnet_pkt_hdr` in C, where the prefix is `smpnet`.
pub fn c_name(prefix: &str, name: &str) -> String {
    let mut out = String::from(prefix);
    for c in name.chars() {
        if c.is_uppercase() {
            out.push('_');
        }
        out.push(c.to_ascii_lowercase());
    }
    out
}

/// Names the structures of an ABI with their fields, and makes `NAMES` and `assertions(prefix, out)` of them: every size
/// and offset as a static assertion.
macro_rules! layouts {
    ($($ty:ident { $($field:ident)* })*) => {
        const NAMES: &[&str] = &[$(stringify!($ty)),*];

        fn assertions(prefix: &str, out: &mut String) {
            $(
                let name = parts::c_name(prefix, stringify!($ty));
                let size = size_of::<$ty>();
                let _ = writeln!(out, "SMPNET_ASSERT(sizeof({name}) == {size}, \"{name} has another size\");");
                $({
                    let (field, offset) = (stringify!($field), std::mem::offset_of!($ty, $field));
                    let _ = writeln!(
                        out,
                        "SMPNET_ASSERT(offsetof({name}, {field}) == {offset}, \"{name}.{field} has moved\");"
                    );
                })*
            )*
        }
    };
}
pub(crate) use layouts;
