//! What a module is, found out before anything of it is compiled.

use super::{Capability, Manifest, ModuleError, ModuleLimits};
use crate::error::{nearest, one_line};
use serde::Serialize;
use smpnet_filter_abi::{self as abi, export, import};
use wasmparser::types::{EntityType, Types};
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
/// The first thing that is wrong, with what would be right.
pub fn inspect(wasm: &[u8], limits: &ModuleLimits) -> Result<ModuleInfo, ModuleError> {
    if wasm.len() > limits.module_bytes {
        return Err(ModuleError::TooLong { bytes: wasm.len(), most: limits.module_bytes });
    }
    is_module(wasm)?;
    let types = validate(wasm)?;
    let mut manifests = Vec::new();
    let (mut start, mut functions) = (false, 0);
    for payload in Parser::new(0).parse_all(wasm) {
        match payload.map_err(|e| ModuleError::Invalid(one_line(&e.to_string())))? {
            Payload::CustomSection(s) if s.name() == abi::MANIFEST_SECTION => manifests.push(s.data()),
            Payload::StartSection { .. } => start = true,
            Payload::CodeSectionStart { count, .. } => functions = count,
            _ => {}
        }
    }
    let [manifest] = manifests[..] else { return Err(ModuleError::Sections(manifests.len())) };
    let manifest = Manifest::parse(manifest)?;
    let imports = imports(&types, &manifest)?;
    let exports = exports(&types)?;
    let (memory_min, memory_max) = memory(&types, &manifest, limits)?;
    Ok(ModuleInfo { manifest, bytes: wasm.len(), imports, exports, functions, memory_min, memory_max, start })
}

