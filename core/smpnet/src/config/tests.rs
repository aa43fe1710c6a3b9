//! What each mistake in a file is answered with: the exact text, line and column.

use super::*;
use std::{io, path::Path};

fn no_files(_: &Path) -> io::Result<Vec<u8>> {
    Err(io::Error::new(io::ErrorKind::NotFound, "No such file or directory"))
}

fn names(list: &[&str]) -> Vec<String> {
    list.iter().map(|s| s.to_string()).collect()
}

/// Everything said of `text`, one line each, with a world of a few known names.
fn said(text: &str) -> Vec<String> {
    let (config, mut report) = read("r.toml", text, &no_files);
    let (drivers, kinds) = (names(&["af_packet", "tap", "pcap", "null"]), names(&["gif", "vlan"]));
    let sysctl = names(&["net.inet.ip.forwarding", "net.inet.ip.ttl"]);
    let devices = names(&["eth0", "veth0", "veth1"]);
    let compile = |f: &Filter, _: &[FilterTable]| match &f.source {
        FilterSource::Expr(e) if e.contains("udq") => {
            Err(FilterFault { message: "syntax error".into(), hint: None, fatal: true })
        }
        _ => Ok(()),
    };
    let natives = ["loss".to_owned()];
    let world = World {
        drivers: Some(&drivers),
        kinds: Some(&kinds),
        natives: Some(&natives),
        sysctl: Some(&sysctl),
        devices: Some(&devices),
        compile: Some(&compile),
    };
    check(&config, &world, &mut report);
    report.to_string().lines().map(str::to_owned).collect()
}

