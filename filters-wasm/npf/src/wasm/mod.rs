//! The rules of a plan as one WebAssembly module, which decides on bursts of packets as [`Plan::decide_numbered`] does.
//!
//! # The module
//!
//! | | |
//! |---|---|
//! | export `memory` | its own memory, fixed: facts in, numbers of rules out, behind them the plan's image. |
//! | export `decide` | `(n: i32)`: decides on the first n packets; more than [`BURST`] count as [`BURST`]. |
//! | export `abi` | global, constant: [`ABI`]. |
//! | import `smpnet.table` | `(packet, table, side) -> i32`: whether a table has the packet's source (side 0) or destination (1) now. |
//! | import `smpnet.within` | `(packet, rule) -> i32`: whether a rule that would match may, as its limits say. |
//! | import `smpnet.program` | `(packet, number) -> i32`: what a program of the plan returns for the packet. |
//!
//! Packet i of a burst is described by [`Facts`] at [`FACTS`]` + i * 64`; the number of the rule that decides on it, or
//! [`NONE`], is written at [`RULES`]` + i * 4`. An import is there when some rule needs it. Packets are decided on one after
//! the other, and the host is asked for the very things, in the very order, that the plan would ask.
//!
//! The arrays of the plan are data, at [`IMAGE`]. Places and shapes are constants of the code, which hardly grows with the
//! rules: 10 rules and 10,000 take about the same time to compile. Code that no rule needs is left out: dimensions in which none
//! asks anything, barriers, dynamic rulesets, limits, checks.
//!
//! The module writes to nothing but its memory, grows nothing, and each of its loops counts down from a constant, in the
//! one form that `body` writes and the host's verifier knows.
//!
//! Programs of pcap-filter rules are run by the host and not compiled in: their packets may lie in several cells or, put together
//! from fragments, in none, and they are asked only about packets that fit in everything else.

mod body;
mod facts;
mod family;
mod holds;
mod host;
mod step;
#[cfg(test)]
mod tests;
mod uses;
mod walk;

pub use self::facts::{FACTS_SIZE, Facts, NO_PORT, Side};
pub use self::host::{RulesetCompiler, RulesetHost, RunningRuleset};
pub use crate::plan::decide::NONE;

use self::{
    body::{Body, Local, at},
    family::Decider,
    uses::Uses,
};
use crate::{
    config::Family,
    plan::{Image, Plan},
};
use wasm_encoder::{
    CodeSection, ConstExpr, DataSection, EntityType, ExportKind, ExportSection, Function, FunctionSection,
    GlobalSection, GlobalType, ImportSection, MemorySection, MemoryType, Module, TypeSection, ValType,
};

/// Value of the exported global `abi`.
pub const ABI: u32 = 0x0002_0000;
/// The most packets of a call.
pub const BURST: u32 = 64;
/// Where the facts of the first packet stand in memory.
pub const FACTS: u32 = 0;
/// Where its rule is written.
pub const RULES: u32 = FACTS + BURST * FACTS_SIZE;
/// Where the module keeps what it has found out about the packets of a burst: a line of the cache for each.
const LEFT: u32 = RULES + BURST * 4;
const LEFT_SIZE: u32 = 64;
/// Where the image stands: on a line of the cache, as its blocks do in it.
pub const IMAGE: u32 = LEFT + BURST * LEFT_SIZE;
/// The largest image that a module is made of, in bytes. That of 10,000 rules has a few million.
pub const IMAGE_MAX: usize = 1 << 30;

/// Module of the imports.
pub const IMPORTS: &str = "smpnet";
/// Asks a table.
pub const IMPORT_TABLE: &str = "table";
/// Asks limits.
pub const IMPORT_WITHIN: &str = "within";
/// Runs a program.
pub const IMPORT_PROGRAM: &str = "program";

const PAGE: u64 = 64 * 1024;

/// A plan is too large for a module.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("rules whose tables take {0} bytes cannot be one module: {IMAGE_MAX} are the most")]
pub struct TooLarge(pub usize);

