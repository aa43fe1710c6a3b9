//! Two ports of this driver against each other, in one process.

use super::*;

/// A server and a client, connected. The client's options are added to the ones that are needed.
fn pair(server: Value, client: Value, queues: (usize, usize)) -> Result<(Port, Port)> {
    let socket = "@smpnet-memif-pair";
    let with = |mut base: Value, more: Value| {
        for (key, value) in more.as_object().expect("options are an object") {
            base[key] = value.clone();
        }
        base
    };
    let s = Port::open("s0", queues.0, with(json!({"socket": socket, "role": "server"}), server))?;
    let mut c = Port::open("c0", queues.1, with(json!({"socket": socket, "role": "client"}), client))?;
    s.wait(true)?;
    c.wait(true)?;
    // The worker takes its rings up, and lends buffers to the server.
    c.poll();
    Ok((s, c))
}

fn ends(s: Port, c: Port) -> Result<()> {
    s.close();
    c.close();
    nothing_leaks()
}

pub fn frames_go_both_ways_with_all_their_bytes(_lab: Lab) -> Result<()> {
    for zero_copy in [false, true] {
        let (mut s, mut c) = pair(json!({}), json!({"zero_copy": zero_copy}), (1, 1))?;
        let lens = (14..200).chain([256, 511, 512, 513, 590, 1000, 1513, 1514, 1900]);
        let frames: Vec<_> = lens.enumerate().map(|(n, len)| frame(n, len)).collect();
        let total = frames.iter().map(Vec::len).sum::<usize>() as u64;
        for round in 0..20 {
            check(c.send(0, &frames) == frames.len(), || format!("round {round}: {:?}", c.counters()))?;
            s.expect(&frames)?;
            check(s.send(0, &frames) == frames.len(), || format!("round {round}: {:?}", s.counters()))?;
            c.expect(&frames)?;
        }
        let (n, total) = (frames.len() as u64 * 20, total * 20);
        for port in [&s, &c] {
            let stats = port.driver().stats();
            let want = smpnet_plugin::PortStats {
                rx_packets: n,
                rx_bytes: total,
                tx_packets: n,
                tx_bytes: total,
                ..Default::default()
            };
            check(stats == want, || format!("zero_copy {zero_copy}: {stats:?}"))?;
        }
        ends(s, c)?;
    }
    Ok(())
}

pub fn frames_larger_than_a_buffer_or_a_cell_are_chains(_lab: Lab) -> Result<()> {
    for client in [json!({"zero_copy": false}), json!({"buffer_size": 512}), json!({"zero_copy": true})] {
        let (mut s, mut c) = pair(json!({}), client.clone(), (1, 1))?;
        let lens = [60, 513, 1024, 1920, 1921, 2047, 2048, 2049, 4000, 9018, 60, 40_000, 65_535, 61];
        let frames: Vec<_> = lens.iter().enumerate().map(|(n, len)| frame(n, *len)).collect();
        for round in 0..8 {
            check(c.send(0, &frames) == frames.len(), || format!("{client}, {round}: {:?}", c.counters()))?;
            s.expect(&frames)?;
            check(s.send(0, &frames) == frames.len(), || format!("{client}, {round}: {:?}", s.counters()))?;
            c.expect(&frames)?;
        }
        // What no ring and no packet holds is counted, and those behind it go on.
        let odd = [frame(1, 65_536), frame(2, 60)];
        check(c.send(0, &odd) == 2 && c.counter("tx_too_long") == 1, || format!("{client}: {:?}", c.counters()))?;
        s.expect(&odd[1..])?;
        ends(s, c)?;
    }
    Ok(())
}

