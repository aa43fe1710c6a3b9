//! Endpoints of shadows, of tables that modules look into, and of what modules do wrong.

use super::{
    change::configured,
    filter_requests::{EntriesRequest, SwapRequest, TableRequest},
    requests::only_fields,
    show::Answer,
    state::Daemon,
};
use crate::{
    api::{ApiError, Call},
    apply::Op,
    config::{Config, Entries, FilterTable, did_you_mean},
};
use base64::{Engine, engine::general_purpose::STANDARD};
use serde_json::{Value, json};
use smpnet_wasm::{Difference, Opinion};
use std::{collections::BTreeMap, sync::Mutex};

pub fn shadow_load(d: &Daemon, call: &Call) -> Answer {
    only_fields(&call.body, &SwapRequest::FIELDS)?;
    let request: SwapRequest = call.body()?;
    d.shadow_load(|config| {
        let old = configured(call, config)?;
        if old.is_native() {
            return Err(ApiError::conflict(format!("{} is a native filter: nothing runs in its shadow", old.name)));
        }
        request.filter(&old)
    })
}

pub fn shadow_drop(d: &Daemon, call: &Call) -> Answer {
    configured(call, &d.config())?;
    d.shadow_drop(call.path("name"))
}

pub fn promote(d: &Daemon, call: &Call) -> Answer {
    configured(call, &d.config())?;
    d.promote(call.path("name"))
}

/// What the shadow of a filter says otherwise. Packets come in base64, once.
pub fn diff(d: &Daemon, call: &Call) -> Answer {
    configured(call, &d.config())?;
    let diff = d.router.filters.diff(call.path("name")).map_err(|e| ApiError::conflict(e.to_string()))?;
    let samples: Vec<Value> = diff.samples.iter().map(|s| sample(d, s)).collect();
    let mut answer = json!(diff);
    answer["samples"] = samples.into();
    Ok(answer)
}

fn sample(d: &Daemon, s: &Difference) -> Value {
    let mut v = json!(s);
    let interface = d.router.stack.interfaces().into_iter().find(|i| i.index.get() == s.ifindex).map(|i| i.name);
    let opinion = |o: &Opinion| {
        let mut v = json!(o);
        v["bytes"] = json!(o.bytes.as_ref().map(|b| STANDARD.encode(b)));
        v
    };
    v["interface"] = json!(interface);
    v["layer"] = json!(if s.layer == smpnet_filter_abi::layer::ETHER { "ether" } else { "inet" });
    v["packet"] = json!(STANDARD.encode(&s.packet));
    (v["live"], v["shadow"]) = (opinion(&s.live), opinion(&s.shadow));
    v
}

pub fn tables(d: &Daemon, _: &Call) -> Answer {
    Ok(json!(d.router.filters.tables().list()))
}

pub fn table(d: &Daemon, call: &Call) -> Answer {
    let name = call.path("name");
    let not_found = |e: smpnet_wasm::TableError| ApiError::not_found(e.to_string());
    let tables = d.router.filters.tables();
    let mut answer = json!(tables.status(name).map_err(not_found)?);
    answer["list"] = json!(tables.dump(name).map_err(not_found)?);
    Ok(answer)
}

pub fn table_create(d: &Daemon, call: &Call) -> Answer {
    only_fields(&call.body, &TableRequest::FIELDS)?;
    let table = call.body::<TableRequest>()?.table()?;
    let mut done = d.change(|config| match config.tables.iter().find(|t| t.name == table.name) {
        Some(_) => Err(ApiError::conflict(format!("a table \"{}\" is there already", table.name))
            .hint("`filter table replace` gives it other entries".to_owned())),
        None => Ok(vec![Op::CreateTable(table)]),
    })?;
    Ok(done.pop().unwrap_or_default())
}

pub fn table_remove(d: &Daemon, call: &Call) -> Answer {
    let done = d.change(|config| Ok(vec![Op::RemoveTable(known(call, config)?)]))?;
    Ok(json!({"steps": done.len()}))
}

/// Changes the entries of a table by those of a request.
fn fill(d: &Daemon, call: &Call, change: impl FnOnce(&Entries, Entries) -> Entries) -> Answer {
    only_fields(&call.body, &EntriesRequest::FIELDS)?;
    let request: EntriesRequest = call.body()?;
    let mut done = d.change(|config| {
        let old = known(call, config)?;
        let entries = change(&old.entries, request.entries(old.kind)?);
        if entries.len() > old.most {
            let (name, n, most) = (&old.name, entries.len(), old.most);
            return Err(ApiError::conflict(format!("table {name} would have {n} entries, {most} are allowed")));
        }
        let new = FilterTable { entries: entries.into(), ..old.clone() };
        Ok(vec![Op::FillTable(old, new)])
    })?;
    Ok(done.pop().unwrap_or_default())
}

pub fn table_replace(d: &Daemon, call: &Call) -> Answer {
    fill(d, call, |_, new| new)
}

pub fn table_add(d: &Daemon, call: &Call) -> Answer {
    fill(d, call, |old, more| {
        let mut all = old.clone();
        all.extend(more);
        all
    })
}

pub fn table_delete(d: &Daemon, call: &Call) -> Answer {
    fill(d, call, |old, gone| {
        let mut all = old.clone();
        all.retain(|k, _| !gone.contains_key(k));
        all
    })
}

fn known(call: &Call, config: &Config) -> Result<FilterTable, ApiError> {
    let name = call.path("name");
    config.tables.iter().find(|t| t.name == name).cloned().ok_or_else(|| {
        let names: Vec<&str> = config.tables.iter().map(|t| t.name.as_str()).collect();
        ApiError::not_found(format!("no table \"{name}\"")).hint(did_you_mean(name, &names))
    })
}

/// Tells of what modules do wrong, soon after they did it.
#[derive(Default)]
pub struct FaultWatch {
    /// Faults that were told of, by filter.
    told: Mutex<BTreeMap<String, u64>>,
}

impl FaultWatch {
    /// Publishes what is new. Costs a glance at each filter when nothing is.
    pub fn look(&self, d: &Daemon) {
        let all = d.router.filters.list();
        let mut told = self.told.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        told.retain(|name, _| all.iter().any(|f| f.name == *name));
        let mut failed = false;
        for f in &all {
            let faults = f.counts.faults;
            let before = told.insert(f.name.clone(), faults).unwrap_or(0);
            if faults <= before {
                continue;
            }
            failed = true;
            let last = d.router.filters.show(&f.name).ok().and_then(|f| f.faults.last().cloned());
            // The generation that failed may be out of service by now.
            let generation = last.as_ref().map_or(f.generation, |l| l.generation);
            let fields = json!({
                "filter": f.name, "what": "fault", "generation": generation, "faults": faults - before,
                "reason": last.as_ref().map(|l| &l.line), "trace": last.as_ref().map(|l| &l.trace),
                "kind": last.as_ref().map(|l| l.kind), "worker": last.as_ref().map(|l| l.worker), "state": f.state,
            });
            d.router.bus.publish("filter", fields);
        }
        // A filter that went back to what it ran before is told of where the configuration is looked at.
        if failed || all.iter().any(|f| f.state != smpnet_wasm::State::Running) {
            d.fallen();
        }
    }
}
