use super::*;
use std::collections::HashSet;

/// Bytes of a cell of the default size.
const CELL: usize = 2048 + 64;

fn pool(cells: u32, workers: usize) -> Pool {
    let huge_pages = HugePages::Never;
    Pool::new(&PoolConfig { cells, workers, cache: 128, huge_pages, ..PoolConfig::default() }).unwrap()
}

fn cpu(i: u32) -> Cpu {
    // SAFETY: one thread in each test, and one token of an index.
    unsafe { Cpu::assume(i) }
}

/// One packet of several cells: `parts` are their bytes.
fn chain(pool: &Pool, parts: &[&[u8]]) -> Cell {
    let mut cells = vec![0; parts.len()];
    assert_eq!(pool.alloc(cpu(0), &mut cells), parts.len());
    for (&c, bytes) in cells.iter().zip(parts) {
        assert!(pool.packet(c).set_data(bytes));
    }
    let mut first = pool.packet(cells[0]);
    for &c in &cells[1..] {
        assert!(first.append(pool.packet(c)));
    }
    cells[0]
}

#[test]
fn every_cell_is_given_out_once_and_comes_back() {
    let pool = pool(300, 2);
    let mut got = Vec::new();
    let mut buf = [0; 50];
    loop {
        let n = pool.alloc(cpu((got.len() % 2) as u32), &mut buf);
        got.extend_from_slice(&buf[..n]);
        if n < buf.len() {
            break;
        }
    }
    got.extend(std::iter::from_fn(|| (pool.alloc_shared(&mut buf[..1]) == 1).then(|| buf[0])));
    // What the other worker keeps in its cache is all that can be missing.
    let rest: Vec<Cell> = (0..2).flat_map(|w| drain(&pool, w)).collect();
    got.extend(rest);
    let unique: HashSet<Cell> = got.iter().copied().collect();
    assert_eq!((unique.len(), got.len()), (300, 300));
    let s = pool.stats();
    assert_eq!((s.in_use, s.shared, s.caches.iter().sum::<u64>()), (300, 0, 0));
    assert!(s.alloc_failures > 0);
    let (a, b) = got.split_at(170);
    pool.free(cpu(0), a);
    pool.free_shared(b);
    let s = pool.stats();
    assert_eq!((s.in_use, s.shared + s.caches[0], s.bad_frees, pool.available()), (0, 300, 0, 300));
    assert!(s.caches[0] < 128 + 64, "the cache is bounded: {s:?}");
}

fn drain(pool: &Pool, worker: u32) -> Vec<Cell> {
    let mut buf = [0; 1];
    std::iter::from_fn(|| (pool.alloc(cpu(worker), &mut buf) == 1).then(|| buf[0])).collect()
}

#[test]
fn a_fresh_packet_is_empty_behind_its_headroom() {
    let pool = pool(64, 1);
    let mut c = [0];
    for _ in 0..2 {
        assert_eq!(pool.alloc(cpu(0), &mut c), 1);
        let mut p = pool.packet(c[0]);
        assert_eq!((p.len(), p.data().len(), p.headroom(), p.hdr().nsegs), (0, 0, 128, 1));
        assert_eq!(p.tailroom(), CELL - 64 - 128);
        p.hdr_mut().mark = 7;
        p.hdr_mut().flags = u32::MAX;
        assert!(p.set_data(b"hello"));
        pool.free(cpu(0), &c);
    }
}

#[test]
fn bytes_go_in_front_and_behind_and_come_off() {
    let pool = pool(64, 1);
    let mut c = [0];
    assert_eq!(pool.alloc(cpu(0), &mut c), 1);
    let mut p = pool.packet(c[0]);
    assert!(p.set_data(b"payload"));
    p.push_front(2).unwrap().copy_from_slice(b"h:");
    p.push_back(1).unwrap().copy_from_slice(b".");
    assert_eq!((p.data(), p.len()), (&b"h:payload."[..], 10));
    let off = p.hdr().data_off;
    assert_eq!(p.at(off + 2, 3), Some(&b"pay"[..]));
    assert_eq!(p.at(off + 8, 3), None);
    assert_eq!(p.at(off - 1, 1), None);
    assert_eq!(p.at(u16::MAX, 1), None);
    p.at_mut(off, 1).unwrap()[0] = b'H';
    assert!(p.pull_front(2) && !p.pull_front(9));
    p.truncate(3);
    p.truncate(100);
    assert_eq!((p.data(), p.len()), (&b"pay"[..], 3));
    assert!(p.push_front(129).is_none() && p.push_front(128).is_some());
    assert!(p.push_back(4096).is_none());
    assert!(!p.set_data(&[0; CELL]));
    assert_eq!(p.cell_bytes().len(), CELL - 64);
}

