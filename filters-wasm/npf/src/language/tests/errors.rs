//! What is said when something is wrong.

use super::*;

#[test]
fn all_errors_of_a_file_are_shown_in_order_with_their_lines() {
    let text = "set gc.stepp 1\n\
                $x = { 80, 8O }\n\
                tabel <t> type ipset\n\
                group \"a\" on eth0 {\n\
                \tpass in to any port $x\n\
                \tpass from 10.0.0.300 to any\n\
                \tblok all\n\
                \tpass all\n\
                }\n\
                group \"b\" inn {\n\
                \tpass proto { tcp udp } all\n\
                }\n\
                set ip4.reassembly 2\n";
    let expected = "\
npf.conf:1:5: error: there is no parameter \"gc.stepp\"
  set gc.stepp 1
      ^~~~~~~~
  hint: did you mean \"gc.step\"?
npf.conf:3:1: error: expected a statement (set, alg, table, map, procedure, group, include, or $name = value), but \"tabel\" is here
  tabel <t> type ipset
  ^~~~~
  hint: did you mean \"table\"?
npf.conf:5:22: error: \"8O\" is no port
  \tpass in to any port $x
  \t                    ^~
  hint: a port is a number up to 65535, a name such as https, or a range such as 80-90; it is set in npf.conf:2:12
npf.conf:6:12: error: \"10.0.0.300\" is no address
  \tpass from 10.0.0.300 to any
  \t          ^~~~~~~~~~
  hint: for the addresses of an interface write ifaddrs(10.0.0.300)
npf.conf:7:2: error: expected a rule (pass or block), a group, a ruleset, an include, or \"}\", but \"blok\" is here
  \tblok all
  \t^~~~
  hint: did you mean \"block\"?
npf.conf:10:11: error: expected \"{\", but \"inn\" is here
  group \"b\" inn {
            ^~~
  hint: did you mean \"in\"?
npf.conf:11:19: error: expected \",\" or \"}\", but \"udp\" is here
  \tpass proto { tcp udp } all
  \t                 ^~~
npf.conf:13:20: error: \"2\" is no value of ip4.reassembly
  set ip4.reassembly 2
                     ^
  hint: ip4.reassembly is on or off
npf.conf:14:1: error: there is no default group
  hint: every configuration needs one, for instance: group default { block all }";
    assert_eq!(wrong_with(text, &NoFiles).to_string(), expected);
}

