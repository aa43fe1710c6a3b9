//! Proves that a module keeps the contract of rulesets before anything of it is compiled: it touches its own memory only,
//! calls nothing but the three functions of the host, and ends.
//!
//! That it ends is seen from the form of its loops. Each counts down from a constant in a local that nothing else in the function
//! writes, and leaves at zero; and functions call only those that stand before them. What a rule is, a verifier cannot
//! know: that decisions are right is proved by tests against the plan and the evaluator.

use crate::verify::{Class, FEATURES, class, memory_text, name};
use smpnet_npf::wasm::{ABI, IMAGE, IMAGE_MAX, IMPORT_PROGRAM, IMPORT_TABLE, IMPORT_WITHIN, IMPORTS, RULES};
use std::collections::HashMap;
use wasmparser::{
    DataKind, ExternalKind, FunctionBody, Import, Imports, Operator, Parser, Payload, TypeRef, ValType, Validator,
    WasmFeatures,
};

/// Most rounds of a loop.
const ROUNDS_MAX: i32 = 1 << 28;
/// Bytes of a module besides its image, at most.
const CODE_MAX: usize = 1 << 20;
const PAGE: u64 = 64 * 1024;

/// How a module breaks the contract of rulesets.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum BrokenRuleset {
    /// Not WebAssembly, or not valid.
    #[error("invalid WebAssembly: {0}")]
    Invalid(String),
    /// Longer than any that is made.
    #[error("{0} bytes are too many")]
    TooLong(usize),
    /// Something else than the functions of the host is imported, or with another type, or twice.
    #[error("imports {0}, which is not of the contract")]
    Import(String),
    /// The memory is missing, of another type, or too small.
    #[error("must define one memory, 32-bit, of fixed size, with room for a burst: {0}")]
    Memory(String),
    /// An export is missing or of another type.
    #[error("does not export {0}")]
    Missing(&'static str),
    /// An export that the contract does not have.
    #[error("exports {0}, which is not of the contract")]
    Export(String),
    /// Made for another version of the contract.
    #[error("is of ABI {0:#x}, this smpnet runs {ABI:#x}")]
    Abi(i32),
    /// A section that rulesets do not have.
    #[error("has a {0}")]
    Section(&'static str),
    /// Data that is not the image of a plan in its place.
    #[error("has data elsewhere than from byte {IMAGE} on, to the end of its memory")]
    Data,
    /// An instruction that rulesets do not use.
    #[error("function {function} uses {op}")]
    Operator {
        /// Number of the function.
        function: u32,
        /// The instruction.
        op: String,
    },
    /// A loop that does not count down from a constant.
    #[error("function {0} has a loop that may not end")]
    Loop(u32),
    /// A call of itself, or of a function behind it.
    #[error("function {0} calls one that does not stand before it")]
    Call(u32),
}

/// Checks that a module keeps the contract of rulesets ([`smpnet_npf::wasm`]).
///
/// # Errors
/// The first thing in which it does not.
pub fn verify(module: &[u8]) -> Result<(), BrokenRuleset> {
    if module.len() > IMAGE_MAX + CODE_MAX {
        return Err(BrokenRuleset::TooLong(module.len()));
    }
    let mut facts = Facts::default();
    for payload in Parser::new(0).parse_all(module) {
        facts.payload(payload.map_err(invalid)?)?;
    }
    // Everything above only reads; this proves that the module is well-typed.
    let features = FEATURES.difference(WasmFeatures::MULTI_MEMORY.union(WasmFeatures::SIMD));
    Validator::new_with_features(features).validate_all(module).map_err(invalid)?;
    facts.conclude()
}

fn invalid(e: wasmparser::Error) -> BrokenRuleset {
    BrokenRuleset::Invalid(crate::error::one_line(&e.to_string()))
}

type Signature = (Vec<ValType>, Vec<ValType>);

/// What the sections said.
#[derive(Default)]
struct Facts {
    types: Vec<Signature>,
    imports: Vec<String>,
    /// Type of each function that the module defines.
    functions: Vec<u32>,
    /// Bytes of the memory.
    memory: Option<u64>,
    /// Constant value of each global, if it is an immutable i32 constant.
    globals: Vec<Option<i32>>,
    exports: HashMap<String, (ExternalKind, u32)>,
    bodies: u32,
}

impl Facts {
    fn payload(&mut self, payload: Payload<'_>) -> Result<(), BrokenRuleset> {
        match payload {
            Payload::Version { encoding: wasmparser::Encoding::Module, .. }
            | Payload::CustomSection(_)
            | Payload::CodeSectionStart { .. }
            | Payload::End(_) => {}
            Payload::Version { .. } => return Err(BrokenRuleset::Section("component")),
            Payload::TypeSection(types) => {
                for ty in types.into_iter_err_on_gc_types() {
                    let ty = ty.map_err(invalid)?;
                    self.types.push((ty.params().to_vec(), ty.results().to_vec()));
                }
            }
            Payload::ImportSection(imports) => {
                for group in imports {
                    match group.map_err(invalid)? {
                        Imports::Single(_, import) => self.import(import)?,
                        Imports::Compact1 { module, .. } | Imports::Compact2 { module, .. } => {
                            return Err(BrokenRuleset::Import(format!("a group of module {module:?}")));
                        }
                    }
                }
            }
            Payload::FunctionSection(functions) => {
                for ty in functions {
                    self.functions.push(ty.map_err(invalid)?);
                }
            }
            Payload::MemorySection(memories) => {
                for ty in memories {
                    let ty = ty.map_err(invalid)?;
                    let plain = !ty.memory64 && !ty.shared && ty.page_size_log2.is_none_or(|n| n == 16);
                    let bytes = ty.initial.saturating_mul(PAGE);
                    let most = (IMAGE_MAX + CODE_MAX) as u64;
                    let fits = bytes >= u64::from(IMAGE) && bytes <= most && ty.maximum == Some(ty.initial);
                    if self.memory.is_some() || !plain || !fits {
                        return Err(BrokenRuleset::Memory(format!("it defines {}", memory_text(&ty))));
                    }
                    self.memory = Some(bytes);
                }
            }
            Payload::GlobalSection(globals) => {
                for global in globals {
                    let global = global.map_err(invalid)?;
                    let constant = match global.init_expr.get_operators_reader().read() {
                        Ok(Operator::I32Const { value }) if !global.ty.mutable => Some(value),
                        _ => None,
                    };
                    self.globals.push(constant);
                }
            }
            Payload::ExportSection(exports) => {
                for export in exports {
                    let export = export.map_err(invalid)?;
                    self.exports.insert(export.name.to_owned(), (export.kind, export.index));
                }
            }
            Payload::CodeSectionEntry(body) => {
                let function = self.bodies;
                self.bodies += 1;
                self.body(function, &body)?;
            }
            Payload::DataSection(segments) => {
                for segment in segments {
                    self.data(&segment.map_err(invalid)?)?;
                }
            }
            Payload::TableSection(_) => return Err(BrokenRuleset::Section("table")),
            Payload::ElementSection(_) => return Err(BrokenRuleset::Section("table element")),
            Payload::StartSection { .. } => return Err(BrokenRuleset::Section("start function")),
            Payload::TagSection(_) => return Err(BrokenRuleset::Section("exception tag")),
            Payload::DataCountSection { .. } => return Err(BrokenRuleset::Section("count of data segments")),
            _ => return Err(BrokenRuleset::Section("section of an unknown kind")),
        }
        Ok(())
    }

    fn import(&mut self, import: Import<'_>) -> Result<(), BrokenRuleset> {
        let text = format!("{}.{}", import.module.escape_debug(), import.name.escape_debug());
        let params = match import.name {
            _ if import.module != IMPORTS => None,
            IMPORT_TABLE => Some(3),
            IMPORT_WITHIN | IMPORT_PROGRAM => Some(2),
            _ => None,
        };
        let is_right = match import.ty {
            TypeRef::Func(ty) => params.is_some_and(|n| self.is_of_type(ty, n, 1)),
            _ => false,
        };
        if !is_right || self.imports.contains(&text) {
            return Err(BrokenRuleset::Import(text));
        }
        self.imports.push(text);
        Ok(())
    }

    /// Whether a type takes so many i32 and returns so many.
    fn is_of_type(&self, ty: u32, takes: usize, returns: usize) -> bool {
        let all = |of: &[ValType], n| of.len() == n && of.iter().all(|ty| *ty == ValType::I32);
        self.types.get(ty as usize).is_some_and(|(params, results)| all(params, takes) && all(results, returns))
    }

    fn data(&self, segment: &wasmparser::Data<'_>) -> Result<(), BrokenRuleset> {
        let DataKind::Active { memory_index: 0, offset_expr } = &segment.kind else {
            return Err(BrokenRuleset::Data);
        };
        let from = match offset_expr.get_operators_reader().read() {
            Ok(Operator::I32Const { value }) => u64::from(value as u32),
            _ => return Err(BrokenRuleset::Data),
        };
        let fits = self.memory.is_some_and(|bytes| from + segment.data.len() as u64 <= bytes);
        if from < u64::from(IMAGE) || !fits { Err(BrokenRuleset::Data) } else { Ok(()) }
    }

    fn body(&self, function: u32, body: &FunctionBody<'_>) -> Result<(), BrokenRuleset> {
        let ops = body.get_operators_reader().map_err(invalid)?;
        let ops: Vec<Operator<'_>> = ops.into_iter().collect::<Result<_, _>>().map_err(invalid)?;
        let imported = self.imports.len() as u32;
        // How often each local is written.
        let mut written: HashMap<u32, u32> = HashMap::new();
        let mut counters = Vec::new();
        for (n, op) in ops.iter().enumerate() {
            if let Operator::LocalSet { local_index } | Operator::LocalTee { local_index } = op {
                *written.entry(*local_index).or_default() += 1;
            }
            match class(op) {
                Class::Plain | Class::Store(0) => {}
                Class::Loop => counters.push(counter(&ops, n).ok_or(BrokenRuleset::Loop(function))?),
                Class::Call(callee) if callee >= imported + function => return Err(BrokenRuleset::Call(function)),
                Class::Call(_) => {}
                _ => return Err(BrokenRuleset::Operator { function, op: name(op) }),
            }
        }
        // Before the loop and in it, and by nobody else: so each loop has its own.
        let alone = counters.iter().all(|counter| written.get(counter) == Some(&2));
        if alone { Ok(()) } else { Err(BrokenRuleset::Loop(function)) }
    }

    fn conclude(self) -> Result<(), BrokenRuleset> {
        if self.memory.is_none() {
            return Err(BrokenRuleset::Memory("it defines none".into()));
        }
        if self.exports.get("memory") != Some(&(ExternalKind::Memory, 0)) {
            return Err(BrokenRuleset::Missing("its memory"));
        }
        let imported = self.imports.len() as u32;
        let is_decide = |f: u32| {
            let ty = f.checked_sub(imported).and_then(|f| self.functions.get(f as usize));
            ty.is_some_and(|ty| self.is_of_type(*ty, 1, 0))
        };
        match self.exports.get("decide") {
            Some(&(ExternalKind::Func, f)) if is_decide(f) => {}
            _ => return Err(BrokenRuleset::Missing("a function decide of one i32 that returns nothing")),
        }
        let abi = match self.exports.get("abi") {
            Some(&(ExternalKind::Global, g)) => self.globals.get(g as usize).copied().flatten(),
            _ => None,
        };
        match abi {
            None => return Err(BrokenRuleset::Missing("a constant i32 global abi")),
            Some(abi) if abi == ABI as i32 => {}
            Some(other) => return Err(BrokenRuleset::Abi(other)),
        }
        match self.exports.keys().find(|k| !["memory", "decide", "abi"].contains(&k.as_str())) {
            Some(extra) => Err(BrokenRuleset::Export(extra.escape_debug().to_string())),
            None => Ok(()),
        }
    }
}

/// The local that counts the rounds of the loop that begins at an instruction, when it does so in the one form that there is:
///
/// ```text
/// i32.const MOST  local.set C  loop
///     local.get C  i32.eqz  br_if (out of the loop)
///     local.get C  i32.const -1  i32.add  local.set C
/// ```
fn counter(ops: &[Operator<'_>], at: usize) -> Option<u32> {
    use Operator::{BrIf, I32Add, I32Const, I32Eqz, LocalGet, LocalSet};
    let head = ops.get(at.checked_sub(2)?..at)?;
    let [I32Const { value: most }, LocalSet { local_index: counter }] = head else { return None };
    let start = ops.get(at + 1..at + 8)?;
    let [
        LocalGet { local_index: tested },
        I32Eqz,
        BrIf { relative_depth: 1.. },
        LocalGet { local_index: read },
        I32Const { value: -1 },
        I32Add,
        LocalSet { local_index: written },
    ] = start
    else {
        return None;
    };
    let same = [tested, read, written].into_iter().all(|local| local == counter);
    (same && (0..=ROUNDS_MAX).contains(most)).then_some(*counter)
}

// What is written by the host is in front of the image.
const _: () = assert!(RULES < IMAGE);
