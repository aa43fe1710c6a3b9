//! Filter programs and expressions.

use smpnet_bpf::{CompileOptions, Dlt, Engine, Insn, Program, compile_expr_with, compile_wasm};

/// Instructions from strangers, then a packet: the validator refuses them, or they run and compile without a fault, and a
/// packet in pieces is judged as a whole one.
pub fn bpf_program(data: &[u8]) {
    let (code, packet) = data.split_at(data.len().min(8 * 32));
    let insn =
        |b: &[u8]| Insn { code: u16::from(b[0]), jt: b[1], jf: b[2], k: u32::from_le_bytes([b[4], b[5], b[6], b[7]]) };
    let Ok(program) = Program::new(code.chunks_exact(8).map(insn).collect()) else { return };
    let whole = program.run(packet, packet.len() as u32);
    let (a, b) = packet.split_at(packet.len() / 2);
    assert_eq!(program.run_segments(&[a, b], packet.len() as u32), whole);
    compile_wasm(&program, &CompileOptions { pool_pages: 16, cell_size: Some(2112) });
}

/// Filter expressions, and programs as text.
pub fn bpf_expression(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    for dlt in [Dlt::Raw, Dlt::En10mb] {
        // What it says of a text does not matter here, only that it says something.
        let _ = compile_expr_with(&text, dlt, Engine::Subset);
    }
    let _ = smpnet_bpf::load_program(&text);
}
