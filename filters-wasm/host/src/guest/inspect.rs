//! What a module is, found out before anything of it is compiled.

use super::{Capability, Manifest, ModuleError, ModuleLimits};
use crate::error::{nearest, one_line};
use serde::Serialize;
use smpnet_filter_abi::{self as abi, export, import};
use wasmparser::types::{EntityType, Types, TypesRef};
use wasmparser::{Parser, Payload, ValType, Validator, WasmFeatures};

/// The WebAssembly features that modules may use, besides the first version of the language. Pinned: a later smpnet runs
/// what this one runs, whatever its engine learns meanwhile.
pub(crate) const FEATURES: WasmFeatures = WasmFeatures::MUTABLE_GLOBAL
    .union(WasmFeatures::SIGN_EXTENSION)
    .union(WasmFeatures::SATURATING_FLOAT_TO_INT)
    .union(WasmFeatures::BULK_MEMORY)
    .union(WasmFeatures::MULTI_VALUE)
    .union(WasmFeatures::REFERENCE_TYPES)
    .union(WasmFeatures::SIMD)
    .union(WasmFeatures::EXTENDED_CONST)
    .union(WasmFeatures::FLOATS);

/// Their names, for people.
pub const FEATURE_NAMES: [&str; 8] = [
    "mutable-global",
    "sign-ext",
    "nontrapping-fptoint",
    "bulk-memory",
    "multivalue",
    "reference-types",
    "simd128",
    "extended-const",
];

/// Features that modules may not use: the name, and how to do without.
const REFUSED: [(WasmFeatures, &str, &str); 14] = [
    (
        WasmFeatures::THREADS,
        "threads (atomics, shared memory)",
        "build with -C target-feature=-atomics, or clang -mno-atomics",
    ),
    (WasmFeatures::TAIL_CALL, "tail-call", "build with -C target-feature=-tail-call, or clang -mno-tail-call"),
    (
        WasmFeatures::RELAXED_SIMD,
        "relaxed-simd",
        "build with -C target-feature=-relaxed-simd, or clang -mno-relaxed-simd",
    ),
    (WasmFeatures::MULTI_MEMORY, "multi-memory", "keep to one memory (clang -mno-multimemory)"),
    (WasmFeatures::MEMORY64, "memory64", "build for wasm32, not wasm64"),
    (
        WasmFeatures::EXCEPTIONS,
        "exception-handling",
        "build with -C panic=abort -C target-feature=-exception-handling, or clang -fno-exceptions",
    ),
    (
        WasmFeatures::LEGACY_EXCEPTIONS,
        "exception-handling of the old kind",
        "build with -C panic=abort -C target-feature=-exception-handling, or clang -fno-exceptions",
    ),
    (WasmFeatures::GC, "gc", "use a compiler with linear memory"),
    (WasmFeatures::GC_TYPES, "externref", "pass numbers instead of host references"),
    (WasmFeatures::FUNCTION_REFERENCES, "function-references", "use call_indirect"),
    (WasmFeatures::CUSTOM_PAGE_SIZES, "custom-page-sizes", "link with pages of 64 KiB (no --page-size)"),
    (
        WasmFeatures::WIDE_ARITHMETIC,
        "wide-arithmetic",
        "build with -C target-feature=-wide-arithmetic, or clang -mno-wide-arithmetic",
    ),
    (WasmFeatures::STACK_SWITCHING, "stack-switching", "do without continuations"),
    (WasmFeatures::SHARED_EVERYTHING_THREADS, "shared-everything-threads", "do without threads"),
];

/// What `inspect` found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ModuleInfo {
    /// The manifest.
    pub manifest: Manifest,
    /// Bytes of the module.
    pub bytes: usize,
    /// Names of what it imports from `smpnet`.
    pub imports: Vec<String>,
    /// Names of what it exports.
    pub exports: Vec<String>,
    /// Functions that it defines.
    pub functions: u32,
    /// Pages of 64 KiB that its memory begins with.
    pub memory_min: u32,
    /// Pages that its memory may grow to, by the least of the module's own limit, its manifest's and the operator's.
    pub memory_max: u32,
    /// Whether a function runs when an instance is made.
    pub start: bool,
}

/// Looks through a module: size, features, manifest, imports, exports, memory. Nothing of it is compiled or run.
///
/// # Errors
/// The first thing that is wrong, with what would be right; [`problems`] has the others.
pub fn inspect(wasm: &[u8], limits: &ModuleLimits) -> Result<ModuleInfo, ModuleError> {
    length(wasm, limits)?;
    let (info, wrong) = look(wasm, limits);
    match (info, wrong.into_iter().next()) {
        (Some(info), None) => Ok(info),
        (_, Some(first)) => Err(first),
        (None, None) => Err(ModuleError::Sections(0)),
    }
}

