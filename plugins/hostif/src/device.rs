//! A network device of the kernel: found by name, changed with care, put back as it was.

use crate::{
    error::{HostError, NET_ADMIN},
    netlink::{Link, LinkChange, Netlink},
};
use smpnet_plugin::{LinkState, MacAddr};
use std::{
    net::IpAddr,
    sync::{Mutex, MutexGuard},
};

/// A device, and what it was like before we changed it. Used by control threads only.
pub struct Device {
    name: String,
    before: Link,
    state: Mutex<State>,
}

struct State {
    netlink: Netlink,
    /// What has to be undone.
    restore: LinkChange,
    /// Whether `disable_ipv6` was 0 before we set it.
    ipv6_was_on: bool,
}

impl Device {
    /// Finds the Ethernet device `name` in the network namespace of this thread.
    pub fn find(name: &str) -> Result<Self, HostError> {
        check_name(name)?;
        let mut netlink = Netlink::open().map_err(HostError::of("a netlink socket", NET_ADMIN))?;
        let found = netlink.link_by_name(name).map_err(HostError::of(format!("looking for {name}"), NET_ADMIN))?;
        let Some(before) = found else {
            let names: Vec<String> = netlink.links().unwrap_or_default().into_iter().map(|l| l.name).collect();
            return Err(HostError::NoDevice { name: name.into(), nearest: nearest(name, &names) });
        };
        if before.hw_type != libc::ARPHRD_ETHER && before.hw_type != libc::ARPHRD_LOOPBACK {
            return Err(HostError::Option(format!(
                "{name} is no Ethernet device (hardware type {}); only Ethernet devices can be ports",
                before.hw_type
            )));
        }
        let state = State { netlink, restore: LinkChange::default(), ipv6_was_on: false };
        Ok(Device { name: name.into(), before, state: Mutex::new(state) })
    }

    /// Its name when it was found.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its index, which is the same for as long as it lives.
    pub fn index(&self) -> i32 {
        self.before.index
    }

    /// What it was like when it was found.
    pub fn before(&self) -> &Link {
        &self.before
    }

    /// What it is like now; none when it is gone.
    pub fn now(&self) -> Option<Link> {
        self.lock().netlink.link_by_index(self.before.index).ok().flatten()
    }

    /// Its link state.
    pub fn link_state(&self) -> LinkState {
        link_state(self.now().as_ref())
    }

    /// The kernel's own addresses on it that other hosts can reach, as `address/prefix`.
    pub fn addresses(&self) -> Vec<String> {
        let all = self.lock().netlink.addresses(self.before.index).unwrap_or_default();
        let local = |ip: &IpAddr| matches!(ip, IpAddr::V6(v6) if v6.segments()[0] & 0xffc0 == 0xfe80);
        all.into_iter().filter(|(ip, _)| !local(ip)).map(|(ip, n)| format!("{ip}/{n}")).collect()
    }

    /// Brings it up, or down again if it was down before. A device that was up when it was found stays up, because its
    /// routes in the kernel would be lost.
    pub fn set_up(&self, up: bool) -> Result<(), HostError> {
        if self.before.is_up() {
            return Ok(());
        }
        self.change(LinkChange { up: Some(up), ..LinkChange::default() }, if up { "up" } else { "down" })?;
        self.lock().restore.up = Some(false);
        Ok(())
    }

    /// Changes the MTU.
    pub fn set_mtu(&self, mtu: u32) -> Result<(), HostError> {
        self.change(LinkChange { mtu: Some(mtu), ..LinkChange::default() }, &format!("to an MTU of {mtu}"))?;
        self.lock().restore.mtu = (mtu != self.before.mtu).then_some(self.before.mtu);
        Ok(())
    }

    /// Changes the address.
    pub fn set_mac(&self, mac: MacAddr) -> Result<(), HostError> {
        self.change(LinkChange { mac: Some(mac), ..LinkChange::default() }, "to another address")?;
        self.lock().restore.mac = (mac != self.before.mac).then_some(self.before.mac);
        Ok(())
    }

