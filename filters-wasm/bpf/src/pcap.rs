//! libpcap, loaded at run time: building needs no C library, and neither does running without expressions that only
//! libpcap understands.

use crate::compile::Dlt;
use crate::{Insn, Program, ValidateError};
use libloading::Library;
use std::ffi::{CStr, CString, c_char, c_int, c_uint, c_void};
use std::sync::{Mutex, OnceLock};

/// File names tried, in this order: Debian's, the one of other systems, the development link.
pub const LIBRARY_NAMES: [&str; 3] = ["libpcap.so.0.8", "libpcap.so.1", "libpcap.so"];

/// Why libpcap did not give a program.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PcapError {
    /// No library under any of [`LIBRARY_NAMES`].
    #[error("libpcap is not installed (tried {}): install the package libpcap0.8 (Debian, Ubuntu: `apt-get install \
             libpcap0.8`) or libpcap (Fedora: `dnf install libpcap`); the loader said: {reason}", LIBRARY_NAMES.join(", "))]
    Missing {
        /// The loader's words for the last name.
        reason: String,
    },
    /// A library was found but lacks a function.
    #[error("{library} has no function `{symbol}`: it is not libpcap, or older than 0.8")]
    Symbol {
        /// The library.
        library: &'static str,
        /// The function.
        symbol: &'static str,
    },
    /// libpcap refused the expression.
    #[error("{message} (in {expr:?})")]
    Expression {
        /// The expression.
        expr: String,
        /// libpcap's message.
        message: String,
    },
    /// The expression contains a NUL byte.
    #[error("a filter expression cannot contain a NUL byte")]
    Nul,
    /// libpcap could not allocate.
    #[error("libpcap could not open a handle for link type {dlt}")]
    Open {
        /// The link type.
        dlt: Dlt,
    },
    /// libpcap's program breaks a rule of the validator.
    #[error("libpcap compiled {expr:?} to a program that cannot be used: {source}")]
    Invalid {
        /// The expression.
        expr: String,
        /// The rule.
        source: ValidateError,
    },
}

#[repr(C)]
struct BpfProgram {
    len: c_uint,
    insns: *mut Insn,
}

type OpenDead = unsafe extern "C" fn(c_int, c_int) -> *mut c_void;
type Compile = unsafe extern "C" fn(*mut c_void, *mut BpfProgram, *const c_char, c_int, u32) -> c_int;
type GetErr = unsafe extern "C" fn(*mut c_void) -> *const c_char;
type FreeCode = unsafe extern "C" fn(*mut BpfProgram);
type Close = unsafe extern "C" fn(*mut c_void);
type Version = unsafe extern "C" fn() -> *const c_char;
type Filter = unsafe extern "C" fn(*const Insn, *const u8, c_uint, c_uint) -> c_uint;
type Image = unsafe extern "C" fn(*const Insn, c_int) -> *const c_char;

/// `PCAP_NETMASK_UNKNOWN`: `ip broadcast` is then an error with a message, not a silent mismatch.
const NETMASK_UNKNOWN: u32 = u32::MAX;

/// `pcap_compile` keeps its parser state in globals before libpcap 1.8, and `bpf_image` returns a static buffer.
static COMPILE: Mutex<()> = Mutex::new(());

/// libpcap in this process. It stays loaded.
pub struct Libpcap {
    name: &'static str,
    open_dead: OpenDead,
    compile: Compile,
    geterr: GetErr,
    freecode: FreeCode,
    close: Close,
    version: Version,
    filter: Option<Filter>,
    image: Option<Image>,
    /// Keeps the functions above mapped.
    _library: Library,
}

impl std::fmt::Debug for Libpcap {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Libpcap").field("name", &self.name).field("version", &self.version()).finish()
    }
}

impl Libpcap {
    /// Loads libpcap once per process; later calls return the same. A failure is not remembered, so that a package
    /// installed meanwhile is found.
    ///
    /// # Errors
    /// [`PcapError::Missing`] with the package to install, or [`PcapError::Symbol`].
    pub fn load() -> Result<&'static Libpcap, PcapError> {
        static LOADED: OnceLock<Libpcap> = OnceLock::new();
        if let Some(pcap) = LOADED.get() {
            return Ok(pcap);
        }
        let pcap = Libpcap::open(&LIBRARY_NAMES)?;
        Ok(LOADED.get_or_init(|| pcap))
    }

    fn open(names: &[&'static str]) -> Result<Libpcap, PcapError> {
        let mut reason = String::new();
        for &name in names {
            // SAFETY: libpcap's initialisers do no more than set up its own tables.
            match unsafe { Library::new(name) } {
                Ok(library) => return Libpcap::bind(name, library),
                Err(error) => reason = error.to_string(),
            }
        }
        Err(PcapError::Missing { reason })
    }

    fn bind(library_name: &'static str, library: Library) -> Result<Libpcap, PcapError> {
        fn get<T: Copy>(library: &Library, name: &'static str, symbol: &'static str) -> Result<T, PcapError> {
            // SAFETY: each caller names the type that pcap.h declares for this symbol; stable since libpcap 0.8.
            match unsafe { library.get::<T>(symbol) } {
                Ok(f) => Ok(*f),
                Err(_) => Err(PcapError::Symbol { library: name, symbol }),
            }
        }
        let (l, n) = (&library, library_name);
        Ok(Libpcap {
            name: n,
            open_dead: get(l, n, "pcap_open_dead")?,
            compile: get(l, n, "pcap_compile")?,
            geterr: get(l, n, "pcap_geterr")?,
            freecode: get(l, n, "pcap_freecode")?,
            close: get(l, n, "pcap_close")?,
            version: get(l, n, "pcap_lib_version")?,
            filter: get(l, n, "bpf_filter").ok(),
            image: get(l, n, "bpf_image").ok(),
            _library: library,
        })
    }

    /// The file name it was loaded by.
    pub fn library_name(&self) -> &'static str {
        self.name
    }

    /// What `pcap_lib_version` says, for example `libpcap version 1.10.3 (with TPACKET_V3)`.
    pub fn version(&self) -> String {
        // SAFETY: no arguments; returns a static string.
        unsafe { text((self.version)()) }
    }

    /// Compiles an expression. `snaplen` is what an accepting program returns. Names in the expression are looked up
    /// by libpcap, so a host name may ask the resolver: control threads only.
    ///
    /// # Errors
    /// [`PcapError::Expression`] with libpcap's own message, [`PcapError::Invalid`] where its program is refused here,
    /// as that of `ip6 protochain`.
    pub fn compile(&self, expr: &str, dlt: Dlt, snaplen: u32, optimize: bool) -> Result<Program, PcapError> {
        let insns = self.compile_insns(expr, dlt, snaplen, optimize)?;
        Program::new(insns).map_err(|source| PcapError::Invalid { expr: expr.to_owned(), source })
    }

    fn compile_insns(&self, expr: &str, dlt: Dlt, snaplen: u32, optimize: bool) -> Result<Vec<Insn>, PcapError> {
        let source = CString::new(expr).map_err(|_| PcapError::Nul)?;
        let snaplen = c_int::try_from(snaplen).unwrap_or(c_int::MAX);
        let _one = COMPILE.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        // SAFETY: two integers in, an owned handle or null out.
        let handle = unsafe { (self.open_dead)(dlt.number(), snaplen) };
        if handle.is_null() {
            return Err(PcapError::Open { dlt });
        }
        let mut program = BpfProgram { len: 0, insns: std::ptr::null_mut() };
        // SAFETY: the handle is open, `program` is writable, `source` ends in NUL and outlives the call.
        let rc =
            unsafe { (self.compile)(handle, &mut program, source.as_ptr(), c_int::from(optimize), NETMASK_UNKNOWN) };
        let result = if rc != 0 {
            // SAFETY: the handle is open; the message lives as long as it does and is copied at once.
            let message = unsafe { text((self.geterr)(handle)) };
            Err(PcapError::Expression { expr: expr.to_owned(), message })
        } else if program.insns.is_null() {
            Ok(Vec::new())
        } else {
            // SAFETY: on success libpcap gives `len` instructions of the layout of `Insn` at `insns`; they are copied
            // and freed once.
            unsafe {
                let insns = std::slice::from_raw_parts(program.insns, program.len as usize).to_vec();
                (self.freecode)(&mut program);
                Ok(insns)
            }
        };
        // SAFETY: the handle is open and not used again.
        unsafe { (self.close)(handle) };
        result
    }

    /// libpcap's own interpreter, for tests against it; `None` where this libpcap does not export it. `pkt` is what was
    /// captured, `wirelen` the length on the wire.
    pub fn bpf_filter(&self, program: &Program, pkt: &[u8], wirelen: u32) -> Option<u32> {
        let filter = self.filter?;
        let buflen = c_uint::try_from(pkt.len()).ok()?;
        // SAFETY: the program is validated, so that the interpreter stays inside it and its scratch words; it reads at
        // most `buflen` bytes of the packet.
        Some(unsafe { filter(program.insns().as_ptr(), pkt.as_ptr(), wirelen, buflen) })
    }

    /// libpcap's listing of one instruction, for tests against it; `None` where this libpcap does not export it.
    pub fn bpf_image(&self, insn: Insn, index: u16) -> Option<String> {
        let image = self.image?;
        let _one = COMPILE.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        // SAFETY: the instruction is readable during the call; the static result is copied under the lock.
        Some(unsafe { text(image(&insn, c_int::from(index))) })
    }
}

/// Copies a C string.
///
/// # Safety
/// `p` is null or points to a string that ends in NUL and does not change meanwhile.
unsafe fn text(p: *const c_char) -> String {
    if p.is_null() {
        return String::new();
    }
    // SAFETY: the caller's promise.
    unsafe { CStr::from_ptr(p) }.to_string_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_libpcap_is_named_with_the_package_of_each_distribution() {
        let error = Libpcap::open(&["libpcap-that-does-not-exist.so"]).unwrap_err().to_string();
        assert!(error.contains("apt-get install libpcap0.8") && error.contains("dnf install libpcap"), "{error}");
    }

    #[test]
    fn a_library_that_is_not_libpcap_is_named() {
        let error = Libpcap::open(&["libc.so.6"]).unwrap_err().to_string();
        assert!(error.contains("libc.so.6") && error.contains("pcap_open_dead"), "{error}");
    }
}