/// All that is wrong with a module, as far as it can be told: a file that is no module says nothing about its exports.
pub fn problems(wasm: &[u8], limits: &ModuleLimits) -> Vec<ModuleError> {
    let mut wrong: Vec<ModuleError> = length(wasm, limits).err().into_iter().collect();
    wrong.extend(look(wasm, limits).1);
    wrong
}

fn length(wasm: &[u8], limits: &ModuleLimits) -> Result<(), ModuleError> {
    if wasm.len() > limits.module_bytes {
        return Err(ModuleError::TooLong { bytes: wasm.len(), most: limits.module_bytes });
    }
    Ok(())
}

/// What the module is, as far as it can be told, and all that is wrong with it, each thing once.
fn look(wasm: &[u8], limits: &ModuleLimits) -> (Option<ModuleInfo>, Vec<ModuleError>) {
    if let Err(e) = is_module(wasm) {
        return (None, vec![e]);
    }
    let mut wrong = Vec::new();
    let types = validate(wasm, &mut wrong);
    let sections = sections(wasm);
    let manifest = match sections.manifests[..] {
        [one] => Manifest::read(one, &mut wrong),
        // Of a module that breaks off it is not known what would have come.
        [] if types.is_none() => None,
        _ => {
            wrong.push(ModuleError::Sections(sections.manifests.len()));
            None
        }
    };
    let Some(types) = types else { return (None, wrong) };
    let imports = imports(&types, manifest.as_ref(), &mut wrong);
    let exports = exports(&types, &mut wrong);
    let memory = memory(&types, manifest.as_ref(), limits, &mut wrong);
    let (Some(manifest), Some((memory_min, memory_max))) = (manifest, memory) else { return (None, wrong) };
    let Sections { functions, start, .. } = sections;
    let bytes = wasm.len();
    (Some(ModuleInfo { manifest, bytes, imports, exports, functions, memory_min, memory_max, start }), wrong)
}

/// What is read of a module beside its types.
struct Sections<'a> {
    manifests: Vec<&'a [u8]>,
    functions: u32,
    start: bool,
}

fn sections(wasm: &[u8]) -> Sections<'_> {
    let mut found = Sections { manifests: Vec::new(), functions: 0, start: false };
    // Where it breaks off, the validator has said so.
    for payload in Parser::new(0).parse_all(wasm).map_while(Result::ok) {
        match payload {
            Payload::CustomSection(s) if s.name() == abi::MANIFEST_SECTION => found.manifests.push(s.data()),
            Payload::StartSection { .. } => found.start = true,
            Payload::CodeSectionStart { count, .. } => found.functions = count,
            _ => {}
        }
    }
    found
}

fn is_module(wasm: &[u8]) -> Result<(), ModuleError> {
    let not = |text: &str| Err(ModuleError::NotWasm(text.to_owned()));
    match wasm {
        [0, b'a', b's', b'm', 1, 0, 0, 0, ..] => Ok(()),
        [0, b'a', b's', b'm', _, 0, 1, 0, ..] => {
            not("this is a component, not a core module: build for wasm32-unknown-unknown, not for wasm32-wasip2")
        }
        [0, b'a', b's', b'm', ..] => not("this is WebAssembly of another version than 1"),
        [0x7f, b'E', b'L', b'F', ..] => {
            not("this is machine code, and precompiled code is never taken: give the WebAssembly module itself")
        }
        _ if std::str::from_utf8(wasm).is_ok_and(|t| t.trim_start().starts_with('(')) => {
            not("this is the text form of WebAssembly: compile it with wat2wasm or wasm-tools parse")
        }
        _ => not("this is not a WebAssembly module"),
    }
}

