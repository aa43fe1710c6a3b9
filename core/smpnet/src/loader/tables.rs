//! Tables of plugins, of whatever version, made into tables of this version.

use smpnet_abi::{
    DriverTable, ErrBuf, FAILED, FilterTable, HostServices, IfConfig, IfKindInfo, IfKindTable, LinkState, MacAddr,
    NamedCounter, PortStats, Text, UNSUPPORTED, table_kind,
};
use std::ffi::c_void;
use std::mem::offset_of;

/// A table that a plugin provides, in this program's version of it. It lives as long as the process.
#[derive(Clone, Copy)]
pub(super) enum Table {
    Driver(&'static DriverTable),
    Kind(&'static IfKindTable),
    Filter(&'static FilterTable),
}

impl Table {
    /// The table that `entry` points to, which may be of an older version; none for a kind that this version does not
    /// know and leaves alone.
    ///
    /// # Safety
    /// `table` is null, or points to a table of that kind which lives as long as the process and of which as many bytes
    /// can be read as its `size` says.
    pub(super) unsafe fn read(kind: u32, table: *const c_void) -> Result<Option<Table>, String> {
        if table.is_null() || !table.cast::<u64>().is_aligned() {
            return Err("a null or crooked pointer instead of a table".to_owned());
        }
        // SAFETY: the caller's word.
        let read = unsafe {
            match kind {
                table_kind::DRIVER => Table::Driver(upgrade_table(table.cast(), DRIVER, DRIVER_MIN)?),
                table_kind::IFKIND => Table::Kind(upgrade_table(table.cast(), KIND, size_of::<IfKindTable>())?),
                table_kind::FILTER => Table::Filter(upgrade_table(table.cast(), FILTER, size_of::<FilterTable>())?),
                _ => return Ok(None),
            }
        };
        match read.name() {
            "" => Err("a table without a name".to_owned()),
            name if name.len() > 31 => Err(format!("the name {name:?} has more than 31 bytes")),
            _ => Ok(Some(read)),
        }
    }

    /// What sort of thing it makes.
    pub(super) fn what(self) -> &'static str {
        match self {
            Table::Driver(_) => "driver",
            Table::Kind(_) => "kind",
            Table::Filter(_) => "filter",
        }
    }

    pub(super) fn name(self) -> &'static str {
        match self {
            Table::Driver(t) => static_text(t.name),
            Table::Kind(t) => static_text(t.name),
            Table::Filter(t) => static_text(t.name),
        }
    }

    pub(super) fn summary(self) -> &'static str {
        match self {
            Table::Driver(t) => static_text(t.summary),
            Table::Kind(t) => static_text(t.summary),
            Table::Filter(t) => static_text(t.summary),
        }
    }
}

/// The text of a table, which by the ABI is static; what is not UTF-8 counts as empty.
fn static_text(text: Text) -> &'static str {
    if text.ptr.is_null() {
        return "";
    }
    // SAFETY: names and summaries of tables are static by the ABI, and libraries are never unloaded.
    let bytes = unsafe { std::slice::from_raw_parts(text.ptr, text.len as usize) };
    std::str::from_utf8(bytes).unwrap_or_default()
}

/// Tables that start with their `size` and may be shorter in older versions.
///
/// # Safety
/// `repr(C)`, the first field is `size: u32`, and every value is plain data.
unsafe trait Versioned: Copy + 'static {}
// SAFETY: as the trait asks; held by abi/tests/layout.rs.
unsafe impl Versioned for DriverTable {}
// SAFETY: as above.
unsafe impl Versioned for IfKindTable {}
// SAFETY: as above.
unsafe impl Versioned for FilterTable {}

/// Copies as many bytes of a table as its `size` says over `full`, which has a function for everything: what an older
/// plugin does not have answers UNSUPPORTED. A table that is larger than this version's has nothing that we know of
/// beyond it.
///
/// # Safety
/// As [`Table::read`].
unsafe fn upgrade_table<T: Versioned>(table: *const T, full: T, min: usize) -> Result<&'static T, String> {
    // SAFETY: every table starts with its size.
    let size = unsafe { table.cast::<u32>().read() } as usize;
    if size < min || !size.is_multiple_of(align_of::<T>()) {
        return Err(format!("a table of {size} bytes; version 1.0 has at least {min}"));
    }
    let n = size.min(size_of::<T>());
    let mut out = Box::new(full);
    // SAFETY: the caller lets `size` bytes be read; n is at most that and at most the bytes of `out`.
    unsafe { std::ptr::copy_nonoverlapping(table.cast::<u8>(), std::ptr::from_mut(&mut *out).cast::<u8>(), n) };
    Ok(Box::leak(out))
}

/// The data path, `open`, `close` and the state of the port are what no driver can be without.
const DRIVER_MIN: usize = offset_of!(DriverTable, counters);

