//! The daemon's state: the router, and the configuration that it runs.

use super::{requests::FileRequest, router::Router};
use crate::{
    api::ApiError,
    apply::{Failed, Op, Plan, SysctlState, plan, transact},
    check,
    config::{self, Backing, Config, Filter, Interface, Problem, Report, World},
};
use serde_json::{Value, json};
use std::{
    collections::BTreeMap,
    path::PathBuf,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Instant,
};

/// A running daemon. Reading goes to the router at once; changes go through [`Daemon::change`] one at a time.
pub struct Daemon {
    /// What runs.
    pub router: Router,
    /// When it began.
    pub started: Instant,
    /// The file that SIGHUP applies.
    pub file: PathBuf,
    running: Mutex<Running>,
}

/// The configuration that runs: what the file said, with what commands have changed since.
struct Running {
    config: Config,
    /// What sysctl nodes held before the configuration first wrote them.
    original: BTreeMap<String, String>,
    /// What each filter ran before its last swap.
    previous: BTreeMap<String, Filter>,
}

impl Daemon {
    /// A daemon around a router that has no interfaces yet. Of `config` only what is read at start counts.
    pub fn new(router: Router, file: PathBuf, config: &Config) -> Daemon {
        let start = Config {
            runtime: config.runtime.clone(),
            pool: config.pool.clone(),
            control: config.control.clone(),
            plugins: config.plugins.clone(),
            interfaces: vec![loopback(false)],
            ..Config::default()
        };
        let running = Running { config: start, original: BTreeMap::new(), previous: BTreeMap::new() };
        Daemon { router, started: Instant::now(), file, running: Mutex::new(running) }
    }

    fn running(&self) -> MutexGuard<'_, Running> {
        // Steps edit the configuration only after they were done, so a panic leaves it true.
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A copy of the configuration that runs.
    pub fn config(&self) -> Config {
        self.running().config.clone()
    }

    /// Does the steps that `make` finds, as one transaction, and returns what each reported.
    pub fn change(&self, make: impl FnOnce(&Config) -> Result<Vec<Op>, ApiError>) -> Result<Vec<Value>, ApiError> {
        let mut running = self.running();
        let ops = make(&running.config)?;
        self.transact(&mut running, &ops).map_err(|e| failed(&e))
    }

    fn transact(&self, running: &mut Running, ops: &[Op]) -> Result<Vec<Value>, Failed> {
        for op in ops {
            if let Op::SetSysctl(name, from, _) = op
                && !from.configured
            {
                running.original.entry(name.clone()).or_insert_with(|| from.value.clone());
            }
        }
        let results = transact(&mut &self.router, ops)?;
        Op::edit_all(ops, &mut running.config);
        for op in ops {
            match op {
                Op::SwapFilter(old, _) => _ = running.previous.insert(old.name.clone(), old.clone()),
                Op::DetachFilter(f) => _ = running.previous.remove(&f.name),
                _ => {}
            }
        }
        Ok(results)
    }

    /// Goes back to what a filter ran before its last swap.
    pub fn rollback(&self, name: &str) -> Result<Value, ApiError> {
        let mut running = self.running();
        let report = match running.previous.get(name) {
            Some(before) if self.router.natives.has(name) => {
                let swap = Op::SwapFilter(before.clone(), before.clone());
                crate::apply::Executor::execute(&mut &self.router, &swap).map_err(ApiError::conflict)?
            }
            None if self.router.natives.has(name) => {
                return Err(ApiError::conflict(format!("filter {name} has no previous generation")));
            }
            _ => json!(self.router.filters.rollback(name).map_err(|e| ApiError::conflict(e.to_string()))?),
        };
        let running = &mut *running;
        if let (Some(now), Some(before)) =
            (running.config.filters.iter_mut().find(|f| f.name == name), running.previous.get_mut(name))
        {
            std::mem::swap(now, before);
        }
        Ok(self.router.filter_event("rolled back", report))
    }

    /// The steps from what runs to `new`.
    fn plan(&self, running: &Running, new: &Config) -> Plan {
        let sysctl = self.router.runtime.sysctl();
        let now = |name: &str| sysctl.get(name).ok().map(|v| v.to_string());
        plan(&running.config, new, &SysctlState { now: &now, original: &running.original })
    }

