//! `smpnet route`, in NetBSD's syntax.

use super::{
    context::{Context, Failure, Output, Read},
    table::table,
};
use crate::{
    client::encode,
    config::{Route, RouteCommand, RouteTarget, route_words},
};
use clap::Args;
use serde_json::{Value, json};
use std::path::{Path, PathBuf};

/// Show and change the routing table
#[derive(Debug, Args)]
#[command(after_help = "\
Commands:
  show                            the table (also without a command)
  get DEST                        the route that a packet to DEST takes
  add DEST GATEWAY [GATEWAY ...]  a route, over several gateways by flow
  add DEST -interface IF          a route to hosts on an interface
  add DEST -blackhole | -reject   packets to DEST are dropped, silently or with an ICMP unreachable
  change DEST ...                 as add, for a route that is there; packets take the one or the other
  delete DEST
  flush                           remove every route that was added
  add --file FILE                 many routes as one transaction: all of them, or none; also -f FILE alone
FILE (- is the standard input) has a line for each route: DEST GATEWAY, or a command as above; # begins a remark.
DEST is default, a host, or NETWORK/LEN; -net and -host before it are understood.

Examples:
  smpnet route add default 10.0.2.2
  smpnet route add 10.9.0.0/16 -reject
  smpnet route get 10.9.1.1
  smpnet route -f full-table.txt")]
pub struct RouteArgs {
    /// Addresses as numbers (always)
    #[arg(short = 'n', hide = true)]
    numeric: bool,
    /// Do what the lines of a file say, as one transaction
    #[arg(short = 'f', long = "file", value_name = "FILE", conflicts_with = "words")]
    file: Option<PathBuf>,
    /// The command and its operands
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "COMMAND")]
    words: Vec<String>,
}

#[derive(Debug, PartialEq)]
pub(super) enum Request {
    Show,
    Get(String),
    Add(Value),
    Change(Value),
    Delete(String),
    Flush,
    File(PathBuf),
}

pub fn run(cx: &Context, args: &RouteArgs) -> Result<Output, Failure> {
    let request = match &args.file {
        Some(file) => Ok(Request::File(file.clone())),
        None => parse(&args.words),
    };
    match request.map_err(|e| Failure::usage(e).hint("see `smpnet route --help`".to_owned()))? {
        Request::File(file) => {
            let (name, text) = read_file(&file)?;
            let answer = cx.client.post("/v1/routes/bulk", &json!({"file": name, "text": text}))?;
            let text = format!(
                "{} added, {} changed, {} deleted",
                answer.number("added"),
                answer.number("changed"),
                answer.number("deleted")
            );
            Ok(Output::new(text, answer))
        }
        Request::Show => {
            let all = cx.client.get("/v1/routes")?;
            Ok(Output::new(show(&all), all))
        }
        Request::Get(to) => {
            let answer = cx.client.get(&format!("/v1/routes/get?to={}", encode(&to)))?;
            let reached = answer.get("route").is_some_and(|r| !r.is_null());
            if !reached && !cx.json {
                return Err(Failure::new(format!("{to}: not in table")));
            }
            Ok(Output::new(got(&answer), answer).code(if reached { 0 } else { 1 }))
        }
        Request::Add(body) => done("add net", &body, cx.client.post("/v1/routes", &body)?),
        Request::Change(body) => done("change net", &body, cx.client.put("/v1/routes", &body)?),
        Request::Delete(to) => {
            let body = json!({"to": to});
            done("delete net", &body, cx.client.delete(&format!("/v1/routes?to={}", encode(&to)))?)
        }
        Request::Flush => {
            let gone = cx.client.post("/v1/routes/flush", &json!({}))?;
            Ok(Output::new(format!("{} routes removed", gone.number("removed")), gone))
        }
    }
}

