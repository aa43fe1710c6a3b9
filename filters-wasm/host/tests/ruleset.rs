//! A worker that decides by a ruleset, and goes over to another, allocates nothing: proved with an allocator that counts.

use smpnet_npf::{
    config::TableId,
    evaluate::{Asked, Dynamic, NoInterfaces, Programs, Where},
    language::{NoFiles, parse},
    packet::Packet,
    plan::{Plan, RuleIndex},
    testing::{random::Dice, tcp},
    wasm::{Facts, Side},
};
use smpnet_wasm::ruleset::{RulesetEngine, RulesetHost, Rulesets};
use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

thread_local! {
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
}

struct Counting;

// SAFETY: everything is passed on to the system's allocator; the counter allocates nothing itself.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.set(ALLOCATIONS.get() + 1);
        // SAFETY: the caller's promise is passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, ptr: *mut u8, layout: Layout) {
        ALLOCATIONS.set(ALLOCATIONS.get() + 1);
        // SAFETY: as above.
        unsafe { System.dealloc(ptr, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Counts what it is asked.
#[derive(Default)]
struct Host {
    packet: Vec<u8>,
    asked: [u32; 3],
}

impl RulesetHost for Host {
    fn is_in_table(&mut self, _: usize, facts: &Facts, _: TableId, side: Side) -> bool {
        self.asked[0] += 1;
        facts.address(side) as u8 == 1
    }

    fn within(&mut self, packet: usize, _: RuleIndex) -> bool {
        self.asked[1] += 1;
        packet.is_multiple_of(2)
    }

    fn bytes(&mut self, _: usize) -> &[u8] {
        self.asked[2] += 1;
        &self.packet
    }
}

#[test]
fn deciding_on_bursts_allocates_nothing() {
    let text = "table <t> type ipset\ngroup default {\nblock all\npass final from <t>\npass pcap-filter \"tcp port 9\"\n\
                pass stateful final from any to any port 80 limit states 5\n}";
    let config = parse("test.conf", text, &NoFiles).unwrap().config;
    let programs = Programs::new(&config).unwrap();
    let plan = Plan::new(&config, &programs, &NoInterfaces, &Dynamic::new());
    let ruleset = RulesetEngine::new().unwrap().compile(&plan).unwrap();
    let rulesets = Rulesets::new(1);
    let mut worker = rulesets.worker(0).unwrap();
    rulesets.publish(&ruleset).unwrap();
    assert!(worker.current().is_some());
    // Taking over a new generation is a part of it.
    rulesets.publish(&ruleset).unwrap();

    let mut dice = Dice::new(1);
    let packets: Vec<Vec<u8>> = (0..64)
        .map(|_| {
            let (src, port) = (["10.0.0.1", "10.0.0.2"][dice.below(2) as usize], [80, 9, 7][dice.below(3) as usize]);
            tcp((src, 1000), ("10.0.0.3", port), 0x02, b"", b"")
        })
        .collect();
    let read: Vec<Packet> = packets.iter().map(|bytes| Packet::read(bytes).unwrap()).collect();
    let mut host = Host { packet: packets[0].clone(), ..Host::default() };
    let before = ALLOCATIONS.get();
    let mut decided = 0u64;
    for _ in 0..1000 {
        let (generation, instance) = worker.current().unwrap();
        assert_eq!(generation, 2);
        for ((facts, packet), bytes) in instance.facts().iter_mut().zip(&read).zip(&packets) {
            let asked = Asked { packet, bytes, interface: "eth0", way: Where::In, tag: None };
            *facts = Facts::of(&plan.numbered(&asked));
        }
        decided += instance.decide(64, &mut host).unwrap().iter().map(|rule| u64::from(*rule)).sum::<u64>();
    }
    assert_eq!(ALLOCATIONS.get(), before);
    assert!(decided > 0 && host.asked.iter().all(|asked| *asked >= 1000), "{decided}, {:?}", host.asked);
}
