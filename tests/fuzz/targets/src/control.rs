//! What operators write: configuration files and requests.

use smpnet::config::{self, Config, FilterFault, World};
use smpnet::daemon::understand;

/// A configuration file: read, checked against a small machine, and its mistakes told.
pub fn config(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let no_file = |p: &std::path::Path| Err(std::io::Error::other(p.display().to_string()));
    let (config, mut report) = config::read("fuzz.toml", &text, &no_file);
    let names = |list: &[&str]| list.iter().map(|s| (*s).to_owned()).collect::<Vec<_>>();
    let (drivers, kinds, natives) = (names(&["null", "af_packet", "pcap"]), names(&["vlan", "gif"]), names(&["loss"]));
    let (sysctl, devices) = (names(&["net.inet.ip.forwarding", "net.inet.ip.ttl"]), names(&["eth0", "eth1"]));
    let compile = |f: &config::Filter, _: &[config::FilterTable]| match &f.source {
        config::FilterSource::Expr(e) if e.len() < 4096 => {
            let compiled = smpnet_bpf::compile_expr_with(e, smpnet_bpf::Dlt::Raw, smpnet_bpf::Engine::Subset);
            compiled.map(drop).map_err(|e| FilterFault { message: e.to_string(), hint: None, fatal: true })
        }
        _ => Ok(()),
    };
    let world = World {
        drivers: Some(&drivers),
        kinds: Some(&kinds),
        natives: Some(&natives),
        sysctl: Some(&sysctl),
        devices: Some(&devices),
        compile: Some(&compile),
    };
    config::check(&config, &world, &mut report);
    let _ = report.to_string();
    // What was understood can be planned for and be taken down again.
    let nothing = smpnet::apply::SysctlState { now: &|_| None, original: &Default::default() };
    let ops = smpnet::apply::plan(&Config::default(), &config, &nothing).ops;
    ops.iter().for_each(|op| _ = op.to_string());
    smpnet::apply::plan(&config, &Config::default(), &nothing);
}

/// The body of a request, as every end point that takes one reads it.
pub fn control_request(data: &[u8]) {
    let Ok(body) = serde_json::from_slice(data) else { return };
    let text = "[[interface]]\nname = \"lan0\"\ndriver = \"null\"\naddresses = [\"10.0.1.1/24\"]\n\
                [[filter]]\nname = \"f\"\ndrop = \"udp\"\n[[filter]]\nname = \"n\"\nnative = \"loss\"\n";
    let (config, _) = config::read("running.toml", text, &|_| Err(std::io::Error::other("no files")));
    understand(&body, &config);
}
