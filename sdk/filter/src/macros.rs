//! The macros of a filter's crate.

/// Makes a module of a [`Filter`](crate::Filter): manifest, exports, ring, counters and tables. Once in a crate.
///
/// The keys come in this order; only `name`, `summary` and `type` are required:
///
/// ```
/// # use smpnet_filter::*;
/// # struct Mine;
/// # impl Filter for Mine {
/// #     fn new(_: &[u8]) -> Result<Self, Error> { Ok(Mine) }
/// #     fn filter(&mut self, burst: &mut Burst<'_>) { burst.count(counters::seen, burst.len() as u64) }
/// # }
/// smpnet_filter::filter! {
///     name: "mine",
///     version: "0.1.0",                       // that of the crate unless told
///     summary: "what it does, in one line",
///     window: 256,                            // bytes of each packet; 128 unless told, at most 2048, a multiple of 16
///     memory: 32,                             // most pages of 64 KiB
///     tick_ms: 1000,                          // `Filter::tick` is called so often at most
///     state: keep,                            // `export_state` and `import_state` are called at a swap
///     capabilities: [tables, edit],           // of log, clock, tables, mark, edit, reject
///     counters: [seen, dropped],              // `counters::seen`: at most 32
///     tables: [names: exact, nets: ipv4],     // `tables::names`: at most 16; exact, ipv4 or ipv6
///     type: Mine,
/// }
/// # fn main() { assert_eq!(<Mine as Module>::MANIFEST.window, 256); }
/// ```
///
/// A mistake in them is an error of the compiler:
///
/// ```compile_fail
/// # use smpnet_filter::*;
/// # struct Mine;
/// # impl Filter for Mine {
/// #     fn new(_: &[u8]) -> Result<Self, Error> { Ok(Mine) }
/// #     fn filter(&mut self, _: &mut Burst<'_>) {}
/// # }
/// smpnet_filter::filter! { name: "mine", summary: "", window: 100, type: Mine }
/// # fn main() {}
/// ```
#[macro_export]
macro_rules! filter {
    (
        name: $name:expr,
        $(version: $version:expr,)?
        summary: $summary:expr,
        $(window: $window:expr,)?
        $(memory: $memory:expr,)?
        $(tick_ms: $tick:expr,)?
        $(state: $state:ident,)?
        $(capabilities: [$($capability:ident),* $(,)?],)?
        $(counters: [$($counter:ident),* $(,)?],)?
        $(tables: [$($table:ident : $kind:ident),* $(,)?],)?
        type: $filter:ty $(,)?
    ) => {
        /// Counters of the filter.
        #[allow(non_upper_case_globals, dead_code)]
        mod counters {
            #[allow(non_camel_case_types)]
            enum Place { $($($counter,)*)? }
            $($(
                #[doc = concat!("The counter `", stringify!($counter), "`.")]
                pub const $counter: $crate::Counter = $crate::Counter::__at(Place::$counter as usize);
            )*)?
        }

        /// Tables of the filter.
        #[allow(non_upper_case_globals, dead_code)]
        mod tables {
            #[allow(non_camel_case_types)]
            enum Place { $($($table,)*)? }
            $($(
                #[doc = concat!("The table `", stringify!($table), "`.")]
                pub const $table: $crate::__table!($kind) = <$crate::__table!($kind)>::__at(Place::$table as u32);
            )*)?
        }

        impl $crate::Module for $filter {
            const MANIFEST: $crate::Manifest = $crate::Manifest {
                name: $name,
                version: $crate::__first!([$($version)?] [env!("CARGO_PKG_VERSION")]),
                summary: $summary,
                window: $crate::__first!([$($window)?] [$crate::abi::WINDOW_DEFAULT]),
                memory: $crate::__first!([$($memory)?] [0]),
                tick_ms: $crate::__first!([$($tick)?] [0]),
                capabilities: &[$($(stringify!($capability)),*)?],
                counters: &[$($(stringify!($counter)),*)?],
                tables: &[$($((stringify!($table), <$crate::__table!($kind)>::KIND)),*)?],
            };
            const KEEPS_STATE: bool = $crate::__state!($($state)?);
        }

        const _: () = <$filter as $crate::Module>::MANIFEST.check();

        #[cfg(target_arch = "wasm32")]
        #[allow(unsafe_code)]
        const _: () = {
            use $crate::__private::{Instance, Memory};

            const MANIFEST: $crate::Manifest = <$filter as $crate::Module>::MANIFEST;
            const LEN: usize = MANIFEST.json_len();
            const WINDOWS: usize = $crate::abi::BURST_MAX as usize * MANIFEST.window as usize;

            #[used]
            #[unsafe(link_section = "smpnet.filter")]
            static SECTION: [u8; LEN] = MANIFEST.json();
            static MEMORY: Memory<WINDOWS> = Memory::new();
            static INSTANCE: Instance<$filter> = Instance::new();

            #[unsafe(no_mangle)]
            extern "C" fn smpnet_ring() -> i32 {
                MEMORY.address()
            }

            #[unsafe(no_mangle)]
            extern "C" fn smpnet_init(len: i32) -> i32 {
                INSTANCE.init(&MEMORY, len)
            }

            #[unsafe(no_mangle)]
            extern "C" fn smpnet_filter(n: i32) -> i32 {
                INSTANCE.judge(&MEMORY, n)
            }

            $(
                const _: u32 = $tick;
                #[unsafe(no_mangle)]
                extern "C" fn smpnet_tick(now_ns: i64) {
                    INSTANCE.tick(now_ns);
                }
            )?

            $(
                const _: bool = $crate::__state!($state);
                #[unsafe(no_mangle)]
                extern "C" fn smpnet_state_export(off: i32) -> i32 {
                    INSTANCE.export_state(&MEMORY, off)
                }

                #[unsafe(no_mangle)]
                extern "C" fn smpnet_state_import(off: i32, len: i32) -> i32 {
                    INSTANCE.import_state(&MEMORY, off, len)
                }
            )?
        };
    };
}