    /// Reads a file and finds everything that is wrong with it, knowing this router's plugins and nodes.
    pub fn check(&self, file: &str, text: &str) -> (Config, Report) {
        let (config, mut report) = config::read(file, text, &|p| std::fs::read(p));
        let drivers = self.router.plugins.drivers();
        let kinds = self.router.plugins.kinds();
        let natives = self.router.plugins.filters();
        let sysctl = writable(self.router.runtime.sysctl());
        let devices = check::host_devices();
        let world = World {
            drivers: Some(&drivers),
            kinds: Some(&kinds),
            natives: Some(&natives),
            sysctl: Some(&sysctl),
            devices: devices.as_deref(),
            compile: Some(&check::compile_filter),
        };
        config::check(&config, &world, &mut report);
        (config, report)
    }

    /// Makes the router what a file says, or leaves it as it is. Returns steps and notes.
    pub fn apply(&self, request: &FileRequest) -> Result<Value, ApiError> {
        let (config, mut report) = self.check(&request.file, &request.text);
        if report.has_errors() {
            let n = report.errors();
            let error = format!("{}: {n} error{}; nothing was changed", request.file, if n == 1 { "" } else { "s" });
            return Err(ApiError::bad(error).detail(report_json(&report)));
        }
        let mut running = self.running();
        let new = with_loopback(config);
        let plan = self.plan(&running, &new);
        let steps: Vec<String> = plan.ops.iter().map(Op::to_string).collect();
        if !request.dry_run {
            let done = self.transact(&mut running, &plan.ops);
            if let Err(e) = done {
                report.problems.push(Problem::error(e.op.at(), e.to_string()));
                report.sort();
                let detail = report_json(&report);
                drop(running);
                self.router
                    .bus
                    .publish("apply", json!({"file": request.file, "what": "failed", "error": e.to_string()}));
                let mut answer = failed(&e);
                if let (Value::Object(a), Value::Object(b)) = (&mut answer.detail, detail) {
                    a.extend(b);
                }
                return Err(answer);
            }
            drop(running);
            self.router.bus.publish("apply", json!({"file": request.file, "what": "applied", "steps": steps.len()}));
        }
        Ok(json!({
            "file": request.file,
            "dry_run": request.dry_run,
            "steps": steps,
            "notes": plan.notes,
            "warnings": report.problems,
        }))
    }

    /// Makes the router what `config` says, at start.
    pub fn apply_first(&self, config: Config) -> Result<usize, Failed> {
        let mut running = self.running();
        let plan = self.plan(&running, &with_loopback(config));
        self.transact(&mut running, &plan.ops)?;
        Ok(plan.ops.len())
    }

    /// Takes everything down, going on over what fails. Returns what failed.
    pub fn take_down(&self) -> Vec<String> {
        let mut running = self.running();
        let empty = Config { interfaces: vec![loopback(false)], ..Config::default() };
        let plan = self.plan(&running, &empty);
        let mut failures = Vec::new();
        for op in &plan.ops {
            if let Err(e) = crate::apply::Executor::execute(&mut &self.router, op) {
                failures.push(format!("{op}: {e}"));
            }
        }
        running.config = empty;
        failures
    }
}

/// The loopback interface as a configuration that does not mention it has it.
fn loopback(up: bool) -> Interface {
    Interface {
        at: Default::default(),
        name: "lo0".into(),
        backing: Backing::Loopback,
        backing_at: Default::default(),
        options: json!({}),
        options_at: Default::default(),
        addresses: Vec::new(),
        mtu: None,
        up,
        description: String::new(),
        rx_queues: None,
        tx_queues: None,
        promisc: false,
        mac: None,
        multicast: Default::default(),
        offloads: None,
    }
}

fn with_loopback(mut config: Config) -> Config {
    if config.interface("lo0").is_none() {
        config.interfaces.insert(0, loopback(true));
    }
    config
}

/// Names of the nodes that can be written.
pub fn writable(sysctl: &smpnet_runtime::Sysctl) -> Vec<String> {
    sysctl.walk("").into_iter().map(|(name, ..)| name).filter(|n| sysctl.is_writable(n)).collect()
}

fn failed(e: &Failed) -> ApiError {
    let detail = json!({"step": e.op.to_string(), "undone": e.undone, "left_behind": e.left_behind});
    let error = match (e.undone, e.left_behind.len()) {
        (0, 0) => e.to_string(),
        (n, 0) => format!("{e}; the {n} steps before it were undone"),
        (n, m) => format!("{e}; {n} steps before it were undone, {m} could not be"),
    };
    ApiError::conflict(error).detail(detail)
}

fn report_json(report: &Report) -> Value {
    let lines: Vec<String> = report.to_string().lines().map(str::to_owned).collect();
    json!({"lines": lines, "problems": report.problems})
}
