//! `smpnet ifconfig`, in NetBSD's syntax.

use super::context::{Context, Failure, Output, Read};
use crate::{
    client::encode,
    config::{Mac, interface_address},
};
use clap::Args;
use serde_json::{Map, Value};
use std::{collections::BTreeMap, fmt::Write};

/// Show and configure interfaces
#[derive(Debug, Args)]
#[command(after_help = "\
Words after the interface, in any number:
  up | down                       let packets pass, or not
  mtu N                           bytes of the network layer
  ADDR/LEN [alias]                add an address
  ADDR/LEN delete | -alias        take one away
  description TEXT | -description
  promisc | -promisc              look at the frames of other stations too (hooks and captures see them)
  link MAC [active] | -link       another Ethernet address, or the device's own (lladdr is understood)
  multicast MAC | -multicast MAC  a multicast address that the device is to receive
  allmulti | -allmulti            every one
  OFFLOAD | -OFFLOAD              rx_csum tx_csum tso4 tso6 uso lro rx_vlan tx_vlan scatter rss on or off;
                                  ip4csum, tcp4csum and udp4csum, with -rx or -tx or neither, are understood:
                                  devices here turn on the three together
  create [driver D] [NAME=VALUE]  make an interface: a port of a driver, or of the kind its name tells
  tunnel LOCAL REMOTE             with create: the ends of a gif
  vlan ID vlanif PARENT           with create: tag and parent of a vlan
  destroy                         end it

Examples:
  smpnet ifconfig
  smpnet ifconfig lan0 10.0.1.1/24 mtu 1400 up
  smpnet ifconfig vlan7 create vlan 7 vlanif lan0
  smpnet ifconfig lan0 link 02:00:00:00:00:07 -tso4 promisc
  smpnet ifconfig wan0 create driver af_packet device=eth1")]
pub struct IfconfigArgs {
    /// Show all interfaces, with everything known of one (counters, drops, the driver's own state)
    #[arg(short = 'a')]
    all: bool,
    /// Show counters, drops and the driver's own state
    #[arg(short = 'v')]
    verbose: bool,
    /// Show names only
    #[arg(short = 'l')]
    list: bool,
    /// The interface
    interface: Option<String>,
    /// What to do with it
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    words: Vec<String>,
}

/// What the words ask for.
#[derive(Debug, PartialEq)]
pub(super) enum Request {
    Show,
    Create(Value),
    Destroy,
    Change(Value),
}

pub fn run(cx: &Context, args: &IfconfigArgs) -> Result<Output, Failure> {
    let Some(name) = &args.interface else {
        let all = cx.client.get("/v1/interfaces")?;
        let text = if args.list {
            all.items().iter().map(|i| i.text("name")).collect::<Vec<_>>().join(" ")
        } else {
            all.items().iter().map(|i| show(i, args.verbose)).collect()
        };
        return Ok(Output::new(text, all));
    };
    let path = format!("/v1/interfaces/{}", encode(name));
    let mut words = args.words.clone();
    let mut verbose = args.verbose;
    words.retain(|w| {
        let is_v = w == "-v";
        verbose |= is_v;
        !is_v
    });
    match parse(name, &words).map_err(|e| Failure::usage(e).hint("see `smpnet ifconfig --help`".to_owned()))? {
        Request::Show => {
            let one = cx.client.get(&path)?;
            Ok(Output::new(show(&one, verbose), one))
        }
        Request::Create(body) => Ok(Output::silent(cx.client.post("/v1/interfaces", &body)?)),
        Request::Destroy => Ok(Output::silent(cx.client.delete(&path)?)),
        Request::Change(body) => Ok(Output::silent(cx.client.patch(&path, &body)?)),
    }
}

