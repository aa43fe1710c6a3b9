//! Endpoints that change something. Each is one transaction.

use super::{
    filter_requests::{FilterRequest, SwapRequest},
    requests::{
        ArpRequest, BulkRequest, FileRequest, InterfaceChange, InterfaceRequest, PluginRequest, RouteRequest,
        SysctlRequest, destroy, only_fields,
    },
    show::Answer,
    state::{Daemon, Refused},
};
use crate::{
    api::{ApiError, Call},
    apply::{Op, Setting},
    config::{Config, Filter, Prefix, Route, RouteCommand, route_destination},
};
use serde_json::{Value, json};
use std::{collections::HashMap, net::Ipv4Addr};

fn changed(results: Vec<Value>) -> Answer {
    Ok(json!({"steps": results.len()}))
}

pub fn interface_create(d: &Daemon, call: &Call) -> Answer {
    let request: InterfaceRequest = call.body()?;
    changed(d.change(|config| request.ops(config))?)
}

pub fn interface_change(d: &Daemon, call: &Call) -> Answer {
    let request: InterfaceChange = call.body()?;
    let name = call.path("name");
    let now = d.router.stack.interfaces().into_iter().find(|i| i.name == name);
    let in_force = now.map(|i| i.offloads).unwrap_or_default();
    changed(d.change(|config| request.ops(name, config, &in_force))?)
}

pub fn interface_destroy(d: &Daemon, call: &Call) -> Answer {
    changed(d.change(|config| destroy(call.path("name"), config))?)
}

pub fn apply(d: &Daemon, call: &Call) -> Answer {
    d.apply(&call.body::<FileRequest>()?)
}

fn find<'c>(config: &'c Config, to: &Route) -> Option<&'c Route> {
    config.routes.iter().find(|r| r.to == to.to)
}

pub fn route_add(d: &Daemon, call: &Call) -> Answer {
    let route = call.body::<RouteRequest>()?.route()?;
    changed(d.change(|config| {
        match find(config, &route) {
            Some(there) => Err(ApiError::conflict(format!("add net {}: File exists", route.to))
                .hint(format!("it leads {there}; `route change` makes it lead elsewhere"))),
            None => Ok(vec![Op::AddRoute(route)]),
        }
    })?)
}

/// Many routes as one transaction.
pub fn routes_bulk(d: &Daemon, call: &Call) -> Answer {
    let (place, commands) = call.body::<BulkRequest>()?.commands()?;
    let (mut added, mut changed, mut deleted) = (0u64, 0u64, 0u64);
    let mut places = Vec::with_capacity(commands.len());
    let wrong = |n: u32, e: String| ApiError::conflict(format!("{place}{n}: {e}; nothing was changed"));
    d.change_with(
        |config| {
            // What runs is asked only for what is to be changed or deleted.
            let needed = commands.iter().any(|(_, c)| !matches!(c, RouteCommand::Add(_)));
            let running = if needed { &config.routes[..] } else { &[] };
            let mut now: HashMap<Prefix, Route> = running.iter().map(|r| (r.to, r.clone())).collect();
            let mut ops = Vec::with_capacity(commands.len());
            for (n, command) in commands {
                places.push(n);
                ops.push(match command {
                    RouteCommand::Add(r) => {
                        added += 1;
                        if needed {
                            now.insert(r.to, r.clone());
                        }
                        Op::AddRoute(r)
                    }
                    RouteCommand::Change(r) => {
                        changed += 1;
                        match now.insert(r.to, r.clone()) {
                            Some(old) => Op::ChangeRoute(old, r),
                            None => return Err(wrong(n, format!("change net {}: not in table", r.to))),
                        }
                    }
                    RouteCommand::Delete(to) => {
                        deleted += 1;
                        match now.remove(&to) {
                            Some(old) => Op::RemoveRoute(old),
                            None => return Err(wrong(n, format!("delete net {to}: not in table"))),
                        }
                    }
                });
            }
            Ok(ops)
        },
        |e| (e.number, e.op.to_string(), e.reason.clone()),
    )
    .map_err(|e| match e {
        Refused::Request(e) => e,
        Refused::Step((number, op, reason)) => {
            wrong(places.get(number).copied().unwrap_or_default(), format!("{op}: {reason}"))
        }
    })?;
    Ok(json!({"added": added, "changed": changed, "deleted": deleted}))
}

pub fn route_change(d: &Daemon, call: &Call) -> Answer {
    let route = call.body::<RouteRequest>()?.route()?;
    changed(d.change(|config| match find(config, &route) {
        Some(there) => Ok(vec![Op::ChangeRoute(there.clone(), route)]),
        None => Err(ApiError::not_found(format!("change net {}: not in table", route.to))),
    })?)
}

