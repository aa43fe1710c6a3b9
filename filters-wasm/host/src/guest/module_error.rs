//! Why a module of somebody else is not taken.

/// Why a module was refused before it ran, or by itself when it was set up.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ModuleError {
    /// Larger than the operator allows.
    #[error("the module has {bytes} bytes, {most} are allowed (module_bytes): strip it, or raise the limit")]
    TooLong {
        /// Its size.
        bytes: usize,
        /// The limit.
        most: usize,
    },
    /// Not a WebAssembly module.
    #[error("{0}")]
    NotWasm(String),
    /// Not valid, also with all features that there are.
    #[error("invalid WebAssembly: {0}: build it anew, it is damaged or its compiler is wrong")]
    Invalid(String),
    /// Valid, but with features that are not among the pinned ones.
    #[error("the module uses {}, which smpnet does not run: {}", names.join(" and "), hints.join("; "))]
    Features {
        /// Names of the features.
        names: Vec<String>,
        /// What to tell the compiler.
        hints: Vec<String>,
    },
    /// There is no manifest, or two.
    #[error(
        "the module has {0} custom sections `smpnet.filter`, where its manifest belongs: exactly one is needed, as \
         smpnet_filter::filter! makes it, or SMPNET_FILTER_MANIFEST in C"
    )]
    Sections(usize),
    /// The manifest is wrong.
    #[error("the module's manifest: {0}")]
    Manifest(String),
    /// Made for a later smpnet.
    #[error(
        "the module was made for filter ABI {0}, this smpnet runs 1.0 to {version}: build it for an older one, or take a newer smpnet",
        version = smpnet_filter_abi::VERSION
    )]
    Version(String),
    /// An import that is not there or has another type.
    #[error("the module imports {0}")]
    Import(String),
    /// An export that is missing or has another type.
    #[error("the module {0}")]
    Export(String),
    /// The memory is not as the ABI wants it, or too large.
    #[error("the module's memory {0}")]
    Memory(String),
    /// The manifest asks for what the operator has not granted.
    #[error("the module asks for {}, which is not granted: allow {} to let it", names.join(", "), names.join(" "))]
    NotGranted {
        /// Names of the capabilities.
        names: Vec<String>,
    },
    /// A table that it looks into is not there, or of another kind.
    #[error("{0}")]
    Table(String),
    /// It could not be set up: it trapped, overran its budget, or refused its configuration.
    #[error("the module cannot be set up: {0}")]
    Setup(String),
}
