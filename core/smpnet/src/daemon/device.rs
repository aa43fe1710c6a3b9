//! What stands behind an interface: a driver's port or a kind's object, and the calls of the ABI that concern only it.

use crate::answers::{call, document};
use serde_json::{Value, json};
use smpnet_abi::{
    DriverTable, ErrBuf, HostServices, IfConfig, IfKindInfo, IfKindTable, MacAddr, NamedCounter, OK, PortConfig,
    PortInfo, PortStats, Text, port_flags,
};
use std::{ffi::c_void, ptr};

/// How a device is asked for.
#[derive(Clone, Debug)]
pub struct Wish<'w> {
    /// Name of the interface.
    pub name: &'w str,
    /// Index of the interface.
    pub ifindex: u32,
    /// The driver's or kind's own options.
    pub options: &'w Value,
    /// Receive queues wished for.
    pub rx_queues: u16,
    /// Transmit queues wished for.
    pub tx_queues: u16,
    /// Workers of this router.
    pub workers: u32,
    /// MTU wished for; 0 for the device's own.
    pub mtu: u32,
}

/// A device. Closed by [`Device::close`], after the stack gave it up.
#[derive(Clone, Copy)]
pub enum Device {
    /// A port of a driver.
    Port(&'static DriverTable, PortInfo),
    /// An interface of a kind.
    Kind(&'static IfKindTable, IfKindInfo),
    /// The stack's own.
    Loopback,
}

// SAFETY: the handles inside are the plugin's own and are passed back to it only; the ABI lets every control thread call,
// one at a time per object, and whoever owns the Device sees to that.
unsafe impl Send for Device {}

impl Device {
    /// Opens a port.
    pub fn open(host: &'static HostServices, table: &'static DriverTable, wish: &Wish<'_>) -> Result<Device, String> {
        let options = wish.options.to_string();
        let config = PortConfig {
            size: size_of::<PortConfig>() as u32,
            ifindex: wish.ifindex,
            name: Text::new(wish.name),
            options: Text::new(&options),
            rx_queues: wish.rx_queues,
            tx_queues: wish.tx_queues,
            workers: wish.workers,
            mtu: wish.mtu,
            _pad: 0,
        };
        let mut info = PortInfo {
            size: size_of::<PortInfo>() as u32,
            flags: 0,
            port: ptr::null_mut(),
            rx_queues: 0,
            tx_queues: 0,
            mtu: 0,
            mtu_max: 0,
            offloads: 0,
            mac: MacAddr::default(),
            rss_table: 0,
            rss_key: 0,
            _pad: [0; 3],
        };
        // SAFETY: the table is the plugin's, checked when it was loaded; config, info and the buffer live through the call.
        let code = |err: &mut ErrBuf| unsafe { (table.open)(ptr::from_ref(host), &config, &mut info, err) };
        call(code)?;
        Ok(Device::Port(table, info))
    }

    /// Makes an interface of a kind.
    pub fn create(host: &'static HostServices, table: &'static IfKindTable, wish: &Wish<'_>) -> Result<Device, String> {
        let options = wish.options.to_string();
        let config = if_config(wish, &options);
        let mut info = no_info();
        // SAFETY: as in `open`.
        let code = |err: &mut ErrBuf| unsafe { (table.create)(ptr::from_ref(host), &config, &mut info, err) };
        call(code)?;
        Ok(Device::Kind(table, info))
    }

    /// Gives a kind's interface other options or another MTU: all of it, or none.
    pub fn configure(&mut self, wish: &Wish<'_>) -> Result<IfKindInfo, String> {
        let Device::Kind(table, info) = self else {
            return Err("a port's options cannot be changed while it is open".into());
        };
        let options = wish.options.to_string();
        let config = if_config(wish, &options);
        let mut out = no_info();
        // SAFETY: as in `open`; the handle is the one that `create` gave and `destroy` was not called.
        call(|err| unsafe { (table.configure)(info.handle, &config, &mut out, err) })?;
        // The handle stays; what `configure` writes there says nothing.
        out.handle = info.handle;
        *info = out;
        Ok(out)
    }

    /// Ends the device. No worker may be in it, and nothing may call it again.
    pub fn close(self) -> Result<(), String> {
        let code = match self {
            // SAFETY: the handle is the one that the plugin gave, and is not used again.
            Device::Port(table, info) => unsafe { (table.close)(info.port) },
            // SAFETY: as above.
            Device::Kind(table, info) => unsafe { (table.destroy)(info.handle) },
            Device::Loopback => OK,
        };
        if code == OK { Ok(()) } else { Err(format!("closing it failed with code {code}")) }
    }

    /// What the plugin says of the device, for people.
    pub fn status(&self) -> Option<Value> {
        let (function, handle): (unsafe extern "C" fn(*mut c_void, *mut ErrBuf) -> i32, _) = match self {
            Device::Port(table, info) => (table.status, info.port),
            Device::Kind(table, info) => (table.status, info.handle),
            Device::Loopback => return None,
        };
        // SAFETY: the handle is open.
        unsafe { document(function, handle) }
    }

    /// What the driver counts of a port, by the ABI's names. `rx_missed` is what it lost before smpnet saw it.
    pub fn port_stats(&self) -> Option<Value> {
        let Device::Port(table, info) = self else { return None };
        let mut s = PortStats::default();
        // SAFETY: the port is open, and the structure lives through the call.
        if unsafe { (table.stats)(info.port, &mut s) } != OK {
            return None;
        }
        Some(json!({
            "rx_packets": s.rx_packets, "rx_bytes": s.rx_bytes, "rx_missed": s.rx_missed, "rx_errors": s.rx_errors,
            "tx_packets": s.tx_packets, "tx_bytes": s.tx_bytes, "tx_errors": s.tx_errors,
        }))
    }

    /// The driver's own counters.
    pub fn counters(&self) -> Vec<(String, u64)> {
        let Device::Port(table, info) = self else { return Vec::new() };
        let mut list = vec![NamedCounter { name: [0; 40], value: 0 }; 256];
        // SAFETY: the port is open, and the list has as many entries as it is said to have.
        let n = unsafe { (table.counters)(info.port, list.as_mut_ptr(), list.len() as u32) };
        let name = |c: &NamedCounter| {
            let end = c.name.iter().position(|b| *b == 0).unwrap_or(c.name.len());
            String::from_utf8_lossy(&c.name[..end]).into_owned()
        };
        list.iter().take(n as usize).map(|c| (name(c), c.value)).filter(|(n, _)| !n.is_empty()).collect()
    }

    /// True for a port that ends by itself, such as a capture file.
    pub fn is_finite(&self) -> bool {
        matches!(self, Device::Port(_, info) if info.flags & port_flags::FINITE != 0)
    }
}

fn if_config(wish: &Wish<'_>, options: &str) -> IfConfig {
    IfConfig {
        size: size_of::<IfConfig>() as u32,
        ifindex: wish.ifindex,
        name: Text::new(wish.name),
        options: Text::new(options),
        workers: wish.workers,
        mtu: wish.mtu,
    }
}

fn no_info() -> IfKindInfo {
    IfKindInfo {
        size: size_of::<IfKindInfo>() as u32,
        if_type: 0,
        handle: ptr::null_mut(),
        mtu: 0,
        mtu_min: 0,
        mtu_max: 0,
        offloads: 0,
        parent: 0,
        mac: MacAddr::default(),
        _pad: 0,
    }
}