pub fn every_queue_has_rings_of_its_own(_lab: Lab) -> Result<()> {
    for zero_copy in [false, true] {
        let (mut s, mut c) = pair(json!({}), json!({"zero_copy": zero_copy, "ring_size": 64}), (3, 4))?;
        for (from, to) in [(0, 0), (1, 1), (2, 2)] {
            let frames: Vec<_> = (0..20).map(|n| frame(n + from * 100, 60 + n)).collect();
            check(c.send(from, &frames) == 20, || format!("queue {from}: {:?}", c.counters()))?;
            let got = s.receive(20);
            check(got.len() == 20 && got.iter().all(|(q, p)| *q == to && usize::from(p.hdr().rx_queue) == to), || {
                format!("from queue {from}: {:?}", got.iter().map(|(q, _)| q).collect::<Vec<_>>())
            })?;
            check(got.iter().zip(&frames).all(|((_, p), f)| bytes(p) == *f), || "a frame differs".into())?;
            check(s.send(to, &frames) == 20, || format!("queue {to}: {:?}", s.counters()))?;
            let got = c.receive(20);
            check(got.len() == 20 && got.iter().all(|(q, _)| *q == from), || format!("to queue {to}"))?;
        }
        // The client's fourth queue shares a ring, as the server takes three.
        let frames: Vec<_> = (0..20).map(|n| frame(n, 90)).collect();
        check(c.send(3, &frames) == 20, || format!("the fourth queue: {:?}", c.counters()))?;
        s.expect(&frames)?;
        ends(s, c)?;
    }
    Ok(())
}

pub fn a_full_ring_refuses_and_goes_on(_lab: Lab) -> Result<()> {
    for zero_copy in [false, true] {
        let (mut s, mut c) = pair(json!({}), json!({"zero_copy": zero_copy, "ring_size": 64}), (1, 1))?;
        let frames: Vec<_> = (0..100).map(|n| frame(n, 60 + n)).collect();
        for round in 0..5 {
            let sent = c.send(0, &frames);
            check(sent == 64, || format!("round {round}: {sent} of 100 accepted by a ring of 64"))?;
            check(c.send(0, &frames[..1]) == 0, || "a full ring takes one more".into())?;
            s.expect(&frames[..64])?;
            let sent = s.send(0, &frames);
            check(sent == 64, || format!("round {round}: {sent} of 100 accepted by a ring of 64 (server)"))?;
            c.expect(&frames[..64])?;
        }
        check(c.counter("tx_ring_full") == 10 && s.counter("tx_ring_full") == 5, || {
            format!("{:?} {:?}", c.counters(), s.counters())
        })?;
        // A chain that does not fit is not sent in part.
        let long: Vec<_> = (0..64).map(|n| frame(n, if n < 62 { 60 } else { 9000 })).collect();
        check(c.send(0, &long) == 62, || format!("{:?}", c.counters()))?;
        s.expect(&long[..62])?;
        check(c.send(0, &long[62..]) == 2, || format!("{:?}", c.counters()))?;
        s.expect(&long[62..])?;
        ends(s, c)?;
    }
    Ok(())
}

pub fn a_sleeping_end_is_woken_and_a_polling_one_is_not_interrupted(_lab: Lab) -> Result<()> {
    for zero_copy in [false, true] {
        let (mut s, mut c) = pair(json!({}), json!({"zero_copy": zero_copy}), (1, 1))?;
        let one = [frame(1, 60)];
        for to_server in [true, false] {
            let (from, to) = if to_server { (&mut c, &mut s) } else { (&mut s, &mut c) };
            // Fresh from a connection there may be an event or two; then it sleeps.
            let tries = (0..10).take_while(|_| !to.poll().is_empty() || to.sleep(0)).count();
            check(tries < 10 && !to.sleep(30), || format!("an idle port does not sleep (to_server {to_server})"))?;
            let before = from.counter("tx_interrupts");
            for round in 0..50 {
                check(from.send(0, &one) == 1, || "refused".into())?;
                check(to.sleep(2000), || format!("not woken in round {round} (to_server {to_server})"))?;
                to.expect(&one)?;
                // As the worker does: it finds nothing, and lies down.
                check(to.poll().is_empty(), || "a packet too much".into())?;
                check((0..3).any(|_| !to.sleep(0)), || format!("no rest in round {round} (to_server {to_server})"))?;
            }
            let woken = from.counter("tx_interrupts") - before;
            check(woken == 50, || format!("{woken} interrupts for 50 packets (to_server {to_server})"))?;
            // While packets come it polls, and nobody interrupts it.
            for _ in 0..50 {
                from.send(0, &one);
                from.send(0, &one);
                let n = to.poll().len();
                check(n == 2, || format!("{n} of 2 packets"))?;
            }
            let polled = from.counter("tx_interrupts") - before - woken;
            check(polled <= 2, || format!("{polled} interrupts of a polling port"))?;
        }
        ends(s, c)?;
    }
    Ok(())
}

