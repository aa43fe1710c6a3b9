//! A router that forwards while something next to it goes wrong.

// clippy.toml allows it in test functions; here are their helpers too.
#![allow(clippy::unwrap_used)]
// Not every file of tests uses all of it.
#![allow(dead_code)]

#[path = "libraries.rs"]
mod libraries;

use smpnet::host;
use smpnet::loader::PluginRegistry;
use smpnet_abi::{DriverTable, ErrBuf, HostServices, MacAddr, OK, PortConfig, PortInfo, Text};
use smpnet_runtime::{HugePages, PoolConfig, Runtime, RuntimeConfig};
use smpnet_stack::{AddrOptions, ArpSpec, IfIndex, IfStatus, Ipv4Net, RouteSpec, Stack, StackEvent};
use std::net::Ipv4Addr;
use std::sync::mpsc::Receiver;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// A router that forwards from `src0` to `out0`, and has the fixture plugin loaded.
pub struct Router {
    pub runtime: Arc<Runtime>,
    pub stack: Arc<Stack>,
    pub registry: Arc<PluginRegistry>,
    pub host: &'static HostServices,
    ports: Vec<(IfIndex, &'static DriverTable, PortInfo)>,
    // The process has one table of services, so the routers of the tests come one after the other.
    _alone: MutexGuard<'static, ()>,
}

impl Router {
    pub fn forwarding() -> Router {
        static ALONE: Mutex<()> = Mutex::new(());
        let alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
        let pool = PoolConfig { cells: 8192, huge_pages: HugePages::Never, ..PoolConfig::default() };
        let runtime = Runtime::start(RuntimeConfig { cpus: vec![None; 2], pool, ..Default::default() }).unwrap();
        let stack = Stack::new(runtime.clone()).unwrap();
        let host = host::install(runtime.clone(), stack.clone());
        let registry = Arc::new(PluginRegistry::new(host));
        registry.register_sysctl(runtime.sysctl());
        registry.load(&libraries::built("smpnet_null")).unwrap();
        registry.load(&libraries::built("fixture_drivers")).unwrap();
        let mut router = Router { runtime, stack, registry, host, ports: Vec::new(), _alone: alone };
        router.runtime.sysctl().set("net.inet.ip.forwarding", "1").unwrap();
        let out = router.port("out0", "null", r#"{"sink_only": true}"#).unwrap();
        router.up(out, "10.2.0.1/24");
        let next = Ipv4Addr::new(10, 2, 0, 2);
        let mac = Some(MacAddr { bytes: [2, 0, 0, 0, 2, 2] });
        router.stack.arp_set(out, &ArpSpec { address: next, mac, publish: false }).unwrap();
        let dst = "198.19.0.0/16".parse::<Ipv4Net>().unwrap();
        router.stack.route_add(&RouteSpec::via(dst, next)).unwrap();
        let src = r#"{"rate": 50000, "flows": 100, "dst": "198.19.0.0/24", "src": "198.18.0.0/24"}"#;
        let src = router.port("src0", "null", src).unwrap();
        router.up(src, "198.18.0.1/15");
        router.progress();
        router
    }

    /// Opens and attaches a port. The error is the plugin's own.
    pub fn port(&mut self, name: &str, driver: &str, options: &str) -> Result<IfIndex, (i32, String)> {
        let index = self.stack.if_reserve(name).unwrap();
        let table = self.registry.driver(driver).unwrap();
        let config = PortConfig {
            size: size_of::<PortConfig>() as u32,
            ifindex: index.get(),
            name: Text::new(name),
            options: Text::new(options),
            rx_queues: 1,
            tx_queues: 2,
            workers: 2,
            mtu: 0,
            _pad: 0,
        };
        let mut info = PortInfo {
            size: size_of::<PortInfo>() as u32,
            flags: 0,
            port: std::ptr::null_mut(),
            rx_queues: 0,
            tx_queues: 0,
            mtu: 0,
            mtu_max: 0,
            offloads: 0,
            mac: MacAddr::default(),
            rss_table: 0,
            rss_key: 0,
            _pad: [0; 3],
        };
        let mut text = [0; 512];
        let mut err = ErrBuf::new(&mut text);
        // SAFETY: the table was checked by the loader; everything passed lives through the call.
        let code = unsafe { (table.open)(self.host, &config, &mut info, &mut err) };
        if code != OK {
            self.stack.detach(index).unwrap();
            // SAFETY: the buffer is `text`.
            return Err((code, unsafe { err.get() }));
        }
        self.stack.attach_port(index, table, info).unwrap();
        self.ports.push((index, table, info));
        Ok(index)
    }

    pub fn up(&self, index: IfIndex, address: &str) {
        let at_once = AddrOptions { dad_count: Some(0) };
        self.stack.addr_add(index, address.parse().unwrap(), at_once).unwrap();
        self.stack.set_up(index, true).unwrap();
    }

    pub fn interface(&self, name: &str) -> IfStatus {
        self.stack.interfaces().into_iter().find(|i| i.name == name).unwrap()
    }

    /// Waits until 500 more packets were forwarded.
    #[track_caller]
    pub fn progress(&self) {
        let before = self.interface("out0").counters.opackets;
        wait("the other interfaces go on forwarding", || self.interface("out0").counters.opackets >= before + 500);
    }

    /// The router is well but for this interface, which is out of service for a reason that is told in `saying`.
    #[track_caller]
    pub fn quarantined(&self, events: &Receiver<StackEvent>, name: &str, saying: &str) {
        wait("the interface is taken out of service", || self.interface(name).quarantine.is_some());
        let reason = self.interface(name).quarantine.unwrap();
        assert!(reason.contains(saying), "the reason is {reason:?}, without {saying:?}");
        assert!(!self.interface(name).running);
        let told = |e: &StackEvent| e.kind == "quarantine" && e.interface == name && e.detail.contains(saying);
        wait("an event tells it", || events.try_iter().any(|e| told(&e)));
        self.progress();
        assert!(!events.try_iter().any(|e| e.kind == "quarantine"), "and one only");
        assert!(self.interface("src0").quarantine.is_none() && self.interface("out0").quarantine.is_none());
        self.registry.quarantine(&self.interface(name).driver, &reason);
        let plugin = self.registry.list().into_iter().find(|p| p.name == "fixture").unwrap();
        let error = plugin.error.unwrap();
        assert!(error.contains("libfixture_drivers.so") && error.contains(&reason), "{error}");
        let count = self.runtime.sysctl().get("kern.plugin.quarantined").unwrap();
        assert_eq!(count.to_string(), "1");
    }

    /// Ends the router: every packet is accounted for and every cell is back in the pool.
    pub fn end(self) {
        for (index, table, info) in &self.ports {
            let (index, table, info) = (*index, *table, *info);
            self.stack.detach(index).unwrap();
            // SAFETY: opened by `port`, detached, and not used again.
            assert_eq!(unsafe { (table.close)(info.port) }, OK);
        }
        self.stack.shutdown();
        let accounts = self.stack.accounting();
        assert_eq!(accounts.missing(), 0, "{accounts:?}");
        let report = self.runtime.stop();
        assert_eq!(report.cells_in_use, 0, "{report:?}");
    }
}

#[track_caller]
pub fn wait(what: &str, mut done: impl FnMut() -> bool) {
    let end = Instant::now() + Duration::from_secs(10);
    while !done() {
        assert!(Instant::now() < end, "not within 10 s: {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}