/// All that is wrong with a module, as far as it can be told: a file that is no module says nothing about its exports.
pub fn problems(wasm: &[u8], limits: &ModuleLimits) -> Vec<ModuleError> {
    let first = match inspect(wasm, limits) {
        Ok(_) => return Vec::new(),
        Err(e) => e,
    };
    let Ok(types) = validate(wasm) else { return vec![first] };
    let mut found = vec![first];
    let mut add = |e: Option<ModuleError>| found.extend(e.filter(|e| !found.contains(e)));
    let sections = Parser::new(0).parse_all(wasm).filter_map(Result::ok).filter_map(|p| match p {
        Payload::CustomSection(s) if s.name() == abi::MANIFEST_SECTION => Some(s.data()),
        _ => None,
    });
    if let Some(manifest) = sections.map(Manifest::parse).find_map(Result::ok) {
        add(imports(&types, &manifest).err());
        add(memory(&types, &manifest, limits).err());
    }
    add(exports(&types).err());
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

/// Validates in the pinned feature set. On failure, finds out which features it would take.
fn validate(wasm: &[u8]) -> Result<Types, ModuleError> {
    let with = |features| Validator::new_with_features(features).validate_all(wasm);
    let error = match with(FEATURES) {
        Ok(types) => return Ok(types),
        Err(e) => ModuleError::Invalid(one_line(&e.to_string())),
    };
    let mut needed = REFUSED.iter().fold(FEATURES, |all, (f, ..)| all.union(*f));
    if with(needed).is_err() {
        return Err(error);
    }
    let mut used = Vec::new();
    for entry @ (feature, ..) in &REFUSED {
        let without = needed.difference(*feature);
        if with(without).is_ok() {
            needed = without;
        } else {
            used.push(entry);
        }
    }
    if used.is_empty() {
        return Err(error);
    }
    Err(ModuleError::Features {
        names: used.iter().map(|(_, name, _)| (*name).to_owned()).collect(),
        hints: used.iter().map(|(_, _, hint)| (*hint).to_owned()).collect(),
    })
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

fn imports(types: &Types, manifest: &Manifest) -> Result<Vec<String>, ModuleError> {
    let types = types.as_ref();
    let wrong = |text: String| Err(ModuleError::Import(text));
    let names = IMPORTS.map(|(name, ..)| name);
    let mut found = Vec::new();
    for (module, name, ty) in types.core_imports().into_iter().flatten() {
        let shown = format!("{}.{}", module.escape_debug(), name.escape_debug());
        if let EntityType::Memory(_) = ty {
            return wrong(format!("its memory ({shown}): it must define it (no --import-memory)"));
        }
        if module.starts_with("wasi") {
            return wrong(format!(
                "{shown}, but there is no WASI here: build for wasm32-unknown-unknown or wasm32v1-none"
            ));
        }
        let entry = IMPORTS.iter().find(|(n, ..)| *n == name);
        let Some((_, signature, capability)) = entry.filter(|_| module == import::MODULE) else {
            let near = if entry.is_some() {
                format!(" (did you mean {}.{name}?)", import::MODULE)
            } else {
                nearest(name, &names)
            };
            return wrong(format!("{shown}, which is not there{near}: there are smpnet.{}", names.join(", smpnet.")));
        };
        let EntityType::Func(id) = ty else { return wrong(format!("{shown}, which is a function")) };
        let func = types[id].unwrap_func();
        if (func.params(), func.results()) != *signature {
            let got = type_text(func.params(), func.results());
            return wrong(format!("{shown} as {got}, it is {}", type_text(signature.0, signature.1)));
        }
        if !manifest.capabilities.has(*capability) && !super::Capabilities::usual().has(*capability) {
            return wrong(format!("{shown}, which needs \"{capability}\" among the `capabilities` of its manifest"));
        }
        found.push(name.to_owned());
    }
    Ok(found)
}

fn exports(types: &Types) -> Result<Vec<String>, ModuleError> {
    let types = types.as_ref();
    let all: Vec<(&str, EntityType)> = types.core_exports().into_iter().flatten().collect();
    let wrong = |text: String| Err(ModuleError::Export(text));
    let names: Vec<&str> = all.iter().map(|(n, _)| *n).collect();
    for (name, signature, required) in EXPORTS {
        let expected = type_text(signature.0, signature.1);
        match all.iter().find(|(n, _)| *n == name) {
            None if required => {
                let near = nearest(name, &names);
                return wrong(format!("does not export {name}{near}: a function of type {expected}"));
            }
            None => {}
            Some((_, EntityType::Func(id))) => {
                let func = types[*id].unwrap_func();
                if (func.params(), func.results()) != signature {
                    let got = type_text(func.params(), func.results());
                    return wrong(format!("exports {name} as {got}, it is {expected}"));
                }
            }
            Some(_) => return wrong(format!("exports {name}, which is not a function: {expected}")),
        }
    }
    // A name of ours that we do not know is a misspelt one, and would silently never be called.
    let ours = EXPORTS.map(|(n, ..)| n);
    if let Some(odd) = names.iter().find(|n| n.starts_with("smpnet_") && !ours.contains(n)) {
        return wrong(format!("exports {}, which smpnet never calls{}", odd.escape_debug(), nearest(odd, &ours)));
    }
    Ok(names.into_iter().map(str::to_owned).collect())
}

/// Pages that the memory begins with and may grow to.
fn memory(types: &Types, manifest: &Manifest, limits: &ModuleLimits) -> Result<(u32, u32), ModuleError> {
    let types = types.as_ref();
    let mut exported = types.core_exports().into_iter().flatten().filter(|(n, _)| *n == export::MEMORY);
    let Some((_, EntityType::Memory(ty))) = exported.next() else {
        return Err(ModuleError::Export("does not export its memory as `memory`".into()));
    };
    if ty.memory64 || ty.shared {
        return Err(ModuleError::Memory("is 64-bit or shared: it must be neither".into()));
    }
    let limit = manifest.memory.unwrap_or(limits.memory_pages);
    if limit > limits.memory_pages {
        return Err(ModuleError::Memory(format!(
            "may grow to {limit} pages by its manifest, {} are allowed (memory_pages)",
            limits.memory_pages
        )));
    }
    if ty.initial > u64::from(limit) {
        return Err(ModuleError::Memory(format!(
            "begins with {} pages of 64 KiB, {limit} are allowed ({})",
            ty.initial,
            if manifest.memory.is_some() { "`memory` in the manifest" } else { "memory_pages" }
        )));
    }
    let max = u64::from(limit).min(ty.maximum.unwrap_or(u64::MAX));
    Ok((ty.initial as u32, max as u32))
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