/// Validates in the pinned feature set. On failure, finds out which features it would take; the types of such a module are
/// known all the same.
fn validate(wasm: &[u8], wrong: &mut Vec<ModuleError>) -> Option<Types> {
    let with = |features| Validator::new_with_features(features).validate_all(wasm);
    let error = match with(FEATURES) {
        Ok(types) => return Some(types),
        Err(e) => ModuleError::Invalid(one_line(&e.to_string())),
    };
    let mut needed = REFUSED.iter().fold(FEATURES, |all, (f, ..)| all.union(*f));
    let Ok(types) = with(needed) else {
        wrong.push(error);
        return None;
    };
    let mut used = Vec::new();
    for entry @ (feature, ..) in &REFUSED {
        let without = needed.difference(*feature);
        if with(without).is_ok() {
            needed = without;
        } else {
            used.push(entry);
        }
    }
    wrong.push(match used.is_empty() {
        true => error,
        false => ModuleError::Features {
            names: used.iter().map(|(_, name, _)| (*name).to_owned()).collect(),
            hints: used.iter().map(|(_, _, hint)| (*hint).to_owned()).collect(),
        },
    });
    Some(types)
}

/// A function's type: parameters and results.
pub(crate) type Signature = (&'static [ValType], &'static [ValType]);

const I: ValType = ValType::I32;
const L: ValType = ValType::I64;

/// What modules may import: the name, the type, and the capability it takes.
pub(crate) const IMPORTS: [(&str, Signature, Capability); 4] = [
    (import::LOG, (&[I, I, I], &[]), Capability::Log),
    (import::CLOCK, (&[], &[L]), Capability::Clock),
    (import::EXACT, (&[I, I, I, I, I], &[I]), Capability::Tables),
    (import::PREFIX, (&[I, I, I, I], &[I]), Capability::Tables),
];

/// What modules export: the name, the type, and whether they must.
const EXPORTS: [(&str, Signature, bool); 7] = [
    (export::RING, (&[], &[I]), true),
    (export::FILTER, (&[I], &[I]), true),
    (export::INIT, (&[I], &[I]), false),
    (export::TICK, (&[L], &[]), false),
    (export::STATE_EXPORT, (&[I], &[I]), false),
    (export::STATE_IMPORT, (&[I, I], &[I]), false),
    ("_initialize", (&[], &[]), false),
];

/// What it imports from `smpnet`. Whether its manifest names the capabilities is told where there is a manifest.
fn imports(types: &Types, manifest: Option<&Manifest>, wrong: &mut Vec<ModuleError>) -> Vec<String> {
    let types = types.as_ref();
    let mut found = Vec::new();
    for (module, name, ty) in types.core_imports().into_iter().flatten() {
        match import(&types, manifest, module, name, ty) {
            Ok(()) => found.push(name.to_owned()),
            Err(text) => add(wrong, ModuleError::Import(text)),
        }
    }
    found
}

/// Whether one import is there and is what it is taken for.
fn import(
    types: &TypesRef<'_>,
    manifest: Option<&Manifest>,
    module: &str,
    name: &str,
    ty: EntityType,
) -> Result<(), String> {
    let shown = format!("{}.{}", module.escape_debug(), name.escape_debug());
    if let EntityType::Memory(_) = ty {
        return Err(format!("its memory ({shown}): it must define it (no --import-memory)"));
    }
    if module.starts_with("wasi") {
        return Err(format!("{shown}, but there is no WASI here: build for wasm32-unknown-unknown or wasm32v1-none"));
    }
    let names = IMPORTS.map(|(name, ..)| name);
    let entry = IMPORTS.iter().find(|(n, ..)| *n == name);
    let Some((_, signature, capability)) = entry.filter(|_| module == import::MODULE) else {
        let near =
            if entry.is_some() { format!(" (did you mean {}.{name}?)", import::MODULE) } else { nearest(name, &names) };
        return Err(format!("{shown}, which is not there{near}: there are smpnet.{}", names.join(", smpnet.")));
    };
    let EntityType::Func(id) = ty else {
        return Err(format!("{shown} as something else than the function that it is"));
    };
    let func = types[id].unwrap_func();
    if (func.params(), func.results()) != *signature {
        let got = type_text(func.params(), func.results());
        return Err(format!("{shown} as {got}, it must be {}", type_text(signature.0, signature.1)));
    }
    if manifest.is_some_and(|m| !m.capabilities.has(*capability)) && !super::Capabilities::usual().has(*capability) {
        return Err(format!("{shown}, which needs \"{capability}\" among the `capabilities` of its manifest"));
    }
    Ok(())
}

