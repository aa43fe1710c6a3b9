//! The `smpnet` program: a user-space, multi-core router. All of it is in the library, so that tests and other programs
//! can use its parts.

fn main() -> std::process::ExitCode {
    smpnet::cli::main()
}
