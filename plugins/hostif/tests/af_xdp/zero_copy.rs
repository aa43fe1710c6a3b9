//! Zero copy: a network card that reads and writes the packet pool itself, as virtio-net does since Linux 6.13. Its driver
//! is that of a guest; the card is QEMU's, and the cable ends at Linux on this machine.

use super::*;
use smpnet_lab::Guest;
use std::io::Write;

/// The argument that makes this program send back what a device receives.
pub(crate) const REFLECT: &str = "--reflect-frames-of";
/// Frames to be sent back.
const FRAMES: usize = 2000;
/// Number of the frame that ends it.
const LAST: usize = u32::MAX as usize;
/// Every instruction of the guest is emulated.
const PATIENCE: Duration = Duration::from_secs(60);

/// Bytes of frame `n`, of every length that one takes.
fn length(n: usize) -> usize {
    60 + n % 1455
}

/// The frame with its addresses exchanged.
fn answer(mut frame: Vec<u8>) -> Vec<u8> {
    let (to, from) = frame.split_at_mut(6);
    to.swap_with_slice(&mut from[..6]);
    frame
}

/// The number in a frame of [`frame`]'s.
fn number(bytes: &[u8]) -> Option<usize> {
    let number = bytes.get(14..18).filter(|_| bytes[12..14] == [0x88, 0xb5])?;
    Some(u32::from_be_bytes(number.try_into().ok()?) as usize)
}

/// Sends the frames of [`frame`]'s that `device` receives back until the last one, and says how it went.
pub(crate) fn reflect(device: &str) {
    const LEN: usize = 10 << 20;
    let access = libc::PROT_READ | libc::PROT_WRITE;
    let flags = libc::MAP_SHARED | libc::MAP_ANONYMOUS | libc::MAP_POPULATE | libc::MAP_HUGETLB;
    // SAFETY: a new mapping at an address of the kernel's choice disturbs nothing.
    let base = unsafe { libc::mmap(std::ptr::null_mut(), LEN, access, flags, -1, 0) };
    assert_ne!(base, libc::MAP_FAILED, "there are no huge pages");
    // SAFETY: the mapping is that long, nobody else knows of it, and it stays.
    let memory = unsafe { std::slice::from_raw_parts_mut(base.cast::<u8>(), LEN) };
    assert!(testing::pool_in(memory, 2 << 20), "the pool is there already");

    let mut port = open::<AfXdp>(device, 1, json!({"zero_copy": true})).expect("the port");
    println!("opened {}", port.port.status());
    std::io::stdout().flush().ok();
    let (mut sent, mut last, end) = (0, false, Instant::now() + PATIENCE);
    while !last && Instant::now() < end {
        let mut back = Vec::new();
        for (_, mut packet) in receive(&mut port, 32, SECOND / 20) {
            let n = number(packet.data());
            last |= n == Some(LAST);
            if n.is_some_and(|n| n < FRAMES) && back.len() < 64 {
                let turned = answer(packet.data()[..12].to_vec());
                packet.data_mut()[..12].copy_from_slice(&turned);
                back.push(packet);
            }
        }
        sent += send(&mut port, back);
    }
    let stats = port.port.stats();
    println!(
        "stats {}",
        json!({"sent": sent, "received": stats.rx_packets, "errors": stats.tx_errors + stats.rx_errors})
    );
    close(port);
    println!("outstanding {}", testing::outstanding());
}

pub(crate) fn a_card_writes_and_reads_the_pool_itself(lab: Lab) -> Result<()> {
    let host = Host::new(lab, "H")?;
    let program = std::env::current_exe().map_err(|e| LabError::Failed(e.to_string()))?;
    let name = program.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let mut peer = Guest::new()
        .program(program)
        .xdp_nic(&host, "wire", MAC_R)
        .memory_mib(512)
        .kernel_arguments("hugepages=16")
        .patience(2 * PATIENCE)
        .boot()?;
    let release = peer.ok("uname -r")?.concat();
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map_while(|n| n.parse::<u32>().ok());
    if (numbers.next(), numbers.next()) < (Some(6), Some(13)) {
        return Err(skip(format!(
            "virtio-net has no zero copy before Linux 6.13, and the guest's kernel is {release}"
        )));
    }
    // A process that is killed while the card writes its memory; the next one has the card all the same.
    let reflector = format!("{name} {REFLECT} eth0");
    peer.ok(&format!(
        "ifconfig eth0 up; {reflector} >/tmp/first 2>&1 & until grep -q opened /tmp/first; do sleep 0.1; done; kill -9 $!"
    ))?;
    let wire = Capture::open(&host, "wire")?;
    // The port may not be there yet when the first frames are sent, so what has not come back is sent again.
    let feeder = host.ns().spawn(move || -> Result<(HashSet<usize>, usize)> {
        let (mut back, mut differ, end) = (HashSet::new(), 0, Instant::now() + PATIENCE);
        while back.len() < FRAMES && Instant::now() < end {
            for n in (0..FRAMES).filter(|n| !back.contains(n)).take(32).collect::<Vec<_>>() {
                wire.send(&frame(n, length(n)))?;
            }
            while let Some(f) = wire.next(SECOND / 20)? {
                match number(&f.bytes).filter(|_| !f.outgoing) {
                    Some(n) if f.bytes == answer(frame(n, length(n))) => drop(back.insert(n)),
                    Some(_) => differ += 1,
                    None => {}
                }
            }
        }
        for _ in 0..10 {
            wire.send(&frame(LAST, 60))?;
            std::thread::sleep(SECOND / 10);
        }
        Ok((back, differ))
    })?;
    let lines = peer.ok(&reflector)?;
    let said = |word: &str| lines.iter().find_map(|l| l.strip_prefix(word)).unwrap_or_default().trim().to_owned();
    let (back, differ) = feeder.join().unwrap_or_else(|p| std::panic::resume_unwind(p))?;
    let all = lines.join("\n");
    let opened: Value = serde_json::from_str(&said("opened")).unwrap_or_default();
    check(opened["zero_copy"] == true && opened["queues"][0]["zero_copy"] == true, || all.clone())?;
    check(back.len() == FRAMES && differ == 0, || format!("{} came back, {differ} changed\n{all}", back.len()))?;
    let stats: Value = serde_json::from_str(&said("stats")).unwrap_or_default();
    check(stats["errors"] == 0, || all.clone())?;
    check(said("outstanding") == "0", || format!("cells stayed with the kernel\n{all}"))?;
    println!("{release}: {stats}");
    Ok(())
}
