//! The bodies of requests, and what they mean. Those about filters are in [`filter_requests`](super::filter_requests).

use super::filter_requests::{EntriesRequest, FilterRequest, SwapRequest, TableRequest};
use crate::{
    api::ApiError,
    apply::Op,
    config::{
        Action, ArpEntry, Backing, Config, Interface, Mac, Multicast, NextHop, Prefix, Route, RouteCommand,
        RouteTarget, did_you_mean, interface_address, interface_name, mac_or_auto, offload_name, offload_set,
        route_destination, route_file,
    },
};
use serde::Deserialize;
use serde_json::{Value, json};
use std::{collections::BTreeSet, net::Ipv4Addr, path::PathBuf};

/// Makes an interface.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct InterfaceRequest {
    name: String,
    driver: Option<String>,
    kind: Option<String>,
    #[serde(default)]
    options: Option<Value>,
    #[serde(default)]
    addresses: Vec<String>,
    mtu: Option<u32>,
    #[serde(default = "yes")]
    up: bool,
    #[serde(default)]
    description: String,
    rx_queues: Option<u16>,
    tx_queues: Option<u16>,
    #[serde(default)]
    promisc: bool,
    mac: Option<String>,
    #[serde(default)]
    multicast: Vec<String>,
    #[serde(default)]
    allmulti: bool,
    offloads: Option<Vec<String>>,
}

fn yes() -> bool {
    true
}

impl InterfaceRequest {
    /// The steps that make it.
    pub fn ops(self, config: &Config) -> Result<Vec<Op>, ApiError> {
        let name = interface_name(&self.name).map_err(ApiError::bad)?;
        if config.interface(&name).is_some() {
            return Err(ApiError::conflict(format!("interface \"{name}\": File exists")));
        }
        let backing = match (self.driver, self.kind) {
            (Some(d), None) => Backing::Driver(d),
            (None, Some(k)) => Backing::Kind(k),
            _ => return Err(ApiError::bad("an interface has either a \"driver\" or a \"kind\"")),
        };
        let addresses = prefixes(&self.addresses)?;
        let interface = Interface {
            at: Default::default(),
            name: name.clone(),
            backing,
            backing_at: Default::default(),
            options: self.options.unwrap_or_else(|| json!({})),
            options_at: Default::default(),
            addresses: Vec::new(),
            mtu: self.mtu,
            up: false,
            description: self.description,
            rx_queues: self.rx_queues,
            tx_queues: self.tx_queues,
            promisc: self.promisc,
            mac: self.mac.as_deref().map(own_or_mac).transpose()?.flatten(),
            multicast: Multicast { list: groups(&self.multicast)?.into_iter().collect(), all: self.allmulti },
            offloads: self.offloads.map(offloads).transpose()?,
        };
        let mut ops = vec![Op::CreateInterface(Box::new(interface))];
        ops.extend(addresses.into_iter().map(|a| Op::AddAddress(name.clone(), a)));
        if self.up {
            ops.push(Op::SetUp(name, true));
        }
        Ok(ops)
    }
}

/// Changes an interface; what is left out stays.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct InterfaceChange {
    up: Option<bool>,
    mtu: Option<u32>,
    description: Option<String>,
    promisc: Option<bool>,
    mac: Option<String>,
    allmulti: Option<bool>,
    #[serde(default)]
    add_multicast: Vec<String>,
    #[serde(default)]
    remove_multicast: Vec<String>,
    offloads: Option<Vec<String>>,
    #[serde(default)]
    offloads_on: Vec<String>,
    #[serde(default)]
    offloads_off: Vec<String>,
    options: Option<Value>,
    #[serde(default)]
    add_addresses: Vec<String>,
    #[serde(default)]
    remove_addresses: Vec<String>,
}

