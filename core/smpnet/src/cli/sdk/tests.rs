use super::project::{Kind, Project};
use super::*;
use smpnet_lab::{CLANG_FLAGS, cargo, require};
use std::process::Command as Program;

/// Writes a project as the command does.
fn begin(what: What, lang: Lang, name: &str, dir: &Path) -> Output {
    let command = Command::New { what, name: name.into(), lang, dir: Some(dir.into()), sdk: None };
    run(&SdkArgs { command }).unwrap()
}

fn succeeds(program: &mut Program) {
    let out = program.output().unwrap();
    let (text, errors) = (String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr));
    assert!(out.status.success(), "{program:?}\n{text}\n{errors}");
}

/// Cargo in a project, building where this workspace builds, without the network.
fn cargo_in(dir: &Path, args: &[&str]) -> Program {
    let mut c = cargo();
    c.current_dir(dir).args(args).arg("--offline");
    c.env("CARGO_TARGET_DIR", target().join("sdk-new")).env("RUSTFLAGS", "-D warnings");
    // What this workspace has locked is on this machine; the newest of everything may not be.
    let lock = concat!(env!("CARGO_MANIFEST_DIR"), "/../../Cargo.lock");
    std::fs::copy(lock, dir.join("Cargo.lock")).unwrap();
    c
}

fn target() -> PathBuf {
    let exe = std::env::current_exe().unwrap();
    exe.ancestors().find(|p| p.ends_with("release") || p.ends_with("debug")).and_then(Path::parent).unwrap().into()
}

#[test]
fn a_new_filter_in_rust_passes_its_tests_and_builds_to_a_module() {
    let dir = tempfile::tempdir().unwrap();
    let project = dir.path().join("p");
    begin(What::Filter, Lang::Rust, "my-first", &project);
    succeeds(&mut cargo_in(&project, &["test"]));
    succeeds(&mut cargo_in(&project, &["build", "--release", "--target", "wasm32-unknown-unknown"]));
    let module = std::fs::read(target().join("sdk-new/wasm32-unknown-unknown/release/my_first.wasm")).unwrap();
    let manifest = br#"{"abi":"1.0","name":"my-first""#;
    assert!(module.starts_with(b"\0asm") && module.windows(manifest.len()).any(|w| w == manifest));
    // As it was written, it is as rustfmt writes it.
    succeeds(Program::new("rustfmt").args(["--check", "--edition", "2024"]).arg(project.join("src/lib.rs")));
}

#[test]
fn a_new_plugin_passes_its_tests_and_builds_to_a_library() {
    let dir = tempfile::tempdir().unwrap();
    let project = dir.path().join("p");
    begin(What::Plugin, Lang::Rust, "echo-port", &project);
    succeeds(&mut cargo_in(&project, &["test"]));
    succeeds(&mut cargo_in(&project, &["build"]));
    assert!(target().join("sdk-new/debug/libsmpnet_echo_port.so").is_file());
    succeeds(Program::new("rustfmt").args(["--check", "--edition", "2024"]).arg(project.join("src/lib.rs")));
}

#[test]
fn a_new_filter_in_c_passes_its_tests_and_builds_to_a_module() {
    let dir = tempfile::tempdir().unwrap();
    let project = dir.path().join("p");
    begin(What::Filter, Lang::C, "my-first", &project);
    let there = |program: &str| Program::new(program).arg("--version").output().is_ok();
    if !require(there("make") && there("cc"), "make and cc are missing: apt-get install build-essential") {
        return;
    }
    succeeds(Program::new("make").current_dir(&project).args(["test", "CFLAGS=-Werror"]));
    if !require(there("clang") && there("wasm-ld"), "clang or wasm-ld is missing: apt-get install clang lld") {
        return;
    }
    succeeds(Program::new("make").current_dir(&project));
    let module = std::fs::read(project.join("my-first.wasm")).unwrap();
    assert!(module.starts_with(b"\0asm") && module.windows(10).any(|w| w == b"\"my-first\""));
    // The Makefile says what the laboratory says.
    let makefile = std::fs::read_to_string(project.join("Makefile")).unwrap();
    assert!(CLANG_FLAGS.iter().all(|f| makefile.contains(f)), "{makefile}");
}

#[test]
fn nothing_is_written_over() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("mine"), "precious").unwrap();
    let command =
        Command::New { what: What::Filter, name: "x".into(), lang: Lang::C, dir: Some(dir.path().into()), sdk: None };
    let error = run(&SdkArgs { command }).err().unwrap().error;
    assert!(error.contains("nothing was written"), "{error}");
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
}

#[test]
fn names_that_cannot_be_are_refused_and_types_do_not_collide() {
    let project = |name: &str| Project::new(Kind::FilterRust, name, None);
    for name in ["", "Big", "9lives", "two words", "a--b", "-a", "a-", "a_b", "../x", "fn", "test", "smpnet-x"] {
        assert!(project(name).is_err(), "{name}");
    }
    assert!(format!("{:?}", project("no-telnet-6")).contains("\"NoTelnet6\""));
    assert!(format!("{:?}", project("filter")).contains("\"FilterOfPackets\""));
}

#[test]
fn a_wrong_folder_of_the_sdk_is_named() {
    let error = sources(Some(Path::new("/nowhere")), Kind::Plugin).unwrap_err();
    assert!(error.error.contains("/nowhere/plugin/Cargo.toml"), "{}", error.error);
    assert!(error.hint.unwrap().contains("--sdk"));
}