/// Reads the words behind the interface's name.
pub(super) fn parse(name: &str, words: &[String]) -> Result<Request, String> {
    if words.is_empty() {
        return Ok(Request::Show);
    }
    let (mut change, mut add, mut remove) = (Map::new(), Vec::new(), Vec::new());
    let (mut create, mut destroy, mut options) = (false, false, Map::new());
    let mut driver = None;
    let mut lists: BTreeMap<&str, Vec<Value>> = BTreeMap::new();
    let mut rest = words.iter().map(String::as_str).peekable();
    while let Some(word) = rest.next() {
        let mut operand = |what: &str| rest.next().map(str::to_owned).ok_or(format!("\"{word}\" needs {what}"));
        match word {
            "inet" => {}
            "up" | "down" => {
                change.insert("up".into(), (word == "up").into());
            }
            "mtu" => {
                let n = operand("a number of bytes")?;
                let n: u32 = n.parse().map_err(|_| format!("\"{n}\" is not an MTU"))?;
                change.insert("mtu".into(), n.into());
            }
            "description" | "descr" => {
                change.insert("description".into(), operand("a text")?.into());
            }
            "-description" | "-descr" => {
                change.insert("description".into(), "".into());
            }
            "promisc" | "-promisc" => {
                change.insert("promisc".into(), (word == "promisc").into());
            }
            "allmulti" | "-allmulti" => {
                change.insert("allmulti".into(), (word == "allmulti").into());
            }
            "multicast" | "-multicast" => {
                let mac = Mac::group(&operand("a multicast address")?)?.to_string();
                let list = if word == "multicast" { "add_multicast" } else { "remove_multicast" };
                lists.entry(list).or_default().push(mac.into());
            }
            "link" | "lladdr" => {
                let mac = Mac::station(&operand("an Ethernet address")?)?.to_string();
                change.insert("mac".into(), mac.into());
                rest.next_if_eq(&"active");
            }
            "-link" | "-lladdr" => {
                change.insert("mac".into(), "own".into());
            }
            _ if offload_words(word).is_some() => {
                let (list, names) = offload_words(word).unwrap_or_default();
                lists.entry(list).or_default().extend(names.into_iter().map(Value::from));
            }
            "create" => create = true,
            "destroy" => destroy = true,
            "driver" => driver = Some(("driver", operand("the name of a driver")?)),
            "kind" => driver = Some(("kind", operand("the name of an interface kind")?)),
            "tunnel" => {
                options.insert("local".into(), operand("two addresses")?.into());
                options.insert("remote".into(), operand("two addresses")?.into());
            }
            "vlan" => {
                let id = operand("an id from 1 to 4094")?;
                let id: u16 = id.parse().map_err(|_| format!("\"{id}\" is not a vlan id (1 to 4094)"))?;
                options.insert("id".into(), id.into());
            }
            "vlanif" => {
                options.insert("parent".into(), operand("the parent interface")?.into());
            }
            _ if word.contains('=') => {
                let (key, value) = word.split_once('=').unwrap_or((word, ""));
                let value = serde_json::from_str(value).unwrap_or_else(|_| Value::from(value));
                options.insert(key.into(), value);
            }
            _ if word.starts_with(|c: char| c.is_ascii_digit()) => {
                let address = interface_address(word)?.to_string();
                match rest.peek().copied() {
                    Some("delete" | "-alias" | "remove") => {
                        rest.next();
                        remove.push(Value::from(address));
                    }
                    other => {
                        if matches!(other, Some("alias" | "add")) {
                            rest.next();
                        }
                        add.push(Value::from(address));
                    }
                }
            }
            _ => return Err(format!("\"{word}\" is not understood")),
        }
    }
    if destroy {
        let alone = change.is_empty()
            && lists.is_empty()
            && add.is_empty()
            && remove.is_empty()
            && options.is_empty()
            && !create;
        return if alone { Ok(Request::Destroy) } else { Err("\"destroy\" stands alone".into()) };
    }
    if create {
        let (key, what) =
            driver.unwrap_or_else(|| ("kind", name.trim_end_matches(|c: char| c.is_ascii_digit()).to_owned()));
        if !remove.is_empty() {
            return Err("a new interface has no address to delete".into());
        }
        if let Some(groups) = lists.remove("add_multicast") {
            change.insert("multicast".into(), groups.into());
        }
        if !lists.is_empty() {
            return Err("offloads are switched, and multicasts left, when the interface is there".into());
        }
        let mut body = change;
        body.entry("up").or_insert(false.into());
        body.insert("name".into(), name.into());
        body.insert(key.into(), what.into());
        body.insert("options".into(), options.into());
        body.insert("addresses".into(), add.into());
        return Ok(Request::Create(body.into()));
    }
    if driver.is_some() {
        return Err("\"driver\" and \"kind\" go with \"create\"".into());
    }
    if !options.is_empty() {
        change.insert("options".into(), options.into());
    }
    change.extend(lists.into_iter().map(|(k, v)| (k.to_owned(), v.into())));
    if !add.is_empty() {
        change.insert("add_addresses".into(), add.into());
    }
    if !remove.is_empty() {
        change.insert("remove_addresses".into(), remove.into());
    }
    Ok(Request::Change(change.into()))
}

/// The field of a change, and the offloads, that a word switches on or off: by our names, or by NetBSD's.
fn offload_words(word: &str) -> Option<(&'static str, Vec<&'static str>)> {
    let (field, name) = match word.strip_prefix('-') {
        Some(name) => ("offloads_off", name),
        None => ("offloads_on", word),
    };
    if let Some((_, name)) = smpnet_stack::OFFLOADS.iter().find(|(_, n)| *n == name) {
        return Some((field, vec![name]));
    }
    let (protocol, way) = match name.rsplit_once('-') {
        Some((protocol, way)) => (protocol, way),
        None => (name, ""),
    };
    let ways = match way {
        "rx" => vec!["rx_csum"],
        "tx" => vec!["tx_csum"],
        "" => vec!["rx_csum", "tx_csum"],
        _ => return None,
    };
    matches!(protocol, "ip4csum" | "tcp4csum" | "udp4csum").then_some((field, ways))
}

