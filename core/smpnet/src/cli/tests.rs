//! The command line as a whole: what it takes, and that its help has an example for every command.

use super::*;
use clap::CommandFactory;

#[test]
fn every_command_has_help_with_an_example() {
    let mut root = Args::command();
    root.build();
    root.clone().debug_assert();
    for command in root.get_subcommands_mut() {
        if command.get_name() == "help" {
            continue;
        }
        let name = command.get_name().to_owned();
        let help = command.render_long_help().to_string();
        assert!(help.contains(&format!("smpnet {name}")), "{name} has no example:\n{help}");
        assert!(help.contains("--json"), "{name} lacks --json");
        assert!(command.get_about().is_some(), "{name} does not say what it is");
    }
}

#[test]
fn the_help_lists_the_commands_and_the_exit_codes() {
    let help = Args::command().render_help().to_string();
    for word in [
        "run",
        "check",
        "apply",
        "ifconfig",
        "route",
        "arp",
        "netstat",
        "sysctl",
        "plugin",
        "filter",
        "bpf",
        "extcap",
        "explain",
        "doctor",
        "events",
        "stats",
        "sdk",
        "Exit codes:",
    ] {
        assert!(help.contains(word), "{word} is not in:\n{help}");
    }
}

fn parses(line: &str) -> bool {
    Args::try_parse_from(line.split_whitespace()).is_ok()
}

#[test]
fn what_operators_type_is_understood() {
    for line in [
        "smpnet run r.toml",
        "smpnet run r.toml --once",
        "smpnet sdk new filter no-telnet --lang c --dir x",
        "smpnet sdk new plugin mine --sdk ../sdk",
        "smpnet --json ifconfig -v lan0",
        "smpnet ifconfig lan0 10.0.1.1/24 up --json",
        "smpnet ifconfig lan0 -alias",
        "smpnet route -f routes.txt",
        "smpnet route add --file -",
        "smpnet route add -net 10.0.0.0/8 127.0.0.1 -reject",
        "smpnet arp -s 10.0.0.1 02:00:00:00:00:01 pub",
        "smpnet arp -s 10.0.0.1 auto pub",
        "smpnet arp -d -a",
        "smpnet netstat -s -p ip",
        "smpnet netstat -s -s",
        "smpnet netstat -ss",
        "smpnet sysctl -w net.inet.ip.ttl=3",
        "smpnet bpf capture -i lan0 -w - -c 5 -s 96 --dir in --ring 3:1M udp port 53",
        "smpnet bpf capture -i any --drops",
        "smpnet bpf setf 3 udp port 53",
        "smpnet bpf inject -l 3 --packet 00",
        "smpnet bpf inject -i lan0 --in --pcap x.pcap",
        "smpnet extcap --extcap-interfaces --extcap-version=4.0",
        "smpnet extcap --capture --extcap-interface smpnet_lan0 --fifo /tmp/x --extcap-capture-filter udp --drops",
        "smpnet filter load f --drop udp --attach ether --direction both --priority -3 --on-fault drop",
        "smpnet filter load f --program f.ddd --action pass",
        "smpnet filter swap f --pass tcp",
        "smpnet filter load f --module f.wasm --config x --allow tables,edit --table a=b --on-fault detach --faults 3/10",
        "smpnet filter load f --module f.wasm --config-file c --memory 16 --budget 500 --limit init_us=9",
        "smpnet filter load --shadow f --module f.wasm",
        "smpnet filter swap f --module f.wasm",
        "smpnet filter diff f -w d.pcapng --json",
        "smpnet filter promote f",
        "smpnet filter drop-shadow f",
        "smpnet filter table create t exact -f t.txt --most 100",
        "smpnet filter table add t a b=1",
        "smpnet filter table delete t -f t.txt",
        "smpnet filter table replace t -f -",
        "smpnet filter check f.wasm",
        "smpnet filter test f.wasm --pcap f.pcap --expect e --table t=t.txt -w o.pcap",
        "smpnet filter bench f.wasm --pcap f.pcap --json",
        "smpnet bpf compile tcp port 80 --dlt EN10MB -ddd",
        "smpnet bpf compile icmp --wasm f.wasm",
        "smpnet bpf eval --expr tcp --packet 0800 --wirelen 60 --dlt EN10MB --engine wasm",
        "smpnet bpf eval --program f.ddd --pcap f.pcap --engine interp --json",
        "smpnet bpf eval --vectors f.jsonl --engine both",
        "smpnet explain --in lan0 --packet 0800",
        "smpnet --socket /tmp/s doctor --json",
    ] {
        assert!(parses(line), "{line}");
    }
}

#[test]
fn options_of_every_command_may_stand_behind_the_words_of_ifconfig_and_route() {
    let hoisted = |line: &str| {
        let args = hoist(line.split_whitespace().map(OsString::from).collect());
        args.into_iter().map(|a| a.into_string().unwrap()).collect::<Vec<_>>().join(" ")
    };
    assert_eq!(
        hoisted("smpnet --log warn route add default 10.0.0.1 --json --socket /s"),
        "smpnet --log warn route --json --socket /s add default 10.0.0.1"
    );
    assert_eq!(hoisted("smpnet ifconfig lan0 up --socket=/s -v"), "smpnet ifconfig --socket=/s lan0 up -v");
    assert_eq!(hoisted("smpnet route add --help"), "smpnet route --help add");
    assert_eq!(hoisted("smpnet filter list --json"), "smpnet filter list --json");
    assert_eq!(hoisted("smpnet --json"), "smpnet --json");
}

#[test]
fn what_contradicts_itself_is_refused() {
    for line in [
        "smpnet",
        "smpnet filter load f",
        "smpnet filter load f --drop udp --pass tcp",
        "smpnet filter load f --drop udp --action pass",
        "smpnet filter load f --drop udp --attach ip6",
        "smpnet filter load --module f.wasm",
        "smpnet filter load f --shadow g --module f.wasm",
        "smpnet filter load f --module f.wasm --drop udp",
        "smpnet filter load f --module f.wasm --faults 3",
        "smpnet filter load f --module f.wasm --table t",
        "smpnet filter load f --module f.wasm --config a --config-file b",
        "smpnet filter table add t",
        "smpnet filter test f.wasm",
        "smpnet netstat -i -r",
        "smpnet bpf compile icmp --wasm f.wasm -d",
        "smpnet bpf compile icmp --dlt PPP",
        "smpnet bpf eval --expr tcp",
        "smpnet bpf eval --expr tcp --program f.ddd --packet 00",
        "smpnet bpf eval --expr tcp --packet 00 --pcap f.pcap",
        "smpnet bpf eval --expr tcp --pcap f.pcap --wirelen 60",
    ] {
        assert!(!parses(line), "{line}");
    }
}