pub fn a_connection_comes_back_when_either_end_was_away(_lab: Lab) -> Result<()> {
    for zero_copy in [false, true] {
        let server = json!({"socket": "@back", "role": "server"});
        let client = json!({"socket": "@back", "role": "client", "zero_copy": zero_copy, "ring_size": 64});
        let mut s = Port::open("s0", 1, server.clone())?;
        let mut c = Port::open("c0", 1, client.clone())?;
        let frames: Vec<_> = (0..40).map(|n| frame(n, 60 + n)).collect();
        for round in 0..4 {
            s.wait(true)?;
            c.wait(true)?;
            c.poll();
            check(c.send(0, &frames) == 40, || format!("round {round}: {:?}", c.counters()))?;
            s.expect(&frames)?;
            check(s.send(0, &frames) == 40, || format!("round {round}: {:?}", s.counters()))?;
            c.expect(&frames)?;
            // Some packets are under way in both directions when one of them goes.
            check(c.send(0, &frames) == 40 && s.send(0, &frames) == 40, || "refused".into())?;
            if round % 2 == 0 {
                s.close();
                c.wait(false)?;
                check(c.last_end() == "the peer disconnected: the interface is closed", || c.last_end())?;
                let lost = (c.poll().len(), c.counter("rx_lost_at_disconnect"));
                check(lost == (0, 40), || format!("{lost:?}"))?;
                c.reap();
                check(c.counter("tx_lost_at_disconnect") == lost.1, || format!("{:?}", c.counters()))?;
                // Without a peer packets are lost, and counted.
                check(c.send(0, &frames[..3]) == 3 && c.counter("tx_down") > 0, || format!("{:?}", c.counters()))?;
                s = Port::open("s0", 1, server.clone())?;
            } else {
                c.close();
                s.wait(false)?;
                s.poll();
                check(s.counter("rx_lost_at_disconnect") == 40, || format!("{:?}", s.counters()))?;
                s.reap();
                c = Port::open("c0", 1, client.clone())?;
            }
        }
        ends(s, c)?;
    }
    Ok(())
}

pub fn an_interface_that_is_set_down_disconnects_and_comes_back(_lab: Lab) -> Result<()> {
    let (mut s, mut c) = pair(json!({}), json!({}), (1, 1))?;
    let frames = [frame(1, 60)];
    for down in [true, false, true, false] {
        let port = if down { &s } else { &c };
        port.driver().set_up(false).expect("it can be set down");
        s.wait(false)?;
        c.wait(false)?;
        s.poll();
        c.poll();
        port_up(if down { &s } else { &c });
        s.wait(true)?;
        c.wait(true)?;
        s.poll();
        c.poll();
        check(c.send(0, &frames) == 1 && s.send(0, &frames) == 1, || "refused".into())?;
        s.expect(&frames)?;
        c.expect(&frames)?;
    }
    ends(s, c)
}

fn port_up(port: &Port) {
    port.driver().set_up(true).expect("it can be set up");
}

pub fn a_wrong_secret_or_id_is_told_to_the_client(_lab: Lab) -> Result<()> {
    let s = Port::open("s0", 1, json!({"socket": "@strict", "role": "server", "id": 7, "secret": "open sesame"}))?;
    let cases = [
        (json!({"id": 7}), "the peer disconnected: a secret is needed"),
        (json!({"id": 7, "secret": "open sesamf"}), "the peer disconnected: the secret is wrong"),
        (json!({"id": 7, "secret": "open sesame!"}), "the peer disconnected: the secret is wrong"),
        (json!({"id": 8, "secret": "open sesame"}), "the peer disconnected: there is no interface with id 8"),
    ];
    for (more, want) in cases {
        let mut options = json!({"socket": "@strict", "role": "client"});
        more.as_object().expect("an object").iter().for_each(|(k, v)| options[k] = v.clone());
        let c = Port::open("c0", 1, options)?;
        check(wait_for(|| c.trouble() == want), || format!("{more}: {}", c.driver().status()))?;
        check(!c.is_up() && !s.is_up(), || "connected all the same".into())?;
    }
    let c = Port::open("c0", 1, json!({"socket": "@strict", "role": "client", "id": 7, "secret": "open sesame"}))?;
    c.wait(true)?;
    let shown = c.driver().status().to_string() + &s.driver().status().to_string();
    check(!shown.contains("sesame"), || "the status shows the secret".into())?;
    // There is one client to a server.
    let d = Port::open("d0", 1, json!({"socket": "@strict", "role": "client", "id": 7, "secret": "open sesame"}))?;
    check(wait_for(|| d.trouble() == "the peer disconnected: already connected"), || d.driver().status().to_string())?;
    check(c.is_up() && s.is_up(), || "the second client drove out the first one".into())?;
    c.close();
    d.wait(true)?;
    let alone = Port::open("e0", 1, json!({"socket": "@nobody", "role": "client"}))?;
    let told = || alone.trouble().starts_with("nobody listens on @nobody");
    check(wait_for(told), || alone.driver().status().to_string())?;
    drop((d, alone));
    s.close();
    nothing_leaks()
}