/// A driver without anything: what older tables are filled up from.
const DRIVER: DriverTable = {
    unsafe extern "C" fn open(
        _: *const HostServices,
        _: *const smpnet_abi::PortConfig,
        _: *mut smpnet_abi::PortInfo,
        _: *mut ErrBuf,
    ) -> i32 {
        UNSUPPORTED
    }
    unsafe extern "C" fn port(_: *mut c_void) -> i32 {
        FAILED
    }
    unsafe extern "C" fn number(_: *mut c_void, _: u32, _: *mut ErrBuf) -> i32 {
        UNSUPPORTED
    }
    unsafe extern "C" fn queue(_: *mut c_void, _: u32) -> i32 {
        -1
    }
    unsafe extern "C" fn rx(_: *mut c_void, _: u32, _: u32, _: *mut u32, _: u32) -> u32 {
        0
    }
    unsafe extern "C" fn tx(_: *mut c_void, _: u32, _: u32, _: *const u32, _: u32) -> u32 {
        0
    }
    unsafe extern "C" fn link(_: *mut c_void, _: *mut LinkState) -> i32 {
        UNSUPPORTED
    }
    unsafe extern "C" fn stats(_: *mut c_void, _: *mut PortStats) -> i32 {
        UNSUPPORTED
    }
    unsafe extern "C" fn counters(_: *mut c_void, _: *mut NamedCounter, _: u32) -> u32 {
        0
    }
    unsafe extern "C" fn multicast(_: *mut c_void, _: *const MacAddr, _: u32, _: u32, _: *mut ErrBuf) -> i32 {
        UNSUPPORTED
    }
    unsafe extern "C" fn mac(_: *mut c_void, _: *const MacAddr, _: *mut ErrBuf) -> i32 {
        UNSUPPORTED
    }
    unsafe extern "C" fn rss(_: *mut c_void, _: *const u8, _: u32, _: *const u16, _: u32, _: *mut ErrBuf) -> i32 {
        UNSUPPORTED
    }
    DriverTable {
        size: size_of::<DriverTable>() as u32,
        flags: 0,
        name: Text::new(""),
        summary: Text::new(""),
        open,
        close: port,
        set_up: number,
        rx_burst: rx,
        tx_burst: tx,
        event_fd: queue,
        rx_arm: queue,
        rx_disarm: queue,
        link_state: link,
        stats,
        counters,
        set_promisc: number,
        set_multicast: multicast,
        set_mac: mac,
        set_mtu: number,
        set_offloads: number,
        set_rss: rss,
        status,
    }
};

unsafe extern "C" fn status(_: *mut c_void, _: *mut ErrBuf) -> i32 {
    UNSUPPORTED
}

/// A kind without anything. All of version 1.0 is required, so this only has to have the right type.
const KIND: IfKindTable = {
    unsafe extern "C" fn create(_: *const HostServices, _: *const IfConfig, _: *mut IfKindInfo, _: *mut ErrBuf) -> i32 {
        UNSUPPORTED
    }
    unsafe extern "C" fn destroy(_: *mut c_void) -> i32 {
        FAILED
    }
    unsafe extern "C" fn configure(_: *mut c_void, _: *const IfConfig, _: *mut IfKindInfo, _: *mut ErrBuf) -> i32 {
        UNSUPPORTED
    }
    unsafe extern "C" fn carry(_: *mut c_void, _: u32, _: *const u32, _: u32) -> i32 {
        UNSUPPORTED
    }
    IfKindTable {
        size: size_of::<IfKindTable>() as u32,
        flags: 0,
        name: Text::new(""),
        summary: Text::new(""),
        create,
        destroy,
        configure,
        output: carry,
        input: carry,
        status,
    }
};

/// A filter without anything, as [`KIND`].
const FILTER: FilterTable = {
    unsafe extern "C" fn create(
        _: *const HostServices,
        _: *const smpnet_abi::FilterConfig,
        _: *mut *mut c_void,
        _: *mut ErrBuf,
    ) -> i32 {
        UNSUPPORTED
    }
    unsafe extern "C" fn destroy(_: *mut c_void) -> i32 {
        FAILED
    }
    unsafe extern "C" fn filter(_: *mut c_void, _: u32, _: u32, _: u32, _: *const u32, _: u32, _: *mut u32) -> i32 {
        UNSUPPORTED
    }
    FilterTable {
        size: size_of::<FilterTable>() as u32,
        flags: 0,
        name: Text::new(""),
        summary: Text::new(""),
        create,
        destroy,
        filter,
        status,
    }
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_older_table_is_filled_up_and_no_byte_behind_it_is_read() {
        let mut old = DriverTable { name: Text::new("old"), ..DRIVER };
        old.size = offset_of!(DriverTable, status) as u32;
        // Only as many bytes as the table says it has.
        let mut bytes = vec![0_u64; old.size as usize / 8];
        // SAFETY: plain bytes of `old`, as many as `bytes` has.
        unsafe {
            std::ptr::copy_nonoverlapping(
                std::ptr::from_ref(&old).cast::<u8>(),
                bytes.as_mut_ptr().cast::<u8>(),
                old.size as usize,
            );
        }
        // SAFETY: a table of the size that it says.
        let Ok(Some(Table::Driver(new))) = (unsafe { Table::read(table_kind::DRIVER, bytes.as_ptr().cast()) }) else {
            panic!("an older table is taken");
        };
        let mut text = [0; 8];
        // SAFETY: the function of this module, which touches nothing.
        assert_eq!(unsafe { (new.status)(std::ptr::null_mut(), &mut ErrBuf::new(&mut text)) }, UNSUPPORTED);
        assert_eq!(static_text(new.name), "old");
    }

    #[test]
    fn tables_that_make_no_sense_are_refused() {
        // SAFETY: real tables, or null.
        let read = |kind, table: *const c_void| unsafe { Table::read(kind, table) };
        let short = DriverTable { size: 64, name: Text::new("short"), ..DRIVER };
        let short = read(table_kind::DRIVER, std::ptr::from_ref(&short).cast());
        assert!(short.is_err_and(|e| e.contains("64 bytes")));
        assert!(read(table_kind::DRIVER, std::ptr::null()).is_err());
        let nameless = read(table_kind::FILTER, std::ptr::from_ref(&FILTER).cast());
        assert!(nameless.is_err_and(|e| e.contains("without a name")));
        assert!(matches!(read(99, std::ptr::from_ref(&FILTER).cast()), Ok(None)), "unknown kinds are left alone");
    }
}
