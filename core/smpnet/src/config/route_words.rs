//! The words of route(8) behind `add`, `change` and `delete`, on a command line or in a file with one command a line.

use super::{
    model::{NextHop, Prefix, Route, RouteTarget},
    read::route_destination,
    source::At,
};
use std::net::Ipv4Addr;

/// What a line asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RouteCommand {
    /// A new route.
    Add(Route),
    /// Another way for a route that is there.
    Change(Route),
    /// No route to exactly that destination.
    Delete(Prefix),
}

/// Reads the words behind `command`, one of `add`, `change` and `delete`.
pub fn route_words<'w>(command: &str, mut words: impl Iterator<Item = &'w str>) -> Result<RouteCommand, String> {
    let (mut kind, mut dev, mut to) = (None, None, None);
    let mut via: Vec<&str> = Vec::new();
    while let Some(word) = words.next() {
        match word {
            "-net" | "-host" | "-inet" | "-n" | "-static" => {}
            "-blackhole" => kind = Some(RouteTarget::Blackhole),
            "-reject" => kind = Some(RouteTarget::Reject),
            "-interface" | "-iface" | "-ifp" => {
                dev = Some(words.next().ok_or_else(|| format!("\"{word}\" needs an interface"))?.to_owned());
            }
            _ if word.starts_with('-') => return Err(format!("\"{word}\" is not understood")),
            _ if to.is_none() => to = Some(word),
            _ => via.push(word),
        }
    }
    let to = route_destination(to.ok_or_else(|| format!("\"{command}\" needs a destination"))?)?;
    if command == "delete" {
        return Ok(RouteCommand::Delete(to));
    }
    let gateway = |v: &&str| v.parse().map_err(|_| format!("the gateway \"{v}\" is not an IPv4 address"));
    let via = via.iter().map(gateway).collect::<Result<Vec<Ipv4Addr>, _>>()?;
    let target = match (kind, dev) {
        // NetBSD's syntax wants a gateway even for -blackhole and -reject, where it says nothing.
        (Some(_), Some(_)) => return Err("a blackhole or reject route leads to no interface".into()),
        (Some(kind), None) => kind,
        (None, None) if via.is_empty() => {
            return Err(format!("\"{command}\" needs a gateway, -interface, -blackhole or -reject"));
        }
        (None, dev) if via.is_empty() => RouteTarget::NextHops(vec![NextHop { via: None, dev }]),
        (None, dev) => {
            RouteTarget::NextHops(via.into_iter().map(|v| NextHop { via: Some(v), dev: dev.clone() }).collect())
        }
    };
    let route = Route { at: At::default(), to, target };
    Ok(if command == "change" { RouteCommand::Change(route) } else { RouteCommand::Add(route) })
}

/// Reads a file of routes: a command a line, `add` where a line begins with its destination, `#` before remarks. Each
/// command comes with the number of its line.
///
/// # Errors
/// What is wrong with the first line that is not understood, and its number.
pub fn route_file(text: &str) -> Result<Vec<(u32, RouteCommand)>, (u32, String)> {
    let mut all = Vec::new();
    for (n, line) in text.lines().enumerate() {
        let n = n as u32 + 1;
        let mut words = line.split('#').next().unwrap_or("").split_ascii_whitespace().peekable();
        let command = match words.peek() {
            None => continue,
            Some(&word @ ("add" | "change" | "delete")) => {
                words.next();
                word
            }
            Some(_) => "add",
        };
        all.push((n, route_words(command, words).map_err(|e| (n, e))?));
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_has_a_command_a_line() {
        let text = "# two ways out\n10.0.0.0/8 10.0.2.2\n\nadd -net 10.9.0.0/16 -reject # not there\n delete default\n";
        let all = route_file(text).unwrap();
        assert_eq!(all.iter().map(|(n, _)| *n).collect::<Vec<_>>(), [2, 4, 5]);
        assert!(matches!(&all[0].1, RouteCommand::Add(r) if r.to_string() == "10.0.0.0/8 via 10.0.2.2"));
        assert!(matches!(&all[1].1, RouteCommand::Add(r) if r.target == RouteTarget::Reject));
        assert!(matches!(&all[2].1, RouteCommand::Delete(p) if p.len == 0));
    }

    #[test]
    fn a_line_that_is_not_understood_is_named() {
        let wrong = |text| route_file(text).unwrap_err();
        assert_eq!(wrong("default 10.0.0.1\n10.0.0.0/8\n").0, 2);
        assert_eq!(wrong("ad 10.0.0.0/8 10.0.0.1"), (1, "\"ad\" is not an IPv4 address".into()));
        assert_eq!(wrong("10.0.0.0/8 10.0.0"), (1, "the gateway \"10.0.0\" is not an IPv4 address".into()));
        assert_eq!(wrong("10.0.0.0/8 -dev x").1, "\"-dev\" is not understood");
    }
}
