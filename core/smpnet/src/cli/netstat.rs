//! `smpnet netstat`, in NetBSD's syntax.

use super::{
    context::{Context, Failure, Output, Read},
    route, sentences,
    table::table,
};
use clap::Args;
use serde_json::Value;

/// Show interfaces, routes, protocol statistics, queues and drops
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  smpnet netstat -i
  smpnet netstat -d           (why packets were dropped, and how many)
  smpnet netstat -s -p ip
  smpnet netstat -s -s        (without what never happened)
  smpnet netstat -r --json")]
pub struct NetstatArgs {
    /// Interfaces with their counters (also without an option)
    #[arg(short = 'i', group = "what")]
    interfaces: bool,
    /// The routing table
    #[arg(short = 'r', group = "what")]
    routes: bool,
    /// Statistics of each protocol; given twice, only what happened at all
    #[arg(short = 's', group = "what", action = clap::ArgAction::Count)]
    statistics: u8,
    /// Queues: lengths and drops
    #[arg(short = 'q', group = "what")]
    queues: bool,
    /// Drops by reason and interface
    #[arg(short = 'd', group = "what")]
    drops: bool,
    /// With -s: one protocol (ip, icmp, arp, ...)
    #[arg(short = 'p', value_name = "PROTOCOL")]
    protocol: Option<String>,
    /// With -i or -d: one interface
    #[arg(short = 'I', value_name = "IF")]
    interface: Option<String>,
    /// With -i: bytes instead of packets
    #[arg(short = 'b')]
    bytes: bool,
    /// Addresses as numbers (always)
    #[arg(short = 'n', hide = true)]
    numeric: bool,
}

pub fn run(cx: &Context, args: &NetstatArgs) -> Result<Output, Failure> {
    let only = |mut all: Value, key: &str| {
        if let (Some(wanted), Some(list)) = (&args.interface, all.as_array_mut()) {
            list.retain(|i| i.text(key) == wanted);
        }
        all
    };
    if args.routes {
        let all = cx.client.get("/v1/routes")?;
        Ok(Output::new(route::show(&all), all))
    } else if args.statistics > 0 || args.protocol.is_some() {
        let stats = cx.client.get("/v1/stats")?;
        statistics(&stats["protocols"], args.protocol.as_deref(), args.statistics > 1)
    } else if args.queues {
        let all = cx.client.get("/v1/queues")?;
        Ok(Output::new(queues(&all), all))
    } else if args.drops {
        let all = only(cx.client.get("/v1/drops")?, "interface");
        Ok(Output::new(drops(&all), all))
    } else {
        let all = only(cx.client.get("/v1/interfaces")?, "name");
        Ok(Output::new(interfaces(&all, args.bytes), all))
    }
}

fn interfaces(all: &Value, bytes: bool) -> String {
    let mut rows = Vec::new();
    for i in all.items() {
        let c = &i["counters"];
        let numbers: &[&str] =
            if bytes { &["ibytes", "obytes"] } else { &["ipackets", "ierrors", "opackets", "oerrors"] };
        let dropped: u64 = i.list("drops").iter().map(|d| d.number("packets")).sum();
        let row = |network: &str, address: &str| {
            let mut row =
                vec![i.text("name").to_owned(), i.number("mtu").to_string(), network.to_owned(), address.to_owned()];
            row.extend(numbers.iter().map(|k| c.number(k).to_string()));
            row.push(dropped.to_string());
            row
        };
        rows.push(row("<Link>", i.text("mac")));
        for a in i.list("addresses") {
            let net = a.text("address").parse::<crate::config::Prefix>();
            let net = net.map(|n| n.network().to_string()).unwrap_or_default();
            let address = a.text("address").split('/').next().unwrap_or("").to_owned();
            rows.push(row(&net, &address));
        }
    }
    let mut head = vec!["Name", "Mtu", "Network", "Address"];
    head.extend(if bytes { &["Ibytes", "Obytes"][..] } else { &["Ipkts", "Ierrs", "Opkts", "Oerrs"][..] });
    head.push("Drops");
    table(&head, &rows)
}

fn drops(all: &Value) -> String {
    let rows: Vec<Vec<String>> = all
        .items()
        .iter()
        .map(|d| {
            let interface = if d.text("interface").is_empty() { "-" } else { d.text("interface") };
            vec![
                d.number("packets").to_string(),
                d.text("reason").to_owned(),
                interface.to_owned(),
                d.text("text").to_owned(),
            ]
        })
        .collect();
    if rows.is_empty() {
        return "no packet was dropped".into();
    }
    table(&["Packets", "Reason", "Interface", "Meaning"], &rows)
}

fn queues(all: &Value) -> String {
    let keys: Vec<String> = match all.items().first() {
        Some(Value::Object(o)) => o.keys().filter(|k| *k != "name").cloned().collect(),
        _ => return "no queues".into(),
    };
    let plain = |v: Option<&Value>| match v {
        Some(Value::String(s)) => s.clone(),
        Some(other) => other.to_string(),
        None => String::new(),
    };
    let rows: Vec<Vec<String>> = all
        .items()
        .iter()
        .map(|q| std::iter::once(q.text("name").to_owned()).chain(keys.iter().map(|k| plain(q.get(k)))).collect())
        .collect();
    let mut head = vec!["Queue"];
    head.extend(keys.iter().map(String::as_str));
    table(&head, &rows)
}

/// `ip:` and then one line for each counter, as NetBSD does. As JSON all counters by their names.
fn statistics(protocols: &Value, wanted: Option<&str>, nonzero: bool) -> Result<Output, Failure> {
    let empty = serde_json::Map::new();
    let all = protocols.as_object().unwrap_or(&empty);
    if let Some(p) = wanted.filter(|p| !all.contains_key(*p)) {
        let known: Vec<&str> = all.keys().map(String::as_str).collect();
        return Err(Failure::usage(format!("unknown protocol \"{p}\"")).hint(format!("known: {}", known.join(", "))));
    }
    let chosen = all.iter().filter(|(name, _)| wanted.is_none_or(|w| w == *name));
    let mut text = String::new();
    let mut json = serde_json::Map::new();
    for (name, counters) in chosen {
        if let Value::Object(o) = counters {
            let numbers: Vec<(&str, u64)> = o.iter().filter_map(|(k, v)| Some((k.as_str(), v.as_u64()?))).collect();
            text.push_str(&sentences::protocol(name, &numbers, nonzero));
        }
        json.insert(name.clone(), counters.clone());
    }
    Ok(Output::new(text, json.into()))
}