pub fn servers_share_a_socket_by_their_ids(_lab: Lab) -> Result<()> {
    let dir = TempDir::new("memif")?;
    let path = dir.path().join("shared.sock");
    let options = |role: &str, id: u32| json!({"socket": path.to_str(), "role": role, "id": id, "ring_size": 64});
    let mut servers: Vec<Port> =
        (0..3).map(|id| Port::open(&format!("s{id}"), 1, options("server", id))).collect::<Result<_>>()?;
    let why = Port::try_open("again", 1, options("server", 1)).err().unwrap_or_default();
    check(why.ends_with("id 1 is taken by another interface of this router; give each its own id"), || why)?;
    let mut clients: Vec<Port> =
        (0..3).map(|id| Port::open(&format!("c{id}"), 1, options("client", id))).collect::<Result<_>>()?;
    for id in 0..3 {
        servers[id].wait(true)?;
        clients[id].wait(true)?;
        let frames = [frame(id, 60 + id)];
        check(clients[id].send(0, &frames) == 1, || "refused".into())?;
        servers[id].expect(&frames)?;
    }
    // One leaves; the others stay connected, and the socket stays.
    servers.remove(0).close();
    clients[0].wait(false)?;
    let told = || clients[0].trouble() == "the peer disconnected: there is no interface with id 0";
    check(wait_for(told), || clients[0].driver().status().to_string())?;
    check(servers.iter().all(Port::is_up) && path.exists(), || "the others went, too".into())?;
    drop(servers);
    check(!path.exists(), || "the socket's file stays behind".into())?;
    drop(clients);
    nothing_leaks()
}

pub fn the_socket_of_a_dead_server_is_replaced_and_nothing_else(_lab: Lab) -> Result<()> {
    use std::os::unix::net::UnixListener;
    let dir = TempDir::new("memif")?;
    let path = dir.path().join("m.sock");
    let options = |role: &str| json!({"socket": path.to_str(), "role": role});
    let failed = |e: std::io::Error| LabError::Failed(e.to_string());
    // A dead one's.
    let name = SocketName::new(path.to_str().expect("UTF-8")).expect("a good name");
    drop(smpnet_memif::channel::Listening::bind(&name).map_err(failed)?);
    check(path.exists(), || "a socket that is dropped leaves its file".into())?;
    let s = Port::open("s0", 1, options("server"))?;
    let c = Port::open("c0", 1, options("client"))?;
    c.wait(true)?;
    drop(c);
    // Another program's in its place: not removed at close.
    std::fs::remove_file(&path).map_err(failed)?;
    let other = UnixListener::bind(&path).map_err(failed)?;
    s.close();
    check(path.exists(), || "another program's socket was removed".into())?;
    // A live one's, though of another kind (the kernel says so by EPROTOTYPE).
    let why = Port::try_open("s0", 1, options("server")).err().unwrap_or_default();
    check(why.contains("another program listens on this socket"), || why)?;
    drop(other);
    std::fs::remove_file(&path).map_err(failed)?;
    let live = smpnet_memif::channel::Listening::bind(&name).map_err(failed)?;
    let why = Port::try_open("s0", 1, options("server")).err().unwrap_or_default();
    check(why.contains("another program listens on this socket"), || why)?;
    drop(live);
    // No socket at all.
    std::fs::remove_file(&path).map_err(failed)?;
    std::fs::write(&path, "precious").map_err(failed)?;
    let why = Port::try_open("s0", 1, options("server")).err().unwrap_or_default();
    check(why.contains("a file of this name that is no socket"), || why)?;
    check(std::fs::read_to_string(&path).map_err(failed)? == "precious", || "the file was touched".into())?;
    // No such folder.
    let gone = json!({"socket": dir.path().join("no/m.sock").to_str(), "role": "server"});
    let why = Port::try_open("s0", 1, gone).err().unwrap_or_default();
    check(why.contains("listening on") && why.contains("No such file"), || why)?;
    // An abstract name that is taken.
    let _taken = Port::open("s0", 1, json!({"socket": "@taken", "role": "server"}))?;
    let name = SocketName::new("@taken").expect("a good name");
    check(smpnet_memif::channel::Listening::bind(&name).is_err(), || "bound twice".into())
}