#[test]
fn a_chain_is_one_packet() {
    let pool = pool(64, 1);
    let first = chain(&pool, &[b"abc", b"", b"defg", b"h"]);
    let mut p = pool.packet(first);
    assert_eq!((p.len(), p.hdr().nsegs, pool.validate(first)), (8, 4, Ok(())));
    assert_eq!(p.segments().collect::<Vec<_>>(), [&b"abc"[..], b"", b"defg", b"h"]);
    let mut out = [0; 4];
    for (off, want) in [(0, "abcd"), (2, "cdef"), (3, "defg"), (6, "gh"), (8, ""), (99, "")] {
        let n = p.copy_to(&mut out, off);
        assert_eq!(&out[..n], want.as_bytes(), "from {off}");
    }
    assert!(p.push_back(1).is_none() && !p.set_data(b"x"));
    p.truncate(5);
    assert_eq!(p.segments().collect::<Vec<_>>(), [&b"abc"[..], b"", b"de", b""]);
    assert_eq!((p.len(), pool.validate(first)), (5, Ok(())));
    pool.free(cpu(0), &[first]);
    let s = pool.stats();
    assert_eq!((s.in_use, s.bad_frees), (0, 0));
}

#[test]
fn cells_with_stale_headers_are_no_chains() {
    let pool = pool(64, 1);
    let mut all = [0; 64];
    for _ in 0..2 {
        assert_eq!(pool.alloc(cpu(0), &mut all), 64);
        pool.free(cpu(0), &all);
        let first = chain(&pool, &[b"abc", b"de", b"f"]);
        pool.free(cpu(0), &[first]);
    }
    let s = pool.stats();
    assert_eq!((s.in_use, s.bad_frees), (0, 0));
}

#[test]
fn packets_that_are_not_sound_are_found() {
    let pool = pool(64, 1);
    assert_eq!(pool.validate(64), Err(BadPacket::Index));
    assert_eq!(pool.validate(CELL_NONE), Err(BadPacket::Index));
    let spoil = |f: &dyn Fn(&mut PktHdr)| {
        let first = chain(&pool, &[b"abc", b"de"]);
        let good = *pool.packet(first).hdr();
        f(pool.packet(first).hdr_mut());
        let verdict = pool.validate(first);
        *pool.packet(first).hdr_mut() = good;
        pool.free(cpu(0), &[first]);
        verdict
    };
    assert_eq!(spoil(&|_| ()), Ok(()));
    assert_eq!(spoil(&|h| h.next = 64), Err(BadPacket::Index));
    assert_eq!(spoil(&|h| h.data_off = 63), Err(BadPacket::Bounds));
    assert_eq!(spoil(&|h| h.data_off = CELL as u16), Err(BadPacket::Bounds));
    assert_eq!(spoil(&|h| h.data_len = u16::MAX), Err(BadPacket::Bounds));
    assert_eq!(spoil(&|h| h.pkt_len = 4), Err(BadPacket::Length));
    assert_eq!(spoil(&|h| h.pkt_len = u32::MAX), Err(BadPacket::Length));
    assert_eq!(spoil(&|h| h.nsegs = 1), Err(BadPacket::Segments));
    assert_eq!(spoil(&|h| h.nsegs = 0), Err(BadPacket::Segments));
    assert_eq!(spoil(&|h| h.nsegs = 3), Err(BadPacket::Segments));
    assert_eq!(spoil(&|h| h.next = CELL_NONE), Err(BadPacket::Segments));
    assert_eq!(pool.stats().in_use, 0);
}

#[test]
fn a_view_stays_in_its_cell_whatever_the_header_says() {
    let pool = pool(64, 1);
    let mut c = [0];
    assert_eq!(pool.alloc(cpu(0), &mut c), 1);
    for (off, len) in [(0, 10), (u16::MAX, u16::MAX), (CELL as u16 - 1, 100), (64, u16::MAX)] {
        let mut p = pool.packet(c[0]);
        *p.hdr_mut() = PktHdr { data_off: off, data_len: len, pkt_len: u32::MAX, ..PktHdr::empty(192) };
        assert!(p.data().len() <= CELL - 64);
        p.data_mut().fill(0xaa);
        assert!(p.at(off, usize::MAX).is_none());
        assert!(p.segments().map(<[u8]>::len).sum::<usize>() <= CELL - 64);
        p.truncate(3);
        assert!(!p.pull_front(5000));
    }
}

