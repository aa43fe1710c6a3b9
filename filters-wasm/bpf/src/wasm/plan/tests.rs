use super::*;
use crate::Program;
use crate::insn::{Insn, code};

fn plan_of(insns: &[Insn]) -> Vec<Step> {
    plan(Program::new(insns.to_vec()).unwrap().ops())
}

/// `ip and tcp dst port 80` on Ethernet.
fn tcp_80() -> [Insn; 11] {
    [
        Insn::stmt(code::LD_H_ABS, 12),
        Insn::jump(code::JEQ_K, 0x800, 0, 8),
        Insn::stmt(code::LD_B_ABS, 23),
        Insn::jump(code::JEQ_K, 6, 0, 6),
        Insn::stmt(code::LD_H_ABS, 20),
        Insn::jump(code::JSET_K, 0x1fff, 4, 0),
        Insn::stmt(code::LDX_MSH, 14),
        Insn::stmt(code::LD_H_IND, 16),
        Insn::jump(code::JEQ_K, 80, 0, 1),
        Insn::stmt(code::RET_K, 1),
        Insn::stmt(code::RET_K, 0),
    ]
}

#[test]
fn one_check_at_the_first_load_covers_all_fixed_loads_behind_it() {
    let steps = plan_of(&tcp_80());
    assert_eq!(steps[0].guard, Guard { fixed: Some(24), indexed: None });
    for i in [2, 4, 6] {
        assert_eq!(steps[i].guard, Guard::default(), "instruction {i}");
    }
    assert_eq!(steps[7].guard, Guard { fixed: None, indexed: Some(18) });
}

#[test]
fn a_check_does_not_move_above_a_branch_of_which_one_side_accepts_shorter_packets() {
    let steps = plan_of(&[
        Insn::stmt(code::LD_B_ABS, 0),
        Insn::jump(code::JEQ_K, 1, 0, 1),
        Insn::stmt(code::LD_W_ABS, 100),
        Insn::stmt(code::RET_K, 7),
    ]);
    assert_eq!(steps[0].guard.fixed, Some(1));
    assert_eq!(steps[2].guard.fixed, Some(104));
}

#[test]
fn what_both_sides_of_a_branch_proved_holds_behind_it() {
    let steps = plan_of(&[
        Insn::stmt(code::LD_LEN, 0),
        Insn::jump(code::JGT_K, 100, 0, 2),
        Insn::stmt(code::LD_W_ABS, 20),
        Insn::stmt(code::JA, 1),
        Insn::stmt(code::LD_W_ABS, 10),
        Insn::stmt(code::LD_W_ABS, 10),
        Insn::stmt(code::RET_K, 7),
    ]);
    assert_eq!(steps[2].guard.fixed, Some(24));
    assert_eq!(steps[4].guard.fixed, Some(14));
    assert_eq!(steps[5].guard.fixed, None);
}

#[test]
fn a_part_that_always_gives_zero_is_not_compiled() {
    let steps = plan_of(&[
        Insn::stmt(code::LD_LEN, 0),
        Insn::jump(code::JGT_K, 100, 0, 2),
        Insn::stmt(code::LD_W_ABS, u32::MAX),
        Insn::stmt(code::RET_K, 1),
        Insn::stmt(code::RET_K, 2),
    ]);
    assert!(steps[2].zero && !steps[2].live, "a load that no packet satisfies");
    assert!(!steps[3].live && !steps[3].zero, "nothing comes behind it");
    assert!(steps[4].live && steps[4].target);
}

#[test]
fn values_that_are_only_tested_for_equality_and_bits_stay_in_network_order() {
    let steps = plan_of(&tcp_80());
    for i in [0, 1, 4, 5, 7, 8] {
        assert_eq!(steps[i].raw, Some(Size::Half), "instruction {i}");
    }
    assert_eq!(steps[2].raw, None, "a byte has no order");
}

#[test]
fn a_value_that_is_compared_by_size_or_kept_is_swapped() {
    for user in [Insn::jump(code::JGT_K, 5, 0, 0), Insn::stmt(code::ADD_K, 1), Insn::stmt(code::ST, 0)] {
        let mut p = vec![Insn::stmt(code::LD_W_ABS, 0), user, Insn::stmt(code::RET_A, 0), Insn::stmt(code::RET_K, 1)];
        if user.code == code::JGT_K {
            p[1].jf = 1;
        }
        assert_eq!(plan_of(&p)[0].raw, None, "{user:?}");
    }
}

#[test]
fn values_of_different_width_that_meet_at_one_test_are_swapped() {
    let steps = plan_of(&[
        Insn::stmt(code::LD_LEN, 0),
        Insn::jump(code::JGT_K, 100, 0, 2),
        Insn::stmt(code::LD_W_ABS, 20),
        Insn::stmt(code::JA, 1),
        Insn::stmt(code::LD_H_ABS, 10),
        Insn::jump(code::JEQ_K, 0x1234, 0, 1),
        Insn::stmt(code::RET_K, 1),
        Insn::stmt(code::RET_K, 0),
    ]);
    assert_eq!((steps[2].raw, steps[4].raw, steps[5].raw), (None, None, None));
}
