//! A thousand swaps under load.

use crate::testguest::drops_port;
use crate::testrouter::{TestRouter, udp};
use crate::{Action, FilterManager, FilterSpec, FilterStats, ModuleSpec, Source};
use smpnet_abi::BURST_MAX;
use smpnet_abi::verdict::{DROP, PASS};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::time::{Duration, Instant};

const SWAPS: u64 = 1_000;

/// Lines of /proc/self/maps, and resident bytes.
fn memory() -> (usize, usize) {
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap().lines().count();
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
    let resident: usize = statm.split_whitespace().nth(1).unwrap().parse().unwrap();
    (maps, resident * 4096)
}

/// The least of half a second, in which the supervisor buries what is left.
fn settled_memory() -> (usize, usize) {
    let samples = (0..25).map(|_| {
        std::thread::sleep(Duration::from_millis(20));
        memory()
    });
    samples.fold((usize::MAX, usize::MAX), |least, m| (least.0.min(m.0), least.1.min(m.1)))
}

/// Nanoseconds of processor time of the calling thread: what it spent itself, however busy the machine is.
fn cpu_time() -> u64 {
    let mut t = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `t` outlives the call.
    assert_eq!(unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &mut t) }, 0);
    t.tv_sec as u64 * 1_000_000_000 + t.tv_nsec as u64
}

/// Judges the worker's 64 packets again and again; returns how many bursts it judged, and the longest ten in ns. Even ports go to one half of the
/// generations, odd ports to the other: a burst that mixed two generations would drop all or nothing.
fn work(router: &TestRouter, worker: usize, stop: &AtomicBool) -> (u64, Vec<u64>) {
    let first = worker as u32 * BURST_MAX;
    let cells: Vec<u32> = (first..first + BURST_MAX).collect();
    let even: Vec<u32> = cells.iter().map(|c| if c % 2 == 0 { DROP } else { PASS }).collect();
    let odd: Vec<u32> = even.iter().map(|v| PASS + DROP - v).collect();
    router.park(worker, false);
    let (mut bursts, mut longest) = (0, vec![0; 10]);
    while !stop.load(SeqCst) {
        let began = cpu_time();
        let verdicts = router.burst(worker, &cells);
        let took = cpu_time() - began;
        if took > longest[0] {
            longest[0] = took;
            longest.sort_unstable();
        }
        assert!(verdicts == even || verdicts == odd, "two generations in one burst: {verdicts:?}");
        bursts += 1;
    }
    router.park(worker, true);
    (bursts, longest)
}

/// What must hold of a filter's counters once no worker judges.
fn check_books(stats: &FilterStats) {
    let mut generations = stats.older;
    stats.generations.iter().for_each(|g| generations.add(&g.counts));
    assert_eq!(generations, stats.total);
    assert_eq!(stats.total.passed + stats.total.dropped, stats.total.packets);
    assert_eq!((stats.total.matched, stats.total.faults), (stats.total.dropped, 0));
}

#[test]
fn operations_of_several_threads_leave_the_books_balanced_and_nothing_behind() {
    let router = TestRouter::new(128, 2);
    (0..128).for_each(|cell| router.pool.put(cell, &udp(5000 + (cell % 2) as u16, 18)));
    let manager = FilterManager::new(router.clone()).unwrap();
    let stop = AtomicBool::new(false);
    std::thread::scope(|s| {
        for worker in 0..2 {
            let (router, stop) = (&router, &stop);
            s.spawn(move || {
                let cells: Vec<u32> = (64 * worker as u32..64 * worker as u32 + 64).collect();
                router.park(worker, false);
                while !stop.load(SeqCst) {
                    router.burst(worker, &cells);
                }
                router.park(worker, true);
            });
        }
        let operators: Vec<_> = (0..3u64)
            .map(|t| {
                let manager = &manager;
                s.spawn(move || {
                    for n in 0..60 {
                        let name = format!("f{}", (t + n) % 2);
                        let source = Source::Expr(format!("udp port {}", 5000 + n % 2));
                        // Most of these fail now and then, because another thread was first.
                        let _ = match (t + n) % 5 {
                            0 => manager.load(FilterSpec::new(name, source, Action::Drop)).map(drop),
                            1 | 2 => manager.swap(&name, source, None).map(drop),
                            3 => manager.rollback(&name).map(drop),
                            _ if n % 3 == 0 => manager.detach(&name),
                            _ => manager.stats(&name).map(|s| assert_eq!(s.name, name)),
                        };
                    }
                })
            })
            .collect();
        operators.into_iter().for_each(|t| t.join().unwrap());
        stop.store(true, SeqCst);
    });
    manager.list().iter().for_each(|f| check_books(&manager.stats(&f.name).unwrap()));
    drop(manager);
    assert_eq!((router.hooks(), Arc::strong_count(&router)), (0, 1));
}