#[test]
fn free_does_not_follow_a_broken_chain() {
    let pool = pool(64, 1);
    let mut c = [0; 2];
    assert_eq!(pool.alloc(cpu(0), &mut c), 2);
    pool.free(cpu(0), &[CELL_NONE, 64]);
    pool.packet(c[0]).hdr_mut().next = 1000;
    pool.free(cpu(0), &c);
    let s = pool.stats();
    assert_eq!((s.in_use, s.bad_frees), (0, 3));
}

#[test]
fn a_cell_is_freed_once_however_often_it_is_given_back() {
    let pool = pool(64, 1);
    let mut c = [0; 3];
    assert_eq!(pool.alloc(cpu(0), &mut c), 3);
    pool.free(cpu(0), &[c[0], c[0]]);
    pool.free_shared(&c[..1]);
    assert_eq!(pool.validate(c[0]), Err(BadPacket::Free));
    // A chain that comes back to itself.
    pool.packet(c[1]).hdr_mut().next = c[2];
    pool.packet(c[2]).hdr_mut().next = c[1];
    pool.free(cpu(0), &[c[1]]);
    let s = pool.stats();
    assert_eq!((s.in_use, s.bad_frees), (0, 3));
    let mut all = [0; 64];
    assert_eq!(pool.alloc(cpu(0), &mut all), 64);
    all.sort_unstable();
    assert!(all.iter().copied().eq(0..64), "every cell is there once");
}

#[test]
fn a_cell_that_is_twice_in_a_list_is_found() {
    let pool = pool(64, 1);
    let mut c = [0; 8];
    assert_eq!(pool.alloc(cpu(0), &mut c), 8);
    // Whatever earlier lists left in the headers misleads nobody.
    for round in 0..8 {
        for i in 0..8 {
            assert_eq!(pool.validate_next(&c[..i], c[i]), Ok(()), "round {round}");
        }
        for (i, twice) in c.iter().enumerate() {
            assert_eq!(pool.validate_next(&c[..], *twice), Err(BadPacket::Twice), "{i}");
        }
        c.rotate_left(3);
    }
    let long = chain(&pool, &[b"abc", b"de", b"f"]);
    let tail = pool.packet(long).hdr().next;
    assert_eq!(pool.validate_next(&c[..2], long), Ok(()));
    let list = [c[0], c[1], long];
    assert_eq!(pool.validate_next(&list[..], long), Err(BadPacket::Twice));
    let mut p = pool.packet(tail);
    (p.hdr_mut().nsegs, p.hdr_mut().pkt_len) = (2, 3);
    assert_eq!(pool.validate(tail), Ok(()), "the tail of a chain looks like a packet");
    assert_eq!(pool.validate_next(&list[..], tail), Err(BadPacket::Twice));
    // What is wrong is taken back, but nothing of what the list holds.
    assert!(!pool.reclaim(cpu(0), &list[..], tail) && !pool.reclaim(cpu(0), &list[..], 64));
    pool.packet(c[3]).hdr_mut().next = tail;
    assert_eq!(pool.validate(c[3]), Err(BadPacket::Segments));
    assert!(pool.reclaim(cpu(0), &list[..], c[3]) && !pool.reclaim(cpu(0), &list[..], c[3]));
    assert_eq!(pool.stats().in_use, 10);
    let others: Vec<Cell> = c.iter().copied().filter(|o| ![c[0], c[1], c[3]].contains(o)).collect();
    pool.free(cpu(0), &list);
    pool.free(cpu(0), &others);
    let s = pool.stats();
    assert_eq!((s.in_use, s.bad_frees), (0, 0));
}

/// What the first packet is that is wrong in a burst, by looking at each for itself and at all before it.
fn first_wrong(pool: &Pool, burst: &[Cell]) -> Option<(usize, BadPacket)> {
    let cells_of = |c: Cell| {
        let next = |c: &Cell| Some(pool.packet(*c).hdr().next).filter(|n| *n != CELL_NONE);
        std::iter::successors(Some(c), next).collect::<Vec<_>>()
    };
    let mut seen = HashSet::new();
    burst.iter().enumerate().find_map(|(i, c)| match pool.validate(*c) {
        Err(e) => Some((i, e)),
        Ok(()) => cells_of(*c).into_iter().any(|c| !seen.insert(c)).then_some((i, BadPacket::Twice)),
    })
}