#[doc(hidden)]
#[macro_export]
macro_rules! __first {
    ([] [$default:expr]) => {
        $default
    };
    ([$given:expr] [$default:expr]) => {
        $given
    };
}

#[doc(hidden)]
#[macro_export]
macro_rules! __table {
    (exact) => {
        $crate::ExactTable
    };
    (ipv4) => {
        $crate::Ipv4Table
    };
    (ipv6) => {
        $crate::Ipv6Table
    };
    ($other:ident) => {
        ::core::compile_error!(concat!("a table is exact, ipv4 or ipv6, not ", stringify!($other)))
    };
}

#[doc(hidden)]
#[macro_export]
macro_rules! __state {
    () => {
        false
    };
    (keep) => {
        true
    };
    ($other:ident) => {
        ::core::compile_error!(concat!("state: keep, or nothing, not ", stringify!($other)))
    };
}

/// Logs a line at [`Level::Error`](crate::Level), with arguments as `format!` takes them.
#[macro_export]
macro_rules! error {
    ($($text:tt)*) => { $crate::__private::log($crate::Level::Error, ::core::format_args!($($text)*)) };
}

/// Logs a line at [`Level::Warn`](crate::Level), with arguments as `format!` takes them.
#[macro_export]
macro_rules! warn {
    ($($text:tt)*) => { $crate::__private::log($crate::Level::Warn, ::core::format_args!($($text)*)) };
}

/// Logs a line at [`Level::Info`](crate::Level), with arguments as `format!` takes them.
#[macro_export]
macro_rules! info {
    ($($text:tt)*) => { $crate::__private::log($crate::Level::Info, ::core::format_args!($($text)*)) };
}

/// Logs a line at [`Level::Debug`](crate::Level), with arguments as `format!` takes them.
#[macro_export]
macro_rules! debug {
    ($($text:tt)*) => { $crate::__private::log($crate::Level::Debug, ::core::format_args!($($text)*)) };
}
