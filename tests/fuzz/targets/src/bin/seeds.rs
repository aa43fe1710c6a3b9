//! Writes the seeds of all targets: `fuzz-seeds FOLDER` makes FOLDER/TARGET/NN.

use std::path::Path;

fn main() -> std::io::Result<()> {
    let folder = std::env::args().nth(1).ok_or_else(|| std::io::Error::other("usage: seeds FOLDER"))?;
    for target in smpnet_fuzz_targets::TARGETS {
        let folder = Path::new(&folder).join(target.name);
        std::fs::create_dir_all(&folder)?;
        for (n, seed) in (target.seeds)().iter().enumerate() {
            std::fs::write(folder.join(format!("seed-{n:02}")), seed)?;
        }
        println!("{}", target.name);
    }
    Ok(())
}