fn exports(types: &Types, wrong: &mut Vec<ModuleError>) -> Vec<String> {
    let types = types.as_ref();
    let all: Vec<(&str, EntityType)> = types.core_exports().into_iter().flatten().collect();
    let names: Vec<&str> = all.iter().map(|(n, _)| *n).collect();
    let mut add = |text: String| add(wrong, ModuleError::Export(text));
    for (name, signature, required) in EXPORTS {
        let expected = type_text(signature.0, signature.1);
        match all.iter().find(|(n, _)| *n == name) {
            None if required => {
                let near = nearest(name, &names);
                add(format!("does not export {name}{near}: it must, a function of type {expected}"));
            }
            None => {}
            Some((_, EntityType::Func(id))) => {
                let func = types[*id].unwrap_func();
                if (func.params(), func.results()) != signature {
                    let got = type_text(func.params(), func.results());
                    add(format!("exports {name} as {got}, it must be {expected}"));
                }
            }
            Some(_) => add(format!("exports {name}, which is no function: it must be one of type {expected}")),
        }
    }
    // A name of ours that we do not know is a misspelt one, and would silently never be called.
    let ours = EXPORTS.map(|(n, ..)| n);
    for odd in names.iter().filter(|n| n.starts_with("smpnet_") && !ours.contains(n)) {
        let near = nearest(odd, &ours);
        add(format!(
            "exports {}, which smpnet never calls{near}: names that begin so are smpnet's",
            odd.escape_debug()
        ));
    }
    names.into_iter().map(str::to_owned).collect()
}

/// Pages that the memory begins with and may grow to.
fn memory(
    types: &Types,
    manifest: Option<&Manifest>,
    limits: &ModuleLimits,
    wrong: &mut Vec<ModuleError>,
) -> Option<(u32, u32)> {
    let types = types.as_ref();
    let own = manifest.and_then(|m| m.memory);
    let limit = own.unwrap_or(limits.memory_pages);
    if limit > limits.memory_pages {
        add(
            wrong,
            ModuleError::Memory(format!(
                "may grow to {limit} pages by its manifest, {} are allowed (memory_pages): lower the one or raise the other",
                limits.memory_pages
            )),
        );
    }
    let mut exported = types.core_exports().into_iter().flatten().filter(|(n, _)| *n == export::MEMORY);
    let Some((_, EntityType::Memory(ty))) = exported.next() else {
        add(wrong, ModuleError::Export("does not export its memory as `memory`: link with --export-memory".into()));
        return None;
    };
    // A 64-bit or shared memory is a feature that was refused above.
    if ty.initial > u64::from(limit) {
        add(
            wrong,
            ModuleError::Memory(format!(
                "begins with {} pages of 64 KiB, {limit} are allowed ({}): let it have fewer, or allow more",
                ty.initial,
                if own.is_some() { "`memory` in the manifest" } else { "memory_pages" }
            )),
        );
    }
    let max = u64::from(limit).min(ty.maximum.unwrap_or(u64::MAX));
    Some((u32::try_from(ty.initial).ok()?, max as u32))
}

/// Writes a thing down that is wrong, once.
fn add(wrong: &mut Vec<ModuleError>, e: ModuleError) {
    if !wrong.contains(&e) {
        wrong.push(e);
    }
}

fn type_text(params: &[ValType], results: &[ValType]) -> String {
    let list = |types: &[ValType]| types.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
    match results {
        [] => format!("({})", list(params)),
        r => format!("({}) -> {}", list(params), list(r)),
    }
}

