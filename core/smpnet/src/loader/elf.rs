//! What can be known of a plugin's file before any of its code is loaded.

use super::LoadError;
use object::elf::{self, FileHeader64};
use object::read::elf::{ElfFile, FileHeader, ProgramHeader};
use object::{Endianness, Object, ObjectSymbol};
use smpnet_abi::{ABI_MAJOR, ABI_MINOR, MANIFEST_MAGIC, MANIFEST_SYMBOL, Manifest, kind};
use std::path::Path;

#[cfg(target_arch = "x86_64")]
const MACHINE: (u16, &str) = (elf::EM_X86_64, "x86_64");
#[cfg(target_arch = "aarch64")]
const MACHINE: (u16, &str) = (elf::EM_AARCH64, "aarch64");
#[cfg(target_arch = "riscv64")]
const MACHINE: (u16, &str) = (elf::EM_RISCV, "riscv64");

/// Where the fields of the ELF header stand that are read before the header is known to be one.
mod ident {
    pub(super) const CLASS: usize = 4;
    pub(super) const DATA: usize = 5;
    pub(super) const TYPE: usize = 16;
    pub(super) const MACHINE: usize = 18;
    pub(super) const SIZE: usize = 64;
}

/// Checks that `bytes` are a plugin for this machine and ABI, and reads its manifest out of them.
pub(super) fn inspect(file: &Path, bytes: &[u8]) -> Result<Manifest, LoadError> {
    check_kind(file, bytes)?;
    let truncated = |detail: String| LoadError::Truncated { file: file.into(), detail };
    let elf = ElfFile::<FileHeader64<Endianness>>::parse(bytes).map_err(|e| truncated(e.to_string()))?;
    check_complete(&elf, bytes.len() as u64).map_err(truncated)?;
    let find = |symbol: &str| {
        elf.dynamic_symbols()
            .find(|s| s.is_definition() && s.name() == Ok(symbol))
            .map(|s| s.address())
            .ok_or_else(|| LoadError::MissingSymbol { file: file.into(), symbol: symbol.to_owned() })
    };
    let address = find(MANIFEST_SYMBOL)?;
    let manifest = parse(at_address(&elf, address)).map_err(|wrong| wrong.at(file))?;
    find(abi_stable::library::ROOT_MODULE_LOADER_NAME)?;
    Ok(manifest)
}

type Elf<'d> = ElfFile<'d, FileHeader64<Endianness>>;

/// Is it an ELF library, and for this machine?
fn check_kind(file: &Path, bytes: &[u8]) -> Result<(), LoadError> {
    let other = |found: &str| Err(LoadError::NotALibrary { file: file.into(), found: found.to_owned() });
    if !bytes.starts_with(&elf::ELFMAG) {
        return other(match bytes {
            [] => "the file is empty",
            [b'!', b'<', b'a', b'r', b'c', b'h', b'>', ..] => "it is a static archive",
            [b'#', b'!', ..] => "it is a script",
            [0, b'a', b's', b'm', ..] => "it is a WebAssembly module, which `smpnet filter load` takes",
            _ if std::str::from_utf8(&bytes[..bytes.len().min(256)]).is_ok() => "it is text",
            _ => "it has no ELF header",
        });
    }
    if bytes.len() < ident::SIZE {
        let detail = format!("{} bytes are less than an ELF header", bytes.len());
        return Err(LoadError::Truncated { file: file.into(), detail });
    }
    let u16_at = |at: usize| {
        let pair = [bytes[at], bytes[at + 1]];
        if bytes[ident::DATA] == elf::ELFDATA2MSB { u16::from_be_bytes(pair) } else { u16::from_le_bytes(pair) }
    };
    let native = if cfg!(target_endian = "big") { elf::ELFDATA2MSB } else { elf::ELFDATA2LSB };
    let machine = u16_at(ident::MACHINE);
    if bytes[ident::CLASS] != elf::ELFCLASS64 || bytes[ident::DATA] != native || machine != MACHINE.0 {
        let bits = if bytes[ident::CLASS] == elf::ELFCLASS32 { "32-bit " } else { "" };
        let found = format!("{bits}{}", machine_name(machine));
        return Err(LoadError::Architecture { file: file.into(), found, wanted: MACHINE.1 });
    }
    match u16_at(ident::TYPE) {
        elf::ET_DYN => Ok(()),
        elf::ET_REL => other("it is an object file that was not linked"),
        elf::ET_EXEC => other("it is an executable"),
        elf::ET_CORE => other("it is a core dump"),
        _ => other("it is another sort of ELF file"),
    }
}

