//! From a file to a running router, and back to nothing.

use super::{
    endpoints::endpoints,
    filters::FaultWatch,
    notify::{Notify, watchdog_interval},
    requests::FileRequest,
    router::Router,
    schemas::schemas,
    socket::{ControlSocket, SocketError},
    state::Daemon,
};
use crate::{
    api::{self, Bus},
    config::{self, Config, FiltersSection, Report},
    plugins::Plugins,
};
use serde_json::{Value, json};
use smpnet_runtime::{HugePages, PoolConfig, Runtime, RuntimeConfig};
use smpnet_stack::Stack;
use smpnet_wasm::{CodeCache, FilterManager, StackAttach};
use std::{
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::signal::unix::{SignalKind, signal};
use tracing::{error, info, warn};

/// How long clients have to take what is still under way to them when the daemon stops.
const FAREWELL: Duration = Duration::from_secs(2);

/// How `smpnet run` was called.
#[derive(Clone, Debug)]
pub struct Options {
    /// The configuration file.
    pub file: PathBuf,
    /// End when every finite port is at its end.
    pub once: bool,
    /// The control socket, when not the file's.
    pub socket: Option<PathBuf>,
}

/// Why the daemon did not start. Nothing is left behind.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The file cannot be read.
    #[error("{0}: {1}")]
    File(PathBuf, std::io::Error),
    /// The file has mistakes.
    #[error("{0}")]
    Config(Report),
    /// The control socket cannot be had.
    #[error(transparent)]
    Socket(#[from] SocketError),
    /// Workers, memory or threads cannot be had, or a step of the configuration failed.
    #[error("{0}")]
    Start(String),
}

impl StartError {
    /// What is wrong with the file, when that is it.
    pub fn report(&self) -> Option<&Report> {
        match self {
            StartError::Config(report) => Some(report),
            _ => None,
        }
    }
}

/// Runs a router until a signal ends it, or its finite ports do; then the summary comes back.
pub fn run(options: &Options) -> Result<Option<Value>, StartError> {
    let notify = Notify::from_environment();
    let file = std::path::absolute(&options.file).unwrap_or_else(|_| options.file.clone());
    let text = std::fs::read_to_string(&file).map_err(|e| StartError::File(options.file.clone(), e))?;
    let name = options.file.display().to_string();
    let (config, report) = config::read(&name, &text, &|p| std::fs::read(p));
    if report.has_errors() {
        return Err(StartError::Config(report));
    }
    let path = options.socket.clone().unwrap_or_else(|| config.control.socket.clone());
    let socket = ControlSocket::bind(&path)?;
    let daemon = start(&config, file, &name, &text)?;
    let once = options.once || config.runtime.exit_when_done;
    let served = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .max_blocking_threads(16)
        .build()
        .and_then(|rt| rt.block_on(serve(&daemon, &socket, &notify, once)));
    notify.send("STOPPING=1");
    let summary = if once { Some(summary(&daemon)) } else { None };
    stop(&daemon);
    drop(socket);
    match served {
        Ok(()) => Ok(summary),
        Err(e) => Err(StartError::Start(format!("control API: {e}"))),
    }
}

/// Everything up to the point where packets flow. On an error nothing is left.
fn start(config: &Config, file: PathBuf, name: &str, text: &str) -> Result<Arc<Daemon>, StartError> {
    let failed = |what: &str, e: &dyn std::fmt::Display| StartError::Start(format!("{what}: {e}"));
    let runtime = Runtime::start(runtime_config(config)).map_err(|e| failed("cannot start the workers", &e))?;
    let stack = Stack::new(runtime.clone()).map_err(|e| {
        runtime.stop();
        failed("cannot start the stack", &e)
    })?;
    let attach = Arc::new(StackAttach::new(runtime.clone(), stack.clone()));
    let filters = FilterManager::new(attach).map_err(|e| failed("cannot start the filter host", &e))?;
    open_cache(&filters, &config.filter_host);
    let bus = Bus::default();
    let plugins = Plugins::start(&runtime, &stack, &config.plugins.dirs);
    let daemon = Arc::new(Daemon::new(Router::new(runtime, stack, filters, plugins, bus), file, config));
    forward_events(&daemon);
    let stopped = |e: StartError| {
        stop(&daemon);
        e
    };
    for plugin in &config.plugins.load {
        if let Err(e) = daemon.router.load_plugin(&plugin.value) {
            error!("{e}");
        }
    }
    let (config, report) = daemon.check(name, text);
    if report.has_errors() {
        return Err(stopped(StartError::Config(report)));
    }
    for line in report.to_string().lines() {
        warn!("{line}");
    }
    match daemon.apply_first(config) {
        Ok(steps) => info!(steps, workers = daemon.router.runtime.workers(), "running {name}"),
        Err(e) => {
            let at = e.op.at();
            let place = if at.is_known() { format!("{name}:{}:{}: ", at.line, at.column) } else { format!("{name}: ") };
            return Err(stopped(StartError::Start(format!("{place}{e}"))));
        }
    }
    Ok(daemon)
}

/// Compiled code of modules is kept on disk when it can be; without, modules are compiled each time.
fn open_cache(filters: &FilterManager, section: &FiltersSection) {
    let Some(dir) = &section.cache else { return };
    if let Err(e) = dir.parent().map_or(Ok(()), std::fs::create_dir_all) {
        tracing::debug!(%e, dir = %dir.display(), "cannot make the folder around the code cache");
    }
    match CodeCache::open(dir) {
        Ok(cache) => filters.set_cache(cache),
        Err(e) if section.cache_given => warn!("compiled filters are not kept: {e}"),
        Err(e) => info!("compiled filters are not kept: {e}"),
    }
}

fn runtime_config(config: &Config) -> RuntimeConfig {
    let r = &config.runtime;
    let cpus = if r.cpus.is_empty() {
        let available = std::thread::available_parallelism().map_or(1, usize::from);
        vec![None; r.workers.unwrap_or(available.min(4))]
    } else {
        r.cpus.iter().map(|c| Some(*c)).collect()
    };
    let pool = PoolConfig {
        cells: config.pool.cells,
        cell_size: config.pool.cell_size,
        headroom: config.pool.headroom,
        workers: cpus.len(),
        huge_pages: match config.pool.huge_pages {
            config::HugePages::Auto => HugePages::Auto,
            config::HugePages::Never => HugePages::Never,
            config::HugePages::Require => HugePages::Require,
        },
        ..PoolConfig::default()
    };
    RuntimeConfig { cpus, pool, ..RuntimeConfig::default() }
}

/// The stack's events go to the bus, until the stack is gone. What a failed plugin made is noted with the plugin.
fn forward_events(daemon: &Arc<Daemon>) {
    let (events, daemon) = (daemon.router.stack.events(), Arc::downgrade(daemon));
    let forward = move || {
        while let Ok(event) = events.recv() {
            let Some(d) = daemon.upgrade() else { return };
            if event.kind == "quarantine" {
                d.router.quarantined(&event.interface, &event.detail);
            }
            d.router.bus.publish(event.kind, json!({"interface": event.interface, "detail": event.detail}));
        }
    };
    if let Err(e) = std::thread::Builder::new().name("smpnet-events".into()).spawn(forward) {
        warn!("no thread for the event stream: {e}");
    }
}

/// Serves the API and waits for the end.
async fn serve(daemon: &Arc<Daemon>, socket: &ControlSocket, notify: &Notify, once: bool) -> std::io::Result<()> {
    let (mut term, mut int) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let mut hangup = signal(SignalKind::hangup())?;
    let listener = socket.listener()?;
    listener.set_nonblocking(true)?;
    let listener = tokio::net::UnixListener::from_std(listener)?;
    let router = api::router(daemon.clone(), endpoints(), &schemas(), daemon.router.bus.clone());
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let service = router.into_make_service_with_connect_info::<api::Peer>();
    let mut server = tokio::spawn(async move {
        axum::serve(listener, service).with_graceful_shutdown(async move { _ = stopped.await }).await
    });
    info!(socket = %socket.path().display(), "control API");
    notify.send("READY=1\nSTATUS=forwarding");
    let watchdog = watchdog_interval();
    let mut alive = tokio::time::interval(watchdog.unwrap_or(Duration::from_secs(3600)));
    let mut finished = tokio::time::interval(Duration::from_millis(20));
    let mut faults = tokio::time::interval(Duration::from_millis(500));
    faults.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let watch = Arc::new(FaultWatch::default());
    let mut quiet = Quiet::default();
    loop {
        tokio::select! {
            _ = term.recv() => { info!("SIGTERM: stopping"); break }
            _ = int.recv() => { info!("SIGINT: stopping"); break }
            _ = hangup.recv() => reload(daemon, notify).await,
            _ = alive.tick(), if watchdog.is_some() => {
                // A worker that hangs never lets this end, and systemd hears no more of us.
                let (domain, d) = (daemon.router.runtime.domain().clone(), notify.clone());
                tokio::task::spawn_blocking(move || { domain.perform(); d.send("WATCHDOG=1"); });
            }
            _ = faults.tick(), if !daemon.router.filters.list().is_empty() => {
                let (d, watch) = (daemon.clone(), watch.clone());
                // A reload may hold the configuration for long; looks that wait for it do not pile up.
                if Arc::strong_count(&watch) < 4 {
                    tokio::task::spawn_blocking(move || watch.look(&d));
                }
            }
            _ = finished.tick(), if once => if quiet.done(daemon) { break },
        }
    }
    // Captures and streams of events come to their ends, and their clients hear why. Whoever reads too slowly hears it from
    // the connection that breaks off.
    daemon.router.stack.bpf_stop();
    daemon.router.bus.close();
    drop(stop);
    if tokio::time::timeout(FAREWELL, &mut server).await.is_err() {
        server.abort();
    }
    Ok(())
}

async fn reload(daemon: &Arc<Daemon>, notify: &Notify) {
    notify.reloading();
    let d = daemon.clone();
    let done = tokio::task::spawn_blocking(move || {
        let file = d.file.display().to_string();
        match std::fs::read_to_string(&d.file) {
            Ok(text) => d.apply(&FileRequest { file, text, dry_run: false }),
            Err(e) => Err(api::ApiError::bad(format!("{file}: {e}"))),
        }
    })
    .await;
    match done {
        Ok(Ok(answer)) => info!(steps = answer["steps"].as_array().map_or(0, Vec::len), "SIGHUP: applied"),
        Ok(Err(e)) => {
            for line in e.detail["lines"].as_array().into_iter().flatten().filter_map(Value::as_str) {
                error!("{line}");
            }
            error!("SIGHUP: {e}");
        }
        Err(_) => error!("SIGHUP: the reload failed inside smpnet"),
    }
    notify.send("READY=1");
}

/// Sees when every finite port is at its end and nothing moves any more.
#[derive(Default)]
struct Quiet {
    last: Option<(Value, Instant)>,
}

impl Quiet {
    fn done(&mut self, daemon: &Daemon) -> bool {
        let finite = daemon.router.finite_ports();
        let interfaces = daemon.router.stack.interfaces();
        let ended = |n: &String| interfaces.iter().any(|i| i.name == *n && i.link == "down");
        if finite.is_empty() || !finite.iter().all(ended) {
            self.last = None;
            return false;
        }
        let now = serde_json::to_value(daemon.router.stack.accounting()).unwrap_or_default();
        match &self.last {
            Some((before, since)) if *before == now => since.elapsed() > Duration::from_millis(200),
            _ => {
                self.last = Some((now, Instant::now()));
                false
            }
        }
    }
}

fn summary(daemon: &Daemon) -> Value {
    let stack = &daemon.router.stack;
    let accounting = stack.accounting();
    let mut totals = serde_json::to_value(accounting).unwrap_or_default();
    totals["missing"] = json!(accounting.missing() as i64);
    json!({
        "interfaces": stack.interfaces(),
        "drops": stack.drops(),
        "filters": super::show::filter_list(daemon).unwrap_or_default(),
        "accounting": totals,
        "seconds": daemon.started.elapsed().as_secs_f64(),
    })
}

/// Drains and takes down everything, in the order that leaves nothing behind.
fn stop(daemon: &Daemon) {
    for failure in daemon.take_down() {
        error!("while stopping: {failure}");
    }
    daemon.router.stop_npf();
    daemon.router.stack.shutdown();
    daemon.router.plugins.stop();
    let report = daemon.router.runtime.stop();
    if report.cells_in_use > 0 {
        warn!(cells = report.cells_in_use, "packets were still held when the workers stopped");
    }
    info!("stopped");
}