#[test]
fn a_burst_is_judged_as_its_packets_would_be_one_by_one() {
    let pool = pool(256, 1);
    let mut random = 1u64;
    let mut below = |n: usize| {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (random >> 33) as usize % n
    };
    let mut owned: Vec<Cell> = (0..40).map(|_| chain(&pool, &[b"abc"])).collect();
    owned.extend((0..8).map(|_| chain(&pool, &[b"ab", b"c", b"d"])));
    let (mut good, mut wrong) = (0, 0);
    for _ in 0..4000 {
        // Packets in any order, mostly each once; now and then one of two, the tail of a chain, a free cell, no cell.
        let mut all = owned.clone();
        let mut burst = [0; BURST_MAX as usize];
        let n = below(owned.len() + 1);
        for c in &mut burst[..n] {
            *c = match below(400) {
                0 => owned[below(owned.len())],
                1 => pool.packet(owned[47]).hdr().next,
                2 => 255,
                3 => 256,
                _ => all.swap_remove(below(all.len())),
            };
        }
        let mut accepted = vec![];
        let said = pool.validate_burst(&burst, n, |p| accepted.push(p.cell()));
        let want = first_wrong(&pool, &burst[..n]);
        assert_eq!(said.err(), want, "{:?}", &burst[..n]);
        let sound = want.map_or(n, |(i, _)| i);
        assert_eq!(accepted, &burst[..sound]);
        (good, wrong) = (good + usize::from(want.is_none()), wrong + usize::from(want.is_some()));
    }
    assert!(good > 1000 && wrong > 400, "{good} {wrong}");
}

#[test]
fn a_pool_out_of_range_is_refused_by_name() {
    let refused = |c: PoolConfig| Pool::new(&c).err().map(|e| e.to_string()).unwrap_or_default();
    let good = PoolConfig { cells: 64, huge_pages: HugePages::Never, ..PoolConfig::default() };
    assert_eq!(refused(good.clone()), "");
    assert_eq!(refused(PoolConfig { cells: 63, ..good.clone() }), "packet pool: cells is 63, must be 64 to 16777216");
    assert!(refused(PoolConfig { cell_size: 65536, ..good.clone() }).contains("cell_size"));
    assert!(refused(PoolConfig { headroom: 2000, ..good.clone() }).contains("headroom"));
    assert!(refused(PoolConfig { headroom: 12, ..good.clone() }).contains("headroom"));
    assert!(refused(PoolConfig { workers: 65, ..good.clone() }).contains("workers"));
    assert!(refused(PoolConfig { cache: 1, ..good }).contains("cache"));
}

#[cfg(not(miri))]
mod memory {
    use super::*;

    #[test]
    fn the_memory_is_sealed_and_can_be_mapped_by_others() {
        let pool = pool(64, 1);
        let d = pool.desc();
        assert_eq!((d.bytes % (64 << 10), d.bytes >= 64 << 11), (0, true));
        // SAFETY: a valid descriptor; no memory is passed.
        let (seals, cut) = unsafe { (libc::fcntl(d.fd, libc::F_GET_SEALS), libc::ftruncate(d.fd, 0)) };
        assert_eq!(seals, libc::F_SEAL_SHRINK | libc::F_SEAL_GROW | libc::F_SEAL_SEAL);
        assert_eq!(cut, -1, "nobody can take memory away");
        let mut c = [0];
        assert_eq!(pool.alloc(cpu(0), &mut c), 1);
        assert!(pool.packet(c[0]).set_data(b"seen"));
        // SAFETY: a fresh mapping, unmapped below.
        unsafe {
            let len = d.bytes as usize;
            let map = libc::mmap(std::ptr::null_mut(), len, libc::PROT_READ, libc::MAP_SHARED, d.fd, 0);
            assert_ne!(map, libc::MAP_FAILED);
            let at = c[0] as usize * d.cell_size as usize + d.data_off as usize;
            assert_eq!(std::slice::from_raw_parts(map.cast::<u8>().add(at), 4), b"seen");
            libc::munmap(map, len);
        }
    }

    #[test]
    fn huge_pages_are_taken_only_when_they_are_there() {
        let config = |huge_pages| PoolConfig { cells: 1024, huge_pages, ..PoolConfig::default() };
        let auto = Pool::new(&config(HugePages::Auto)).unwrap();
        match Pool::new(&config(HugePages::Require)) {
            Ok(p) => assert_eq!((p.desc().page_size, p.desc().bytes % (2 << 20)), (2 << 20, 0)),
            Err(e) => {
                assert_eq!(auto.desc().page_size, 4096);
                assert!(e.to_string().contains("huge-page memory"), "{e}");
            }
        }
        // Every byte can be written: none of it is a promise only.
        let all = auto.cells();
        (0..all).for_each(|c| auto.packet(c).cell_bytes_mut().fill(1));
    }
}
