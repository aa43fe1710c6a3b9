//! Filters on the hooks of a network stack.

use smpnet_runtime::{PoolConfig, Runtime, RuntimeConfig};
use smpnet_stack::{AtHook, Dir, HookLayer, IfIndex, Stack};
use smpnet_wasm::{Action, Dirs, FilterManager, FilterSpec, Layer, Source, StackAttach};
use std::sync::Arc;

fn udp(port: u16) -> Vec<u8> {
    let mut p = vec![0x45, 0, 0, 28, 0, 0, 0, 0, 64, 17, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2, 0, 9];
    p.extend_from_slice(&port.to_be_bytes());
    p.extend_from_slice(&[0, 8, 0, 0]);
    p
}

#[test]
fn filters_come_to_and_leave_the_hooks_of_the_stack() {
    let pool = PoolConfig { cells: 4096, ..PoolConfig::default() };
    let config = RuntimeConfig { cpus: vec![None, None], pool, ..RuntimeConfig::default() };
    let runtime = Runtime::start(config).unwrap();
    let stack = Stack::new(runtime.clone()).unwrap();
    let manager = FilterManager::new(Arc::new(StackAttach::new(runtime.clone(), stack.clone()))).unwrap();
    let spec = |name: &str, text: &str| FilterSpec::new(name, Source::Expr(text.into()), Action::Drop);

    manager.load(FilterSpec { dirs: Dirs::Both, priority: 5, ..spec("a", "udp port 5000") }).unwrap();
    manager.load(FilterSpec { layer: Layer::Ether, ..spec("b", "ether proto 0x88cc") }).unwrap();
    let hooks: Vec<_> =
        stack.hooks().into_iter().map(|h| (h.name, h.layer, h.interface, h.direction, h.priority)).collect();
    assert_eq!(hooks, [("a".into(), "inet", None, "both", 5), ("b".into(), "ether", None, "in", 0)]);

    for ifindex in [0, 77, 70_000] {
        let e = manager.load(FilterSpec { ifindex: Some(ifindex), ..spec("c", "udp") }).unwrap_err();
        assert!(e.to_string().starts_with("filter c: cannot attach: no interface"), "{e}");
    }

    manager.swap("a", Source::Expr("udp port 5001".into()), None).unwrap();
    assert_eq!(stack.hooks()[0].status["generation"], 2);
    let one = IfIndex::new(1).unwrap();
    let ask = |port| {
        let bytes = &udp(port)[..];
        manager.opinions(&AtHook { layer: HookLayer::Inet, ifindex: one, dir: Dir::Out, rcvif: one, mark: 0, bytes })
    };
    assert_eq!(ask(5001)[0].detail, "generation 2: matches `udp port 5001`");
    assert!(!ask(5001)[0].pass && ask(5000)[0].pass);

    manager.detach("a").unwrap();
    assert_eq!(stack.hooks().len(), 1);
    drop(manager);
    assert!(stack.hooks().is_empty());
    drop(stack);
    runtime.stop();
}
