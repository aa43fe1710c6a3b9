//! `cargo xtask demo --keep`: the laboratory goes on, and its visitor is told how to look around.

use smpnet_lab::{Host, Privilege, binary};

use crate::scene::Scene;

/// Says how to look around, and waits for Ctrl-C.
pub fn wait(scene: &Scene, privilege: Privilege) {
    let pid = std::process::id();
    let user = match privilege {
        Privilege::Root => String::new(),
        Privilege::UserNamespace => format!("--user=/proc/{pid}/ns/user --preserve-credentials "),
    };
    let enter = |h: &Host| format!("nsenter {user}--net=/proc/{pid}/fd/{}", h.ns().raw_fd());
    let smpnet = binary("smpnet").map_or_else(|_| "smpnet".into(), |p| p.display().to_string());
    eprintln!(
        "
The laboratory goes on until Ctrl-C. In another terminal:

  export SMPNET_SOCKET={socket}
  {smpnet} ifconfig
  {smpnet} netstat -s
  {smpnet} filter list
  {smpnet} filter swap {filter} --drop 'icmp'        # and the ping below stops
  {smpnet} filter rollback {filter}

  {a} ping 10.0.2.2                      # from host A
  {b} tcpdump -ni eth0                   # on host B
  {r} {smpnet} doctor                    # where smpnet runs
",
        socket = scene.daemon.socket().display(),
        filter = crate::scene::FILTER,
        a = enter(&scene.net.a),
        b = enter(&scene.net.b),
        r = enter(&scene.net.r),
    );
    loop {
        std::thread::park();
    }
}