pub fn route_delete(d: &Daemon, call: &Call) -> Answer {
    let to = call.query("to").ok_or_else(|| ApiError::bad("\"to\" is missing"))?;
    let to = route_destination(to).map_err(ApiError::bad)?;
    changed(d.change(|config| {
        match config.routes.iter().find(|r| r.to == to) {
            Some(there) => Ok(vec![Op::RemoveRoute(there.clone())]),
            None => Err(ApiError::not_found(format!("delete net {to}: not in table"))
                .hint("routes of interface addresses go with the addresses".to_owned())),
        }
    })?)
}

pub fn routes_flush(d: &Daemon, _: &Call) -> Answer {
    let done = d.change(|config| Ok(config.routes.iter().cloned().map(Op::RemoveRoute).collect()))?;
    Ok(json!({"removed": done.len()}))
}

pub fn arp_add(d: &Daemon, call: &Call) -> Answer {
    let entry = call.body::<ArpRequest>()?.entry()?;
    changed(d.change(|config| {
        let old = config.arp.iter().find(|a| a.address == entry.address);
        Ok(old.cloned().map(Op::RemoveArp).into_iter().chain([Op::AddArp(entry)]).collect())
    })?)
}

pub fn arp_delete(d: &Daemon, call: &Call) -> Answer {
    let address = call.path("address");
    let address: Ipv4Addr =
        address.parse().map_err(|_| ApiError::bad(format!("\"{address}\" is not an IPv4 address")))?;
    let configured = d.config().arp.into_iter().find(|a| a.address == address);
    match configured {
        Some(a) => changed(d.change(|_| Ok(vec![Op::RemoveArp(a)]))?),
        // A learned neighbour is no part of the configuration.
        None => {
            d.router.stack.arp_delete(None, address).map_err(|e| ApiError::not_found(e.to_string()))?;
            changed(vec![Value::Null])
        }
    }
}

pub fn arp_flush(d: &Daemon, _: &Call) -> Answer {
    Ok(json!({"removed": d.router.stack.arp_flush(None)}))
}

pub fn plugin_load(d: &Daemon, call: &Call) -> Answer {
    let request: PluginRequest = call.body()?;
    let mut done = d.change(|_| Ok(vec![Op::LoadPlugin(request.file)]))?;
    Ok(done.pop().unwrap_or_default())
}

pub fn filter_load(d: &Daemon, call: &Call) -> Answer {
    only_fields(&call.body, &FilterRequest::FIELDS)?;
    let filter = call.body::<FilterRequest>()?.filter()?;
    let mut done = d.change(|config| match config.filters.iter().find(|f| f.name == filter.name) {
        Some(_) => Err(ApiError::conflict(format!("a filter \"{}\" is there already", filter.name))
            .hint("`filter swap` puts another program in its place".to_owned())),
        None => Ok(vec![Op::LoadFilter(filter)]),
    })?;
    Ok(done.pop().unwrap_or_default())
}

/// The filter of that name in the running configuration.
pub(super) fn configured(call: &Call, config: &Config) -> Result<Filter, ApiError> {
    let name = call.path("name");
    match config.filters.iter().find(|f| f.name == name) {
        Some(f) => Ok(f.clone()),
        None => {
            let names: Vec<&str> = config.filters.iter().map(|f| f.name.as_str()).collect();
            Err(ApiError::not_found(format!("no filter \"{name}\"")).hint(crate::config::did_you_mean(name, &names)))
        }
    }
}

pub fn filter_swap(d: &Daemon, call: &Call) -> Answer {
    only_fields(&call.body, &SwapRequest::FIELDS)?;
    let request: SwapRequest = call.body()?;
    let mut done = d.change(|config| {
        let old = configured(call, config)?;
        let new = request.filter(&old)?;
        Ok(vec![Op::SwapFilter(old, new)])
    })?;
    Ok(done.pop().unwrap_or_default())
}

pub fn filter_rollback(d: &Daemon, call: &Call) -> Answer {
    configured(call, &d.config())?;
    d.rollback(call.path("name"))
}

pub fn filter_detach(d: &Daemon, call: &Call) -> Answer {
    changed(d.change(|config| Ok(vec![Op::DetachFilter(configured(call, config)?)]))?)
}

pub fn sysctl_set(d: &Daemon, call: &Call) -> Answer {
    let request: SysctlRequest = call.body()?;
    let value = request.text()?;
    let tree = d.router.runtime.sysctl();
    let get = || {
        tree.get(&request.name).map_err(|e| {
            let all: Vec<String> = tree.walk("").into_iter().map(|(n, ..)| n).collect();
            let hint = crate::config::nearest(&request.name, &all).map(|n| format!("did you mean \"{n}\"?"));
            ApiError::not_found(e.to_string()).hint(hint)
        })
    };
    let old = get()?;
    d.change(|config| {
        let configured = config.sysctl.contains_key(&request.name);
        let from = Setting { value: old.to_string(), configured };
        let to = Setting { value, configured: true };
        Ok(vec![Op::SetSysctl(request.name.clone(), from, to)])
    })?;
    Ok(json!({"name": request.name, "old": old.to_json(), "new": get()?.to_json()}))
}
