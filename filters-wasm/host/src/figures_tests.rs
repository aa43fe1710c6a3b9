//! What a packet costs; printed with `--nocapture`. The figures that the project claims come from `smpnet-bench`.

use crate::testrouter::{TestRouter, asked, udp};
use crate::{Action, FilterManager, FilterSpec, Layer, ModuleSpec, Source};
use smpnet_abi::BURST_MAX;
use smpnet_bpf::{Dlt, compile_expr};
use std::hint::black_box;
use std::time::Instant;

/// Nanoseconds per packet: the best of many rounds, so that what else runs on the machine matters little.
fn best(mut burst: impl FnMut()) -> f64 {
    const BURSTS: u32 = 256;
    let round = |burst: &mut dyn FnMut()| {
        let began = Instant::now();
        (0..BURSTS).for_each(|_| burst());
        began.elapsed().as_nanos() as f64 / f64::from(BURSTS * BURST_MAX)
    };
    (0..100).map(|_| round(&mut burst)).fold(f64::MAX, f64::min)
}

#[test]
fn compiled_code_beats_the_interpreter() {
    let text = "ip and tcp port 80";
    let router = TestRouter::new(64, 1);
    for cell in 0..64 {
        let mut packet = udp(if cell % 2 == 0 { 80 } else { 81 }, 18);
        packet[9] = 6;
        router.pool.put(cell, &packet);
    }
    let manager = FilterManager::new(router.clone()).unwrap();
    manager.load(FilterSpec::new("f", Source::Expr(text.into()), Action::Drop)).unwrap();
    let cells: Vec<u32> = (0..BURST_MAX).collect();
    let filter = router.first_filter();
    let mut verdicts = [0; BURST_MAX as usize];
    let wasm = best(|| {
        verdicts.fill(0);
        // SAFETY: the only thread that judges.
        unsafe { filter.judge(&asked(Layer::Inet, 0), black_box(&cells), black_box(&mut verdicts)) };
    });
    assert_eq!(verdicts.iter().sum::<u32>(), 32);

    let program = compile_expr(text, Dlt::Raw).unwrap().program;
    let packets: Vec<Vec<u8>> = (0..64).map(|c| router.pool.bytes(c)).collect();
    let interpreter = best(|| {
        for p in &packets {
            black_box(program.run(black_box(p), p.len() as u32));
        }
    });
    println!(
        "{text:?} in bursts of 64: {wasm:.2} ns a packet through the hook, {interpreter:.2} ns by the interpreter alone"
    );
    assert!(wasm < interpreter, "{wasm} ns against {interpreter} ns");
}

#[test]
fn a_module_of_somebody_else_costs_less_than_the_interpreter() {
    let router = TestRouter::new(64, 1);
    (0..64).for_each(|cell| router.pool.put(cell, &udp(5000 + (cell % 2) as u16, 36)));
    let cells: Vec<u32> = (0..BURST_MAX).collect();
    let cost = |source: Source| {
        let manager = FilterManager::new(router.clone()).unwrap();
        manager.load(FilterSpec::new("f", source, Action::Drop)).unwrap();
        let filter = router.first_filter();
        let mut verdicts = [0; BURST_MAX as usize];
        best(|| {
            verdicts.fill(0);
            // SAFETY: the only thread that judges.
            unsafe { filter.judge(&asked(Layer::Inet, 0), black_box(&cells), black_box(&mut verdicts)) };
        })
    };
    let sum: String = (0..16).map(|i| format!("(i32.load offset={} (local.get $data)) (i32.add)", 4 * i)).collect();
    let reads = format!("(i32.const 0) {sum} (i32.const 0x12345) (i32.eq)");
    let module = |prog: &str| Source::Module(ModuleSpec::new(crate::testguest::guest(prog)));
    let [nothing, port, sixty_four] =
        ["(i32.const 0)", &crate::testguest::drop_port(5000), &reads].map(|p| cost(module(p)));
    let generated = cost(Source::Expr("udp dst port 5000".into()));
    println!(
        "ns a packet in bursts of 64: a module that looks at nothing {nothing:.2}, at a port {port:.2}, at 64 bytes \
         {sixty_four:.2}; generated code for the port {generated:.2}"
    );
    assert!(sixty_four < 60.0, "{sixty_four} ns");
}