fn done(what: &str, body: &Value, answer: Value) -> Result<Output, Failure> {
    let to = body.text("to");
    let target = match body.list("via") {
        [] => [body.text("type"), body.text("dev")].into_iter().find(|t| !t.is_empty()).unwrap_or("").to_owned(),
        via => via.iter().filter_map(Value::as_str).collect::<Vec<_>>().join(", "),
    };
    let gateway = if target.is_empty() { String::new() } else { format!(": gateway {target}") };
    Ok(Output::new(format!("{what} {to}{gateway}"), answer))
}

/// A file's name for messages, and its text; `-` is the standard input.
fn read_file(file: &Path) -> Result<(String, String), Failure> {
    let read = match file.to_str() {
        Some("-") => std::io::read_to_string(std::io::stdin()).map(|text| ("stdin".to_owned(), text)),
        _ => std::fs::read_to_string(file).map(|text| (file.display().to_string(), text)),
    };
    read.map_err(|e| Failure::new(format!("{}: {e}", file.display())))
}

pub(super) fn parse(words: &[String]) -> Result<Request, String> {
    let mut rest = words.iter().map(String::as_str);
    let Some(command) = rest.next() else { return Ok(Request::Show) };
    if let Some(at) = words.iter().position(|w| w == "--file") {
        return match (command, &words[1..at], &words[at + 1..]) {
            ("add" | "change" | "delete", [], [file]) => Ok(Request::File(file.into())),
            _ => Err("\"--file\" needs one FILE and nothing else".into()),
        };
    }
    match command {
        "show" => Ok(Request::Show),
        "flush" => Ok(Request::Flush),
        "get" => match rest.filter(|w| !matches!(*w, "-net" | "-host" | "-inet" | "-n")).collect::<Vec<_>>().as_slice()
        {
            [to] => {
                let host = to.split('/').next().unwrap_or(to);
                let address: std::net::Ipv4Addr =
                    host.parse().map_err(|_| format!("\"{host}\" is not an IPv4 address"))?;
                Ok(Request::Get(address.to_string()))
            }
            _ => Err("\"get\" needs one destination".into()),
        },
        "add" | "change" | "delete" => Ok(match route_words(command, rest)? {
            RouteCommand::Add(r) => Request::Add(body(&r)),
            RouteCommand::Change(r) => Request::Change(body(&r)),
            RouteCommand::Delete(to) => Request::Delete(to.to_string()),
        }),
        _ => Err(format!("unknown command \"{command}\": add, change, delete, flush, get or show")),
    }
}

/// A route as the API takes it.
fn body(r: &Route) -> Value {
    let mut body = json!({"to": r.to.to_string()});
    match &r.target {
        RouteTarget::Blackhole => body["type"] = "blackhole".into(),
        RouteTarget::Reject => body["type"] = "reject".into(),
        RouteTarget::NextHops(hops) => {
            let via: Vec<String> = hops.iter().filter_map(|h| h.via).map(|v| v.to_string()).collect();
            if !via.is_empty() {
                body["via"] = via.into();
            }
            if let Some(dev) = hops.first().and_then(|h| h.dev.as_deref()) {
                body["dev"] = dev.into();
            }
        }
    }
    body
}

/// The table as `netstat -rn` shows it.
pub(super) fn show(all: &Value) -> String {
    let mut rows = Vec::new();
    for r in all.items() {
        let dst = match r.text("dst") {
            "0.0.0.0/0" => "default",
            other => other.strip_suffix("/32").unwrap_or(other),
        };
        let hops = r.list("nexthops");
        if hops.is_empty() {
            rows.push(vec![dst.to_owned(), r.text("kind").to_owned(), r.text("flags").to_owned(), "-".to_owned()]);
        }
        for (n, hop) in hops.iter().enumerate() {
            let gateway = match hop.text("via") {
                "" => "link",
                via => via,
            };
            let dst = if n == 0 { dst } else { "" };
            let cells = [dst, gateway, r.text("flags"), hop.text("interface")];
            rows.push(cells.map(str::to_owned).to_vec());
        }
    }
    format!("Internet:\n{}", table(&["Destination", "Gateway", "Flags", "Interface"], &rows))
}