/// The bits of offloads by name, and the names.
fn offload_set(names: &[Value]) -> (u32, String) {
    let names: Vec<&str> = names.iter().filter_map(Value::as_str).collect();
    let bits = smpnet_stack::OFFLOADS.iter().filter(|(_, n)| names.contains(n)).map(|(b, _)| b);
    (bits.fold(0, |mask, b| mask | b), names.join(","))
}

/// An interface as NetBSD's ifconfig shows it.
pub(super) fn show(i: &Value, verbose: bool) -> String {
    let loopback = i.text("attachment") == "loopback";
    let ether = i.text("medium") == "ether";
    let mut flags = Vec::new();
    let mut bits = 0u32;
    let mut flag = |on: bool, bit: u32, name: &'static str| {
        if on {
            flags.push(name);
            bits |= bit;
        }
    };
    flag(i.flag("up"), 0x1, "UP");
    flag(ether, 0x2, "BROADCAST");
    flag(loopback, 0x8, "LOOPBACK");
    flag(!ether && !loopback, 0x10, "POINTOPOINT");
    flag(i.flag("running"), 0x40, "RUNNING");
    flag(i.flag("promisc"), 0x100, "PROMISC");
    flag(i.flag("allmulti"), 0x200, "ALLMULTI");
    flag(ether, 0x800, "SIMPLEX");
    flag(true, 0x8000, "MULTICAST");
    let mut out = String::new();
    // Writing to a String cannot fail.
    let mut line = |text: String| _ = writeln!(out, "{text}");
    line(format!("{}: flags={bits:#x}<{}> mtu {}", i.text("name"), flags.join(","), i.number("mtu")));
    if !i.text("description").is_empty() {
        line(format!("\tdescription: \"{}\"", i.text("description")));
    }
    if !i.list("capabilities").is_empty() {
        let (can, names) = offload_set(i.list("capabilities"));
        line(format!("\tcapabilities={can:x}<{names}>"));
        let (on, names) = offload_set(i.list("offloads"));
        line(format!("\tenabled={on:x}<{names}>"));
    }
    if let Some(rss) = i.get("rss").filter(|r| r.is_object()) {
        let (table, queues) = (rss.number("table"), rss.number("queues"));
        line(match rss.text("reason") {
            "" => format!("\trss: symmetric key, {table} entries over {queues} queues"),
            reason => format!("\trss: refused by the device: {reason}"),
        });
    }
    if !i.text("mac").is_empty() && ether {
        line(format!("\taddress: {}", i.text("mac")));
    }
    match i.text("attachment") {
        "port" => line(format!(
            "\tdriver: {} ({} receive, {} transmit queues)",
            i.text("driver"),
            i.number("rx_queues"),
            i.number("tx_queues")
        )),
        "kind" => {
            let parent = i.text("parent");
            let on = if parent.is_empty() { String::new() } else { format!(" parent: {parent}") };
            line(format!("\tkind: {}{on}", i.text("driver")));
        }
        _ => {}
    }
    if !loopback {
        let status = match i.text("link") {
            "up" => "active",
            "down" => "no carrier",
            other => other,
        };
        let speed = match i.number("speed") {
            0 => String::new(),
            n => format!(" {n} Mbit/s"),
        };
        line(format!("\tstatus: {status}{speed}"));
    }
    for m in i.list("multicast").iter().filter_map(Value::as_str) {
        line(format!("\tmulticast: {m}"));
    }
    if !i.text("quarantine").is_empty() {
        line(format!("\tquarantined: {}", i.text("quarantine")));
    }
    for a in i.list("addresses") {
        let broadcast = match a.text("broadcast") {
            "" => String::new(),
            b => format!(" broadcast {b}"),
        };
        let state = match a.text("state") {
            "preferred" | "" => String::new(),
            s => format!(" <{}>", s.to_uppercase()),
        };
        line(format!("\tinet {}{broadcast}{state}", a.text("address")));
    }
    if verbose {
        let c = &i["counters"];
        for (way, packets, bytes, multicasts, errors) in [
            ("input", "ipackets", "ibytes", "imcasts", "ierrors"),
            ("output", "opackets", "obytes", "omcasts", "oerrors"),
        ] {
            line(format!(
                "\t{way}: {} packets, {} bytes, {} multicasts, {} errors",
                c.number(packets),
                c.number(bytes),
                c.number(multicasts),
                c.number(errors)
            ));
        }
        for d in i.list("drops") {
            line(format!("\tdropped: {} {}", d.number("packets"), d.text("reason")));
        }
        for (key, title) in [("status", "state"), ("driver_counters", "counters")] {
            if let Some(Value::Object(o)) = i.get(key) {
                for (k, v) in o {
                    line(format!("\t{title}: {k} = {v}"));
                }
            }
        }
    }
    out
}

