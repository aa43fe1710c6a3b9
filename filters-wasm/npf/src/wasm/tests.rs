//! What can be said of a module without running it. That it decides as the plan does is tested where it is run, in the host.

use super::*;
use crate::{
    evaluate::{Dynamic, NoInterfaces, Programs},
    language::{NoFiles, parse},
    testing::random::{self, Dice, Setting},
};
use wasmparser::{Parser, Payload, Validator, WasmFeatures};

fn module(text: &str) -> Vec<u8> {
    let config = parse("test.conf", text, &NoFiles).unwrap().config;
    compile(&Plan::new(&config, &Programs::new(&config).unwrap(), &NoInterfaces, &Dynamic::new())).unwrap()
}

/// Names of imports, bytes of code, bytes of data.
fn parts(module: &[u8]) -> (Vec<String>, usize, usize) {
    let (mut names, mut code, mut data) = (Vec::new(), 0, 0);
    for payload in Parser::new(0).parse_all(module) {
        match payload.unwrap() {
            Payload::ImportSection(imports) => {
                names.extend(imports.into_imports().map(|import| import.unwrap().name.to_owned()));
            }
            Payload::CodeSectionStart { size, .. } => code = size as usize,
            Payload::DataSection(segments) => {
                data += segments.into_iter().map(|d| d.unwrap().data.len()).sum::<usize>()
            }
            _ => {}
        }
    }
    (names, code, data)
}

#[test]
fn every_module_is_valid_webassembly_of_the_first_version() {
    let programs = random::programs();
    for seed in 0..500 {
        let setting = Setting::random(&mut Dice::new(seed));
        let plan = Plan::new(&setting.config, &programs[0], &setting.interfaces, &setting.dynamic);
        let module = compile(&plan).unwrap();
        let valid = Validator::new_with_features(WasmFeatures::WASM1).validate_all(&module);
        assert!(valid.is_ok(), "seed {seed}: {:?}", valid.err());
        let narrow_at = plan.image().narrow_at();
        assert_eq!((parts(&module).2, narrow_at % 8), (plan.bytes(), 0), "seed {seed}");
    }
}

#[test]
fn a_module_imports_what_its_rules_need() {
    let names = |text: &str| parts(&module(&format!("table <t> type lpm\ngroup default {{ {text} }}"))).0;
    assert_eq!(names(""), [""; 0]);
    assert_eq!(names("block all\npass final from 10.0.0.0/8"), [""; 0]);
    assert_eq!(names("pass from <t>"), ["table"]);
    assert_eq!(names("pass stateful from any limit states 5"), ["within"]);
    assert_eq!(names("pass pcap-filter \"tcp\""), ["program"]);
}

#[test]
fn code_does_not_grow_with_the_rules() {
    let rules = |n: u32| {
        let rule = |i: u32| format!("pass final proto tcp from 10.{}.{}.0/24 port {}\n", i % 200, i % 251, 1 + i);
        module(&format!("group default {{\n{}}}", (0..n).map(rule).collect::<String>()))
    };
    let [few, many] = [100, 10_000].map(|n| parts(&rules(n)));
    assert!(
        many.2 > few.2 * 50 && many.1 < few.1 + 400,
        "{} bytes of code for 100 rules, {} for 10,000",
        few.1,
        many.1
    );
}