impl InterfaceChange {
    /// The steps of the change; `in_force` are the offloads that the interface has now.
    pub fn ops(self, name: &str, config: &Config, in_force: &[&str]) -> Result<Vec<Op>, ApiError> {
        let i = interface(name, config)?;
        let name = || i.name.clone();
        let mut ops = Vec::new();
        if self.up == Some(false) && i.up {
            ops.push(Op::SetUp(name(), false));
        }
        for a in prefixes(&self.remove_addresses)? {
            ops.push(Op::RemoveAddress(name(), a));
        }
        if let Some(Value::Object(options)) = self.options {
            let mut to = i.clone();
            match &mut to.options {
                Value::Object(o) => o.extend(options),
                other => *other = options.into(),
            }
            ops.push(Op::Reconfigure(Box::new(i.clone()), Box::new(to)));
        }
        if let Some(mtu) = self.mtu.filter(|m| i.mtu != Some(*m)) {
            ops.push(Op::SetMtu(name(), i.mtu, Some(mtu)));
        }
        if let Some(d) = self.description.filter(|d| *d != i.description) {
            ops.push(Op::SetDescription(name(), i.description.clone(), d));
        }
        if let Some(on) = self.promisc.filter(|on| *on != i.promisc) {
            ops.push(Op::SetPromisc(name(), on));
        }
        if let Some(mac) = self.mac.as_deref().map(own_or_mac).transpose()?.filter(|m| *m != i.mac) {
            ops.push(Op::SetMac(name(), i.mac, mac));
        }
        let mut list: BTreeSet<Mac> = i.multicast.list.iter().copied().collect();
        list.extend(groups(&self.add_multicast)?);
        for gone in groups(&self.remove_multicast)? {
            if !list.remove(&gone) {
                return Err(ApiError::not_found(format!("{gone} is not in the multicast list of {}", i.name)));
            }
        }
        let multicast = Multicast { list: list.into_iter().collect(), all: self.allmulti.unwrap_or(i.multicast.all) };
        if multicast != i.multicast {
            ops.push(Op::SetMulticast(name(), i.multicast.clone(), multicast));
        }
        let mut used = self.offloads.map(offloads).transpose()?;
        if !self.offloads_on.is_empty() || !self.offloads_off.is_empty() {
            let mut names = used.unwrap_or_else(|| in_force.iter().map(|n| (*n).to_owned()).collect());
            let off = offloads(self.offloads_off)?;
            names.extend(offloads(self.offloads_on)?);
            names.retain(|n| !off.contains(n));
            used = Some(offload_set(names));
        }
        if used.is_some() && used != i.offloads {
            ops.push(Op::SetOffloads(name(), i.offloads.clone(), used));
        }
        for a in prefixes(&self.add_addresses)? {
            ops.push(Op::AddAddress(name(), a));
        }
        if self.up == Some(true) && !i.up {
            ops.push(Op::SetUp(name(), true));
        }
        Ok(ops)
    }
}

/// The steps that end an interface, and what leans on it.
pub fn destroy(name: &str, config: &Config) -> Result<Vec<Op>, ApiError> {
    let i = interface(name, config)?;
    if i.backing == Backing::Loopback {
        return Err(ApiError::bad("the loopback interface cannot be destroyed"));
    }
    let on_top = |o: &&Interface| o.options.get("parent").and_then(Value::as_str) == Some(name);
    if let Some(top) = config.interfaces.iter().find(on_top) {
        return Err(
            ApiError::conflict(format!("{} stands on {name}", top.name)).hint(format!("destroy {} first", top.name))
        );
    }
    let mut without = config.clone();
    without.interfaces.retain(|o| o.name != name);
    without.filters.retain(|f| f.interface.as_deref() != Some(name));
    without.arp.retain(|a| {
        a.interface.as_deref().or_else(|| config.connected(a.address).map(|i| i.name.as_str())) != Some(name)
    });
    without.routes.retain(|r| match &r.target {
        RouteTarget::NextHops(hops) => !hops.iter().any(|h| {
            let dev = h.dev.as_deref();
            dev.or_else(|| h.via.and_then(|v| config.connected(v)).map(|i| i.name.as_str())) == Some(name)
        }),
        _ => true,
    });
    let nothing = crate::apply::SysctlState { now: &|_| None, original: &Default::default() };
    Ok(crate::apply::plan(config, &without, &nothing).ops)
}