/// The JSON that `--json` prints for a change.
#[cfg(test)]
pub(super) fn change(name: &str, words: &str) -> Result<Request, String> {
    parse(name, &words.split_whitespace().map(str::to_owned).collect::<Vec<_>>())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn words_become_one_request() {
        assert_eq!(change("lan0", "").unwrap(), Request::Show);
        assert_eq!(
            change("lan0", "10.0.1.1/24 10.0.2.1/24 alias 10.0.3.1/24 delete mtu 1400 up").unwrap(),
            Request::Change(json!({
                "up": true, "mtu": 1400,
                "add_addresses": ["10.0.1.1/24", "10.0.2.1/24"], "remove_addresses": ["10.0.3.1/24"],
            }))
        );
        assert_eq!(
            change("gif3", "create tunnel 10.0.0.1 10.0.0.2 10.9.0.1/30 up").unwrap(),
            Request::Create(json!({
                "name": "gif3", "kind": "gif", "up": true, "addresses": ["10.9.0.1/30"],
                "options": {"local": "10.0.0.1", "remote": "10.0.0.2"},
            }))
        );
        assert_eq!(
            change("lan0", "promisc allmulti link 2:0:0:0:0:7 active -tso4 ip4csum-tx multicast 01:00:5e:00:00:05")
                .unwrap(),
            Request::Change(json!({
                "promisc": true, "allmulti": true, "mac": "02:00:00:00:00:07", "offloads_off": ["tso4"],
                "offloads_on": ["tx_csum"], "add_multicast": ["01:00:5e:00:00:05"],
            }))
        );
        assert_eq!(change("lan0", "-link -promisc").unwrap(), Request::Change(json!({"mac": "own", "promisc": false})));
        assert_eq!(
            change("wan0", "create driver af_packet device=eth1 queues=2").unwrap(),
            Request::Create(json!({
                "name": "wan0", "driver": "af_packet", "up": false, "addresses": [],
                "options": {"device": "eth1", "queues": 2},
            }))
        );
        assert_eq!(change("gif0", "destroy").unwrap(), Request::Destroy);
    }

    #[test]
    fn wrong_words_are_named() {
        assert_eq!(change("lan0", "upp").unwrap_err(), "\"upp\" is not understood");
        assert_eq!(change("lan0", "-tso5").unwrap_err(), "\"-tso5\" is not understood");
        assert_eq!(
            change("lan0", "link 01:00:5e:00:00:05").unwrap_err(),
            "01:00:5e:00:00:05 is not the address of a station"
        );
        assert_eq!(change("lan0", "mtu").unwrap_err(), "\"mtu\" needs a number of bytes");
        assert_eq!(
            change("lan0", "10.0.0.1").unwrap_err(),
            "\"10.0.0.1\" lacks the prefix length, as in \"10.0.0.1/24\""
        );
        assert_eq!(change("lan0", "destroy up").unwrap_err(), "\"destroy\" stands alone");
    }

    #[test]
    fn an_interface_is_shown_as_netbsd_shows_it() {
        let i = json!({
            "name": "lan0", "attachment": "port", "driver": "null", "medium": "ether", "up": true, "running": true,
            "link": "up", "speed": 1000, "mtu": 1500, "mac": "02:00:00:00:00:01", "rx_queues": 1, "tx_queues": 2,
            "addresses": [{"address": "10.0.1.1/24", "broadcast": "10.0.1.255", "state": "preferred"}],
            "promisc": true, "capabilities": ["rx_csum", "tx_csum"], "offloads": ["rx_csum"],
            "rss": {"programmed": true, "table": 128, "queues": 4, "reason": null},
        });
        assert_eq!(
            show(&i, false),
            "lan0: flags=0x8943<UP,BROADCAST,RUNNING,PROMISC,SIMPLEX,MULTICAST> mtu 1500\n\
             \tcapabilities=3<rx_csum,tx_csum>\n\
             \tenabled=1<rx_csum>\n\
             \trss: symmetric key, 128 entries over 4 queues\n\
             \taddress: 02:00:00:00:00:01\n\
             \tdriver: null (1 receive, 2 transmit queues)\n\
             \tstatus: active 1000 Mbit/s\n\
             \tinet 10.0.1.1/24 broadcast 10.0.1.255\n"
        );
    }
}
