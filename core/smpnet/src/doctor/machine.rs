//! Kernel, memory, devices and rights.

use super::{Finding, sys};
use std::{fs, io, path::Path};

const CAPABILITIES: [(u32, &str, &str); 4] = [
    (12, "CAP_NET_ADMIN", "af_packet, af_xdp and tap ports"),
    (13, "CAP_NET_RAW", "af_packet and af_xdp ports"),
    (14, "CAP_IPC_LOCK", "locked packet memory, af_xdp ports"),
    (39, "CAP_BPF", "keeping the host's stack off a port, af_xdp ports"),
];

pub fn examine() -> Vec<Finding> {
    vec![
        kernel(),
        capabilities(),
        packet_socket(),
        tun(),
        bpf(),
        executable_memory(),
        huge_pages(),
        memlock(),
        memory(),
        cpus(),
        governor(),
        iommu(),
        user_namespaces(),
        libpcap(),
        hypervisor(),
    ]
}

fn read(path: impl AsRef<Path>) -> Option<String> {
    Some(fs::read_to_string(path).ok()?.trim().to_owned())
}

fn kernel() -> Finding {
    let release = read("/proc/sys/kernel/osrelease").unwrap_or_default();
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(|n| n.parse::<u32>().unwrap_or(0));
    let version = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    match version {
        (0, _) => Finding::warn("kernel", "no release in /proc/sys/kernel/osrelease", "mount /proc"),
        v if v < (4, 14) => Finding::fail(
            "kernel",
            format!("Linux {release}"),
            "smpnet needs Linux 4.14 (sealed memfd with huge pages)",
        ),
        v if v < (5, 10) => {
            Finding::warn("kernel", format!("Linux {release}"), "Linux 5.10 or newer is what smpnet is tested with")
        }
        _ => Finding::ok("kernel", format!("Linux {release}")),
    }
}

fn capabilities() -> Finding {
    let status = read("/proc/self/status").unwrap_or_default();
    let field = status.lines().find_map(|l| l.strip_prefix("CapEff:"));
    let Some(set) = field.and_then(|f| u64::from_str_radix(f.trim(), 16).ok()) else {
        return Finding::warn("capabilities", "no CapEff in /proc/self/status", "mount /proc");
    };
    let missing: Vec<_> = CAPABILITIES.iter().filter(|(bit, ..)| set & (1 << bit) == 0).collect();
    if missing.is_empty() {
        return Finding::ok("capabilities", "all that smpnet can use");
    }
    let list: Vec<String> = missing.iter().map(|(_, name, what)| format!("{name} ({what})")).collect();
    let names: Vec<String> = missing.iter().map(|(_, name, _)| name.to_lowercase()).collect();
    Finding::warn(
        "capabilities",
        format!("without {}", list.join(", ")),
        format!("run as root, or `setcap {}+ep` on the program; pcap and null ports need none", names.join(",")),
    )
}

fn packet_socket() -> Finding {
    match sys::packet_socket() {
        Ok(()) => Finding::ok("af_packet", "packet sockets can be opened"),
        Err(e) if e.raw_os_error() == Some(libc::EAFNOSUPPORT) => {
            Finding::warn("af_packet", e.to_string(), "the kernel lacks CONFIG_PACKET: af_packet ports cannot be used")
        }
        Err(e) => Finding::warn(
            "af_packet",
            e.to_string(),
            "af_packet ports need CAP_NET_RAW: run as root, or in a user namespace",
        ),
    }
}

fn tun() -> Finding {
    match fs::File::options().read(true).write(true).open("/dev/net/tun") {
        Ok(_) => Finding::ok("tun", "/dev/net/tun can be opened"),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Finding::warn(
            "tun",
            "/dev/net/tun is not there",
            "`modprobe tun`, or in a container pass --device /dev/net/tun: tap ports need it",
        ),
        Err(e) => Finding::warn("tun", format!("/dev/net/tun: {e}"), "run as root: tap ports need it"),
    }
}

fn bpf() -> Finding {
    match sys::bpf_map() {
        Ok(()) => Finding::ok("bpf", "bpf() is allowed"),
        Err(e) => Finding::warn(
            "bpf",
            format!("bpf(): {e}"),
            "the host's stack is kept off af_packet ports by other means; CAP_BPF (or root) lets smpnet do it by a filter",
        ),
    }
}

fn executable_memory() -> Finding {
    match sys::executable_memory() {
        Ok(()) => Finding::ok("code", "compiled filters can be made executable"),
        Err(e) => Finding::fail(
            "code",
            format!("mprotect(PROT_EXEC): {e}"),
            "filters cannot be compiled: take MemoryDenyWriteExecute= out of the systemd unit, or allow execmem in SELinux",
        ),
    }
}

fn meminfo(key: &str) -> Option<u64> {
    let text = read("/proc/meminfo")?;
    let line = text.lines().find_map(|l| l.strip_prefix(key)?.strip_prefix(':'))?;
    line.split_whitespace().next()?.parse().ok()
}