/// Line, column, and a part of the message.
type At = (u32, u32, &'static str);

/// Texts that are wrong, and where and why.
const WRONG: &[(&str, &[At])] = &[
    ("group default { pass all", &[(1, 15, "this brace is not closed")]),
    ("group default { pass all }\n}", &[(2, 1, "expected a statement")]),
    ("group default { pass all } group default { }", &[(1, 28, "there is a default group already")]),
    ("group default in { pass all }", &[(1, 1, "the default group is for all packets")]),
    (
        "group \"a\" { group default { } }\ngroup default { }",
        &[(1, 13, "the default group stands within another group")],
    ),
    ("pass all\ngroup default { }", &[(1, 1, "stands outside of a group")]),
    ("alg \"ftp\"\nalg icmp\nalg \"icmp\"\ngroup default { }", &[(1, 5, "there is no gateway"), (3, 5, "already")]),
    ("$a = 1\n$a = 2\ngroup default { }", &[(2, 1, "$a is set already")]),
    ("$a = { $b }\n$b = 1\ngroup default { pass to any port $a }", &[(1, 8, "$b is not set")]),
    ("$a = { 1, 2 }\nset gc.step $a\ngroup default { }", &[(2, 13, "this is a list")]),
    ("$a = ifaddrs($a)\ngroup default { pass from $a }", &[(1, 14, "this is no name of an interface")]),
    ("table <t> type ipset\ntable <t> type lpm\ngroup default { }", &[(2, 7, "there is a table <t> already")]),
    ("table <t> type hsh\ngroup default { }", &[(1, 16, "is no type of a table")]),
    ("table t type ipset\ngroup default { }", &[(1, 7, "expected the name of a table")]),
    ("set portmap.min_port 5000\nset portmap.max_port 4000\ngroup default { }", &[(2, 5, "is above")]),
    ("set gc.step 99999999999999999999999\ngroup default { }", &[(1, 13, "is no value")]),
    (
        "procedure \"p\" {\n lgo: x\n normalize: \"min-tll\" 3\n rndblock: \"mod\" 0\n ratelimit: \"bitrate\" 1x\n}\ngroup default { }",
        &[
            (2, 2, "there is no extension \"lgo\""),
            (3, 13, "normalize has no option"),
            (4, 18, "is no number"),
            (5, 23, "is no number"),
        ],
    ),
    ("procedure \"p\" {\n log: a\nset gc.step 1\ngroup default { }", &[(1, 15, "this brace is not closed")]),
    ("group \"a {\n pass all\n}\ngroup default { }", &[(1, 7, "the quotation mark is not closed")]),
    (
        "group \"a\" {\n ruleset \"map:x\"\n ruleset \"r\"; ruleset \"r\"\n}\nmap ruleset \"y\"\ngroup default { }",
        &[
            (2, 10, "only the name of a ruleset of maps"),
            (3, 23, "there is a ruleset \"r\" already"),
            (5, 13, "must begin with"),
        ],
    ),
    (
        "group \"a\" layer-2 { pass all; pass stateful ether all }\ngroup default { }",
        &[(1, 21, "look at Ethernet headers only"), (1, 31, "ether rules open no connections")],
    ),
    ("$x = \u{0}\u{1}\ngroup default { }", &[(1, 6, "has no meaning here"), (1, 8, "expected a value")]),
    (
        "$ = 1\n$x = < y\ngroup default { }",
        &[(1, 1, "a name must follow"), (1, 3, "expected a statement"), (2, 6, "begins the name of a table")],
    ),
    ("äöü\n\tgroup \"é\" ö { }\ngroup default { }", &[(1, 1, "expected a statement"), (2, 12, "but \"ö\" is here")]),
];

#[test]
fn errors_stand_where_something_is_wrong() {
    for (text, expected) in WRONG {
        let found = wrong_with(text, &NoFiles);
        let errors: Vec<_> = found.errors().collect();
        assert!(errors.len() >= expected.len(), "{text}:\n{found}");
        let unexpected = errors.len() - expected.len();
        assert_eq!(unexpected, 0, "{text}:\n{found}");
        for (error, (line, column, part)) in errors.iter().zip(*expected) {
            assert_eq!((error.line, error.column), (*line, *column), "{text}:\n{found}");
            assert!(error.message.contains(part), "{text}:\n{found}");
        }
    }
}

#[test]
fn warnings_are_kept_and_name_the_line() {
    let text = "group default {\n  pass from 10.1.1.5/24\n  block stateful all\n  pass from 10.0.0.1 to 2001:db8::1\n  pass proto tcp flags S/A all\n}\n";
    let warnings = right_with(text, &NoFiles).warnings.to_string();
    let first = "npf.conf:2:13: warning: bits behind the prefix are set; this is read as 10.1.1.0/24\n    pass from 10.1.1.5/24\n              ^~~~~~~~~~~";
    assert!(warnings.starts_with(first), "{warnings}");
    for part in [
        "3:3: warning: a rule that blocks",
        "4:8: warning: this matches nothing",
        "5:24: warning: this matches nothing",
    ] {
        assert!(warnings.contains(part), "{part} in {warnings}");
    }
}

#[test]
fn nesting_ends_at_sixteen_groups() {
    let nested = |n: usize| format!("{}pass all\n{}group default {{ }}", "group \"g\" {\n".repeat(n), "}\n".repeat(n));
    right(&nested(16));
    let found = wrong_with(&nested(17), &NoFiles);
    assert_eq!(found.len(), 1, "{found}");
    assert!(found.to_string().contains("npf.conf:17:1: error: groups are nested more than 16 deep"), "{found}");
    assert_eq!(wrong_with(&nested(100_000), &NoFiles).len(), 1);
}

#[test]
fn monstrous_texts_are_refused_quickly() {
    let started = std::time::Instant::now();
    let mut bomb = String::from("$a0 = { 1, 1 }\n");
    for i in 1..64 {
        bomb.push_str(&format!("$a{i} = {{ $a{0}, $a{0} }}\n", i - 1));
    }
    for text in [
        "{".repeat(1 << 20),
        "x".repeat(1 << 20),
        "\0".repeat(1 << 20),
        "\"".repeat(1 << 20),
        "\"\n".repeat(1 << 19),
        "$x = {".repeat(1 << 17),
        "pass all;".repeat(1 << 17),
        format!("group default {{ {}", "pass from 10.0.0.1/8 to ä;".repeat(1 << 15)),
        format!("group default {{ pass from {} }}", "9".repeat(1 << 20)),
        format!("set {} 1", "a".repeat(1 << 20)),
        bomb,
    ] {
        let found = wrong_with(&text, &NoFiles);
        assert!(found.len() <= 1000 && found.to_string().len() < 1 << 20);
    }
    assert!(started.elapsed().as_secs() < 20, "{:?}", started.elapsed());
}

#[test]
fn commands_are_short_and_know_no_variables() {
    let config = Config::default();
    let long = format!("pass all # {}", "x".repeat(MAX_COMMAND));
    for (text, part) in [
        (long.as_str(), "1024 bytes at most"),
        ("pass from $x", "$x is not set"),
        ("pass all\npass all", "nothing more behind the rule"),
        ("group default { }", "expected pass or block"),
        ("", "expected pass or block, but the file ends"),
    ] {
        let found = parse_rule(text, &config).unwrap_err().to_string();
        assert!(found.contains(part), "{found}");
    }
    for (text, part) in [("map ruleset \"map:x\"", "cannot be added"), ("pass all", "expected \"map\"")] {
        let found = parse_map(text, &config).unwrap_err().to_string();
        assert!(found.contains(part), "{found}");
    }
}

#[test]
fn the_disk_gives_regular_files_in_utf8() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("bad");
    std::fs::write(&path, b"a\n\xff").unwrap();
    assert_eq!(Disk.read(path.to_str().unwrap()).unwrap_err(), "line 2 is not UTF-8");
    assert_eq!(Disk.read("/dev/zero").unwrap_err(), "it is no regular file");
    std::fs::write(&path, "x").unwrap();
    assert_eq!(Disk.read(path.to_str().unwrap()).unwrap(), "x");
}
