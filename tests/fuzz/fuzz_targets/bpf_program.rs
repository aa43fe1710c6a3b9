//! Instructions from strangers: the validator refuses them, or they run and compile without a fault.
#![no_main]

use libfuzzer_sys::fuzz_target;
use smpnet_bpf::{CompileOptions, Insn, Program, compile_wasm};

fuzz_target!(|data: &[u8]| {
    let (code, packet) = data.split_at(data.len().min(8 * 32));
    let insn = |b: &[u8]| Insn {
        code: u16::from(b[0]),
        jt: b[1],
        jf: b[2],
        k: u32::from_le_bytes([b[4], b[5], b[6], b[7]]),
    };
    let Ok(program) = Program::new(code.chunks_exact(8).map(insn).collect()) else { return };
    let whole = program.run(packet, packet.len() as u32);
    let (a, b) = packet.split_at(packet.len() / 2);
    assert_eq!(program.run_segments(&[a, b], packet.len() as u32), whole);
    compile_wasm(&program, &CompileOptions { pool_pages: 16 });
});