pub fn frames_wait_in_the_ring_while_no_cell_is_free(_lab: Lab) -> Result<()> {
    for zero_copy in [false, true] {
        let (mut s, mut c) = pair(json!({}), json!({"zero_copy": zero_copy, "ring_size": 256}), (1, 1))?;
        let frames: Vec<_> = (0..256).map(|n| frame(n, 60)).collect();
        check(c.send(0, &frames) == 256, || "refused".into())?;
        let mut hoard: Vec<Packet> = std::iter::from_fn(|| testing::host().alloc()).collect();
        check(s.poll().is_empty() && s.counter("rx_no_cell") > 0, || format!("{:?}", s.counters()))?;
        hoard.truncate(hoard.len() - 300);
        s.expect(&frames)?;
        check(s.driver().stats().rx_missed == 0, || format!("{:?}", s.driver().stats()))?;
        if zero_copy {
            // The client cannot lend cells, and the server has nowhere to write to, until there are some again.
            check(s.send(0, &frames) > 0, || "refused".into())?;
            hoard.extend(std::iter::from_fn(|| testing::host().alloc()));
            let held: Vec<_> = c.receive(256);
            // One cell, for the packet that the server offers in vain.
            hoard.pop();
            check(c.counter("rx_no_cell") > 0 && s.send(0, &frames[..1]) == 0, || format!("{:?}", c.counters()))?;
            check(c.sleep(0), || "a port that lends nothing must not sleep: nobody could wake it".into())?;
            drop((held, std::mem::take(&mut hoard)));
            c.poll();
            check(c.counter("rx_ring_empty") > 0, || format!("{:?}", c.counters()))?;
            check(s.send(0, &frames) == 256, || format!("{:?}", s.counters()))?;
            c.expect(&frames)?;
        }
        drop(hoard);
        ends(s, c)?;
    }
    Ok(())
}

pub fn ports_come_and_go_without_a_trace_in_the_process(_lab: Lab) -> Result<()> {
    let count = || -> Result<(usize, usize, usize)> {
        let entries = |path: &str| std::fs::read_dir(path).map(Iterator::count);
        let failed = |e: std::io::Error| LabError::Failed(e.to_string());
        let maps = std::fs::read_to_string("/proc/self/maps").map_err(failed)?;
        let mapped = maps.lines().filter(|l| l.contains("smpnet-memif")).count();
        Ok((entries("/proc/self/fd").map_err(failed)?, entries("/proc/self/task").map_err(failed)?, mapped))
    };
    let round = || -> Result<()> {
        for zero_copy in [false, true] {
            let (mut s, mut c) = pair(json!({}), json!({"zero_copy": zero_copy}), (2, 2))?;
            let frames = [frame(1, 60)];
            check(c.send(1, &frames) == 1, || "refused".into())?;
            s.expect(&frames)?;
            // Left in the rings, with cells lent.
            check(c.send(0, &frames) == 1 && s.send(0, &frames) == 1, || "refused".into())?;
            ends(s, c)?;
        }
        Ok(())
    };
    round()?;
    let before = count()?;
    for _ in 0..5 {
        round()?;
    }
    let after = count()?;
    check(after == before && before.2 == 0, || format!("descriptors, threads, mappings: {before:?}, then {after:?}"))
}
