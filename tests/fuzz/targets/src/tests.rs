//! Every target over generated inputs, always the same ones.

use crate::seeds::Mutator;
use crate::{TARGETS, Target};

fn feed(name: &str) {
    let Some(Target { run, seeds, cases, .. }) = TARGETS.iter().find(|t| t.name == name) else {
        panic!("there is no target {name}");
    };
    let seeds = seeds();
    assert!(!seeds.is_empty());
    seeds.iter().for_each(|s| run(s));
    let mut mutator = Mutator::new(0x5eed, &seeds);
    for case in 0..*cases {
        let input = mutator.next_input();
        // So that the input is known when the target panics.
        let shown = std::panic::catch_unwind(|| run(&input));
        assert!(shown.is_ok(), "{name}: input {case} is {input:02x?}");
    }
}

macro_rules! fed {
    ($($test:ident: $name:literal,)*) => {
        $(#[test] fn $test() { feed($name); })*

        #[test]
        fn every_target_is_fed_and_has_a_program_for_cargo_fuzz() {
            let fed = [$($name),*];
            for t in TARGETS {
                assert!(fed.contains(&t.name), "no test feeds {}", t.name);
                let program = format!("{}/../fuzz_targets/{}.rs", env!("CARGO_MANIFEST_DIR"), t.name);
                assert!(std::path::Path::new(&program).exists(), "{program} is missing");
            }
        }
    };
}

fed! {
    no_text_breaks_the_compiler_of_expressions: "bpf_expression",
    no_instructions_break_validator_interpreter_or_compiler: "bpf_program",
    no_file_breaks_the_reader_of_configurations: "config",
    no_body_breaks_an_end_point: "control_request",
    no_frames_break_the_stack_or_the_accounts: "frame",
    no_peer_breaks_the_dialogue_or_the_rings_of_memif: "memif",
    no_text_breaks_the_language_of_npf: "npf_config",
    no_line_breaks_the_replay_of_npf: "npf_lines",
    no_packets_break_the_engine_of_npf: "npf_packets",
    no_file_breaks_the_reader_of_captures: "pcap_file",
    no_file_breaks_the_look_before_loading_a_plugin: "plugin_file",
    no_module_is_accepted_that_does_not_compile: "wasm_verify",
}
