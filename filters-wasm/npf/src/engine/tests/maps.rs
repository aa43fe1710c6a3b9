//! Maps that commands add and take away.

use super::*;
use crate::language::parse_map;

const RULES: &str = "map ruleset \"map:c\" on npftest0\n\
     map npftest0 dynamic 10.1.1.0/24 -> 192.0.2.9\n\
     table <t> type lpm\n\
     group default { pass stateful out all\n block in all }";

fn seen_as(e: &mut Engine, port: u16) -> IpAddr {
    let sent = udp(("10.1.1.1", port), ("198.51.100.1", 53), b"");
    ends(&pass(e, "npftest0", Where::Forward, &sent).unwrap())[0].0
}

#[test]
fn a_map_of_a_command_is_looked_at_where_its_ruleset_stands_and_its_connections_end_with_it() {
    let mut e = engine(RULES);
    assert_eq!(seen_as(&mut e, 1), a("192.0.2.9"));
    let map = parse_map("map npftest0 dynamic 10.1.1.0/24 -> 192.0.2.1", &e.ruleset().unwrap().config).unwrap();
    e.set_maps("map:c", vec![map], Millis(0)).unwrap();
    assert_eq!((seen_as(&mut e, 1), seen_as(&mut e, 2)), (a("192.0.2.9"), a("192.0.2.1")), "the first one stays");
    e.set_maps("map:c", Vec::new(), Millis(0)).unwrap();
    e.tick(Millis(0));
    assert_eq!((e.connections().len(), seen_as(&mut e, 2)), (1, a("192.0.2.9")));
}

#[test]
fn a_map_ruleset_is_for_its_interface_and_its_direction() {
    let mut e = engine(&RULES.replace("on npftest0", "in on npftest0"));
    let map = parse_map("map npftest0 dynamic 10.1.1.0/24 -> 192.0.2.1", &e.ruleset().unwrap().config).unwrap();
    e.set_maps("map:c", vec![map], Millis(0)).unwrap();
    assert_eq!(seen_as(&mut e, 2), a("192.0.2.9"));
}

#[test]
fn a_reload_keeps_maps_of_commands_where_their_ruleset_and_their_tables_still_are() {
    let config = |text: &str| Arc::new(parse("r.conf", text, &NoFiles).unwrap_or_else(|e| panic!("{e}")).config);
    let mut e = engine(RULES);
    let of_table = "map npftest0 dynamic 10.1.1.0/24 -> 192.0.2.1 pass from <t>";
    let map = parse_map(of_table, &e.ruleset().unwrap().config).unwrap();
    e.set_maps("map:c", vec![map], Millis(0)).unwrap();
    let entry = crate::tables::host(Family::V4, address_number(a("10.1.1.1")));
    // The table has another number from now on.
    let other = RULES.replace("table <t>", "table <s> type lpm\ntable <t>");
    e.reload(config(&other), Arc::new(NoInterfaces), Millis(1)).unwrap();
    e.tables().add(crate::config::TableId(1), entry, Millis(0), None).unwrap();
    assert_eq!(seen_as(&mut e, 1), a("192.0.2.1"));
    e.reload(config(&other.replace("<t>", "<u>")), Arc::new(NoInterfaces), Millis(2)).unwrap();
    assert_eq!((e.connections().len(), seen_as(&mut e, 1)), (0, a("192.0.2.9")), "its table is no more");
    e.reload(config(&RULES.replace("map:c", "map:d")), Arc::new(NoInterfaces), Millis(3)).unwrap();
    assert!(e.ruleset().unwrap().dynamic_maps.is_empty());
}