fn machine_name(machine: u16) -> String {
    let name = match machine {
        elf::EM_X86_64 => "x86_64",
        elf::EM_386 => "x86",
        elf::EM_AARCH64 => "aarch64",
        elf::EM_ARM => "arm",
        elf::EM_RISCV => "riscv",
        elf::EM_PPC64 => "powerpc64",
        elf::EM_S390 => "s390x",
        elf::EM_MIPS => "mips",
        elf::EM_LOONGARCH => "loongarch",
        other => return format!("ELF machine {other}"),
    };
    name.to_owned()
}

/// Does the file have everything that its headers speak of? A library that was cut short may look whole to the
/// system's loader and end the process by SIGBUS when a missing page is touched.
fn check_complete(elf: &Elf<'_>, len: u64) -> Result<(), String> {
    let (header, endian) = (elf.elf_header(), elf.endian());
    let table_end = |offset: u64, n: u16, size: u16| offset.checked_add(u64::from(n) * u64::from(size));
    let sections = table_end(header.e_shoff(endian), header.e_shnum(endian), header.e_shentsize(endian));
    let programs = table_end(header.e_phoff(endian), header.e_phnum(endian), header.e_phentsize(endian));
    for (what, end) in [("section headers", sections), ("program headers", programs)] {
        if end.is_none_or(|end| end > len) {
            return Err(format!("its {what} lie beyond the end of its {len} bytes"));
        }
    }
    for segment in elf.elf_program_headers() {
        let (at, size) = (segment.p_offset(endian), segment.p_filesz(endian));
        if segment.p_type(endian) == elf::PT_LOAD && at.checked_add(size).is_none_or(|end| end > len) {
            return Err(format!("{size} bytes at {at:#x} lie beyond the end of its {len} bytes"));
        }
    }
    Ok(())
}

/// The file's bytes from an address of the library to the end of the segment that holds it; none if none does.
fn at_address<'d>(elf: &Elf<'d>, address: u64) -> &'d [u8] {
    let endian = elf.endian();
    let holds = |s: &&elf::ProgramHeader64<Endianness>| {
        let offset = address.checked_sub(s.p_vaddr(endian));
        s.p_type(endian) == elf::PT_LOAD && offset.is_some_and(|o| o < s.p_filesz(endian))
    };
    let bytes = elf.elf_program_headers().iter().find(holds).and_then(|s| {
        let data = s.data(endian, elf.data()).ok()?;
        data.get(usize::try_from(address - s.p_vaddr(endian)).ok()?..)
    });
    bytes.unwrap_or_default()
}

/// What is wrong with a manifest.
#[derive(Debug)]
enum Wrong {
    Bad(String),
    Older(u16, u16),
    Newer(u16, u16),
}

impl Wrong {
    fn at(self, file: &Path) -> LoadError {
        let file = file.to_owned();
        let host = host_abi();
        match self {
            Wrong::Bad(detail) => LoadError::BadManifest { file, detail },
            Wrong::Older(major, minor) => LoadError::OlderAbi { file, plugin: format!("{major}.{minor}"), host },
            Wrong::Newer(major, minor) => LoadError::NewerAbi { file, plugin: format!("{major}.{minor}"), host },
        }
    }
}

/// The ABI version of this program.
pub(super) fn host_abi() -> String {
    format!("{ABI_MAJOR}.{ABI_MINOR}")
}

fn parse(bytes: &[u8]) -> Result<Manifest, Wrong> {
    let bad = |text: &str| Wrong::Bad(text.to_owned());
    if !bytes.starts_with(&MANIFEST_MAGIC) {
        return Err(bad("it does not begin with the magic bytes"));
    }
    // Magic, size and version keep their places in every version of the ABI; what follows is known once they are.
    let u16_at = |at: usize| bytes.get(at..at + 2).map(|b| u16::from_ne_bytes([b[0], b[1]]));
    let size = bytes.get(8..12).map(|b| u32::from_ne_bytes([b[0], b[1], b[2], b[3]]));
    let (Some(size), Some(major), Some(minor)) = (size, u16_at(12), u16_at(14)) else {
        return Err(bad("the file ends inside it"));
    };
    if major < ABI_MAJOR {
        return Err(Wrong::Older(major, minor));
    }
    if major > ABI_MAJOR || minor > ABI_MINOR {
        return Err(Wrong::Newer(major, minor));
    }
    if size as usize != size_of::<Manifest>() {
        return Err(Wrong::Bad(format!("it says {size} bytes, version {major}.{minor} has {}", size_of::<Manifest>())));
    }
    let whole = bytes.get(..size_of::<Manifest>()).ok_or_else(|| bad("the file ends inside it"))?;
    // SAFETY: as many bytes as a Manifest has, which is integers all through: every pattern of bits is one.
    let manifest: Manifest = unsafe { whole.as_ptr().cast::<Manifest>().read_unaligned() };
    let name = text(&manifest.name).filter(|n| is_name(n)).ok_or_else(|| bad("its name is not [a-z][a-z0-9_-]*"))?;
    if text(&manifest.version).is_none_or(|v| v.is_empty()) {
        return Err(Wrong::Bad(format!("{name} has no version")));
    }
    if text(&manifest.license).is_none() || text(&manifest.summary).is_none() {
        return Err(Wrong::Bad(format!("a text of {name} is not UTF-8")));
    }
    if manifest.kinds == 0 || manifest.kinds & !(kind::DRIVER | kind::IFKIND | kind::FILTER) != 0 {
        return Err(Wrong::Bad(format!("the kinds {:#x} of {name} are none that version 1 has", manifest.kinds)));
    }
    Ok(manifest)
}