/// Whether the bytes hold a WebAssembly module with a manifest, so that they are a module of this kind and no other.
pub fn has_manifest(wasm: &[u8]) -> bool {
    let mut payloads = Parser::new(0).parse_all(wasm).map_while(Result::ok);
    payloads.any(|p| matches!(p, Payload::CustomSection(s) if s.name() == abi::MANIFEST_SECTION))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(text: &str) -> Vec<String> {
        let wasm = wat::parse_str(text).unwrap();
        let all = problems(&wasm, &ModuleLimits::default());
        let first = inspect(&wasm, &ModuleLimits::default()).err();
        assert_eq!(first.as_ref(), all.first(), "what is loaded hears of the first");
        all.iter().map(ToString::to_string).collect()
    }

    /// Each of these words is in a problem of its own, and there is no other problem.
    #[track_caller]
    fn tells(text: &str, words: &[&str]) {
        let all = told(text);
        let at = |w: &&str| all.iter().position(|p| p.contains(*w));
        let places: std::collections::BTreeSet<_> = words.iter().map(at).collect();
        assert!(!places.contains(&None) && places.len() == words.len(), "{words:?}\n{all:#?}");
        assert_eq!(all.len(), words.len(), "{all:#?}");
    }

    const GOOD: &str = r#"(func (export "smpnet_ring") (result i32) (i32.const 16))
        (func (export "smpnet_filter") (param i32) (result i32) (local.get 0)) (memory (export "memory") 1)"#;
    const MANIFEST: &str = r#"(@custom "smpnet.filter" "{\"abi\":\"1.0\",\"name\":\"x\"}")"#;

    #[test]
    fn every_import_and_export_that_is_wrong_is_told_by_name() {
        tells(&format!("(module {GOOD} {MANIFEST})"), &[]);
        tells(
            &format!(
                r#"(module (import "smpnet" "lock" (func)) (import "smpnet" "log" (func)) (import "smpnet" "lock" (func))
                  (import "wasi_snapshot_preview1" "fd_write" (func)) (import "env" "clock_ns" (func (result i64)))
                  (import "smpnet" "table_exact" (func (param i32 i32 i32 i32 i32) (result i32)))
                  (func (export "smpnet_filtr")) (func (export "smpnet_tick")) (func (export "smpnet_start"))
                  (global (export "smpnet_init") i32 (i32.const 0)) {MANIFEST})"#
            ),
            &[
                "smpnet.lock, which is not there (did you mean log?)",
                "smpnet.log as (), it must be (i32, i32, i32)",
                "there is no WASI here",
                "env.clock_ns, which is not there (did you mean smpnet.clock_ns?)",
                "needs \"tables\" among the `capabilities`",
                "does not export smpnet_ring",
                "does not export smpnet_filter (did you mean smpnet_filtr?)",
                "exports smpnet_init, which is no function",
                "exports smpnet_tick as (), it must be (i64)",
                "exports smpnet_filtr, which smpnet never calls",
                "exports smpnet_start, which smpnet never calls",
                "does not export its memory",
            ],
        );
    }

    #[test]
    fn features_limits_and_the_manifest_hide_nothing_of_each_other() {
        let manifest = r#"(@custom "smpnet.filter" "{\"abi\":\"1.0\",\"nam\":\"x\",\"window\":100,\"memory\":99,
            \"capabilities\":[\"edits\",\"mark\",\"tabels\"],\"counters\":[\"a\",\"a\",7],
            \"tables\":[{\"name\":\"t\",\"kind\":\"exat\"},{\"nam\":\"u\"}]}")"#
            .replace('\n', " ");
        tells(
            &format!(
                r#"(module (memory (export "memory") 100) (memory 1)
                  (func (export "smpnet_filter") (param i32) (result i32) (return_call 0 (local.get 0))) {manifest})"#
            ),
            &[
                "tail-call and multi-memory",
                "no key `nam` (did you mean name?)",
                "`name` is missing",
                "a multiple of 16",
                "named \"edits\" (did you mean edit?)",
                "named \"tabels\" (did you mean tables?)",
                "`counters` has \"a\"",
                "`counters` is not a string",
                "named \"exat\" (did you mean exact?)",
                "a table has no key `nam`",
                "a table's `name` is \"\"",
                "a table's `kind` is missing",
                "may grow to 99 pages by its manifest, 64 are allowed",
                "begins with 100 pages",
                "does not export smpnet_ring",
            ],
        );
        tells(&format!("(module {GOOD} {MANIFEST} {MANIFEST})"), &["2 custom sections"]);
        tells("(module)", &["0 custom sections", "smpnet_ring", "does not export smpnet_filter", "its memory"]);
        // A manifest for a later smpnet is not judged by this one.
        let newer = r#"(@custom "smpnet.filter" "{\"abi\":\"1.99\",\"colour\":1}")"#;
        tells(
            &format!("(module {newer})"),
            &["ABI 1.99", "smpnet_ring", "does not export smpnet_filter", "its memory"],
        );
    }

    #[test]
    fn of_a_module_that_is_damaged_or_too_long_the_rest_is_told_as_far_as_it_is_known() {
        let mut wasm = wat::parse_str(format!("(module {GOOD} (@custom \"smpnet.filter\" \"[]\"))")).unwrap();
        let limits = ModuleLimits { module_bytes: wasm.len() - 1, ..ModuleLimits::default() };
        let all = problems(&wasm, &limits);
        assert!(matches!(all[..], [ModuleError::TooLong { .. }, ModuleError::Manifest(_)]), "{all:?}");
        assert_eq!(inspect(&wasm, &limits).unwrap_err(), all[0]);
        wasm.extend([1, 200]);
        let all = problems(&wasm, &ModuleLimits::default());
        assert!(matches!(all[..], [ModuleError::Invalid(_), ModuleError::Manifest(_)]), "{all:?}");
        assert!(matches!(problems(b"\x7fELF", &ModuleLimits::default())[..], [ModuleError::NotWasm(_)]));
    }
}