/// An interface of the running configuration. One that the daemon has without being told to (`lo0`) is there too.
pub fn interface<'c>(name: &str, config: &'c Config) -> Result<&'c Interface, ApiError> {
    config.interface(name).ok_or_else(|| {
        let names: Vec<&str> = config.interfaces.iter().map(|i| i.name.as_str()).collect();
        ApiError::not_found(format!("no interface \"{name}\"")).hint(did_you_mean(name, &names))
    })
}

fn prefixes(list: &[String]) -> Result<Vec<Prefix>, ApiError> {
    list.iter().map(|a| interface_address(a).map_err(ApiError::bad)).collect()
}

/// An Ethernet address, or `own` for the device's.
fn own_or_mac(s: &str) -> Result<Option<Mac>, ApiError> {
    if s == "own" { Ok(None) } else { Mac::station(s).map(Some).map_err(ApiError::bad) }
}

fn groups(list: &[String]) -> Result<BTreeSet<Mac>, ApiError> {
    list.iter().map(|m| Mac::group(m).map_err(ApiError::bad)).collect()
}

fn offloads(names: Vec<String>) -> Result<Vec<String>, ApiError> {
    for n in &names {
        offload_name(n).map_err(ApiError::bad)?;
    }
    Ok(offload_set(names))
}

/// One or several.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum OneOrMore {
    One(Ipv4Addr),
    More(Vec<Ipv4Addr>),
}

/// Adds or changes a route.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RouteRequest {
    to: String,
    via: Option<OneOrMore>,
    dev: Option<String>,
    #[serde(rename = "type")]
    kind: Option<String>,
}

impl RouteRequest {
    /// The route that is asked for.
    pub fn route(self) -> Result<Route, ApiError> {
        let to = route_destination(&self.to).map_err(ApiError::bad)?;
        let via = match self.via {
            Some(OneOrMore::One(v)) => vec![v],
            Some(OneOrMore::More(v)) => v,
            None => Vec::new(),
        };
        let target = match (self.kind.as_deref(), via.as_slice(), self.dev) {
            (Some("blackhole"), [], None) => RouteTarget::Blackhole,
            (Some("reject"), [], None) => RouteTarget::Reject,
            (Some("blackhole" | "reject"), ..) => {
                return Err(ApiError::bad("a blackhole or reject route has no \"via\" and no \"dev\""));
            }
            (Some(other), ..) => {
                let hint = did_you_mean(other, &["blackhole", "reject"]);
                return Err(ApiError::bad(format!("unknown route type \"{other}\"")).hint(hint));
            }
            (None, [], None) => return Err(ApiError::bad("the route needs \"via\", \"dev\" or \"type\"")),
            (None, [], Some(dev)) => RouteTarget::NextHops(vec![NextHop { via: None, dev: Some(dev) }]),
            (None, via, dev) => {
                RouteTarget::NextHops(via.iter().map(|v| NextHop { via: Some(*v), dev: dev.clone() }).collect())
            }
        };
        Ok(Route { at: Default::default(), to, target })
    }
}

/// Many routes: a list, or a text with a command of route(8) in each line.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BulkRequest {
    #[serde(default)]
    routes: Vec<RouteRequest>,
    #[serde(default)]
    file: Option<String>,
    #[serde(default)]
    text: String,
}

impl BulkRequest {
    /// What the number of a command is called in messages (`routes.txt:` or `entry `), and the commands with their numbers,
    /// from 1.
    pub fn commands(self) -> Result<(String, Vec<(u32, RouteCommand)>), ApiError> {
        if !self.routes.is_empty() && !self.text.is_empty() {
            return Err(ApiError::bad("many routes are a list (\"routes\") or a text (\"text\"), not both"));
        }
        if self.routes.is_empty() {
            let place = format!("{}:", self.file.as_deref().unwrap_or("line "));
            let place = place.replace("line :", "line ");
            let all = route_file(&self.text)
                .map_err(|(n, e)| ApiError::bad(format!("{place}{n}: {e}; nothing was changed")))?;
            return Ok((place, all));
        }
        let entry = |(n, r): (usize, RouteRequest)| {
            let n = n as u32 + 1;
            match r.route() {
                Ok(r) => Ok((n, RouteCommand::Add(r))),
                Err(e) => Err(ApiError { error: format!("entry {n}: {}; nothing was changed", e.error), ..e }),
            }
        };
        let all = self.routes.into_iter().enumerate().map(entry).collect::<Result<_, _>>()?;
        Ok(("entry ".into(), all))
    }
}