    /// Stops the kernel's IPv6 on the device (link-local addresses, router solicitations, multicast reports), which
    /// would speak on the wire beside smpnet. Only noise is at stake, so that a failure is told in the log and no more; a
    /// device with IPv6 addresses of its own is left alone, because they would be lost.
    pub fn quiet_ipv6(&self) {
        if !self.addresses().iter().any(|a| a.contains(':'))
            && let Err(why) = self.disable_ipv6()
        {
            smpnet_plugin::info!("{}: the kernel's IPv6 stays on: {why}", self.name);
        }
    }

    fn disable_ipv6(&self) -> Result<(), String> {
        let path = self.ipv6_path();
        match std::fs::read_to_string(&path) {
            Ok(value) if value.trim() == "0" => {}
            // Off already, or a kernel without IPv6.
            _ => return Ok(()),
        }
        std::fs::write(&path, "1").map_err(|e| format!("{path}: {e}"))?;
        self.lock().ipv6_was_on = true;
        Ok(())
    }

    /// Puts the device back as it was found.
    pub fn restore(&self) {
        let mut state = self.lock();
        let change = std::mem::take(&mut state.restore);
        if (change.up, change.mtu, change.mac).ne(&(None, None, None))
            && let Err(e) = state.netlink.change_link(self.before.index, change)
            && e.raw_os_error() != Some(libc::ENODEV)
        {
            smpnet_plugin::warn!("{} could not be put back as it was: {e}", self.name);
        }
        if std::mem::take(&mut state.ipv6_was_on) {
            let path = self.ipv6_path();
            if let Err(e) = std::fs::write(&path, "0")
                && e.kind() != std::io::ErrorKind::NotFound
            {
                smpnet_plugin::warn!("{path} could not be put back to 0: {e}");
            }
        }
    }

    /// Runs `work` with the route socket of the device's namespace.
    pub fn with_netlink<R>(&self, work: impl FnOnce(&mut Netlink) -> R) -> R {
        work(&mut self.lock().netlink)
    }

    fn change(&self, change: LinkChange, what: &str) -> Result<(), HostError> {
        let index = self.before.index;
        self.lock()
            .netlink
            .change_link(index, change)
            .map_err(HostError::of(format!("setting {} {what}", self.name), NET_ADMIN))
    }

    fn ipv6_path(&self) -> String {
        format!("/proc/sys/net/ipv6/conf/{}/disable_ipv6", self.name)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(|e| e.into_inner())
    }
}

impl Drop for Device {
    fn drop(&mut self) {
        self.restore();
    }
}

/// The link state that a kernel link stands for; a device that is gone is down.
pub fn link_state(link: Option<&Link>) -> LinkState {
    let up = link.is_some_and(Link::is_running);
    LinkState { state: u32::from(up), full_duplex: u32::from(up), speed: 0, _pad: 0 }
}

/// Whether the kernel could have a device of that name (`dev_valid_name`).
pub fn check_name(name: &str) -> Result<(), HostError> {
    let good = (1..=15).contains(&name.len())
        && name != "."
        && name != ".."
        && !name.contains(['/', ':', '\0'])
        && !name.contains(char::is_whitespace);
    if good { Ok(()) } else { Err(HostError::BadName(name.into())) }
}

/// The most similar of `names`, if one is similar at all.
fn nearest(name: &str, names: &[String]) -> Option<String> {
    let score = |n: &str| strsim::jaro_winkler(name, n);
    let best = names.iter().max_by(|a, b| score(a).total_cmp(&score(b)))?;
    (score(best) > 0.6).then(|| best.clone())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_device_names_the_nearest() {
        let names = ["lo".to_owned(), "eth0".to_owned(), "veth-lan".to_owned()];
        assert_eq!(nearest("eht0", &names).as_deref(), Some("eth0"));
        assert_eq!(nearest("veth_lan", &names).as_deref(), Some("veth-lan"));
        assert_eq!(nearest("zzz", &names), None);
    }

    #[test]
    fn names_that_no_device_can_have_are_refused() {
        for name in ["", "a/b", "a b", "sixteen-bytes-xx", ".."] {
            assert!(check_name(name).is_err(), "{name:?}");
        }
        assert!(check_name("enp0s31f6").is_ok());
    }
}
