use super::super::plan::plan;
use super::*;
use crate::Program;
use crate::insn::{Insn, code};

fn runs_of(insns: &[Insn]) -> Vec<Option<Run>> {
    let program = Program::new(insns.to_vec()).unwrap();
    runs(program.ops(), &plan(program.ops()))
}

/// `ip and tcp port 80` on Ethernet, as libpcap compiles it.
fn tcp_80() -> [Insn; 13] {
    [
        Insn::stmt(code::LD_H_ABS, 12),
        Insn::jump(code::JEQ_K, 0x800, 0, 10),
        Insn::stmt(code::LD_B_ABS, 23),
        Insn::jump(code::JEQ_K, 6, 0, 8),
        Insn::stmt(code::LD_H_ABS, 20),
        Insn::jump(code::JSET_K, 0x1fff, 6, 0),
        Insn::stmt(code::LDX_MSH, 14),
        Insn::stmt(code::LD_H_IND, 14),
        Insn::jump(code::JEQ_K, 80, 2, 0),
        Insn::stmt(code::LD_H_IND, 16),
        Insn::jump(code::JEQ_K, 80, 0, 1),
        Insn::stmt(code::RET_K, 1),
        Insn::stmt(code::RET_K, 0),
    ]
}

#[test]
fn what_makes_a_packet_tcp_is_decided_by_one_branch_and_its_ports_by_none() {
    let runs = runs_of(&tcp_80());
    let header = runs[0].as_ref().unwrap();
    assert_eq!((header.last, header.tests.len(), header.exit, header.next), (5, 3, 12, 6));
    let compares: Vec<_> = header.tests.iter().map(|t| (t.compare, t.mask, t.k)).collect();
    let all = u32::MAX;
    assert_eq!(compares, [(Compare::Ne, all, 0x800), (Compare::Ne, all, 6), (Compare::Ne, 0x1fff, 0)]);
    let ports = runs[7].as_ref().unwrap();
    assert_eq!((ports.last, ports.tests.len(), ports.exit, ports.next), (10, 2, 11, 12));
    assert_eq!(ports.last_guard, Some(18), "a packet may end behind the port that matched");
}

#[test]
fn a_test_whose_load_may_leave_the_packet_begins_a_run_of_its_own() {
    // The other side of the second test accepts, so that its load cannot be moved without its guard.
    let runs = runs_of(&[
        Insn::stmt(code::LD_B_ABS, 0),
        Insn::jump(code::JEQ_K, 1, 2, 0),
        Insn::stmt(code::LD_B_ABS, 50),
        Insn::jump(code::JEQ_K, 1, 0, 1),
        Insn::stmt(code::RET_K, 1),
        Insn::stmt(code::RET_K, 2),
    ]);
    assert_eq!(runs[0], None);
    assert_eq!(runs[2].as_ref().unwrap().tests.len(), 1);
}

#[test]
fn a_run_ends_where_somebody_asks_for_a() {
    let chain = |at_exit: Insn| {
        runs_of(&[
            Insn::stmt(code::LD_B_ABS, 0),
            Insn::jump(code::JEQ_K, 1, 3, 0),
            Insn::stmt(code::AND_K, 3),
            Insn::jump(code::JEQ_K, 2, 1, 0),
            Insn::stmt(code::RET_K, 7),
            at_exit,
        ])
    };
    assert_eq!(chain(Insn::stmt(code::RET_K, 1))[0].as_ref().unwrap().tests.len(), 2);
    assert_eq!(chain(Insn::stmt(code::RET_A, 0))[0], None);
}

#[test]
fn nobody_jumps_into_a_run() {
    let runs = runs_of(&[
        Insn::stmt(code::LD_LEN, 0),
        Insn::jump(code::JGT_K, 60, 2, 0),
        Insn::jump(code::JEQ_K, 1, 3, 0),
        Insn::jump(code::JEQ_K, 2, 2, 0),
        Insn::jump(code::JEQ_K, 3, 1, 0),
        Insn::stmt(code::RET_K, 1),
        Insn::stmt(code::RET_K, 0),
    ]);
    assert_eq!(runs[1], None);
    assert_eq!(runs[2].as_ref().unwrap().last, 3);
    assert!(runs[4].is_some());
}

#[test]
fn a_long_list_waits_for_the_tests_ahead_of_it() {
    let list = |n: u8| {
        let mut p = vec![
            Insn::stmt(code::LD_H_ABS, 12),
            Insn::jump(code::JEQ_K, 0x800, 0, n + 2),
            Insn::stmt(code::LD_W_ABS, 26),
        ];
        p.extend((0..n).map(|i| Insn::jump(code::JEQ_K, 1000 + u32::from(i), n - i, 0)));
        p.extend([Insn::stmt(code::RET_K, 5), Insn::stmt(code::RET_K, 0)]);
        runs_of(&p)
    };
    assert_eq!(list(10)[0].as_ref().unwrap().tests.len(), 11);
    let long = list(40);
    assert_eq!(long[0], None, "one test with a branch is no run");
    assert_eq!(long[2].as_ref().unwrap().tests.len(), 40);
}