/// Adds a neighbour.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ArpRequest {
    address: Ipv4Addr,
    mac: String,
    interface: Option<String>,
    #[serde(default)]
    publish: bool,
}

impl ArpRequest {
    /// The neighbour.
    pub fn entry(self) -> Result<ArpEntry, ApiError> {
        let mac = mac_or_auto(&self.mac).map_err(ApiError::bad)?;
        if mac.is_none() && !self.publish {
            return Err(ApiError::bad(
                "\"auto\" stands for the interface's own address, which only a published entry has",
            ));
        }
        let (address, interface) = (self.address, self.interface);
        Ok(ArpEntry { at: Default::default(), address, mac, interface, publish: self.publish })
    }
}

/// Refuses fields that the request does not have, which serde cannot do for flattened structures.
pub fn only_fields(body: &Value, known: &[&str]) -> Result<(), ApiError> {
    let unknown = body.as_object().and_then(|o| o.keys().find(|k| !known.contains(&k.as_str())));
    match unknown {
        Some(k) => Err(ApiError::bad(format!("the request's body: unknown field `{k}`")).hint(did_you_mean(k, known))),
        None => Ok(()),
    }
}

pub(super) fn action(s: &str) -> Result<Action, ApiError> {
    match s {
        "drop" => Ok(Action::Drop),
        "pass" => Ok(Action::Pass),
        other => Err(word("action", other, &["drop", "pass"])),
    }
}

pub(super) fn word(what: &str, wrong: &str, known: &[&str]) -> ApiError {
    ApiError::bad(format!("\"{wrong}\" is no {what}")).hint(did_you_mean(wrong, known))
}

/// Writes a sysctl node.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SysctlRequest {
    /// The node.
    pub name: String,
    /// The value: a number, a truth value or a text.
    pub value: Value,
}

impl SysctlRequest {
    /// The value as text.
    pub fn text(&self) -> Result<String, ApiError> {
        match &self.value {
            Value::String(s) => Ok(s.clone()),
            Value::Number(n) => Ok(n.to_string()),
            Value::Bool(b) => Ok(u8::from(*b).to_string()),
            _ => Err(ApiError::bad("\"value\" must be a number or a string")),
        }
    }
}

/// Loads a plugin.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PluginRequest {
    /// The shared library.
    pub file: PathBuf,
}

/// Walks a packet through the configuration.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ExplainRequest {
    /// The interface that receives it.
    pub interface: String,
    /// The frame in hex.
    pub packet: String,
    /// Tag control information of an 802.1Q tag that the device took off.
    #[serde(default)]
    pub vlan: Option<u16>,
    /// `tcp:BYTES` or `udp:BYTES`: the packet is to be cut into segments.
    #[serde(default)]
    pub segments: Option<String>,
}

impl ExplainRequest {
    /// What is known of the packet beside its bytes.
    pub fn beside(&self) -> Result<smpnet_stack::Beside, ApiError> {
        let segments = self.segments.as_deref().map(str::parse::<smpnet_stack::Segments>).transpose();
        Ok(smpnet_stack::Beside { vlan_tci: self.vlan, segments: segments.map_err(ApiError::bad)? })
    }

    /// The frame.
    pub fn frame(&self) -> Result<Vec<u8>, ApiError> {
        packet(&self.packet)
    }
}