fn is_name(name: &str) -> bool {
    let rest = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_' || b == b'-';
    name.starts_with(|c: char| c.is_ascii_lowercase()) && name.bytes().all(rest)
}

/// A NUL-padded text of a manifest; none when it is not UTF-8 or has no NUL.
pub(super) fn text(bytes: &[u8]) -> Option<String> {
    let end = bytes.iter().position(|b| *b == 0)?;
    std::str::from_utf8(&bytes[..end]).ok().map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes_of(m: &Manifest) -> Vec<u8> {
        // SAFETY: a Manifest has no padding and is integers all through.
        unsafe { std::slice::from_raw_parts(std::ptr::from_ref(m).cast::<u8>(), size_of::<Manifest>()) }.to_vec()
    }

    fn good() -> Manifest {
        Manifest::new("good", "1.2.3", "MIT", "a plugin", kind::DRIVER, 0, &[])
    }

    #[test]
    fn a_good_manifest_is_read() {
        let m = parse(&bytes_of(&good())).unwrap();
        assert_eq!((text(&m.name).unwrap(), text(&m.version).unwrap()), ("good".into(), "1.2.3".into()));
    }

    #[test]
    fn no_cut_of_a_manifest_is_taken_for_one() {
        let whole = bytes_of(&good());
        for n in 0..whole.len() {
            assert!(matches!(parse(&whole[..n]), Err(Wrong::Bad(_))), "{n} bytes");
        }
    }

    #[test]
    fn names_versions_and_kinds_are_checked() {
        let wrong = |change: fn(&mut Manifest)| {
            let mut m = good();
            change(&mut m);
            parse(&bytes_of(&m)).map(|_| ()).unwrap_err()
        };
        assert!(matches!(wrong(|m| m.name[0] = b'G'), Wrong::Bad(_)));
        assert!(matches!(wrong(|m| m.name = [b'a'; 32]), Wrong::Bad(_)));
        assert!(matches!(wrong(|m| m.version = [0; 24]), Wrong::Bad(_)));
        assert!(matches!(wrong(|m| m.summary[0] = 0xff), Wrong::Bad(_)));
        assert!(matches!(wrong(|m| m.kinds = 0), Wrong::Bad(_)));
        assert!(matches!(wrong(|m| m.size -= 8), Wrong::Bad(_)));
        assert!(matches!(wrong(|m| m.abi_major -= 1), Wrong::Older(0, 0)));
        assert!(matches!(wrong(|m| m.abi_major += 1), Wrong::Newer(2, 0)));
        assert!(matches!(wrong(|m| m.abi_minor += 1), Wrong::Newer(1, 1)));
    }

    #[test]
    fn what_is_not_a_library_is_named() {
        let says = |bytes: &[u8]| inspect(Path::new("x.so"), bytes).map(|_| ()).unwrap_err().to_string();
        assert!(says(b"").contains("x.so: not a shared library: the file is empty"));
        assert!(says(b"#!/bin/sh\n").contains("a script"));
        assert!(says(b"\0asm\x01\0\0\0").contains("WebAssembly"));
        assert!(says(b"\x7fELF\x02\x01").contains("x.so: truncated"));
    }

    #[test]
    fn no_damage_to_the_headers_of_a_library_makes_the_check_panic() {
        let mut bytes = std::fs::read(std::env::current_exe().unwrap()).unwrap();
        let sections = u64::from_ne_bytes(bytes[40..48].try_into().unwrap()) as usize;
        let places: Vec<usize> = (0..1024).chain(sections..bytes.len().min(sections + 4096)).collect();
        let mut x: u64 = 1;
        for _ in 0..5000 {
            // xorshift64
            x ^= x << 13;
            x ^= x >> 7;
            x ^= x << 17;
            let (at, value) = (places[x as usize % places.len()], (x >> 32) as u8);
            let was = std::mem::replace(&mut bytes[at], value);
            let _ = inspect(Path::new("x.so"), &bytes);
            bytes[at] = was;
        }
    }
}