/// Compiles a plan. The output depends on nothing but the plan.
///
/// # Errors
/// The plan's arrays are larger than [`IMAGE_MAX`].
pub fn compile(plan: &Plan) -> Result<Vec<u8>, TooLarge> {
    if plan.bytes() > IMAGE_MAX {
        return Err(TooLarge(plan.bytes()));
    }
    let image = plan.image();
    let places = Places { image, narrow_at: u64::from(IMAGE) + image.narrow_at() as u64 };
    let families = [Family::V4, Family::V6].map(|of| {
        let space = plan.space(of);
        (of, space, Uses::of(space, image, if of == Family::V4 { 1 } else { 4 }))
    });
    let any = |is: fn(&Uses) -> bool| families.iter().any(|(_, _, uses)| is(uses));

    let mut types = TypeSection::new();
    types.ty().function([ValType::I32], []);
    types.ty().function([ValType::I32; 2], [ValType::I32]);
    types.ty().function([ValType::I32; 3], [ValType::I32]);
    const DECIDE: u32 = 0;
    const TWO: u32 = 1;
    const THREE: u32 = 2;

    let mut imports = ImportSection::new();
    let mut next = 0;
    let mut import = |is_needed: bool, name: &str, of: u32| {
        is_needed.then(|| {
            imports.import(IMPORTS, name, EntityType::Function(of));
            next += 1;
            next - 1
        })
    };
    let table = import(any(Uses::tables), IMPORT_TABLE, THREE);
    let within = import(any(|uses| uses.limited), IMPORT_WITHIN, TWO);
    let program = import(any(|uses| uses.programs), IMPORT_PROGRAM, TWO);

    let mut functions = FunctionSection::new();
    let mut code = CodeSection::new();
    let mut define = |function: Function, of: u32| {
        functions.function(of);
        code.function(&function);
        next += 1;
        next - 1
    };
    // The global 0 is `abi`.
    let memo = table.map(|_| [1, 2]);
    let calls = families.map(|(of, _, uses)| {
        let mut calls = Calls { table, within, program, memo, holds: None };
        calls.holds = uses.checks.then(|| define(holds::holds(of, &uses, &calls), THREE));
        calls
    });
    let deciders = [0, 1].map(|n| {
        let ((of, space, uses), calls) = (&families[n], &calls[n]);
        let interfaces = plan.interfaces().len() as u32;
        (space.rules > 0).then_some(Decider { of: *of, space, places: &places, interfaces, uses, calls })
    });
    let decide = define(decide(&deciders), DECIDE);

    let bytes = u64::from(IMAGE) + plan.bytes() as u64;
    let pages = bytes.div_ceil(PAGE);
    let mut memories = MemorySection::new();
    memories.memory(MemoryType {
        minimum: pages,
        maximum: Some(pages),
        memory64: false,
        shared: false,
        page_size_log2: None,
    });
    let mut globals = GlobalSection::new();
    let global = |val_type, mutable| GlobalType { val_type, mutable, shared: false };
    globals.global(global(ValType::I32, false), &ConstExpr::i32_const(ABI as i32));
    for _ in memo.iter().flatten() {
        globals.global(global(ValType::I64, true), &ConstExpr::i64_const(0));
    }
    let mut exports = ExportSection::new();
    exports.export("memory", ExportKind::Memory, 0);
    exports.export("decide", ExportKind::Func, decide);
    exports.export("abi", ExportKind::Global, 0);
    let mut data = DataSection::new();
    if plan.bytes() > 0 {
        data.active(0, &ConstExpr::i32_const(IMAGE as i32), image.little_endian());
    }
    let mut module = Module::new();
    module
        .section(&types)
        .section(&imports)
        .section(&functions)
        .section(&memories)
        .section(&globals)
        .section(&exports)
        .section(&code)
        .section(&data);
    Ok(module.finish())
}

/// Where the words of an image stand in memory.
struct Places<'a> {
    image: &'a Image,
    narrow_at: u64,
}

impl Places<'_> {
    fn narrow(&self, place: u32) -> u64 {
        self.narrow_at + u64::from(place) * 4
    }

    fn wide(&self, place: u32) -> u64 {
        u64::from(IMAGE) + u64::from(place) * 8
    }
}

/// Functions that are called, and what tables have answered.
struct Calls {
    table: Option<u32>,
    within: Option<u32>,
    program: Option<u32>,
    /// Globals with a bit for each of the first tables and a side: asked for this packet, found.
    memo: Option<[u32; 2]>,
    holds: Option<u32>,
}

/// The function `decide`: goes through the burst twice. All is one function: calls for each packet would cost a tenth.
fn decide([v4, v6]: &[Option<Decider<'_>>; 2]) -> Function {
    const N: Local = Local(0);
    let mut b = Body::new(1);
    let [packet, facts, left, rule] = [(); 4].map(|()| b.narrow());
    let each = |b: &mut Body, of: &mut dyn FnMut(&mut Body)| {
        b.ops().i32_const(0).local_set(packet.0);
        b.ops().i32_const(FACTS as i32).local_set(facts.0).i32_const(LEFT as i32).local_set(left.0);
        b.repeat(BURST, |b, packets| {
            b.ops().local_get(packet.0).local_get(N.0).i32_ge_u();
            b.leave_if(packets.done);
            of(b);
            b.ops().local_get(packet.0).i32_const(1).i32_add().local_set(packet.0);
            b.ops().local_get(facts.0).i32_const(FACTS_SIZE as i32).i32_add().local_set(facts.0);
            b.ops().local_get(left.0).i32_const(LEFT_SIZE as i32).i32_add().local_set(left.0);
        });
    };
    let by_family = |b: &mut Body, of: &dyn Fn(&mut Body, &Decider<'_>)| {
        b.ops().local_get(facts.0).i32_load8_u(at(facts::FAMILY.into()));
        let part = |b: &mut Body, decider: &Option<Decider<'_>>| decider.iter().for_each(|decider| of(b, decider));
        b.either(|b| part(b, v6), |b| part(b, v4));
    };
    each(&mut b, &mut |b| by_family(b, &|b, decider| decider.prepare(b, facts, left)));
    each(&mut b, &mut |b| {
        b.ops().i32_const(NONE as i32).local_set(rule.0);
        by_family(b, &|b, decider| decider.walk(b, (facts, packet), left, rule));
        b.ops().local_get(packet.0).i32_const(2).i32_shl().local_get(rule.0).i32_store(at(RULES.into()));
    });
    b.finish()
}