/// A packet in hex; blanks, colons, points and hyphens are left out.
pub fn packet(text: &str) -> Result<Vec<u8>, ApiError> {
    let digits: Vec<u8> = text.bytes().filter(|b| !b.is_ascii_whitespace() && !b":.-".contains(b)).collect();
    let digits = digits.strip_prefix(b"0x").unwrap_or(&digits);
    if digits.is_empty() || !digits.len().is_multiple_of(2) || digits.len() > 2 * 65_536 {
        return Err(ApiError::bad(format!(
            "the packet must be an even number of hex digits, and has {}",
            digits.len()
        )));
    }
    let pair = |p: &[u8]| Some((hex(p[0])? << 4) | hex(p[1])?);
    digits.chunks_exact(2).map(|p| pair(p).ok_or_else(|| ApiError::bad("the packet must be hex digits"))).collect()
}

fn hex(b: u8) -> Option<u8> {
    char::from(b).to_digit(16).map(|d| d as u8)
}

/// Applies or checks a file.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FileRequest {
    /// The file's name; paths in it are relative to its folder.
    pub file: String,
    /// The file's text.
    pub text: String,
    /// Only find the steps.
    #[serde(default)]
    pub dry_run: bool,
}

/// Compiles an expression.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BpfRequest {
    /// The expression.
    pub expr: String,
    /// `RAW` or `EN10MB`.
    pub dlt: Option<String>,
}

/// Reads a body as each request that it could be, and finds the steps that the request means on a router that runs
/// `config`; returns how many of the requests it is. Does nothing to anything: for tests of what strangers may send. Files
/// that a body names are not read.
pub fn understand(body: &Value, config: &Config) -> usize {
    fn read<T: serde::de::DeserializeOwned>(body: &Value) -> Option<T> {
        serde_json::from_value(body.clone()).ok()
    }
    let mut filter = body.clone();
    if let Some(o) = filter.as_object_mut() {
        o.retain(|k, _| k != "program");
    }
    let fields = [only_fields(&filter, &FilterRequest::FIELDS), only_fields(&filter, &SwapRequest::FIELDS)];
    let meant = [
        read::<InterfaceRequest>(body).is_some_and(|r| r.ops(config).is_ok()),
        read::<InterfaceChange>(body).is_some_and(|r| r.ops("lan0", config, &[]).is_ok()),
        body["name"].as_str().is_some_and(|name| destroy(name, config).is_ok()),
        read::<RouteRequest>(body).is_some_and(|r| r.route().is_ok()),
        read::<ArpRequest>(body).is_some_and(|r| r.entry().is_ok()),
        fields[0].is_ok() && read::<FilterRequest>(&filter).is_some_and(|r| r.filter().is_ok()),
        fields[1].is_ok()
            && config.filters.iter().any(|f| read::<SwapRequest>(&filter).is_some_and(|r| r.filter(f).is_ok())),
        read::<TableRequest>(body).is_some_and(|r| r.table().is_ok()),
        read::<EntriesRequest>(body).is_some_and(|r| r.entries(smpnet_wasm::TableKind::Exact).is_ok()),
        read::<SysctlRequest>(body).is_some_and(|r| r.text().is_ok()),
        read::<PluginRequest>(body).is_some(),
        read::<ExplainRequest>(body).is_some_and(|r| r.frame().is_ok()),
        read::<FileRequest>(body).is_some(),
        read::<BpfRequest>(body).is_some(),
    ];
    meant.into_iter().filter(|m| *m).count()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_is_read_with_blanks_and_colons() {
        let r =
            |p: &str| ExplainRequest { interface: "a".into(), packet: p.into(), vlan: None, segments: None }.frame();
        assert_eq!(r("02:00 0aFF").unwrap(), [2, 0, 10, 255]);
        assert_eq!(r("0x0800").unwrap(), [8, 0]);
        assert!(r("080").unwrap_err().error.contains("has 3"));
        assert!(r("zz").is_err());
        assert!(r("").is_err());
    }

    #[test]
    fn unknown_fields_are_refused_with_the_nearest() {
        let e = only_fields(&json!({"name": "f", "dropp": "udp"}), &FilterRequest::FIELDS).unwrap_err();
        assert_eq!(e.error, "the request's body: unknown field `dropp`");
        assert_eq!(e.hint.as_deref(), Some("did you mean \"drop\"?"));
    }
}
