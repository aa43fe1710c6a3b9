//! The packet pool in huge pages: forwarding, filters that map it, and giving it back.

use std::process::ExitCode;
use std::time::Duration;

use smpnet_e2e::{Rig, reaches};
use smpnet_lab::{
    Amount, Daemon, HugePages, Lab, Result, TwoHosts, UdpReceiver, UdpSender, check, free_huge_pages, run_tests, tests,
    transfer,
};

/// 16,384 cells of 2,112 bytes in pages of 2 MiB.
const POOL: &str = "[pool]\ncells = 16384\nhuge_pages = \"require\"\n\n";
const POOL_PAGES: u64 = 17;

fn main() -> ExitCode {
    run_tests(&tests![
        ;
        alone:
        a_pool_of_huge_pages_forwards_and_filters_and_is_given_back,
        a_pool_that_requires_huge_pages_is_refused_without_them,
    ])
}

fn a_pool_of_huge_pages_forwards_and_filters_and_is_given_back(lab: Lab) -> Result<()> {
    let _pages = HugePages::reserve(POOL_PAGES + 4)?;
    let before = free_huge_pages()?;
    let net = TwoHosts::new(lab)?;
    let config = format!("{POOL}{}", net.ports(""));
    let mut rig = Rig::with(net, &config)?;
    let taken = before - free_huge_pages()?;
    check(taken == POOL_PAGES, || format!("the pool took {taken} huge pages"))?;

    reaches(&rig.net.a, TwoHosts::B)?;
    let report = transfer(&rig.net.a, &rig.net.b, TwoHosts::B, 5001, Amount::Bytes(16 << 20))?;
    check(report.clean(), || format!("{report:?}"))?;
    // A filter maps the pool into its own memory and reads packets there.
    let through = |rig: &Rig, port: u16| -> Result<u64> {
        let receiver = UdpReceiver::start(&rig.net.b, TwoHosts::B, port, 1)?;
        UdpSender::new(TwoHosts::B, port).rate(10_000.0).send(&rig.net.a, 1000)?;
        receiver.wait_for(1000, Duration::from_millis(300));
        Ok(receiver.finish()?.total().received)
    };
    rig.router.ok(&["filter", "load", "block", "--drop", "udp dst port 5000"])?;
    for generation in 0..20 {
        let (closed, open) = if generation % 2 == 0 { (5000, 5002) } else { (5002, 5000) };
        let came = (through(&rig, closed)?, through(&rig, open)?);
        check(came == (0, 1000), || format!("generation {generation}: {came:?} of 1,000 came"))?;
        rig.router.ok(&["filter", "swap", "block", "--drop", &format!("udp dst port {open}")])?;
    }
    check(before - free_huge_pages()? == POOL_PAGES, || "filters took huge pages of their own".into())?;
    rig.balanced()?;
    let end = rig.router.stop()?;
    check(end.success(), || format!("{end}:\n{}", rig.router.log_tail(20)))?;
    check(free_huge_pages()? == before, || {
        format!("{} of {before} huge pages came back", free_huge_pages().unwrap_or(0))
    })
}

fn a_pool_that_requires_huge_pages_is_refused_without_them(lab: Lab) -> Result<()> {
    let net = TwoHosts::new(lab)?;
    // Two pages more than there are.
    let cells = (free_huge_pages()? + 2) * (2 << 20) / 2112;
    let config = format!("{}{}", POOL.replace("16384", &cells.to_string()), net.ports(""));
    let mut router = Daemon::spawn(&net.r, &config)?;
    let end = router.wait(Duration::from_secs(10))?;
    let log = router.log_tail(20);
    check(end.code() == Some(1) && log.contains("huge-page memory") && log.contains("nr_hugepages"), || {
        format!("{end}:\n{log}")
    })
}