#[test]
fn every_mistake_is_named_with_its_place_and_the_nearest_right_name() {
    let cases: &[(&str, &[&str])] = &[
        ("", &[]),
        (
            "[runtime]\nworkerz = 2\n",
            &[r#"r.toml:2:1: error: unknown key "workerz" in [runtime] (did you mean "workers"?)"#],
        ),
        (
            "[runtime]\nworkers = \"2\"\n",
            &[r#"r.toml:2:11: error: "workers" in [runtime] must be a whole number, and is a string"#],
        ),
        (
            "[runtime]\nworkers = 65\n",
            &[r#"r.toml:2:11: error: "workers" in [runtime] must be from 1 to 64, and is 65"#],
        ),
        ("[runtim]\n", &[r#"r.toml:1:2: error: unknown key "runtim" in the file (did you mean "runtime"?)"#]),
        (
            "[pool]\ncell_size = 3000\n",
            &[r#"r.toml:2:13: error: "cell_size" in [pool] must be a power of two, and is 3000"#],
        ),
        (
            "[pool]\nhuge_pages = \"no\"\n",
            &[r#"r.toml:2:14: error: "huge_pages" in [pool] must be "auto" or "never" or "require", and is "no""#],
        ),
        (
            "[interface]\nname = \"a0\"\n",
            &["r.toml:1:1: error: [interface] must be written [[interface]]: there may be several"],
        ),
        (
            "[[interface]]\nname = \"a0\"\n",
            &[r#"r.toml:1:1: error: [[interface]] lacks "driver" (for a port) or "kind" (for a tunnel or vlan)"#],
        ),
        (
            "[[interface]]\nname = \"a0\"\ndriver = \"af_paket\"\n",
            &[r#"r.toml:3:10: error: unknown driver "af_paket" (did you mean "af_packet"?)"#],
        ),
        (
            "[[interface]]\nname = \"a0\"\ndriver = \"gif\"\n",
            &[r#"r.toml:3:10: error: unknown driver "gif" (it is a kind: write kind = "gif" instead of driver)"#],
        ),
        (
            "[[interface]]\nname = \"a0\"\nkind = \"l2tp\"\n",
            &[r#"r.toml:3:8: error: unknown interface kind "l2tp" (known: gif, vlan)"#],
        ),
        (
            "[[interface]]\nname = \"a0\"\ndriver = \"null\"\nkind = \"gif\"\n",
            &[r#"r.toml:4:8: error: an interface has a "driver" or a "kind", not both"#],
        ),
        (
            "[[interface]]\nname = \"interface-number-one\"\ndriver = \"null\"\n",
            &[
                r#"r.toml:2:8: error: "interface-number-one" is not an interface name (a letter, then letters, digits, "_", "-", "."; at most 15)"#,
            ],
        ),
        (
            "[[interface]]\nname = \"a0\"\ndriver = \"af_packet\"\noptions = { device = \"veth3\" }\n",
            &[r#"r.toml:4:11: error: there is no network device "veth3" (did you mean "veth0"?)"#],
        ),
        (
            "[[interface]]\nname = \"a0\"\ndriver = \"null\"\n[[interface]]\nname = \"a0\"\ndriver = \"null\"\n",
            &[r#"r.toml:4:1: error: interface "a0" is there twice; the first is in line 1"#],
        ),
        (
            "[[interface]]\nname = \"v0\"\nkind = \"vlan\"\noptions = { parent = \"lan1\", vid = 7 }\n\
             [[interface]]\nname = \"lan0\"\ndriver = \"null\"\n",
            &[r#"r.toml:4:11: error: the parent "lan1" of v0 is not an interface here (did you mean "lan0"?)"#],
        ),
        (
            "[[interface]]\nname = \"a0\"\ndriver = \"null\"\nadresses = [\"10.0.0.1/24\"]\n",
            &[r#"r.toml:4:1: error: unknown key "adresses" in [[interface]] (did you mean "addresses"?)"#],
        ),
        (
            "[[interface]]\nname = \"a0\"\ndriver = \"null\"\naddresses = [\"10.0.0.1\", \"10.0.1.0/24\", \"10.0.2.1/40\", 5]\n",
            &[
                r#"r.toml:4:14: error: "10.0.0.1" lacks the prefix length, as in "10.0.0.1/24""#,
                "r.toml:4:26: error: 10.0.1.0/24 is the address of the network, not of a host in it",
                r#"r.toml:4:41: error: "40" is not a prefix length (0 to 32)"#,
                r#"r.toml:4:56: error: "addresses" in [[interface]] must be a list of strings, and is a whole number"#,
            ],
        ),
        (
            "[[interface]]\nname = \"a0\"\ndriver = \"null\"\naddresses = [\"10.0.0.1/24\"]\n\
             [[interface]]\nname = \"a1\"\ndriver = \"null\"\naddresses = [\"10.0.0.130/25\", \"10.0.0.1/32\"]\n",
            &[
                "r.toml:8:14: error: 10.0.0.130/25 of a1 overlaps 10.0.0.1/24 of a0 (line 4): hosts in both would be reachable through one only",
                "r.toml:8:31: error: 10.0.0.1 is an address of a0 already (line 4)",
            ],
        ),
        (
            "[[route]]\nto = \"10.0.0.1/24\"\nvia = \"10.0.0.2\"\n",
            &["r.toml:2:6: error: 10.0.0.1/24 has bits behind its prefix length; the network is 10.0.0.0/24"],
        ),
        (
            "[[route]]\nto = \"default\"\nvia = \"10.0.0.2\"\n",
            &[
                "r.toml:1:1: error: the gateway 10.0.0.2 of the route to 0.0.0.0/0 is in no interface's network (give an interface an address in its network, or name the \"dev\")",
            ],
        ),
        (
            "[[route]]\nto = \"default\"\n",
            &[r#"r.toml:1:1: error: [[route]] leads nowhere: it needs "via", "dev" or "type""#],
        ),
        (
            "[[route]]\nto = \"default\"\ntype = \"blackhol\"\n",
            &[
                r#"r.toml:3:8: error: "type" in [[route]] must be "blackhole" or "reject", and is "blackhol" (did you mean "blackhole"?)"#,
            ],
        ),
        (
            "[[arp]]\naddress = \"10.0.0.9\"\nmac = \"02:00\"\n",
            &[r#"r.toml:3:7: error: "02:00" is not an Ethernet address (six hex bytes with colons)"#],
        ),
        (
            "[[filter]]\nname = \"f\"\ndrop = \"udp\"\npass = \"tcp\"\n",
            &[r#"r.toml:1:1: error: [[filter]] needs exactly one of "drop", "pass", "program", "module" and "native""#],
        ),
        (
            "[[filter]]\nname = \"f\"\nnative = \"los\"\noptions = { one_in = 2 }\n",
            &[r#"r.toml:3:10: error: unknown native filter "los" (did you mean "loss"?)"#],
        ),
        (
            "[[filter]]\nname = \"f\"\ndrop = \"udp\"\noptions = { one_in = 2 }\n",
            &[r#"r.toml:4:11: error: "options" in [[filter]] goes with "native""#],
        ),
        (
            "[[filter]]\nname = \"f\"\nnative = \"loss\"\naction = \"pass\"\n",
            &[r#"r.toml:4:10: error: "action" goes with "program"; a native filter or a module decides by itself"#],
        ),
        ("[[filter]]\nname = \"f\"\ndrop = \"udq\"\n", &[r#"r.toml:3:8: error: filter "f": syntax error"#]),
        ("[[filter]]\nname = \"f\"\nprogram = \"x.ddd\"\n", &["r.toml:3:11: error: x.ddd: No such file or directory"]),
        (
            "[[filter]]\nname = \"f\"\ndrop = \"udp\"\ninterface = \"wan0\"\n",
            &[r#"r.toml:1:1: error: filter "f" is on "wan0", which is not an interface here (known: lo0)"#],
        ),
        (
            "[sysctl]\n\"net.inet.ip.forwardin\" = 1\n",
            &[
                r#"r.toml:2:1: error: unknown or read-only sysctl "net.inet.ip.forwardin" (did you mean "net.inet.ip.forwarding"?)"#,
            ],
        ),
        ("[sysctl]\nnet.inet.ip.forwarding = true\n", &[]),
    ];
    for (text, expected) in cases {
        assert_eq!(said(text), *expected, "\nof the file:\n{text}");
    }
}

#[test]
fn a_broken_line_is_reported_where_it_is_broken_and_nothing_is_made_up() {
    let said = said("[runtime]\nworkers = \n[[interface]]\nname = \"a0\"\ndriver = \"null\"\n");
    assert_eq!(said.len(), 1, "{said:?}");
    assert!(said[0].starts_with("r.toml:2:"), "{said:?}");
}

#[test]
fn several_mistakes_are_reported_at_once_in_the_order_of_the_file() {
    let said = said("[pool]\ncels = 4\n[runtime]\nworkers = 0\n[[route]]\nvia = \"x\"\n");
    assert_eq!(
        said,
        [
            r#"r.toml:2:1: error: unknown key "cels" in [pool] (did you mean "cells"?)"#,
            r#"r.toml:4:11: error: "workers" in [runtime] must be from 1 to 64, and is 0"#,
            r#"r.toml:5:1: error: [[route]] lacks "to""#,
            r#"r.toml:6:7: error: "x" is not an IPv4 address"#,
        ]
    );
}

#[test]
fn a_whole_file_is_understood() {
    let text = r#"
[runtime]
cpus = [2, 3]
[plugins]
dirs = ["plugins"]
[control]
socket = "/tmp/s"
[[interface]]
name = "lan0"
driver = "null"
options = { rate = 5, deep = { x = [1, 2.5, "t"] } }
addresses = ["10.0.1.1/24", "10.0.1.2/24"]
mtu = 1400
up = false
[[interface]]
name = "lo0"
addresses = ["192.0.2.1/32"]
[[route]]
to = "0.0.0.0/0"
via = ["10.0.1.9", "10.0.1.8"]
[[route]]
to = "10.9.0.0/16"
type = "reject"
[[route]]
to = "10.8.0.0/16"
dev = "lan0"
[[arp]]
address = "10.0.1.7"
mac = "02:00:00:00:00:07"
publish = true
[[filter]]
name = "f"
pass = "udp"
attach = "ether"
interface = "lan0"
direction = "both"
priority = -5
on_fault = "drop"
[sysctl]
"net.inet.ip.ttl" = 32
"#;
    let (config, report) = read("/etc/smpnet/r.toml", text, &no_files);
    assert!(report.problems.is_empty(), "{report}");
    assert_eq!(config.runtime.cpus, [2, 3]);
    assert_eq!(config.plugins.dirs, [Path::new("/etc/smpnet/plugins")]);
    let lan0 = config.interface("lan0").unwrap();
    assert_eq!(lan0.options, serde_json::json!({"rate": 5, "deep": {"x": [1, 2.5, "t"]}}));
    assert_eq!((lan0.mtu, lan0.up, lan0.addresses.len()), (Some(1400), false, 2));
    assert_eq!(config.interface("lo0").unwrap().backing, Backing::Loopback);
    assert_eq!(config.routes[0].to_string(), "0.0.0.0/0 via 10.0.1.8, 10.0.1.9");
    assert_eq!(config.routes[1].target, RouteTarget::Reject);
    assert_eq!(config.routes[2].to_string(), "10.8.0.0/16 via lan0");
    assert!(config.arp[0].publish);
    let f = &config.filters[0];
    assert_eq!((f.action, f.attach, f.direction), (Action::Pass, AttachLayer::Ether, FilterDirection::Both));
    assert_eq!((f.priority, f.on_fault, f.interface.as_deref()), (-5, smpnet_wasm::OnFault::Drop, Some("lan0")));
    assert_eq!(config.sysctl["net.inet.ip.ttl"].value, "32");
    assert_eq!(config.connected("10.0.1.77".parse().unwrap()).unwrap().name, "lan0");
}