/// The answer of `route get`, laid out as NetBSD does.
fn got(answer: &Value) -> String {
    let route = &answer["route"];
    let dst: crate::config::Prefix =
        route.text("dst").parse().unwrap_or(crate::config::Prefix { addr: [0; 4].into(), len: 0 });
    let mut lines = vec![
        ("route to", answer.text("address").to_owned()),
        ("destination", if dst.len == 0 { "default".into() } else { dst.addr.to_string() }),
        ("mask", if dst.len == 0 { "default".into() } else { std::net::Ipv4Addr::from(dst.mask()).to_string() }),
    ];
    for hop in route.list("nexthops") {
        if !hop.text("via").is_empty() {
            lines.push(("gateway", hop.text("via").to_owned()));
        }
        lines.push(("interface", hop.text("interface").to_owned()));
    }
    if !answer.text("source").is_empty() {
        lines.push(("local addr", answer.text("source").to_owned()));
    }
    lines.push(("flags", format!("{} ({})", route.text("flags"), route.text("kind"))));
    if answer.number("mtu") > 0 {
        lines.push(("mtu", answer.number("mtu").to_string()));
    }
    lines.iter().map(|(k, v)| format!("{k:>11}: {v}\n")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(s: &str) -> Result<Request, String> {
        parse(&s.split_whitespace().map(str::to_owned).collect::<Vec<_>>())
    }

    #[test]
    fn netbsd_syntax_is_understood() {
        assert_eq!(words("").unwrap(), Request::Show);
        assert_eq!(
            words("add default 10.0.2.2 10.0.2.3").unwrap(),
            Request::Add(json!({"to": "0.0.0.0/0", "via": ["10.0.2.2", "10.0.2.3"]}))
        );
        assert_eq!(
            words("add -net 10.9.0.0/16 127.0.0.1 -blackhole").unwrap(),
            Request::Add(json!({"to": "10.9.0.0/16", "type": "blackhole"}))
        );
        assert_eq!(
            words("change -host 10.9.0.1 -interface gif0").unwrap(),
            Request::Change(json!({"to": "10.9.0.1/32", "dev": "gif0"}))
        );
        assert_eq!(words("delete 10.9.0.0/16").unwrap(), Request::Delete("10.9.0.0/16".into()));
        assert_eq!(words("get 10.9.0.7").unwrap(), Request::Get("10.9.0.7".into()));
        assert_eq!(words("add --file -").unwrap(), Request::File("-".into()));
    }

    #[test]
    fn wrong_words_are_named() {
        assert_eq!(words("ad default").unwrap_err(), "unknown command \"ad\": add, change, delete, flush, get or show");
        assert_eq!(words("add default").unwrap_err(), "\"add\" needs a gateway, -interface, -blackhole or -reject");
        assert_eq!(words("add default --file r").unwrap_err(), "\"--file\" needs one FILE and nothing else");
        assert_eq!(words("add default x").unwrap_err(), "the gateway \"x\" is not an IPv4 address");
        assert_eq!(
            words("delete 10.0.0.1/8").unwrap_err(),
            "10.0.0.1/8 has bits behind its prefix length; the network is 10.0.0.0/8"
        );
    }

    #[test]
    fn the_table_is_shown_as_netstat_shows_it() {
        let all = json!([
            {"dst": "0.0.0.0/0", "kind": "forward", "flags": "UGS",
             "nexthops": [{"via": "10.0.2.2", "interface": "wan0", "weight": 1}]},
            {"dst": "10.0.2.1/32", "kind": "local", "flags": "UHl", "nexthops": [{"via": null, "interface": "lo0"}]},
            {"dst": "10.9.0.0/16", "kind": "reject", "flags": "UR", "nexthops": []},
        ]);
        assert_eq!(
            show(&all),
            "Internet:\nDestination  Gateway   Flags  Interface\n\
             default      10.0.2.2  UGS    wan0\n\
             10.0.2.1     link      UHl    lo0\n\
             10.9.0.0/16  reject    UR     -\n"
        );
    }
}
