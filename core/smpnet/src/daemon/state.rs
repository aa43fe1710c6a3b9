//! The daemon's state: the router, and the configuration that it runs.

use super::{
    requests::FileRequest,
    router::{Router, Standing},
};
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
    /// Filters that failed and do not run what they were told to, with the reason.
    fallen: BTreeMap<String, String>,
    /// What runs in the shadow of a filter.
    shadows: BTreeMap<String, Filter>,
}

/// Why a change did not come about.
pub enum Refused<E> {
    /// It asks for something that cannot be.
    Request(ApiError),
    /// A step of it failed.
    Step(E),
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
        let running = Running {
            config: start,
            original: BTreeMap::new(),
            previous: BTreeMap::new(),
            fallen: BTreeMap::new(),
            shadows: BTreeMap::new(),
        };
        Daemon { router, started: Instant::now(), file, running: Mutex::new(running) }
    }

    fn running(&self) -> MutexGuard<'_, Running> {
        // Steps edit the configuration only after they were done, so a panic leaves it true.
        let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        self.notice_faults(&mut running);
        running
    }

    /// Filters that failed run something else by now than they were told to: the configuration says what.
    fn notice_faults(&self, running: &mut Running) {
        let Running { config, previous, fallen, .. } = running;
        for f in &mut config.filters {
            let name = f.name.clone();
            let why = match self.router.standing(&name) {
                Some(Standing::FellBack(now, why)) => {
                    *f = Filter { at: f.at, source_at: f.source_at, ..*now };
                    previous.remove(&name);
                    why
                }
                Some(Standing::Failed(why)) => why,
                Some(Standing::Runs) | None => continue,
            };
            if fallen.insert(name.clone(), why.clone()).is_none() {
                self.router.bus.publish("filter", json!({"filter": name, "what": "failed", "reason": why}));
            }
        }
        fallen.retain(|name, _| config.filters.iter().any(|f| f.name == *name));
    }

    /// Why a filter does not run what it was told to; none when it does.
    pub fn fallen(&self) -> BTreeMap<String, String> {
        self.running().fallen.clone()
    }

    /// A copy of the configuration that runs.
    pub fn config(&self) -> Config {
        self.running().config.clone()
    }

    /// Does the steps that `make` finds, as one transaction, and returns what each reported.
    pub fn change(&self, make: impl FnOnce(&Config) -> Result<Vec<Op>, ApiError>) -> Result<Vec<Value>, ApiError> {
        self.change_with(make, failed).map_err(|e| match e {
            Refused::Request(e) | Refused::Step(e) => e,
        })
    }

    /// As [`Daemon::change`], with `tell` for what is said of a step that failed.
    pub fn change_with<E>(
        &self,
        make: impl FnOnce(&Config) -> Result<Vec<Op>, ApiError>,
        tell: impl FnOnce(&Failed) -> E,
    ) -> Result<Vec<Value>, Refused<E>> {
        let mut running = self.running();
        let ops = make(&running.config).map_err(Refused::Request)?;
        self.transact(&mut running, &ops).map_err(|e| Refused::Step(tell(&e)))
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
                Op::SwapFilter(old, _) => {
                    running.fallen.remove(&old.name);
                    running.previous.insert(old.name.clone(), old.clone());
                }
                Op::LoadFilter(f) => _ = running.fallen.remove(&f.name),
                Op::DetachFilter(f) => {
                    running.fallen.remove(&f.name);
                    running.previous.remove(&f.name);
                    running.shadows.remove(&f.name);
                }
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
            if let Some(generation) = report["generation"].as_u64().filter(|_| !now.is_native()) {
                self.router.adopted(now, generation);
            }
            running.fallen.remove(name);
        }
        Ok(self.router.filter_event("rolled back", report))
    }

    /// Runs what `make` finds in the shadow of the filter of that name.
    pub fn shadow_load(&self, make: impl FnOnce(&Config) -> Result<Filter, ApiError>) -> Result<Value, ApiError> {
        let mut running = self.running();
        let filter = make(&running.config)?;
        let report = self.router.shadow_load(&filter).map_err(ApiError::conflict)?;
        running.shadows.insert(filter.name.clone(), filter);
        Ok(report)
    }

    /// Ends the shadow of a filter.
    pub fn shadow_drop(&self, name: &str) -> Result<Value, ApiError> {
        let mut running = self.running();
        self.router.filters.shadow_drop(name).map_err(|e| ApiError::conflict(e.to_string()))?;
        running.shadows.remove(name);
        self.router.bus.publish("filter", json!({"filter": name, "what": "shadow dropped"}));
        Ok(json!({"steps": 1}))
    }

    /// Puts the shadow of a filter in its place.
    pub fn promote(&self, name: &str) -> Result<Value, ApiError> {
        let mut running = self.running();
        let no_shadow = || ApiError::conflict(smpnet_wasm::FilterError::NoShadow(name.into()).to_string());
        let shadow = running.shadows.get(name).cloned().ok_or_else(no_shadow)?;
        let report = self.router.promote(&shadow).map_err(ApiError::conflict)?;
        running.shadows.remove(name);
        running.fallen.remove(name);
        if let Some(now) = running.config.filters.iter_mut().find(|f| f.name == name) {
            let before = std::mem::replace(now, shadow);
            running.previous.insert(name.to_owned(), before);
        }
        Ok(report)
    }

    /// The steps from what runs to `new`.
    fn plan(&self, running: &Running, new: &Config) -> Plan {
        let sysctl = self.router.runtime.sysctl();
        let now = |name: &str| sysctl.get(name).ok().map(|v| v.to_string());
        let mut plan = plan(&running.config, new, &SysctlState { now: &now, original: &running.original });
        for f in &new.filters {
            let Some(why) = running.fallen.get(&f.name) else { continue };
            plan.notes.push(format!("filter {}: {why}; it is tried again", f.name));
            let named = |op: &Op| match op {
                Op::LoadFilter(o) | Op::SwapFilter(_, o) => o.name == f.name,
                _ => false,
            };
            if !plan.ops.iter().any(named) {
                // Interfaces go up when everything that judges their packets is in place.
                let ups = plan.ops.iter().rev().take_while(|op| matches!(op, Op::SetUp(_, true))).count();
                plan.ops.insert(plan.ops.len() - ups, Op::SwapFilter(f.clone(), f.clone()));
            }
        }
        plan
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
        let fallen = self.fallen();
        for f in &config.filters {
            if let Some(why) = fallen.get(&f.name) {
                let message = format!("filter \"{}\" does not run what it was told to: {why}", f.name);
                report.problems.push(Problem::warning(f.source_at, message).hint("`apply` tries it again".to_owned()));
            }
        }
        report.sort();
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
        self.router.stack.hold_reception(true);
        let done = self.transact(&mut running, &plan.ops);
        self.router.stack.hold_reception(false);
        done.map(|_| plan.ops.len())
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
