//! `smpnet arp`.

use super::{
    context::{Context, Failure, Output, Read},
    table::table,
};
use crate::{client::encode, config::mac_or_auto};
use clap::Args;
use serde_json::json;
use std::net::Ipv4Addr;

/// Show and change the neighbours
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  smpnet arp -a
  smpnet arp -s 10.0.1.7 02:00:00:00:00:07
  smpnet arp -s 10.0.1.8 02:00:00:00:00:08 pub -i lan0
  smpnet arp -s 10.0.1.9 auto pub      (answered with the interface's own address)
  smpnet arp -d 10.0.1.7
  smpnet arp -d -a")]
pub struct ArpArgs {
    /// All neighbours (with -d: remove all that were learned)
    #[arg(short = 'a')]
    all: bool,
    /// Add a permanent neighbour: ADDRESS MAC, or one to answer for: ADDRESS MAC|auto pub
    #[arg(short = 's', conflicts_with_all = ["all", "delete"])]
    set: bool,
    /// Remove a neighbour
    #[arg(short = 'd')]
    delete: bool,
    /// Addresses as numbers (always)
    #[arg(short = 'n', hide = true)]
    numeric: bool,
    /// The interface
    #[arg(short = 'i', value_name = "IF")]
    interface: Option<String>,
    /// ADDRESS, or ADDRESS MAC|auto [pub] with -s
    operands: Vec<String>,
}

pub fn run(cx: &Context, args: &ArpArgs) -> Result<Output, Failure> {
    let usage = |e: &str| Failure::usage(e).hint("see `smpnet arp --help`".to_owned());
    let address = |s: &String| s.parse::<Ipv4Addr>().map_err(|_| usage(&format!("\"{s}\" is not an IPv4 address")));
    if args.set {
        let (to, mac, publish) = match args.operands.as_slice() {
            [to, mac] => (to, mac, false),
            [to, mac, word] if word == "pub" => (to, mac, true),
            // NetBSD's "pub proxy" answers for a host without a route of its own, which is what pub does here.
            [to, mac, word, proxy] if word == "pub" && proxy == "proxy" => (to, mac, true),
            _ => return Err(usage("-s needs ADDRESS MAC, or ADDRESS MAC|auto pub")),
        };
        let mac = mac_or_auto(mac).map_err(|e| usage(&e))?;
        if mac.is_none() && !publish {
            return Err(usage("\"auto\" stands for the interface's own address, which only \"pub\" has a use for"));
        }
        let mac = mac.map_or("auto".to_owned(), |m| m.to_string());
        let mut body = json!({"address": address(to)?.to_string(), "mac": mac, "publish": publish});
        if let Some(i) = &args.interface {
            body["interface"] = i.clone().into();
        }
        return Ok(Output::silent(cx.client.post("/v1/arp", &body)?));
    }
    if args.delete {
        return match args.operands.as_slice() {
            [] if args.all => {
                let gone = cx.client.post("/v1/arp/flush", &json!({}))?;
                Ok(Output::new(format!("{} neighbours removed", gone.number("removed")), gone))
            }
            [to] => Ok(Output::silent(cx.client.delete(&format!("/v1/arp/{}", encode(&address(to)?.to_string())))?)),
            _ => Err(usage("-d needs one ADDRESS, or -a")),
        };
    }
    let mut all = cx.client.get("/v1/arp")?;
    let wanted = args.operands.iter().map(address).collect::<Result<Vec<_>, _>>()?;
    if let Some(list) = all.as_array_mut() {
        list.retain(|a| {
            let here = args.interface.as_deref().is_none_or(|i| a.text("interface") == i);
            here && (wanted.is_empty() || wanted.iter().any(|w| a.text("address") == w.to_string()))
        });
    }
    let rows: Vec<Vec<String>> = all
        .items()
        .iter()
        .map(|a| {
            let mac = if a.text("mac").is_empty() { "(incomplete)" } else { a.text("mac") };
            let expires = a.get("expires_s").and_then(|e| e.as_u64()).map_or("-".into(), |s| format!("{s}s"));
            vec![a.text("address").into(), mac.into(), a.text("interface").into(), a.text("state").into(), expires]
        })
        .collect();
    Ok(Output::new(table(&["Address", "Ethernet", "Interface", "State", "Expires"], &rows), all))
}