/// Runs the test of this name alone in a process of its own, so that no other test's memory is measured.
fn alone(name: &str) -> bool {
    const MARK: &str = "SMPNET_WASM_TEST_ALONE";
    if std::env::var_os(MARK).is_some() {
        return true;
    }
    let mut child = std::process::Command::new(std::env::current_exe().unwrap());
    let child = child.args(["--exact", &format!("stress_tests::{name}"), "--nocapture"]).env(MARK, "1");
    let out = child.output().unwrap();
    let text = String::from_utf8_lossy(&out.stdout);
    println!("{text}");
    assert!(out.status.success() && text.contains("1 passed"), "{}", String::from_utf8_lossy(&out.stderr));
    false
}

#[test]
fn a_thousand_swaps_under_load_lose_no_packet_and_leak_nothing() {
    if alone("a_thousand_swaps_under_load_lose_no_packet_and_leak_nothing") {
        swap_under_load(|swap| Source::Expr(format!("udp dst port {}", 5000 + swap % 2)));
    }
}

#[test]
fn a_thousand_swaps_of_modules_under_load_lose_no_packet_and_leak_nothing() {
    if alone("a_thousand_swaps_of_modules_under_load_lose_no_packet_and_leak_nothing") {
        let modules = [5000, 5001].map(drops_port);
        swap_under_load(|swap| Source::Module(ModuleSpec::new(modules[swap as usize % 2].clone())));
    }
}

fn swap_under_load(ports: impl Fn(u64) -> Source) {
    // Worker 2 sleeps all the time.
    let router = TestRouter::new(192, 3);
    for cell in 0..192 {
        router.pool.put(cell, &udp(5000 + (cell % 2) as u16, 18));
    }
    let manager = Arc::new(FilterManager::new(router.clone()).unwrap());
    manager.load(FilterSpec::new("f", ports(0), Action::Drop)).unwrap();
    let stop = AtomicBool::new(false);
    let (mut adopt, mut total) = (Vec::new(), Vec::new());
    let (mut before, mut after) = ((0, 0), (0, 0));
    let worked: Vec<_> = std::thread::scope(|s| {
        let workers: Vec<_> = (0..2)
            .map(|w| {
                s.spawn({
                    let (r, stop) = (&router, &stop);
                    move || work(r, w, stop)
                })
            })
            .collect();
        for swap in 1..=SWAPS {
            let began = Instant::now();
            let report = manager.swap("f", ports(swap), None).unwrap();
            assert_eq!(report.generation, swap + 1);
            total.push(began.elapsed());
            adopt.push(report.adopt_us);
            // After the first swaps allocators and caches are warm.
            if swap == 200 {
                before = settled_memory();
            }
        }
        after = settled_memory();
        stop.store(true, SeqCst);
        workers.into_iter().map(|w| w.join().unwrap()).collect()
    });

    let stats = manager.stats("f").unwrap();
    let bursts: u64 = worked.iter().map(|w| w.0).sum();
    let packets = bursts * u64::from(BURST_MAX);
    let per_generation: u64 = stats.generations.iter().map(|g| g.counts.packets).sum();
    assert_eq!(stats.total.packets, packets, "every packet is judged exactly once");
    assert_eq!(per_generation + stats.older.packets, packets, "by exactly one generation");
    assert_eq!((stats.total.passed, stats.total.dropped), (packets / 2, packets / 2));
    assert_eq!((stats.total.faults, stats.total.fault_packets), (0, 0));
    // A mapping or a page lost at each of the 800 swaps in between would be far more.
    assert!(after.0 <= before.0 + 64, "mappings grew from {} to {}", before.0, after.0);
    assert!(after.1 <= before.1 + (2 << 20), "resident memory grew from {} to {}", before.1, after.1);

    adopt.sort_by(f64::total_cmp);
    total.sort();
    println!(
        "{SWAPS} swaps, {packets} packets, {} interpreted; adopt median {:.0} us worst {:.0} us; whole swap median {:?} worst {:?}; \
         mappings {} -> {}, longest bursts {:?} ns, resident {} -> {} KiB",
        stats.total.interpreted,
        adopt[adopt.len() / 2],
        adopt[adopt.len() - 1],
        total[total.len() / 2],
        total[total.len() - 1],
        before.0,
        after.0,
        worked.iter().map(|w| &w.1).collect::<Vec<_>>(),
        before.1 >> 10,
        after.1 >> 10
    );
}