fn huge_pages() -> Finding {
    let (total, free) = (meminfo("HugePages_Total").unwrap_or(0), meminfo("HugePages_Free").unwrap_or(0));
    let kib = meminfo("Hugepagesize").unwrap_or(2048);
    let wanted = (128 << 10) / kib.max(1);
    if free * kib >= 128 << 10 {
        return Finding::ok("huge pages", format!("{free} of {total} free, {kib} KiB each"));
    }
    Finding::warn(
        "huge pages",
        format!("{free} of {total} free, {kib} KiB each"),
        format!("the packet pool uses ordinary pages, which is slower; `sysctl -w vm.nr_hugepages={}`", total + wanted),
    )
}

fn memlock() -> Finding {
    match sys::memlock() {
        Ok(None) => Finding::ok("memlock", "no limit"),
        Ok(Some(bytes)) if bytes >= 256 << 20 => Finding::ok("memlock", format!("{} MiB", bytes >> 20)),
        Ok(Some(bytes)) => Finding::warn(
            "memlock",
            format!("{} KiB", bytes >> 10),
            "device drivers and AF_XDP lock the packet pool: `ulimit -l unlimited`, or LimitMEMLOCK=infinity in the systemd unit",
        ),
        Err(e) => Finding::warn("memlock", e.to_string(), "getrlimit failed"),
    }
}

fn memory() -> Finding {
    let available = meminfo("MemAvailable").unwrap_or(0) >> 10;
    match available {
        0..256 => Finding::warn(
            "memory",
            format!("{available} MiB available"),
            "the default packet pool takes 128 MiB; [pool] cells makes it smaller",
        ),
        _ => Finding::ok("memory", format!("{available} MiB available")),
    }
}

fn cpus() -> Finding {
    let n = std::thread::available_parallelism().map_or(1, usize::from);
    let isolated = read("/sys/devices/system/cpu/isolated").unwrap_or_default();
    match (n, isolated.as_str()) {
        (1, _) => Finding::warn("cpus", "1 CPU", "worker and control threads share it; two or more are better"),
        (n, "") => Finding::ok(
            "cpus",
            format!("{n} CPUs, none isolated (isolcpus= and [runtime] cpus give workers CPUs of their own)"),
        ),
        (n, list) => Finding::ok("cpus", format!("{n} CPUs, isolated: {list}")),
    }
}

fn governor() -> Finding {
    match read("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor").as_deref() {
        None => Finding::ok("governor", "no frequency scaling is visible"),
        Some("performance") => Finding::ok("governor", "performance"),
        Some(other) => Finding::warn(
            "governor",
            other,
            "`echo performance | tee /sys/devices/system/cpu/cpu*/cpufreq/scaling_governor` for steady latency",
        ),
    }
}

fn iommu() -> Finding {
    let groups = fs::read_dir("/sys/kernel/iommu_groups").map_or(0, |d| d.count());
    let vfio = Path::new("/dev/vfio/vfio").exists();
    match (groups, vfio) {
        (0, false) => Finding::ok("iommu", "no IOMMU and no VFIO: only drivers for PCI devices would need them"),
        (0, true) => Finding::warn(
            "iommu",
            "VFIO without an IOMMU",
            "PCI drivers run without protection; boot with intel_iommu=on or amd_iommu=on",
        ),
        (n, false) => {
            Finding::warn("iommu", format!("{n} groups, no /dev/vfio/vfio"), "`modprobe vfio-pci` for PCI drivers")
        }
        (n, true) => Finding::ok("iommu", format!("{n} groups and VFIO")),
    }
}

fn user_namespaces() -> Finding {
    let limit = read("/proc/sys/user/max_user_namespaces");
    let clone = read("/proc/sys/kernel/unprivileged_userns_clone");
    let apparmor = read("/proc/sys/kernel/apparmor_restrict_unprivileged_userns");
    if limit.as_deref() == Some("0") || limit.is_none() {
        return Finding::warn(
            "user namespaces",
            "not available",
            "the demo and the tests then need root; `sysctl -w user.max_user_namespaces=15000`",
        );
    }
    if clone.as_deref() == Some("0") {
        return Finding::warn(
            "user namespaces",
            "only for root",
            "the demo and the tests then need root; `sysctl -w kernel.unprivileged_userns_clone=1`",
        );
    }
    if apparmor.as_deref() == Some("1") {
        return Finding::warn(
            "user namespaces",
            "restricted by AppArmor",
            "`sysctl -w kernel.apparmor_restrict_unprivileged_userns=0`, or run the demo as root",
        );
    }
    Finding::ok("user namespaces", "available: laboratories need no root")
}

fn libpcap() -> Finding {
    match smpnet_bpf::pcap::Libpcap::load() {
        Ok(pcap) => Finding::ok("libpcap", format!("{} ({})", pcap.version(), pcap.library_name())),
        Err(e) => Finding::warn(
            "libpcap",
            e.to_string(),
            "install libpcap0.8 (Debian, Ubuntu) or libpcap; without it filters know the common part of the language",
        ),
    }
}

fn hypervisor() -> Finding {
    let flags = read("/proc/cpuinfo").unwrap_or_default();
    let virtual_machine =
        flags.lines().find(|l| l.starts_with("flags")).is_some_and(|l| l.split(' ').any(|f| f == "hypervisor"));
    if virtual_machine {
        Finding::ok("hypervisor", "a virtual machine: timings vary more than on metal")
    } else {
        Finding::ok("hypervisor", "none")
    }
}
